"""What stays in the pods of a job that survives losses, and the names that it shares with us.

The files of this package run in the pods, beside bootstrap.py: standard library only, Python 3.8.
"""

from pathlib import Path

from kij_train.gang.leader import (
    ENV_GANG,
    ENV_GANG_ID,
    ENV_POD_IP,
    ENV_RESTARTS,
    ENV_SPARE,
    READY_PORT,
    SECONDARY,
    History,
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
    "SECONDARY",
    "SUPERVISOR",
    "History",
    "Settings",
]

_NAMES = ("hang.py", "leader.py", "network.py", "ranks.py", "supervisor.py")
FILES = tuple(Path(__file__).with_name(name) for name in _NAMES)
"""What the pods get."""
SUPERVISOR = FILES[-1]
"""The first process of a node."""
