"""TorchX schedulers: `kij_train` runs apps as plain Jobs, `local_kij_train` on this machine.

Entry points of the group torchx.schedulers, for TorchX 0.7 and later. What a role becomes is told
in `roles`.
"""

from __future__ import annotations

import functools
import threading

from kij_train.torchx_scheduler.cluster import KijTrainScheduler
from kij_train.torchx_scheduler.errors import say_without_traceback
from kij_train.torchx_scheduler.local import LocalKijTrainScheduler

__all__ = [
    "KijTrainScheduler",
    "LocalKijTrainScheduler",
    "create_local_scheduler",
    "create_scheduler",
]


@functools.cache
def _hook_threads() -> None:
    """Once, however many schedulers a program makes."""
    threading.excepthook = say_without_traceback(threading.excepthook)


def create_scheduler(session_name: str, **kwargs: object) -> KijTrainScheduler:
    """Entry point `kij_train`."""
    del kwargs  # parameters of other schedulers
    _hook_threads()
    return KijTrainScheduler(session_name)


def create_local_scheduler(session_name: str, **kwargs: object) -> LocalKijTrainScheduler:
    """Entry point `local_kij_train`."""
    del kwargs
    return LocalKijTrainScheduler(session_name)
