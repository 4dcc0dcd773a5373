"""The first process in every pod of a job that restarts after losses: a supervisor.

    python supervisor.py [-m | --no-python] SCRIPT [ARG ...]

The supervisors agree among themselves which pods train. The lowest index that answers leads. Every
other pod keeps one TCP connection to the leader, and is a member. For each round the leader chooses
N of the N + S pods, in the order of their indexes; the other S are spares. Each chosen pod runs
torchrun with a static rendezvous, so that the ranks follow the order of the indexes.

When a member is lost or a rank fails, the leader ends the round in all pods and starts the next
one. Pods that still work stay; only their ranks are started again. When the leader is lost, the
lowest index that answers becomes the leader. A pod that loses its leader first ends its own ranks,
then looks for the next leader: no rank ever trains without a leader.

Standard library only, Python 3.8 or later, like bootstrap.py, which lies beside it in a pod.
"""

import asyncio
import os
import socket
import sys
import tempfile
import types
from pathlib import Path
from typing import List, Optional

if not __package__:
    # Run by its path, in a pod or from an installed package. These entries make `kij_train.pod`
    # mean the files beside this one, not another kij_train that the image may have.
    here = Path(__file__).resolve().parent
    folders = [here, here.parent, here.parent / "spread"]
    for name in ("kij_train", "kij_train.pod", "kij_train.pod.gang", "kij_train.pod.spread"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder) for folder in folders]

from kij_train.pod import contract, environment, signals, status, torchrun
from kij_train.pod.firstprocess import first_process
from kij_train.pod.gang import hang, processes, ranks
from kij_train.pod.gang.leader import KILL_AFTER_S
from kij_train.pod.gang.messages import Run
from kij_train.pod.gang.node import Supervisor
from kij_train.pod.gang.settings import read_node, read_settings
from kij_train.pod.prepare import prepare


def import_torch() -> None:
    """Import torch once. The process of each round is forked from this one, and has it already."""
    try:
        import torch.distributed.run  # noqa: F401
    except ImportError as error:
        raise ImportError(status.no_torch(sys.executable, error)) from error


def run_round(order: Run, argv: List[str], output: Optional[hang.Output]) -> int:
    """Run torchrun in this process for one round. Returns the exit code; a failure is recorded."""
    os.environ.update(order.env)
    if output is not None:
        output.take()
    return first_process(lambda argv: torchrun.run_torchrun(order.node, argv), argv)


def run_supervised(argv: List[str]) -> int:
    """Run the pod's first process: read the settings, then supervise until the job is over."""
    env = os.environ
    if env.get(contract.ENV_PARENT_PID):
        signals.die_with_parent(int(env[contract.ENV_PARENT_PID]))
    settings = read_settings(dict(env))
    node = read_node(dict(env), settings)
    spares = f" and {settings.spares} spare{'' if settings.spares == 1 else 's'}"
    where = f" on {env[contract.ENV_NODE_NAME]}" if env.get(contract.ENV_NODE_NAME) else ""
    status.say(
        f"index {node.rank}{'' if node.rank < settings.pods else ', from the reserve,'} "
        f"of {settings.high}{spares if settings.spares else ''}, "
        f"pod {socket.gethostname()}{where}, port {node.master_port}"
    )
    prepare(dict(env), status.say)
    processes.spared.update(signals.companions)
    processes.adopt_orphans()
    watched = settings.hang_timeout_s and settings.heartbeat == hang.OUTPUT
    output = hang.Output() if watched else None
    work = ranks.Work(import_torch, lambda order: run_round(order, argv, output))
    zygote = ranks.Zygote(work, status.say)
    if output is not None:
        output.start()
    scratch_dir = env.get(contract.ENV_SCRATCH_DIR)
    with tempfile.TemporaryDirectory(prefix="kij-rounds-", dir=scratch_dir) as scratch:

        async def whole() -> int:
            return await Supervisor(node, settings, zygote, scratch, output).run()

        try:
            return asyncio.run(whole())
        finally:
            if output is not None:
                processes.kill_descendants()
                output.close(KILL_AFTER_S)


def main(argv: List[str]) -> int:
    """Entry point; `argv` without the program's name."""
    environment.hide_own_folder()
    return first_process(run_supervised, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
