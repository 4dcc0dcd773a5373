"""An array: one script over many items, each index of the Job with its own share of them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kij_train import names
from kij_train.arrays.objective import parse_metric
from kij_train.pod import contract
from kij_train.spec import reserved
from kij_train.spec.arraytypes import PERCENT, Function, Gate, Metric, Module, Range, Tolerance
from kij_train.spec.common import Common
from kij_train.spec.limits import check_paths, check_sizes
from kij_train.spec.settings import Fact, Group, Merge, Setting, Switch
from kij_train.spec.types import (
    MOST_PROCESSES,
    EnvName,
    Mount,
    NotBool,
    Seconds,
    SpecConflict,
    Text,
    parse_mount,
)

SOURCES = ("items", "glob", "range")
"""Where the items come from: one of them."""
OF_EVALUATIONS = ("gates", "baseline", "aggregate_in_cluster")
"""Fields that mean nothing to other arrays."""
MOST_INDEXES = 2**31 - 1
"""As many completions as a Job can count."""
MOST_NODES = 10_000
MOST_RERUNS = 99
"""For which a name leaves room."""
KEPT_OF_GRACE = 6
"""A sixth of the grace period is left to write down what has been done."""


class ArraySpec(Common):
    """One array: a script, program or function, run for every item of a list."""

    function: Annotated[
        Function | None,
        Setting(Group.COMMAND, "--function MODULE:NAME", Fact.COMMAND),
    ] = None
    """Function of Python that is called with each item, instead of a script; what it returns is
    the item's result."""

    program: Annotated[str | None, Setting(Group.COMMAND, facts=Fact.COMMAND)] = None
    """Program to run instead of Python, once an item."""
    args: Annotated[tuple[Text, ...], Setting(Group.COMMAND)] = ()
    """Arguments of the script, module or program. {item}, {key}, {index} and {seed} in them are
    filled in, and {name} by that field of an item of JSON lines; {{ and }} stand for braces."""
    env: Annotated[
        dict[EnvName, Text], Setting(Group.DATA, "--env NAME=VALUE", merge=Merge.BY_KEY)
    ] = Field(default_factory=dict)
    """Environment variables of every item. Not for secrets."""
    items: Annotated[
        str | None, Field(min_length=1), Setting(Group.ITEMS, "--items FILE|-|URL/", Fact.PATH)
    ] = None
    """List of the items, a line each, or JSON lines; - for standard input. A URL that ends with /,
    such as s3://bucket/folder/, for the files below it (needs fsspec)."""
    items_on: Annotated[str | None, Setting(Group.ITEMS, "--items-on /PATH", Fact.CLUSTER_ONLY)] = (
        None
    )
    """Where a volume of the pods has the same list, for one that is too large to travel: they read
    it there, and refuse one that differs."""
    glob: Annotated[str | None, Field(min_length=1), Setting(Group.ITEMS, "--glob PATTERN")] = None
    """The files that match a pattern, from code_dir on, sorted; in quotes. ** is any folders; with
    / at the end, folders."""
    range: Annotated[Range | None, Setting(Group.ITEMS, "--range A:B")] = None
    """The whole numbers from A to below B."""
    chunk: Annotated[
        Annotated[int, Field(ge=1, le=MOST_INDEXES), NotBool] | None,
        Setting(Group.ITEMS, "--chunk N"),
    ] = None
    """Items an index; 1 when neither this nor indexes is given, for up to 1,000 items."""
    indexes: Annotated[
        Annotated[int, Field(ge=1, le=MOST_INDEXES), NotBool] | None,
        Setting(Group.ITEMS, "--indexes N"),
    ] = None
    """Indexes, over which the items are spread evenly; instead of chunk."""
    slice: Annotated[
        bool,
        Setting(
            Group.ITEMS,
            switches={
                "--slice": Switch(
                    True,
                    "Run SCRIPT once an index, with its items as JSON lines in $KIJ_ITEMS_FILE.",
                )
            },
        ),
    ] = False
    """One process an index, with its items in a file; false: one an item."""
    preload: Annotated[
        tuple[Module, ...],
        Setting(Group.ITEMS, "--preload MODULE", merge=Merge.JOIN),
    ] = ()
    """Module that is imported once an index, and not again for every item: torch, say."""
    seed: Annotated[
        int,
        Field(ge=0, lt=2**63),
        NotBool,
        Setting(Group.ITEMS, "--seed N", Fact.WITHOUT_VARIABLE),
    ] = 0
    """$KIJ_SEED and {seed} of an item are made from this number and the item's key."""
    style: Annotated[
        Literal["flags", "hydra"] | None, Setting(Group.ITEMS, "--style flags|hydra")
    ] = None
    """Give the fields of each item, an object of JSON, to the script behind its own arguments:
    --name value, or name=value as Hydra has it. They are in the records then."""
    metrics: Annotated[
        tuple[Metric, ...],
        Setting(Group.METRICS, "--metric NAME=REGEX", merge=Merge.JOIN),
    ] = ()
    """A number to find in the output of an item, for its record: 'loss=loss (\\S+)'. Of several
    the last one counts."""
    minimize: Annotated[Text | None, Setting(Group.METRICS, "--min METRIC")] = None
    """The metric of the results by which a report sorts, the smallest first."""
    maximize: Annotated[Text | None, Setting(Group.METRICS, "--max METRIC")] = None
    """The same, the largest first."""
    evaluate: Annotated[bool, Setting(Group.METRICS)] = False
    """Judge the results as an evaluation: by id, with intervals, a missing one as a failure."""
    gates: Annotated[
        tuple[Gate, ...],
        Setting(Group.METRICS, "--gate GATE", merge=Merge.JOIN),
    ] = ()
    """What the metrics of an evaluation must keep: 'accuracy >= 0.8', 'loss <= 2', or against the
    baseline 'accuracy drop <= 0.01', 'loss rise <= 0.1'."""
    baseline: Annotated[
        str | None, Field(min_length=1), Setting(Group.METRICS, "--baseline FILE", Fact.PATH)
    ] = None
    """Results of an earlier evaluation of the same data, JSON lines: metrics are compared with it,
    id by id."""
    parallelism: Annotated[
        Annotated[int, Field(ge=1, le=100_000), NotBool] | None,
        Setting(Group.SIZE, "--parallelism N"),
    ] = None
    """Indexes that run at once: all, up to 10,000; with --local as many as there are cores, or
    GPUs for."""
    trial_nodes: Annotated[
        int,
        Field(ge=1, le=MOST_NODES),
        NotBool,
        Setting(Group.SIZE, "--nodes N", Fact.WITHOUT_VARIABLE),
    ] = 1
    """Pods of a trial of a sweep, each running one torchrun; with --local, processes. With several,
    each trial is a Job of its own, and --parallelism of them run at once; 1 when not given."""
    nproc_per_node: Annotated[
        Annotated[int, Field(ge=1, le=MOST_PROCESSES), NotBool] | None,
        Setting(Group.SIZE, "--nproc-per-node N"),
    ] = None
    """Processes (ranks) an item, started by torchrun: as many as GPUs, or 1 without GPUs, which
    is a plain process."""
    results: Annotated[
        str | None,
        Setting(Group.DATA, "--results /PATH|pvc:NAME:/PATH", Fact.CLUSTER_ONLY),
    ] = None
    """Folder on a volume of the pods where results go; without, they come through the pods' logs,
    up to 4 MiB an index."""
    aggregate_in_cluster: Annotated[
        bool,
        Setting(
            Group.DATA,
            facts=Fact.CLUSTER_ONLY,
            switches={
                "--aggregate-in-cluster": Switch(
                    True,
                    "With --results: the pod that ends last sends the numbers of all records, "
                    "whose text stays on the volume.",
                )
            },
        ),
    ] = False
    """Of an evaluation with results on a volume: the pod that ends last sends their numbers."""
    start_jitter: Annotated[
        Seconds | None, Setting(Group.LIFE, "--start-jitter DURATION", Fact.CLUSTER_ONLY)
    ] = None
    """Each pod waits for a random part of this time first, so that not all of them read the same
    storage at once."""
    retries: Annotated[
        int, Field(ge=0, le=1000), NotBool, Setting(Group.RESTART, "--retries N")
    ] = 0
    """How often a failed item is tried again, and a pod that was lost is made again, an index."""
    max_failed: Annotated[Tolerance | None, Setting(Group.RESTART, "--max-failed N|P%")] = None
    """Indexes with failed items after which the rest is given up; when not given, all are run."""
    item_timeout: Annotated[Seconds | None, Setting(Group.LIFE, "--item-timeout DURATION")] = None
    """How long an item may take, each time it is tried."""

    @model_validator(mode="before")
    @classmethod
    def _mounts_results(cls, values: Any) -> Any:
        """`results` may be a claim, which is mounted then."""
        results = values.get("results") if isinstance(values, dict) else None
        if not isinstance(results, str) or results.startswith("/"):
            return values
        try:
            mount = parse_mount(results)
        except ValueError as error:
            raise SpecConflict("results", f"{error}, or a /path on a volume") from None
        assert isinstance(mount, dict)
        mounts = [parse_mount(each) for each in values.get("mounts") or ()]
        added = [] if mount in mounts else [mount]
        return {**values, "results": mount["path"], "mounts": [*mounts, *added]}

    @property
    def called(self) -> str | None:
        return self.function

    @property
    def stem(self) -> str:
        """What a name that is made for the array begins with."""
        return super().stem if self.function is None else self.function.rpartition(":")[2]

    @property
    def command(self) -> list[str]:
        """The runners' arguments: script, module, program or function, and the user's arguments."""
        if self.function is None:
            return super().command
        return [contract.FUNCTION, self.function, *self.args]

    @property
    def ranks_per_item(self) -> int:
        """Processes of an item."""
        return (
            1 if self.slice and not self.nproc_per_node else self.nproc_per_node or self.gpus or 1
        )

    @property
    def modules(self) -> tuple[str, ...]:
        """What is imported once, for all items of an index."""
        own = () if self.function is None else (self.function.partition(":")[0],)
        return tuple(dict.fromkeys((*self.preload, *own)))

    def runner_settings(self) -> dict[str, Any]:
        """Of the settings of the runners, those that are the same on every machine."""
        grace_s = self.grace or contract.GRACE_S
        return {
            "slice": self.slice,
            "retries": self.retries,
            "item_timeout_s": self.item_timeout or 0,
            "grace_s": max(1, grace_s - grace_s // KEPT_OF_GRACE),
            "preload": self.modules,
            "nproc_per_node": self.ranks_per_item,
            "nodes": self.trial_nodes,
            "seed": self.seed,
            "style": self.style or "",
            "metrics": tuple(map(parse_metric, self.metrics)),
        }

    def failed_indexes(self, indexes: int) -> int | None:
        """How many of the indexes may fail (maxFailedIndexes); None for all."""
        if self.max_failed is None:
            return None
        percent = PERCENT.fullmatch(self.max_failed)
        if percent is None:
            return min(int(self.max_failed), indexes)
        return int(indexes * Decimal(percent[1]) / 100)

    @model_validator(mode="after")
    def _holds_together(self) -> ArraySpec:
        for check in (
            _check_items,
            _check_nodes,
            _check_metrics,
            _check_processes,
            _check_results,
            _check_scheduler,
        ):
            check(self)
        for check_common in (_check_name, _check_env, check_paths, check_sizes):
            check_common(self)
        return self


def _check_items(spec: ArraySpec) -> None:
    given = [source for source in SOURCES if getattr(spec, source) is not None]
    if len(given) > 1:
        raise SpecConflict(given[1], f"conflicts with {given[0]}: give one source of items")
    if spec.chunk is not None and spec.indexes is not None:
        raise SpecConflict(
            "indexes", f"conflicts with chunk {spec.chunk}: one follows from the other. Give one"
        )

    if spec.items_on is not None:
        if spec.items is None:
            raise SpecConflict(
                "items_on", "is a copy of a list, and no list is given: --items LIST"
            )
        _volume_of(spec, "items_on")


def _volume_of(spec: ArraySpec, field: str) -> Mount:
    """The volume that a path is on. Raises SpecConflict where none keeps it."""
    path = PurePosixPath(getattr(spec, field))
    if not path.is_absolute() or ".." in path.parts:
        raise SpecConflict(field, "must be a path that begins with / and has no '..'")
    mount = next((one for one in spec.mounts if path.is_relative_to(one.path)), None)
    if mount is None:
        folder = path if field == "results" else path.parent
        raise SpecConflict(
            field, f"is on no volume of the pods. Mount one: --mount pvc:NAME:{folder}"
        )
    if mount.type not in ("pvc", "hostpath"):
        raise SpecConflict(field, f"is on a volume of type {mount.type}, which does not keep it")
    return mount


def _check_nodes(spec: ArraySpec) -> None:
    """An item of several pods is a Job of its own, and the only one of its index."""
    if spec.trial_nodes == 1:
        return
    if spec.chunk not in (None, 1):
        raise SpecConflict("chunk", f"conflicts with --nodes {spec.trial_nodes}: a trial is a Job")
    for field, why in (
        ("indexes", "a trial is a Job"),
        ("slice", "a trial is a Job"),
        ("function", "torchrun runs scripts and programs"),
        ("retries", "run what has failed again: kij-train rerun NAME --failed"),
        ("max_failed", "a trial is a Job"),
        ("start_jitter", "its pods wait for each other"),
    ):
        if getattr(spec, field):
            raise SpecConflict(field, f"conflicts with --nodes {spec.trial_nodes}: {why}")


def _check_metrics(spec: ArraySpec) -> None:
    if spec.minimize is not None and spec.maximize is not None:
        raise SpecConflict("maximize", f"conflicts with minimize {spec.minimize}: seek one of them")
    found = [parse_metric(text)[0] for text in spec.metrics]
    for name in found:
        if found.count(name) > 1:
            raise SpecConflict("metrics", f"has {name} twice: one regular expression, with |")
    for field in ("style", "metrics"):
        if spec.slice and getattr(spec, field):
            raise SpecConflict(
                field, "conflicts with --slice, where one process runs all items of an index"
            )


def _check_processes(spec: ArraySpec) -> None:
    if spec.function is not None:
        for field, why in (
            ("args", "it is called with the item alone"),
            ("slice", "it is called with one item"),
        ):
            if getattr(spec, field):
                raise SpecConflict(field, f"does not go with function {spec.function}: {why}")
        if spec.ranks_per_item > 1:
            raise SpecConflict(
                "function",
                f"cannot have {spec.ranks_per_item} ranks an item: torchrun runs scripts",
            )
    if spec.slice and spec.item_timeout is not None:
        raise SpecConflict(
            "item_timeout", "conflicts with --slice, where one process runs all items of an index"
        )
    if not spec.preload:
        return
    for field, why in (
        ("program", "a program imports nothing of Python's"),
        ("slice", "one process runs all items of an index, and imports what it needs once"),
    ):
        if getattr(spec, field):
            raise SpecConflict("preload", f"conflicts with {field}: {why}")
    if spec.ranks_per_item > 1:
        raise SpecConflict(
            "preload", f"does not go with {spec.ranks_per_item} ranks an item: torchrun starts them"
        )


def _check_results(spec: ArraySpec) -> None:
    if spec.results is None:
        if spec.aggregate_in_cluster:
            raise SpecConflict(
                "aggregate_in_cluster",
                "needs results on a volume: --results pvc:NAME:/results",
            )
        return
    mount = _volume_of(spec, "results")
    if mount.read_only:
        raise SpecConflict("results", f"is on {mount.path}, which is mounted without write access")


def _check_scheduler(spec: ArraySpec) -> None:
    if spec.trial_nodes > 1:
        return
    if spec.scheduler in ("coscheduling", "native"):
        raise SpecConflict(
            "scheduler", "places all pods or none, and the indexes of an array need no others"
        )
    if spec.topology is not None:
        raise SpecConflict(
            "topology", "keeps pods together, and the indexes of an array need no others"
        )


def _check_name(spec: ArraySpec) -> None:
    if spec.name is not None:
        try:
            names.check_job_name(spec.name)
        except ValueError as error:
            raise SpecConflict("name", str(error)) from None


def _check_env(spec: ArraySpec) -> None:
    for name in reserved.OF_ARRAYS & spec.env.keys():
        raise SpecConflict("env", f"{name} is set by kij-train itself. Leave it out")
