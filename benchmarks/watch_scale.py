"""What watching a job of thousands of nodes takes: memory, API requests, seconds.

    python benchmarks/watch_scale.py [--nodes 5000] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs; kwok simulates the nodes. Every
command runs in a process of its own; its peak resident memory is what the kernel counted, its
requests are counted by the client. Beside each stands kubectl's nearest, where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.launch_overhead import on_the_cluster, output_of  # noqa: E402 - no package
from tests.cluster.kwok import LABEL  # noqa: E402

LIMIT_MIB = 150
PODS_A_NODE = 100
MEASURE = """\
import atexit, json, re, sys, time
from kij_train.cluster import client
made = []
connect = client.Cluster.connect.__func__
def counted(cls, **where):
    made.append(connect(cls, **where))
    return made[-1]
client.Cluster.connect = classmethod(counted)
started = time.perf_counter()
from kij_train.cli.app import run
def report():
    # The maximum that getrusage knows is also that of the process which has started this one.
    with open("/proc/self/status") as file:
        peak_kib = int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1])
    with open(sys.argv[1], "w") as file:
        json.dump({"seconds": time.perf_counter() - started,
                   "peak_mib": peak_kib / 1024,
                   "requests": sum(one.requests for one in made)}, file)
atexit.register(report)
sys.exit(run(sys.argv[2:]))
"""


def measured(*argv: str, cwd: Path, codes: Collection[int] = (0,)) -> dict[str, Any]:
    """Run a command of ours, which ends with one of these codes; seconds, peak_mib, requests."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        line = [sys.executable, "-c", MEASURE, str(report), *argv]
        done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=560)
        assert done.returncode in codes, done.stderr
        return dict(json.loads(report.read_text()))


def kubectl(*argv: str) -> dict[str, Any]:
    """Run kubectl; seconds and peak_mib."""
    started = time.perf_counter()
    process = subprocess.Popen(["kubectl", *argv], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return {"seconds": time.perf_counter() - started, "peak_mib": usage.ru_maxrss / 1024}


@contextlib.contextmanager
def big_job(nodes: int) -> Iterator[tuple[str, Path]]:
    """A namespace and a folder for a job whose pods run, without a process, until they are told."""
    ns = f"scale-{nodes}-{os.getpid()}"
    simulate = [sys.executable, "-m", "tests.cluster", "simulate", str(-(-nodes // PODS_A_NODE))]
    output_of(simulate, ROOT)
    output_of(["kubectl", "create", "namespace", ns], ROOT)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "train.py").write_text("pass\n")
            yield ns, Path(scratch)
    finally:
        output_of(["kubectl", "delete", "namespace", ns, "--wait=false"], ROOT)


def launch_argv(ns: str, nodes: int, *, runs_for: str) -> list[str]:
    place = ["--node-selector", f"{LABEL}=true", "--toleration", f"{LABEL}=true:NoSchedule"]
    stays = ["--annotation", f"kij-train.test/runs-for={runs_for}"]
    return ["launch", "-n", ns, "--nodes", str(nodes), *place, *stays]


def pods_running(ns: str, name: str) -> int:
    path = "{.status.ready}"
    said = output_of(["kubectl", "get", "job", name, "-n", ns, "-o", f"jsonpath={path}"], ROOT)
    return int(said or 0)


def measure(nodes: int) -> list[dict[str, Any]]:
    """Every command, on a job of that many nodes."""
    rows = []

    def row(what: str, ours: dict[str, Any], other: dict[str, Any] | None, its: str) -> None:
        rows.append({"what": what, "ours": ours, "other": other, "other_command": its})
        print(
            f"{what:34} {ours['seconds']:7.2f} s {ours['peak_mib']:6.0f} MiB "
            f"{ours['requests']:4} requests"
            + (f"   {its}: {other['seconds']:.2f} s {other['peak_mib']:.0f} MiB" if other else ""),
            flush=True,
        )

    with big_job(nodes) as (ns, folder):
        argv = [*launch_argv(ns, nodes, runs_for="1h"), "--name", "big", "--detach", "train.py"]
        row("launch --detach", measured(*argv, cwd=folder), None, "")
        while pods_running(ns, "big") < nodes:
            time.sleep(1)
        selector = "batch.kubernetes.io/job-name=big"
        pods = kubectl("get", "pods", "-n", ns, "-l", selector, "-o", "json")
        jobs = kubectl("get", "jobs", "-n", ns)
        row("status", measured("status", "big", "-n", ns, cwd=folder), pods, "kubectl get pods")
        row("list", measured("list", "-n", ns, cwd=folder), jobs, "kubectl get jobs")
        row("why", measured("why", "big", "-n", ns, cwd=folder), None, "")
        measured("delete", "big", "-n", ns, cwd=folder)
        while output_of(["kubectl", "get", "pods", "-n", ns, "-o", "name"], ROOT):
            time.sleep(2)  # the next job needs their places
        argv = [*launch_argv(ns, nodes, runs_for="5s"), "--name", "wave", "--detach", "train.py"]
        measured(*argv, cwd=folder)
        row(
            "wait, from submission to the end",
            measured("wait", "wave", "-n", ns, cwd=folder),
            None,
            "",
        )
        argv = [*launch_argv(ns, nodes, runs_for="5s"), "--name", "tide", "train.py"]
        row("launch, attached, to the end", measured(*argv, cwd=folder), None, "")
    return rows


def main() -> int:
    """Print a table and keep a report; 1 when a command takes more than LIMIT_MIB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    on_the_cluster()
    rows = measure(arguments.nodes)
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": "python benchmarks/watch_scale.py",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "nodes": arguments.nodes,
        "limit_mib": LIMIT_MIB,
        "rows": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "watch_scale.json").write_text(json.dumps(report, indent=1) + "\n")
    return int(any(row["ours"]["peak_mib"] > LIMIT_MIB for row in rows))


if __name__ == "__main__":
    sys.exit(main())
