"""One job that is on a cluster: what is read of it, and what changes it."""

from kij_train.jobs.inside import execute
from kij_train.jobs.read import (
    ABOUT_LOCAL,
    JobStatus,
    JobSummary,
    Object,
    check_name,
    events_of,
    get,
    list_jobs,
    logs,
    pods_of,
    status,
    summary_of,
    wait,
    why,
)

__all__ = [
    "ABOUT_LOCAL",
    "JobStatus",
    "JobSummary",
    "Object",
    "check_name",
    "events_of",
    "execute",
    "get",
    "list_jobs",
    "logs",
    "pods_of",
    "status",
    "summary_of",
    "wait",
    "why",
]
