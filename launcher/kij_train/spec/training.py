"""A job of N nodes that train as one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kij_train import gpus, names
from kij_train.pod import contract, gang
from kij_train.spec import reserved
from kij_train.spec.common import Common
from kij_train.spec.limits import check_paths, check_sizes
from kij_train.spec.settings import Fact, Group, Setting, Switch
from kij_train.spec.types import MOST_PROCESSES, Count, NotBool, Seconds, SpecConflict

DEFAULT_PORT = 29500
SUPERVISOR_PORT = 2
"""Added to the port. The next one is the preflight's, the one behind it shows who trains."""
MAX_NODES = 100_000
MOST_RESTARTS = 1000


OF_RANKS = re.compile(
    r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME"
    r"|TORCHELASTIC_(RESTART_COUNT|MAX_RESTARTS|RUN_ID|USE_AGENT_STORE)"
)
"""What torchrun sets for every rank."""
OF_TORCHRUN = re.compile(
    r"PET_(NNODES|NPROC_PER_NODE|NODE_RANK|MASTER_(ADDR|PORT)|RDZV_(BACKEND|ENDPOINT|CONF|ID)"
    r"|STANDALONE|MAX_RESTARTS|LOG_DIR|MODULE|NO_PYTHON|RUN_PATH)"
)
"""torchrun's own flags, those that kij-train gives it or that would undo them."""


