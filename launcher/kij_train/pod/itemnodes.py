"""A trial of several nodes on this machine: a process for each node, as a pod would run it.

Standard library only, Python 3.8 or later: it runs beside bootstrap.py.
"""

import os
import shutil
import signal
import sys
import tempfile
from types import FrameType
from typing import Callable, Dict, List, Optional

from kij_train.pod import contract, lines, signals


def run_nodes(run: Callable[[List[str]], int], argv: List[str], count: int) -> int:
    """Run `run` once for each node, at once; the exit code of the first that failed.

    A node that fails ends the others: they would wait for it. Its failure record is the trial's.
    """
    folder = tempfile.mkdtemp(prefix="kij-nodes-", dir=os.environ.get(contract.ENV_SCRATCH_DIR))
    error_file = contract.error_file()
    output = lines.Lines(folder, count)
    nodes: Dict[int, int] = {}
    """Process → rank of the node."""
    for rank in range(count):
        process = os.fork()
        if not process:
            lines.join(folder, str(rank))
            os.environ[contract.ENV_NODE_RANK] = str(rank)
            os.environ[contract.ENV_ERROR_FILE] = _error_file(folder, rank)
            sys.exit(run(argv))
        nodes[process] = rank

    def pass_on(signum: int, frame: Optional[FrameType]) -> None:
        del frame
        _end(nodes, signum)

    signals.take_signals(pass_on)
    first = 0
    with output:
        while nodes:
            process, status = os.wait()
            rank = nodes.pop(process, -1)
            code = signals.exit_code(status)
            if rank >= 0 and code and not first:
                first = code
                if os.path.exists(_error_file(folder, rank)):
                    shutil.copyfile(_error_file(folder, rank), error_file)
                _end(nodes, signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)
    return first


def _error_file(folder: str, rank: int) -> str:
    return os.path.join(folder, f"error-{rank}.json")


def _end(nodes: Dict[int, int], signum: int) -> None:
    for process in list(nodes):
        os.kill(process, signum)  # not waited for yet, so it is there
