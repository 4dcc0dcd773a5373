"""Jobs in queues of the real Kueue: admitted, waiting, preempted and resumed, in part, in place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests import operators
from tests.faults import Lasting
from tests.kube import Namespace, eventually

pytestmark = [pytest.mark.controllers, pytest.mark.labels({operators.IN_KUEUE: "true"})]
GROUP, VERSION = "kueue.x-k8s.io", "v1beta2"
RACK = "kij-train.test/rack"
WAITS = "import pathlib, time\nwhile not pathlib.Path('/shared/stop').exists(): time.sleep(0.2)\n"


@pytest.fixture(scope="module", autouse=True)
def kueue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with operators.running("kueue", tmp_path_factory.mktemp("kueue")):
        yield


@dataclass
class Queues:
    """A ClusterQueue of one test, with a LocalQueue `team-a` in its namespace."""

    ns: Namespace
    custom: client.CustomObjectsApi

    def cluster(self, plural: str, body: dict[str, Any]) -> None:
        self.custom.create_cluster_custom_object(GROUP, VERSION, plural, body)

    def local(self, name: str) -> None:
        """A LocalQueue of the ClusterQueue."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LocalQueue",
            "metadata": {"name": name},
            "spec": {"clusterQueue": self.ns.name},
        }
        self.custom.create_namespaced_custom_object(
            GROUP, VERSION, self.ns.name, "localqueues", body
        )

    def workload(self, job: str) -> dict[str, Any]:
        """What Kueue has of a Job."""
        uid = self.ns.batch.read_namespaced_job(job, self.ns.name).metadata.uid
        found = self.custom.list_namespaced_custom_object(
            GROUP,
            VERSION,
            self.ns.name,
            "workloads",
            label_selector=f"kueue.x-k8s.io/job-uid={uid}",
        )["items"]
        (one,) = found
        return dict(one)


