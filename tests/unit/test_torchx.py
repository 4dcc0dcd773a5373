"""The TorchX schedulers without a cluster: what roles become, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torchx")

import yaml
from kij_train import names
from torchx.runner import Runner, get_runner
from torchx.schedulers import get_scheduler_factories
from torchx.specs import (
    AppDef,
    BindMount,
    DeviceMount,
    InvalidRunConfigException,
    Resource,
    RetryPolicy,
    Role,
    VolumeMount,
    macros,
)
from torchx.specs.finder import ComponentValidationException

ROOT = Path(__file__).parent.parent.parent
TORCHX = Path(sys.executable).parent / "torchx"

THEIRS = {
    "test_create_scheduler": "test_torchx_finds_both_schedulers",
    "test_app_to_resource_resolved_macros": "test_macros_become_what_a_pod_knows",
    "test_rank0_env": "test_every_replica_knows_where_rank_0_is",
    "test_retry_policy_not_set": "test_retries_become_the_backoff_limit",
    "test_role_to_pod": "test_a_role_is_an_indexed_job",
    "test_cleanup_str": "test_any_app_name_becomes_a_job_name",
    "test_submit_dryrun": "test_the_dry_run_is_the_yaml_that_would_be_sent",
    "test_volume_mounts": "test_mounts_become_volumes",
    "test_device_mounts": "test_device_mounts_are_refused",
    "test_resource_devices": "test_resources_become_requests_limits_and_node_labels",
    "test_instance_type": "test_resources_become_requests_limits_and_node_labels",
    "test_submit_dryrun_patch": "test_a_workspace_is_shipped_without_an_image_build",
    "test_submit_dryrun_service_account": "test_run_options_reach_the_pods",
    "test_submit_dryrun_priority_class": "test_run_options_reach_the_pods",
    "test_runopts": "test_run_options_are_documented",
    "test_min_replicas": "test_all_replicas_are_made_whatever_the_minimum",
}
"""TorchX's own tests of its Kubernetes scheduler, and ours of the same. What they do to a cluster
with a mocked client (submit, describe, list, cancel, log) tests/node/test_torchx.py does to one."""


@pytest.fixture
def runner() -> Iterator[Runner]:
    """As `torchx run` makes it."""
    with get_runner() as made:
        yield made


@pytest.fixture
def dryrun(runner: Runner) -> Callable[..., dict[str, Any]]:
    """The Job of an app of one role."""

    def render(role: Role, **cfg: Any) -> dict[str, Any]:
        return jobs_of(runner, AppDef("app", roles=[role]), **cfg)[0]

    return render


def jobs_of(runner: Runner, app: AppDef, **cfg: Any) -> list[dict[str, Any]]:
    """Every Job that the app would be."""
    info = runner.dryrun(app, "kij_train", cfg=cfg)
    return [body for body in yaml.safe_load_all(str(info)) if body["kind"] == "Job"]


def a_role(**fields: Any) -> Role:
    """A role with what most tests do not care about."""
    return Role(**{"name": "trainer", "image": "img:1", "entrypoint": "prog", **fields})


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    """The only container."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def env_of(job: dict[str, Any]) -> dict[str, Any]:
    """Its variables with a value of their own."""
    return {each["name"]: each.get("value") for each in container_of(job)["env"]}


def test_every_one_of_theirs_has_ours() -> None:
    assert set(THEIRS.values()) <= globals().keys()


def test_torchx_finds_both_schedulers() -> None:
    assert {"kij_train", "local_kij_train"} <= get_scheduler_factories().keys()


def test_a_role_is_an_indexed_job(dryrun: Callable[..., dict[str, Any]]) -> None:
    job = dryrun(a_role(num_replicas=3, args=["a", "$HOME"], env={"A": "$B"}), namespace="ml")
    assert job["metadata"]["namespace"] == "ml"
    assert (job["spec"]["completions"], job["spec"]["completionMode"]) == (3, "Indexed")
    assert container_of(job)["image"] == "img:1"
    assert container_of(job)["args"] == ["--no-torchrun", "--no-python", "prog", "a", "$$HOME"]
    assert env_of(job)["A"] == "$$B"
    assert job["metadata"]["labels"][names.APP] == job["metadata"]["name"]
    assert job["metadata"]["annotations"][names.ROLE] == "trainer"


