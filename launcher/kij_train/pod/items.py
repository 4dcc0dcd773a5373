"""The first process of a pod of an array, and of a runner of this machine.

    python items.py [-m | --no-python] SCRIPT [ARG ...]      the index JOB_COMPLETION_INDEX
    python items.py --serve FD [...] SCRIPT [ARG ...]        those whose numbers come on stdin, a
                                                             line each; FD gets a line for each

It makes the pod ready and forks the process that items are started from (zygote.py). Then it runs
the indexes (itemrunner.py). The fork comes before all that only one of the two needs: the runner
has nothing of the items, and they have nothing of it.

Standard library only, Python 3.8 or later, like bootstrap.py, which lies beside it in a pod.
"""

import sys

FRESH = {name: value for name, value in globals().items() if name.startswith("__")}
"""What this Python gives the module of a main program."""
AT_START = frozenset(sys.modules)

import gc
import os
import types
from typing import List, Optional

if __name__ == "__main__":
    # Run by its path: the names that our files import each other by lead to its own folder.
    here = os.path.dirname(os.path.abspath(__file__))
    folders = [here, os.path.join(here, "gang"), os.path.join(here, "spread")]
    for name in ("kij_train", "kij_train.pod", "kij_train.pod.gang", "kij_train.pod.spread"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = folders
    gc.disable()  # while our files are read, which leaves no garbage

from kij_train.pod import contract, environment, signals, status
from kij_train.pod.firstprocess import first_process
from kij_train.pod.gang.processes import adopt_orphans, spared
from kij_train.pod.itemfork import fork_zygote
from kij_train.pod.itemoutput import Output
from kij_train.pod.prepare import prepare

CHANGES_PYTHON = (
    contract.ENV_SETTINGS_SCRIPT,
    contract.ENV_SETUP,
    contract.ENV_PACKAGES_SHA256,
    contract.ENV_PACKAGES_DIR,
    contract.ENV_FETCH,
    "PYTHONPATH",
)
"""Variables of pods in which Python finds other things once the pod is ready than at the start."""


def get_ready(argv: List[str]) -> int:
    """Do what comes before the fork. Raises Failure."""
    del argv
    env = os.environ
    if env.get(contract.ENV_PARENT_PID):
        signals.die_with_parent(int(env[contract.ENV_PARENT_PID]))
    prepare(dict(env), status.say)
    spared.update(signals.companions)
    adopt_orphans()
    return 0


def main(argv: List[str]) -> Optional[int]:
    """Entry point; `argv` without the program's name. Gives the exit code; None: an item ends."""
    environment.hide_own_folder()
    is_another_python = any(os.environ.get(name) for name in CHANGES_PYTHON)
    code = first_process(get_ready, argv)
    if code:
        return code
    output, forked = Output(), None
    if not is_another_python:
        forked = fork_zygote(output.ends)
        if not forked.process:
            from kij_train.pod import zygote

            gc.enable()
            zygote.run(forked.channel, FRESH, AT_START)
            return None
    from kij_train.pod import itemrunner

    gc.enable()
    return first_process(lambda argv: itemrunner.run_items(argv, output, forked), argv)


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    if exit_code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)  # Python would first take apart all that it has loaded
