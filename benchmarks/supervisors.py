"""What the gang's own protocol costs: N nodes and two spares on one machine, without torch.

    python benchmarks/supervisors.py [--nodes 8,16,32,64] [--runs 5] [--steady-s 60] [--out FOLDER]
    python benchmarks/supervisors.py --nodes 256,1000,4000 --per-process 500 --runs 3

Every node is a real Supervisor, in a process of its own or with others, over TCP; its ranks are a
stub that ends at once when it is told to. All nodes begin at the same moment. In turn, in every
run, until all N have been told to start: the first round; the next one after SIGKILL of one in the
middle, then of index 0, which leads; the same with SIGSTOP, a node that goes silent.

With many nodes in a process, also until all N have been told since the leader had all of them, its
CPU seconds apart from those of all others, the bytes that it sends and takes in, and its memory;
and how many such seconds of CPU it takes in 10 s in which nothing happens. Beside it, with a
process for each node,
torch's c10d rendezvous with its default keep-alive, each node calling next_rendezvous() as
torchrun's agent does and looking for a change every 0.1 s; connecting to its store, which index 0
hosts and it cannot lose, is not counted.

Then, with the most nodes, CPU seconds of a minute in which nothing happens; and, with two busy
processes for every core, how long signs of life stay away, and whether a node is declared lost.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import ctypes
import datetime
import json
import multiprocessing
import os
import platform
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import psutil

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "launcher"), str(ROOT)]

from kij_train.pod import contract, gang  # noqa: E402
from kij_train.pod.gang import channel, messages, ranks  # noqa: E402
from kij_train.pod.gang import node as gang_node  # noqa: E402
from kij_train.pod.gang.leader import Leader  # noqa: E402
from kij_train.pod.gang.node import Supervisor  # noqa: E402
from kij_train.pod.gang.rounds import Member  # noqa: E402

from benchmarks import kept  # noqa: E402 - the repository is no package

SPARES = 2
PORT = 12000
"""Of index 0; each index has two. Below those that the system gives to clients."""
OURS, C10D = "kij-train", "c10d"
FAULTS = {"killed": signal.SIGKILL, "silent": signal.SIGSTOP}
PAUSE_S = 1.5
"""Between a round's start and the next fault: the spares have heard of it."""
LIMIT_S = 120.0
IDLE_S = 10.0
LATE_S = 1.1 * channel.KEEP_ALIVE_S
"""A sign of life that takes longer is written down."""
BUSY_PER_CORE = 2
Report = Callable[..., None]


class Stub(ranks.Zygote):
    """Ranks that are no processes."""

    def __init__(self, report: Report) -> None:
        self.ready, self.broken, self.running = True, "", False
        self._report = report

    async def serve(self, on_change: Callable[[], None], on_end: Callable[[int], None]) -> None:
        del on_change
        self._on_end = on_end
        await asyncio.Event().wait()

    def start(self, order: messages.Run) -> None:
        self.running = True
        self._report(round=int(order.env[gang.ENV_RESTARTS]) + 1)

    def stop(self, kill_after_s: float, signum: int = signal.SIGTERM) -> None:
        del kill_after_s, signum
        asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        if self.running:
            self.running = False
            self._on_end(-signal.SIGTERM)


def observed(report: Report, traffic: dict[str, int]) -> type[channel.Channel]:
    """Connections that report where nothing came for long, and count bytes."""

    class Observed(channel.Channel):
        def data_received(self, data: bytes) -> None:
            gap = self._loop.time() - self._heard
            if gap > LATE_S:
                report(gap=gap)
            traffic["in"] += len(data)
            super().data_received(data)

        def _write(self, data: bytes) -> None:
            traffic["out"] += len(data)
            super()._write(data)

    return Observed


class Observer(Leader):
    """Reports when a round begins: since when all were there, CPU, bytes and memory."""

    def __init__(self, report: Report, traffic: dict[str, int], *whole: Any, **named: Any) -> None:
        super().__init__(*whole, **named)
        self._report, self._traffic = report, traffic
        self._all_since = 0.0
        self._before = dict(traffic)

    def take(self, member: Member, report: messages.Report) -> None:
        super().take(member, report)
        if isinstance(report, messages.Ready):
            self._all_since = time.monotonic()

    def _start(self, chosen: list[Member]) -> None:
        super()._start(chosen)
        mib = {way: (count - self._before[way]) / 2**20 for way, count in self._traffic.items()}
        self._before = dict(self._traffic)
        self._report(
            led=self.history.rounds,
            all_since=self._all_since,
            cpu_s=time.process_time(),
            sent_mib=mib["out"],
            received_mib=mib["in"],
            rss_mib=psutil.Process().memory_info().rss / 2**20,
        )


