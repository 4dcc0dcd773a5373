"""Look at every node before training: GPUs, /dev/shm, clocks, and one short all-reduce.

Every rank runs it, as a process of its own that is gone before the training begins; with
`launch --preflight` the bootstrap starts it. What is wrong is printed to standard output by every
rank, in the same words, with the node that it is about; the exit code is 1 then. One file; torch is
all it needs, nvidia-ml-py tells more about GPUs where the image has it.

Ranks meet in a store at rank 0, so that one that never comes is known by name, and the collective
runs in a thread, since a hanging NCCL call cannot be interrupted.
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
from typing import Any

DEADLINE_S = float(os.environ.get("KIJ_PREFLIGHT_DEADLINE_S", "60"))
"""For all ranks to come, and again for the all-reduce."""
ENV_SHM_BYTES = "KIJ_PREFLIGHT_SHM_BYTES"
"""What --shm asked for."""
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
    if visible:
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
        found["problems"].append(f"{visible} of {gpus} GPUs are visible to torch{nvml}")


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


def all_reduce(store: Any, rank: int, ranks: int, gpus: int) -> float:
    """Seconds of a short all-reduce. Raises whatever goes wrong."""
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if gpus:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
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


def checked(store: Any, rank: int, ranks: int, gpus: int) -> dict[str, Any]:
    """The all-reduce in a thread: its seconds, or what went wrong."""
    answer: dict[str, Any] = {"error": f"no end of the all-reduce within {DEADLINE_S:.0f} s"}

    def run() -> None:
        try:
            answer["seconds"] = all_reduce(store, rank, ranks, gpus)
            answer["error"] = ""
        except Exception as error:
            answer["error"] = str(error).splitlines()[0] if str(error) else repr(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return dict(answer)


def main() -> int:
    """0 when all nodes are good; else 1, with what is wrong on standard output."""
    import torch.distributed as dist

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = int(os.environ.get("KIJ_PREFLIGHT_GPUS") or "0")
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        ranks,
        is_master=rank == 0,
        timeout=timedelta(seconds=3 * DEADLINE_S),
        wait_for_workers=False,
    )
    store.set(f"here/{rank}", json.dumps(about_this_rank(gpus)))
    problems: list[str] = []
    skew = 0.0
    infos: dict[int, dict[str, Any]] = {}
    if rank == 0:
        infos = collect(store, "here", ranks, DEADLINE_S)
        for note in notes_of(infos):
            print(f"kij-train: preflight: {note}", file=sys.stderr, flush=True)
        problems = problems_of(infos, ranks, per_node)
        store.set("nodes", json.dumps(problems))
    problems = json.loads(store.get("nodes"))
    if not problems:
        if rank == 0:
            # Rank 0's own answer is there before it asks.
            store.set("clock/0", json.dumps(time.time()))
            problems, skew = skewed(store, infos)
        else:
            store.get("clock")
            store.set(f"clock/{rank}", json.dumps(time.time()))
        store.set(f"done/{rank}", json.dumps(checked(store, rank, ranks, gpus)))
        if rank == 0:
            done = collect(store, "done", ranks, DEADLINE_S)
            # A rank that fails takes others with it: who never answered, or failed first, is named.
            for one in range(ranks):
                error = done.get(one, {"error": "no answer"})["error"]
                if error:
                    where = infos[one]["where"]
                    problems.append(f"{name_of(one, per_node)} on {where}: all-reduce: {error}")
            store.set("verdict", json.dumps(problems))
            if not problems:
                took = f"all-reduce of 4 MiB {done[0]['seconds'] * 1e3:.1f} ms"
                line = f"{good(infos, ranks // per_node)}, {took}, clocks within {skew:.2f} s"
                print(f"kij-train: preflight: {line}", file=sys.stderr, flush=True)
        problems = json.loads(store.get("verdict"))
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
