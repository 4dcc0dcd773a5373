"""What a user can ask for: one frozen model, checked field by field.

The same names are keys of a spec file and of kij-train.toml, and flags of the command line (with
'-' for '_'). Every check that needs neither a cluster nor the file system is here. Messages are
written to stand behind the place the value came from: "job.yaml:3: nodes: must be at least 1".
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kij_train import bootstrap, names, units

DEFAULT_IMAGE = "pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime"
"""The official PyTorch runtime image that is used when none is named."""

DEFAULT_PORT = 29500
MAX_NODES = 100_000
RESERVED_PATHS = (bootstrap.BUNDLE_DIR, bootstrap.WORK_DIR, "/dev/shm")  # noqa: S108 - a check


class Model(BaseModel):
    """Base of the models: frozen, unknown keys refused, fields described by their docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Memory = Annotated[
    str, BeforeValidator(units.check_memory, json_schema_input_type=str), Field(examples=["16Gi"])
]
Cpu = Annotated[
    str, BeforeValidator(units.check_cpu, json_schema_input_type=str | float), Field(examples=["8"])
]
Seconds = Annotated[
    int,
    BeforeValidator(units.parse_duration, json_schema_input_type=str | int),
    Field(examples=["2h"]),
]


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is no whole number")
    return value


NotBool = BeforeValidator(_no_bool)
"""pydantic takes true for 1."""
Count = Annotated[int, Field(ge=1), NotBool]


def _text(value: object) -> object:
    # YAML reads `LR: 0.1` and `DEBUG: true` as a number and a truth value.
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int | float | bool)]
EnvName = Annotated[str, AfterValidator(names.check_env_name)]
Key = Annotated[str, AfterValidator(names.check_key)]
LabelValue = Annotated[Text, AfterValidator(names.check_label_value)]
ObjectName = Annotated[str, AfterValidator(names.check_object_name)]


