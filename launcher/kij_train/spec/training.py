"""What a user can ask for: one frozen model, checked field by field.

The same names are keys of a spec file and of kij-train.toml, and flags of the command line (with
'-' for '_'). Every check that needs neither a cluster nor the file system is here. Messages are
written to stand behind the place the value came from: "job.yaml:3: nodes: must be at least 1".
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kij_train import gpus, names, units
from kij_train.pod import bootstrap, gang, preflight
from kij_train.spec.types import (
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
    ParsedToleration,
    Seconds,
    Text,
)

DEFAULT_IMAGE = "pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime"
"""The official PyTorch runtime image that is used when none is named."""

DEFAULT_PORT = 29500
SUPERVISOR_PORT = 2
"""Added to the port. The next one is the preflight's, the one behind it shows who trains."""
MAX_NODES = 100_000


CONTRACT_ENV = frozenset(
    {
        *bootstrap.CONTRACT,
        bootstrap.ENV_COMPLETION_INDEX,
        bootstrap.ENV_RENDEZVOUS_TIMEOUT_S,
        bootstrap.ENV_CODE_SHA256,
        bootstrap.ENV_NODE_NAME,
        bootstrap.ENV_SETTINGS_SCRIPT,
        bootstrap.ENV_PREFLIGHT,
        bootstrap.ENV_PREFLIGHT_GPUS,
        bootstrap.ENV_PREFLIGHT_PORT,
        preflight.ENV_SHM_BYTES,
        bootstrap.ENV_PARENT_PID,
        bootstrap.ENV_ERROR_FILE,
        gang.ENV_GANG,
        gang.ENV_GANG_ID,
        gang.ENV_POD_IP,
        gang.ENV_RESTARTS,
        gang.ENV_SPARE,
        bootstrap.ENV_SCRATCH_DIR,
        bootstrap.ENV_STACKS_DIR,
        bootstrap.ENV_HEARTBEAT_DIR,
        bootstrap.ENV_HEARTBEAT_FILE,
    }
)
OWN_LABELS = frozenset(
    {names.LABEL_NAME, names.LABEL_INSTANCE, names.LABEL_MANAGED_BY, names.LABEL_COMPONENT}
)
TOPOLOGIES = {
    "host": "kubernetes.io/hostname",
    "zone": "topology.kubernetes.io/zone",
    "rack": "cloud.provider.com/topology-rack",
    "block": "cloud.provider.com/topology-block",
}
"""Short names of node labels; rack and block as in Kueue's documentation, there is no standard."""


def _known_gpu_kind(value: str) -> str:
    gpus.kind(value)
    return value


def parse_topology(value: object) -> object:
    """`LABEL[:required|preferred]`, or a short name for the label. Raises ValueError."""
    if not isinstance(value, str):
        return value
    label, colon, mode = value.partition(":")
    if colon and mode not in ("required", "preferred"):
        raise ValueError(f"{value!r} must end with :required or :preferred, or neither")
    close = difflib.get_close_matches(label, TOPOLOGIES, n=1, cutoff=0.85)
    if close and label not in TOPOLOGIES:
        raise ValueError(f"{label!r} is no short name. Did you mean {close[0]}?")
    return f"{names.check_key(TOPOLOGIES.get(label, label))}:{mode or 'preferred'}"


