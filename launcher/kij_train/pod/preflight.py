"""Look at every node before training: GPUs, /dev/shm, clocks, speed, and one short all-reduce.

Every rank runs it, as a process of its own that is gone before the training begins; with
`launch --preflight` the bootstrap starts it. What is wrong is printed to standard output by every
rank, in the same words, with the node that it is about; the exit code is 1 then. One file; torch is
all it needs, nvidia-ml-py tells more about GPUs where the image has it.

Ranks meet in a store at rank 0, so that one that never comes is known by name. What is measured and
the collective run in a thread, since a call of CUDA or NCCL that hangs cannot be interrupted.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

DEADLINE_S = float(os.environ.get("KIJ_PREFLIGHT_DEADLINE_S", "60"))
"""For all ranks to come, and again for what is measured, and for the all-reduce."""
ENV_SHM_BYTES = "KIJ_PREFLIGHT_SHM_BYTES"
"""What --shm asked for."""
ENV_SHARED = "KIJ_PREFLIGHT_SHARED"
"""1 where others may use the same GPUs."""
SHM = Path("/dev/shm")  # noqa: S108 - looked at
SMALL_SHM_BYTES = 65 * 2**20
"""Container runtimes give 64 MiB where nobody asks for more: data loaders and NCCL fail on it."""
SLOWDOWNS = (
    (0x40, "too hot, slowed down by its hardware"),
    (0x20, "too hot, slowed down by its driver"),
    (0x80, "slowed down by the power brake of its machine"),
)
"""Bits of NVML's throttle reasons: HwThermalSlowdown, SwThermalSlowdown, HwPowerBrakeSlowdown."""
HARDWARE_SLOWDOWN = 0x08
"""Comes with the first and the last of them, and sometimes alone."""
LARGEST_SKEW_S = 1.0
ELEMENTS = 1 << 20
SLOW = 0.8
"""A rank that does less than this share of the median is named."""
MOST_NAMED = 8
BATCH_S = 0.01
"""Between two times that the clock is read, at least: to wait for a GPU takes time itself."""


class Sizes(NamedTuple):
    """What is measured, and for how long."""

    side: int
    """Of the square matrices, two of which are in memory."""
    copied: int
    """Bytes of the copy and of what is copied, each: more than fits a cache."""
    seconds: float
    """Of the product, and again of the copy."""


ON_GPU, ON_CPU = Sizes(4096, 1 << 28, 0.4), Sizes(256, 1 << 23, 0.1)
UNITS = {"matrix product": "FLOP/s", "memory copy": "B/s"}


def about_this_rank(gpus: int) -> dict[str, Any]:
    """Who and where this rank is, and what is wrong with its node by itself."""
    import torch

    found: dict[str, Any] = {
        "index": int(os.environ.get("GROUP_RANK", "0")),
        "where": os.environ.get("KIJ_NODE_NAME") or socket.gethostname(),
        "model": "",
        "problems": [],
        "unknown": [],
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
    }
    if SHM.is_dir():
        shm = os.statvfs(SHM)
        asked = int(os.environ.get(ENV_SHM_BYTES) or "0")
        found["problems"] += shm_problems(shm.f_blocks * shm.f_frsize, asked)
    if gpus:
        look_at_gpus(found, gpus)
    return found


def shm_problems(size: int, asked: int) -> list[str]:
    """What is wrong with /dev/shm of that many bytes."""
    # Whole pages, hence the slack.
    if size < 0.99 * asked:
        return [f"{SHM} has {size >> 20} MiB, {asked >> 20} MiB were asked for"]
    return [f"{SHM} has {size >> 20} MiB only"] if size < SMALL_SHM_BYTES and not asked else []


