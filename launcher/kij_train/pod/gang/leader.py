"""The decisions of the leader: who takes part in a round, when it ends, and when the job ends.

The leader gets messages from the members and sends them orders. There is no I/O here: node.py has
the connections.

A round takes N of the N + S connected pods, in the order of their indexes. S is less than N; where
N may vary, its minimum is more than half of all. So if the network is cut in two, at most one side
has enough pods for a round.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from kij_train.pod.gang import messages, straggling
from kij_train.pod.gang.cause import NodeFailure, first_cause
from kij_train.pod.gang.history import History, Who, listed, place_taken, span
from kij_train.pod.gang.rounds import Failure, Member, Round
from kij_train.pod.gang.settings import Settings
from kij_train.pod.gang.silence import Watch

Json = Dict[str, Any]

LATE_S = 5.0
"""How long the first round waits for an index that has not connected, instead of using a spare."""
ORDER_S = 20.0
"""How long the first round waits for a connected lower index that is not ready yet."""
SETTLE_S = 10.0
"""After the last pod has joined, an elastic job waits this long for more than its minimum."""
JUDGE_S = 1.0
"""How long the leader waits after a rank has failed before it judges why.

If a pod is lost, ranks elsewhere fail because of it, and may report that before the loss shows.
"""
KILL_AFTER_S = 2.0
"""Between SIGTERM and SIGKILL for the ranks of a round that has failed."""
STOP_S = 13.0
"""How long after that SIGKILL a pod may take to end its ranks, before it counts as lost."""
AVOID_AFTER = 2
"""After this many losses and hangs, pods on other machines are preferred to a machine's pods."""
ADDRESSES = 64
"""So many of the lowest indexes have their addresses told to all. With those of thousands, the
orders that begin a round would be hundreds of megabytes."""
STILL_S = 30.0
"""How often the log says that the job still waits for pods."""


