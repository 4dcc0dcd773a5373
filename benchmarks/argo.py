"""What Argo Workflows adds to a launch, until all ranks are initialised.

    python benchmarks/argo.py [--runs 3] [--nodes 2] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs, with the real controller
(`python -m tests.cluster build --part argo` builds it). The same script on the same image, in turn,
in one namespace: `kij-train launch`, attached; a workflow whose step is a container that launches
the job; and one whose Job Argo makes itself (`form: resource`). Time is from the command, or from
the request that makes the Workflow, until rank 0 has passed a barrier of all ranks: pods and this
process have one clock. What counts is how many seconds more a workflow takes, run by run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - the repository is no package
from benchmarks.launch_overhead import SCRIPT, initialised, on_the_cluster  # noqa: E402
from tests import kube  # noqa: E402
from tests.argo import Argo, controller, outputs_of, phase_of  # noqa: E402

LIMIT_S = 5.0
LAUNCH, CONTAINER, RESOURCE = "kij-train launch", "a step, container", "a step, resource"
WAYS = (LAUNCH, CONTAINER, RESOURCE)


def template(argo: Argo, folder: Path, image: str, nodes: int, form: str) -> str:
    """The name of a WorkflowTemplate with one step of this form."""
    file = folder / f"{form}.yaml"
    file.write_text(
        f"name: {form}\nstep_image: {argo.step_image}\ndefaults: {{image: '{image}'}}\n"
        f"steps: {{train: {{run: launch --nodes {nodes} train.py, form: {form}}}}}\n"
    )
    return str(argo.apply(file)["metadata"]["name"])


def launch(argo: Argo, folder: Path, image: str, nodes: int) -> float:
    """Seconds from the command."""
    line = ("launch", "--image", image, "--nodes", str(nodes), "train.py")
    started = time.time()
    done = argo.ns.kij_train(*line, cwd=folder)
    assert done.returncode == 0, done.stderr
    return initialised(done.stdout) - started


def workflow(argo: Argo, name: str) -> float:
    """Seconds from the request that makes a Workflow of a template."""
    started = time.time()
    ended = argo.ended(argo.submit(name))
    assert phase_of(ended) == "Succeeded", argo.said(ended["metadata"]["name"])
    (job,) = {
        found["job"]
        for node in ended["status"]["nodes"].values()
        if "job" in (found := outputs_of(node))
    }
    selector = f"batch.kubernetes.io/job-name={job},batch.kubernetes.io/job-completion-index=0"
    (pod,) = argo.ns.core.list_namespaced_pod(argo.ns.name, label_selector=selector).items
    log = argo.ns.core.read_namespaced_pod_log(pod.metadata.name, argo.ns.name)
    return initialised(str(log)) - started


def measure(argo: Argo, folder: Path, image: str, nodes: int, runs: int) -> dict[str, list[float]]:
    """Seconds of all ways, in turn, after one warm-up each."""
    (folder / "train.py").write_text(SCRIPT)
    steps = {
        CONTAINER: template(argo, folder, image, nodes, "container"),
        RESOURCE: template(argo, folder, image, nodes, "resource"),
    }
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(runs + 1):
        for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
            if way == LAUNCH:
                seconds = launch(argo, folder, image, nodes)
            else:
                seconds = workflow(argo, steps[way])
            found[way].append(seconds)
            print(f"{turn or 'warm-up'} {way}: {seconds:.2f} s", flush=True)
    return {way: each[1:] for way, each in found.items()}


def more_s(found: dict[str, list[float]], way: str) -> float:
    """How many seconds more than a launch, run by run, the median."""
    return statistics.median(a - b for a, b in zip(found[way], found[LAUNCH], strict=True))


def table(report: dict[str, Any]) -> str:
    """The medians as Markdown, with what was run where."""
    found = report["seconds"]
    lines = [
        f"`{report['command']}`, {report['date']}, {report['nodes']} nodes, {report['runs']} runs "
        f"each, in turn. {report['machine']}, load average before "
        f"{report['load_average_before'][0]}.",
        "",
        "| medians | s, until all ranks are initialised | s more than a launch | at most |",
        "|---|---:|---:|---:|",
        f"| {LAUNCH} | {statistics.median(found[LAUNCH]):.2f} | | |",
    ]
    lines += [
        f"| {way} | {statistics.median(found[way]):.2f} | {report['more_s'][way]:.2f} | {LIMIT_S} |"
        for way in (CONTAINER, RESOURCE)
    ]
    return "\n".join(lines) + "\n"


def plot(found: dict[str, list[float]], file: Path) -> None:
    """Every run as a dot, medians as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.5), layout="constrained")
    for at, runs in enumerate(found.values()):
        axes.plot([at] * len(runs), runs, "o", color="tab:blue", alpha=0.5)
        axes.hlines(statistics.median(runs), at - 0.15, at + 0.15, color="tab:blue")
    axes.set_xticks(range(len(found)), list(found))
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.set_ylabel("seconds until all ranks are initialised")
    axes.set_ylim(bottom=0)
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print a table, keep a report and a plot; 1 when the limit is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    circumstances = kept.circumstances()
    state = on_the_cluster()
    os.environ["KUBECONFIG"] = state.kubeconfig
    with tempfile.TemporaryDirectory() as scratch, kube.namespace(state.kubeconfig) as ns:
        folder = Path(scratch) / "code"
        folder.mkdir()
        with controller(ns, Path(scratch) / "controller.log") as argo:
            image = state.images["torch"]
            found = measure(argo, folder, image, arguments.nodes, arguments.runs)
    more = {way: more_s(found, way) for way in (CONTAINER, RESOURCE)}
    report = {
        **circumstances,
        "load_average_after": [round(one, 2) for one in os.getloadavg()],
        "runs": arguments.runs,
        "nodes": arguments.nodes,
        "limit_s": LIMIT_S,
        "more_s": more,
        "seconds": found,
    }
    kept.keep(report, table(report), arguments.out, "argo", partial(plot, found))
    return int(max(more.values()) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
