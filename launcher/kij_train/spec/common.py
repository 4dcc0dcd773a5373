"""What every kind of job is asked for: what runs, where, with what, and for how long.

A class has the fields of one matter, and the checks that need no other's. The names of fields are
flat: keys of a spec file, variables and flags (with '-' for '_'). Messages are written to stand
behind the place the value came from: "job.yaml:3: nodes: must be at least 1".
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from kij_train import gpus as gpu_kinds
from kij_train import names, units
from kij_train.pod import contract
from kij_train.spec.caches import Caches
from kij_train.spec.fetches import Fetches
from kij_train.spec.network import Network
from kij_train.spec.packages import Packages
from kij_train.spec.placement import Placement
from kij_train.spec.settings import Fact, Group, Merge, Setting, Switch, fields_with
from kij_train.spec.types import (
    MOST_PROCESSES,
    Count,
    Cpu,
    EnvName,
    Key,
    LabelValue,
    Memory,
    Model,
    NotBool,
    ObjectName,
    ParsedMount,
    Seconds,
    SpecConflict,
    Text,
)

DEFAULT_IMAGE = "pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime"
"""The official PyTorch runtime image that is used when none is named."""

OWN_LABELS = frozenset(
    {names.LABEL_NAME, names.LABEL_INSTANCE, names.LABEL_MANAGED_BY, names.LABEL_COMPONENT}
)
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _known_gpu_kind(value: str) -> str:
    device_class = gpu_kinds.kind(value).device_class
    if device_class is not None:
        names.check_object_name(device_class)
    return value


class Command(Model):
    """What runs, and the code that it needs."""

    name: Annotated[
        str | None, Field(examples=["train-x3k9"]), Setting(Group.COMMAND, "--name NAME")
    ] = None
    """Name of the Job and what belongs to it; made from the script's name when not given."""
    script: Annotated[str | None, Setting(Group.COMMAND, facts=Fact.COMMAND)] = None
    """Python script to run, a path inside code_dir."""
    module: Annotated[str | None, Setting(Group.COMMAND, facts=Fact.COMMAND)] = None
    """Python module to run instead of a script, as in python -m."""
    program: Annotated[str | None, Setting(Group.COMMAND, facts=Fact.COMMAND)] = None
    """Program to run instead of Python, once a rank."""
    args: Annotated[tuple[Text, ...], Setting(Group.COMMAND)] = ()
    """Arguments of the script, module or program; $(NODE_RANK) in them is the node's index."""
    code_dir: Annotated[
        str, Setting(Group.COMMAND, "--code-dir DIR", Fact.PATH | Fact.NOT_IN_BENCH)
    ] = "."
    """Folder that is shipped to the pods, and the working directory there."""
    code: Annotated[
        bool,
        Setting(
            Group.COMMAND,
            facts=Fact.NOT_IN_BENCH,
            switches={"--no-code": Switch(False, "Ship no code: the image carries it.")},
        ),
    ] = True
    """Ship code_dir; false when the image carries the code."""

    @property
    def stem(self) -> str:
        """What a name that is made for the job begins with; empty where the folder's is meant."""
        if self.module is not None:
            return self.module.rpartition(".")[2]
        return PurePosixPath(self.program or self.script or "job").stem

    @property
    def called(self) -> str | None:
        """The function that is run for every item, as module:name; None where there is none."""
        return None

    @property
    def command(self) -> list[str]:
        """The first process' arguments: script, module or program, with the user's arguments."""
        if self.module is not None:
            return ["-m", self.module, *self.args]
        if self.program is not None:
            return ["--no-python", self.program, *self.args]
        return [self.script or "", *self.args]

    @model_validator(mode="after")
    def _runs_one_thing(self) -> Command:
        commands = fields_with(type(self), Fact.COMMAND)
        given = [field for field in commands if getattr(self, field) is not None]
        if len(given) > 1:
            raise SpecConflict(given[1], f"conflicts with {given[0]}: give one of them")
        for field in given:
            if not getattr(self, field):
                raise SpecConflict(field, "is empty: is a variable unset?")
        if self.program is not None and self.program.rpartition("/")[2] in ("", ".", ".."):
            raise SpecConflict("program", "is a folder, which cannot be run")
        if self.module is not None and not _MODULE.fullmatch(self.module):
            raise SpecConflict(
                "module", "is no module name. Write package.module, or give a path without -m"
            )
        return self