def parse_nproc(value: object) -> object:
    """A whole number, gpu, cpu or auto. Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]+", value):
        value = int(value[:20])  # more digits than any bound has
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value not in ("gpu", "cpu", "auto") and not is_number:
        raise ValueError("must be a whole number, at least 1, or gpu, cpu or auto")
    if isinstance(value, int) and value > MOST_PROCESSES:
        raise ValueError(f"must be at most {MOST_PROCESSES}, the most that Linux has")
    return value


class JobSpec(Common):
    """One training job: N nodes (pods, or local processes) that run a script as one."""

    nodes: Annotated[
        int,
        Field(ge=1, le=MAX_NODES),
        NotBool,
        Setting(Group.SIZE, "--nodes N|MIN:MAX", Fact.NOT_IN_BENCH),
    ] = 1
    """Number of nodes: pods of the Job, each running one torchrun; MIN:MAX to be elastic."""
    min_nodes: Annotated[Count | None, Setting(Group.SIZE)] = None
    """Nodes that --restart elastic trains with at least; --nodes MIN:MAX sets both."""
    nproc_per_node: Annotated[
        Annotated[int | Literal["gpu", "cpu", "auto"], BeforeValidator(parse_nproc)] | None,
        Setting(Group.SIZE, "--nproc-per-node N|gpu|cpu|auto"),
    ] = None
    """Processes (ranks) a node: as many as GPUs, or 1 without GPUs. gpu, cpu or auto: as many as a
    node has GPUs, cores, or GPUs and else cores."""
    roles: Annotated[str | None, Setting(Group.SIZE, "--roles NAME=N,...", Fact.NOT_IN_BENCH)] = (
        None
    )
    """Roles of the nodes, by their ranks: prefill=2,decode=2 are four nodes. Each is told its own
    in $KIJ_ROLE. All have the same resources."""
    torchrun: Annotated[
        bool,
        Setting(
            Group.COMMAND,
            facts=Fact.NOT_IN_BENCH,
            switches={
                "--no-torchrun": Switch(
                    False,
                    "SCRIPT is run once a node, without torchrun: it starts its ranks itself. "
                    "With --port, nodes wait until rank 0 listens there.",
                )
            },
        ),
    ] = True
    """Start the ranks with torchrun; false: run the command once a node, as it is, for commands
    that start ranks themselves. With a port, nodes then wait until rank 0 listens there."""
    preflight: Annotated[
        bool, Setting(Group.LIFE, facts=Fact.NOT_IN_BENCH, switches={"--preflight": Switch(True)})
    ] = False
    """Check every node first: GPUs, /dev/shm, clocks, speed and a short all-reduce; name a bad
    one."""
    port: Annotated[
        Annotated[int, Field(ge=1024, le=65535), NotBool] | None,
        Setting(Group.WHERE, "--port PORT"),
    ] = None
    """MASTER_PORT: 29500 when not given; a free one with --local."""
    rendezvous_timeout: Annotated[
        Seconds, Setting(Group.LIFE, "--rendezvous-timeout DURATION", Fact.TORCHX)
    ] = 600
    """How long a node waits for rank 0, and rank 0 for the others."""
    backoff: Annotated[
        int,
        Field(ge=0, lt=2**31),
        NotBool,
        Setting(Group.RESTART, "--backoff N", Fact.CLUSTER_ONLY),
    ] = 0
    """Pods that may fail before the Job does (backoffLimit)."""
    restart: Annotated[
        Literal["never", "gang", "elastic"],
        Setting(Group.RESTART, "--restart never|gang|elastic", Fact.NOT_IN_BENCH),
    ] = "never"
    """When a pod is lost or a rank fails: never: the job fails; gang: all ranks start again, with a
    spare or the lost pod's replacement; elastic: again, with the pods that are left."""
    spares: Annotated[
        int,
        Field(ge=0, le=MAX_NODES),
        NotBool,
        Setting(Group.RESTART, "--spares N", Fact.NOT_IN_BENCH),
    ] = 0
    """Pods that wait, each with a node's resources, ready to take the place of a lost one."""
    max_restarts: Annotated[
        int,
        Field(ge=0, le=MOST_RESTARTS),
        NotBool,
        Setting(Group.RESTART, "--max-restarts N", Fact.NOT_IN_BENCH),
    ] = 3
    """How often ranks may fail and, counted apart, how many pods may be lost, before the job fails:
    3 when not given."""
    hang_timeout: Annotated[
        Seconds | None, Setting(Group.RESTART, "--hang-timeout DURATION", Fact.NOT_IN_BENCH)
    ] = None
    """How long all ranks may go without a sign of life before they count as hanging, which is a
    failure that --restart handles; longer than compiling or a checkpoint takes. The first one may
    take rendezvous_timeout, if that is longer."""
    heartbeat: Annotated[
        Literal["file", "output"],
        Setting(Group.RESTART, "--heartbeat file|output", Fact.NOT_IN_BENCH),
    ] = "file"
    """Sign of life: file: the script touches $KIJ_HEARTBEAT_FILE, or writes its step into it;
    output: any output counts too."""

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

    @model_validator(mode="before")
    @classmethod
    def _counts_roles(cls, values: Any) -> Any:
        """Without `nodes`, there are as many as the roles have."""
        roles = values.get("roles") if isinstance(values, dict) else None
        if not isinstance(roles, str) or values.get("nodes") is not None:
            return values
        return {**values, "nodes": sum(count for _, count in parse_roles(roles))}

    @property
    def pods(self) -> int:
        """How many there are at once: nodes and spares."""
        return self.nodes + self.spares

    @property
    def reserve(self) -> int:
        """Indexes that have no pod until another one is lost, whose place they take."""
        return self.max_restarts if self.supervised else 0

    @property
    def indexes(self) -> int:
        """How many there may be: completions of the Job."""
        return self.pods + self.reserve

    @property
    def least_nodes(self) -> int:
        """Nodes that must train, and end well, at least."""
        return self.min_nodes or self.nodes

    @property
    def supervised(self) -> bool:
        """Whether a supervisor stays in the pods, to start ranks again."""
        return self.restart != "never"

    @property
    def shared_paths(self) -> list[str]:
        """Where a checkpoint outlives its pod: volumes that all pods mount and can write to."""
        shared = ("pvc", "hostpath")
        return [one.path for one in self.mounts if one.type in shared and not one.read_only]

    def gang_settings(
        self,
        peers: list[str],
        backoff_limit: int,
        shared: list[str] | None = None,
    ) -> gang.Settings:
        """What every supervisor is told; the arguments as Settings has them."""
        settings = gang.Settings(
            low=self.least_nodes,
            high=self.nodes,
            spares=self.spares,
            peers=peers,
            max_restarts=self.max_restarts,
            backoff_limit=backoff_limit,
            reserve=self.reserve,
            hang_timeout_s=self.hang_timeout or 0,
            start_timeout_s=self.rendezvous_timeout,
            heartbeat=self.heartbeat,
            shared=shared,
        )
        return settings._replace(grace_s=self.grace) if self.grace else settings

    @property
    def ranks_per_node(self) -> int:
        """NPROC_PER_NODE; of a spec in which gpu, cpu and auto are counted."""
        assert not isinstance(self.nproc_per_node, str)
        return self.nproc_per_node or self.gpus or 1

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node

    @property
    def command(self) -> list[str]:
        """The bootstrap's arguments: script, module or program, with the user's arguments."""
        how: list[str] = []
        if not self.torchrun:
            how = [contract.NO_TORCHRUN]
            if self.port is not None and self.nodes > 1:
                how.append(contract.AWAIT_RANK0)
        return [*how, *super().command]

    @model_validator(mode="after")
    def _holds_together(self) -> JobSpec:
        checks = (_check_processes, _check_gpus, _check_preflight, _check_roles, _check_restart)
        more = (_check_heartbeat, _check_names, _check_dns, _check_env, check_paths, check_sizes)
        for check in (*checks, *more):
            check(self)
        return self