class JobSpec(Model):
    """One training job: N nodes (pods, or local processes) that run a script as one."""

    name: Annotated[str | None, Field(examples=["train-x3k9"])] = None
    """Name of the Job and its Service; made from the script's name when not given."""

    nodes: Annotated[int, Field(ge=1, le=MAX_NODES), NotBool] = 1
    """Number of nodes: pods of the Job, each running one torchrun; MIN:MAX to be elastic."""
    gpus: Count | None = None
    """GPUs a node."""
    gpu_kind: Annotated[str, AfterValidator(_known_gpu_kind)] = "whole"
    """Kind of GPU: whole (also for MIG's single strategy), a MIG slice (mig-1g.5gb), shared
    (time-sliced or MPS), amd, or dra (a claim of device class gpu.nvidia.com)."""
    nproc_per_node: Count | None = None
    """Processes (ranks) a node: as many as GPUs, or 1 without GPUs."""

    script: str | None = None
    """Python script to run, a path inside code_dir."""
    module: str | None = None
    """Python module to run instead of a script, as in python -m."""
    program: str | None = None
    """Program to run instead of Python, once a rank."""
    args: tuple[Text, ...] = ()
    """Arguments of the script, module or program; $(NODE_RANK) in them is the node's index."""
    torchrun: bool = True
    """Start the ranks with torchrun; false: run the command once a node, as it is, for commands
    that start ranks themselves. With a port, nodes then wait until rank 0 listens there."""

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
    """Environment variables of every rank, $(NODE_RANK) as in args. Not for secrets."""
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
    queue: LabelValue | None = None
    """Queue that admits the job: Kueue's LocalQueue, or Volcano's with --scheduler volcano."""
    scheduler: Literal["volcano", "coscheduling", "native"] | None = None
    """Gang scheduler, which places all pods or none."""
    topology: Annotated[str, BeforeValidator(parse_topology)] | None = None
    """Keep the pods together: host, zone, rack, block or a node label; :required, or :preferred,
    which is the default."""
    placement: Literal["spread", "pack"] | None = None
    """spread: no two pods on one machine; pack: as few machines as possible."""
    priority_class: ObjectName | None = None
    """PriorityClass of the pods."""
    service_account: ObjectName | None = None
    """ServiceAccount of the pods; its token is not mounted."""
    run_as_user: Annotated[int, Field(ge=1, lt=2**31), NotBool] | None = None
    """User id of the processes, which must not be root's; completes Pod Security "restricted"."""
    capabilities: tuple[Annotated[str, Field(pattern=r"^[A-Z_]+$")], ...] = ()
    """Linux capabilities to add, such as IPC_LOCK for RDMA; Pod Security refuses most."""
    settings_script: Annotated[str, Field(pattern=r"^/\S+$")] | None = None
    """Shell script of a fabric that is sourced in the pods; what is set already stays as it is."""
    read_only_root: bool = False
    """Mount the image's file system without write access."""

    labels: dict[Key, LabelValue] = Field(default_factory=dict)
    """Labels of every object."""
    annotations: dict[Key, Text] = Field(default_factory=dict)
    """Annotations of the Job and its pods."""

    preflight: bool = False
    """Check every node first: GPUs, /dev/shm, clocks and a short all-reduce; name a bad one."""
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

    restart: Literal["never", "gang", "elastic"] = "never"
    """When a pod is lost or a rank fails: never: the job fails; gang: all ranks start again, with a
    spare or the lost pod's replacement; elastic: again, with the pods that are left."""
    spares: Annotated[int, Field(ge=0, le=MAX_NODES), NotBool] = 0
    """Pods that wait, each with a node's resources, ready to take the place of a lost one."""
    min_nodes: Count | None = None
    """Nodes that --restart elastic trains with at least; --nodes MIN:MAX sets both."""
    max_restarts: Annotated[int, Field(ge=0, le=1000), NotBool] = 3
    """How often ranks may fail and, counted apart, how many pods may be lost, before the job fails:
    3 when not given."""
    grace: Seconds | None = None
    """Time between SIGTERM and SIGKILL, for a last checkpoint: 30 s when not given."""
    hang_timeout: Seconds | None = None
    """How long all ranks may go without a sign of life before they count as hanging, which is a
    failure that --restart handles; longer than compiling or a checkpoint takes. The first one may
    take rendezvous_timeout, if that is longer."""
    heartbeat: Literal["file", "output"] = "file"
    """Sign of life: file: the script touches $KIJ_HEARTBEAT_FILE; output: any output counts too."""

    @model_validator(mode="before")
    @classmethod
    def _splits_a_range(cls, values: Any) -> Any:
        """`nodes` may be MIN:MAX, as torchrun's --nnodes."""
        nodes = values.get("nodes") if isinstance(values, dict) else None
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", nodes) if isinstance(nodes, str) else None
        if match is None:
            return values
        if values.get("min_nodes") is not None:
            raise SpecConflict("min_nodes", f"conflicts with nodes {nodes}, which says the same")
        return {**values, "min_nodes": int(match[1]), "nodes": int(match[2])}

    @property
    def pods(self) -> int:
        """Completions of the Job: nodes and spares."""
        return self.nodes + self.spares

    @property
    def least_nodes(self) -> int:
        """Nodes that must train, and end well, at least."""
        return self.min_nodes or self.nodes

    @property
    def supervised(self) -> bool:
        """Whether a supervisor stays in the pods, to start ranks again."""
        return self.restart != "never"

    def gang_settings(self, peers: list[str], backoff_limit: int) -> gang.Settings:
        """What every supervisor is told; `peers` and `backoff_limit` as Settings has them."""
        settings = gang.Settings(
            low=self.least_nodes,
            high=self.nodes,
            spares=self.spares,
            peers=peers,
            max_restarts=self.max_restarts,
            backoff_limit=backoff_limit,
            hang_timeout_s=self.hang_timeout or 0,
            start_timeout_s=self.rendezvous_timeout,
            heartbeat=self.heartbeat,
        )
        return settings._replace(grace_s=self.grace) if self.grace else settings

    @property
    def ranks_per_node(self) -> int:
        """NPROC_PER_NODE."""
        return self.nproc_per_node or self.gpus or 1

    @property
    def gpu_resource(self) -> str | None:
        """The extended resource that counts the GPUs; None without GPUs, and for claims."""
        return gpus.kind(self.gpu_kind).resource if self.gpus else None

    @property
    def kueue(self) -> str | None:
        """The LocalQueue that admits the job, where Kueue does."""
        return None if self.scheduler == "volcano" else self.queue

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node

    @property
    def command(self) -> list[str]:
        """The bootstrap's arguments: script, module or program, with the user's arguments."""
        how: list[str] = []
        if not self.torchrun:
            how = [bootstrap.NO_TORCHRUN]
            if self.port is not None and self.nodes > 1:
                how.append(bootstrap.AWAIT_RANK0)
        if self.module is not None:
            return [*how, "-m", self.module, *self.args]
        if self.program is not None:
            return [*how, "--no-python", self.program, *self.args]
        return [*how, self.script or "", *self.args]

    @model_validator(mode="after")
    def _holds_together(self) -> JobSpec:
        checks = (_check_command, _check_processes, _check_gpus, _check_placement, _check_preflight)
        for check in (*checks, _check_restart, _check_heartbeat, _check_resources, _check_names):
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


