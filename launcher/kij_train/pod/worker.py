"""A rank: runs the script as `python SCRIPT` would, and leaves a record of what ended it.

    python -u worker.py --worker [-m] SCRIPT [ARG ...]

torchrun starts it. mainprogram.py says how the script runs and ends.

Standard library only, Python 3.8 or later, like bootstrap.py, which lies beside it in a pod.
"""

import sys

FRESH = {name: value for name, value in globals().items() if name.startswith("__")}
"""What this Python gives the module of a main program."""
AT_START = frozenset(sys.modules)

if not __package__:
    # Run by its path: the names that our files import each other by lead to its own folder.
    folder = __file__.rpartition("/")[0] or "."
    for name in ("kij_train", "kij_train.pod"):
        sys.modules[name] = type(sys)(name)
        sys.modules[name].__path__ = [folder]

import faulthandler
import os
import signal
from typing import List

from kij_train.pod import contract, lines, mainprogram, stacks, status


class PreflightError(Exception):
    """A node is not fit to train on; the message names it."""


def run_preflight(script: str) -> None:
    """Run the preflight as a process of its own, so that nothing of it is left in this one.

    It meets at a port of its own: the ranks' store is not to be shared. Raises PreflightError.
    """
    import subprocess

    port = os.environ.get(contract.ENV_PREFLIGHT_PORT)
    port = port or str(int(os.environ[contract.ENV_MASTER_PORT]) + 1)
    env = dict(os.environ, MASTER_PORT=port)
    answer = subprocess.run([sys.executable, script], env=env, stdout=subprocess.PIPE)
    if answer.returncode:
        said = answer.stdout.decode("utf-8", "replace").strip()
        raise PreflightError(said or f"preflight: exit code {answer.returncode}")


def write_stacks_on_sigusr2() -> None:
    """From now on SIGUSR2 writes the stacks of all threads of this process to its file.

    A script that takes SIGUSR2 for itself has it, and no stacks. On this machine only ranks that
    are watched have a folder for it.
    """
    folder = os.environ.get(contract.ENV_STACKS_DIR, "")
    on_this_machine = os.environ.get(contract.ENV_PARENT_PID)
    if not folder and not on_this_machine and os.path.isdir(contract.WORK_DIR):
        folder = contract.STACKS_DIR
    if not folder:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, str(os.getpid())), "ab", buffering=0)  # noqa: SIM115
        faulthandler.register(signal.SIGUSR2, file, all_threads=True)  # keeps the file
    except OSError as error:
        status.say(f"no stacks of this rank: {error}")


def meet_the_node() -> None:
    """Write to the pipes that the node reads, and have it find our stack after a SIGSEGV."""
    folder = os.environ.pop(contract.ENV_RANKS_DIR, "")
    if folder:
        local_rank = os.environ["LOCAL_RANK"]
        lines.join(folder, local_rank)
        path = stacks.crash_file(folder, int(local_rank))
        faulthandler.enable(open(path, "wb", buffering=0))  # noqa: SIM115 - it keeps the file


def watch_heartbeat() -> None:
    """Tell the script its file."""
    beats = os.environ.get(contract.ENV_HEARTBEAT_DIR)
    if beats:
        os.environ[contract.ENV_HEARTBEAT_FILE] = os.path.join(beats, os.environ["RANK"])


def main(argv: List[str]) -> None:
    """Entry point; `argv` without the program's name and the flag."""
    rank, path = int(os.environ.get("RANK", "-1")), os.environ.get(contract.ENV_ERROR_FILE)
    process = os.getpid()
    mainprogram.started_as(FRESH, AT_START)
    meet_the_node()
    write_stacks_on_sigusr2()
    watch_heartbeat()
    try:
        if os.environ.get(contract.ENV_PREFLIGHT):
            run_preflight(os.environ[contract.ENV_PREFLIGHT])
        mainprogram.as_main(argv)
    except BaseException as error:
        mainprogram.end_badly(error, path, process, f"rank {rank}", rank=rank)
        raise


if __name__ == "__main__":
    main(sys.argv[2:])
