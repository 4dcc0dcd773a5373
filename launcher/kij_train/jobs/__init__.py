"""One job that is on a cluster: what is read of it, and what changes it."""

from kij_train.jobs.asking import ABOUT_LOCAL, check_name, events_of, get, pods_of, queue_of
from kij_train.jobs.copying import Place, copy, copy_all
from kij_train.jobs.forward import Ports, forward
from kij_train.jobs.inside import execute
from kij_train.jobs.logs import logs
from kij_train.jobs.status import JobStatus, status, why
from kij_train.jobs.summary import JobSummary, list_jobs, summary_of
from kij_train.jobs.waiting import wait
from kij_train.pod.copying import Summary

__all__ = [
    "ABOUT_LOCAL",
    "JobStatus",
    "JobSummary",
    "Place",
    "Ports",
    "Summary",
    "check_name",
    "copy",
    "copy_all",
    "events_of",
    "execute",
    "forward",
    "get",
    "list_jobs",
    "logs",
    "pods_of",
    "queue_of",
    "status",
    "summary_of",
    "wait",
    "why",
]
