"""Why pods still wait, told to whoever is attached to their job: once, and in the words of `why`.

A job whose pods start costs nothing. One look is the requests of `why`, after PENDING_S; another
one comes when pods wait for something else, or else after a pause that doubles each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kij_train.diagnosis import STAYING, JobState, JobView, Node, Phase, Verdict, same_reason
from kij_train.errors import KijError, RefusedError
from kij_train.jobs.status import cause_of

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, Observation

PENDING_S = 20.0
"""How long a pod waits before it is asked why: most start sooner."""
LOOK_S = 2.0
"""Between two looks at what is known of the nodes: not at every event of thousands of pods."""
AGAIN_S = 60.0
"""After the first look at the cluster, until the next one where pods seem to wait as before."""
NOT_DONE = (Phase.PENDING, Phase.STARTING, Phase.PULLING)
NO_POD, IN_QUEUE = "no pod", "in a queue"
"""What stands for the pod where there is none."""


class Stuck:
    """Looks for the cause while pods wait, and says each kind of cause once."""

    def __init__(
        self,
        cluster: Cluster,
        note: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`note` is told the cause."""
        self._cluster, self._note, self._clock = cluster, note, clock
        self._since: dict[str, float] = {}
        """What waits → since when we know of it: clocks of here and there may differ."""
        self._look_at = float("-inf")
        self._asked: frozenset[str] = frozenset()
        """How the pods waited, when the cluster was asked last."""
        self._asked_at = float("-inf")
        self._pause_s = AGAIN_S
        self._told: set[str] = set()
        """Kinds of findings."""
        self._may_ask = True

    def saw(self, observed: Observation) -> None:
        """Take in the job as it is now; costs requests only where pods have waited for long."""
        job, now = observed.job, self._clock()
        if job is None or job.state.ended or not self._may_ask or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        waits = _waits(job, observed.nodes)
        self._since = {which: self._since.get(which, now) for which in waits}
        long = frozenset(
            waits[which] for which, since in self._since.items() if now - since >= PENDING_S
        )
        is_new = not long <= self._asked
        if not long or now - self._asked_at < (PENDING_S if is_new else self._pause_s):
            return
        self._pause_s = AGAIN_S if is_new else 2 * self._pause_s
        self._asked, self._asked_at = long, now
        try:
            verdict = cause_of(self._cluster, job, list(observed.pods.values()))
        except RefusedError:
            self._may_ask = False  # who may not list events is not told, and not bothered either
        except KijError:
            pass  # the watching itself says where nobody answers
        else:
            self._tell(job.name, verdict)

    def _tell(self, name: str, verdict: Verdict) -> None:
        finding = next((each for each in verdict.findings if each.kind in STAYING), None)
        if finding is None or finding.kind in self._told:
            return
        self._told.add(finding.kind)
        lines = [f"{name}  {finding.summary}"]
        if finding.hint:
            lines.append(f"  try: {finding.hint}")
        lines.append(f"  more: {self._cluster.address.on_job('why', name)}")
        self._note("\n".join(lines))


def _waits(job: JobView, nodes: Sequence[Node]) -> dict[str, str]:
    """What does not run yet → how it waits."""
    if job.state is JobState.SUSPENDED:
        return {} if job.queue is None else {IN_QUEUE: IN_QUEUE}
    found = {
        node.pod: f"{node.phase.value} {same_reason(node.reason or '')}"
        for node in nodes
        if node.pod is not None and node.phase in NOT_DONE
    }
    going = sum(
        node.pod is not None and node.phase not in (Phase.DONE, Phase.FAILED) for node in nodes
    )
    # Most indexes of an array have no pod as long as others have all that it may have at once.
    if going < job.parallelism and any(n.pod is None and n.phase is Phase.PENDING for n in nodes):
        found[NO_POD] = NO_POD
    return found
