"""Where a job runs, and the job that it makes there.

Two backends: `on_cluster`, `on_machine`. Whoever launches speaks to these classes alone, and asks
nobody which of the two it has.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kij_train.runs.plan import Note, Place, Plan
from kij_train.spec import Common, JobSpec

if TYPE_CHECKING:
    from kij_train.diagnosis import JobState


@dataclass(frozen=True)
class Line:
    """A line that a node printed."""

    index: int
    """Of the node."""
    text: str
    is_error: bool = False
    """Printed to stderr, where the two are told apart."""


class Run(abc.ABC):
    """A job that was launched."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def wait(self, timeout_s: float | None = None) -> None:
        """Block until the job has succeeded.

        Raises JobFailedError when it failed or was cancelled, with the first failing rank and its
        traceback; TimedOutError at the job's own deadline, or after `timeout_s`, which leaves the
        job running.
        """

    @abc.abstractmethod
    def logs(self, *, index: int | None = None, follow: bool = False) -> Iterator[Line]:
        """Lines of one node or of all, so far; with `follow`, until the job ends."""

    @abc.abstractmethod
    def status(self) -> JobState:
        """What the job as a whole does."""

    @abc.abstractmethod
    def why(self) -> str:
        """Why it is as it is, and what to do, for people."""

    @abc.abstractmethod
    def cancel(self) -> None:
        """End it, with the grace period for its ranks; it stays readable as cancelled."""

    @abc.abstractmethod
    def delete(self) -> None:
        """Remove it, with its logs."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Backend(Place):
    """Where jobs run."""

    @property
    def warnings(self) -> list[str]:
        """What was said there so far, and is no error."""
        return []

    @abc.abstractmethod
    def where(self, spec: Common) -> str:
        """In words: "this machine", or the namespace and the image."""

    @abc.abstractmethod
    def recorded(self, spec: JobSpec) -> dict[str, str | None]:
        """Where and with which image, for reports that are compared with others."""

    @abc.abstractmethod
    def doubts(self, spec: Common) -> Iterator[Note]:
        """What may keep it from running; asks the cluster, where that can tell."""

    @abc.abstractmethod
    def start(self, plan: Plan) -> Run:
        """Start the job, all or nothing. Raises KijError."""
