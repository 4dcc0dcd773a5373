"""What kij-train adds to a launch, against the plainest manifests that work, applied with kubectl.

    python benchmarks/launch_overhead.py [--runs 7] [--nodes 4] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs. Both run the same script on the same
image: `kij-train launch`, attached, and `kubectl apply` of a Job, a headless Service and a
ConfigMap, then `kubectl wait`. In turn (A B B A …) after one warm-up each, and the median of the
ratios pair by pair is what counts: the machine's speed drifts, the ratio does not. Python keeps its
bytecode, as it does where pip installed the package, whatever PYTHONDONTWRITEBYTECODE says here.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept, plainjob  # noqa: E402 - the repository is no package
from tests.cluster.paths import StatePaths  # noqa: E402
from tests.cluster.processes import namespace  # noqa: E402
from tests.cluster.state import State  # noqa: E402

LIMIT = 1.05
CLUSTER = [sys.executable, "-m", "tests.cluster"]
SCRIPT = """\
import time
import torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
if dist.get_rank() == 0:
    print("initialised at", time.time(), flush=True)
dist.destroy_process_group()
"""


@dataclass
class Run:
    """Seconds from the command's start."""

    initialised_s: float
    """Until every rank has passed a barrier."""
    done_s: float
    """Until the command says that the job is complete."""


@dataclass
class Row:
    """One comparison."""

    what: str
    ours_s: float
    """Median."""
    other_s: float
    """Median."""
    ratio: float
    """Median of the ratios pair by pair."""

    @classmethod
    def of(cls, what: str, ours: list[float], others: list[float]) -> Row:
        """From runs in the order in which they were made."""
        ratios = [mine / its for mine, its in zip(ours, others, strict=True)]
        return cls(what, *map(statistics.median, (ours, others, ratios)))


def kij_train(folder: Path, ns: str, image: str, nodes: int) -> Run:
    """One launch by us; the bytecode that its first run keeps lies beside `folder`."""
    line = [sys.executable, "-m", "kij_train", "launch", "-n", ns, "--image", image]
    started = time.time()
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    log = output_of([*line, "--nodes", str(nodes), "train.py"], folder, environment)
    return Run(initialised(log) - started, time.time() - started)


def plain(folder: Path, ns: str, image: str, nodes: int) -> Run:
    """One launch by kubectl."""
    name = f"plain-{uuid.uuid4().hex[:5]}"
    code = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"train.py": SCRIPT},
    }
    command = plainjob.torchrun(name, nodes, "/code/train.py")
    volumes = {"/code": {"configMap": {"name": name}}}
    objects = [code, *plainjob.objects(name, image, nodes, command, volumes)]
    manifest = folder.parent / "plain.yaml"
    manifest.write_text(yaml.safe_dump_all(objects))
    started = time.time()
    output_of(["kubectl", "apply", "-n", ns, "-f", str(manifest)], folder)
    until = ["--for=condition=complete", "--timeout=300s"]
    output_of(["kubectl", "wait", "-n", ns, *until, f"job/{name}"], folder)
    done_s = time.time() - started
    index0 = f"batch.kubernetes.io/job-name={name},batch.kubernetes.io/job-completion-index=0"
    log = output_of(["kubectl", "logs", "-n", ns, "-l", index0, "--tail=-1"], folder)
    return Run(initialised(log) - started, done_s)


def output_of(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """stdout of a command that must succeed."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def initialised(log: str) -> float:
    """The time that rank 0 printed; pods and this process have one clock."""
    found = re.search(r"initialised at (\S+)", log)
    assert found is not None, log
    return float(found[1])


def measure(runs: int, image: str, nodes: int) -> tuple[list[Run], list[Run]]:
    """Both, in turn, in a namespace of their own."""
    ns = f"overhead-{uuid.uuid4().hex[:5]}"
    output_of(["kubectl", "create", "namespace", ns], ROOT)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "code"
            folder.mkdir()
            (folder / "train.py").write_text(SCRIPT)
            both = (kij_train, plain)
            pairs = []
            for turn in range(runs + 1):
                order = both if turn % 2 == 0 else both[::-1]
                done = {launch: launch(folder, ns, image, nodes) for launch in order}
                pair = [done[launch] for launch in both]
                print(f"{'warm-up' if turn == 0 else turn}: {pair}", flush=True)
                pairs.append(pair)
        return [pair[0] for pair in pairs[1:]], [pair[1] for pair in pairs[1:]]
    finally:
        output_of(["kubectl", "delete", "namespace", ns, "--wait=false"], ROOT)


def plot(ours: list[Run], others: list[Run], file: Path) -> None:
    """Every run as a dot, medians as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for at, runs in enumerate((ours, others)):
        for shift, field, colour in (
            (-0.15, "initialised_s", "tab:blue"),
            (0.15, "done_s", "tab:green"),
        ):
            values = [getattr(run, field) for run in runs]
            label = {"initialised_s": "all ranks initialised", "done_s": "complete"}[field]
            axes.plot([at + shift] * len(values), values, "o", color=colour, alpha=0.5)
            axes.hlines(
                statistics.median(values),
                at + shift - 0.1,
                at + shift + 0.1,
                color=colour,
                label="_" if at else label,
            )
    axes.set_xticks([0, 1], ["kij-train launch", "kubectl apply"])
    axes.set_ylabel("seconds from the command")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(file, dpi=120)


def table(rows: list[Row], report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['nodes']} nodes, "
        f"{len(report['runs']['kubectl'])} runs each, in turn. {report['machine']}, "
        f"load average before {report['load_average_before'][0]}.",
        "",
        "| seconds from the command, medians | kij-train | kubectl | ratio, pair by pair | limit |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.what} | {row.ours_s:.2f} | {row.other_s:.2f} | {row.ratio:.3f} | {LIMIT} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def on_the_cluster() -> State:
    """The running cluster, from inside its network; this process starts again there if need be."""
    state = State.of_running(StatePaths.of_this_clone())
    if state is not None and namespace(os.getpid(), "net") == state.network_namespace:
        return state
    if state is None:
        subprocess.run([*CLUSTER, "up", "--detach"], cwd=ROOT, check=True)
    again = [sys.executable, str(Path(sys.argv[0]).resolve()), *sys.argv[1:]]
    os.chdir(ROOT)
    os.execv(CLUSTER[0], [*CLUSTER, "exec", "--", *again])
    raise AssertionError("execv does not return")


def main() -> int:
    """Print a table, keep a report and a plot; 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    command = ["python", "benchmarks/launch_overhead.py", *sys.argv[1:]]
    state = on_the_cluster()
    load = os.getloadavg()
    ours, others = measure(arguments.runs, state.images["torch"], arguments.nodes)
    rows = [
        Row.of(what, [getattr(run, field) for run in ours], [getattr(run, field) for run in others])
        for field, what in (("initialised_s", "all ranks initialised"), ("done_s", "complete"))
    ]
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(command),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load_average_before": [round(one, 2) for one in load],
        "load_average_after": [round(one, 2) for one in os.getloadavg()],
        "nodes": arguments.nodes,
        "limit": LIMIT,
        "medians": [asdict(row) for row in rows],
        "runs": {
            "kij-train": [asdict(run) for run in ours],
            "kubectl": [asdict(run) for run in others],
        },
    }
    text = table(rows, report)
    kept.keep(report, text, arguments.out, "launch_overhead", partial(plot, ours, others))
    return int(any(row.ratio > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
