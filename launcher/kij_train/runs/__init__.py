"""From a resolved request to a running job: the plan, and where it runs."""

from kij_train.runs.backend import (
    await_a_pod,
    connect,
    dry_run,
    extended_resources,
    follow,
    run_local,
    submit,
    unpacked,
    user_of,
    which_nobody_has,
)
from kij_train.runs.plan import SUFFIX_CHARS, Note, Plan, plan, summary, with_ranks

__all__ = [
    "SUFFIX_CHARS",
    "Note",
    "Plan",
    "await_a_pod",
    "connect",
    "dry_run",
    "extended_resources",
    "follow",
    "plan",
    "run_local",
    "submit",
    "summary",
    "unpacked",
    "user_of",
    "which_nobody_has",
    "with_ranks",
]
