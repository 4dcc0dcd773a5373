"""Profiles, kinds of GPU, queues, gangs and places: what a cluster admin would expect to see."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from kij_train import jobs, profiles, render
from kij_train.cli import main
from kij_train.cluster.served import as_served
from kij_train.diagnosis import JobView
from kij_train.errors import RefusedError
from kij_train.spec import JobSpec, parse_topology
from kij_train.specfile import Layer, Profile, resolve

from tests import goldens

CODE = render.Code("print('bootstrap')\n")


def rendered(**fields: Any) -> list[dict[str, Any]]:
    spec = JobSpec.model_validate({"script": "a.py", **fields})
    return render.render(spec, name="job", code=CODE)


def pod(**fields: Any) -> dict[str, Any]:
    template: dict[str, Any] = rendered(**fields)[-1]["spec"]["template"]
    return template


def container(**fields: Any) -> dict[str, Any]:
    first: dict[str, Any] = pod(**fields)["spec"]["containers"][0]
    return first


# --- profiles -------------------------------------------------------------------------------------

UNSAFE = ("NCCL_NET", "NCCL_PROTO", "NCCL_ALGO", "RDMAV_", "NVIDIA_")


@pytest.mark.parametrize("name", profiles.builtin_profiles())
def test_every_profile_says_why_by_which_source_and_what_it_needs(
    tmp_path: Path, name: str
) -> None:
    profile = Profile.find(name, tmp_path)
    assert profile.description
    assert profile.source.startswith("https://")
    assert profile.needs
    sets: set[str] = {"max_nodes"} if profile.max_nodes else set()
    for field, value in profile.spec.items():
        sets |= {f"{field}.{key}" for key in value} if isinstance(value, dict) else {field}
    assert set(profile.why) == sets
    resolved = resolve(Layer({"script": "a.py"}), environ={}, cwd=tmp_path, profile=name)
    assert resolved.origin((next(iter(profile.spec)),)) == f"profile {name}"
    assert not any(key.startswith(UNSAFE) for key in resolved.spec.env)
    render.render(resolved.spec, name="job", code=CODE)


def test_tcp_turns_rdma_off_and_touches_nothing_else(tmp_path: Path) -> None:
    assert Profile.find("tcp", tmp_path).spec == {"env": {"NCCL_IB_DISABLE": "1"}}


def test_every_profile_has_a_manifest() -> None:
    assert set(profiles.builtin_profiles()) <= set(goldens.GOLDENS)


def test_a_profile_of_one_node_is_refused_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").touch()
    assert main(["render", "--profile", "nvlink", "--nodes", "2", "a.py"]) == 2
    err = capsys.readouterr().err
    assert "profile nvlink is for 1 node at most, and --nodes asks for 2: it keeps NCCL off" in err
    assert "kij-train profiles" in err
    assert main(["render", "--profile", "nvlink", "a.py"]) == 0
    for text in ("max_nodes = 0\n[spec]", "max_nodes = true\n[spec]", 'max_nodes = "1"\n[spec]'):
        (tmp_path / "p.toml").write_text(text)
        assert main(["render", "--profile", "p.toml", "a.py"]) == 2
        assert "max_nodes must be a whole number, at least 1" in capsys.readouterr().err


def test_no_setting_of_a_fabric_is_a_default() -> None:
    env = [variable["name"] for variable in container(gpus=8, nodes=2)["env"]]
    assert [name for name in env if name.startswith(("NCCL_", "FI_", "GLOO_"))] == ["NCCL_DEBUG"]
    assert container(gpus=8)["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_efa_asks_for_its_adapters_and_rdma_for_locked_memory(tmp_path: Path) -> None:
    def of(name: str) -> dict[str, Any]:
        layer = Layer({"script": "a.py", "gpus": 8})
        spec = resolve(layer, environ={}, cwd=tmp_path, profile=name).spec
        job = render.render(spec, name="job", code=CODE)[-1]
        first: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
        return first

    assert of("efa")["resources"]["limits"] == {
        "nvidia.com/gpu": "8",
        "vpc.amazonaws.com/efa": "4",
    }
    assert of("ib")["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    env = {variable["name"]: variable.get("value") for variable in of("gke-gib")["env"]}
    assert env["KIJ_SOURCE_SCRIPT"] == "/usr/local/gib/scripts/set_nccl_env.sh"


def test_users_have_profiles_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kij-train.toml").write_text(
        '[profiles.big]\nshm = "64Gi"\n'
        '[profiles.tcp]\ndescription = "ours"\n[profiles.tcp.spec.env]\nX = "1"\n'
    )
    (tmp_path / "mine.toml").write_text(
        'description = "of a file"\n[why]\n"env.A" = "because"\n[spec.env]\nA = "1"\n'
    )
    assert main(["profiles"]) == 0
    out = capsys.readouterr().out
    assert "big" in out
    assert [line.split()[1:] for line in out.splitlines() if line.startswith("tcp")] == [
        ["project", "file", "ours"]
    ]
    assert main(["profiles", "show", "mine.toml"]) == 0
    assert "env.A = 1\n      because" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["spec = 3", "needs = 3\n[spec]", "why = 3\n[spec]"])
def test_a_profile_of_the_wrong_shape_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.toml").write_text(text)
    assert main(["profiles", "show", "p.toml"]) == 2
    assert "spec and why must be tables" in capsys.readouterr().err


# --- kinds of GPU ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "resource", "taint"),
    [
        ("whole", "nvidia.com/gpu", "nvidia.com/gpu"),
        ("mig-1g.5gb", "nvidia.com/mig-1g.5gb", "nvidia.com/gpu"),
        ("mig-1g.10gb.me", "nvidia.com/mig-1g.10gb.me", "nvidia.com/gpu"),
        ("shared", "nvidia.com/gpu.shared", "nvidia.com/gpu"),
        ("amd", "amd.com/gpu", "amd.com/gpu"),
    ],
)
def test_each_kind_has_its_resource(kind: str, resource: str, taint: str) -> None:
    template = pod(gpus=1, gpu_kind=kind)["spec"]
    resources = template["containers"][0]["resources"]
    assert resources == {"requests": {resource: "1"}, "limits": {resource: "1"}}
    assert template["tolerations"] == [{"key": taint, "operator": "Exists"}]


def test_dra_is_a_claim_and_no_counted_resource() -> None:
    objects = rendered(gpus=4, gpu_kind="dra")
    template = next(body for body in objects if body["kind"] == "ResourceClaimTemplate")
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["count"] == 4
    spec = objects[-1]["spec"]["template"]["spec"]
    assert spec["resourceClaims"] == [{"name": "gpus", "resourceClaimTemplateName": "job"}]
    assert spec["containers"][0]["resources"] == {"claims": [{"name": "gpus"}]}
    assert {"name": "WORLD_SIZE", "value": "4"} in spec["containers"][0]["env"]


@pytest.mark.parametrize("kind", ["whole", "mig-1g.5gb", "shared", "amd", "dra"])
def test_list_counts_gpus_of_every_kind(kind: str) -> None:
    gpus = 1 if kind == "shared" else 2
    job = rendered(nodes=3, gpus=gpus, gpu_kind=kind, placement="spread")[-1]
    job["metadata"] |= {"namespace": "ml", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    assert jobs.summary_of(JobView(job)).gpus == 3 * gpus


def test_a_kind_without_gpus_changes_nothing() -> None:
    assert rendered(gpu_kind="dra")[-1]["spec"] == rendered()[-1]["spec"]


def test_shared_gpus_are_for_one_rank_a_machine() -> None:
    assert pod(gpus=1, nodes=2, gpu_kind="shared", placement="spread")["spec"]["affinity"]


# --- queues, gangs, places ------------------------------------------------------------------------


def test_a_queued_job_stays_suspended_for_kueue() -> None:
    asked = {"queue": "team-a", "queue_priority": "high", "topology": "rack:required"}
    job = rendered(nodes=2, **asked)[-1]
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    template = job["spec"]["template"]
    assert "kueue.x-k8s.io/priority-class" not in template["metadata"]["labels"]
    assert "kueue.x-k8s.io/queue-name" not in template["metadata"]["labels"]
    assert template["metadata"]["annotations"] == {
        "kueue.x-k8s.io/podset-required-topology": "cloud.provider.com/topology-rack"
    }
    assert "affinity" not in template["spec"]


def test_without_a_queue_nothing_is_suspended() -> None:
    assert "suspend" not in rendered(nodes=2)[-1]["spec"]


def test_volcano_reads_the_gang_from_the_job() -> None:
    objects = rendered(nodes=8, scheduler="volcano", queue="team-a")
    job = objects[-1]
    assert job["metadata"]["annotations"]["scheduling.volcano.sh/group-min-member"] == "8"
    template = job["spec"]["template"]
    assert template["spec"]["schedulerName"] == "volcano"
    assert template["metadata"]["annotations"] == {"scheduling.volcano.sh/queue-name": "team-a"}
    assert "suspend" not in job["spec"]


@pytest.mark.parametrize(
    ("scheduler", "version"),
    [
        ("coscheduling", "scheduling.x-k8s.io/v1alpha1"),
        ("native", "scheduling.k8s.io/v1beta1"),
    ],
)
def test_a_gang_is_a_pod_group_of_all_nodes(scheduler: str, version: str) -> None:
    objects = rendered(nodes=8, scheduler=scheduler)
    group = next(body for body in objects if body["kind"] == "PodGroup")
    assert (group["apiVersion"], group["metadata"]["name"]) == (version, "job")
    template = objects[-1]["spec"]["template"]
    if scheduler == "native":
        assert group["spec"] == {"schedulingPolicy": {"gang": {"minCount": 8}}}
        assert template["spec"]["schedulingGroup"] == {"podGroupName": "job"}
    else:
        assert group["spec"] == {"minMember": 8, "scheduleTimeoutSeconds": 600}
        assert template["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] == "job"
        assert template["spec"]["schedulerName"] == "scheduler-plugins-scheduler"


SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "scheduler_schemas.json").read_text())


def read_by(system: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The object that a scheduler reads."""
    kind = "PodGroup" if system == "coscheduling" else "Job"
    return next(body for body in objects if body["kind"] == kind)


