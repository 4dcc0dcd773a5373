"""Submission against a real API server: few requests, whole or not there, owned by the Job."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from kij_train import render
from kij_train.cluster import Cluster
from kij_train.cluster.submit import submit
from kij_train.errors import RefusedError, UnreachableError
from kij_train.jobs import change
from kij_train.spec import JobSpec
from kubernetes import client

from tests import goldens
from tests.kube import ROOT, Namespace, eventually

RULES = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
BOOTSTRAP = "print('bootstrap')\n"
CHUNK_BYTES = 196_000
"""A little more than one ConfigMap carries beside the bootstrap above."""


@pytest.fixture
def cluster(ns: Namespace) -> Cluster:
    return Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/train.py").write_text("print(1)\n")
    return tmp_path / "project"


def job(name: str = "job", nodes: int = 2, chunks: int = 1, **fields: Any) -> list[dict[str, Any]]:
    archive = bytes(CHUNK_BYTES * (chunks - 1) + 1)
    code = render.Code(BOOTSTRAP, archive, "0" * 64)
    return render.render(JobSpec(script="a.py", nodes=nodes, **fields), name=name, code=code)


OF_OTHERS = {"PodGroup", "JobSet", "TrainingRuntime", "TrainJob", "WorkflowTemplate"}
"""Types that not every cluster has: test_scheduling.py, test_operators.py and test_argo.py look."""
OF_RIGHTS = {"ServiceAccount", "Role", "RoleBinding"}
"""What kij-train renders, and never makes: test_argo.py applies it."""


@pytest.mark.parametrize("name", goldens.GOLDENS)
def test_the_server_takes_every_manifest_strictly(cluster: Cluster, name: str) -> None:
    document = (goldens.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    for body in yaml.safe_load_all(document):
        body["metadata"].pop("namespace", None)
        if body["kind"] in OF_OTHERS | OF_RIGHTS:
            continue
        answer = cluster.create(body, dry_run=True)
        assert answer["kind"] == body["kind"]


@pytest.mark.parametrize("nodes", [1, 5000])
def test_a_submission_takes_five_requests_however_many_nodes(
    cluster: Cluster, ns: Namespace, nodes: int
) -> None:
    # Quota keeps the server from making 5,000 pods that nobody wants.
    ns.core.create_namespaced_resource_quota(
        ns.name, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}
    )
    submit(cluster, job(nodes=nodes))
    assert cluster.requests == 5


def test_the_job_that_runs_is_the_one_that_was_rendered(cluster: Cluster, ns: Namespace) -> None:
    submit(cluster, job(nodes=3))
    body = ns.batch.read_namespaced_job("job", ns.name)
    assert (body.spec.suspend, body.spec.completions, body.spec.parallelism) == (False, 3, 3)
    assert eventually(lambda: sum(n.startswith("pods/job-") for n in ns.left()) == 3, 30)


@pytest.mark.parametrize("chunks", [1, 3])
def test_deleting_the_job_leaves_nothing(cluster: Cluster, ns: Namespace, chunks: int) -> None:
    submit(cluster, job(chunks=chunks))
    assert sum(name.startswith("configmaps/") for name in ns.left()) == chunks
    ns.delete_job("job")
    assert ns.empties()


def test_code_is_shared_by_jobs_and_goes_with_the_last(cluster: Cluster, ns: Namespace) -> None:
    submit(cluster, job("one"))
    submit(cluster, job("two"))
    assert sum(name.startswith("configmaps/") for name in ns.left()) == 1
    ns.delete_job("one")
    assert eventually(lambda: "jobs/one" not in ns.left(), 30)
    assert any(name.startswith("configmaps/") for name in ns.left())
    ns.delete_job("two")
    assert ns.empties()


def test_a_job_knows_what_its_code_was_without(ns: Namespace, project: Path) -> None:
    (project / ".gitignore").write_text("*.bin\n")
    for name in ("train.bin", ".env"):
        (project / name).touch()
    assert ns.kij_train("launch", "-d", "--name", "a", "train.py", cwd=project).returncode == 0
    annotations = ns.batch.read_namespaced_job("a", ns.name).metadata.annotations
    assert annotations["kij-train/left-out"] == '["train.bin"]'


def test_a_taken_name_is_refused_with_the_ways_out(ns: Namespace, project: Path) -> None:
    assert ns.kij_train("launch", "-d", "--name", "a", "train.py", cwd=project).returncode == 0
    before = ns.batch.read_namespaced_job("a", ns.name).metadata.uid
    second = ns.kij_train("launch", "-d", "--name", "a", "train.py", cwd=project)
    assert second.returncode == 3
    assert "has a job a already" in second.stderr
    assert "--replace" in second.stderr
    assert ns.batch.read_namespaced_job("a", ns.name).metadata.uid == before


def test_replace_deletes_the_old_job_and_its_pods_first(ns: Namespace, project: Path) -> None:
    line = ["launch", "-d", "--name", "a", "--nodes", "2"]
    assert ns.kij_train(*line, "train.py", cwd=project).returncode == 0
    before = ns.batch.read_namespaced_job("a", ns.name).metadata.uid
    result = ns.kij_train(*line, "--replace", "train.py", cwd=project)
    assert result.returncode == 0, result.stderr
    assert ns.batch.read_namespaced_job("a", ns.name).metadata.uid != before
    ns.delete_job("a")
    assert ns.empties()


def test_replace_does_not_touch_a_job_of_somebody_else(ns: Namespace, project: Path) -> None:
    container = {"name": "c", "image": "i"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    body = {"metadata": {"name": "a"}, "spec": {"template": {"spec": pod}}}
    ns.batch.create_namespaced_job(ns.name, body)
    result = ns.kij_train("launch", "-d", "--name", "a", "--replace", "train.py", cwd=project)
    assert result.returncode == 3
    assert "was not made by kij-train" in result.stderr
    assert "jobs/a" in ns.left()


def test_a_service_in_the_way_is_named_and_the_job_removed(cluster: Cluster, ns: Namespace) -> None:
    port = {"port": 1}
    ns.core.create_namespaced_service(
        ns.name, {"metadata": {"name": "job"}, "spec": {"clusterIP": "None", "ports": [port]}}
    )
    with pytest.raises(RefusedError, match="has a service job already"):
        submit(cluster, job())
    assert eventually(lambda: ns.left() == ["services/job"], 30)


def test_of_two_submissions_at_once_one_wins_and_the_other_says_so(ns: Namespace) -> None:
    def uid_or_refusal(_: int) -> str:
        own = Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)
        try:
            return submit(own, job()).uid
        except RefusedError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(uid_or_refusal, range(4)))
    uid = ns.batch.read_namespaced_job("job", ns.name).metadata.uid
    assert answers.count(uid) == 1
    assert sum("has a job job already" in answer for answer in answers) == 3
    assert ns.batch.read_namespaced_job("job", ns.name).spec.suspend is False


DIES = """
import os, sys, json
from kij_train.cluster import Cluster
from kij_train.cluster.submit import submit
step, moment = int(sys.argv[1]), sys.argv[2]
original = Cluster._request
def request(self, *args, **kwargs):
    if self.requests + 1 == step and moment == "before":
        os._exit(9)
    answer = original(self, *args, **kwargs)
    if self.requests == step:
        os._exit(9)
    return answer
