"""What runs in every pod of a job that survives losses: a supervisor beside the bootstrap.

    python supervisor.py [-m | --no-python] SCRIPT [ARG ...]

The pods of a job agree, without help from outside, on who trains: the lowest index that answers
leads, and every other pod keeps one TCP connection to it. The leader picks the members of a round,
N of the N + S pods in the order of their indexes, and each member runs torchrun with a static
rendezvous, so that ranks follow the indexes. When a member is lost or a rank fails, the leader ends
the round everywhere and begins the next one; pods that are whole never end for it. When the leader
is lost, the lowest index that answers takes its place.

Whoever loses its leader ends its own ranks before it looks for the next one: nobody trains unseen.

Standard library only, Python 3.8 or later, like bootstrap.py, which lies beside it in a pod.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

if TYPE_CHECKING:
    from kij_train import bootstrap
    from kij_train.gang import hang, network, ranks
    from kij_train.gang import leader as gang
else:

    def _load(name: str) -> Any:
        """A file of ours, which lies beside this one in a pod.

        By its path, and registered nowhere: its name may be one of the user's modules.
        """
        here = Path(__file__).resolve().parent
        found = next(f for d in (here, here.parent) for f in [d / name] if f.is_file())
        spec = importlib.util.spec_from_file_location("kij_" + found.stem, found)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    bootstrap = _load("bootstrap.py")
    gang = _load("leader.py")
    hang = _load("hang.py")
    network = _load("network.py")
    ranks = _load("ranks.py")

Json = Dict[str, Any]
KEEP_ALIVE_S = 1.0
"""Between two signs of life."""
LOST_AFTER_S = 5.0
"""Without one."""
CONNECT_S = 1.0
RESOLVE_S = 2.0
ANSWER_S = 2.0
LOOK_AGAIN_S = 0.2
SILENT_S = 5.0
"""How long an index that took its time not to answer is not asked again, once there were rounds."""
FIRST_LOOK_S = 3.0
"""How long a node looks for a lower index that has not started yet before it leads itself."""
DECIDE_S = 0.5
"""Between two decisions of a leader that hears nothing."""
OTHER_LEADERS_S = 2.0
"""Between two looks of a leader without enough nodes for another leader."""
FAREWELL_S = 5.0
"""How long the leader waits for members to take leave."""
FLUSH_S = 1.0
LOOKS_A_TIMEOUT = 10
"""How often the ranks' signs of life are looked at."""
TOMBSTONE_S = 1800.0
MOST_AT_ONCE = 32
LONGEST_LINE = 1 << 20


def read_settings(env: Dict[str, str]) -> gang.Settings:
    """Raises Failure."""
    try:
        return gang.Settings(**json.loads(env[gang.ENV_GANG]))
    except (KeyError, ValueError, TypeError) as error:
        raise bootstrap.Failure(
            bootstrap.EXIT_CONTRACT,
            f"{gang.ENV_GANG}={env.get(gang.ENV_GANG)!r} does not say how the job restarts",
        ) from error


def read_node(env: Dict[str, str], settings: gang.Settings) -> "bootstrap.Node":
    """The bootstrap's contract, whose counts are those without spares. Raises Failure."""
    nproc = env.get(bootstrap.ENV_NPROC_PER_NODE, "")
    world = str(settings.high * int(nproc)) if nproc.isdigit() else ""
    if env.get(bootstrap.ENV_WORLD_SIZE) not in ("", None, world):
        raise bootstrap.Failure(
            bootstrap.EXIT_CONTRACT,
            f"{bootstrap.ENV_WORLD_SIZE}={env[bootstrap.ENV_WORLD_SIZE]!r}, not {world}",
        )
    every = settings.pods
    counts = {bootstrap.ENV_NNODES: str(every)}
    if nproc.isdigit() and env.get(bootstrap.ENV_WORLD_SIZE):
        counts[bootstrap.ENV_WORLD_SIZE] = str(every * int(nproc))
    return bootstrap.read_contract(dict(env, **counts))


