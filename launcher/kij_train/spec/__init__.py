"""What a user can ask for: models, checked field by field."""

from kij_train.spec.training import (
    CONTRACT_ENV,
    DEFAULT_IMAGE,
    DEFAULT_PORT,
    SUPERVISOR_PORT,
    TOPOLOGIES,
    JobSpec,
    SpecConflict,
    parse_topology,
)

__all__ = [
    "CONTRACT_ENV",
    "DEFAULT_IMAGE",
    "DEFAULT_PORT",
    "SUPERVISOR_PORT",
    "TOPOLOGIES",
    "JobSpec",
    "SpecConflict",
    "parse_topology",
]