class Toleration(Model):
    """A toleration, with the keys and meanings of Kubernetes."""

    key: str | None = None
    """Taint key; none with operator Exists tolerates every taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    value: Text | None = None
    """Taint value, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Which effect is tolerated; none means all."""
    toleration_seconds: Annotated[int | None, Field(alias="tolerationSeconds"), NotBool] = None
    """How long a NoExecute taint is tolerated."""

    @model_validator(mode="after")
    def _as_kubernetes_asks(self) -> Toleration:
        if self.key is None and self.operator == "Equal":
            raise ValueError("operator Equal needs a key")
        if self.value is not None and self.operator == "Exists":
            raise ValueError("operator Exists takes no value. Did you mean operator Equal?")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect NoExecute")
        if self.key is not None:
            names.check_key(self.key)
        return self


def parse_toleration(value: object) -> object:
    """`KEY[=VALUE][:EFFECT]`, as `kubectl taint` writes taints, to the keys of a Toleration."""
    if not isinstance(value, str):
        return value
    taint, colon, effect = value.rpartition(":")
    if not colon:
        taint, effect = value, ""
    key, equals, tainted = taint.partition("=")
    fields: dict[str, object] = {"key": key}
    if equals:
        fields |= {"operator": "Equal", "value": tainted}
    if effect:
        fields["effect"] = effect
    return fields


class Mount(Model):
    """A volume and where it is mounted."""

    type: Literal["pvc", "secret", "configmap", "emptydir", "hostpath"]
    """What is mounted."""
    source: str | None = None
    """Name of the claim, Secret or ConfigMap; path on the node; or size limit of an emptydir."""
    path: str
    """Where in the container, an absolute path."""
    read_only: bool = False
    """Mount without write access. Secrets and ConfigMaps are never writable."""

    @model_validator(mode="after")
    def _is_mountable(self) -> Mount:
        if not self.path.startswith("/") or ".." in PurePosixPath(self.path).parts:
            raise ValueError(f"{self.path!r} must be an absolute path in the container")
        if ":" in self.path:
            raise ValueError(f"{self.path!r} must not contain ':'")
        if PurePosixPath(self.path) == PurePosixPath("/"):
            raise ValueError("cannot mount over /")
        for taken in RESERVED_PATHS:
            if PurePosixPath(self.path).is_relative_to(taken):
                hint = ". Set its size with --shm" if taken == "/dev/shm" else ""  # noqa: S108
                raise ValueError(f"{self.path} is used by kij-train itself{hint}")
        if self.type == "emptydir":
            if self.source is not None:
                units.check_memory(self.source)
        elif not self.source:
            raise ValueError(f"{self.type} needs a source: {MOUNT_FORMS[self.type]}")
        elif self.type == "hostpath":
            if not self.source.startswith("/") or ".." in PurePosixPath(self.source).parts:
                raise ValueError(f"{self.source!r} must be an absolute path on the node")
        else:
            names.check_object_name(self.source)
        return self


MOUNT_FORMS = {
    "pvc": "pvc:NAME:/path[:ro]",
    "secret": "secret:NAME:/path",
    "configmap": "configmap:NAME:/path",
    "hostpath": "hostpath:/on/node:/path[:ro]",
    "emptydir": "emptydir:[SIZE:]/path",
}


def parse_mount(value: object) -> object:
    """`TYPE:SOURCE:/path[:ro]` to the keys of a Mount. Raises ValueError."""
    if not isinstance(value, str):
        return value
    kind, *rest = value.split(":")
    kind = kind.lower()
    if kind not in MOUNT_FORMS:
        raise ValueError(f"{value!r} must be one of: {', '.join(MOUNT_FORMS.values())}")
    read_only = len(rest) > 1 and rest[-1] in ("ro", "rw")
    mode = rest.pop() if read_only else "rw"
    if kind == "emptydir" and len(rest) == 1:
        rest.insert(0, "")
    if len(rest) != 2:
        raise ValueError(f"{value!r} must look like {MOUNT_FORMS[kind]}")
    return {
        "type": kind,
        "source": rest[0] or None,
        "path": rest[1],
        "read_only": mode == "ro",
    }


ParsedToleration = Annotated[
    Toleration, BeforeValidator(parse_toleration, json_schema_input_type=str | Toleration)
]
ParsedMount = Annotated[Mount, BeforeValidator(parse_mount, json_schema_input_type=str | Mount)]

CONTRACT_ENV = frozenset(
    {
        *bootstrap.CONTRACT,
        bootstrap.ENV_COMPLETION_INDEX,
        bootstrap.ENV_RENDEZVOUS_TIMEOUT_S,
        bootstrap.ENV_CODE_SHA256,
        bootstrap.ENV_NODE_NAME,
        bootstrap.ENV_PARENT_PID,
        bootstrap.ENV_ERROR_FILE,
    }
)
OWN_LABELS = frozenset(
    {names.LABEL_NAME, names.LABEL_INSTANCE, names.LABEL_MANAGED_BY, names.LABEL_COMPONENT}
)
INSTEAD_OF_RESOURCE = {
    "cpu": "--cpu",
    "memory": "--memory",
    names.GPU_RESOURCE: "--gpus",
}


class JobSpec(Model):
    """One training job: N nodes (pods, or local processes) that run a script as one."""

    name: Annotated[str | None, Field(examples=["train-x3k9"])] = None
    """Name of the Job and its Service; made from the script's name when not given."""

    nodes: Annotated[int, Field(ge=1, le=MAX_NODES), NotBool] = 1
    """Number of nodes: pods of the Job, each running one torchrun."""
    gpus: Count | None = None
    """GPUs a node."""
    nproc_per_node: Count | None = None
    """Processes (ranks) a node: as many as GPUs, or 1 without GPUs."""

    script: str | None = None
    """Python script to run, a path inside code_dir."""
    module: str | None = None
    """Python module to run instead of a script, as in python -m."""
    program: str | None = None
    """Program to run instead of Python, once a rank."""
    args: tuple[Text, ...] = ()
    """Arguments of the script, module or program."""

    code_dir: str = "."
    """Folder that is shipped to the pods, and the working directory there."""
    code: bool = True
    """Ship code_dir; false when the image carries the code."""

    image: Annotated[str, Field(min_length=1, pattern=r"^\S+$")] = DEFAULT_IMAGE
    """Container image; it needs python3 and torch."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; Kubernetes decides by the tag when not given."""
    image_pull_secrets: tuple[ObjectName, ...] = ()
    """Secrets with the registry's credentials."""

    context: str | None = None
    """Context of the kubeconfig; its current one when not given."""
    kubeconfig: str | None = None
    """Kubeconfig file; $KUBECONFIG or ~/.kube/config when not given."""
    namespace: Annotated[str, AfterValidator(names.check_namespace)] | None = None
    """Namespace; the context's when not given."""

    cpu: Cpu | None = None
    """CPU cores a node, request and limit."""
    memory: Memory | None = None
    """Memory a node, request and limit."""
    shm: Memory | None = None
    """Size of /dev/shm: 8Gi with GPUs, 1Gi without, half of memory at most, when not given."""
    resources: dict[Key, Count] = Field(default_factory=dict)
    """Other extended resources a node, such as vpc.amazonaws.com/efa."""

    env: dict[EnvName, Text] = Field(default_factory=dict)
    """Environment variables of every rank. Not for secrets."""
    env_from_secrets: tuple[ObjectName, ...] = ()
    """Secrets whose keys become environment variables."""
    mounts: tuple[ParsedMount, ...] = ()
    """Volumes: pvc:NAME:/path, secret:NAME:/path, configmap:NAME:/path, emptydir:[SIZE:]/path or
    hostpath:/on/node:/path; with :ro at the end, without write access."""

    node_selector: dict[Key, LabelValue] = Field(default_factory=dict)
    """Labels a node must have."""
    tolerations: tuple[ParsedToleration, ...] = ()
    """Taints that are tolerated, written as for kubectl taint."""
    affinity: dict[str, Any] | None = None
    """Pod affinity, exactly as Kubernetes spells it."""
    priority_class: ObjectName | None = None
    """PriorityClass of the pods."""
    service_account: ObjectName | None = None
    """ServiceAccount of the pods; its token is not mounted."""
    run_as_user: Annotated[int, Field(ge=1, lt=2**31), NotBool] | None = None
    """User id of the processes, which must not be root's; completes Pod Security "restricted"."""
    read_only_root: bool = False
    """Mount the image's file system without write access."""

    labels: dict[Key, LabelValue] = Field(default_factory=dict)
    """Labels of every object."""
    annotations: dict[Key, Text] = Field(default_factory=dict)
    """Annotations of the Job and its pods."""

    port: Annotated[int, Field(ge=1024, le=65535), NotBool] | None = None
    """MASTER_PORT: 29500 when not given; a free one with --local."""
    rendezvous_timeout: Seconds = 600
    """How long a node waits for rank 0, and rank 0 for the others."""
    timeout: Seconds | None = None
    """Deadline of the whole job (activeDeadlineSeconds)."""
    ttl: Seconds | None = None
    """Delete the finished Job, its pods and logs, after this time; never when not given."""
    backoff: Annotated[int, Field(ge=0, lt=2**31), NotBool] = 0
    """Pods that may fail before the Job does (backoffLimit)."""

    @property
    def ranks_per_node(self) -> int:
        """NPROC_PER_NODE."""
        return self.nproc_per_node or self.gpus or 1

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node

    @property
    def command(self) -> list[str]:
        """The bootstrap's arguments: script, module or program, with the user's arguments."""
        if self.module is not None:
            return ["-m", self.module, *self.args]
        if self.program is not None:
            return ["--no-python", self.program, *self.args]
        return [self.script or "", *self.args]

    @model_validator(mode="after")
    def _holds_together(self) -> JobSpec:
        for check in (_check_command, _check_processes, _check_resources, _check_names):
            check(self)
        return self


