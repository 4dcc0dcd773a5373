"""An array whose pods are evicted, and one of whose machines dies: every item is there once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import cluster
from tests.kube import Namespace, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ITEMS, CHUNK = 16, 4
SCRIPT = """
import json, os, sys, time
number = int(sys.argv[1])
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"square": number**2}), file=file)
time.sleep(3)
"""


def pods(ns: Namespace) -> list[Any]:
    return list(ns.core.list_namespaced_pod(ns.name).items)


def index_of(pod: Any) -> str:
    return str(pod.metadata.annotations["batch.kubernetes.io/job-completion-index"])


def test_pods_that_are_evicted_in_the_middle_cost_no_retry_and_no_item(
    ns: Namespace, tmp_path: Path, small_image: str
) -> None:
    evicted: set[str] = set()

    def evict(first: Any) -> None:
        for pod in pods(ns):
            if index_of(pod) in (index_of(first), "0"):
                name = pod.metadata.name
                evicted.add(name)
                body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
                ns.core.create_namespaced_pod_eviction(name, ns.name, body)

    run_with(evict, ns, tmp_path, small_image)
    assert evicted and not evicted & {pod.metadata.name for pod in pods(ns)}


@pytest.mark.chaos
@pytest.mark.own_cluster
def test_a_machine_that_dies_in_the_middle_costs_no_item(
    ns: Namespace, tmp_path: Path, small_image: str
) -> None:
    """Whoever runs the cluster takes the machine out of it; its pods are then counted as gone."""
    dead: set[str] = set()

    def kill(first: Any) -> None:
        machine = first.spec.node_name
        dead.update(pod.metadata.name for pod in pods(ns) if pod.spec.node_name == machine)
        cluster("node", "kill", machine)
        ns.core.delete_node(machine)
        machines.append(machine)

    machines: list[str] = []
    try:
        run_with(kill, ns, tmp_path, small_image)
        assert machines[0] not in {pod.spec.node_name for pod in pods(ns)}
        assert not dead & {pod.metadata.name for pod in pods(ns)}
    finally:
        cluster("node", "start", *machines)
    assert eventually(lambda: machines[0] in {n.metadata.name for n in nodes(ns)}, 60)


def nodes(ns: Namespace) -> list[Any]:
    return list(ns.core.list_node().items)


def run_with(fault: Callable[[Any], None], ns: Namespace, folder: Path, image: str) -> None:
    """An array without retries, and what happens to it when an index is at its second item."""
    (folder / "square.py").write_text(SCRIPT)
    line = [sys.executable, "-m", "kij_train", "map", "-n", ns.name, "--kubeconfig", ns.kubeconfig]
    line += ["--image", image, "--name", "sq", "--range", f"0:{ITEMS}", "--chunk", str(CHUNK)]
    line += ["square.py", "{item}"]
    with (
        (folder / "err").open("w") as err,
        subprocess.Popen(
            line, cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            text = ""
            while f"index 1, item 2 of {CHUNK}" not in text:
                text = process.stdout.readline()
                assert text, (folder / "err").read_text()
            (first,) = (pod for pod in pods(ns) if index_of(pod) == "1")
            fault(first)
            process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 0, (folder / "err").read_text()
    parts = sorted((folder / ".kij-train/arrays/sq/attempt-0").glob("part-*.jsonl"))
    found = [json.loads(row) for part in parts for row in part.read_text().splitlines()]
    assert Counter(record["key"] for record in found) == {str(n): 1 for n in range(ITEMS)}
    assert {record["key"]: record["square"] for record in found} == {
        str(number): number**2 for number in range(ITEMS)
    }
    job = ns.batch.read_namespaced_job("sq", ns.name)
    assert job.status.succeeded == ITEMS // CHUNK
    assert not job.status.failed_indexes