@pytest.fixture
def queues(ns: Namespace, request: pytest.FixtureRequest) -> Iterator[Queues]:
    """With one core, or with `racks`: eight, on machines that Kueue knows by their rack."""
    racks = getattr(request, "param", "") == "racks"
    cores = "8" if racks else "1"
    made = Queues(ns, client.CustomObjectsApi(ns.api))
    head = {"apiVersion": f"{GROUP}/{VERSION}", "metadata": {"name": ns.name}}
    flavor: dict[str, Any] = {**head, "kind": "ResourceFlavor", "spec": {}}
    if racks:
        levels = [{"nodeLabel": RACK}, {"nodeLabel": "kubernetes.io/hostname"}]
        made.cluster("topologies", {**head, "kind": "Topology", "spec": {"levels": levels}})
        flavor["spec"] = {"nodeLabels": {f"{RACK}s": "true"}, "topologyName": ns.name}
    made.cluster("resourceflavors", flavor)
    quota = {"name": ns.name, "resources": [{"name": "cpu", "nominalQuota": cores}]}
    spec = {
        "namespaceSelector": {},
        "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [quota]}],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    made.cluster("clusterqueues", {**head, "kind": "ClusterQueue", "spec": spec})
    made.local("team-a")
    yield made
    jobs = ns.batch.list_namespaced_job(ns.name).items
    for job in jobs:
        ns.delete_job(job.metadata.name)
    assert ns.empties(90), ns.left()
    kinds = ["clusterqueues", "resourceflavors", *(["topologies"] if racks else [])]
    for plural in kinds:
        made.custom.delete_cluster_custom_object(GROUP, VERSION, plural, ns.name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "wait.py").write_text(WAITS)
    return folder


@pytest.fixture
def shared(ns: Namespace, shared_folder: str) -> Path:
    """A folder that the pods of the test have at /shared."""
    folder = Path(shared_folder) / f"{ns.name}-queue"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def queued(ns: Namespace, project: Path, shared: Path, image: str, name: str, *flags: str) -> str:
    """Launch a job that waits in its pods until the test ends it; what was said."""
    words = ["--name", name, "--image", image, "--mount", f"hostpath:{shared}:/shared"]
    given = [*words, "--queue", "team-a", "--no-torchrun", "--detach", *flags, "wait.py"]
    done = ns.kij_train("launch", *given, cwd=project)
    assert done.returncode == 0, done.stderr
    return done.stderr


def why(ns: Namespace, name: str, cwd: Path) -> dict[str, Any]:
    done = ns.kij_train("why", name, "-o", "json", cwd=cwd)
    found = json.loads(done.stdout)
    assert isinstance(found, dict), done.stderr
    return found


def kinds(ns: Namespace, name: str, cwd: Path) -> list[str]:
    return [finding["kind"] for finding in why(ns, name, cwd)["findings"]]


def is_running(ns: Namespace, name: str) -> bool:
    return bool(ns.batch.read_namespaced_job(name, ns.name).status.ready)


def test_a_job_waits_for_quota_of_which_why_says_how_much_and_who_has_it(
    ns: Namespace, queues: Queues, project: Path, shared: Path, small_image: str
) -> None:
    of = (ns, project, shared, small_image)
    two = ("--nodes", "2", "--cpu", "0.4")
    queued(*of, "first", *two)
    assert eventually(lambda: is_running(ns, "first"))
    queued(*of, "second", *two)
    assert eventually(lambda: kinds(ns, "second", project) == ["queued"])
    verdict = why(ns, "second", project)
    (finding,) = verdict["findings"]
    assert verdict["state"] == "suspended"
    assert f"queue team-a (ClusterQueue {ns.name}) has no room" in finding["summary"]
    assert f"600m more cpu than is unused of flavor {ns.name}" in finding["summary"]
    assert "admitted in this queue: first (2 pods of cpu 400m)" in finding["evidence"]
    assert ns.kij_train("wait", "second", "--timeout", "2s", cwd=project).returncode == 5
    (shared / "stop").touch()
    assert ns.kij_train("wait", "first", "second", cwd=project).returncode == 0


@pytest.mark.parametrize(
    ("flags", "kind", "words"),
    [
        (("--cpu", "2"), "queue-quota", "asks for 2 cpu"),
        (("--cpu", "100m", "--memory", "64Mi"), "queue-resource", "no quota of memory"),
        (("--queue", "team-b"), "queue-missing", "has no LocalQueue team-b: it has team-a"),
    ],
)
def test_what_no_queue_will_ever_admit_is_told(
    ns: Namespace,
    queues: Queues,
    project: Path,
    shared: Path,
    small_image: str,
    flags: tuple[str, ...],
    kind: str,
    words: str,
) -> None:
    queued(ns, project, shared, small_image, "never", *flags)
    assert eventually(lambda: kinds(ns, "never", project) == [kind]), why(ns, "never", project)
    assert words in why(ns, "never", project)["findings"][0]["summary"]


def test_a_preempted_job_goes_on_from_its_checkpoint_when_it_is_admitted_again(
    ns: Namespace,
    queues: Queues,
    project: Path,
    shared: Path,
    small_image: str,
    image: str,
    shared_folder: str,
) -> None:
    for name, value in (("low", 1), ("high", 1000)):
        head = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "WorkloadPriorityClass"}
        body = {**head, "metadata": {"name": f"{ns.name}-{name}"}, "value": value}
        queues.cluster("workloadpriorityclasses", body)
    flags = ["--nodes", "2", "--cpu", "0.4", "--queue", "team-a", "--queue-priority"]
    trains = Lasting(ns, image, Path(shared_folder), *flags, f"{ns.name}-low", name="trains")
    before = trains.await_step(0, 0, 240)
    queued(
        ns,
        project,
        shared,
        small_image,
        "urgent",
        *("--nodes", "2", "--cpu", "0.4", "--queue-priority", f"{ns.name}-high"),
    )
    assert eventually(lambda: is_running(ns, "urgent"))
    verdict = why(ns, "trains", project)
    assert "gave way to another one" in verdict["headline"]
    assert verdict["findings"][0]["kind"] == "preempted"
    assert "to make room for job urgent" in verdict["findings"][0]["summary"]
    stopped_at = trains.steps[-1]
    assert stopped_at.step >= before.step
    (shared / "stop").touch()
    again = trains.await_step(stopped_at.time + 1, 0, 240)
    assert again.step >= stopped_at.step
    assert trains.finish() == 0, trains.log.read_text()
    for name in ("low", "high"):
        queues.custom.delete_cluster_custom_object(
            GROUP, VERSION, "workloadpriorityclasses", f"{ns.name}-{name}"
        )


