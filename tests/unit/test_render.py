"""Rendered objects: the goldens, and the rules of Kubernetes for any valid spec."""

from __future__ import annotations

import base64
import re
from collections import ChainMap
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kij_train import names, render, units
from kij_train.pod import contract
from kij_train.spec import JobSpec
from pydantic import ValidationError
from ruamel.yaml import YAML

from tests import goldens

CODE = render.Code("print('bootstrap')\n", b"archive", "0" * 64)


def job_of(spec: JobSpec, name: str = "job") -> dict[str, Any]:
    return render.render(spec, name=name, code=CODE)[-1]


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return container


def environment_of(job: dict[str, Any]) -> dict[str, str]:
    return {v["name"]: v.get("value", "") for v in container_of(job)["env"]}


# --- goldens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", goldens.GOLDENS)
def test_the_manifests_are_what_their_command_renders(name: str) -> None:
    stored = (goldens.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    fresh = goldens.text(name)
    assert goldens.without_archives(stored) == goldens.without_archives(fresh), "run: make goldens"
    assert stored.splitlines()[0] == fresh.splitlines()[0]


def test_no_manifest_is_left_over() -> None:
    assert {path.stem for path in goldens.FOLDER.glob("*.yaml")} == set(goldens.GOLDENS)


def test_rendering_twice_gives_the_same_bytes() -> None:
    assert goldens.text("hello") == goldens.text("hello")


# --- any valid spec -------------------------------------------------------------------------------

WORDS = st.text("abcz09-._", max_size=20)
KEYS = st.builds(
    lambda prefix, name: f"{prefix}{name}",
    st.sampled_from(["", "example.com/"]),
    st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}[A-Za-z0-9]", fullmatch=True),
)
LABELS = st.dictionaries(
    KEYS, st.from_regex(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,20}[A-Za-z0-9])?", fullmatch=True)
)
OBJECT_NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
MOUNTS = st.builds(
    lambda kind, source, path: f"{kind}{source}:{path}",
    st.sampled_from(["pvc:", "secret:", "configmap:", "hostpath:/"]),
    OBJECT_NAMES,
    st.sampled_from(["/data", "/out", "/a/b:ro"]),
) | st.sampled_from(["emptydir:/scratch", "emptydir:2Gi:/cache"])
# Fields that go together or not at all, in valid combinations.
COMMANDS = st.sampled_from(
    [
        {"script": "train.py"},
        {"script": "train.py", "preflight": True},
        {"module": "pkg.train"},
        {"module": "pkg.train", "preflight": True},
        {"program": "./run.sh"},
        {"script": "train.py", "torchrun": False},
        {"program": "./run.sh", "torchrun": False},
        {"script": "train.py", "nproc_per_node": 4},
        {"program": "./run.sh", "nproc_per_node": 1},
    ]
)
GPUS = st.sampled_from(
    [
        {},
        *({"gpus": 4, "gpu_kind": kind} for kind in ("whole", "amd", "dra", "mig-1g.5gb")),
        {"gpus": 1, "gpu_kind": "shared", "placement": "spread"},
    ]
)
AFFINITY: dict[str, Any] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}
PLACES = st.sampled_from(
    [
        {},
        {"affinity": AFFINITY},
        {"topology": "rack:required"},
        {"topology": "zone", "placement": "pack"},
        {"placement": "spread"},
    ]
)
GANGS = st.sampled_from(
    [
        {},
        {"queue": "team-a"},
        {"queue": "team-a", "queue_priority": "high"},
        {"scheduler": "volcano", "queue": "team-a"},
        *({"scheduler": scheduler} for scheduler in ("volcano", "coscheduling", "native")),
    ]
)
FIELDS = st.fixed_dictionaries(
    {"nodes": st.integers(1, 5000)},
    optional={
        "name": st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True),
        "service_account": OBJECT_NAMES,
        "priority_class": OBJECT_NAMES,
        "dns_policy": st.sampled_from(["ClusterFirst", "ClusterFirstWithHostNet"]),
        "image_pull_policy": st.sampled_from(["Always", "IfNotPresent", "Never"]),
        "capabilities": st.lists(st.sampled_from(["IPC_LOCK", "SYS_RESOURCE"]), max_size=3),
        "settings_script": st.sampled_from(["/set.sh", "/a/$(NNODES).sh"]),
        "rendezvous_timeout": st.sampled_from(["10m", 1]),
        "memory": st.sampled_from(["1Mi", "512Mi", "16Gi", "1.5G", "2E"]),
        "cpu": st.sampled_from(["1m", "0.5", "8", 4]),
        "shm": st.sampled_from(["1Mi", "64Gi"]),
        "args": st.lists(st.text(max_size=10), max_size=4),
        "env": st.dictionaries(
            st.from_regex(r"[A-Z_][A-Z0-9_]{0,10}", fullmatch=True), st.text(max_size=20)
        ),
        "env_from_secrets": st.lists(OBJECT_NAMES, max_size=3),
        "image_pull_secrets": st.lists(OBJECT_NAMES, max_size=3),
        "mounts": st.lists(MOUNTS, max_size=3),
        "node_selector": LABELS,
        "labels": LABELS,
        "annotations": st.dictionaries(KEYS, st.text(max_size=20)),
        "tolerations": st.lists(st.sampled_from(["a", "a=b", "a=b:NoSchedule", "a:NoExecute"])),
        "resources": st.dictionaries(
            st.sampled_from(["rdma/ib", "vpc.amazonaws.com/efa", "hugepages-2Mi"]),
            st.integers(1, 8),
        ),
        "run_as_user": st.integers(1, 65535),
        "read_only_root": st.booleans(),
        "network_policy": st.booleans(),
        "allow_from": st.lists(
            st.sampled_from(["namespace:a", "pods:app=b", "10.0.0.0/8"]), max_size=2
        ),
        "port": st.integers(1024, 65535),
        "timeout": st.sampled_from(["2h", 90]),
        "ttl": st.sampled_from(["7d", 1]),
        "backoff": st.integers(0, 100),
        "restart": st.sampled_from(["never", "gang"]),
        "spares": st.integers(0, 3),
        "grace": st.sampled_from([1, "2m"]),
        "namespace": OBJECT_NAMES,
    },
)
SPECS = st.builds(lambda *parts: {**ChainMap(*parts)}, GPUS, PLACES, GANGS, COMMANDS, FIELDS)

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@given(SPECS, WORDS)
@settings(max_examples=200, deadline=None)
def test_any_valid_spec_renders_objects_that_obey_the_rules(
    fields: dict[str, Any], stem: str
) -> None:
    try:
        spec = JobSpec.model_validate(fields)
    except ValidationError:
        return  # the checks between fields; what they let through is looked at here
    name = spec.name or names.generated_job_name(stem, "x3k9a", spec.indexes)
    config_map, service, *extra, job = render.render(spec, name=name, code=CODE)

    claims = ["ResourceClaimTemplate"] * (spec.gpu_kind == "dra")
    groups = ["PodGroup"] * (spec.scheduler in ("coscheduling", "native"))
    policies = ["NetworkPolicy"] * spec.network_policy
    assert [body["kind"] for body in extra] == claims + groups + policies
    assert DNS_LABEL.fullmatch(f"{name}-{spec.indexes - 1}")
    assert config_map["immutable"] is True
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == name
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    for body in (config_map, service, *extra, job, job["spec"]["template"]):
        for key, value in body["metadata"]["labels"].items():
            assert QUALIFIED.fullmatch(key)
            assert LABEL_VALUE.fullmatch(value)
    check_job_rules(job, spec)
    check_pod_rules(job["spec"]["template"]["spec"], spec)


