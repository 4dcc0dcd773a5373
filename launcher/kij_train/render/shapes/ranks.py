"""What all kinds of training have: ranks that meet at rank 0, by the pod contract."""

from __future__ import annotations

from dataclasses import replace

from kij_train import gpus, names, units
from kij_train.pod import contract, preflight
from kij_train.render.code import PREFLIGHT_KEY
from kij_train.render.shapes.shape import Shape
from kij_train.spec import DEFAULT_PORT, JobSpec


def with_ranks(spec: JobSpec, name: str, shape: Shape) -> Shape:
    """The shape of a job `name`, with the contract of its nodes and a Service for their names."""
    port = spec.port or DEFAULT_PORT
    environment = {
        contract.ENV_NNODES: str(spec.nodes),
        contract.ENV_NPROC_PER_NODE: str(spec.ranks_per_node),
        contract.ENV_WORLD_SIZE: str(spec.world_size),
        contract.ENV_MASTER_ADDR: f"{name}-0.{name}",
        contract.ENV_MASTER_PORT: str(port),
        contract.ENV_RENDEZVOUS_TIMEOUT_S: str(spec.rendezvous_timeout),
        contract.ENV_RUN_DIR: f"{contract.RUN_DIR}/{contract.NODE_RANK_REFERENCE}",
    }
    if spec.roles is not None:
        environment[contract.ENV_ROLES] = spec.roles
    if spec.preflight:
        environment[contract.ENV_PREFLIGHT] = f"{contract.BUNDLE_DIR}/{PREFLIGHT_KEY}"
        environment[contract.ENV_PREFLIGHT_GPUS] = str(spec.gpus or 0)
        if spec.gpu_kind == gpus.SHARED:
            environment[preflight.ENV_SHARED] = "1"
        if spec.shm is not None:
            environment[preflight.ENV_SHM_BYTES] = str(int(units.quantity_value(spec.shm)))
    rank = {contract.ENV_NODE_RANK: f"metadata.annotations['{names.COMPLETION_INDEX}']"}
    return replace(
        shape,
        environment=environment | shape.environment,
        # First, so that later values may use $(NODE_RANK).
        field_references=rank | shape.field_references,
        ports={"rendezvous": port, **shape.ports},
        service_port=port,
        at_once=spec.least_nodes,
        gang_timeout_s=spec.rendezvous_timeout,
    )