Cluster._request = request
cluster = Cluster.connect(kubeconfig=sys.argv[3], context=None, namespace=sys.argv[4])
submit(cluster, json.load(sys.stdin))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_killed_at_any_step_one_delete_leaves_nothing(
    ns: Namespace, step: int, moment: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", DIES, str(step), moment, ns.kubeconfig, ns.name],
        input=json.dumps(job(chunks=2)),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 9, result.stderr
    left = ns.left()
    if step == 1 and moment == "before":
        assert left == []
        return
    finished = step == 6 and moment == "after"
    assert ns.batch.read_namespaced_job("job", ns.name).spec.suspend is not finished
    if not finished:
        assert not any(name.startswith("pods/") for name in left)
    ns.delete_job("job")
    assert ns.empties()


# --- a server that goes away in the middle --------------------------------------------------------


class CuttingProxy:
    """Passes TCP on to a server, and drops everything from the n-th request's answer on.

    It sees TLS, not requests: the client opens one connection, so the number of turns between the
    two directions counts them.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                inner.close()
                continue
            outer = socket.create_connection(self.target)
            for a, b in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.open:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            one.close()

    def close(self) -> None:
        self.open = False
        self.listener.close()


@pytest.fixture
def proxy(ns: Namespace) -> Iterator[CuttingProxy]:
    host, _, port = ns.configuration.host.removeprefix("https://").partition(":")
    made = CuttingProxy(host, int(port or 443))
    yield made
    made.close()


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_server_that_goes_away_leaves_a_suspended_job_and_says_so(
    ns: Namespace, proxy: CuttingProxy, tmp_path: Path, step: int
) -> None:
    document = yaml.safe_load(Path(ns.kubeconfig).read_text(encoding="utf-8"))
    for one in document["clusters"]:
        one["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
        one["cluster"]["tls-server-name"] = "localhost"
    (tmp_path / "k").write_text(yaml.safe_dump(document))
    through = Cluster.connect(kubeconfig=str(tmp_path / "k"), context=None, namespace=ns.name)
    original = through._request

    def request(*args: Any, **kwargs: Any) -> Any:
        if through.requests + 1 == step:
            proxy.open = False  # the answer does not come back
        return original(*args, **kwargs)

    through._request = request  # type: ignore[method-assign] # where the wire is cut
    with pytest.raises(UnreachableError):
        submit(through, job())
    left = ns.left()
    if "jobs/job" in left:
        assert any("may be left, suspended: kubectl delete job job" in w for w in through.warnings)
        assert ns.batch.read_namespaced_job("job", ns.name).spec.suspend is True
        ns.delete_job("job")
    assert ns.empties()


def test_a_deleted_jobs_name_is_free_at_once(cluster: Cluster, ns: Namespace) -> None:
    submit(cluster, job()).delete()
    assert eventually(lambda: "jobs/job" not in ns.left(), 30)
    submit(cluster, job())
    assert ns.batch.read_namespaced_job("job", ns.name).spec.suspend is False


def apply(ns: Namespace, objects: list[dict[str, Any]]) -> None:
    """As a user would, with what render prints."""
    line = ["kubectl", "--kubeconfig", ns.kubeconfig, "apply", "-n", ns.name, "-f", "-"]
    result = subprocess.run(
        line, input=render.to_yaml(objects), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("remove", [["delete", "a"], ["launch", "-d", "--name", "a", "--replace"]])
def test_an_applied_job_of_any_size_goes_with_all_that_was_applied(
    ns: Namespace, project: Path, remove: list[str]
) -> None:
    mine = ns.user("alice", RULES, project.parent)
    (project / "noise.bin").write_bytes(secrets.token_bytes(400_000))
    printed = ns.kij_train("render", "--name", "a", "--gpus", "1", "train.py", cwd=project)
    apply(ns, list(yaml.safe_load_all(printed.stdout)))
    assert sum(name.startswith("configmaps/") for name in ns.left()) == 3
    (project / "noise.bin").unlink()
    script = ["train.py"] if remove[0] == "launch" else []
    result = ns.kij_train(*remove, *script, cwd=project, kubeconfig=mine)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr.replace("no gang scheduler", "")
    if script:
        assert eventually(lambda: sum(n.startswith("configmaps/") for n in ns.left()) == 1, 30)
    else:
        assert ns.empties()


def test_code_of_applied_jobs_goes_with_the_last(cluster: Cluster, ns: Namespace) -> None:
    apply(ns, job("one"))
    apply(ns, job("two"))
    submit(cluster, job("three"))
    for name in ("three", "one"):
        change.delete(cluster, name)
        gone = f"services/{name}"
        assert eventually(lambda gone=gone: gone not in ns.left(), 30)  # type: ignore[misc]
    assert sum(name.startswith("configmaps/") for name in ns.left()) == 1
    change.delete(cluster, "two")
    assert ns.empties()


def test_without_the_right_to_the_rest_of_an_applied_job_it_is_named(
    ns: Namespace, tmp_path: Path
) -> None:
    apply(ns, job())
    rules = [rule for rule in RULES if rule["resources"] != ["services"]]
    result = ns.kij_train("delete", "job", cwd=tmp_path, kubeconfig=ns.user("bob", rules, tmp_path))
    assert result.returncode == 0, result.stderr
    assert f"remove it: kubectl delete service/job -n {ns.name} --kubeconfig " in result.stderr
    assert eventually(lambda: ns.left() == ["services/job"], 30)


def test_cancelling_keeps_the_job_suspended_and_marked(cluster: Cluster, ns: Namespace) -> None:
    submit(cluster, job())
    change.cancel(cluster, "job")
    body = ns.batch.read_namespaced_job("job", ns.name)
    assert body.spec.suspend is True
    assert body.metadata.annotations["kij-train/cancelled"] == "true"
    assert eventually(lambda: not any(n.startswith("pods/") for n in ns.left()), 30)


def test_an_object_that_is_not_there_is_said(cluster: Cluster) -> None:
    with pytest.raises(UnreachableError, match=r"has no jobs\.batch nothing"):
        cluster.get("Job", "nothing")


def test_the_servers_version_is_one_we_support(ns: Namespace) -> None:
    version = client.VersionApi(ns.api).get_code()
    assert version.major == "1"
    assert int(version.minor.rstrip("+")) >= 31
