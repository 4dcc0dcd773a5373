"""Jobs on a cluster.

What speaks to an API server, and judges its answers, is imported where it begins, so that rendering
starts fast.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from kij_train import names, scripts, units
from kij_train.commands import Address
from kij_train.errors import KijError, RefusedError, RequestError, UnreachableError
from kij_train.runs import queues, shares
from kij_train.runs.backend import Backend, Line, Run
from kij_train.runs.plan import Note
from kij_train.runs.sizes import without_room
from kij_train.spec import Common, JobSpec
from kij_train.spec.common import Where
from kij_train.specfile import Layer, Resolved, resolve

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, LogChoice, LogLine, Observation, Submission
    from kij_train.diagnosis import JobState, JobView

_log = logging.getLogger(__name__)

MOST_LOOKED_AT = 4
"""Pages of machines, of 500 each, that a launch asks for: it must not wait for all of thousands."""
MOST_FOLLOWED = 32
"""Logs that are passed on at once, of a job whose rank 0 may be anywhere."""


class Submittable(Protocol):
    """What a cluster must know of a plan, of whatever kind the job is."""

    @property
    def spec(self) -> Common:
        """Which cluster it is for, and its labels."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Annotations of the Job beside those of the request."""

    def objects(self) -> list[dict[str, Any]]:
        """All that is made, the Job among it."""


class OnCluster(Backend):
    """The cluster that the first spec names, in its namespace."""

    def __init__(self, cluster: Cluster | None = None, *, replace: bool = False) -> None:
        """`replace` deletes a job of the same name first."""
        self._cluster = cluster
        self._replace = replace

    def cluster(self, spec: Where) -> Cluster:
        """Where `spec` belongs; connects at the first call. Raises UnreachableError."""
        if self._cluster is None:
            self._cluster = connect(spec)
        return self._cluster

    @property
    def warnings(self) -> list[str]:
        return [] if self._cluster is None else self._cluster.warnings

    def locate(self, resolved: Resolved[Common], cwd: Path, code_dir: Path) -> str | None:
        return scripts.locate(resolved, cwd, code_dir, is_here=False)

    def with_ranks(self, resolved: Resolved) -> JobSpec:
        spec, kind = resolved.spec, resolved.spec.nproc_per_node
        if not isinstance(kind, str):
            return spec
        if kind != "cpu" and spec.gpus:
            count = spec.gpus
        elif kind != "gpu" and spec.cpu is not None:
            count = max(1, int(units.quantity_value(spec.cpu)))
        else:
            counted = {"gpu": "GPUs", "cpu": "cores"}.get(kind, "GPUs, or else cores,")
            flags = {"gpu": "--gpus 8", "cpu": "--cpu 8"}.get(kind, "--gpus 8, or --cpu 8")
            raise RequestError(
                f"{resolved.origin(('nproc_per_node',))} {kind} stands for the {counted} of a pod, "
                "and it asks for none",
                hints=(f"say how many a node: {flags}",),
            )
        return spec.model_copy(update={"nproc_per_node": count})

    def ships(self, spec: Common) -> bool:
        return spec.code

    def notes(self, spec: JobSpec) -> Iterator[Note]:
        if spec.supervised and not spec.shared_paths:
            yield Note(
                f"--restart {spec.restart} without a volume that all pods share: what a lost pod "
                "has saved is lost with it, and so is the training, unless the script saves "
                "elsewhere",
                ("mount one, and save there: --mount pvc:NAME:/checkpoints",),
            )

    def where(self, spec: Common) -> str:
        return f"namespace {self.cluster(spec).namespace} · image {spec.image}"

    def recorded(self, spec: JobSpec) -> dict[str, str | None]:
        return {"where": "cluster", "image": spec.image}

    def doubts(self, spec: Common) -> Iterator[Note]:
        if isinstance(spec, JobSpec):
            yield from _without_gang(spec)
            yield from shares.doubts(spec, lambda: self.cluster(spec))
        yield from _without_volume(spec)
        if spec.kueue is not None:
            yield from queues.doubts(spec.kueue, self.cluster(spec))
        yield from without_room(spec)
        if extended_resources(spec):
            for resource, advice in which_nobody_has(spec, self.cluster(spec)).items():
                yield Note(
                    f"no machine of the cluster has {resource}: the pods wait until one comes that "
                    "has it",
                    (advice,),
                )

    def start(self, plan: Submittable) -> ClusterRun:
        """Create the job. Raises RefusedError, UnreachableError."""
        cluster, objects = self.cluster(plan.spec), plan.objects()
        if plan.facts:
            (job,) = (body for body in objects if body["kind"] == "Job")
            job["metadata"].setdefault("annotations", {}).update(plan.facts)
        return self.submit(cluster, objects, user_of(plan.spec))

    def submit(
        self, cluster: Cluster, objects: list[dict[str, Any]], user: str | None
    ) -> ClusterRun:
        """Create a job of objects that are rendered. Raises RefusedError, UnreachableError."""
        from kij_train.cluster.submit import submit

        submission = submit(cluster, objects, replace=self._replace, user=user)
        return ClusterRun(submission, Counter(str(body["kind"]) for body in reversed(objects)))


