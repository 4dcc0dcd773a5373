"""What a user can ask for: models, checked field by field.

Every check that needs neither a cluster nor the file system is here.
"""

from typing import TYPE_CHECKING, Any

from kij_train.spec.common import DEFAULT_IMAGE, Common
from kij_train.spec.kept import kept, request_of, values_of
from kij_train.spec.placement import TOPOLOGIES, parse_topology
from kij_train.spec.training import (
    DEFAULT_PORT,
    MOST_RESTARTS,
    SUPERVISOR_PORT,
    JobSpec,
)
from kij_train.spec.types import Model, SpecConflict

__all__ = [
    "DEFAULT_IMAGE",
    "DEFAULT_PORT",
    "MOST_RESTARTS",
    "SUPERVISOR_PORT",
    "TOPOLOGIES",
    "ArraySpec",
    "Common",
    "JobSpec",
    "Model",
    "SpecConflict",
    "kept",
    "kinds",
    "parse_topology",
    "request_of",
    "values_of",
]

if TYPE_CHECKING:
    from kij_train.spec.array import ArraySpec


def kinds() -> tuple[type[Common], ...]:
    """The model of every kind of job."""
    from kij_train.spec.array import ArraySpec

    return (JobSpec, ArraySpec)


def __getattr__(name: str) -> Any:
    # Not imported above: training needs nothing of arrays, and is to start as fast as without.
    if name == "ArraySpec":
        from kij_train.spec.array import ArraySpec

        return ArraySpec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
