"""Every exception that kij-train raises on purpose, with the exit code that the CLI gives it.

    KijError                   1
    ├── JobFailedError         1    the training itself failed
    ├── RequestError           2    what was asked for is wrong; nothing was done
    ├── RefusedError           3    the cluster said no: permission, quota, policy, conflict
    ├── UnreachableError       4    no cluster, no such object, or no answer
    ├── TimedOutError          5    it did not end in the time given
    ├── CommandNotRunError     127  `exec`: no such program in the image (126: it may not be run)
    └── InterruptedByUserError 130  SIGINT (143 for SIGTERM, 141 where nobody reads)

A message is one sentence or paragraph about what is wrong and where; `hints` are lines of the form
"what to do: a command that can be pasted". Credentials are taken out of both.
"""

from __future__ import annotations

from kij_train.redaction import redacted

EXIT_CODES = {
    0: "done; or detached from a job that goes on",
    1: "the job, items of an array or a gate failed; or what was asked for could not be written",
    2: "the request is wrong: a flag, a file or a value; nothing was done",
    3: "the cluster refused: a permission, a quota, a policy or a conflict",
    4: "not found or unreachable: no cluster, no such object, or no answer",
    5: "timed out: --timeout of the job or of wait is over",
    6: "a gate could not decide: its limit lies within the confidence interval of the metric",
    126: "exec, shell: the command cannot be run in the pod; other codes of these two are its own",
    127: "exec, shell: the image has no such command",
    130: "interrupted by SIGINT",
    141: "nobody reads the output any more: a local run then ends, a job on a cluster goes on",
    143: "told to end by SIGTERM",
}
"""What kij-train ends with, for help, `explain` and the reference."""


class KijError(Exception):
    """Base of all errors that are reported to the user without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hints: tuple[str, ...] = ()) -> None:
        self.message = redacted(message)
        self.hints = tuple(map(redacted, hints))
        super().__init__(self.message)


class JobFailedError(KijError):
    """The job ran and did not succeed."""

    exit_code = 1


class RequestError(KijError):
    """The request is wrong: a flag, a file, a value."""

    exit_code = 2


def no_such_index(name: str, index: int, nodes: int) -> RequestError:
    """The error for an index that a job has not."""
    return RequestError(f"{name} has no index {index}: it has {nodes}, from 0 on")


class RefusedError(KijError):
    """The cluster understood the request and refused it."""

    exit_code = 3


class UnreachableError(KijError):
    """A cluster, a credential or an object that is needed could not be had."""

    exit_code = 4


class TimedOutError(KijError):
    """The time the user gave is over."""

    exit_code = 5


class CommandNotRunError(KijError):
    """A pod cannot run a command at all; with the exit code that a shell gives for that."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class InterruptedByUserError(KijError):
    """SIGINT or SIGTERM ended the command; `signum` tells which."""

    def __init__(self, message: str, *, signum: int, hints: tuple[str, ...] = ()) -> None:
        super().__init__(message, hints=hints)
        self.exit_code = 128 + signum