def _check_preflight(spec: JobSpec) -> None:
    if spec.preflight and (spec.program is not None or not spec.torchrun):
        raise SpecConflict("preflight", "needs a script or module: it is run by Python's ranks")
    if spec.preflight and spec.port == 65535:
        raise SpecConflict("port", "leaves no port for the preflight, which takes the next one")


def _check_restart(spec: JobSpec) -> None:
    _check_range(spec)
    if not spec.supervised:
        for field in ("spares", "max_restarts"):
            if field in spec.model_fields_set and getattr(spec, field):
                raise SpecConflict(field, "needs --restart gang: without it nothing restarts")
        if spec.hang_timeout is not None:
            raise SpecConflict(
                "hang_timeout",
                "needs --restart gang or elastic, whose supervisors watch the ranks; with "
                "--max-restarts 0, a hang ends the job",
            )
        return
    if not spec.torchrun:
        raise SpecConflict("restart", "needs torchrun, which the job does without")
    if spec.backoff:
        raise SpecConflict("backoff", "is set by --max-restarts with --restart")
    if spec.port is not None and spec.port > 65532:
        raise SpecConflict("port", "leaves no ports for the supervisors, which take the next ones")
    if spec.spares >= spec.nodes:
        raise SpecConflict(
            "spares",
            f"must be fewer than the {spec.nodes} nodes: with {spec.spares}, a network cut in two "
            "could leave a whole job on each side",
        )