class Where(Model):
    """Image, cluster and namespace."""

    image: Annotated[
        str,
        AfterValidator(names.check_image),
        Setting(Group.WHERE, "--image IMAGE", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = DEFAULT_IMAGE
    """Container image; it needs python3, and torch for ranks."""
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None,
        Setting(
            Group.WHERE,
            "--image-pull-policy Always|IfNotPresent|Never",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
        ),
    ] = None
    """When the image is pulled; Kubernetes decides by the tag when not given."""
    image_pull_secrets: Annotated[
        tuple[ObjectName, ...],
        Setting(
            Group.WHERE,
            "--image-pull-secret NAME",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
            merge=Merge.JOIN,
        ),
    ] = ()
    """Secrets with the registry's credentials."""
    context: Annotated[
        str | None, Setting(Group.WHERE, "--context NAME", Fact.CLUSTER_ONLY | Fact.TORCHX)
    ] = None
    """Context of the kubeconfig; its current one when not given."""
    kubeconfig: Annotated[
        str | None,
        Setting(Group.WHERE, "--kubeconfig FILE", Fact.CLUSTER_ONLY | Fact.TORCHX | Fact.PATH),
    ] = None
    """Kubeconfig file; $KUBECONFIG or ~/.kube/config when not given."""
    namespace: Annotated[
        Annotated[str, AfterValidator(names.check_namespace)] | None,
        Setting(Group.WHERE, "--namespace -n NAME", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = None
    """Namespace; the context's when not given."""


class Resources(Model):
    """What a node has."""

    gpus: Annotated[
        Annotated[int, Field(ge=1, le=MOST_PROCESSES), NotBool] | None,
        Setting(Group.SIZE, "--gpus N"),
    ] = None
    """GPUs a pod."""
    gpu_kind: Annotated[
        str,
        AfterValidator(_known_gpu_kind),
        Setting(Group.RESOURCES, "--gpu-kind KIND", Fact.TORCHX),
    ] = "whole"
    """Kind of GPU: whole (also for MIG's single strategy), a MIG slice (mig-1g.5gb), shared
    (time-sliced or MPS), amd, dra (a claim of DeviceClass gpu.nvidia.com) or dra:CLASS."""
    cpu: Annotated[Cpu | None, Setting(Group.RESOURCES, "--cpu CORES", Fact.CLUSTER_ONLY)] = None
    """CPU cores a pod, request and limit."""
    memory: Annotated[
        Memory | None, Setting(Group.RESOURCES, "--memory SIZE", Fact.CLUSTER_ONLY)
    ] = None
    """Memory a pod, request and limit."""
    disk: Annotated[
        Memory | None, Setting(Group.RESOURCES, "--disk SIZE", Fact.CLUSTER_ONLY | Fact.TORCHX)
    ] = None
    """Room a pod on its machine's disk (ephemeral-storage), request and limit: for packages, what
    is fetched, emptyDirs, logs, and the image's files that it changes."""
    shm: Annotated[
        Memory | None, Setting(Group.RESOURCES, "--shm SIZE", Fact.CLUSTER_ONLY | Fact.TORCHX)
    ] = None
    """Size of /dev/shm: 8Gi with GPUs, 1Gi without, half of memory at most, when not given."""
    resources: Annotated[
        dict[Key, Count],
        Setting(Group.RESOURCES, "--resource NAME=N", Fact.CLUSTER_ONLY, merge=Merge.BY_KEY),
    ] = Field(default_factory=dict)
    """Other extended resources a pod, such as vpc.amazonaws.com/efa."""

    @property
    def gpu_resource(self) -> str | None:
        """The extended resource that counts the GPUs; None without GPUs, and for claims."""
        return gpu_kinds.kind(self.gpu_kind).resource if self.gpus else None

    @model_validator(mode="after")
    def _are_no_others(self) -> Resources:
        for resource in self.resources:
            gpu = gpu_kinds.of_resource(resource)
            own = {"cpu": "--cpu", "memory": "--memory", "ephemeral-storage": "--disk"}
            flag = gpu.flags if gpu else own.get(resource)
            if flag is not None:
                raise SpecConflict("resources", f"{resource} has its own flag: {flag}")
            if "/" not in resource and not resource.startswith("hugepages-"):
                raise SpecConflict(
                    "resources",
                    f"{resource} is no extended resource: they look like example.com/name",
                )
        shm = units.quantity_value(self.shm or "0")
        if self.memory is not None and shm > units.quantity_value(self.memory):
            raise SpecConflict(
                "shm", f"is more than memory ({self.memory}), which /dev/shm counts against"
            )
        return self


class Data(Model):
    """Environment and volumes."""

    env: Annotated[
        dict[EnvName, Text], Setting(Group.DATA, "--env NAME=VALUE", merge=Merge.BY_KEY)
    ] = Field(default_factory=dict)
    """Environment variables of every rank, $(NODE_RANK) as in args. Not for secrets."""
    env_from_secrets: Annotated[
        tuple[ObjectName, ...],
        Setting(
            Group.DATA, "--env-from-secret NAME", Fact.CLUSTER_ONLY | Fact.TORCHX, merge=Merge.JOIN
        ),
    ] = ()
    """Secrets whose keys become environment variables."""
    mounts: Annotated[
        tuple[ParsedMount, ...],
        Setting(
            Group.DATA,
            "--mount TYPE:SOURCE:/PATH",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
            merge=Merge.JOIN,
        ),
    ] = ()
    """Volumes: pvc:NAME:/path, secret:NAME:/path, configmap:NAME:/path, emptydir:[SIZE:]/path or
    hostpath:/on/node:/path; with :ro at the end, without write access."""
    settings_script: Annotated[
        Annotated[str, Field(pattern=r"^/\S+$")] | None,
        Setting(Group.DATA, "--settings-script /PATH", Fact.CLUSTER_ONLY),
    ] = None
    """Shell script of a fabric that is sourced in the pods; what is set already stays as it is."""

    @model_validator(mode="after")
    def _mounts_each_path_once(self) -> Data:
        paths = [mount.path.rstrip("/") for mount in self.mounts]
        for path in paths:
            if paths.count(path) > 1:
                raise SpecConflict("mounts", f"{path} is mounted twice")
        return self


class Security(Model):
    """What the pods may do."""

    service_account: Annotated[
        ObjectName | None,
        Setting(Group.SECURITY, "--service-account NAME", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = None
    """ServiceAccount of the pods; its token is not mounted."""
    run_as_user: Annotated[
        Annotated[int, Field(ge=1, lt=2**31), NotBool] | None,
        Setting(Group.SECURITY, "--run-as-user UID", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = None
    """User id of the processes, which must not be root's; completes Pod Security "restricted"."""
    capabilities: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Z_]+$")], ...],
        Setting(Group.SECURITY, "--capability NAME", Fact.CLUSTER_ONLY | Fact.TORCHX, Merge.JOIN),
    ] = ()
    """Linux capability to add, such as IPC_LOCK for RDMA; Pod Security refuses most."""
    read_only_root: Annotated[
        bool,
        Setting(
            Group.SECURITY,
            facts=Fact.CLUSTER_ONLY | Fact.TORCHX,
            switches={"--read-only-root": Switch(True)},
        ),
    ] = False
    """Mount the image's file system without write access."""


class Lifetime(Model):
    """How long it may take, and what is left of it."""

    timeout: Annotated[Seconds | None, Setting(Group.LIFE, "--timeout DURATION", Fact.TORCHX)] = (
        None
    )
    """Deadline of the whole job (activeDeadlineSeconds)."""
    ttl: Annotated[
        Seconds | None, Setting(Group.LIFE, "--ttl DURATION", Fact.CLUSTER_ONLY | Fact.TORCHX)
    ] = None
    """Delete the finished Job, its pods and logs, after this time; never when not given."""
    grace: Annotated[Seconds | None, Setting(Group.LIFE, "--grace DURATION")] = None
    """Time between SIGTERM and SIGKILL, for a last checkpoint: 30 s when not given."""
    labels: Annotated[
        dict[Key, LabelValue],
        Setting(
            Group.LIFE, "--label KEY=VALUE", Fact.CLUSTER_ONLY | Fact.TORCHX, merge=Merge.BY_KEY
        ),
    ] = Field(default_factory=dict)
    """Labels of every object."""
    annotations: Annotated[
        dict[Key, Text],
        Setting(
            Group.LIFE,
            "--annotation KEY=VALUE",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
            merge=Merge.BY_KEY,
        ),
    ] = Field(default_factory=dict)
    """Annotations of the Job and its pods."""

    owner: Annotated[
        Annotated[str, AfterValidator(names.check_owner)] | None,
        Setting(
            Group.LIFE,
            "--owner VERSION/KIND/NAME/UID",
            Fact.CLUSTER_ONLY | Fact.TORCHX | Fact.NOT_IN_BENCH,
        ),
    ] = None
    """Object of the namespace that the Job belongs to, and is deleted with."""

    @model_validator(mode="after")
    def _leaves_our_labels(self) -> Lifetime:
        for name in OWN_LABELS & self.labels.keys():
            raise SpecConflict("labels", f"{name} is set by kij-train itself")
        return self


class Common(
    Lifetime,
    Network,
    Security,
    Placement,
    Caches,
    Fetches,
    Packages,
    Data,
    Resources,
    Where,
    Command,
):
    """All of it. The fields come in the order of the classes, from the last one on."""

    @model_validator(mode="after")
    def _fetches_beside_its_mounts(self) -> Common:
        for to in map(PurePosixPath, self.fetch_folders):
            for mount in self.mounts:
                at = PurePosixPath(mount.path)
                if to == at and mount.type == "emptydir":
                    continue
                if to.is_relative_to(at) or at.is_relative_to(to):
                    raise SpecConflict(
                        "fetch",
                        f"{to} meets what is mounted at {at}, which pods may share, and each would "
                        "write there. Fetch to a folder of its own, such as /data/fetched",
                    )
        return self

    @model_validator(mode="after")
    def _caches_beside_what_it_fetches(self) -> Common:
        kept = PurePosixPath(self.cache_dir or contract.CACHE_DIR)
        for to in map(PurePosixPath, self.fetch_folders):
            if to.is_relative_to(kept) or kept.is_relative_to(to):
                raise SpecConflict(
                    "cache", f"{kept} meets {to}, which --fetch fills: choose others"
                )
        for mount in self.mounts:
            at = PurePosixPath(mount.path)
            if kept.is_relative_to(at) and mount.type in ("secret", "configmap", "emptydir"):
                raise SpecConflict(
                    "cache",
                    f"is on {at}, a {mount.type}, which no other job shares. Name a claim: "
                    "pvc:NAME",
                )
        return self
