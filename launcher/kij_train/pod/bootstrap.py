"""What runs in every pod, and in every local "node": the environment contract, then torchrun.

    python bootstrap.py [-m | --no-python] SCRIPT [ARG ...]        the node's first process
    python bootstrap.py --no-torchrun [--await-rank0] [-m | --no-python] SCRIPT [ARG ...]
                                                                   the same, without torchrun
    python bootstrap.py --stacks                                   where the ranks of this pod are

As the node's first process it says which node this is, checks the contract, unpacks the code,
imports torch, waits for rank 0, and runs torchrun's own `run` in this process. torchrun starts
worker.py, once a rank.

Standard library only, Python 3.8 or later; of kij-train it imports nothing but the files that lie
beside it in a pod (`kij_train.pod.BESIDE`).
"""

import os
import signal
import sys
import types
from typing import List

if __name__ == "__main__":
    # Run by its path: the names that our files import each other by lead to its own folder.
    here = os.path.dirname(os.path.abspath(__file__))
    for name in ("kij_train", "kij_train.pod", "kij_train.pod.spread"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [here, os.path.join(here, "spread")]

from kij_train.pod import contract, environment, programs, signals, stacks, torchrun
from kij_train.pod.firstprocess import end_of_node, first_process
from kij_train.pod.prepare import prepare
from kij_train.pod.status import say


def run_node(argv: List[str]) -> int:
    """The node's first process, from the contract to torchrun's exit code."""
    env = dict(os.environ)
    if env.get(contract.ENV_PARENT_PID):
        signals.die_with_parent(int(env[contract.ENV_PARENT_PID]))
    node = contract.read_contract(env)
    say(contract.describe(node, env))
    prepare(env, say)
    if argv[0] == contract.NO_TORCHRUN:
        return end_of_node(programs.run_plain(node, argv[1:]))
    if os.getpid() == 1:
        # Orphans become its children, and torchrun waits for its own alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDINGS)
        child = os.fork()
        if child:
            return end_of_node(signals.exit_code(signals.attend(child)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDINGS)
    return torchrun.run_torchrun(node, argv)


def main(argv: List[str]) -> int:
    """Entry point; `argv` without the program's name."""
    environment.hide_own_folder()
    if argv == [contract.STACKS]:
        return stacks.print_stacks()
    return first_process(run_node, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