# --- the protocol ---------------------------------------------------------------------------------
# A line of JSON each: hello {who, history, join}; {role: leading | following | looking | ended}; to
# members start, stop, stacks, spare, done, failed, ping; from them ready, ended, silent, stacks,
# leaving, ping.


class Channel:
    """Lines of JSON to and from another supervisor, with signs of life."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: Json) -> None:
        """Queue it; a connection that is gone shows when reading."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self, timeout_s: float = LOST_AFTER_S) -> Optional[Json]:
        """The next message that is no ping; None when the other side is gone or silent."""
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), timeout_s)
                said = json.loads(line)
            except (asyncio.TimeoutError, OSError, ValueError, asyncio.LimitOverrunError):
                return None
            if not isinstance(said, dict):
                return None
            if "ping" not in said:
                return said

    async def ping(self) -> None:
        """Until cancelled."""
        while True:
            self.send({"ping": 1})
            await asyncio.sleep(KEEP_ALIVE_S)

    async def flush(self) -> None:
        """Wait, not for long, until everything is sent."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.drain(), FLUSH_S)

    def close(self) -> None:
        """Close it; what is queued is still sent."""
        self._writer.close()


# --- the node -------------------------------------------------------------------------------------


class Supervisor:
    """One node: looks for its leader, or leads; runs its ranks in the rounds that it is part of."""

    def __init__(
        self,
        node: "bootstrap.Node",
        settings: gang.Settings,
        zygote: ranks.Zygote,
        scratch: str,
        output: Optional[hang.Output] = None,
    ) -> None:
        env = os.environ
        self.node, self.settings = node, settings
        self.gang_id = env.get(gang.ENV_GANG_ID, "")
        self.me = gang.Who(
            node.rank,
            os.urandom(8).hex(),
            env.get(gang.ENV_POD_IP) or "127.0.0.1",
            socket.gethostname() if not env.get(bootstrap.ENV_PARENT_PID) else str(os.getpid()),
            env.get(bootstrap.ENV_NODE_NAME, ""),
        )
        self.zygote = zygote
        self.history = gang.History()
        self.leader: Optional[gang.Leader] = None
        """Where this node leads."""
        self.up: Optional[Channel] = None
        """To the leader, where another node leads."""
        self.up_address: Optional[Tuple[str, int]] = None
        self._up_who: Optional[gang.Who] = None
        self._lost_leader: Optional[Tuple[float, Optional[gang.Who]]] = None
        self._round_began = 0.0
        self._tasks: List[asyncio.Future[None]] = []
        """Of this round."""
        self.verdict: Optional[Json] = None
        self.signalled: Optional[int] = None
        self._changed = asyncio.Event()
        self._scratch, self._output = scratch, output
        self._round = 0
        self._finished = False
        """Whether this node's ranks of the last round ended well."""
        self._was_spare = False
        self._ips: Dict[int, str] = {}
        self._sockets: List[Channel] = []
        self._began = time.monotonic()

    async def run(self) -> int:
        """The exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, signal.SIGTERM)
        port = self.settings.address(self.node.rank)[1]
        visits: List[asyncio.Future[None]] = []

        def on_visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            visits[:] = [visit for visit in visits if not visit.done()]
            visits.append(asyncio.ensure_future(self._serve(reader, writer)))

        server = await asyncio.start_server(on_visit, None, port, limit=LONGEST_LINE)
        zygote = asyncio.ensure_future(self.zygote.serve(self._changed.set, self._ranks_ended))
        cut_off = asyncio.ensure_future(self._end_when_cut_off())
        try:
            while self.verdict is None and not self._may_go():
                self._changed.clear()
                if self.zygote.broken:
                    raise bootstrap.Failure(bootstrap.EXIT_CONTRACT, self.zygote.broken)
                found = await self._look()
                if self.verdict is not None or self._may_go():
                    break
                await (self._lead() if found is None else self._follow(found))
            return await self._farewell()
        finally:
            server.close()
            for task in (zygote, cut_off, *visits):
                task.cancel()
            await asyncio.gather(zygote, cut_off, *visits, return_exceptions=True)

    def _is_connected(self) -> bool:
        """Whether another node is known to be there; before the first round, none has to be."""
        members = self.leader.members if self.leader is not None else {}
        return self.up is not None or len(members) > 1 or not self.history.rounds

    async def _end_when_cut_off(self) -> None:
        """So that the Job makes another pod, elsewhere on the network."""
        if self.settings.pods == 1:
            return
        peer = self.settings.address(int(self.node.rank == 0))[0]
        seconds = await network.await_cut_off(self._is_connected, peer)
        text = f"cut off: no other node, DNS or API server was reached for {seconds:.0f} s"
        bootstrap.say(f"{text}. This pod ends, so that the Job makes another one")
        ranks.kill_descendants()
        who = {"index": self.me.node, "exit_code": bootstrap.EXIT_RENDEZVOUS}
        bootstrap.write_record(bootstrap.error_file(), text, "", **who)
        os._exit(bootstrap.EXIT_RENDEZVOUS)  # threads that ask DNS would hold it for a minute

    # --- looking for a leader

    async def _look(self) -> Optional[Channel]:
        """A connection to the leader; None: lead yourself. Ends early with a verdict."""
        mine = self.node.rank
        silent: Dict[int, float] = {}
        while self.verdict is None and not self._may_go():
            waits_for = None
            for index in range(mine):
                began = time.monotonic()
                if began < silent.get(index, 0.0):
                    continue
                channel, said = await self._ask(index)
                if channel is not None:
                    return channel
                if said is not None:  # it is there, and looks itself
                    waits_for = index
                    break
                if self.history.rounds and time.monotonic() - began > LOOK_AGAIN_S:
                    silent[index] = time.monotonic() + SILENT_S
            if waits_for is None:
                above = range(mine + 1, self.settings.pods)
                for start in range(0, len(above), MOST_AT_ONCE):
                    some = above[start : start + MOST_AT_ONCE]
                    asked = await asyncio.gather(*(self._ask(each, join=False) for each in some))
                    for said in (said for _, said in asked if said and said["role"] == "leading"):
                        channel, _ = await self._ask_at((said["at"][0], said["at"][1]), True)
                        if channel is not None:
                            return channel
                early = time.monotonic() - self._began < FIRST_LOOK_S
                if mine == 0 or not early or self.history.rounds:
                    return None
            await asyncio.sleep(LOOK_AGAIN_S)
        return None

    async def _ask(
        self, index: int, *, join: bool = True
    ) -> Tuple[Optional[Channel], Optional[Json]]:
        """Ask an index, and whom it names, for the leader: an open channel to it, or its answer."""
        host, port = self.settings.address(index)
        places = [(self._ips[index], port)] if index in self._ips else []
        tried: List[str] = []
        for place in [*places, (host, port)]:
            channel, said = await self._ask_at(place, join, tried)
            if said is not None and said.get("role") == "following":
                # Where its leader is gone, it will look itself in a moment.
                channel, there = await self._ask_at((said["at"][0], int(said["at"][1])), join)
                return channel, there or said
            if channel is not None or said is not None:
                return channel, said
        return None, None

    async def _ask_at(
        self, place: Tuple[str, int], join: bool, tried: Optional[List[str]] = None
    ) -> Tuple[Optional[Channel], Optional[Json]]:
        """Ask there, but for the addresses that were tried; they become more."""
        loop = asyncio.get_running_loop()
        tried = [] if tried is None else tried
        try:
            found = await asyncio.wait_for(
                loop.getaddrinfo(*place, type=socket.SOCK_STREAM), RESOLVE_S
            )
        except (OSError, asyncio.TimeoutError):
            return None, None
        for address in dict.fromkeys(str(entry[4][0]) for entry in found):
            if address in tried:
                continue
            tried.append(address)
            if (address, place[1]) == (self.me.ip, self.settings.address(self.node.rank)[1]):
                continue
            try:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(address, place[1], limit=LONGEST_LINE), CONNECT_S
                )
            except (OSError, asyncio.TimeoutError):
                continue
            channel = Channel(reader, writer)
            hello = {"gang": self.gang_id, "who": list(self.me), "join": join}
            channel.send(dict(hello, history=self.history.as_json()))
            try:
                said = await channel.receive(ANSWER_S)
            except asyncio.CancelledError:
                channel.close()
                raise
            if said is None or "role" not in said:
                channel.close()
                continue
            if said["role"] == "leading":
                said["at"] = [address, place[1]]
            if said["role"] == "leading" and join:
                self.up_address = (address, place[1])
                self._up_who = gang.Who(*said["who"])
                return channel, said
            channel.close()
            if said["role"] == "ended":
                self.verdict = said["verdict"]
            return None, said
        return None, None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Another node asks, or joins."""
        channel = Channel(reader, writer)
        hello = await channel.receive(ANSWER_S)
        if hello is None or hello.get("gang") != self.gang_id:
            channel.close()
            return
        who = gang.Who(*hello["who"])
        leader = self.leader
        if self.verdict is not None:
            channel.send({"role": "ended", "verdict": self.verdict})
        elif leader is not None:
            channel.send(
                {
                    "role": "leading",
                    "who": list(self.me),
                    "index": self.node.rank,
                    "running": leader.round is not None,
                }
            )
        elif self.up_address is not None:
            channel.send({"role": "following", "at": list(self.up_address)})
        else:
            channel.send({"role": "looking", "index": self.node.rank})
        if leader is None or self.verdict is not None or not hello.get("join"):
            await channel.flush()
            channel.close()
            return
        await self._serve_member(leader, channel, who, gang.History(hello.get("history")))

    async def _serve_member(
        self, leader: gang.Leader, channel: Channel, who: gang.Who, history: gang.History
    ) -> None:
        self._sockets.append(channel)
        ping = asyncio.ensure_future(channel.ping())
        member = gang.Member(who, channel.send, time.monotonic())
        leader.join(member, history)
        self._changed.set()
        try:
            while True:
                said = await channel.receive()
                if said is None:
                    break
                leader.take(member, said)
                self._changed.set()
        finally:
            ping.cancel()
            channel.close()
            self._sockets.remove(channel)
            leader.leave(member)
            self._changed.set()

    # --- leading and following

    async def _lead(self) -> None:
        """Until there is a verdict, or a better leader."""
        leader = gang.Leader(
            self.settings,
            self.history,
            self.node.rendezvous_timeout_s,
            say=bootstrap.say,
            compare=hang.compare,
            lost_leader=self._lost_leader,
        )
        self.leader = leader
        me = gang.Member(self.me, self._obey, time.monotonic())
        me.ready = self.zygote.ready
        leader.join(me, self.history)
        next_look = time.monotonic() + OTHER_LEADERS_S
        look: Optional[asyncio.Future[bool]] = None
        try:
            while True:
                me.ready, me.leaving = self.zygote.ready, self.signalled is not None
                leader.decide()
                self.history = leader.history
                if self.verdict is not None:  # of another leader
                    return
                if leader.verdict is not None:
                    self.verdict = leader.verdict
                    for member in leader.members.values():
                        member.send(leader.verdict)
                    bootstrap.say("the job " + str(leader.verdict.get("done") or "failed"))
                    await self._until_heard(leader)
                    return
                if self._may_go() or self.zygote.broken:
                    return
                if look is not None and look.done():
                    if leader.round is None and look.result():
                        return
                    look, next_look = None, time.monotonic() + OTHER_LEADERS_S
                if look is None and leader.round is None and time.monotonic() >= next_look:
                    # While decisions go on: an index that does not answer takes seconds.
                    look = asyncio.ensure_future(self._better_leader())
                    look.add_done_callback(lambda _: self._changed.set())
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), DECIDE_S)
                self._changed.clear()
        finally:
            self.leader = None
            if look is not None:
                look.cancel()
            await asyncio.gather(*(channel.flush() for channel in self._sockets))
            for channel in self._sockets:
                channel.close()

    async def _until_heard(self, leader: gang.Leader) -> None:
        """Members that have read the verdict hang up; a connection closed before may lose it."""
        deadline = time.monotonic() + FAREWELL_S
        while len(leader.members) > 1 and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def _better_leader(self) -> bool:
        """Whether another node leads with a round, or with a lower index."""
        others = [index for index in range(self.settings.pods) if index != self.node.rank]
        for start in range(0, len(others), MOST_AT_ONCE):
            some = others[start : start + MOST_AT_ONCE]
            asked = await asyncio.gather(*(self._ask(index, join=False) for index in some))
            for _, said in asked:
                if said is None or said.get("role") != "leading":
                    continue
                if said["running"] or said["index"] < self.node.rank:
                    return True
        return False

    async def _follow(self, channel: Channel) -> None:
        """Until there is a verdict, or the leader is gone."""
        self.up = channel
        ping = asyncio.ensure_future(channel.ping())
        said_ready = said_leaving = False
        try:
            receiving: Optional[asyncio.Future[Optional[Json]]] = None
            while self.verdict is None:
                if self.zygote.ready and not said_ready:
                    said_ready = True
                    channel.send({"ready": 1})
                if self.signalled and not said_leaving:
                    said_leaving = True
                    channel.send({"leaving": 1})
                if self._may_go() or self.zygote.broken:
                    break
                receiving = receiving or asyncio.ensure_future(channel.receive())
                change = asyncio.ensure_future(self._changed.wait())
                both: List[asyncio.Future[Any]] = [receiving, change]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                self._changed.clear()
                if not receiving.done():
                    continue
                said, receiving = receiving.result(), None
                if said is None:
                    break
                self._obey(said)
            if receiving is not None:
                receiving.cancel()
        finally:
            ping.cancel()
            await channel.flush()
            channel.close()
            self.up = self.up_address = None
        if self.verdict is None and not self._may_go():
            await self._without_leader()

    async def _without_leader(self) -> None:
        """The leader is gone: nobody may train unseen."""
        if self._finished:
            # All ranks of the round were past their end when torchrun's agents let each other go.
            self.verdict = {"done": ""}
            return
        now = time.monotonic()
        bootstrap.say(f"lost the leader, {self._up_who}; looking for the next one")
        if self.history.rounds:
            self._lost_leader = (now, self._up_who)
            if self.zygote.running:
                self.history.training_s += now - self._round_began
            self._keep_accounts("restarting")
        self._stop(0.0)  # at once: where the link is cut, others may begin the next round now
        while self.zygote.running:
            await asyncio.sleep(0.05)

    def _stop(self, kill_after_s: float) -> None:
        """End the ranks of a round that is over; a node that leaves gives them all its time."""
        if self.zygote.running and self.signalled is None:
            self.zygote.stop(kill_after_s)

    def _obey(self, said: Json) -> None:
        """A word from the leader, who may be this node."""
        if "done" in said or "failed" in said:
            self.verdict = said
            self._changed.set()
        elif "start" in said:
            self._start(said)
        elif "stop" in said:
            self.history, self._round_began = gang.History(said["history"]), time.monotonic()
            self._keep_accounts("restarting")
            self._stop(said["stop"])
        elif "stacks" in said:
            self._tasks.append(asyncio.ensure_future(self._tell_stacks(said["stacks"])))
        elif "spare" in said:
            self._take_news(said)
            if not self._was_spare:
                self._was_spare = True
                bootstrap.say("this node is a spare: it waits until another one is lost")

    def _take_news(self, said: Json) -> None:
        self.history = gang.History(said["history"])
        self._ips = {int(index): ip for index, ip in said["ips"].items()}
        self._keep_accounts("training")

    def _keep_accounts(self, state: str) -> None:
        """For `kij-train status`, which reads them in a pod."""
        if os.environ.get(bootstrap.ENV_PARENT_PID) or not os.path.isdir(bootstrap.WORK_DIR):
            return
        news = {"history": self.history.as_json(), "state": state, "since": time.time()}
        part = bootstrap.ACCOUNTS_FILE + ".part"
        with contextlib.suppress(OSError):  # a full disk must not stop the training
            with open(part, "w") as file:
                json.dump(news, file)
            os.replace(part, bootstrap.ACCOUNTS_FILE)

    def _start(self, said: Json) -> None:
        self._round, self._finished = said["start"], False
        self._take_news(said)
        node = self.node._replace(
            rank=said["node_rank"], nnodes=said["nnodes"], master_addr=said["address"]
        )
        env = {
            gang.ENV_RESTARTS: str(self._round - 1),
            gang.ENV_SPARE: str(int(self._was_spare)),
            bootstrap.ENV_NODE_RANK: str(node.rank),
            bootstrap.ENV_NNODES: str(node.nnodes),
            bootstrap.ENV_WORLD_SIZE: str(node.nnodes * node.nproc),
            bootstrap.ENV_MASTER_ADDR: node.master_addr,
            bootstrap.ENV_ERROR_FILE: self._record_file(),
        }
        if self._round > 1:
            env[bootstrap.ENV_PREFLIGHT] = ""
        self._tasks = [asyncio.ensure_future(self._show_ready())]
        if self.settings.hang_timeout_s:
            env[bootstrap.ENV_HEARTBEAT_DIR] = os.path.join(self._scratch, f"beats-{self._round}")
            signs = hang.Signs(env[bootstrap.ENV_HEARTBEAT_DIR], self._output)
            self._tasks.append(asyncio.ensure_future(self._watch(signs)))
            if os.environ.get(bootstrap.ENV_PARENT_PID):
                env[bootstrap.ENV_STACKS_DIR] = self._stacks_dir()
        first = node.rank * node.nproc
        last = first + node.nproc - 1
        ranks = f"rank {first}" if first == last else f"ranks {first}-{last}"
        bootstrap.say(f"round {self._round}: {ranks} of {node.nnodes * node.nproc}")
        self._was_spare = False
        if self._output is not None:
            self._output.end_lines()
        self._lost_leader, self._round_began = None, time.monotonic()
        self.zygote.start({"node": list(node), "env": env})

    async def _watch(self, signs: hang.Signs) -> None:
        """Tell the leader when the ranks of this round fall silent, and when they wake again."""
        round_, limit, was_silent = self._round, self.settings.hang_timeout_s, False
        while self.zygote.running and self._round == round_:
            silent = signs.silence_s() > limit
            if silent != was_silent:
                was_silent = silent
                self._report({"silent": silent, "ever": signs.ever, "round": round_})
            await asyncio.sleep(min(1.0, limit / LOOKS_A_TIMEOUT))

    async def _tell_stacks(self, round_: int) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, bootstrap.stacks_of_ranks, self._stacks_dir())
        self._report({"stacks": hang.brief(found), "round": round_})

    def _stacks_dir(self) -> str:
        if not os.environ.get(bootstrap.ENV_PARENT_PID):
            return bootstrap.STACKS_DIR
        return os.path.join(self._scratch, "stacks")

    def _report(self, report: Json) -> None:
        """To the leader, who may be this node."""
        if self.up is not None:
            self.up.send(report)
        elif self.leader is not None and self.me.uid in self.leader.members:
            self.leader.take(self.leader.members[self.me.uid], report)
        self._changed.set()

    async def _show_ready(self) -> None:
        """While the ranks run."""
        if os.environ.get(bootstrap.ENV_PARENT_PID):
            return
        port = self.settings.address(self.node.rank)[1] + gang.READY_PORT

        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        with contextlib.suppress(OSError):
            server = await asyncio.start_server(close, None, port)
            try:
                while self.zygote.running:
                    await asyncio.sleep(0.2)
            finally:
                server.close()

    def _record_file(self) -> str:
        return os.path.join(self._scratch, f"round-{self._round}.json")

    def _ranks_ended(self, code: int) -> None:
        self._finished = code == 0
        record = bootstrap.read_record(self._record_file())
        self._report({"ended": code, "round": self._round, "record": record})

    # --- the end

    def _on_signal(self, signum: int) -> None:
        bootstrap.say(f"{signal.Signals(signum).name}: this node leaves")
        self.signalled = signum
        if self.zygote.running:
            self.zygote.stop(float("inf"))  # the pod's grace period is the limit
        self._changed.set()

    def _may_go(self) -> bool:
        return self.signalled is not None and not self.zygote.running

    async def _farewell(self) -> int:
        verdict = self.verdict
        if verdict is None:
            return 128 + (self.signalled or signal.SIGTERM)
        if "done" in verdict:
            if "history" in verdict:
                bootstrap.write_accounts(gang.History(verdict["history"]).brief())
            return 0
        mine = verdict["uid"] == self.me.uid
        self._stop(gang.KILL_AFTER_S)
        self._write_verdict(verdict, mine)
        bootstrap.say(f"the job failed: {verdict['failed']}. It {verdict['summary']}")
        if self.settings.backoff_limit >= self.settings.pods and verdict["stays"] == self.me.uid:
            # The Job replaces those that ended until it has counted enough failures: whoever comes
            # must find one that knows that there is nothing left to do.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._signal(), TOMBSTONE_S)
        return bootstrap.EXIT_FAILED

    async def _signal(self) -> None:
        while self.signalled is None:
            self._changed.clear()
            await self._changed.wait()

    def _write_verdict(self, verdict: Json, mine: bool) -> None:
        record = verdict["record"]
        message = record.get("message", {})
        if mine or not verdict["uid"]:
            who = dict(record.get("kij", {}), index=self.me.node, final=True)
            text = str(message.get("message") or verdict["failed"])
            stack = str((message.get("extraInfo") or {}).get("py_callstack", ""))
        else:
            # Told to end: another node's record is the cause.
            who = {"index": self.me.node, "exit_code": 128 + signal.SIGTERM, "final": True}
            text, stack = verdict["failed"], ""
        who["accounts"] = gang.History(verdict.get("history")).brief()
        bootstrap.write_record(bootstrap.error_file(), text, stack, **who)