def check_job_rules(job: dict[str, Any], spec: JobSpec) -> None:
    body = job["spec"]
    assert body["parallelism"] == spec.nodes + spec.spares
    reserve = spec.max_restarts if spec.supervised else 0
    assert body["completions"] == body["parallelism"] + reserve
    assert body["completionMode"] == "Indexed"
    # podFailurePolicy and backoffLimitPerIndex need it.
    assert body["template"]["spec"]["restartPolicy"] == "Never"
    if spec.restart == "never":
        assert body["podReplacementPolicy"] == "Failed"  # podFailurePolicy needs it
        for rule in body["podFailurePolicy"]["rules"]:
            values = rule["onExitCodes"]["values"]
            assert values == sorted(set(values))
            assert all(1 <= value <= 255 for value in values)
    else:
        assert body["successPolicy"] == {"rules": [{"succeededCount": spec.nodes}]}
        assert "podReplacementPolicy" not in body
    env = environment_of(job)
    assert next(iter(env)) == "NODE_RANK"
    assert int(env["WORLD_SIZE"]) == spec.nodes * int(env["NPROC_PER_NODE"])
    assert "JOB_COMPLETION_INDEX" not in env  # the Job controller sets it unless we do


def check_pod_rules(pod: dict[str, Any], spec: JobSpec) -> None:
    container = pod["containers"][0]
    variables = [variable["name"] for variable in container["env"]]
    assert len(variables) == len(set(variables))
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(volumes) == len(set(volumes))
    assert all(DNS_LABEL.fullmatch(volume) for volume in volumes)
    mounts = container["volumeMounts"]
    paths = [mount["mountPath"] for mount in mounts]
    assert len(paths) == len(set(paths))
    assert {mount["name"] for mount in mounts} == set(volumes)
    for amount in container.get("resources", {}).get("requests", {}).values():
        assert units.quantity_value(amount) > 0
    shm = next(v for v in pod["volumes"] if v["name"] == "shm")
    assert units.quantity_value(shm["emptyDir"]["sizeLimit"]) > 0
    for field in ("serviceAccountName", "priorityClassName"):
        assert QUALIFIED.fullmatch(pod.get(field, "a"))
    assert pod.get("dnsPolicy") == spec.dns_policy
    # Pod Security "restricted", but for the user and what was asked for.
    capabilities = container["securityContext"]["capabilities"]
    assert capabilities.pop("add", []) == sorted(set(spec.capabilities))
    assert capabilities == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False


