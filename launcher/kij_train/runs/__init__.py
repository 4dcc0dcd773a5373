"""From a resolved request to a running job: the plan, and where it runs."""

from typing import TYPE_CHECKING, Any

from kij_train.runs.backend import Backend, Line, Run
from kij_train.runs.on_cluster import (
    ClusterRun,
    OnCluster,
    address_of,
    attached,
    connect,
    dry_run,
    followed,
    user_of,
    which_nobody_has,
)
from kij_train.runs.on_machine import LocalRun, OnMachine
from kij_train.runs.plan import SUFFIX_CHARS, Note, Place, Plan, check_not_imported, plan, summary

__all__ = [
    "SUFFIX_CHARS",
    "ArrayPlan",
    "Backend",
    "ClusterRun",
    "Line",
    "LocalRun",
    "Note",
    "OnCluster",
    "OnMachine",
    "Place",
    "Plan",
    "Run",
    "address_of",
    "array_summary",
    "at_once_here",
    "attached",
    "attempt_of",
    "check_here",
    "check_not_imported",
    "check_placeholders",
    "connect",
    "dry_run",
    "followed",
    "keep_array",
    "plan",
    "plan_array",
    "plan_rerun",
    "start_array",
    "summary",
    "user_of",
    "which_nobody_has",
]

if TYPE_CHECKING:
    from kij_train.runs.array_on_machine import at_once_here, check_here, start_array
    from kij_train.runs.arrays import (
        ArrayPlan,
        array_summary,
        attempt_of,
        check_placeholders,
        keep_array,
        plan_array,
        plan_rerun,
    )


def __getattr__(name: str) -> Any:
    # Not imported above: training needs nothing of arrays, and is to start as fast as without.
    if name in __all__:
        from kij_train.runs import array_on_machine, arrays

        return getattr(arrays if hasattr(arrays, name) else array_on_machine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