def our_nodes(
    indexes: Sequence[int], nodes: int, await_go: Callable[[], None], report: Report
) -> None:
    """What these nodes are in their pods, but for their ranks."""
    first, traffic = partial(report, indexes[0]), {"in": 0, "out": 0}
    connections = mock.patch.object(channel, "Channel", observed(first, traffic))
    leaders = mock.patch.object(gang_node, "Leader", partial(Observer, first, traffic))
    os.environ[gang.ENV_GANG_ID] = "bench"
    os.environ.pop(contract.ENV_PARENT_PID, None)
    pods = nodes + SPARES
    addresses = [f"{address(each)}:{PORT + 2 * each}" for each in range(pods)]
    settings = gang.Settings(nodes, nodes, SPARES, addresses, max_restarts=20, backoff_limit=20)

    def supervisor(index: int, scratch: str) -> Supervisor:
        os.environ[gang.ENV_POD_IP] = address(index)
        node = contract.Node(index, pods, 1, "127.0.0.1", 1, 600, index)
        return Supervisor(node, settings, Stub(partial(report, index)), scratch)

    with connections, leaders, tempfile.TemporaryDirectory() as scratch:
        await_go()

        async def whole() -> None:
            await asyncio.gather(*(supervisor(each, scratch).run() for each in indexes))

        asyncio.run(whole())


def address(index: int) -> str:
    """Of a node, on this machine."""
    return f"127.0.{1 + index // 250}.{1 + index % 250}"


def c10d_node(
    indexes: Sequence[int], nodes: int, await_go: Callable[[], None], report: Report
) -> None:
    """What torchrun's agent does between its rounds."""
    (index,) = indexes
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    # With the store shared, which is the default, a round after a loss does not come about.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    where = {"local_addr": "127.0.0.1", "is_host": str(index == 0)}
    endpoint = f"127.0.0.1:{PORT}"
    handler = registry.get_rendezvous_handler(
        RendezvousParameters("c10d", endpoint, "bench", nodes, nodes, **where)
    )
    await_go()
    while True:
        handler.next_rendezvous()
        report(index, round=handler._state_holder.state.round + 1)
        while handler.num_nodes_waiting() == 0:
            time.sleep(0.1)


