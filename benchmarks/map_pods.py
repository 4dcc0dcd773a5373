"""What `kij-train map` adds to an Indexed Job that one writes by hand, on real pods.

    python benchmarks/map_pods.py [--runs 5] [--indexes 40] [--items 5] [--at-once 8] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs. Both run the same script on the same
image, as many pods at once, a process an item: `kij-train map`, attached, which has all results
when it ends; and the Indexed Job of Kubernetes' own tutorials, whose pods take their items by
$JOB_COMPLETION_INDEX in a loop of the shell, with `kubectl apply` and `kubectl wait`. In turn
(A B B A …) after one warm-up each, and the median of the ratios pair by pair is what counts: the
machine's speed drifts, the ratio does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - the repository is no package
from benchmarks.launch_overhead import on_the_cluster, output_of  # noqa: E402 - no package

LIMIT = 1.05
SCRIPT = """\
import json, os, sys
number = int(sys.argv[1])
print(number * number)
if "KIJ_RESULT_FILE" in os.environ:
    with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
        file.write(json.dumps({"square": number * number}) + "\\n")
"""


class Size(NamedTuple):
    """Of both."""

    indexes: int
    items: int
    """An index."""
    at_once: int


def kij_train(folder: Path, ns: str, image: str, size: Size) -> None:
    """One array by us, with its results."""
    name = f"map-{uuid.uuid4().hex[:5]}"
    line = [sys.executable, "-m", "kij_train", "map", "-n", ns, "--image", image, "--name", name]
    line += ["--range", f"0:{size.indexes * size.items}", "--chunk", str(size.items)]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    line += ["--parallelism", str(size.at_once), "square.py", "{item}"]
    output_of(line, folder, environment)
    parts = (folder / f".kij-train/arrays/{name}/attempt-0").glob("part-*.jsonl")
    records = [json.loads(row) for part in parts for row in part.read_text().splitlines()]
    assert {int(one["key"]): one["square"] for one in records} == {
        number: number * number for number in range(size.indexes * size.items)
    }


def by_hand(name: str, image: str, size: Size) -> list[dict[str, Any]]:
    """The objects that one writes by hand."""
    first = f"$((JOB_COMPLETION_INDEX * {size.items}))"
    loop = f"i=0; while [ $i -lt {size.items} ]; do python /code/square.py $(({first} + i))"
    container = {
        "name": "square",
        "image": image,
        "command": ["sh", "-ec", f"{loop}; i=$((i + 1)); done"],
        "volumeMounts": [{"name": "code", "mountPath": "/code"}],
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "code", "configMap": {"name": name}}],
    }
    spec = {
        "completions": size.indexes,
        "parallelism": size.at_once,
        "completionMode": "Indexed",
        "template": {"spec": pod},
    }
    code = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"square.py": SCRIPT}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "spec": spec}
    return [{**body, "metadata": {"name": name}} for body in (code, job)]


def kubectl(folder: Path, ns: str, image: str, size: Size) -> None:
    """The Job that one writes by hand."""
    name = f"plain-{uuid.uuid4().hex[:5]}"
    manifest = folder.parent / "plain.yaml"
    manifest.write_text(yaml.safe_dump_all(by_hand(name, image, size)))
    output_of(["kubectl", "apply", "-n", ns, "-f", str(manifest)], folder)
    until = ["--for=condition=complete", "--timeout=390s"]
    output_of(["kubectl", "wait", "-n", ns, *until, f"job/{name}"], folder)


def measure(runs: int, image: str, size: Size) -> tuple[list[float], list[float]]:
    """Seconds of both, in turn, in a namespace of their own."""
    ns = f"map-{uuid.uuid4().hex[:5]}"
    output_of(["kubectl", "create", "namespace", ns], ROOT)
    both: tuple[Callable[[Path, str, str, Size], None], ...] = (kij_train, kubectl)
    pairs = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "code"
            folder.mkdir()
            (folder / "square.py").write_text(SCRIPT)
            for turn in range(runs + 1):
                seconds = {}
                for way in both if turn % 2 == 0 else both[::-1]:
                    started = time.perf_counter()
                    way(folder, ns, image, size)
                    seconds[way] = time.perf_counter() - started
                pairs.append([seconds[way] for way in both])
                print(f"{'warm-up' if turn == 0 else turn}: {pairs[-1]}", flush=True)
    finally:
        output_of(["kubectl", "delete", "namespace", ns, "--wait=false"], ROOT)
    return [ours for ours, _ in pairs[1:]], [other for _, other in pairs[1:]]


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    ours, other = (statistics.median(report["seconds"][way]) for way in ("kij-train", "kubectl"))
    return (
        f"`{report['command']}`, {report['date']}, {report['runs']} runs each, in "
        f"turn. {report['machine']}, load average before {report['load_average_before'][0]}.\n\n"
        "| Indexed Job | kij-train map, s | by hand, kubectl, s | ratio, pair by pair | at most |\n"
        "|---|---:|---:|---:|---:|\n"
        f"| {report['indexes']} indexes of {report['items']} items, {report['at_once']} at once | "
        f"{ours:.2f} | {other:.2f} | {report['ratio']:.3f} | {LIMIT} |\n"
    )


def plot(seconds: dict[str, list[float]], file: Path) -> None:
    """Every run as a dot, medians as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.5, 3.5), layout="constrained")
    for at, runs in enumerate(seconds.values()):
        axes.plot([at] * len(runs), runs, "o", color="tab:blue", alpha=0.5)
        axes.hlines(statistics.median(runs), at - 0.15, at + 0.15, color="tab:blue")
    axes.set_xticks(range(len(seconds)), ["kij-train map", "by hand, kubectl"])
    axes.set_xlim(-0.6, 1.6)
    axes.set_ylabel("seconds from the command, until all is done")
    axes.set_ylim(bottom=0)
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print a table, keep a report and a plot; 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--indexes", type=int, default=40)
    parser.add_argument("--items", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    circumstances = kept.circumstances()
    state = on_the_cluster()
    size = Size(arguments.indexes, arguments.items, arguments.at_once)
    ours, others = measure(arguments.runs, state.images["python"], size)
    report = {
        **circumstances,
        "load_average_after": [round(one, 2) for one in os.getloadavg()],
        "runs": arguments.runs,
        **size._asdict(),
        "limit": LIMIT,
        "ratio": statistics.median(a / b for a, b in zip(ours, others, strict=True)),
        "seconds": {"kij-train": ours, "kubectl": others},
    }
    draw = partial(plot, {"kij-train": ours, "kubectl": others})
    kept.keep(report, table(report), arguments.out, "map_pods", draw)
    return int(report["ratio"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
