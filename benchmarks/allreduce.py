"""What kij-train and its payload cost the bandwidth of an all_reduce: ratios from one run.

    python benchmarks/allreduce.py [--rounds 15] [--ranks 2] [--cluster] [--out FILE]

Comparisons over gloo, 1 MiB to 64 MiB:

- the payload's measuring loop against a minimal loop written by hand: both in the same processes of
  this machine, in turn at each size, must be at least 0.95;
- the payload's loop under `kij-train launch --local` against the same under bare torchrun, with the
  same network interface and threads: busbw must be at least 0.98;
- with --cluster, the same in pods on two nodes of the cluster of tests/cluster, which it starts if
  none runs: `kij-train launch` against a Job and a Service written by hand that run torchrun,
  applied with kubectl, at least 0.98 as well.

In the last two, both jobs run at once and measure in turn, a second each, while the other one
sleeps (turns.py): between two launches, this kind of machine changes by more than what is asked.

The machine's speed drifts and the ratio of neighbours does not, so the median of the ratios pair by
pair is what counts, over all sizes that of their geometric mean. Many short rounds say more than
few long ones. Needs torch; the plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kij_train.pod import collectives
from kij_train.pod.collectives import arguments, measuring, table

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)

from benchmarks import plainjob, turns  # noqa: E402 - the repository is no package

LOOPED = ["-n", "5", "-w", "1"]
LOOPS_A_ROUND = 3
TURNS_A_ROUND = 4
START_S = 120.0
ROUND_S = 30.0
LIMITS = {
    "payload / minimal loop": 0.95,
    "kij-train / torchrun": 0.98,
    "kij-train in pods / torchrun in pods": 0.98,
}
PODS = 2


def environment() -> dict[str, str]:
    """The same network and threads for both sides."""
    interface = "lo0" if sys.platform == "darwin" else "lo"
    return {
        **os.environ,
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "OMP_NUM_THREADS": "1",
    }


def launches(rounds: int, ranks: int) -> list[dict[int, list[float]]]:
    """On this machine, under kij-train and under torchrun."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        code = with_code(folder)
        kij = [sys.executable, "-m", "kij_train", "launch", "--local"]
        kij += ["--nproc-per-node", str(ranks), "turns.py"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
        torchrun += ["--master-port=29577", "turns.py"]
        sides = [
            subprocess.Popen(
                [*command, str(folder), str(side), str(rounds)],
                cwd=code,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=(folder / f"log-{side}").open("w"),
            )
            for side, command in enumerate((kij, torchrun))
        ]
        try:
            return in_turn(folder, rounds, lambda: not any(side.poll() for side in sides))
        finally:
            for side in sides:
                side.terminate()
            for side in sides:
                side.wait()


def launches_in_pods(rounds: int, image: str, shared: Path) -> list[dict[int, list[float]]]:
    """In pods, under kij-train and under torchrun alone, in a namespace of their own."""
    ns = f"allreduce-{uuid.uuid4().hex[:5]}"
    folder = shared / ns
    folder.mkdir()
    folder.chmod(0o777)
    kubectl("create", "namespace", ns)
    try:
        code = with_code(folder)
        files = [f"--from-file={file}" for file in code.iterdir()]
        kubectl("create", "configmap", "payload", "-n", ns, *files)
        line = [sys.executable, "-m", "kij_train", "launch", "--detach", "--nodes", str(PODS)]
        line += ["--spread", "--namespace", ns, "--image", image, "--name", "ours"]
        line += ["--env", "OMP_NUM_THREADS=1", "--mount", f"hostpath:{folder}:/shared"]
        line += ["turns.py", "/shared", "0", str(rounds)]
        subprocess.run(line, check=True, capture_output=True, timeout=600, cwd=code)
        manifest = folder / "plain.yaml"
        manifest.write_text(yaml.safe_dump_all(plain_objects("plain", image, folder, rounds)))
        kubectl("apply", "-n", ns, "-f", str(manifest))

        def well() -> bool:
            failed = "jsonpath={.items[*].status.failed}"
            return not kubectl("get", "jobs", "-n", ns, "-o", failed).strip()

        return in_turn(folder, rounds, well)
    finally:
        kubectl("delete", "namespace", ns, "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)


def with_code(folder: Path) -> Path:
    """A folder with what the ranks run."""
    code = folder / "code"
    code.mkdir()
    shutil.copy(turns.__file__, code)
    shutil.copytree(Path(collectives.__file__).parent, code / "collectives")
    return code


def in_turn(folder: Path, rounds: int, well: Callable[[], bool]) -> list[dict[int, list[float]]]:
    """Let two jobs begin when both are there; busbw of each by size, a value a round."""

    def wait_for(what: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            logs = "".join(file.read_text() for file in folder.glob("log-*"))
            assert well(), f"a job has failed\n{logs}"
            assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s\n{logs}"
            time.sleep(0.5)

    wait_for(lambda: all((folder / f"ready-{side}").exists() for side in (0, 1)), START_S)
    turns.pass_on(folder, 0)
    wait_for((folder / f"turn-{2 * rounds}").exists, rounds * ROUND_S)
    return [figures(folder / f"side-{side}") for side in (0, 1)]


def figures(file: Path) -> dict[int, list[float]]:
    """What a side has left."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {int(size): [line[size] for line in lines] for size in lines[0]}


def plain_objects(name: str, image: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """The same without kij-train, one pod a machine."""
    script = ("/code/turns.py", "/shared", "1", str(rounds))
    return plainjob.objects(
        name,
        image,
        PODS,
        plainjob.torchrun(name, PODS, *script),
        {
            "/code": {"configMap": {"name": "payload"}},
            "/shared": {"hostPath": {"path": str(folder)}},
        },
        env={"OMP_NUM_THREADS": "1"},
        apart=True,
    )


def kubectl(*arguments: str) -> str:
    """stdout of kubectl, which must succeed."""
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


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

    args = arguments.parse_args([*turns.SIZES, *LOOPED, "--device", "cpu"])
    run = measuring.Run(args)
    sides: list[dict[int, list[float]]] = [{}, {}]
    sizes = arguments.message_sizes(args.minbytes, args.maxbytes, 0, args.stepfactor)

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
        seconds: float = run.measure(count, count)[run.rank]  # one rank, as above
        return seconds

    for size in sizes:
        for round_ in range(rounds * LOOPS_A_ROUND):
            pair = [(0, ours), (1, minimal)]
            for side, function in pair if round_ % 2 else reversed(pair):
                factor = table.COLLECTIVES["all_reduce"].factor(run.ranks)
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
                "interval_95": list(interval(ratios[size])),
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
            f"  {one['ratio']:.3f}, {one['interval_95'][0]:.3f} to {one['interval_95'][1]:.3f}"
        )
    return result


def interval(values: list[float]) -> tuple[float, float]:
    """Bootstrap interval of the median: how far chance alone may move it."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[49], medians[1949]


def plot(results: list[dict[str, Any]], base: Path) -> list[Path]:
    """busbw by size of each side, log-log, as PNG and SVG; the files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(results), 4.5), layout="constrained")
    (row,) = figure.subplots(1, len(results), squeeze=False)
    for axes, result in zip(row, results, strict=True):
        sizes = [int(size) >> 20 for size in result["by_size"]]
        for key, label in zip(
            ("ours_gbps", "other_gbps"), result["name"].split(" / "), strict=True
        ):
            values = [one[key] for one in result["by_size"].values()]
            axes.plot(sizes, values, marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel="message (MiB)", ylabel="busbw (GB/s)")
        axes.set_title(f"{result['name']}: {result['ratio']:.3f}", fontsize=10)
        axes.legend()
    files = [base.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=120)
    return files


def main() -> int:
    """Print the ratios, keep the report; exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--cluster", action="store_true", help="also in pods of the test cluster")
    parser.add_argument("--note", help="what a reader of the report should know")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/allreduce.json")
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_rank:
        as_rank(args.rounds)
        return 0
    image = image_and_shared_folder() if args.cluster else None
    import torch

    load = os.getloadavg()
    print(f"load average at the start: {', '.join(f'{one:.2f}' for one in load)}", flush=True)
    results = [
        compare("payload / minimal loop", loops(args.rounds, args.ranks)),
        compare("kij-train / torchrun", launches(args.rounds * TURNS_A_ROUND, args.ranks)),
    ]
    if image is not None:
        sides = launches_in_pods(args.rounds * TURNS_A_ROUND, *image)
        results.append(compare("kij-train in pods / torchrun in pods", sides))
    flags = f"--rounds {args.rounds} --ranks {args.ranks}" + " --cluster" * args.cluster
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": f"python benchmarks/allreduce.py {flags}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load_average_at_start": list(load),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backend": "gloo",
        **({"note": args.note} if args.note else {}),
        "results": results,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    files = plot(results, args.out)
    print(f"wrote {args.out}, {', '.join(file.name for file in files)}")
    return int(any(result["ratio"] < result["limit"] for result in results))


def image_and_shared_folder() -> tuple[str, Path]:
    """Of the test cluster; this process starts again in its network."""
    from benchmarks.launch_overhead import on_the_cluster

    state = on_the_cluster()
    return state.images["torch"], Path(state.shared_dir)


if __name__ == "__main__":
    sys.exit(main())