def import_torch() -> None:
    """For the rounds, which are forked from here."""
    try:
        import torch.distributed.run  # noqa: F401
    except ImportError as error:
        raise ImportError(f"torch cannot be imported by {sys.executable}: {error}") from error


def run_round(order: Json, argv: List[str], output: Optional[hang.Output]) -> int:
    """Be torchrun for one round. Gives its exit code; a failure leaves its record."""
    os.environ.update(order["env"])
    if output is not None:
        output.take()
    node = bootstrap.Node(*order["node"])
    return bootstrap.first_process(lambda argv: bootstrap.run_torchrun(node, argv), argv)


def run_supervised(argv: List[str]) -> int:
    """The node's first process, from the contract to the verdict."""
    env = os.environ
    if env.get(bootstrap.ENV_PARENT_PID):
        bootstrap.die_with_parent(int(env[bootstrap.ENV_PARENT_PID]))
    settings = read_settings(dict(env))
    node = read_node(dict(env), settings)
    spares = f" and {settings.spares} spare{'' if settings.spares == 1 else 's'}"
    where = f" on {env[bootstrap.ENV_NODE_NAME]}" if env.get(bootstrap.ENV_NODE_NAME) else ""
    bootstrap.say(
        f"index {node.rank} of {settings.high}{spares if settings.spares else ''}, "
        f"pod {socket.gethostname()}{where}, port {node.master_port}"
    )
    bootstrap.prepare(dict(env))
    ranks.adopt_orphans()
    watched = settings.hang_timeout_s and settings.heartbeat == hang.OUTPUT
    output = hang.Output() if watched else None
    work = ranks.Work(import_torch, lambda order: run_round(order, argv, output))
    zygote = ranks.Zygote(work, bootstrap.say)
    if output is not None:
        output.start()
    scratch_dir = env.get(bootstrap.ENV_SCRATCH_DIR)
    with tempfile.TemporaryDirectory(prefix="kij-rounds-", dir=scratch_dir) as scratch:

        async def whole() -> int:
            return await Supervisor(node, settings, zygote, scratch, output).run()

        try:
            return asyncio.run(whole())
        finally:
            if output is not None:
                ranks.kill_descendants()
                output.close(gang.KILL_AFTER_S)


def main(argv: List[str]) -> int:
    """Entry point; `argv` without the program's name."""
    bootstrap.hide_own_folder()
    return bootstrap.first_process(run_supervised, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
