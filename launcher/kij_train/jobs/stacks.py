"""Where every rank of a job is right now: its pods are asked, at once, for their Python stacks.

Every rank that torchrun starts waits for SIGUSR2, and bootstrap.py in the same pod sends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis, jobs
from kij_train.diagnosis import JobView, Node, Phase
from kij_train.diagnosis.stacks import RankStack, StackGroup, grouped, threads_of
from kij_train.errors import KijError, RefusedError, RequestError, UnreachableError, no_such_index
from kij_train.jobs.inside import UP
from kij_train.pod import contract
from kij_train.pod.stacks import RankNow

if TYPE_CHECKING:
    from kij_train.cluster import Cluster
    from kij_train.cluster.execute import Answer

ANSWER_S = 20.0
"""How long a pod may take: to start python3, and to hear its ranks."""
TOO_OLD = 3
_SCRIPT = f"{contract.BUNDLE_DIR}/bootstrap.py"
# An older bootstrap would take the flag for a script, and train.
_GUARD = f"""
import runpy, sys
del sys.argv[0]
if "print_stacks" not in open(sys.argv[0]).read():
    sys.exit({TOO_OLD})
runpy.run_path(sys.argv[0], run_name="__main__")
"""
COMMAND = ["python3", "-c", _GUARD, _SCRIPT, contract.STACKS]


@dataclass(frozen=True)
class Stacks:
    """Where the ranks of a job are."""

    job: JobView
    ranks: list[RankStack]
    """In the order of their numbers; those that have not said it included."""
    silent: dict[int, str]
    """Index → why nothing is known of it."""

    @property
    def groups(self) -> list[StackGroup]:
        return grouped(self.ranks)

    def problems(self) -> Iterator[str]:
        """A line for every index and every rank of which no stack is known."""
        for rank in self.ranks:
            if not rank.threads:
                yield (
                    f"{rank.index}/{rank.rank} (pod {rank.pod}) does not answer: its process is "
                    f"{rank.state or 'gone'}, or its script has taken SIGUSR2"
                )
        for index, why in sorted(self.silent.items()):
            yield f"index {index}: {why}"

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            **jobs.summary_of(self.job).identity(),
            "ranks": [rank.as_json() for rank in self.ranks],
            "groups": [
                {"ranks": [one.rank for one in group.ranks], "frames": list(group.frames)}
                for group in self.groups
            ],
            "silent": [{"index": i, "reason": why} for i, why in sorted(self.silent.items())],
        }


def stacks(
    cluster: Cluster, name: str, *, rank: int | None = None, index: int | None = None
) -> Stacks:
    """Ask every running pod, or that of a rank or an index.

    Raises RequestError for a job that has no Python ranks or no running pod, RefusedError without
    the right to exec, UnreachableError where nobody answers.
    """
    from kij_train.cluster.execute import ask

    job = jobs.get(cluster, name)
    _check_python(job)
    if job.state.ended:
        raise RequestError(f"{name} does not run any more: {job.state.value}")
    index = _index_of(job, rank, index)
    nodes = _nodes(cluster, job, index)
    by_pod = {str(node.pod): node for node in nodes if node.phase in UP and node.pod}
    silent = {
        node.index: f"no running pod: {node.phase.value}"
        for node in nodes
        if str(node.pod) not in by_pod and (node.phase is not Phase.LOST or index is not None)
    }
    if not by_pod:
        which = f"no pod of {name} runs" if index is None else f"index {index} of {name} is not up"
        raise RequestError(
            f"{which}: {nodes[0].phase.value}",
            hints=(f"why: {cluster.address.on_job('why', name)}",),
        )
    found, errors = [], list[KijError]()
    for answer in ask(cluster, list(by_pod), COMMAND, timeout_s=ANSWER_S):
        node = by_pod[answer.pod]
        ranks = _ranks_in(answer, node)
        found += ranks
        if answer.error is not None:
            errors.append(answer.error)
        if not ranks:
            silent[node.index] = _why_silent(answer)
    found = sorted((one for one in found if rank in (None, one.rank)), key=lambda one: one.rank)
    refusals = [error for error in errors if isinstance(error, RefusedError)]
    if not found and errors:
        raise (refusals or errors)[0]
    if not found:
        which = name if rank is None else f"rank {rank} of {name}"
        raise UnreachableError(
            f"{which} cannot say where it is: {next(iter(silent.values()), 'it does not run now')}",
            hints=(f"see: {cluster.address.on_job('status', name)}",),
        )
    return Stacks(job, found, silent)


def _check_python(job: JobView) -> None:
    first = (job.arguments or [""])[0]
    if first == contract.NO_TORCHRUN:
        raise RequestError(
            f"{job.name} was launched with --no-torchrun: its ranks are not started by kij-train, "
            "which knows no stack of theirs"
        )
    if first == "--no-python":
        raise RequestError(f"{job.name} runs a program (--no-python): it has no Python stack")


def _index_of(job: JobView, rank: int | None, index: int | None) -> int | None:
    """The index to ask; None for all."""
    settings, nproc = job.gang_settings, job.ranks_per_node
    if index is not None and not 0 <= index < job.completions:
        raise no_such_index(job.name, index, job.completions)
    nodes = job.completions if settings is None else settings.high
    if rank is not None and not 0 <= rank < nodes * nproc:
        raise RequestError(f"--rank {rank}: the job has {nodes * nproc} ranks, from 0 on")
    if rank is None or job.restarts_by_itself:  # there, ranks move
        return index
    return rank // nproc


def _nodes(cluster: Cluster, job: JobView, index: int | None) -> list[Node]:
    pods = jobs.pods_of(cluster, job.name, index)
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    return [node for node in nodes if index in (None, node.index)]


def _ranks_in(answer: Answer, node: Node) -> list[RankStack]:
    """What a pod said."""
    found = []
    for line in answer.out.splitlines() if answer.code == 0 else ():
        now = RankNow.read(line)
        if now is not None:
            threads = threads_of(now.stack)
            found.append(RankStack(now.rank, node.index, answer.pod, threads, now.state))
    return found


def _why_silent(answer: Answer) -> str:
    if answer.error is not None:
        return answer.error.message
    if answer.code == TOO_OLD:
        return f"pod {answer.pod} was made by an older kij-train, whose ranks cannot be asked"
    if answer.code:
        last = (answer.err.strip().splitlines() or [""])[-1]
        return f"pod {answer.pod} cannot be asked: exit code {answer.code} {last}".rstrip()
    return f"pod {answer.pod} runs no rank now: it is before its script, or stands by"
