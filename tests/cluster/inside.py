"""The process inside the namespaces: it starts the cluster and answers commands about it.

It is started by supervisor.py as the first process of a new PID namespace. There it splits in
two: the first process only collects orphans, as an init does; its child is the real one. When
either ends, the kernel ends everything in the namespaces.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from . import control
from .cluster import Cluster
from .errors import ClusterError
from .paths import StatePaths
from .plan import Plan


def main(state_root: str, report_handle: int) -> None:
    """Bring the cluster up, say so through the pipe `report_handle`, and serve until killed."""
    paths = StatePaths(Path(state_root))
    cluster = Cluster(paths, Plan.load(paths.plan))
    try:
        cluster.start()
    except (ClusterError, OSError) as error:
        _report(report_handle, str(error))
        sys.exit(1)
    _report(report_handle, "")
    control.serve(paths.control_socket, cluster.commands())


def _report(handle: int, error: str) -> None:
    with os.fdopen(handle, "w") as pipe:
        pipe.write(json.dumps({"error": error}) + "\n")


def become_init() -> None:
    """Return in a child; stay behind in the parent, collecting whatever loses its own parent."""
    child = os.fork()
    if child == 0:
        return
    while True:
        with suppress(InterruptedError):
            ended, status = os.wait()
            if ended == child:
                os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    become_init()
    main(sys.argv[1], int(sys.argv[2]))
