"""Which packages a job has installed, as its pods have said it."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from kij_train import diagnosis
from kij_train.errors import RequestError
from kij_train.jobs.asking import get, pods_of
from kij_train.pod.status import Installed

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

MOST_READ = 8
"""Pods whose logs are read; one of them installs for all."""
MOST_LINES = 2000
"""Of a log, from its start: what is installed is said before the script begins."""


def installed(cluster: Cluster, name: str) -> tuple[str, ...]:
    """Requirements of pip, at the versions that were installed. Raises RequestError for none."""
    from kij_train.cluster.apierrors import GoneError, NotReadyError
    from kij_train.cluster.logs import LogChoice, Reader

    get(cluster, name)
    for pod in sorted(pods_of(cluster, name), key=diagnosis.index_of)[:MOST_READ]:
        reader = Reader(cluster, str(pod["metadata"]["name"]), diagnosis.index_of(pod), LogChoice())
        lines = islice(reader.read(follow=False), MOST_LINES)
        with suppress(GoneError, NotReadyError):
            found = (Installed.read(line.text) for line in lines)
            said = next((each for each in found if each is not None), None)
            if said is not None:
                return said.lock
    raise RequestError(
        f"no pod of {name} says that it has installed packages",
        hints=(
            f"what its pods do: {cluster.address.on_job('why', name)}",
            "packages are asked for by --with PKG or --requirements FILE, when it is launched",
        ),
    )