class Nodes:
    """Processes that tell which round their nodes start.

    A process has `each` nodes, but for indexes 0 and 1, which lead, and the one in the middle.
    """

    def __init__(self, way: str, nodes: int, each: int = 1) -> None:
        self.nodes = nodes
        self.count = nodes + SPARES
        self.told: dict[int, dict[int, float]] = collections.defaultdict(dict)
        """Round → index → when."""
        self.led: dict[int, dict[str, float]] = {}
        """Round → what its leader reported when it had told all."""
        self.gaps: list[float] = []
        if way == C10D:
            import torch.distributed.elastic.rendezvous.registry  # noqa: F401 - once for all
        self._log = tempfile.TemporaryFile("a+")  # noqa: SIM115 - closed by __exit__
        self._reports, self._writer = os.pipe()
        self._await_go, self._go = os.pipe()
        self._rest = b""
        body = {OURS: our_nodes, C10D: c10d_node}[way]
        alone = {0, 1, nodes // 2} if each > 1 else set()
        others = [index for index in range(self.count) if index not in alone]
        groups = [[index] for index in sorted(alone)]
        groups += [others[at : at + each] for at in range(0, len(others), each)]
        self.pids = {group[0]: os.fork() or self._be(body, group) for group in groups}
        """The first index of a process → its id."""

    def _be(self, body: Callable[..., None], indexes: Sequence[int]) -> NoReturn:
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        os.dup2(self._log.fileno(), 2)
        os.close(self._go)

        def report(index: int, **what: Any) -> None:
            line = json.dumps({"node": index, "at": time.monotonic(), **what})
            os.write(self._writer, line.encode() + b"\n")

        def await_go() -> None:
            for index in indexes:
                report(index, round=0)
            os.read(self._await_go, 1)

        try:
            body(indexes, self.nodes, await_go, report)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def read(self, deadline: float) -> bool:
        """Take in what comes next; whether something came before the deadline."""
        timeout = max(0.0, deadline - time.monotonic())
        if not select.select([self._reports], [], [], timeout)[0]:
            return False
        *lines, self._rest = (self._rest + os.read(self._reports, 65536)).split(b"\n")
        for said in map(json.loads, lines):
            if "gap" in said:
                self.gaps.append(said["gap"])
            elif "led" in said:
                self.led[said["led"]] = said
            else:
                self.told[said["round"]][said["node"]] = said["at"]
        return True

    def go(self) -> float:
        """Let all of them begin; when."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.told[0]) < self.count:
            assert self.read(deadline), f"{len(self.told[0])} nodes are there: {self.log()}"
        began = time.monotonic()
        os.close(self._go)
        return began

    def next_round(self) -> float:
        """When the last of the next round's nodes was told to start; LIMIT_S from now at most."""
        over = max(number for number, told in self.told.items() if len(told) >= self.nodes)
        deadline = time.monotonic() + LIMIT_S
        while True:
            for number, told in self.told.items():
                if number > over and len(told) == self.nodes:
                    return max(told.values())
            if not self.read(deadline):
                return deadline

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds so far, by the first index of a process."""
        return {index: sum(psutil.Process(pid).cpu_times()[:2]) for index, pid in self.pids.items()}

    def cost(self, what: str, before: dict[int, float]) -> dict[str, float]:
        """What the newest round took its leader, and the CPU seconds of all others."""
        if not self.led or max(self.led) != max(self.told):
            return {}
        led = self.led[max(self.led)]
        leader = int(led["node"])
        after = self.cpu_s()
        others = sum(after[index] - before[index] for index in after if index != leader)
        found = {}
        if not what.startswith("member"):  # all others were there all the time
            since = max(self.told[max(self.told)].values()) - led["all_since"]
            found[f"{what}, s since all were there"] = since
        return {
            **found,
            f"{what}, CPU s of the leader": led["cpu_s"] - before[leader],
            f"{what}, CPU s of all others": others,
            f"{what}, MiB sent by the leader": led["sent_mib"],
            f"{what}, MiB received by it": led["received_mib"],
            f"{what}, MiB of its memory": led["rss_mib"],
        }

    def idle(self) -> dict[str, float]:
        """CPU seconds in which nothing happens."""
        before = self.cpu_s()
        deadline = time.monotonic() + IDLE_S
        while self.read(deadline):
            pass
        took = {index: after - before[index] for index, after in self.cpu_s().items()}
        leader = took.pop(0)
        return {
            f"CPU s of the leader in {IDLE_S:.0f} s without events": leader,
            f"CPU s of all others in {IDLE_S:.0f} s without events": sum(took.values()),
        }

    def log(self) -> str:
        """What they said."""
        self._log.seek(0)
        return self._log.read()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)  # those that have ended are not reaped yet
        for pid in self.pids.values():
            os.waitpid(pid, 0)
        for each in (self._reports, self._writer, self._await_go):
            os.close(each)
        self._log.close()


def trial(way: str, nodes: int, fault: str, each: int = 1) -> dict[str, float]:
    """Seconds until all have been told to start: at first, and after a loss of each kind.

    With many nodes in a process, what it took the leader as well.
    """
    with Nodes(way, nodes, each) as group:
        before = group.cpu_s()
        began = group.go()
        seconds = {"start": min(LIMIT_S, group.next_round() - began)}
        if each > 1:
            seconds.update(group.cost("start", before))
            seconds.update(group.idle())
        for who in ("member", "leader") if way == OURS else ("member",):
            if seconds["start"] >= LIMIT_S:
                break
            deadline = time.monotonic() + PAUSE_S
            while group.read(deadline):
                pass
            # With c10d any of them may be a spare.
            index = sorted(group.told[max(group.told)])[nodes // 2] if who == "member" else 0
            before = group.cpu_s()
            began = time.monotonic()
            os.kill(group.pids[index], FAULTS[fault])
            seconds[f"{who} {fault}"] = min(LIMIT_S, group.next_round() - began)
            if each > 1:
                seconds.update(group.cost(f"{who} {fault}", before))
            os.kill(group.pids[index], signal.SIGKILL)
    return seconds


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that only take CPU time."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def steady(way: str, nodes: int, seconds: float, per_core: int) -> dict[str, Any]:
    """CPU seconds a minute when nothing happens; signs of life, and losses, under load."""
    with Nodes(way, nodes) as group:
        group.go()
        group.next_round()
        time.sleep(2 * PAUSE_S)
        processes = [psutil.Process(group.pids[index]) for index in range(nodes)]

        def wait() -> list[float]:
            """The CPU seconds of a minute, by index."""
            before = [sum(each.cpu_times()[:2]) for each in processes]
            deadline = time.monotonic() + seconds
            while group.read(deadline):
                pass
            after = [sum(each.cpu_times()[:2]) for each in processes]
            return [(b - a) * 60 / seconds for a, b in zip(before, after, strict=True)]

        leader, *members = wait()
        memory = [each.memory_info() for each in processes]
        found: dict[str, Any] = {
            "leader_cpu_s_a_minute": leader,
            "member_cpu_s_a_minute": statistics.median(members),
            "leader_rss_mib": memory[0].rss / 2**20,
            "member_rss_mib": statistics.median(each.rss for each in memory[1:]) / 2**20,
            "longest_wait_over_1.1_s": max(group.gaps, default=None),
        }
        if way == OURS:
            group.gaps.clear()
            count = per_core * (os.cpu_count() or 1)
            with busy(count):
                wait()
                found["load_average"] = os.getloadavg()[0]
            lost = [line for line in group.log().splitlines() if ": lost " in line]
            found.update(
                busy_processes=count,
                busy_longest_wait_s=max(group.gaps, default=None),
                busy_waits_over_2_s=sum(gap > 2 for gap in group.gaps),
                busy_declared_lost=lost,
            )
    return found


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a process of its own: what c10d imports must not be in our nodes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def measure(runs: int, sizes: list[int], each: int) -> dict[str, dict[int, list[float]]]:
    """Way and what happened → nodes → seconds."""
    found: dict[str, dict[int, list[float]]] = {}
    turns = [(OURS, "killed"), (C10D, "killed"), (OURS, "silent")]
    if each > 1:  # c10d has a process for each node
        turns.remove((C10D, "killed"))
    for run in range(runs):
        for nodes in sizes:
            for way, fault in turns if run % 2 == 0 else turns[::-1]:
                for what, seconds in apart(trial, way, nodes, fault, each).items():
                    found.setdefault(f"{way}, {what}", {}).setdefault(nodes, []).append(seconds)
                    print(f"{run + 1} {nodes:>3} {way:<10} {what:<14} {seconds:6.2f}", flush=True)
    return found


def text(seconds: float) -> str:
    """For a cell."""
    return f"{seconds:.2f}" if seconds < LIMIT_S else f"not in {LIMIT_S:.0f}"


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    seconds = report["seconds"]
    sizes = list(next(iter(seconds.values())))
    lines = [
        f"`{report['command']}`, {report['date']}, {report['runs']} runs, in turn, medians "
        f"(longest). {report['machine']}, load average {report['load_average']:.1f} before.",
        "",
        "| seconds until all N are told to start | " + " | ".join(f"N={n}" for n in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for what, by_size in seconds.items():
        cells = [
            f"{text(statistics.median(by_size[n]))} ({text(max(by_size[n]))})"
            if n in by_size
            else "-"
            for n in sizes
        ]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    for way, found in report["steady"].items():
        lines += ["", f"{way}, {report['steady_nodes']} nodes, {report['steady_s']:.0f} s:", ""]
        for key, value in found.items():
            said = f"{value:.2f}" if isinstance(value, float) else str(value)
            lines.append(f"- {key.replace('_', ' ')}: {said}")
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], file: Path) -> None:
    """Every run as a dot, the medians as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for number, (what, by_size) in enumerate(sorted(report["seconds"].items())):
        line = "--" if what.startswith(C10D) else "-"
        medians = [statistics.median(each) for each in by_size.values()]
        axes.plot(list(by_size), medians, line, color=f"C{number}", label=what)
        for nodes, each in by_size.items():
            axes.plot([nodes] * len(each), each, "o", color=f"C{number}", alpha=0.4)
    sizes = list(next(iter(report["seconds"].values())))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(each) for each in sizes])
    axes.set_xlabel("nodes")
    axes.set_ylabel("seconds until all are told to start")
    figure.legend(loc="outside right upper")
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print a table, keep a report and a plot; 1 when a node was declared lost under load."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", default="8,16,32,64")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steady-s", type=float, default=60.0)
    parser.add_argument(
        "--per-process", type=int, default=1, help="nodes in a process; without c10d, and no minute"
    )
    parser.add_argument("--busy-per-core", type=int, default=BUSY_PER_CORE)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    command = ["python", "benchmarks/supervisors.py", *sys.argv[1:]]
    sizes = [int(each) for each in arguments.nodes.split(",")]
    load = os.getloadavg()[0]
    each = arguments.per_process
    seconds = measure(arguments.runs, sizes, each)
    how = (max(sizes), arguments.steady_s, arguments.busy_per_core)
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(command),
        "machine": f"{os.cpu_count()} cores for everything, {platform.machine()}",
        "load_average": load,
        "runs": arguments.runs,
        "spares": SPARES,
        "seconds": seconds,
        "steady_nodes": max(sizes),
        "steady_s": arguments.steady_s,
        "steady": {way: apart(steady, way, *how) for way in (OURS,) if each == 1},
    }
    name = "supervisors" if each == 1 else "supervisors_many"
    kept.keep(report, table(report), arguments.out, name, partial(plot, report))
    return int(each == 1 and bool(report["steady"][OURS]["busy_declared_lost"]))


if __name__ == "__main__":
    sys.exit(main())
