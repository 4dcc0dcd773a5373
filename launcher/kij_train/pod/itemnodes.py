"""An item of several ranks, under torchrun. Of several nodes each is a process on this machine.

Standard library only, Python 3.8 or later: it runs beside bootstrap.py.
"""

import os
import shutil
import signal
import sys
import tempfile
from types import FrameType
from typing import Callable, Dict, List, Optional

from kij_train.pod import contract, lines, signals, torchrun
from kij_train.pod.firstprocess import first_process


def run_ranks(argv: List[str]) -> int:
    """Be the node of the item that this pod is, or start all of them; the exit code."""
    if contract.ENV_NODE_RANK in os.environ:
        return run_node(argv)
    return run_nodes(run_node, argv, int(os.environ[contract.ENV_NNODES]))


def run_node(argv: List[str]) -> int:
    """Be a node of the item; the exit code."""

    def run(argv: List[str]) -> int:
        # The index is the array's.
        env = dict(os.environ, **{contract.ENV_COMPLETION_INDEX: ""})
        return torchrun.run_torchrun(contract.read_contract(env), argv)

    return first_process(run, argv)


def run_nodes(run: Callable[[List[str]], int], argv: List[str], count: int) -> int:
    """Call `run` for all nodes at the same time. Gives the exit code of the first that failed.

    When a node fails, the others are ended, because they would wait for it. The failure record of
    the first node that failed becomes that of the trial.
    """
    folder = tempfile.mkdtemp(prefix="kij-nodes-", dir=os.environ.get(contract.ENV_SCRATCH_DIR))
    error_file = contract.error_file()
    output = lines.Lines(folder, count)
    nodes: Dict[int, int] = {}
    """Process id → rank of the node."""
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
        os.kill(process, signum)  # not waited for yet, so its id is not used again