def test_macros_become_what_a_pod_knows(dryrun: Callable[..., dict[str, Any]]) -> None:
    role = a_role(
        args=[macros.replica_id, macros.app_id, macros.img_root, "$${HOME}", "${SHELL_VARIABLE}"],
        env={"WHO": f"replica {macros.replica_id}"},
    )
    job = dryrun(role)
    arguments = container_of(job)["args"][3:]
    name = job["metadata"]["name"]
    assert arguments == ["$(NODE_RANK)", name, "", "$${HOME}", "$${SHELL_VARIABLE}"]
    assert env_of(job)["WHO"] == "replica $(NODE_RANK)"
    assert container_of(job)["env"][0]["name"] == "NODE_RANK"


def test_a_misspelt_macro_is_refused(dryrun: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ComponentValidationException, match=r"Did you mean \$\{replica_id\}"):
        dryrun(a_role(args=["${replica_ids}"]))


def test_every_replica_knows_where_rank_0_is(runner: Runner) -> None:
    app = AppDef(
        "app",
        roles=[
            a_role(args=[macros.rank0_env], num_replicas=2, port_map={"c10d": 29501}),
            a_role(name="ps", args=[macros.rank0_env]),
        ],
    )
    first, second = jobs_of(runner, app)
    assert "--await-rank0" in container_of(first)["args"]
    assert env_of(first)["MASTER_PORT"] == "29501"
    assert container_of(first)["args"][-1] == container_of(second)["args"][-1] == "KIJ_RANK0_HOST"
    name = first["metadata"]["name"]
    assert "KIJ_RANK0_HOST" not in env_of(first)  # of the bootstrap: it differs from pod to pod
    assert env_of(second)["KIJ_RANK0_HOST"] == f"{name}-0.{name}"


def test_several_roles_are_several_jobs_of_one_app(runner: Runner) -> None:
    app = AppDef("app", roles=[a_role(), a_role(name="ps", num_replicas=2)])
    first, second = jobs_of(runner, app)
    assert first["metadata"]["labels"][names.APP] == second["metadata"]["labels"][names.APP]
    assert second["metadata"]["annotations"][names.ROLE_INDEX] == "1"
    assert second["spec"]["completions"] == 2


def test_roles_that_cannot_be_told_apart_are_refused(runner: Runner) -> None:
    app = AppDef("app", roles=[a_role(name="a b"), a_role(name="a-b")])
    with pytest.raises(ComponentValidationException, match="would both be the job app-a-b-"):
        runner.dryrun(app, "kij_train")


def test_retries_become_the_backoff_limit(dryrun: Callable[..., dict[str, Any]]) -> None:
    def limit(**fields: Any) -> int:
        return int(dryrun(a_role(num_replicas=4, **fields))["spec"]["backoffLimit"])

    assert limit() == 0
    assert limit(max_retries=2) == 8
    assert limit(max_retries=2, retry_policy=RetryPolicy.REPLICA) == 2
    other = next(policy for policy in RetryPolicy if policy.value in ("HOT_SPARE", "ROLE"))
    with pytest.raises(ComponentValidationException, match="cannot do the retry policy"):
        limit(max_retries=2, retry_policy=other)


def test_all_replicas_are_made_whatever_the_minimum(dryrun: Callable[..., dict[str, Any]]) -> None:
    assert dryrun(a_role(num_replicas=4, min_replicas=2))["spec"]["parallelism"] == 4


@pytest.mark.parametrize("name", ["My App!", "9lives", "x" * 90, "ä"])
def test_any_app_name_becomes_a_job_name(runner: Runner, name: str) -> None:
    (job,) = jobs_of(runner, AppDef(name, roles=[a_role(num_replicas=1000)]))
    made = job["metadata"]["name"]
    assert names.check_job_name(made, 1000) == made


def test_mounts_become_volumes(dryrun: Callable[..., dict[str, Any]]) -> None:
    job = dryrun(
        a_role(mounts=[BindMount("/mnt/x", "/x", read_only=True), VolumeMount("data", "/data")])
    )
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert volumes["mount-0"]["hostPath"] == {"path": "/mnt/x"}
    assert volumes["mount-1"]["persistentVolumeClaim"] == {"claimName": "data"}
    mounted = {mount["name"]: mount for mount in container_of(job)["volumeMounts"]}
    assert mounted["mount-0"] == {"name": "mount-0", "mountPath": "/x", "readOnly": True}
    assert mounted["mount-1"] == {"name": "mount-1", "mountPath": "/data"}


def test_device_mounts_are_refused(dryrun: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ComponentValidationException, match="privileged pods"):
        dryrun(a_role(mounts=[DeviceMount("/dev/fuse", "/dev/fuse")]))