@pytest.mark.parametrize("nodes", [1, 8, 100_000])
@pytest.mark.parametrize("topology", [None, "rack:required", "zone", "example.com/spine:preferred"])
@pytest.mark.parametrize(
    ("system", "fields"),
    [
        ("coscheduling", {"scheduler": "coscheduling"}),
        ("coscheduling", {"scheduler": "coscheduling", "rendezvous_timeout": "2d"}),
        ("volcano", {"scheduler": "volcano"}),
        ("volcano", {"scheduler": "volcano", "queue": "team-a"}),
        ("kueue", {"queue": "team-a"}),
        ("kueue", {"queue": "team-a.gpu", "gpus": 8, "placement": "pack"}),
    ],
)
def test_what_a_scheduler_reads_is_as_its_documents_say(
    system: str, fields: dict[str, Any], topology: str | None, nodes: int
) -> None:
    objects = rendered(nodes=nodes, topology=topology, **fields)
    jsonschema.validate(read_by(system, objects), SCHEMAS[system])


@pytest.mark.parametrize(
    ("system", "path", "value"),
    [
        ("coscheduling", "spec.minMember", 0),
        ("coscheduling", "spec.minMember", "2"),
        ("coscheduling", "spec.minMembers", 2),
        ("volcano", "metadata.annotations", {}),
        ("volcano", "metadata.annotations", {"scheduling.volcano.sh/group-min-member": "0"}),
        ("volcano", "spec.template.spec.schedulerName", "default"),
        ("kueue", "spec.suspend", False),
        ("kueue", "metadata.labels", {}),
        ("kueue", "spec.template.metadata.labels", {"kueue.x-k8s.io/queue-name": "a"}),
    ],
)
def test_the_schemas_refuse_what_those_schedulers_would_not_understand(
    system: str, path: str, value: object
) -> None:
    scheduler = None if system == "kueue" else system
    queue = "a" if system == "kueue" else None
    body = copy.deepcopy(read_by(system, rendered(nodes=2, scheduler=scheduler, queue=queue)))
    *parents, last = path.split(".")
    at = body
    for key in parents:
        at = at[key]
    at[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, SCHEMAS[system])


