"""kij-train: launch a PyTorch script on N Kubernetes pods, or N local processes, as one job.

From Python: `job` describes it, `launch` starts it and gives a `Run`, `attach` finds it again.
`map` runs a script or a function for every item of a list, and gives an `ArrayRun`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own, without the time that its import takes of every start

# Without `map`: `from kij_train import *` is not to hide Python's own.
__all__ = ["ArrayRun", "Run", "__version__", "attach", "job", "launch"]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

    from kij_train.api import Run, attach, job, launch
    from kij_train.array_api import ArrayRun
    from kij_train.array_api import map as map  # noqa: A004 - as the map of an executor


def __getattr__(name: str) -> Any:
    # Not imported above: the command line, and the bootstrap in pods, import this package too.
    if name in ("ArrayRun", "map"):
        from kij_train import array_api

        return getattr(array_api, name)
    if name in __all__:
        from kij_train import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
