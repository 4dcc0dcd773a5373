"""Training jobs for clusters with another operator, run by the real JobSet and Trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests import operators
from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.kube import Namespace, eventually

pytestmark = [pytest.mark.controllers, pytest.mark.own_cluster]
KINDS = {
    "jobset": ("jobset.x-k8s.io", "v1alpha2", "jobsets"),
    "trainjob": ("trainer.kubeflow.org", "v1alpha1", "trainjobs"),
}
RANKS = """\
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.tensor([float(dist.get_rank())])
dist.all_reduce(x)
same = [("PET_NNODES", "NNODES"), ("PET_MASTER_ADDR", "MASTER_ADDR")]
told = all(os.environ.get(theirs, os.environ[ours]) == os.environ[ours] for theirs, ours in same)
print(f"rank {dist.get_rank()} of {dist.get_world_size()} has {x.item():.0f}, told alike: {told}")
print("by Trainer" if "PET_NNODES" in os.environ else "by JobSet")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module", autouse=True)
def controllers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        operators.running("jobset", tmp_path_factory.mktemp("jobset")),
        operators.running("trainer", tmp_path_factory.mktemp("trainer")),
    ):
        yield


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(RANKS)
    (folder / "fails.py").write_text(
        "import os\nif os.environ['RANK'] == '1':\n    raise ValueError('bad batch')\n"
    )
    return folder


def state() -> State:
    found = State.of_running(StatePaths.of_this_clone())
    assert found is not None
    return found


def rendered(ns: Namespace, form: str, cwd: Path, *words: str) -> list[dict[str, Any]]:
    given = ["--format", form, "-o", "json", "--name", "job", *words]
    done = ns.kij_train("render", *given, cwd=cwd)
    assert done.returncode == 0, done.stderr
    items = json.loads(done.stdout)["items"]
    assert isinstance(items, list)
    return items


def condition(ns: Namespace, form: str, *types: str) -> str:
    """Which of these conditions is true of the operator's object; "" for none."""
    group, version, plural = KINDS[form]
    api = client.CustomObjectsApi(ns.api)
    body: Any = api.get_namespaced_custom_object(group, version, ns.name, plural, "job")
    there = [
        one["type"]
        for one in body.get("status", {}).get("conditions", ())
        if one["status"] == "True"
    ]
    return next((one for one in types if one in there), "")


ENDS = {"jobset": ("Completed", "Failed"), "trainjob": ("Complete", "Failed")}


@pytest.mark.parametrize("form", KINDS)
def test_ranks_are_initialised_by_the_names_of_the_operator(
    ns: Namespace, form: str, project: Path, image: str
) -> None:
    words = ("--image", image, "--nodes", "2", "--nproc-per-node", "2", "--cpu", "0.4", "train.py")
    operators.apply(state(), rendered(ns, form, project, *words))
    assert eventually(lambda: condition(ns, form, *ENDS[form]) != "", 240)
    assert condition(ns, form, *ENDS[form]) == ENDS[form][0]
    selector = "batch.kubernetes.io/job-name=job-node-0"
    pods = ns.core.list_namespaced_pod(ns.name, label_selector=selector).items
    logs = [ns.core.read_namespaced_pod_log(pod.metadata.name, ns.name) for pod in pods]
    for rank in range(4):
        assert sum(f"rank {rank} of 4 has 6, told alike: True" in log for log in logs) == 1, logs
    by = "by Trainer" if form == "trainjob" else "by JobSet"
    assert all(by in log for log in logs)
    (service,) = (one.metadata.name for one in ns.core.list_namespaced_service(ns.name).items)
    assert service == "job"


@pytest.mark.parametrize("form", KINDS)
def test_a_failing_rank_fails_the_whole_and_why_names_it(
    ns: Namespace, form: str, project: Path, image: str
) -> None:
    words = ("--image", image, "--nodes", "2", "fails.py")
    operators.apply(state(), rendered(ns, form, project, *words))
    assert eventually(lambda: condition(ns, form, *ENDS[form]) == "Failed", 240)
    said = ns.kij_train("why", "job-node-0", cwd=project)
    assert "ValueError: bad batch" in said.stdout
    logs = ns.kij_train("logs", "job-node-0", "--index", "1", cwd=project)
    assert "ValueError: bad batch" in logs.stdout, logs.stderr
    refused = ns.kij_train("delete", "job-node-0", "--yes", cwd=project)
    assert "was not made by kij-train" in refused.stderr


@pytest.mark.slow
def test_a_jobset_of_a_gang_trains_on_after_a_lost_pod(
    ns: Namespace, project: Path, image: str, shared_folder: str
) -> None:
    folder = Path(shared_folder) / ns.name
    folder.mkdir()
    folder.chmod(0o777)
    (project / "lasts.py").write_text(
        "import os, pathlib, time, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "shared = pathlib.Path('/shared')\n"
        "(shared / f'up{os.environ[\"KIJ_RESTARTS\"]}-{dist.get_rank()}').touch()\n"
        "while not (shared / 'stop').exists(): time.sleep(0.2)\n"
        "dist.destroy_process_group()\n"
    )
    words = ["--image", image, "--nodes", "2", "--restart", "gang"]
    words += ["--mount", f"hostpath:{folder}:/shared", "lasts.py"]
    operators.apply(state(), rendered(ns, "jobset", project, *words))
    assert eventually(lambda: len(list(folder.glob("up0-*"))) == 2, 240)
    pod = ns.core.list_namespaced_pod(ns.name).items[0].metadata.name
    ns.core.delete_namespaced_pod(pod, ns.name, grace_period_seconds=0)
    assert eventually(lambda: len(list(folder.glob("up1-*"))) == 2, 240)
    (folder / "stop").touch()
    assert eventually(lambda: condition(ns, "jobset", "Completed") != "", 240)


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize(
    "words",
    [
        "--nodes 8 --gpus 4 --memory 64Gi --queue team-a --queue-priority high --grace 2m",
        "--nodes 2 --run-as-user 1000 --read-only-root --mount pvc:data:/data:ro --spread",
        "--nodes 2 --fetch https://hub.example/m:/m --env A=$HOME --timeout 1h",
    ],
)
def test_the_server_takes_every_field(ns: Namespace, form: str, words: str, project: Path) -> None:
    objects = rendered(ns, form, project, *words.split(), "train.py")
    # Trainer looks for the runtime of a TrainJob.
    operators.apply(state(), objects[:-1])
    operators.apply(state(), objects[-1:], "--dry-run=server")