def _check_heartbeat(spec: JobSpec) -> None:
    if spec.heartbeat != "file" and spec.hang_timeout is None:
        raise SpecConflict("heartbeat", "needs --hang-timeout: without it nothing is watched")
    if spec.hang_timeout is not None and spec.program is not None and spec.heartbeat == "file":
        raise SpecConflict(
            "hang_timeout",
            "needs --heartbeat output with a program: a file to touch is given to Python's ranks",
        )


def _check_range(spec: JobSpec) -> None:
    if spec.min_nodes is None:
        if spec.restart == "elastic":
            raise SpecConflict("restart", "needs the smallest number of nodes: --nodes MIN:MAX")
        return
    if spec.restart != "elastic":
        raise SpecConflict("nodes", "is a range, which needs --restart elastic")
    if spec.min_nodes > spec.nodes:
        turned = f"{spec.nodes}:{spec.min_nodes}"
        raise SpecConflict("nodes", f"ends below where it begins. Did you mean {turned}?")
    if 2 * spec.min_nodes <= spec.pods:
        raise SpecConflict(
            "nodes",
            f"must begin above half of the {spec.pods} pods, at {spec.pods // 2 + 1} or more: "
            "else a network cut in two could leave a job on each side",
        )


def _check_processes(spec: JobSpec) -> None:
    if spec.nproc_per_node and not spec.torchrun:
        raise SpecConflict("nproc_per_node", "is torchrun's, which the job does without")
    if spec.gpus and spec.nproc_per_node and spec.gpus != spec.nproc_per_node:
        raise SpecConflict(
            "nproc_per_node",
            f"conflicts with {spec.gpus} GPUs a node: one process drives one GPU. Leave it out",
        )


def _check_gpus(spec: JobSpec) -> None:
    if spec.gpu_kind != gpus.SHARED or not spec.gpus:
        return
    if spec.gpus > 1:
        raise SpecConflict(
            "gpu_kind",
            f"does not go with {spec.gpus} GPUs a node: they may be replicas of one physical GPU, "
            "and NCCL refuses two ranks on one. Use --gpus 1, whole GPUs or MIG slices",
        )
    if spec.nodes > 1 and spec.placement != "spread":
        raise SpecConflict(
            "gpu_kind",
            "needs --spread with several nodes: two pods on one machine may get replicas of one "
            "physical GPU, and NCCL refuses two ranks on one",
        )


def _check_placement(spec: JobSpec) -> None:
    if spec.affinity is not None:
        for field in ("topology", "placement"):
            if getattr(spec, field) is not None:
                raise SpecConflict(field, "conflicts with affinity: put all of it there")
    label = (spec.topology or "").partition(":")[0]
    if spec.placement == "spread" and label == TOPOLOGIES["host"]:
        raise SpecConflict("topology", "conflicts with --spread: one host cannot hold them apart")
    if spec.queue is not None and spec.scheduler in ("coscheduling", "native"):
        raise SpecConflict(
            "scheduler", f"conflicts with --queue {spec.queue}: Kueue admits the job as a whole"
        )
    if spec.kueue is not None:
        try:
            names.check_object_name(spec.kueue)
        except ValueError:
            raise SpecConflict(
                "queue",
                "can be no LocalQueue: its name has lower-case letters, digits, '-' and '.'",
            ) from None


def _check_resources(spec: JobSpec) -> None:
    for resource in spec.resources:
        gpu = gpus.of_resource(resource)
        flag = gpu.flags if gpu else {"cpu": "--cpu", "memory": "--memory"}.get(resource)
        if flag is not None:
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
            names.check_job_name(spec.name, spec.pods)
        except ValueError as error:
            raise SpecConflict("name", str(error)) from None
    for name in CONTRACT_ENV & spec.env.keys():
        instead = "Use --port" if name == bootstrap.ENV_MASTER_PORT else "Leave it out"
        raise SpecConflict("env", f"{name} is set by kij-train itself. {instead}")
    for name in OWN_LABELS & spec.labels.keys():
        raise SpecConflict("labels", f"{name} is set by kij-train itself")
