"""What kij-train and its payload cost the bandwidth of an all_reduce: ratios from one run.

    python benchmarks/allreduce.py [--rounds 7] [--ranks 2] [--out FILE]

Two comparisons over gloo, 1 MiB to 64 MiB, on this machine:

- the payload under `kij-train launch --local` against the same payload under bare torchrun, with
  the same network interface and threads: launches in turn, busbw must be at least 0.98;
- the payload's measuring loop against a minimal loop written by hand: both in the same processes,
  in turn at each size, must be at least 0.95.

The machine's speed drifts and the ratio of neighbours does not, so the median of the ratios pair by
pair is what counts. Needs torch; the plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kij_train.payloads import allreduce

ROOT = Path(__file__).parent.parent
SIZES = ["-b", "1M", "-e", "64M", "-f", "4"]
LAUNCHED = ["-n", "10", "-w", "3"]
LOOPED = ["-n", "5", "-w", "1"]
LOOPS_A_ROUND = 6
LIMITS = {"kij-train / torchrun": 0.98, "payload / minimal loop": 0.95}
Figures = dict[int, float]
"""By size in bytes: busbw in GB/s."""


def environment() -> dict[str, str]:
    """The same network and threads for both sides."""
    interface = "lo0" if sys.platform == "darwin" else "lo"
    return {
        **os.environ,
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "OMP_NUM_THREADS": "1",
    }


def measured(command: list[str], report: Path) -> Figures:
    """busbw of a launch of the payload."""
    subprocess.run(command, check=True, capture_output=True, env=environment())
    rows = json.loads(report.read_text())["results"]
    return {row["size"]: allreduce.figures_of(row)["bus_bw"] for row in rows}


def launches(rounds: int, ranks: int) -> list[dict[int, list[float]]]:
    """busbw under kij-train and under torchrun, by size, a value a round."""
    payload = str(Path(allreduce.__file__))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        arguments = [payload, *SIZES, *LAUNCHED, "--device", "cpu", "-J", str(report)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        torchrun += ["--master-port=29577", *arguments]
        kij = [sys.executable, "-m", "kij_train", "launch", "--local"]
        kij += ["--nproc-per-node", str(ranks), "--code-dir", str(Path(payload).parent), *arguments]
        sides: list[dict[int, list[float]]] = [{}, {}]
        for round_ in range(rounds):
            # Which one goes first changes, so that neither always follows the other.
            order = [(0, kij), (1, torchrun)]
            for side, command in order if round_ % 2 else reversed(order):
                for size, busbw in measured(command, report).items():
                    sides[side].setdefault(size, []).append(busbw)
            print(f"  launches: round {round_ + 1} of {rounds}", flush=True)
    return sides


def loops(rounds: int, ranks: int) -> list[dict[int, list[float]]]:
    """busbw by the payload and by a minimal loop, by size, a value a round."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    command += ["--master-port=29577", __file__, "--as-rank", "--rounds", str(rounds)]
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment()
    ).stdout
    sides: list[dict[int, list[float]]] = [
        {int(size): values for size, values in side.items()} for side in json.loads(answer)
    ]
    return sides


def as_rank(rounds: int) -> None:
    """One rank of the second comparison; rank 0 prints the figures."""
    import torch
    import torch.distributed as dist

    args = allreduce.parse_args([*SIZES, *LOOPED, "--device", "cpu"])
    run = allreduce.Run(args)
    sides: list[dict[int, list[float]]] = [{}, {}]
    sizes = allreduce.message_sizes(args.minbytes, args.maxbytes, 0, args.stepfactor)

    def minimal(count: int) -> float:
        tensor = torch.ones(count)
        for _ in range(args.warmup_iters):
            dist.all_reduce(tensor)
        dist.barrier()
        started = time.perf_counter()
        for _ in range(args.iters):
            dist.all_reduce(tensor)
        seconds: float = (time.perf_counter() - started) / args.iters
        return seconds

    def ours(count: int) -> float:
        return statistics.mean(run.measure(count, count))

    for size in sizes:
        for round_ in range(rounds * LOOPS_A_ROUND):
            pair = [(0, ours), (1, minimal)]
            for side, function in pair if round_ % 2 else reversed(pair):
                factor = allreduce.bus_factor("all_reduce", run.ranks)
                busbw = size / function(size // 4) / 1e9 * factor
                sides[side].setdefault(size, []).append(busbw)
    if run.rank == 0:
        print(json.dumps(sides))
    dist.barrier()
    dist.destroy_process_group()


def compare(name: str, sides: list[dict[int, list[float]]]) -> dict[str, Any]:
    """Ratios by size and over all; over all is the geometric mean, pair by pair."""
    ours, other = sides
    ratios = {size: [a / b for a, b in zip(ours[size], other[size], strict=True)] for size in ours}
    rounds = zip(*ratios.values(), strict=True)
    means = [math.exp(statistics.mean(map(math.log, pair))) for pair in rounds]
    low, high = interval(means)
    result: dict[str, Any] = {
        "name": name,
        "limit": LIMITS[name],
        "ratio": statistics.median(means),
        "interval_95": [low, high],
        "rounds": len(means),
        "by_size": {
            str(size): {
                "ours_gbps": statistics.median(ours[size]),
                "other_gbps": statistics.median(other[size]),
                "ratio": statistics.median(ratios[size]),
            }
            for size in ours
        },
    }
    mark = "ok" if result["ratio"] >= result["limit"] else "MISSED"
    print(
        f"{name}: {result['ratio']:.3f}, 95 % of resamplings within {low:.3f} to {high:.3f} "
        f"(at least {result['limit']})  {mark}"
    )
    for size, one in result["by_size"].items():
        print(
            f"  {int(size) >> 20:>4} MiB  {one['ours_gbps']:6.3f}  {one['other_gbps']:6.3f} GB/s"
            f"  {one['ratio']:.3f}"
        )
    return result


def interval(values: list[float]) -> tuple[float, float]:
    """Bootstrap interval of the median: how far chance alone may move it."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[49], medians[1949]


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """busbw by size of each side, log-log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results)), results, strict=True):
        sizes = [int(size) >> 20 for size in result["by_size"]]
        for key, label in zip(
            ("ours_gbps", "other_gbps"), result["name"].split(" / "), strict=True
        ):
            values = [one[key] for one in result["by_size"].values()]
            axes.plot(sizes, values, marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel="message (MiB)", ylabel="busbw (GB/s)")
        axes.set_title(f"{result['name']}: {result['ratio']:.3f}")
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> int:
    """Print the ratios, keep the report; exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/allreduce.json")
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_rank:
        as_rank(args.rounds)
        return 0
    import torch

    results = [
        compare("payload / minimal loop", loops(args.rounds, args.ranks)),
        compare("kij-train / torchrun", launches(args.rounds, args.ranks)),
    ]
    report = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/allreduce.py --rounds {args.rounds} --ranks {args.ranks}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backend": "gloo",
        "results": results,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    plot(results, args.out.with_suffix(".png"))
    print(f"wrote {args.out} and {args.out.with_suffix('.png').name}")
    return int(any(result["ratio"] < result["limit"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
