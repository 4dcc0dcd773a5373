"""The NetworkPolicy of a job, enforced by a real kube-router: who reaches its pods.

Ports are tried from inside of pods. The enforcer refuses a connection as a closed port does, so
each port that a stranger does not reach is one that a pod of the job, or an allowed one, reaches.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import enforcer, operators
from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.kube import Namespace, eventually, namespace
from tests.node.conftest import Start
from tests.node.test_fetch import command
from tests.node.test_reach import forwarding, get
from tests.origin import running

pytestmark = [pytest.mark.controllers, pytest.mark.own_cluster]
STORE, SUPERVISOR, SPREAD, SERVED = 29500, 29502, 29504, 8000
TRY = """
import json, socket, sys
found = []
for address in sys.argv[1:]:
    for port in [8000, *range(29500, 29510)]:
        try:
            socket.create_connection((address, port), 5).close()
            found.append([address, port])
        except OSError:
            pass
print(json.dumps(found))
"""
SERVES = """
import http.server, os, pathlib, sys
pathlib.Path("/tmp/sub dir").mkdir()
os.chdir("/tmp")
print("serves", *sys.argv[1:], flush=True)
http.server.HTTPServer(("", 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
Reached = list[list[Any]]


@pytest.fixture(scope="module", autouse=True)
def enforced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with enforcer.running(tmp_path_factory.mktemp("kube-router")):
        yield


@pytest.fixture
def elsewhere(kubeconfig: str) -> Iterator[Namespace]:
    """Another namespace."""
    with namespace(kubeconfig) as made:
        yield made


class Visitor:
    """A pod that is none of the job's, while the block lasts."""

    def __init__(self, ns: Namespace, image: str, machine: str, **labels: str) -> None:
        self.ns, self.name = ns, "-".join([machine, *labels.values()])
        container = {"name": "main", "image": image, "imagePullPolicy": "Never"}
        spec = {
            "nodeName": machine,
            "containers": [{**container, "command": ["sleep", "3600"]}],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
        }
        metadata = {"name": self.name, "labels": labels}
        ns.core.create_namespaced_pod(ns.name, {"metadata": metadata, "spec": spec})

    def __enter__(self) -> Visitor:
        assert eventually(self._has_an_address, 60), self.ns.report()
        return self

    def __exit__(self, *_: object) -> None:
        self.ns.core.delete_namespaced_pod(self.name, self.ns.name, grace_period_seconds=0)

    def _has_an_address(self) -> bool:
        status = self.ns.core.read_namespaced_pod(self.name, self.ns.name).status
        return bool(status.phase == "Running" and status.pod_ip)

    def reaches(self, addresses: list[str]) -> Reached:
        """Addresses and ports, of those that TRY tries."""
        state = State.of_running(StatePaths.of_this_clone())
        assert state is not None
        line = ("-n", self.ns.name, self.name, "--", "python3", "-c", TRY, *addresses)
        found: Reached = json.loads(operators.kubectl(state, "exec", *line))
        return found

    def comes_to_reach(self, all_of_them: Reached) -> bool:
        """Whether it reaches these, and nothing else of their addresses, before long."""
        known = [address for address, _ in all_of_them]
        return eventually(lambda: self.reaches(known) == all_of_them)


def own(ns: Namespace, job: str, addresses: list[str], cwd: Path) -> Reached:
    """What the job's own index 1 reaches; asked by `kij-train exec`, which has to work as well."""
    line = ("exec", job, "--index", "1", "--", "python3", "-c", TRY, *addresses)
    done = ns.kij_train(*line, cwd=cwd)
    assert done.returncode == 0, done.stderr
    found: Reached = json.loads(done.stdout)
    return found


def pods(ns: Namespace, job: str) -> list[Any]:
    """Its pods once they run."""
    found: list[Any] = []

    def run() -> bool:
        selector = f"batch.kubernetes.io/job-name={job}"
        found[:] = ns.core.list_namespaced_pod(ns.name, label_selector=selector).items
        return bool(found) and all(pod.status.phase == "Running" for pod in found)

    assert eventually(run, 120), ns.report()
    return found


def addresses(ns: Namespace, job: str) -> list[str]:
    return [pod.status.pod_ip for pod in pods(ns, job)]


def all_ready(found: list[Any]) -> bool:
    return all(status.ready for pod in found for status in pod.status.container_statuses)


def test_only_the_pods_of_a_job_reach_its_store_and_its_supervisors(
    ns: Namespace, elsewhere: Namespace, small_image: str, start: Start, tmp_path: Path
) -> None:
    job = start("--restart", "gang", "--nodes", "2")
    job.await_whole(2)
    there = pods(ns, job.name)
    assert {pod.spec.node_name for pod in there} == {"node-1", "node-2"}
    known = [pod.status.pod_ip for pod in there]
    reached = own(ns, job.name, known, tmp_path)
    assert STORE in {port for _, port in reached}
    assert {address for address, port in reached if port == SUPERVISOR} == set(known)
    for home in (ns, elsewhere):
        for machine in ("node-1", "node-2"):
            with Visitor(home, small_image, machine) as visitor:
                assert visitor.reaches(known) == []

    # The kubelet's probe of readiness comes in, and training goes on.
    assert eventually(lambda: all_ready(pods(ns, job.name))), ns.report()
    before = job.steps[-1]
    job.await_step(before.time + 0.01, 0, 60)
    for line in (
        ("stacks", job.name, "-o", "json"),
        ("logs", job.name, "--all"),
        ("top", job.name),
        ("cp", f"{job.name}:0:/kij/work", "work"),
    ):
        done = ns.kij_train(*line, cwd=tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    job.ends_well(restarts=0)


def test_a_lost_pod_comes_back_into_a_gang_behind_the_policy(ns: Namespace, start: Start) -> None:
    job = start("--restart", "gang", "--nodes", "2", "--max-restarts", "3")
    job.await_whole(2)
    lost = pods(ns, job.name)[0].metadata.name
    job.fault(
        "a pod is deleted, policies enforced",
        lambda: ns.core.delete_namespaced_pod(lost, ns.name, grace_period_seconds=0),
    )
    job.await_whole(2)
    job.ends_well(restarts=1)


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "serve.py").write_text(SERVES)
    return folder


def test_whom_the_user_allows_comes_in_and_nobody_else(
    ns: Namespace, elsewhere: Namespace, small_image: str, serving: Path
) -> None:
    how = ["-d", "--image", small_image, "--no-torchrun"]
    allowed = ["--allow-from", "pods:app=board", "--allow-from", f"namespace:{elsewhere.name}"]
    for words in (["--name", "a", *allowed], ["--name", "open", "--no-network-policy"]):
        done = ns.kij_train("launch", *how, *words, "serve.py", cwd=serving)
        assert done.returncode == 0, done.stderr
    (job,), (open_to_all,) = addresses(ns, "a"), addresses(ns, "open")
    with Visitor(ns, small_image, "node-1", app="other") as stranger:
        assert stranger.comes_to_reach([[open_to_all, SERVED]]), ns.report()
        assert stranger.reaches([job]) == []
    for home, labels in ((ns, {"app": "board"}), (elsewhere, {})):
        for machine in ("node-1", "node-2"):
            with Visitor(home, small_image, machine, **labels) as visitor:
                assert visitor.comes_to_reach([[job, SERVED]]), ns.report()
    with forwarding(ns, serving / "log") as (port, _):
        assert b"sub dir" in get(port, "")
    for name in ("a", "open"):
        assert ns.kij_train("delete", name, cwd=serving).returncode == 0


def test_pods_of_an_array_hand_on_files_and_let_nobody_else_in(
    ns: Namespace, small_image: str, serving: Path
) -> None:
    with running(os.urandom(8 << 20), "0.0.0.0") as origin:
        line = command(
            ns, origin, "map", "-d", "--name", "each", "--range", "0:2", "--image", small_image,
            "serve.py", "{item}",
        )  # fmt: skip
        done = subprocess.run(line, cwd=serving, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        known = addresses(ns, "each")
        assert len(known) == 2
        # Index 1 has the file from index 0, or the other way round.
        served = [[address, SERVED] for address in known]

        def both() -> bool:
            found = own(ns, "each", known, serving)
            return all(each in found for each in served)

        assert eventually(both, 120), ns.report()
        assert len(origin.readers) == 1 and origin.sent == len(origin.data)
    assert SPREAD in {port for _, port in own(ns, "each", known, serving)}
    for machine in ("node-1", "node-2"):
        with Visitor(ns, small_image, machine) as visitor:
            assert visitor.reaches(known) == []
    assert ns.kij_train("delete", "each", cwd=serving).returncode == 0