def kubelet_expands(text: str, env: dict[str, str]) -> str:
    """k8s.io/kubernetes/third_party/forked/golang/expansion: $(VAR), and $$ for $."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replace, text)


@given(st.lists(st.text("$()ab{} ", max_size=12), max_size=5))
def test_arguments_reach_the_script_as_they_were_typed(arguments: list[str]) -> None:
    spec = JobSpec(script="a.py", args=tuple(arguments))
    rendered = container_of(job_of(spec))["args"][1:]
    env = {"a": "EXPANDED", "NODE_RANK": "EXPANDED"}
    assert [kubelet_expands(text, env) for text in rendered] == arguments


PIECES = ["$", "$$", "(", ")", "$(", "$(NODE_RANK)", "$(NODE_RANK", "$(HOME)", "$(WORLD_SIZE)", "x"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)


@given(st.lists(TEXTS, max_size=3), st.dictionaries(st.sampled_from("ABC"), TEXTS))
def test_the_index_is_the_only_reference_that_the_kubelet_expands(
    arguments: list[str], env: dict[str, str]
) -> None:
    spec = JobSpec(
        script="a.py", args=tuple(arguments), env=env, settings_script="/$(HOME)/$(NODE_RANK)"
    )
    job = job_of(spec)
    known = dict.fromkeys(["HOME", *environment_of(job)], "EXPANDED") | {"NODE_RANK": "7"}

    def with_the_index(text: str) -> str:
        return text.replace("$(NODE_RANK)", "7")

    rendered = [kubelet_expands(text, known) for text in container_of(job)["args"][1:]]
    assert rendered == [with_the_index(text) for text in arguments]
    values = {k: kubelet_expands(text, known) for k, text in environment_of(job).items()}
    assert {key: values[key] for key in env} == {k: with_the_index(v) for k, v in env.items()}
    assert not any("EXPANDED" in value for value in values.values())


# --- YAML -----------------------------------------------------------------------------------------

TRAPS = ["3e-4", "1e3", "0o17", "017", "1_000", "yes", "n", "null", "~", "", " a", "a: b", "- a"]
TRAPS += ["2026-11-23", "=", "0x1F", ".inf", "1:30", "a #b", "é", "a\nb\n", "\ta", "!x", "&x", "*x"]


def both_parsers_read(text: str) -> list[Any]:
    """YAML 1.1 (PyYAML) and YAML 1.2 (ruamel; kubectl's is closer to it)."""
    old = list(yaml.safe_load_all(text))
    new = list(YAML(typ="safe", pure=True).load_all(text))
    assert old == new
    return old


@pytest.mark.parametrize("trap", TRAPS)
def test_text_stays_text_for_every_parser(trap: str) -> None:
    objects = [{"env": [{"name": "X", "value": trap}], trap or "key": [trap]}]
    assert both_parsers_read(render.to_yaml(objects)) == objects


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives(text: str) -> None:
    assert list(yaml.safe_load_all(render.to_yaml([{"a": text}]))) == [{"a": text}]


@given(SPECS)
@settings(max_examples=50, deadline=None)
def test_yaml_holds_exactly_the_objects(fields: dict[str, Any]) -> None:
    try:
        spec = JobSpec.model_validate(fields)
    except ValidationError:
        return
    objects = render.render(spec, name="job", code=CODE)
    assert list(yaml.safe_load_all(render.to_yaml(objects))) == objects


def test_the_bootstrap_is_readable_in_the_yaml() -> None:
    document = (goldens.FOLDER / "hello.yaml").read_text(encoding="utf-8")
    assert "  bootstrap.py: |\n" in document
    assert "\n    def wait_for_rank0(" in document


# --- single decisions -----------------------------------------------------------------------------


@given(
    archive=st.integers(0, 3 * 2**20),
    sources=st.lists(st.integers(0, 80_000), max_size=4),
    labels=LABELS,
)
@settings(max_examples=25, deadline=None)
def test_code_of_any_size_is_cut_into_config_maps_that_kubectl_apply_takes(
    archive: int, sources: list[int], labels: dict[str, str]
) -> None:
    more = {f"{i}.py": "a <b>\n" * (size // 6) for i, size in enumerate(sources)}
    code = render.Code("bootstrap", bytes(range(256)) * (archive // 256), "0" * 64, more=more)
    try:
        spec = JobSpec.model_validate({"script": "a.py", "labels": labels})
    except ValidationError:
        return
    config_maps = render.code_config_maps(spec, code)
    assert max(map(render.applied_bytes, config_maps)) <= render.MOST_APPLIED_BYTES
    data = dict(ChainMap(*(one.get("data", {}) for one in config_maps)))
    assert data == {"bootstrap.py": "bootstrap", **more}
    chunks = dict(ChainMap(*(one.get("binaryData", {}) for one in config_maps)))
    assert sorted(chunks) == [f"{contract.CODE_PREFIX}{i:03d}" for i in range(len(chunks))]
    assert b"".join(base64.b64decode(chunks[key]) for key in sorted(chunks)) == code.archive


def test_small_code_travels_in_one_config_map() -> None:
    code = render.Code("b" * 40_000, bytes(100_000), "0" * 64)
    assert len(render.code_config_maps(JobSpec(script="a.py"), code)) == 1


def test_the_same_code_has_the_same_name_and_other_code_another() -> None:
    spec = JobSpec(script="a.py")

    def name(code: render.Code) -> str:
        return str(render.code_config_maps(spec, code)[0]["metadata"]["name"])

    assert name(CODE) == name(render.Code(CODE.bootstrap, b"other bytes", CODE.sha256))
    assert name(CODE) != name(render.Code(CODE.bootstrap, CODE.archive, "1" * 64))
    assert name(CODE) != name(render.Code("other", CODE.archive, CODE.sha256))


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, "1Gi"),
        ({"gpus": 1}, "8Gi"),
        ({"gpus": 1, "memory": "4Gi"}, "2048Mi"),
        ({"gpus": 1, "memory": "64Gi"}, "8Gi"),
        ({"memory": "1Mi"}, "1Mi"),
        ({"shm": "3Gi", "memory": "4Gi"}, "3Gi"),
    ],
)
def test_shared_memory_is_sized_below_the_memory_limit(fields: dict[str, Any], size: str) -> None:
    pod = job_of(JobSpec(script="a.py", **fields))["spec"]["template"]["spec"]
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": size}


def test_what_is_not_asked_for_is_not_rendered() -> None:
    job = job_of(JobSpec(script="a.py"))
    assert "resources" not in container_of(job)
    assert "tolerations" not in job["spec"]["template"]["spec"]
    assert "NCCL_DEBUG" not in environment_of(job)


def test_the_pod_is_told_which_variables_of_a_run_are_not_the_images() -> None:
    job = job_of(JobSpec(script="a.py", env={"PET_LOG_LEVEL": "x", "COLOUR": "red"}))
    names = set(environment_of(job)["KIJ_ENV_NAMES"].split())
    assert {"NODE_RANK", "MASTER_ADDR", "KIJ_NODE_NAME", "PET_LOG_LEVEL"} <= names
    assert "COLOUR" not in names
    assert names < {variable["name"] for variable in container_of(job)["env"]}


def test_gpus_bring_their_toleration_and_the_users_env_wins() -> None:
    job = job_of(JobSpec(script="a.py", gpus=2, env={"NCCL_DEBUG": "INFO"}))
    assert environment_of(job)["NCCL_DEBUG"] == "INFO"
    assert job["spec"]["template"]["spec"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists"}
    ]