def test_resources_become_requests_limits_and_node_labels(
    dryrun: Callable[..., dict[str, Any]],
) -> None:
    kind = "node.kubernetes.io/instance-type"
    resource = Resource(
        cpu=8,
        gpu=2,
        memMB=16000,
        capabilities={kind: "p4d", "arch": "a100"},
        devices={"vpc.amazonaws.com/efa": 4},
    )
    job = dryrun(a_role(resource=resource))
    expected = {
        "cpu": "8",
        "memory": "16000M",
        "nvidia.com/gpu": "2",
        "vpc.amazonaws.com/efa": "4",
    }
    resources = container_of(job)["resources"]
    assert resources["limits"] == resources["requests"] == expected
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {kind: "p4d"}


def test_a_mig_slice_is_a_device(dryrun: Callable[..., dict[str, Any]]) -> None:
    resource = Resource(cpu=1, gpu=0, memMB=1000, devices={"nvidia.com/mig-1g.5gb": 1})
    limits = container_of(dryrun(a_role(resource=resource)))["resources"]["limits"]
    assert limits["nvidia.com/mig-1g.5gb"] == "1"
    assert "nvidia.com/gpu" not in limits


def test_a_role_without_resources_asks_for_none(dryrun: Callable[..., dict[str, Any]]) -> None:
    assert "resources" not in container_of(dryrun(a_role()))


def test_ports_of_the_port_map_are_the_containers(dryrun: Callable[..., dict[str, Any]]) -> None:
    job = dryrun(a_role(port_map={"c10d": 29500, "Tensor Board, the second": 6006}))
    assert container_of(job)["ports"] == [
        {"name": "rendezvous", "containerPort": 29500},
        {"name": "tensor-board-th", "containerPort": 6006},
    ]
    assert "--await-rank0" not in container_of(job)["args"]  # one replica waits for nobody


def test_apps_on_one_machine_meet_at_ports_of_their_own(runner: Runner) -> None:
    def endpoint() -> str:
        arguments = ["-j", "2x1", "--script", "train.py"]
        info = runner.dryrun_component("dist.ddp", arguments, "local_kij_train")
        (spec,) = info.request.specs.values()
        match = re.search(r"--rdzv_endpoint \$\{KIJ_RANK0_HOST:=localhost\}:(\d+) ", spec.args[1])
        assert match is not None and int(match[1]) == spec.port
        return match[1]

    assert endpoint() != "29500"


