"""Jobs that have ended, but for containers of others that keep their pods.

A policy of the cluster may add containers to every pod: meshes, log shippers, agents. A Job's pod
ends when the last of its containers has, so a pod with one that never ends stays, and with it the
Job and the GPUs. The Job then has no verdict yet: ours is made from how our containers ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kij_train import commands, units
from kij_train.diagnosis.failures import failures_of_pods
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.jobview import JobState, JobView, Object
from kij_train.diagnosis.phases import Node, Phase

HELD_S = 30.0
"""How long other containers may take to end by themselves after ours."""


def own_end(job: JobView, nodes: Sequence[Node], pods: Iterable[Object]) -> JobState | None:
    """SUCCEEDED or FAILED where our containers have decided that, and others hold up the Job."""
    held = [node for node in nodes if node.held_up]
    if not held or job.state not in (JobState.PENDING, JobState.RUNNING):
        return None
    if job.restarts_by_itself:
        failed = any(failure.final for failure in failures_of_pods(pods))
    else:
        failed = any(node.phase is Phase.FAILED for node in held)
    if failed:
        return JobState.FAILED
    done = sum(node.phase is Phase.DONE for node in nodes)
    return JobState.SUCCEEDED if done >= job.needed else None


def end_while_held(
    job: JobView, nodes: Sequence[Node], pods: Iterable[Object], *, now: float
) -> JobState | None:
    """The same, once the others have had their time to end by themselves."""
    since = max((node.since or now for node in nodes if node.held_up), default=now)
    return own_end(job, nodes, pods) if now - since >= HELD_S else None


def state_with(job: JobView, nodes: Iterable[Node]) -> JobState:
    """The state of a job: to it, pods that are held up are not ready, as those that never ran."""
    held = job.state is JobState.PENDING and any(node.held_up for node in nodes)
    return JobState.RUNNING if held else job.state


def of_held(nodes: Iterable[Node], *, now: float) -> list[Finding]:
    """The containers that keep pods from ending, and how to be rid of them."""
    every = list(nodes)
    held = [node for node in every if node.held_up]
    if not held:
        return []
    containers = ", ".join(dict.fromkeys(str(node.held_by) for node in held))
    first = min(held, key=lambda node: node.since or now)
    ago = units.format_seconds(max(0.0, now - (first.since or now)))
    return [
        Finding(
            "held-up",
            f"the training has ended on {len(held)} of {len(every)} nodes, and their pods go on, "
            f"with all that they hold: {containers} in them is not kij-train's and has not ended",
            (f"pod {first.pod}: container {first.held_by} goes on since the training, {ago}",),
            f"when you have the logs, free the machines: {commands.on_job('delete')}; for the next "
            "launch, keep it out of the pods (Istio: --label sidecar.istio.io/inject=false), or "
            "have it injected as an initContainer with restartPolicy Always, which ends with the "
            "others",
        )
    ]