def look_at_gpus(found: dict[str, Any], gpus: int) -> None:
    """Count, model, versions, and what NVML knows of errors and throttling.

    Every question by itself: MIG slices and virtual GPUs answer some, and not others.
    """
    import torch

    def ask(what: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:
            found["unknown"].append(f"{what}: {error}")
            return None

    visible = torch.cuda.device_count()
    why = ""
    if not visible:
        try:
            torch.cuda.init()
        except Exception as error:  # no driver, or a torch for CPUs
            why = ": " + first_line(error).partition(". ")[0]
    else:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        found["model"] = torch.cuda.get_device_name(local % visible)
    if torch.version.cuda:
        found["versions"]["cuda"] = torch.version.cuda
    nccl = ask("NCCL's version", lambda: ".".join(map(str, torch.cuda.nccl.version())))
    if nccl:
        found["versions"]["nccl"] = nccl
    counted = None
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:
        found["unknown"].append(f"ECC errors and throttling: {error}")
    else:
        counted = ask("the number of GPUs", pynvml.nvmlDeviceGetCount)
        driver = ask("the driver's version", lambda: text(pynvml.nvmlSystemGetDriverVersion()))
        if driver:
            found["versions"]["driver"] = driver
        for number in range(counted or 0):
            look_at_gpu(found, ask, pynvml, number)
    if visible < gpus:
        nvml = "" if counted is None else f", {counted} to NVML"
        found["problems"].append(f"{visible} of {gpus} GPUs are visible to torch{nvml}{why}")


def look_at_gpu(
    found: dict[str, Any], ask: Callable[[str, Callable[[], Any]], Any], pynvml: Any, number: int
) -> None:
    """What NVML knows of one GPU."""
    gpu = f"GPU {number}"
    handle = ask(gpu, lambda: pynvml.nvmlDeviceGetHandleByIndex(number))
    if handle is None:
        return
    errors = ask(
        f"{gpu}: ECC errors",
        lambda: pynvml.nvmlDeviceGetTotalEccErrors(
            handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        ),
    )
    if errors:
        found["problems"].append(f"{gpu}: {errors} uncorrected ECC errors")
    reasons = ask(
        f"{gpu}: throttling", lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    )
    slow = [words for bit, words in SLOWDOWNS if (reasons or 0) & bit]
    if not slow and (reasons or 0) & HARDWARE_SLOWDOWN:
        slow = ["slowed down by its hardware"]
    found["problems"] += [f"{gpu}: {words}" for words in slow]


def text(answer: Any) -> str:
    """NVML's texts, which older bindings give as bytes."""
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def good(infos: dict[int, dict[str, Any]], nodes: int) -> str:
    """How many nodes, and with which GPUs, which are all of one model here."""
    model = f" ({infos[0]['model']})" if infos[0]["model"] else ""
    return ("1 node is" if nodes == 1 else f"{nodes} nodes are") + f" good{model}"


def notes_of(infos: dict[int, dict[str, Any]]) -> list[str]:
    """What is good to know and no problem: versions, and what could not be found out."""
    notes: dict[str, dict[str, None]] = {}
    for _, info in sorted(infos.items()):
        node = f"index {info['index']} on {info['where']}"
        versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
        for note in (versions, *(f"not known: {what}" for what in info["unknown"])):
            notes.setdefault(note, {})[node] = None
    everywhere = len({info["index"] for info in infos.values()})
    return [
        note if len(nodes) == everywhere else f"{note} ({', '.join(nodes)})"
        for note, nodes in notes.items()
    ]


def name_of(rank: int, per_node: int) -> str:
    """A rank that has not told where it is."""
    return f"index {rank // per_node} (rank {rank})"


def collect(store: Any, key: str, ranks: int, deadline_s: float) -> dict[int, Any]:
    """What ranks put under the key until all have, or the deadline."""
    until = time.monotonic() + deadline_s
    found: dict[int, Any] = {}
    while len(found) < ranks and time.monotonic() < until:
        for rank in range(ranks):
            if rank not in found and store.check([f"{key}/{rank}"]):
                found[rank] = json.loads(store.get(f"{key}/{rank}"))
        time.sleep(0.02)
    return found


def problems_of(infos: dict[int, dict[str, Any]], ranks: int, per_node: int) -> list[str]:
    """What is wrong with nodes by themselves, and in comparison."""
    problems = [
        f"{name_of(rank, per_node)} never came, within {DEADLINE_S:.0f} s"
        for rank in range(ranks)
        if rank not in infos
    ]
    told = set()
    for info in infos.values():
        for problem in info["problems"]:
            told.add(f"index {info['index']} on {info['where']}: {problem}")
    problems += sorted(told)
    models = [info["model"] for info in infos.values()]
    usual = statistics.mode(models) if models else ""
    odd = {
        f"index {info['index']} on {info['where']}: GPU model {info['model'] or 'unknown'}, "
        f"others have {usual}"
        for info in infos.values()
        if info["model"] != usual
    }
    return problems + sorted(odd)


def skewed(store: Any, infos: dict[int, dict[str, Any]]) -> tuple[list[str], float]:
    """Clocks that differ from rank 0's by more than the exchange itself took; the largest."""
    before = time.time()
    store.set("clock", "go")
    clocks = collect(store, "clock", len(infos), DEADLINE_S)
    after = time.time()
    problems, largest = [], 0.0
    for rank, clock in sorted(clocks.items()):
        skew = max(before - clock, clock - after, 0.0)
        largest = max(largest, skew)
        if skew > LARGEST_SKEW_S:
            info = infos[rank]
            problems.append(
                f"index {info['index']} on {info['where']}: its clock is {skew:.1f} s off rank 0's"
            )
    return sorted(set(problems)), largest


# --- speed ----------------------------------------------------------------------------------------


def device_of_this_rank(gpus: int) -> Any:
    """Where it computes."""
    import torch

    if not gpus:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def rate(run: Callable[[], Any], wait: Callable[[], None], seconds: float) -> float:
    """How often it runs a second: the median of batches that are long enough to be timed."""
    run()  # loads what it needs
    wait()
    rates: list[float] = []
    batch, until = 1, time.perf_counter() + seconds
    while not rates or time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(batch):
            run()
        wait()
        took = time.perf_counter() - began
        if took < BATCH_S and time.perf_counter() < until:
            batch *= 2
        else:
            rates.append(batch / took)
    return statistics.median(rates)


def speeds(gpus: int) -> dict[str, float]:
    """What this rank does a second, by the names of UNITS. Raises whatever goes wrong.

    It takes some 600 MiB of a GPU at most, and gives them back.
    """
    import torch

    device, sizes = device_of_this_rank(gpus), ON_GPU if gpus else ON_CPU
    wait = torch.cuda.synchronize if gpus else _nothing

    def products() -> float:
        kind = torch.float16 if gpus else torch.float32
        factor = torch.randn(sizes.side, sizes.side, device=device, dtype=kind)
        product = torch.empty_like(factor)
        a_second = rate(lambda: torch.mm(factor, factor, out=product), wait, sizes.seconds)
        return a_second * 2 * sizes.side**3

    def copies() -> float:
        source = torch.ones(sizes.copied, device=device, dtype=torch.uint8)
        copy = torch.empty_like(source)
        # It reads and writes each byte.
        return rate(lambda: copy.copy_(source), wait, sizes.seconds) * 2 * sizes.copied

    found = {"matrix product": products(), "memory copy": copies()}
    if gpus:
        torch.cuda.empty_cache()
    return found


def _nothing() -> None:
    """A CPU has done what it was asked for."""


def slow_ranks(
    found: dict[int, dict[str, float]], infos: dict[int, dict[str, Any]], per_node: int
) -> list[str]:
    """Ranks far below the median; of an even number, the higher one of the two in the middle."""
    said = []
    for what, unit in UNITS.items():
        median = statistics.median_high(one[what] for one in found.values())
        slow = [rank for rank, one in found.items() if one[what] < SLOW * median]
        for rank in sorted(slow, key=lambda one: (found[one][what], one))[:MOST_NAMED]:
            mine = found[rank][what]
            share = f"{100 * mine / median:.0f} % of the median, {amount(median, unit)}"
            name = f"{name_of(rank, per_node)} on {infos[rank]['where']}"
            said.append(f"{name}: {what} {amount(mine, unit)}, {share}")
        if len(slow) > MOST_NAMED:
            said.append(f"{what}: {len(slow) - MOST_NAMED} more ranks below {SLOW:.0%} of it")
    return said


def measured(found: dict[int, dict[str, float]]) -> str:
    """From the slowest rank to the fastest."""
    said = []
    for what, unit in UNITS.items():
        each = [one[what] for one in found.values()]
        lowest, highest = amount(min(each), unit), amount(max(each), unit)
        said.append(f"{what} {lowest}" + ("" if lowest == highest else f" to {highest}"))
    return "a rank does: " + ", ".join(said)


def amount(value: float, unit: str) -> str:
    """With three digits at least."""
    prefix, factor = ("T", 1e12) if value >= 1e12 else ("G", 1e9)
    value /= factor
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {prefix}{unit}"


# --- together -------------------------------------------------------------------------------------


def all_reduce(store: Any, rank: int, ranks: int, gpus: int) -> float:
    """Seconds of a short all-reduce. Raises whatever goes wrong."""
    import torch
    import torch.distributed as dist

    device = device_of_this_rank(gpus)
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        store=dist.PrefixStore("collective", store),
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=DEADLINE_S),
    )
    seconds = 0.0
    for _ in range(2):
        tensor = torch.full((ELEMENTS,), float(rank + 1), device=device)
        started = time.perf_counter()
        dist.all_reduce(tensor)
        total = tensor.sum().item()
        seconds = time.perf_counter() - started
        if total != ELEMENTS * ranks * (ranks + 1) / 2:
            raise ValueError("the all-reduce gives a wrong result")
    return seconds