class ClusterRun(Run):
    """A job on a cluster, of whoever launched it."""

    def __init__(self, submission: Submission, created: Mapping[str, int] | None = None) -> None:
        """`created` are the kinds of its objects, where it was submitted just now."""
        super().__init__(submission.name)
        self._submission = submission
        self.created = created
        self.cluster = submission.cluster
        self.uid = submission.uid

    def wait(self, timeout_s: float | None = None) -> None:
        from kij_train import jobs

        ended = jobs.wait(self.cluster, self.name, timeout_s=timeout_s, note=_log.info)
        error = ended.verdict.error()
        if error is not None:
            raise error

    def await_a_pod(self) -> None:
        """Look, for some seconds, whether the cluster takes its pods.

        Raises RefusedError when quota or policy refuse them; then the job is removed.
        """
        from kij_train import cluster

        cluster.await_a_pod(self._submission)

    def follow(
        self,
        *,
        indexes: Set[int] = frozenset({0}),
        log_choice: LogChoice | None = None,
        on_line: Callable[[LogLine], None],
        on_change: Callable[[Observation], None],
        on_note: Callable[[str], None],
    ) -> float:
        """Stay until it ends, passing on the logs of some `indexes`; the seconds it took.

        Raises JobFailedError with the verdict, TimedOutError at the job's deadline, RefusedError
        when the cluster makes no pod at all of a job that was submitted just now, and removes it.
        """
        from kij_train import cluster, diagnosis, jobs
        from kij_train.jobs.packages import Keeper
        from kij_train.jobs.stuck import Stuck

        keeper, stuck = Keeper(self.cluster, self.name, on_note), Stuck(self.cluster, on_note)

        def on_every_line(line: LogLine) -> None:
            keeper.saw(line.text)
            on_line(line)

        def on_every_change(observed: Observation) -> None:
            on_change(observed)
            stuck.saw(observed)

        end = cluster.follow(
            self._submission,
            on_line=on_every_line,
            on_change=on_every_change,
            on_note=on_note,
            log_indexes=indexes,
            log_choice=log_choice,
            submitted_now=self.created is not None,
        )
        at = self.cluster.address
        verdict = diagnosis.why(end.job, end.pods, (), now=time.time(), end=end.own, at=at)
        if verdict.state is diagnosis.JobState.SUCCEEDED:
            if end.own is not None:
                on_note(verdict.text())
            return end.seconds
        if verdict.findings and verdict.findings[0].kind in ("deadline", "pods-gone", "unknown"):
            # The pods do not tell; events may.
            events = jobs.events_of(self.cluster, self.name)
            verdict = diagnosis.why(end.job, end.pods, events, now=time.time(), end=end.own, at=at)
        log = at.on_job("logs", self.name, "--all", "--tail", "100")
        error = verdict.error((f"log: {log}",))
        assert error is not None, "following ends with the job"
        raise error

    def logs(self, *, index: int | None = None, follow: bool = False) -> Iterator[Line]:
        from kij_train import jobs
        from kij_train.cluster import LogChoice

        lines = jobs.logs(
            self.cluster,
            self.name,
            indexes=None if index is None else {index},
            choice=LogChoice(),
            follow=follow,
            note=_log.info,
        )
        return (Line(line.index, line.text) for line in lines)

    def status(self) -> JobState:
        from kij_train import jobs

        return jobs.get(self.cluster, self.name).state

    def why(self) -> str:
        from kij_train import jobs

        return jobs.why(self.cluster, self.name).text()

    def cancel(self) -> None:
        from kij_train.jobs import change

        change.cancel(self.cluster, self.name, uid=self.uid)

    def delete(self) -> None:
        """Raises GoneError where it is gone already."""
        from kij_train.cluster.apierrors import GoneError
        from kij_train.jobs import change

        try:
            change.delete(self.cluster, self.name, uid=self.uid)
        except GoneError:
            raise
        except KijError as error:
            command = self.cluster.address.on_job("delete", self.name)
            error.hints = (*error.hints, f"it may be left: {command}")
            raise


