"""The supervisor of one pod: it leads the job or follows the leader, and runs this pod's ranks.

The pods of a job need one leader. Each supervisor looks for it (peers.py). If it finds a leader, it
joins as a member: it starts and stops ranks when the leader says so. If it finds none and no lower
index is there, it leads. The leader decides (leader.py), and is also a member of its own job.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import time
from typing import Any, Dict, List, Optional, Tuple

from kij_train.pod import contract, signals, status
from kij_train.pod.gang import farewell, hang, messages, network, peers, ranks
from kij_train.pod.gang.channel import Channel, Door
from kij_train.pod.gang.history import History, Who
from kij_train.pod.gang.leader import KILL_AFTER_S, Leader
from kij_train.pod.gang.members import Members
from kij_train.pod.gang.missed import Unheard, end_cut_off
from kij_train.pod.gang.part import Part, keep_accounts
from kij_train.pod.gang.rounds import Member
from kij_train.pod.gang.settings import ENV_GANG_ID, ENV_POD_IP, Settings
from kij_train.pod.peering import within

Json = Dict[str, Any]
DECIDE_S = 0.5
"""A leader decides at least this often, also when no member sends anything."""
REST, MOST_REST_S = 4.0, 0.1
"""A leader lets messages come for that many times as long as its last decision took, before it
decides again: where thousands report the same, it decides for all of them at once."""
OTHER_LEADERS_S = 2.0
"""A leader that runs no round looks this often for a better leader."""
FAREWELL_S = 5.0
"""How long the leader of a failed job waits until all members have confirmed the verdict."""
LINGER_S = 60.0
"""The same after success. It is longer, because every member has to end with exit code 0."""
PATIENCE_S = 4.0
"""How long the answer to a pod that wants to join may wait until this one knows who leads."""
ENDING_S = 3.0
"""How long others wait for a lower index that still ends its ranks, so that it can lead."""


class Supervisor:
    """One pod of the job: it leads or follows, and runs its ranks in the rounds it belongs to."""

    def __init__(
        self,
        node: contract.Node,
        settings: Settings,
        zygote: ranks.Zygote,
        scratch: str,
        output: Optional[hang.Output] = None,
    ) -> None:
        env = os.environ
        self.node, self.settings, self.zygote = node, settings, zygote
        self.key = env.get(ENV_GANG_ID, "").encode()
        self.me = Who(
            node.rank,
            os.urandom(8).hex(),
            str(ipaddress.ip_address(env.get(ENV_POD_IP) or "127.0.0.1")),
            socket.gethostname() if not env.get(contract.ENV_PARENT_PID) else str(os.getpid()),
            env.get(contract.ENV_NODE_NAME, ""),
        )
        self.peers = peers.Peers(settings, self.me, self.key, self._end)
        self.door = Door(self.key, self._serve, status.say, settings.crowd)
        self.part = Part(node, settings, zygote, scratch, output, self._report)
        self.history = History()
        self.leader: Optional[Leader] = None
        """The decisions for the whole job, while this pod leads; else None."""
        self.up: Optional[peers.Found] = None
        """The connection to the leader, while this pod follows; else None."""
        self.verdict: Optional[messages.Verdict] = None
        self.signalled: Optional[int] = None
        self._lost: Optional[Tuple[float, Optional[Who]]] = None
        """Between rounds: since when no round runs, and the node that was lost or hung, if any."""
        self._ending: Optional[asyncio.Future[None]] = None
        self._in_round_since = 0.0
        """In seconds since the epoch (time.time)."""
        self._alone_since = 0.0
        """When this pod last lost its leader (time.monotonic)."""
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        """Whether this pod leads, or has a leader, or has the verdict."""
        self._failed: Json = {}
        """The record of this pod's ranks, where they failed in the last round."""
        self._unheard = Unheard(self._a_peer())
        self._members = Members(self._unheard, self._changed.set)
        self._told = farewell.Told(settings, self._changed)

    async def run(self) -> int:
        """Work until the job is over or this pod has to leave. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for signum in signals.heard_signals():
            loop.add_signal_handler(signum, self._on_signal, signum)
        port = self.settings.address(self.node.rank)[1]
        await self.door.open(port)
        zygote = asyncio.ensure_future(self.zygote.serve(self._changed.set, self.part.ended))
        cut_off = asyncio.ensure_future(self._end_when_cut_off())
        try:
            while not self._is_over():
                self._changed.clear()
                if self.zygote.broken:
                    raise contract.Failure(contract.EXIT_CONTRACT, self.zygote.broken)
                self._settled.clear()
                found = await self.peers.look(self.history, self._is_over)
                if self._is_over():
                    break
                await (self._lead() if found is None else self._follow(found))
            return await self._farewell()
        finally:
            zygote.cancel()
            cut_off.cancel()
            await asyncio.gather(
                zygote, cut_off, self._unheard.stop(), self.door.close(), return_exceptions=True
            )

    def _is_connected(self) -> bool:
        """Whether this pod reaches the job: it follows a leader, or all others follow it.

        Before the first round it counts as connected, because other pods may not have started.
        """
        leads = self.leader.members.values() if self.leader is not None else ()
        everyone = len({member.who.node for member in leads}) == self.settings.pods
        return self.up is not None or everyone or not self.history.rounds

    async def _end_when_cut_off(self) -> None:
        """End this pod when its network is gone, so that the Job creates another pod instead."""
        if self.settings.pods == 1:
            return
        seconds = await network.await_cut_off(
            self._is_connected, self._a_peer(), self.settings.crowd
        )
        if self.leader is not None:
            for member in self.leader.members.values():
                if member.who.uid != self.me.uid:
                    member.send(messages.CutOff(seconds))
            await self._members.flush()
        end_cut_off(seconds, self.me.node)

    async def _end_where_cut_off(self, seconds: float) -> None:
        """The leader has said that it is cut off: check this pod, and end it if it is, too."""
        if not await network.has_network(self._a_peer()):
            end_cut_off(seconds, self.me.node)

    def _a_peer(self) -> str:
        return self.settings.address(int(self.node.rank == 0))[0]

    # --- leading and following

    async def _serve(self, channel: Channel) -> None:
        """Answer a connection from another supervisor.

        Every connection gets this pod's role, or the verdict. If this pod leads and the other one
        asks to join, it becomes a member until the connection ends.
        """
        hello = await channel.receive((messages.Hello,), self.settings.crowd * peers.ANSWER_S)
        if hello is None:
            channel.close()
            return
        role = self._role()
        channel.send(role)
        if isinstance(role, messages.Looking) and hello.history and hello.who.node > role.node:
            await self._until_settled(channel)
            channel.send(self._role())
        leader = self.leader
        if leader is None or self.verdict is not None or hello.history is None:
            await channel.flush()
            channel.close()
            if self.verdict is not None:
                self._told.add(hello.who.node)
                if leader is not None:
                    leader.heard.add(hello.who.node)
            return
        await self._members.serve(
            channel, leader, hello.who, hello.history, lambda: self.leader is leader
        )

    async def _until_settled(self, channel: Channel) -> None:
        """Until this pod leads or has found the leader, but not for long: it may be lost, too."""
        self.peers.waits(1)
        ping = asyncio.ensure_future(channel.ping())
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await within(self._settled.wait(), PATIENCE_S)
        finally:
            ping.cancel()
            self.peers.waits(-1)

    def _role(self) -> messages.Answer:
        """The answer to another supervisor."""
        if self.verdict is not None:
            return self.verdict
        if self.leader is not None:
            return messages.Leading(self.me, self.leader.round is not None)
        if self.up is not None:
            return messages.Following(self.node.rank, *self.up.address)
        if self._cannot_lead():
            return messages.Ending()
        return messages.Looking(self.node.rank)

    async def _lead(self) -> None:
        """Lead the job until it has a verdict, a better leader is found, or this pod must leave."""
        leader = Leader(
            self.settings,
            self.history,
            self.node.rendezvous_timeout_s,
            say=status.say,
            lost=self._lost,
        )
        self.leader = leader
        self._settled.set()
        me = Member(self.me, self._obey, time.monotonic(), lambda: None)
        next_look = time.monotonic() + OTHER_LEADERS_S
        look: Optional[asyncio.Future[bool]] = None
        try:
            while True:
                me.ready, me.leaving = self.zygote.ready, self.signalled is not None
                if self.me.uid not in leader.members and not self.zygote.running:
                    me.joined, me.told_news = time.monotonic(), False
                    leader.join(me, self.history)
                began = time.monotonic()
                leader.decide()
                rest_s = min(MOST_REST_S, REST * (time.monotonic() - began))
                self.history = leader.history
                if self.verdict is not None:  # another leader has sent it
                    return
                if leader.verdict is not None:
                    self.verdict = leader.verdict
                    for member in leader.members.values():
                        member.send(leader.verdict)
                    done = isinstance(leader.verdict, messages.Done)
                    status.say(f"the job {leader.verdict.summary if done else 'failed'}")
                    await self._until_heard(leader)
                    return
                if self._may_go() or self.zygote.broken:
                    return
                if look is not None and look.done():
                    if leader.round is None and look.result():
                        return
                    look, next_look = None, time.monotonic() + OTHER_LEADERS_S
                if look is None and leader.round is None and time.monotonic() >= next_look:
                    # In the background: an index that does not answer takes seconds.
                    look = asyncio.ensure_future(self.peers.has_better_leader())
                    look.add_done_callback(lambda _: self._changed.set())
                if leader.lacks_nodes() and self.settings.shared is not None:
                    self._unheard.tell(leader.others_may_train())
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), DECIDE_S)
                await asyncio.sleep(rest_s)
                self._changed.clear()
        finally:
            self.leader = None
            if look is not None:
                look.cancel()
            await self._members.close()

    async def _until_heard(self, leader: Leader) -> None:
        """Stay until all members have confirmed the verdict, or the time is up.

        A member that lost its connection just before the end connects again to ask for the verdict.
        """
        needed = leader.round.members if leader.round is not None else leader.members.values()
        indexes = {member.who.node for member in needed if member.who.uid != self.me.uid}
        deadline = time.monotonic() + (FAREWELL_S if leader.round is None else LINGER_S)
        while indexes - leader.heard and time.monotonic() < deadline and not self.signalled:
            await asyncio.sleep(0.02)

    async def _follow(self, found: peers.Found) -> None:
        """Be a member of this leader until there is a verdict or the connection is lost."""
        self.up, channel = found, found.channel
        self._settled.set()
        ping = asyncio.ensure_future(channel.ping())
        said_ready = said_leaving = False
        try:
            receiving: Optional[asyncio.Future[Optional[messages.Order]]] = None
            while self.verdict is None:
                if self.zygote.ready and not self.zygote.running and not said_ready:
                    said_ready = True
                    channel.send(messages.Ready())
                if self.signalled and not said_leaving:
                    said_leaving = True
                    channel.send(messages.Leaving())
                if self._may_go() or self.zygote.broken:
                    break
                receiving = receiving or asyncio.ensure_future(channel.receive(messages.ORDERS))
                change = asyncio.ensure_future(self._changed.wait())
                both: List[asyncio.Future[Any]] = [receiving, change]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                self._changed.clear()
                if not receiving.done():
                    continue
                order, receiving = receiving.result(), None
                if order is None:
                    break
                self._obey(order)
            if receiving is not None:
                receiving.cancel()
            if self.verdict is not None:
                channel.send(messages.Heard())
        finally:
            if channel.refused:
                status.say(f"{found.who} sent a malformed message: {channel.refused}")
            ping.cancel()
            await channel.flush()
            channel.close()
            self.up = None
        if channel.fell_silent:
            self._unheard.add(found.who)
        if not self._is_over():
            await self._without_leader(found.who)

    async def _without_leader(self, lost: Who) -> None:
        """End this pod's ranks, because the leader is lost: no rank may train without a leader."""
        now = self._alone_since = time.monotonic()
        self.peers.lost = lost.ip
        status.say(f"lost the leader, {lost}; looking for the next one")
        if self.history.rounds:
            if self._lost is None and self.zygote.running:
                self.history.training_s += now - self.part.began
                self.history.again_s += self.part.steps.again_s
            self._lost = self._lost or (now, lost)
            keep_accounts(self.history, "restarting", time.time())
        self._stop(0.0)  # at once: if only this pod is cut off, others may start the next round now
        while self.zygote.running:
            await asyncio.sleep(0.05)

    def _stop(self, kill_after_s: float) -> None:
        """End the ranks of a round that is over.

        A pod that has received a signal has already told its ranks to end. They then have the
        whole grace period of the pod.
        """
        if self.zygote.running and self.signalled is None:
            self.zygote.stop(kill_after_s)

    def _obey(self, order: messages.Order) -> None:
        """Do what the leader says. The leader also sends these messages to itself."""
        if isinstance(order, (messages.Done, messages.Failed)):
            self._end(order)
        elif isinstance(order, messages.Start):
            self._take_news(order.news)
            self._in_round(order.news)
            self._failed = {}
            self.part.start(order, self.history.step)
        elif isinstance(order, messages.Stop):
            self._take_news(order.news)
            self._between_rounds(order.loss)
            self._stop(order.kill_after_s)
        elif isinstance(order, messages.AskStacks):
            self.part.tell_stacks(order.round)
        elif isinstance(order, messages.AskBeats):
            self.part.tell_beats(order.round)
        elif isinstance(order, messages.Straggling):
            self.history.slow = order.slow
            again_s = self.part.steps.again_s
            keep_accounts(self.history, "training", self._in_round_since, again_s)
        elif isinstance(order, messages.Inform):
            self._take_news(order.news)
            if order.loss is None:  # a round runs without this pod
                self._in_round(order.news)
                self.part.stand_by()
            else:
                self._between_rounds(order.loss)
        elif self._ending is None or self._ending.done():
            self._ending = asyncio.ensure_future(self._end_where_cut_off(order.seconds))

    def _take_news(self, news: messages.News) -> None:
        """Between rounds, a leader may not know the addresses of all: a new one has only its own.

        Those of others are kept until the next round, for where DNS is silent.
        """
        self.history = news.history
        self.peers.ips = {**self.peers.ips, **news.ips}

    def _in_round(self, news: messages.News) -> None:
        self.peers.ips = dict(news.ips)
        self._unheard.clear()
        self._lost, self._in_round_since = None, time.time()
        keep_accounts(self.history, "training", self._in_round_since)

    def _between_rounds(self, loss: messages.Loss) -> None:
        self._lost = (time.monotonic() - loss.lost_s, loss.culprit)
        keep_accounts(self.history, "restarting", time.time())

    def _report(self, report: messages.Report) -> None:
        """Send a report of this pod's ranks to the leader, or take it in here if this pod leads.

        Only the pod of rank 0 reports steps to the leader.
        """
        if isinstance(report, messages.Silence):
            self.history.heard = self.history.heard or report.ever
        if isinstance(report, messages.RanksEnded) and report.code and self.signalled is None:
            self._failed = report.record
        if isinstance(report, messages.Step):
            # Every pod keeps the step, so that it survives the loss of the leader.
            self.history.reach(report.step)
            keep_accounts(self.history, "training", self._in_round_since, report.again_s)
            if not self.part.has_rank_0:
                return
        if self.up is not None:
            self.up.channel.send(report)
        elif self.leader is not None and self.me.uid in self.leader.members:
            self.leader.take(self.leader.members[self.me.uid], report)
        if not isinstance(report, messages.Beats):
            self._changed.set()

    # --- the end

    def _on_signal(self, signum: int) -> None:
        status.say(f"{signal.Signals(signum).name}: this node leaves")
        self.signalled = signum
        if self.zygote.running:
            self.zygote.stop(float("inf"), signum)  # the pod's grace period is the limit
        self._changed.set()

    def _may_go(self) -> bool:
        return self.signalled is not None and not self.zygote.running

    def _cannot_lead(self) -> bool:
        """Whether others must not wait for this pod to lead, because its ranks take long to end."""
        late = time.monotonic() - self._alone_since > ENDING_S
        return self.zygote.running and (late or self.signalled is not None)

    def _is_over(self) -> bool:
        return self.verdict is not None or self._may_go()

    def _end(self, verdict: messages.Verdict) -> None:
        self.verdict = verdict
        self._changed.set()
        self._settled.set()

    async def _farewell(self) -> int:
        verdict = self.verdict
        if verdict is None:
            if self._failed:
                farewell.write_own_failure(self._failed, self.me)
            return 128 + (self.signalled or signal.SIGTERM)
        if isinstance(verdict, messages.Done):
            farewell.write_verdict(verdict, self.me)
            return 0
        self._stop(KILL_AFTER_S)
        farewell.write_verdict(verdict, self.me)
        status.say(f"the job failed: {verdict.text}. It {verdict.summary}")
        if verdict.stays == self.me.uid:
            await self._told.until_all(verdict.history.highest, lambda: self.signalled is not None)
        return contract.EXIT_FAILED