def in_time(run: Callable[[], Any]) -> dict[str, Any]:
    """Its `result`, from a thread, and the `error`, empty if nothing went wrong."""
    answer: dict[str, Any] = {"error": f"no end within {DEADLINE_S:.0f} s"}

    def call() -> None:
        try:
            answer["result"] = run()
            answer["error"] = ""
        except Exception as error:
            answer["error"] = first_line(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return dict(answer)


def first_line(error: Exception) -> str:
    """CUDA's errors have many."""
    return str(error).splitlines()[0] if str(error) else repr(error)


class Preflight:
    """The checks of this rank, in their order: each gives what is wrong, the same on all ranks."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.per_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.gpus = int(os.environ.get("KIJ_PREFLIGHT_GPUS") or "0")
        self.stops_slow = bool(self.gpus) and os.environ.get(ENV_SHARED) != "1"
        """Whether a slow rank ends the job: not where others take a part of what it runs on."""
        self.infos: dict[int, dict[str, Any]] = {}
        """Of all ranks, at rank 0."""

    def run(self) -> list[str]:
        checks = (self.nodes, self.clocks, self.speed, self.collective)
        return next((problems for check in checks if (problems := check())), [])

    def nodes(self) -> list[str]:
        self.store.set(f"here/{self.rank}", json.dumps(about_this_rank(self.gpus)))
        return self._agreed("nodes", self._compared)

    def _compared(self) -> list[str]:
        self.infos = collect(self.store, "here", self.ranks, DEADLINE_S)
        for note in notes_of(self.infos):
            say(note)
        return problems_of(self.infos, self.ranks, self.per_node)

    def clocks(self) -> list[str]:
        if self.rank:
            self.store.get("clock")
        # Rank 0's own answer is there before it asks.
        self.store.set(f"clock/{self.rank}", json.dumps(time.time()))
        return self._agreed("clocks", self._skewed)

    def _skewed(self) -> list[str]:
        problems, self.skew = skewed(self.store, self.infos)
        return problems

    def speed(self) -> list[str]:
        mine = in_time(lambda: speeds(self.gpus))
        self.store.set(f"speed/{self.rank}", json.dumps(mine))
        return self._agreed("speeds", self._slow)

    def _slow(self) -> list[str]:
        found, problems = self._results("speed", "speed")
        if problems:
            return problems
        say(measured(found))
        slow = slow_ranks(found, self.infos, self.per_node)
        if self.stops_slow:
            return slow
        for one in slow:
            say(f"{one} (goes on: others may use the same {'GPU' if self.gpus else 'cores'})")
        return []

    def collective(self) -> list[str]:
        mine = in_time(lambda: all_reduce(self.store, self.rank, self.ranks, self.gpus))
        self.store.set(f"done/{self.rank}", json.dumps(mine))
        return self._agreed("verdict", self._reduced)

    def _reduced(self) -> list[str]:
        found, problems = self._results("done", "all-reduce")
        if not problems:
            took = f"all-reduce of 4 MiB {found[0] * 1e3:.1f} ms"
            nodes = self.ranks // self.per_node
            say(f"{good(self.infos, nodes)}, {took}, clocks within {self.skew:.2f} s")
        return problems

    def _results(self, key: str, what: str) -> tuple[dict[int, Any], list[str]]:
        """What all ranks have got, and who failed or never answered: that takes others with it."""
        answers = collect(self.store, key, self.ranks, DEADLINE_S)
        problems = []
        for rank in range(self.ranks):
            error = answers.get(rank, {"error": "no answer"})["error"]
            if error:
                where = self.infos[rank]["where"]
                problems.append(f"{name_of(rank, self.per_node)} on {where}: {what}: {error}")
        return {rank: one.get("result") for rank, one in answers.items()}, problems

    def _agreed(self, key: str, verdict: Callable[[], list[str]]) -> list[str]:
        """What rank 0 finds, told to all."""
        if self.rank == 0:
            self.store.set(key, json.dumps(verdict()))
        return list(json.loads(self.store.get(key)))


def say(text: str) -> None:
    """One line to the log."""
    print(f"kij-train: preflight: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """0 when all nodes are good; else 1, with what is wrong on standard output."""
    import torch.distributed as dist

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        ranks,
        is_master=rank == 0,
        timeout=timedelta(seconds=3 * DEADLINE_S),
        wait_for_workers=False,
    )
    problems = Preflight(store).run()
    if problems:
        print("preflight: " + "; ".join(problems), flush=True)
    store.set(f"left/{rank}", "1" if rank else "0")
    if rank == 0:
        collect(store, "left", ranks, 5.0)  # others still read from it
    return int(bool(problems))


if __name__ == "__main__":
    code = main()
    # Not sys.exit: a hanging collective's threads would keep the process.
    sys.stdout.flush()
    os._exit(code)