def followed(size: int, completions: int) -> frozenset[int]:
    """The indexes whose logs are shown of a job whose rank 0 may be anywhere.

    Not all of a large one, of which `size` pods are there at once, but those of the reserve that
    come instead of others.
    """
    return frozenset([*range(min(size, MOST_FOLLOWED)), *range(size, completions)])


def attached(cluster: Cluster, name: str) -> tuple[ClusterRun, JobView]:
    """A job that is there, to stay with; and its Job. Raises RefusedError for somebody else's."""
    from kij_train.jobs import change

    submission, job = change.submission_of(cluster, name)
    return ClusterRun(submission), job


def connect(spec: Where) -> Cluster:
    """The cluster and namespace that the spec, the kubeconfig or the pod around us names."""
    from kij_train.cluster import Cluster

    return Cluster.connect(
        kubeconfig=spec.kubeconfig,
        context=spec.context,
        namespace=spec.namespace,
        implied=_implied(spec),
    )


def address_of(spec: Where) -> Address:
    """How commands name the cluster of a spec; the namespace is left out."""
    return Address.of(spec.kubeconfig, spec.context, _implied(spec))


def _implied(spec: Where) -> frozenset[str]:
    """Which of context and kubeconfig a command without flags finds, too, where we run."""
    said = [field for field in ("context", "kubeconfig") if getattr(spec, field) is not None]
    if not said:
        return frozenset()
    try:
        plain = resolve(Layer({}), environ=os.environ, cwd=Path.cwd()).spec
    except RequestError:  # the command would say so
        return frozenset()
    return frozenset(field for field in said if getattr(spec, field) == getattr(plain, field))


def dry_run(plan: Submittable, cluster: Cluster, *, replace: bool = False) -> list[dict[str, Any]]:
    """What the API server makes of every object, and of one pod; nothing is created.

    With `replace`, objects of these names may be there.
    """
    from kij_train.cluster.submit import dry_run

    return dry_run(cluster, plan.objects(), replace=replace)


def user_of(spec: Common) -> str | None:
    """Who launches, as the value of a label: what the request says, else the name of the login."""
    if names.USER in spec.labels:
        return spec.labels[names.USER]
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many images
        return None
    return re.sub(r"[^A-Za-z0-9]+", "-", login)[: names.DNS_LABEL_MAX].strip("-") or None


def which_nobody_has(spec: Common, cluster: Cluster) -> dict[str, str]:
    """Resources of the pods that no machine of the cluster has, and what to do about each.

    Empty where there are none, and where the user may not know, or there are too many to look at.
    """
    from kij_train import diagnosis

    asked = extended_resources(spec)
    machines: list[dict[str, Any]] = []
    try:
        for number, page in enumerate(cluster.pages("Node") if asked else ()):
            machines += page.get("items") or []
            missing = diagnosis.which_nobody_has(asked, machines)
            if not missing or number + 1 == MOST_LOOKED_AT:
                return {}
    except (RefusedError, UnreachableError):
        return {}
    missing = diagnosis.which_nobody_has(asked, machines) if machines else []
    return {one: cluster.address.fill(diagnosis.without(one, machines)) for one in missing}


def extended_resources(spec: Common) -> list[str]:
    """What a pod asks for beside CPU and memory."""
    return [*spec.resources, *([spec.gpu_resource] if spec.gpu_resource is not None else [])]


def _without_volume(spec: Common) -> Iterator[Note]:
    """A cache that no other job will find."""
    folder = spec.cache_dir
    if folder is None or spec.cache_claim is not None:
        return
    if not any(PurePosixPath(folder).is_relative_to(mount.path) for mount in spec.mounts):
        yield Note(
            f"--cache {folder} is on no volume: what is kept there goes with the pod",
            (f"mount one that jobs share: --mount pvc:NAME:{folder}",),
        )


def _without_gang(spec: JobSpec) -> Iterator[Note]:
    """Nothing starts the pods of several nodes together, where they hold what is scarce.

    `--scheduler default` says that this is meant.
    """
    scarce = spec.gpus is not None or spec.resources
    if scarce and spec.nodes > 1 and spec.queue is None and spec.scheduler is None:
        yield Note(
            f"no gang scheduling: the {spec.nodes} pods start one by one, and those that run wait "
            "for the others with all they hold",
            (
                "where the cluster has it: --queue NAME, or "
                "--scheduler volcano|coscheduling|native",
                "where it has not, and you know: --scheduler default, or in kij-train.toml "
                'scheduler = "default"',
            ),
        )