class Leader:
    """Chooses the members of each round, decides when it ends, and gives the verdict on the job."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        timeout_s: float,
        *,
        say: Callable[[str], None],
        lost: Optional[Tuple[float, Optional[Who]]] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout_s`: how long the first round may wait for pods to come.

        `lost`: since when no round runs, and the node that was lost or hung, if any.
        """
        self._say, self._clock = say, clock
        self.settings = settings
        self.history = history
        self.members: Dict[str, Member] = {}
        self.round: Optional[Round] = None
        self.verdict: Optional[messages.Verdict] = None
        self.wait_since = self._clock()
        self._restart_since: Optional[float] = lost[0] if lost else None
        self._culprit: Optional[Who] = lost[1] if lost else None
        self._timeout_s = timeout_s
        self._began = self._clock()
        self._next_word = STILL_S
        self._has_begun = False
        """Whether this leader has started a round."""
        self._watch = Watch(settings, say)
        self._stragglers = straggling.Stragglers(say)
        self.heard: Set[int] = set()
        """Indexes that have got the verdict."""

    # Events.

    def join(self, member: Member, history: History) -> None:
        """A pod has connected. Its history may be newer than the leader's, and then replaces it."""
        mine = self.history
        history.highest = max(history.highest, member.who.node)
        mine.learn(history)
        history.learn(mine)
        if history.rounds > mine.rounds or (
            # The leader was a spare in the last round; this member took part in it.
            not self._has_begun
            and history.rounds == mine.rounds
            and history.training_s > mine.training_s
        ):
            self.history = history
        self.members[member.who.uid] = member

    def leave(self, member: Member) -> None:
        """The connection to a pod is gone."""
        if self.members.get(member.who.uid) is member:
            del self.members[member.who.uid]

    def take(self, member: Member, report: messages.Report) -> None:
        """Take in a message from a member."""
        if isinstance(report, messages.Ready):
            member.ready = True
        elif isinstance(report, messages.Leaving):
            member.leaving = True
        elif isinstance(report, messages.Heard):
            self.heard.add(member.who.node)
        elif self.round is None or report.round != self.round.number:
            return  # it is about an earlier round
        elif isinstance(report, messages.RanksEnded):
            self.round.ended[member.who.uid] = (report.code, report.record)
        elif isinstance(report, messages.Silence):
            member.silent, member.never_heard = report.silent, not report.ever
            self.history.heard = self.history.heard or report.ever
        elif isinstance(report, messages.Step):
            self.round.step, self.round.again_s = report.step, report.again_s
        elif isinstance(report, messages.Beats):
            self._stragglers.take(member.who, report, self._clock())
        else:
            self.round.stacks[member.who.uid] = report.ranks

    # Decisions.

    def lacks_nodes(self) -> bool:
        """Whether training has stopped, and goes on only with another pod."""
        there = {m.who.node for m in self.members.values() if not m.leaving}
        return self.round is None and self.history.rounds > 0 and len(there) < self.settings.low

    def others_may_train(self) -> bool:
        """Whether so many pods are missing that they can have a round themselves."""
        return self.settings.pods - len(self.members) >= self.settings.low

    def decide(self) -> None:
        """Judge the round, or start one. Call this after every event, and regularly."""
        if self.verdict is not None:
            return
        if self.round is not None:
            self._judge(self.round)
        if self.round is not None and self.round.broken_at is None:
            self._grow(self.round)
        if self.round is None and self.verdict is None:
            chosen = self._choose()
            if chosen:
                self._start(chosen)
            else:
                self._wait()
        # Every pod needs the history: any of them may have to lead next.
        untold = [member for member in self.members.values() if not member.told_news]
        if self.history.rounds and untold:
            runs = self.round is not None and self.round.broken_at is None
            inform = messages.Inform(None if runs else self._loss(), self._news())
            for member in untold:
                member.told_news = True
                member.send(inform)

    def _loss(self) -> messages.Loss:
        since = self._clock() if self._restart_since is None else self._restart_since
        return messages.Loss(self._clock() - since, self._culprit)

    def _news(self) -> messages.News:
        from_reserve = self.settings.pods
        ips = {
            member.who.node: member.who.ip
            for member in self.members.values()
            if member.who.node < ADDRESSES or member.who.node >= from_reserve
        }
        return messages.News(self.history.copy(), ips)

    def _choose(self) -> List[Member]:
        if sum(member.ready for member in self.members.values()) < self.settings.low:
            return []
        newest: Dict[int, Member] = {}
        for member in self.members.values():
            if not member.leaving:
                newest[member.who.node] = member
        there = [newest[index] for index in sorted(newest)]
        ready = [member for member in there if member.ready]
        now = self._clock()
        if len(ready) < self.settings.low:
            return []
        # The Job may place a new pod on a machine that has failed often. Prefer spares elsewhere.
        preferred = {m.who.uid for m in sorted(ready, key=self._is_avoided)[: self.settings.high]}
        chosen = [member for member in ready if member.who.uid in preferred]
        early = self.history.rounds == 0 and now - self._began < ORDER_S
        if early and chosen != there[: len(chosen)]:
            return []
        late = self.history.rounds == 0 and now - self._began < LATE_S
        if late and chosen[-1].who.node >= self.settings.high:
            return []
        if len(chosen) < self.settings.high and now - max(m.joined for m in there) < SETTLE_S:
            return []
        return chosen

    def _is_avoided(self, member: Member) -> bool:
        return self.history.blame.get(member.who.machine, [0, 0.0])[0] >= AVOID_AFTER

    def _start(self, chosen: List[Member]) -> None:
        history, now = self.history, self._clock()
        history.rounds += 1
        if self._restart_since is not None:
            took = now - self._restart_since
            history.restarting_s += took
            if self._culprit is not None and self._culprit.machine:
                cost = history.blame.setdefault(self._culprit.machine, [0, 0.0])
                cost[0] += 1
                cost[1] += took
        else:
            history.waiting_s += now - self.wait_since
        self.round, self._has_begun = Round(history.rounds, chosen, now), True
        indexes = [member.who.node for member in chosen]
        after = ""
        if self._restart_since is not None:
            after = f", {span(now - self._restart_since)} after round {history.rounds - 1}"
        spares = len(self.members) - len(chosen)
        places = history.train(indexes)
        self._say(
            f"round {history.rounds}: indexes {listed(indexes)} train{after}"
            + "".join(f"; {place_taken(lost, by)}" for lost, by in places)
            + (f"; {spares} spare{'' if spares == 1 else 's'}" if spares else "")
            + _told_of(self.settings.shared)
        )
        address, news = chosen[0].who.ip, self._news()
        for rank, member in enumerate(chosen):
            member.silent = False
            member.send(messages.Start(history.rounds, rank, len(chosen), address, news))
        for member in self.members.values():
            member.told_news = member in chosen
        self._restart_since = self._culprit = None

    def _wait(self) -> None:
        waited = self._clock() - self.wait_since
        if waited < min(self._next_word, self._timeout_s):
            return  # what follows goes through all members
        there = {m.who.node for m in self.members.values()}
        missing, what = sorted(set(range(self.settings.pods)) - there), "there"
        if max(there, default=0) >= self.settings.pods:
            missing = []  # the next pod may have any index of the reserve
        if len(there) >= self.settings.low:
            slow = {m.who.node for m in self.members.values() if not m.ready}
            missing, what, there = sorted(slow), "ready", there - slow
        few = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        text = f"{len(there)} of {self.settings.low} nodes are {what}"
        text += f", without index {few}" if missing else ""
        if self.history.rounds == 0 and waited >= self._timeout_s:
            self._end_with_failure(
                None, {}, f"not every node came within {self._timeout_s:.0f} s: {text}"
            )
        elif waited >= self._next_word and (missing or len(there) < self.settings.low):
            self._next_word += STILL_S
            self._say(f"still waiting for nodes after {waited:.0f} s: {text}")

    def _judge(self, current: Round) -> None:
        now = self._clock()
        gone: List[Member] = []
        left: List[Member] = []
        for m in current.members:
            there = self._is_there(m) and not (m.leaving and m.who.uid in current.ended)
            (left if there else gone).append(m)
        failed = [
            NodeFailure(m.who, *current.ended[m.who.uid])
            for m in left
            if not m.leaving and current.ended.get(m.who.uid, (0, {}))[0] != 0
        ]
        if current.broken_at is None:
            if current.is_done():
                self._account(current)
                self.verdict = messages.Done(str(self.history), self.history.copy())
            elif gone:
                self._break(current, gone[0].who, f"lost {gone[0].who}")
            elif failed:
                current.judge_at = min(current.judge_at, now + JUDGE_S)
                if now >= current.judge_at or len(current.ended) == len(current.members):
                    first = first_cause(failed)
                    current.failure = Failure(first.who, f"{first.who} failed", first.record)
                    self._break(current, None, f"{first.who} failed: {first.text()}")
            else:
                self._stragglers.look(current, self.history, now)
                current.failure = self._watch.look(current, self.history.heard, now)
                if current.failure is not None:
                    text = current.failure.record["message"]["message"].replace("\n", "; ")
                    self._break(current, current.failure.who, text)
        if current.broken_at is not None:
            # A pod that leaves has its own grace period, and is not chosen for the next round.
            running = [m for m in left if not m.leaving and m.who.uid not in current.ended]
            self._close(current, running)

    def _close(self, current: Round, running: List[Member]) -> None:
        """End a broken round once the ranks of these members have ended, or their time is up."""
        self._hasten(current, running)
        if running and self._clock() < current.stop_by:
            return
        for member in running:
            self.leave(member)
            member.close()
        self.round = None
        for member in self.members.values():
            member.told_news = False
        if current.failure is not None:
            culprit, what, record = current.failure
            self.history.fail(culprit, record)
            if self.history.failures > self.settings.max_restarts:
                again = self.history.failures - 1
                times = f" (restarted {again} time{'' if again == 1 else 's'})" if again else ""
                self._end_with_failure(culprit, record, what + times)

    def _hasten(self, current: Round, running: List[Member]) -> None:
        """Kill the ranks at once if so many pods are missing that they can have a round themselves.

        This side of the network may then be the one that is cut off.
        """
        if self.others_may_train() and not current.hastened:
            current.hastened = True
            current.stop_by = min(current.stop_by, self._clock() + STOP_S)
            self._stop(running, 0.0)

    def _is_there(self, member: Member) -> bool:
        """Whether it is still connected. A pod that joins again is a new member, without ranks."""
        return self.members.get(member.who.uid) is member

    def _grow(self, current: Round) -> None:
        """End an elastic round so that more pods take part, once they have been there a while."""
        nodes = {member.who.node for member in current.members}
        more = [
            member
            for member in self.members.values()
            if member.ready and not member.leaving and member.who.node not in nodes
        ]
        now = self._clock()
        if len(nodes) >= self.settings.high or not more:
            return
        if now - max(member.joined for member in more) >= SETTLE_S:
            indexes = ", ".join(str(member.who.node) for member in more)
            self._break(current, None, f"taking in index {indexes}", self.settings.grace_s)

    def _break(
        self, current: Round, culprit: Optional[Who], text: str, kill_after_s: float = KILL_AFTER_S
    ) -> None:
        now = self._clock()
        current.broken_at = self._restart_since = self.wait_since = now
        current.stop_by = now + kill_after_s + STOP_S
        self._next_word = STILL_S
        self._culprit = culprit
        self._account(current)
        self._say(f"{text}, {span(now - current.began)} into round {current.number}")
        there = [m for m in current.members if self._is_there(m)]
        self._stop([m for m in there if m.who.uid not in current.ended], kill_after_s)

    def _account(self, current: Round) -> None:
        """Add the time and the steps of a round that is over to the history."""
        straggling.end(self.history)
        self.history.training_s += self._clock() - current.began
        self.history.again_s += current.again_s
        self.history.reach(current.step)

    def _stop(self, members: List[Member], kill_after_s: float) -> None:
        stop = messages.Stop(kill_after_s, self._loss(), self._news())
        for member in members:
            member.send(stop)

    def _would_be_replaced(self) -> bool:
        """Whether the Job creates more pods after all present ones have failed.

        One pod then has to stay, to tell the new ones that the job is over.
        """
        if self.settings.reserve:
            return self.history.highest < self.settings.backoff_limit
        return self.settings.backoff_limit >= self.settings.pods

    def _end_with_failure(self, who: Optional[Who], record: Json, text: str) -> None:
        uid = who.uid if who else ""
        others = [m for m in self.members.values() if m.who.uid != uid and not m.leaving]
        stays = min(others, key=lambda m: m.who.node, default=None)
        self.verdict = messages.Failed(
            text,
            uid,
            record,
            str(self.history),
            self.history.copy(),
            stays.who.uid if stays and self._would_be_replaced() else "",
        )


def _told_of(shared: Optional[List[str]]) -> str:
    """A text on which paths outlive a pod; empty if all nodes are processes of one machine."""
    if shared is None:
        return ""
    if not shared:
        return "; nothing is mounted that all pods share: what a lost pod saved is lost with it"
    return f"; all pods share {', '.join(shared)}"
