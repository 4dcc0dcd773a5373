"""From a resolved request to a running job: the plan, and where it runs."""

from kij_train.runs.backend import (
    await_a_pod,
    connect,
    dry_run,
    follow,
    run_local,
    submit,
    user_of,
)
from kij_train.runs.plan import DEFAULT_FROM_FLAGS, SUFFIX_CHARS, Plan, plan, summary

__all__ = [
    "DEFAULT_FROM_FLAGS",
    "SUFFIX_CHARS",
    "Plan",
    "await_a_pod",
    "connect",
    "dry_run",
    "follow",
    "plan",
    "run_local",
    "submit",
    "summary",
    "user_of",
]
