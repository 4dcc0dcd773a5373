"""Which packages a job has installed, as its pods have said it, and keeping that with the job.

Pods have no rights, so they say in their logs what they have installed. Whoever reads that here
with the rights of a user keeps it as a ConfigMap of the Job. Its pods mount that where it is there:
those that start later install the same versions, also where no other pod has them any more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from kij_train import diagnosis, names
from kij_train.diagnosis import JobView
from kij_train.errors import KijError, RefusedError, RequestError
from kij_train.jobs.asking import get, pods_of
from kij_train.pod import contract
from kij_train.pod.packages import Request
from kij_train.pod.status import PREFIX, Installed
from kij_train.render import lock_config_map

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

MOST_READ = 8
"""Pods whose logs are read; all say the same."""
MOST_LINES = 2000
"""Of a log, from its start: what is installed is said before the script begins."""
Lock = tuple[str, ...]
"""Requirements of pip, at the versions that were installed."""


def installed(cluster: Cluster, name: str) -> Lock:
    """What a job has installed; it is kept with the job. Raises RequestError for none."""
    found = known(cluster, get(cluster, name))
    if found is None:
        raise RequestError(
            f"no pod of {name} says that it has installed packages",
            hints=(
                f"what its pods do: {cluster.address.on_job('why', name)}",
                "packages are asked for by --with PKG or --requirements FILE, when it is launched",
            ),
        )
    return found


def known(cluster: Cluster, job: JobView) -> Lock | None:
    """What a job has installed, as it is kept, or else as its pods say, which is kept then."""
    kept = _kept(cluster, job)
    if kept is not None:
        return kept
    said = _said(cluster, job.name)
    if said:
        try:
            keep(cluster, job, said)
        except KijError as error:
            cluster.warnings.append(_not_kept(job.name, error))
    return said


def keep(cluster: Cluster, job: JobView, lock: Lock) -> None:
    """Keep what a job has installed with it. Raises KijError."""
    from kij_train.cluster.submit import add

    name = lock_of(job)
    if name is not None:
        add(cluster, job.raw, lock_config_map(name, lock))


def _not_kept(name: str, error: KijError) -> str:
    return (
        f"the versions of the packages of {name} could not be kept with it, so that pods that find "
        f"no other one look them up anew: {error.message}"
    )


def lock_of(job: JobView) -> str | None:
    """The ConfigMap that has, or will have, what a job has installed; None for one without."""
    for volume in job.pod.get("volumes") or []:
        if volume["name"] == names.CODE_VOLUME:
            sources = (volume.get("projected") or {}).get("sources") or []
            maps = (source.get("configMap") or {} for source in sources)
            return next((str(each["name"]) for each in maps if each.get("optional")), None)
    return None


def of_the_same(cluster: Cluster, job: JobView, packages: Request, image: str) -> Lock | None:
    """What a job has installed of this request in this image; None where it is another's."""
    asked = job.environment.get(contract.ENV_PACKAGES_SHA256)
    if asked != packages.sha256 or job.container.get("image") != image:
        return None
    return known(cluster, job)


class Keeper:
    """Keeps what a job has installed, once a line of its logs says so."""

    def __init__(self, cluster: Cluster, name: str, note: Callable[[str], None]) -> None:
        """`note` is told where it cannot be kept."""
        self._cluster, self._name, self._note = cluster, name, note
        self._is_done = False

    def saw(self, text: str) -> None:
        """Take in a line of a log."""
        if self._is_done or not text.startswith(PREFIX):
            return
        said = Installed.read(text)
        if said is None:
            return
        self._is_done = True
        try:
            job = get(self._cluster, self._name)
            if said.lock and _kept(self._cluster, job) is None:
                keep(self._cluster, job, said.lock)
        except KijError as error:
            self._note(_not_kept(self._name, error))


def _kept(cluster: Cluster, job: JobView) -> Lock | None:
    from kij_train.cluster.apierrors import GoneError

    name = lock_of(job)
    if name is None:
        return None
    try:
        data = cluster.get("ConfigMap", name).get("data") or {}
    except (GoneError, RefusedError):
        return None
    return tuple(str(data.get(contract.PACKAGES_LOCK) or "").splitlines())


def _said(cluster: Cluster, name: str) -> Lock | None:
    """As the logs of its pods have it."""
    from kij_train.cluster.apierrors import GoneError, NotReadyError
    from kij_train.cluster.logs import LogChoice, Reader

    for pod in sorted(pods_of(cluster, name), key=diagnosis.index_of)[:MOST_READ]:
        reader = Reader(cluster, str(pod["metadata"]["name"]), diagnosis.index_of(pod), LogChoice())
        lines = islice(reader.read(follow=False), MOST_LINES)
        with suppress(GoneError, NotReadyError):
            found = (Installed.read(line.text) for line in lines)
            said = next((each for each in found if each is not None), None)
            if said is not None:
                return said.lock
    return None
