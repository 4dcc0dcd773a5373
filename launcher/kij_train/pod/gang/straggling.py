"""Which ranks of a round are slow: what the leader makes of the steps of all ranks.

Nothing is asked of members before the script has said a step.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from typing import Callable, Dict, List, Tuple

from kij_train.pod.gang import messages
from kij_train.pod.gang.history import MOST_SLOW, History, SlowRank, Who, span
from kij_train.pod.gang.pace import Beat, Clocks, Pace, Slow
from kij_train.pod.gang.rounds import Round

LOOK_S = 2.0
"""Between two questions for the steps, in a small job."""
PER_MEMBER_S = 0.05
"""In a large one, so long for each member: its answers then take about 0.1 % of a core."""


class Stragglers:
    """Compares the ranks of the rounds of one leader."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begin(0)

    def _begin(self, number: int) -> None:
        self._round = number
        self._pace, self._clocks = Pace(), Clocks()
        self._beats: Dict[int, Tuple[Beat, Who]] = {}
        """Rank → its newest heartbeat, by the leader's clock, and where it runs."""
        self._asked_at = 0.0
        self._next = 0.0

    def take(self, who: Who, report: messages.Beats, now: float) -> None:
        """Take in the answer of a member."""
        offset = self._clocks.here(who.uid, report.sent, now)
        for beat in report.beats:
            self._beats[beat.rank] = (beat._replace(at=beat.at + offset), who)

    def look(self, current: Round, history: History, now: float) -> None:
        """Compare what the members have answered, and ask them again, as often as they may be."""
        if self._round != current.number:
            self._begin(current.number)
            end(history)
        if current.step is None or now < self._next:
            return
        if self._beats:
            slow = self._pace.look([beat for beat, _ in self._beats.values()], self._asked_at)
            if self._keep(slow, history, current, now):
                for member in current.members:
                    member.send(messages.Straggling(list(history.slow)))
        self._asked_at = now
        self._next = now + max(LOOK_S, PER_MEMBER_S * len(current.members))
        for member in current.members:
            if member.who.uid not in current.ended:
                member.send(messages.AskBeats(current.number))

    def _keep(self, slow: List[Slow], history: History, current: Round, now: float) -> bool:
        """Note it in the history; whether other ranks are slow now than before."""
        before = {one.rank: one for one in history.slow if one.is_now}
        worst = sorted(slow, key=lambda one: (-one.behind, -one.late_s))[:MOST_SLOW]
        after = {one.rank: self._told(one, current, now) for one in worst}
        for rank in set(after) - set(before):
            self._say(str(after[rank]))
        for rank in set(before) - {one.rank for one in slow}:
            self._say(f"rank {rank} is not slow any more, after {span(before[rank].lasted_s)}")
        over = [one._replace(is_now=False) for one in history.slow if one.rank not in after]
        over.sort(key=lambda one: one.lasted_s)
        room = MOST_SLOW - len(after)
        history.slow = (over[-room:] if room else []) + list(after.values())
        return set(after) != set(before)

    def _told(self, slow: Slow, current: Round, now: float) -> SlowRank:
        who = self._beats[slow.rank][1]
        since_s = max(0.0, slow.since - current.began)
        return SlowRank(
            slow.rank,
            who.node,
            who.machine,
            slow.text(),
            current.number,
            since_s,
            slow.step,
            now - slow.since,
            True,
        )


def end(history: History) -> None:
    """The round is over, or another one has begun: no rank of it is slow any more."""
    history.slow = [rank._replace(is_now=False) for rank in history.slow]