def test_run_options_reach_the_pods(dryrun: Callable[..., dict[str, Any]]) -> None:
    job = dryrun(
        a_role(),
        service_account="trainer",
        priority_class="high",
        queue="team-a",
        env_from_secrets=["wandb"],
        tolerations=["spot"],
        node_selector={"pool": "a"},
        ttl="1h",
        run_as_user=1000,
    )
    pod = job["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("trainer", "high")
    assert job["metadata"]["labels"][names.QUEUE] == "team-a"
    assert container_of(job)["envFrom"] == [{"secretRef": {"name": "wandb"}}]
    assert pod["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert pod["nodeSelector"] == {"pool": "a"}
    assert job["spec"]["ttlSecondsAfterFinished"] == 3600
    assert pod["securityContext"]["runAsUser"] == 1000


def test_metadata_of_a_role_are_fields_of_the_spec(dryrun: Callable[..., dict[str, Any]]) -> None:
    job = dryrun(a_role(metadata={"kij_train.shm": "2Gi", "kubernetes.x": "theirs"}), shm="1Gi")
    volumes = {volume["name"]: volume for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"]["sizeLimit"] == "2Gi"
    with pytest.raises(ComponentValidationException, match=r"kij_train\.shmm.*shm"):
        dryrun(a_role(metadata={"kij_train.shmm": "2Gi"}))


def test_metadata_of_the_app_are_annotations(runner: Runner) -> None:
    app = AppDef("app", roles=[a_role()], metadata={"owner": "me", "example.com/x": "y"})
    (job,) = jobs_of(runner, app)
    notes = job["metadata"]["annotations"]
    assert (notes["torchx.pytorch.org/owner"], notes["example.com/x"]) == ("me", "y")


def test_the_stock_image_gives_way_to_ours(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def image(*args: str, **cfg: Any) -> str:
        info = runner.dryrun_component("utils.echo", list(args), "kij_train", cfg=cfg)
        (job,) = (body for body in yaml.safe_load_all(str(info)) if body["kind"] == "Job")
        return str(container_of(job)["image"])

    assert image().startswith("pytorch/pytorch:")
    assert image(image="mine:1") == "mine:1"
    monkeypatch.setenv("KIJ_IMAGE", "from-env:1")
    assert image() == "from-env:1"
    assert image("--image", "component:1", image="mine:1") == "component:1"


def test_the_dry_run_is_the_yaml_that_would_be_sent(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)\n")
    info = runner.dryrun_component(
        "dist.ddp",
        ["-j", "2x2", "--script", "train.py"],
        "kij_train",
        workspace=str(tmp_path) if newer() else f"file://{tmp_path}",
    )
    objects = list(yaml.safe_load_all(str(info)))
    kinds = [body["kind"] for body in objects]
    assert kinds == ["ConfigMap", "Service", "NetworkPolicy", "Job"]
    assert objects == info.request.jobs[0].objects
    command = container_of(objects[-1])["args"][-1]
    assert "--rdzv_endpoint $${KIJ_RANK0_HOST:=localhost}:29500" in command
    assert command.endswith("--role '' train.py")


def newer() -> bool:
    """Whether this TorchX has several folders in a workspace, and paths instead of URLs."""
    return hasattr(Role, "workspace") or "workspace" in Role.__dataclass_fields__


def test_a_workspace_is_shipped_without_an_image_build(runner: Runner, tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/notebook/main.py", b"print(1)\n")
    try:
        info = runner.dryrun(
            AppDef("app", roles=[a_role()]), "kij_train", workspace="memory://notebook"
        )
    except Exception:
        if newer():
            pytest.skip("this TorchX knows folders only")
        raise
    assert "code.tar.xz.000" in info.request.jobs[0].objects[0]["binaryData"]
    assert container_of(info.request.jobs[0].objects[-1])["image"] == "img:1"


def test_without_a_workspace_no_code_is_shipped(dryrun: Callable[..., dict[str, Any]]) -> None:
    assert "KIJ_CODE_SHA256" not in env_of(dryrun(a_role()))


def test_folders_of_a_newer_workspace_become_one(runner: Runner, tmp_path: Path) -> None:
    if not newer():
        pytest.skip("this TorchX has workspaces of one folder")
    from torchx.specs import Workspace

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text("")
    role = a_role(workspace=Workspace({str(tmp_path / "one"): "", str(tmp_path / "two"): "sub"}))
    info = runner.dryrun(AppDef("app", roles=[role]), "kij_train")
    folder = Path(info.app.roles[0].metadata["kij_train.workspace"])
    assert {path.name for path in folder.rglob("*.py")} == {"one.py", "two.py"}


def test_an_unknown_run_option_is_refused(runner: Runner) -> None:
    with pytest.raises(InvalidRunConfigException, match="Did you mean 'namespace'"):
        runner.dryrun(AppDef("app", roles=[a_role()]), "kij_train", cfg={"namespce": "ml"})


def test_run_options_are_documented(runner: Runner) -> None:
    text = str(runner.scheduler_run_opts("kij_train"))
    for option, help_text in (
        ("namespace", "context's when not given"),
        ("tolerations", "kubectl taint"),
        ("profile", "kij-train profiles"),
    ):
        assert option in text and help_text in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run -s kij_train -cfg namespce=ml utils.echo", "Did you mean 'namespace'"),
        ("run -s kij_train -cfg namespace=M_L utils.echo", "-cfg namespace M_L is no namespace"),
        ("run -s kij_train utils.echo", "no kubeconfig"),
        ("run -s kij_train utils.sh -h nosuch ls", "nosuch"),
        ("status kij_train://torchx/ns:nosuch", "no kubeconfig"),
        ("list -s kij_train", "no kubeconfig"),
        ("cancel kij_train://torchx/ns:nosuch", "no kubeconfig"),
        ("log kij_train://torchx/ns:nosuch/role/0", "no kubeconfig"),
    ],
)
def test_the_command_line_refuses_without_a_traceback(
    arguments: str, message: str, tmp_path: Path
) -> None:
    answer = subprocess.run(
        [str(TORCHX), *arguments.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 1
    assert message in answer.stderr
    if "nosuch ls" not in arguments:  # TorchX's own refusal, before it asks us
        assert "Traceback" not in answer.stderr


def test_torchxconfig_is_honoured(tmp_path: Path) -> None:
    (tmp_path / ".torchxconfig").write_text("[kij_train]\nnamespace = from-file\nimage = img:2\n")
    answer = subprocess.run(
        [str(TORCHX), "run", "-s", "kij_train", "--dryrun", "utils.echo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    assert 'image: "img:2"' in answer.stdout and "namespace: from-file" in answer.stdout
