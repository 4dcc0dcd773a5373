"""What an array of thousands of indexes takes of a client: requests, seconds, memory.

    python benchmarks/map_scale.py [--indexes 10000] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs; kwok simulates the nodes, and this
process ends the pods as their runners would, each with its records in its termination message.
Every command runs in a process of its own; its peak resident memory is what the kernel counted, its
requests are counted by the client. One array is followed from its submission to its end. While all
its pods run, when half of them have ended, and at the end, other processes ask for its status, its
report from the folder of the one that follows, and from an empty folder, which takes all records
from the pods.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from kij_train.pod import itemrecords, results  # noqa: E402 - as the repository has it

from benchmarks import kept  # noqa: E402 - the repository is no package
from benchmarks.launch_overhead import on_the_cluster, output_of  # noqa: E402
from benchmarks.watch_scale import MEASURE, PODS_A_NODE, measured  # noqa: E402
from tests.cluster.kwok import LABEL  # noqa: E402
from tests.kube import Namespace, eventually, namespace  # noqa: E402

LIMIT_MIB = 150
LIMIT_S = 2.0
ITEMS = 2
"""An index."""
SIZES = (100, 1000)
"""Indexes of the arrays whose submission is compared with that of the large one."""
AT_ONCE = 16
"""Pods that are ended at the same time."""
WITHIN_S = 900


class Row(NamedTuple):
    """A command that was measured."""

    what: str
    seconds: float
    peak_mib: float
    requests: int
    limited: bool = False
    """Whether it is to take at most LIMIT_S."""


def list_of(folder: Path, indexes: int) -> Path:
    """A file of items, which are no range: a plan of some size."""
    path = folder / f"items-{indexes}.txt"
    lines = (f"data/shard-{number * 7919 % 1000003:07d}.tar" for number in range(indexes * ITEMS))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def words(ns: str, items: Path, name: str) -> list[str]:
    """The command that maps a script over a list, on simulated nodes."""
    place = ["--node-selector", f"{LABEL}=true", "--toleration", f"{LABEL}=true:NoSchedule"]
    stays = ["--annotation", "kij-train.test/runs-for=1h", "--name", name]
    return ["map", "-n", ns, *place, *stays, "--items", str(items), "--chunk", str(ITEMS)]


def submissions(ns: str, folder: Path, sizes: Iterable[int]) -> list[Row]:
    """Arrays of some sizes, submitted to a queue that nobody serves, so that no pod comes."""
    found = []
    for indexes in sizes:
        argv = [*words(ns, list_of(folder, indexes), f"n{indexes}"), "--queue", "nobody"]
        took = measured(*argv, "--detach", "work.py", "{item}", cwd=folder)
        found.append(Row(f"map --detach, {indexes:,} indexes", **took))
    return found


class Pods:
    """Ends simulated pods as the runners of their items do."""

    def __init__(self, ns: Namespace, items: list[str]) -> None:
        self._ns, self._items = ns, items

    def running(self) -> int:
        """Pods that run, as the Job counts them; 0 before there is one."""
        selector = "metadata.name=many"
        jobs = self._ns.batch.list_namespaced_job(self._ns.name, field_selector=selector).items
        return sum(job.status.ready or 0 for job in jobs)

    def end(self, indexes: Iterable[int]) -> None:
        """End the pods of these indexes."""
        selector, wanted, token = "batch.kubernetes.io/job-name=many", set(indexes), None
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while True:
                page = self._ns.core.list_namespaced_pod(
                    self._ns.name, label_selector=selector, limit=500, _continue=token
                )
                found = [pod for pod in page.items if _index_of(pod) in wanted]
                list(pool.map(self._end, found))
                token = page.metadata._continue
                if not token:
                    return

    def _end(self, pod: Any) -> None:
        index = _index_of(pod)
        keys = self._items[index * ITEMS : (index + 1) * ITEMS]
        run = itemrecords.Run(index, 0, 0.5, 0, str(pod.spec.node_name))
        lines = [
            itemrecords.dumps(record)
            for key in keys
            for record in itemrecords.item_records(key, run, b'{"loss": 0.25}')
        ]
        places = {key: place for place, key in enumerate(keys)}
        account = results.encode_account(results.account_of(index, 0, places, lines)).decode()
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        times = {"startedAt": now, "finishedAt": now}
        ended = {"exitCode": 0, "reason": "Completed", "message": account, **times}
        status = pod.status.container_statuses[0]
        state = {
            "name": status.name,
            "image": status.image,
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"terminated": ended},
        }
        body = {"status": {"phase": "Succeeded", "containerStatuses": [state]}}
        self._ns.core.patch_namespaced_pod_status(pod.metadata.name, self._ns.name, body)


def _index_of(pod: Any) -> int:
    return int(pod.metadata.labels["batch.kubernetes.io/job-completion-index"])


def asked(when: str, ns: str, folder: Path, exits: int) -> list[Row]:
    """What commands take that ask how far it is; a report ends with `exits`."""
    ask = partial(measured, cwd=folder)
    rows = [Row(f"status, {when}", **ask("status", "many", "-n", ns), limited=True)]
    report = ("report", "many", "-n", ns)
    rows.append(Row(f"report, {when}", **ask(*report, codes=(exits,)), limited=True))
    with tempfile.TemporaryDirectory() as empty:
        took = measured(*report, cwd=Path(empty), codes=(exits,))
        rows.append(Row(f"report, {when}, from an empty folder", **took))
    return rows


def measure(ns: Namespace, indexes: int, tell: Callable[[Row], None]) -> None:
    """Every command, on an array of that many indexes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "work.py").write_text("pass\n")
        for row in submissions(ns.name, folder, (*SIZES, indexes)):
            tell(row)
        items = list_of(folder, indexes)
        pods = Pods(ns, items.read_text().splitlines())
        argv = [*words(ns.name, items, "many"), "work.py", "{item}"]
        report = folder / "attached.json"
        line = [sys.executable, "-c", MEASURE, str(report), *argv]
        log_at = folder / "attached.log"
        with log_at.open("w") as log:
            follows = subprocess.Popen(line, cwd=folder, stdout=log, stderr=log)

        def run(count: int) -> bool:
            assert follows.poll() is None, log_at.read_text()[-4000:]
            return pods.running() == count

        try:
            assert eventually(lambda: run(indexes), WITHIN_S), pods.running()
            for row in asked("all run", ns.name, folder, exits=1):
                tell(row)
            pods.end(range(0, indexes, 2))
            assert eventually(lambda: run(indexes // 2), WITHIN_S), pods.running()
            for row in asked("half have ended", ns.name, folder, exits=1):
                tell(row)
            pods.end(range(1, indexes, 2))
            code = follows.wait(WITHIN_S)
            assert code == 0, log_at.read_text()[-4000:]
        finally:
            follows.kill()
        tell(Row("map, attached, to the end", **json.loads(report.read_text())))
        for row in asked("all have ended", ns.name, folder, exits=0):
            tell(row)


def table(report: dict[str, Any]) -> str:
    """As Markdown, with what was run where."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['indexes']:,} indexes of {ITEMS} items. "
        f"{report['machine']}, load average before {report['load_average_before'][0]}.",
        "",
        "| command | s | at most | MiB | at most | requests |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        most = f"{LIMIT_S:g}" if row["limited"] else ""
        lines.append(
            f"| {row['what']} | {row['seconds']:.2f} | {most} | {row['peak_mib']:.0f} "
            f"| {LIMIT_MIB} | {row['requests']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print a table and keep a report; 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--indexes", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    circumstances = kept.circumstances()
    state = on_the_cluster()
    nodes = str(-(-arguments.indexes // PODS_A_NODE))
    output_of([sys.executable, "-m", "tests.cluster", "simulate", nodes], ROOT)
    rows: list[Row] = []

    def tell(row: Row) -> None:
        rows.append(row)
        print(
            f"{row.what:48} {row.seconds:7.2f} s {row.peak_mib:5.0f} MiB {row.requests:5} requests",
            flush=True,
        )

    with namespace(state.kubeconfig) as ns:
        measure(ns, arguments.indexes, tell)
    report = {
        **circumstances,
        "indexes": arguments.indexes,
        "limit_s": LIMIT_S,
        "limit_mib": LIMIT_MIB,
        "rows": [row._asdict() for row in rows],
    }
    kept.keep(report, table(report), arguments.out, "map_scale")
    slow = any(row.limited and row.seconds > LIMIT_S for row in rows)
    return int(slow or any(row.peak_mib > LIMIT_MIB for row in rows))


if __name__ == "__main__":
    sys.exit(main())
