"""Jobs in queues of the real Kueue: admitted, waiting, preempted and resumed, in part, in place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import kueue, operators
from tests.cluster import parts
from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.faults import Lasting
from tests.goldens import ROOT
from tests.kube import Namespace, eventually

pytestmark = [
    pytest.mark.controllers,
    pytest.mark.own_cluster,
    pytest.mark.labels({operators.IN_KUEUE: "true"}),
]
RACK = "kij-train.test/rack"
WAITS = "import pathlib, time\nwhile not pathlib.Path('/shared/stop').exists(): time.sleep(0.2)\n"


@pytest.fixture(scope="module", autouse=True)
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    state = State.of_running(StatePaths.of_this_clone())
    assert state is not None
    # It looks for them when it starts.
    operators.install_crds(state, parts.found("provisioning") / "config/crd")
    with operators.running("kueue", tmp_path_factory.mktemp("kueue")):
        yield


@pytest.fixture
def team_a(ns: Namespace, request: pytest.FixtureRequest) -> Iterator[None]:
    """A LocalQueue of one core; or, with `racks`, of eight, on machines known by their rack."""
    racks = getattr(request, "param", "") == "racks"
    kueue.make(ns, kueue.Quota("8", racks=RACK) if racks else kueue.Quota("1"))
    yield
    for job in ns.batch.list_namespaced_job(ns.name).items:
        ns.delete_job(job.metadata.name)
    assert ns.empties(90), ns.left()
    kueue.remove(ns)


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
    ns: Namespace, team_a: None, project: Path, shared: Path, small_image: str
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
    assert f"it lacks 600m of cpu in flavor {ns.name}" in finding["summary"]
    assert "admitted in this queue: first (2 pods of cpu 400m)" in finding["evidence"]
    assert ns.kij_train("wait", "second", "--timeout", "2s", cwd=project).returncode == 5
    (shared / "stop").touch()
    assert ns.kij_train("wait", "second", cwd=project).returncode == 0


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
    team_a: None,
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
    team_a: None,
    project: Path,
    shared: Path,
    small_image: str,
    image: str,
    shared_folder: str,
) -> None:
    low, high = kueue.priority(ns, 1), kueue.priority(ns, 1000)
    flags = ["--nodes", "2", "--cpu", "0.4", "--queue", "team-a", "--queue-priority"]
    trains = Lasting(ns, image, Path(shared_folder), *flags, low, name="trains")
    before = trains.await_step(0, 0, 240)
    queued(
        ns,
        project,
        shared,
        small_image,
        "urgent",
        *("--nodes", "2", "--cpu", "0.4", "--queue-priority", high),
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


def test_an_array_is_admitted_in_part_and_does_all_its_items(
    ns: Namespace, team_a: None, project: Path, shared: Path, small_image: str
) -> None:
    (project / "item.py").write_text(WAITS)
    words = ["--image", small_image, "--name", "part", "--range", "0:6", "--parallelism", "4"]
    words += ["--cpu", "0.4", "--queue", "team-a", "--mount", f"hostpath:{shared}:/shared"]
    done = ns.kij_train("map", *words, "--detach", "item.py", "{item}", cwd=project)
    assert done.returncode == 0, done.stderr
    assert eventually(lambda: is_running(ns, "part"))
    refused = ns.kij_train("scale", "part", "3", cwd=project)
    assert refused.returncode == 3, refused.stderr
    assert "cannot change when partial admission is enabled" in refused.stderr
    (shared / "stop").touch()
    done = ns.kij_train("wait", "part", cwd=project)
    assert done.returncode == 0, done.stderr
    job = ns.batch.read_namespaced_job("part", ns.name)
    assert (job.status.succeeded, job.spec.completions, job.spec.parallelism) == (6, 6, 2)


@pytest.mark.parametrize("team_a", ["racks"], indirect=True)
def test_nodes_of_a_job_get_one_place_or_none(
    ns: Namespace, team_a: None, project: Path, shared: Path, small_image: str
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
    ns: Namespace, team_a: None, project: Path, shared: Path, small_image: str
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
    ns: Namespace, team_a: None, project: Path, shared: Path, small_image: str
) -> None:
    """A LocalQueue that is called default takes every Job that names none (Kueue 0.10)."""
    kueue.local(ns, "default")
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


def test_a_job_is_told_whether_the_nodes_that_its_queue_buys_are_coming(
    ns: Namespace, project: Path, shared: Path, small_image: str, nodes_bought: None
) -> None:
    def provisioned(conditions: dict[str, tuple[str, str]]) -> None:
        """Say of the newest request what an autoscaler says."""
        requests = api.list_namespaced_custom_object(*of, ns.name, "provisioningrequests")["items"]
        name = max(one["metadata"]["name"] for one in requests)
        said = [
            {"type": kind, "status": status, "reason": "Test", "message": message}
            | {"lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind, (status, message) in conditions.items()
        ]
        body = {"status": {"conditions": said}}
        api.patch_namespaced_custom_object_status(*of, ns.name, "provisioningrequests", name, body)

    def first(name: str = "bought") -> dict[str, Any]:
        findings = why(ns, name, project)["findings"]
        return dict(findings[0]) if findings else {}

    api, of = kueue.custom(ns), ("autoscaling.x-k8s.io", "v1")
    queued(ns, project, shared, small_image, "bought", "--nodes", "2", "--cpu", "0.2")
    assert eventually(lambda: first().get("kind") == "queue-check"), first()
    assert "no autoscaler has taken its request for nodes yet" in first()["summary"]
    accepted = ("True", "taken")
    provisioned({"Accepted": accepted, "Provisioned": ("False", "in about 20 minutes")})
    assert eventually(lambda: first().get("kind") == "node-coming"), first()
    assert "all its nodes are being bought together (best-effort-atomic" in first()["summary"]
    assert eventually(lambda: first()["evidence"] == ["in about 20 minutes"])
    provisioned({"Accepted": accepted, "Failed": ("True", "out of stock")})
    assert eventually(lambda: first().get("kind") == "no-node-coming"), first()
    assert first()["evidence"] == ["out of stock"]
    assert not is_running(ns, "bought")

    queued(ns, project, shared, small_image, "soon", "--cpu", "0.2")
    assert eventually(lambda: first("soon").get("kind") == "queue-check"), first("soon")
    provisioned({"Accepted": accepted, "Provisioned": ("True", "there")})
    assert eventually(lambda: is_running(ns, "soon"))


@pytest.fixture
def nodes_bought(ns: Namespace) -> Iterator[None]:
    """The queue of manifests/recipes/kueue-cluster-autoscaler.yaml, but of cores, without GPUs."""
    recipe = ROOT / "manifests/recipes/kueue-cluster-autoscaler.yaml"
    bodies = {body["kind"]: body for body in yaml.safe_load_all(recipe.read_text())}
    config, check = bodies["ProvisioningRequestConfig"]["spec"], bodies["AdmissionCheck"]["spec"]
    config["managedResources"] = ["cpu"]
    check["parameters"]["name"] = ns.name
    strategy = {"admissionChecks": [{"name": ns.name}]}
    kueue.create(ns, "ProvisioningRequestConfig", config)
    kueue.create(ns, "AdmissionCheck", check)
    kueue.make(ns, kueue.Quota("1", more={"admissionChecksStrategy": strategy}))
    yield
    for job in ns.batch.list_namespaced_job(ns.name).items:
        ns.delete_job(job.metadata.name)
    assert ns.empties(90), ns.left()
    kueue.remove(ns)
