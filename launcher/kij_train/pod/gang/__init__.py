"""The supervisors of a job that restarts after losses, and the names that the launcher needs too.

The files of this package run in the pods, beside bootstrap.py: standard library only, Python 3.8.
"""

from pathlib import Path

from kij_train.pod.gang.history import History
from kij_train.pod.gang.settings import (
    ENV_GANG,
    ENV_GANG_ID,
    ENV_POD_IP,
    ENV_RESTARTS,
    ENV_SPARE,
    READY_PORT,
    Settings,
)

__all__ = [
    "ENV_GANG",
    "ENV_GANG_ID",
    "ENV_POD_IP",
    "ENV_RESTARTS",
    "ENV_SPARE",
    "FILES",
    "READY_PORT",
    "SUPERVISOR",
    "History",
    "Settings",
]

FILES = (
    *sorted(set(Path(__file__).parent.glob("[a-z]*.py")) - {Path(__file__)}),
    Path(__file__).parent.with_name("peering.py"),
)
"""The files that are sent to the pods."""
SUPERVISOR = Path(__file__).with_name("supervisor.py")
"""The first process of a pod."""
