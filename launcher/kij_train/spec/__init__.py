"""What a user can ask for: models, checked field by field.

Every check that needs neither a cluster nor the file system is here.
"""

from kij_train.spec.array import ArraySpec
from kij_train.spec.common import DEFAULT_IMAGE, TOPOLOGIES, Common, parse_topology
from kij_train.spec.kept import kept, request_of, values_of
from kij_train.spec.training import (
    CONTRACT_ENV,
    DEFAULT_PORT,
    MOST_RESTARTS,
    SUPERVISOR_PORT,
    JobSpec,
)
from kij_train.spec.types import Model, SpecConflict

KINDS: tuple[type[Common], ...] = (JobSpec, ArraySpec)
"""Every kind of job."""

__all__ = [
    "CONTRACT_ENV",
    "DEFAULT_IMAGE",
    "DEFAULT_PORT",
    "KINDS",
    "MOST_RESTARTS",
    "SUPERVISOR_PORT",
    "TOPOLOGIES",
    "ArraySpec",
    "Common",
    "JobSpec",
    "Model",
    "SpecConflict",
    "kept",
    "parse_topology",
    "request_of",
    "values_of",
]
