"""What asking about jobs takes where a job has thousands of pods, or there are hundreds of jobs.

    python benchmarks/ask_scale.py [--pods 5000,20000] [--jobs 500] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs; kwok simulates the nodes, so the pods
run without a process, and have no log: `logs` is measured until it has said so. Every command runs
in a process of its own; its peak resident memory is what the kernel counted, its requests are
counted by the client. `delete` is measured until the command ends, and then until the cluster,
which works on after it, has removed the last pod. Beside them stand kubectl's nearest.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept, watch_scale  # noqa: E402 - no package
from benchmarks.launch_overhead import on_the_cluster, output_of  # noqa: E402

SELECTOR = "batch.kubernetes.io/job-name="
NODES_OF_OTHERS = 2
"""Nodes of each of the many jobs."""
POD_LIMIT_S = 1500.0
Row = dict[str, Any]


def row(where: str, what: str, ours: Row, kubectl: str = "", other: Row | None = None) -> Row:
    """Print what a command took, and return it as a row of the report."""
    print(f"{where:>12} {what:28} {told(ours)}   {kubectl}: {told(other)}", flush=True)
    return {"where": where, "what": what, "ours": ours, "kubectl": kubectl, "other": other}


def told(took: Row | None) -> str:
    """For a cell."""
    if took is None:
        return "-"
    requests = f", {took['requests']} requests" if "requests" in took else ""
    return f"{took['seconds']:.1f} s, {took['peak_mib']:.0f} MiB{requests}"


def wait_for(ns: str, name: str, pods: int) -> float:
    """Wait until so many pods run, or until none is left; seconds."""
    began = time.monotonic()
    while time.monotonic() < began + POD_LIMIT_S:
        if pods:
            there = watch_scale.pods_running(ns, name)
        else:
            there = len(output_of(["kubectl", "get", "pods", "-n", ns, "-o", "name"], ROOT).split())
        if there == pods:
            return time.monotonic() - began
        time.sleep(2)
    raise SystemExit(f"{there} of {pods} pods after {POD_LIMIT_S:.0f} s")


def one_job(pods: int) -> list[Row]:
    """Every command, on a job of so many pods."""
    rows: list[Row] = []
    name, where = f"big-{pods}", f"{pods:,} pods"
    with watch_scale.big_job(pods) as (ns, folder):
        argv = [*watch_scale.launch_argv(ns, pods, runs_for="9h"), "--name", name]
        measured = watch_scale.measured
        rows.append(
            row(where, "launch --detach", measured(*argv, "--detach", "train.py", cwd=folder))
        )
        print(f"{where:>12} run after {wait_for(ns, name, pods):.0f} s", flush=True)
        listed = watch_scale.kubectl("get", "pods", "-n", ns, "-l", SELECTOR + name, "-o", "json")
        said = measured("status", name, "-n", ns, cwd=folder)
        rows.append(row(where, "status", said, "kubectl get pods -o json", listed))
        rows.append(row(where, "why", measured("why", name, "-n", ns, cwd=folder)))
        for argv in (["logs", name], ["logs", name, "--all"]):
            took = measured(*argv, "-n", ns, cwd=folder, codes=range(9))
            rows.append(row(where, " ".join([argv[0], *argv[2:]]), took))
        began = time.monotonic()
        took = measured("delete", name, "-n", ns, cwd=folder)
        wait_for(ns, name, 0)
        rows.append(row(where, "delete", took))
        took = {**took, "seconds": time.monotonic() - began}
        rows.append(row(where, "delete, and the last pod gone", took))
    return rows


def many_jobs(jobs: int) -> list[Row]:
    """`list -A` of so many jobs."""
    with watch_scale.big_job(jobs * NODES_OF_OTHERS) as (ns, folder):
        argv = watch_scale.launch_argv(ns, NODES_OF_OTHERS, runs_for="9h")[1:]
        render = [sys.executable, "-m", "kij_train", "render", *argv, "--name", "one-0", "train.py"]
        text = output_of(render, folder)
        more = [text.replace("one-0", f"one-{number}") for number in range(jobs)]
        (folder / "jobs.yaml").write_text("\n---\n".join(more))
        output_of(
            ["kubectl", "apply", "--server-side", "-f", str(folder / "jobs.yaml")], ROOT
        )  # they have the same code
        wait_for(ns, "one-0", NODES_OF_OTHERS)
        wait_for(ns, f"one-{jobs - 1}", NODES_OF_OTHERS)
        listed = watch_scale.kubectl("get", "jobs", "-A", "-o", "json")
        said = watch_scale.measured("list", "-A", cwd=folder)
        return [row(f"{jobs} jobs", "list -A", said, "kubectl get jobs -A -o json", listed)]


def table(report: Row) -> str:
    """As Markdown."""
    lines = [
        f"`{report['command']}`, {report['date']}; {report['machine']}, load average "
        f"{report['load_average_before'][0]} before, API server and simulated nodes on the same "
        "cores.",
        "",
        "| | kij-train | seconds, peak memory, requests | kubectl's nearest | it took |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['where']} | {each['what']} | {told(each['ours'])} | {each['kubectl'] or '-'} | "
        f"{told(each['other'])} |"
        for each in report["rows"]
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print a table and keep a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", default="5000,20000")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    on_the_cluster()
    report: Row = {**kept.circumstances(), "rows": []}
    sizes = list(map(int, filter(None, arguments.pods.split(","))))
    steps = [partial(many_jobs, arguments.jobs)] if arguments.jobs else []
    for step in (*steps, *(partial(one_job, pods) for pods in sizes)):
        report["rows"] += step()
        kept.keep(report, table(report), arguments.out, "ask_scale")
    return 0


if __name__ == "__main__":
    sys.exit(main())