class Server:
    """Says which versions it has; None: says that one may not ask."""

    def __init__(self, versions: list[str] | None) -> None:
        self._versions = versions
        self.requests = 0

    def versions(self, group: str) -> set[str]:
        assert group == "scheduling.k8s.io"
        self.requests += 1
        if self._versions is None:
            raise RefusedError("no")
        return set(self._versions)


@pytest.mark.parametrize(
    ("versions", "taken"),
    [
        (["v1", "v1alpha3", "v1beta1"], "v1beta1"),
        (["v1", "v1alpha3"], "v1alpha3"),
        (["v1", "v1alpha2"], "v1alpha2"),
        (["v1"], "v1beta1"),
        ([], "v1beta1"),
        (None, "v1beta1"),
    ],
)
def test_the_native_pod_group_is_sent_in_the_version_of_the_server(
    versions: list[str] | None, taken: str
) -> None:
    objects = rendered(nodes=8, scheduler="native")
    server: Any = Server(versions)
    sent = as_served(server, objects)
    assert server.requests == 1
    changed = [body for body in sent if body not in objects]
    assert [body["kind"] for body in changed] == ["PodGroup"] * (taken != "v1beta1")
    group = next(body for body in sent if body["kind"] == "PodGroup")
    assert group["apiVersion"] == f"scheduling.k8s.io/{taken}"