def parse_roles(text: str) -> list[tuple[str, int]]:
    """Names and counts of `prefill=2,decode=2`. Raises SpecConflict."""
    found: dict[str, int] = {}
    for one in text.split(","):
        match = re.fullmatch(r"([a-z][a-z0-9-]{0,30})=([1-9][0-9]{0,5})", one)
        if match is None:
            why = f"{one!r} must look like prefill=2: a name of a-z, 0-9 and -, and a count"
            if re.match(r"[^=]+=[^:=]+[:=]", one):
                why += ". Resources are those of a node, the same for all: --gpus, --cpu, --memory"
            raise SpecConflict("roles", why)
        if match[1] in found:
            raise SpecConflict("roles", f"names {match[1]} twice: add the two counts")
        found[match[1]] = int(match[2])
    return list(found.items())


def _check_roles(spec: JobSpec) -> None:
    if spec.roles is None:
        return
    total = sum(count for _, count in parse_roles(spec.roles))
    if spec.restart == "elastic":
        raise SpecConflict("roles", "does not go with --restart elastic, where nodes come and go")
    if total != spec.nodes:
        raise SpecConflict(
            "roles", f"adds up to {total} nodes, not to {spec.nodes}. Leave --nodes out"
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
    if spec.gpus and spec.nproc_per_node not in (None, spec.gpus, "gpu", "auto"):
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


def _check_names(spec: JobSpec) -> None:
    if spec.name is not None:
        try:
            names.check_job_name(spec.name, spec.indexes)
        except ValueError as error:
            raise SpecConflict("name", str(error)) from None


def _check_dns(spec: JobSpec) -> None:
    if spec.dns_policy == "Default" and (spec.torchrun or spec.nodes > 1):
        raise SpecConflict(
            "dns_policy",
            "Default asks the DNS of the machine, which does not know MASTER_ADDR. It takes one "
            "node and --no-torchrun",
        )


def _check_env(spec: JobSpec) -> None:
    for name in spec.env:
        if name in reserved.OF_TRAINING:
            instead = "Use --port" if name == contract.ENV_MASTER_PORT else "Leave it out"
            raise SpecConflict("env", f"{name} is set by kij-train itself. {instead}")
        if spec.torchrun and OF_RANKS.fullmatch(name):
            raise SpecConflict("env", f"{name} is set by torchrun for every rank. Leave it out")
        if spec.torchrun and OF_TORCHRUN.fullmatch(name):
            raise SpecConflict(
                "env",
                f"{name} is a flag of torchrun that kij-train decides on. Use --nodes, "
                "--nproc-per-node, --port, --rendezvous-timeout, or --restart with --max-restarts",
            )
