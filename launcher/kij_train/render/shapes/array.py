"""Independent indexes, each with its own items: what one of them does is nothing to the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kij_train import names, pod
from kij_train.arrays.plan import pods_at_once
from kij_train.pod import contract, itemplan
from kij_train.render.shapes.shape import Shape
from kij_train.spec import DEFAULT_PORT

if TYPE_CHECKING:
    from kij_train.spec import ArraySpec

FAIL_INDEX_EXIT_CODES = [
    contract.EXIT_PREPARE,
    itemplan.EXIT_ITEMS,
    contract.EXIT_CONTRACT,
    contract.EXIT_CODE,
]
"""What another pod of the index would repeat."""


JOB_UID = "<job-uid>"
"""Stands in the settings for what only the cluster knows."""


@dataclass(frozen=True)
class Attempt:
    """One Job of an array: the first, or a rerun."""

    array: str
    """The array's name, which is that of its first Job."""
    indexes: int
    """Of this Job."""
    plan_sha256: str
    plan: bytes
    """Of the whole array, compressed; empty where the pods have it from elsewhere."""
    number: int = 0
    selection: bytes = b""
    """What a rerun runs of the plan, compressed."""
    study: bytes = b""
    """Of an adaptive search that goes on, compressed."""
    earlier: tuple[tuple[int, str], ...] = ()
    """Of a rerun: numbers and uids of the Jobs before it."""


def shape(spec: ArraySpec, name: str, attempt: Attempt) -> Shape:
    """The shape of an attempt, whose Job is called `name`."""
    if spec.trial_nodes > 1:
        return _several_pods(spec, name, attempt)
    policy: dict[str, Any] = {
        "completions": attempt.indexes,
        "parallelism": pods_at_once(attempt.indexes, spec.parallelism),
        names.PER_INDEX: spec.retries,
        # The first rule that fits counts. Where a verdict of the items comes with an eviction, it
        # is the verdict that stays; a pod that is evicted before costs the index nothing.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailIndex",
                    "onExitCodes": {
                        "containerName": names.CONTAINER,
                        "operator": "In",
                        "values": FAIL_INDEX_EXIT_CODES,
                    },
                },
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
    }
    most = spec.failed_indexes(attempt.indexes)
    if most is not None:
        policy["maxFailedIndexes"] = most
    several = spec.kueue is not None and policy["parallelism"] != 1
    annotations = {names.KUEUE_MIN_PARALLELISM: "1"} if several else {}
    return replace(_shape(spec, attempt, policy), annotations=annotations)


def _several_pods(spec: ArraySpec, name: str, attempt: Attempt) -> Shape:
    """Of one item: its pods meet at rank 0, and the first that fails ends it."""
    policy = {
        "completions": spec.trial_nodes,
        "parallelism": spec.trial_nodes,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
    }
    own = _shape(spec, attempt, policy)
    ranks = {
        contract.ENV_NNODES: str(spec.trial_nodes),
        contract.ENV_NPROC_PER_NODE: str(spec.ranks_per_item),
        contract.ENV_WORLD_SIZE: str(spec.trial_nodes * spec.ranks_per_item),
        contract.ENV_MASTER_ADDR: f"{name}-0.{name}",
        contract.ENV_MASTER_PORT: str(DEFAULT_PORT),
    }
    rank = {contract.ENV_NODE_RANK: f"metadata.annotations['{names.COMPLETION_INDEX}']"}
    return replace(
        own,
        environment=ranks | own.environment,
        # First, so that later values may use $(NODE_RANK).
        field_references=rank | own.field_references,
        ports={"rendezvous": DEFAULT_PORT},
        service_port=DEFAULT_PORT,
        at_once=spec.trial_nodes,
    )


def _shape(spec: ArraySpec, attempt: Attempt, policy: dict[str, Any]) -> Shape:
    return Shape(
        policy=policy,
        first_process=pod.ITEMS[0].name,
        sources=(*pod.BESIDE, *pod.ITEMS, *(pod.FIGURES if spec.aggregate_in_cluster else ())),
        component="array",
        labels={names.ARRAY: attempt.array, names.ATTEMPT: str(attempt.number)},
        environment={itemplan.ENV_ARRAY: _environment(settings(spec, attempt))},
        field_references={
            itemplan.ENV_JOB_UID: f"metadata.labels['{names.CONTROLLER_UID}']",
        }
        if spec.results
        else {},
    )


def _environment(settings: itemplan.ArraySettings) -> str:
    """The settings as the kubelet is to read them."""
    text = settings.to_json().replace("$", "$$")
    return text.replace(JOB_UID, f"$({itemplan.ENV_JOB_UID})")


def settings(spec: ArraySpec, attempt: Attempt) -> itemplan.ArraySettings:
    """What the runners in the pods are told."""
    own_folder = f"{spec.results.rstrip('/')}/{attempt.array}" if spec.results else ""
    return itemplan.ArraySettings(
        **spec.runner_settings(),
        name=attempt.array,
        plan_sha256=attempt.plan_sha256,
        attempt=attempt.number,
        # Of this Job alone: one of the same name before it has left its parts there.
        results_dir=f"{own_folder}/attempt-{attempt.number}-{JOB_UID}" if own_folder else "",
        aggregate=spec.aggregate_in_cluster,
        earlier=tuple(
            (number, f"{own_folder}/attempt-{number}-{uid}") for number, uid in attempt.earlier
        )
        if spec.aggregate_in_cluster
        else (),
        jitter_s=spec.start_jitter or 0,
        selection=bool(attempt.selection),
        study=bool(attempt.study),
        run_dir=f"{own_folder}/run" if own_folder else contract.RUN_DIR,
    )
