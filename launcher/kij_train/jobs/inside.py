"""Run a command in a pod of a job, where its script runs: in the folder of the code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kij_train import diagnosis
from kij_train.diagnosis import JobView, Phase
from kij_train.errors import RequestError, no_such_index
from kij_train.jobs.asking import get, pods_of
from kij_train.pod import contract

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

CODE = f"{contract.WORK_DIR}/code"
"""Where commands start."""
UP = (Phase.RUNNING, Phase.WAITING, Phase.STANDBY, Phase.ENDING)
"""Phases in which a pod's container runs."""

# Python is all that an image must have. It ignores two signals, which what it becomes must not.
_BECOME = """
import os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
try:
    os.chdir(folder)
except OSError:
    pass
code, why = 127, "not found in the image"
for words in choices:
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        if "/" in words[0] and os.path.exists(words[0]):
            why = "its first line names an interpreter that the image has not"
    except OSError as error:
        code, why = 126, error.strerror
print("kij-train: %s: %s" % (" and ".join(words[0] for words in choices), why), file=sys.stderr)
sys.exit(code)
"""


def execute(
    cluster: Cluster,
    name: str,
    index: int,
    choices: Sequence[Sequence[str]],
    *,
    stdin: bool,
    tty: bool,
) -> int:
    """Run the first of these commands that the pod of an index has; gives its exit code.

    127 where it has none of them, 126 where one cannot be run, as shells do it. Raises RequestError
    for an index without a running pod.
    """
    from kij_train.cluster.execute import execute

    pod = pod_of(cluster, get(cluster, name), index)
    return execute(cluster, pod, become(CODE, choices), stdin=stdin, tty=tty)


def pod_of(cluster: Cluster, job: JobView, index: int) -> str:
    """The running pod of an index. Raises RequestError where there is none."""
    if not 0 <= index < job.completions:
        raise no_such_index(job.name, index, job.completions)
    nodes = [diagnosis.node_of(pod) for pod in pods_of(cluster, job.name, index)]
    up = [node for node in nodes if node.phase in UP and node.pod]
    if not up:
        is_now = f"it is {nodes[-1].phase.value}" if nodes else "it has no pod"
        raise not_up(
            cluster, job.name, f"index {index} of {job.name} does not run: {is_now}", index
        )
    return str(up[-1].pod)


def not_up(cluster: Cluster, name: str, what: str, index: int | None = None) -> RequestError:
    """The error where nothing can be asked of a job, or of an index, with where else to look."""
    of_index = () if index is None else ("--index", str(index))
    return RequestError(
        what,
        hints=(
            f"why: {cluster.address.on_job('why', name)}",
            f"what it said: {cluster.address.on_job('logs', name, *of_index)}",
        ),
    )


def become(folder: str, choices: Sequence[Sequence[str]]) -> list[str]:
    """What to run in a pod for the first of these commands that it has, in a folder if there."""
    wanted = ascii([list(words) for words in choices])
    return ["python3", "-S", "-c", f"folder, choices = {folder!a}, {wanted}\n{_BECOME}"]