def test_an_array_is_admitted_in_part_and_does_all_its_items(
    ns: Namespace, queues: Queues, project: Path, small_image: str
) -> None:
    (project / "item.py").write_text("import time\ntime.sleep(2)\n")
    words = ["--image", small_image, "--name", "part", "--range", "0:6", "--parallelism", "4"]
    given = [*words, "--cpu", "0.4", "--queue", "team-a", "item.py", "{item}"]
    done = ns.kij_train("map", *given, cwd=project)
    assert done.returncode == 0, done.stderr
    job = ns.batch.read_namespaced_job("part", ns.name)
    assert (job.status.succeeded, job.spec.completions, job.spec.parallelism) == (6, 6, 2)


@pytest.mark.parametrize("queues", ["racks"], indirect=True)
def test_nodes_of_a_job_get_one_place_or_none(
    ns: Namespace, queues: Queues, project: Path, shared: Path, small_image: str
) -> None:
    for number in (1, 2):
        labels = {RACK: f"r{number}", f"{RACK}s": "true"}
        ns.core.patch_node(f"node-{number}", {"metadata": {"labels": labels}})
    of = (ns, project, shared, small_image)
    together = ("--topology", f"{RACK}:required")
    queued(*of, "fits", "--nodes", "3", "--cpu", "0.2", *together)
    assert eventually(lambda: is_running(ns, "fits"))
    pods = ns.core.list_namespaced_pod(ns.name).items
    assert len({pod.spec.node_name for pod in pods}) == 1
    queued(*of, "wide", "--nodes", "2", "--cpu", "1.5", *together)
    assert eventually(lambda: kinds(ns, "wide", project) == ["queue-topology"]), why(
        ns, "wide", project
    )
    assert "room for 1 of them" in why(ns, "wide", project)["findings"][0]["summary"]
    queued(*of, "level", "--nodes", "2", "--cpu", "0.2", "--topology", "zone:required")
    assert eventually(lambda: kinds(ns, "level", project) == ["queue-topology"]), why(
        ns, "level", project
    )


def test_a_cancelled_job_leaves_its_queue_and_goes_back_when_it_is_resumed(
    ns: Namespace, queues: Queues, project: Path, shared: Path, small_image: str
) -> None:
    queued(ns, project, shared, small_image, "back", "--cpu", "0.4")
    assert eventually(lambda: is_running(ns, "back"))
    done = ns.kij_train("cancel", "back", cwd=project)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: not ns.core.list_namespaced_pod(ns.name).items)
    assert "was cancelled" in why(ns, "back", project)["headline"]
    done = ns.kij_train("resume", "back", cwd=project)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: is_running(ns, "back"))


def test_a_namespace_whose_jobs_all_go_into_its_queue_runs_and_cancels_them(
    ns: Namespace, queues: Queues, project: Path, shared: Path, small_image: str
) -> None:
    """A LocalQueue that is called default takes every Job that names none (Kueue 0.10)."""
    queues.local("default")
    words = ["--name", "plain", "--image", small_image, "--mount", f"hostpath:{shared}:/shared"]
    given = [*words, "--no-torchrun", "--detach", "--cpu", "0.4", "wait.py"]
    done = ns.kij_train("launch", *given, cwd=project)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: is_running(ns, "plain"))
    job = ns.batch.read_namespaced_job("plain", ns.name)
    assert job.metadata.labels["kueue.x-k8s.io/queue-name"] == "default"
    done = ns.kij_train("cancel", "plain", cwd=project)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: not ns.core.list_namespaced_pod(ns.name).items)
    assert "was cancelled" in why(ns, "plain", project)["headline"]
    done = ns.kij_train("resume", "plain", cwd=project)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: is_running(ns, "plain"))