class SpecConflict(ValueError):  # noqa: N818 - never raised past pydantic
    """Fields that do not go together; `field` is the one to name to the user."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _check_command(spec: JobSpec) -> None:
    given = [f for f in ("script", "module", "program") if getattr(spec, f) is not None]
    if len(given) > 1:
        raise SpecConflict(given[1], f"conflicts with {given[0]}: give one of them")
    if spec.module is not None and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", spec.module):
        raise SpecConflict(
            "module", "is no module name. Write package.module, or give a path without -m"
        )


def _check_processes(spec: JobSpec) -> None:
    if spec.gpus and spec.nproc_per_node and spec.gpus != spec.nproc_per_node:
        raise SpecConflict(
            "nproc_per_node",
            f"conflicts with {spec.gpus} GPUs a node: one process drives one GPU. Leave it out",
        )


def _check_resources(spec: JobSpec) -> None:
    for resource in spec.resources:
        flag = INSTEAD_OF_RESOURCE.get(resource)
        if flag:
            raise SpecConflict("resources", f"{resource} has its own flag: {flag}")
        if "/" not in resource and not resource.startswith("hugepages-"):
            raise SpecConflict(
                "resources", f"{resource} is no extended resource: they look like example.com/name"
            )
    shm = units.quantity_value(spec.shm or "0")
    if spec.memory is not None and shm > units.quantity_value(spec.memory):
        raise SpecConflict(
            "shm", f"is more than memory ({spec.memory}), which /dev/shm counts against"
        )
    paths = [mount.path.rstrip("/") for mount in spec.mounts]
    for path in paths:
        if paths.count(path) > 1:
            raise SpecConflict("mounts", f"{path} is mounted twice")


def _check_names(spec: JobSpec) -> None:
    if spec.name is not None:
        try:
            names.check_job_name(spec.name, spec.nodes)
        except ValueError as error:
            raise SpecConflict("name", str(error)) from None
    for name in CONTRACT_ENV & spec.env.keys():
        instead = "Use --port" if name == bootstrap.ENV_MASTER_PORT else "Leave it out"
        raise SpecConflict("env", f"{name} is set by kij-train itself. {instead}")
    for name in OWN_LABELS & spec.labels.keys():
        raise SpecConflict("labels", f"{name} is set by kij-train itself")