@pytest.mark.parametrize(("minor", "has_reserve"), [("37", True), ("33+", True), ("32", False)])
def test_a_job_that_restarts_has_a_reserve_where_the_server_is_new_enough(
    minor: str, has_reserve: bool
) -> None:
    objects = rendered(nodes=2, spares=1, restart="gang", max_restarts=5)
    server: Any = SimpleNamespace(version=lambda: {"minor": minor})
    job = JobView(as_served(server, objects)[-1])
    assert (job.size, job.reserve) == (3, 5 if has_reserve else 0)
    if not has_reserve:
        policy = job.raw["spec"]
        assert (policy["completions"], policy["parallelism"]) == (3, 3)
        assert policy["backoffLimit"] == policy["backoffLimitPerIndex"] == 5
        assert "maxFailedIndexes" not in policy
        assert JobView(objects[-1]).reserve == 5  # what was rendered is as it was


@pytest.mark.parametrize("scheduler", [None, "volcano", "coscheduling"])
def test_nothing_is_asked_for_other_schedulers(scheduler: str | None) -> None:
    objects = rendered(nodes=2, scheduler=scheduler)
    server: Any = Server(["v1"])
    assert as_served(server, objects) is objects
    assert server.requests == 0


def test_render_says_for_which_version_the_native_pod_group_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").touch()
    assert main(["render", "--nodes", "2", "--scheduler", "native", "a.py"]) == 0
    assert "written for scheduling.k8s.io/v1beta1, Kubernetes 1.37" in capsys.readouterr().err
    assert main(["launch", "--dry-run=client", "--scheduler", "native", "a.py"]) == 0
    assert "written for scheduling.k8s.io/v1beta1" in capsys.readouterr().err


def test_places_are_affinities_to_the_pods_of_the_job() -> None:
    term = {
        "labelSelector": {"matchLabels": {"batch.kubernetes.io/job-name": "job"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    assert pod(placement="spread")["spec"]["affinity"] == {"podAntiAffinity": {required: [term]}}
    assert pod(placement="pack")["spec"]["affinity"] == {
        "podAffinity": {preferred: [{"weight": 100, "podAffinityTerm": term}]}
    }
    zone = term | {"topologyKey": "topology.kubernetes.io/zone"}
    both = pod(topology="zone:required", placement="spread")["spec"]["affinity"]
    assert both == {"podAffinity": {required: [zone]}, "podAntiAffinity": {required: [term]}}


def test_an_affinity_of_the_users_own_is_not_mixed_with_ours() -> None:
    with pytest.raises(ValueError, match="put all of it there"):
        rendered(affinity={"nodeAffinity": {}}, placement="pack")


def test_a_misspelt_short_name_of_a_topology_is_no_label() -> None:
    with pytest.raises(ValueError, match="Did you mean rack"):
        parse_topology("rak")
    assert parse_topology("block-id:required") == "block-id:required"
    assert parse_topology("nvlink:required") == "nvidia.com/gpu.clique:required"


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({}, "add --queue NAME"),
        ({"scheduler": "volcano", "queue": "a"}, "use --priority-class"),
    ],
)
def test_a_priority_in_queues_is_for_those_of_kueue(fields: dict[str, Any], instead: str) -> None:
    with pytest.raises(ValueError, match=f"is read by Kueue, in a queue: {instead}"):
        rendered(queue_priority="high", **fields)
