"""What the tests of faults share: a job that lasts, and that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPORT_LINES
from tests.faults import Lasting
from tests.kube import Namespace

Start = Callable[..., Lasting]


@pytest.fixture
def start(
    ns: Namespace, image: str, shared_folder: str, pytestconfig: pytest.Config
) -> Iterator[Start]:
    """Launch a job that trains until it is told to end; what it took is reported."""
    jobs: list[Lasting] = []

    def launch(*flags: str, image: str = image) -> Lasting:
        job = Lasting(ns, image, Path(shared_folder), *flags, name=f"chaos{len(jobs)}")
        jobs.append(job)
        job.await_step(0, 0, 240)
        return job

    yield launch
    for job in jobs:
        pytestconfig.stash[REPORT_LINES] += [str(row) for row in job.rows]
        job.remove()
