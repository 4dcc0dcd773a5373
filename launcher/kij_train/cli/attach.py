"""kij-train attach, and how every attached command stays with a job."""

from __future__ import annotations

import select
import signal
import sys
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from kij_train import runs, units
from kij_train.cli import output
from kij_train.cli.onjob import job_argument
from kij_train.cli.where import connect
from kij_train.errors import InterruptedByUserError, JobFailedError

if TYPE_CHECKING:
    from kij_train.cluster import LogChoice, LogLine
    from kij_train.diagnosis import JobView

TAIL = 10
LOOK_S = 0.2


@click.command("attach")
@job_argument
@click.option(
    "--tail",
    type=click.IntRange(min=0),
    default=TAIL,
    show_default=True,
    metavar="N",
    help="Begin with the last N lines of each log.",
)
def command(name: str, tail: int, **params: Any) -> None:
    """Stay with a job as launch does: the live table, the log of index 0, and the verdict.

    The exit code is the job's, 0 or 1. Ctrl-C asks whether to detach or to cancel. Of a job that
    restarts, the logs of the first 32 indexes, and of those that take the place of lost ones; of an
    array, the logs of 32 indexes at most.
    """
    from kij_train.cluster import LogChoice

    run, job = runs.attached(connect(params), name)
    if job.array is not None:
        from kij_train.cli.array_attached import attach_array

        attach_array(run, job, params, LogChoice(tail=tail))
        return
    stay(
        run,
        indexes=runs.followed(job.size, job.completions) if job.restarts_by_itself else {0},
        log_choice=LogChoice(tail=tail),
        found=job,
    )


def stay(
    run: runs.ClusterRun,
    *,
    indexes: Set[int],
    log_choice: LogChoice | None = None,
    found: JobView | None = None,
) -> None:
    """Show a job until it ends, or until the user has enough of it.

    The logs of `indexes` are shown: where a job restarts, rank 0 may be anywhere. `found` is the
    Job, where it was not submitted just now.
    """
    from kij_train.cli.view import view

    def labelled(line: LogLine) -> None:
        shown.line(replace(line, text=f"{line.index} | {line.text}"))

    try:
        with sigterm_as_interrupt(), view(run.name, found) as shown:
            seconds = run.follow(
                indexes=indexes,
                log_choice=log_choice,
                on_line=labelled if len(indexes) > 1 else shown.line,
                on_change=shown.change,
                on_note=shown.note,
            )
    except KeyboardInterrupt as interrupt:
        interrupted(run, signum_of(interrupt))
    except BrokenPipeError:  # the reader of the log has left
        interrupted(run, signal.SIGPIPE)
    except JobFailedError as error:
        output.verdict(error.message, error.hints)
        raise click.exceptions.Exit(error.exit_code) from None
    else:
        output.status(f"{run.name} succeeded in {units.format_seconds(seconds)}")


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Make SIGTERM end what goes on, as Ctrl-C does; where it is ignored, it stays so."""

    def handle(signum: int, frame: object) -> None:
        del frame
        raise KeyboardInterrupt(signum)

    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def signum_of(interrupt: KeyboardInterrupt) -> int:
    """The number of the signal that an interrupt stands for."""
    return int(interrupt.args[0]) if interrupt.args else signal.SIGINT


def interrupted(
    run: runs.ClusterRun, signum: int, cancel: Callable[[], None] | None = None
) -> None:
    """After Ctrl-C on a terminal, ask whether to detach or to cancel; else detach.

    `cancel` is called instead of the run's own. Returns when the user chose to detach, which is
    what was asked for. Raises InterruptedByUserError when the job was cancelled, or nothing was
    chosen.
    """
    name, commands = run.name, next_commands(run)
    asks = signum == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty()
    answer = ask(name) if asks else None
    if answer == "c":
        (cancel or run.cancel)()
        raise InterruptedByUserError(
            f"{name} is cancelled: its pods end, the Job stays, suspended",
            signum=signum,
            hints=(
                f"start it again: {run.cluster.address.on_job('resume', name)}",
                f"remove it: {commands['remove']}",
            ),
        )
    detached = f"{name} goes on without us"
    hints = tuple(f"{what + ':':<9}{line}" for what, line in commands.items())
    if answer is None:
        raise InterruptedByUserError(detached, signum=signum, hints=hints)
    output.note(detached, hints)


def ask(name: str) -> str | None:
    """d or c; None where the user ends the question, too.

    Not by input(): readline misses a Ctrl-C that comes while it begins to wait.
    """
    try:
        output.question(f"\n{name} is running. [d]etach and let it run, or [c]ancel it [d]: ")
        while True:
            while not select.select([sys.stdin], [], [], LOOK_S)[0]:
                pass  # Python hears of signals in between
            line = sys.stdin.readline()
            answer = (line.strip().lower() or "d")[0]
            if not line or answer in "dc":
                return answer if line else None
            output.question("d or c: ")
    except KeyboardInterrupt:
        output.status("")
        return None


def next_commands(run: runs.ClusterRun) -> dict[str, str]:
    """What a user who is not attached may want to do."""
    verbs = {"attach": "attach", "state": "status", "cancel": "cancel", "remove": "delete"}
    return {what: run.cluster.address.on_job(verb, run.name) for what, verb in verbs.items()}
