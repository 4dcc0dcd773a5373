"""The command group, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import difflib
import errno
import importlib
import re
import shlex
import sys
import traceback

import click

from kij_train import __version__
from kij_train.cli import ended_by_ctrl_c, output
from kij_train.errors import EXIT_CODES, InterruptedByUserError, KijError
from kij_train.paths import shown
from kij_train.redaction import redacted

COMMANDS = {
    "launch": "Run a script on N nodes that train as one: pods, or processes with --local.",
    "map": "Run a script for every item of a list, on one Indexed Job, or here with --local.",
    "sweep": "Run a script with every combination of parameters, and tell which was the best.",
    "eval": "Run a script over a data set in shards, and judge its metrics by gates.",
    "attach": "Stay with a job, as launch does: the live table, its log and the verdict.",
    "status": "Show the phase of every node of a job, and the verdict.",
    "logs": "Print or follow the logs of some or all nodes of a job.",
    "why": "Say why a job failed, waits or hangs, and what to do.",
    "stacks": "Show where every rank is right now: its Python stack.",
    "top": "Show what every rank does now: CPU, GPU, memory, steps a second, and who is slow.",
    "packages": "Print the packages that a job has installed, as a lock for the next one.",
    "wait": "Wait until a job has ended.",
    "rerun": "Run items of an array again: those that failed, or some.",
    "replay": "Run one item of an array on this machine.",
    "results": "Print what the items of an array have left.",
    "report": "Say what became of an array: text, Markdown, JSON, JUnit, HTML.",
    "comment": "Put a report into the one comment of its name on a pull request of GitHub.",
    "list": "List the jobs that kij-train made.",
    "cancel": "End the pods of a job; the Job stays, readable as cancelled.",
    "resume": "Start a cancelled or suspended job again.",
    "scale": "Give an elastic job more or fewer nodes, or an array more or fewer pods at once.",
    "delete": "Remove jobs with their pods, code and logs.",
    "exec": "Run a command in a pod of a job.",
    "shell": "Open a shell in a pod of a job.",
    "cp": "Copy files from a pod of a job, or to it.",
    "forward": "Lead ports of this machine to a pod of a job.",
    "events": "Show the events about a job and its pods.",
    "doctor": "Check, before the first launch, what a cluster lets you do.",
    "render": "Print the exact Kubernetes YAML of a launch; needs no cluster.",
    "step": "Run a step of a workflow: what the pods of Argo Workflows call.",
    "explain": "Explain a field, an exit code, a variable of the pods, or what `why` names.",
    "config": "Show every value of a launch and where it came from.",
    "schema": "Print the JSON Schema of spec files.",
    "profiles": "List named settings of fabrics and machines, or show one.",
    "bench": "Measure collectives such as all_reduce, and compare reports.",
    "help": "Show the help of a command.",
    "version": "Print the version.",
    "completion": "Print a shell's completion script.",
}
"""Name and help. A command's module has the same name and is imported when the command runs."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What writing to a full disk, a dead terminal or a closed file gives."""


class LazyGroup(click.Group):
    """Knows its commands' names and helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        with ended_by_ctrl_c():
            command = importlib.import_module(f"kij_train.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from kij_train import foreign

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            instead = foreign.translated(args)
            if instead is not None and instead.words:
                close = [shlex.join(["launch", *instead.flags, *instead.words])]
            elif args[0].endswith(".py"):
                close = [shlex.join(["launch", *args])]
            if close:
                raise click.UsageError(
                    f"{error.message} Did you mean: kij-train {close[0]}", ctx
                ) from None
            raise


_CODES = ", ".join(
    f"{code} {re.split('[:;]', text)[0]}"
    for code, text in EXIT_CODES.items()
    if code < 126 or code == 130
)
_HELP = f"""Take a PyTorch script from this machine to N Kubernetes pods that train as one.

\b
  kij-train launch --local --nodes 2 train.py        as processes of this machine
  kij-train launch --nodes 8 --gpus 4 train.py       as pods of the current cluster
  kij-train map --items list.txt convert.py {{item}}   once for every line of a list

Exit codes: {_CODES}. Others, and what they mean: kij-train explain.
"""


@click.group(cls=LazyGroup, help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kij-train")
def app() -> None:
    """The group of all commands."""


def load(argv: list[str]) -> None:
    """Import the command that is called, before click does.

    Python asks the system for memory at each call that crosses the end of a piece of its stack, and
    gives it back when the call returns. The imports of a command cross it thousands of times from
    within click, which is a fifth of the time to start, and not from here.
    """
    if argv and argv[0] in COMMANDS:
        importlib.import_module(f"kij_train.cli.{argv[0]}")


def run(argv: list[str]) -> int:
    """Run a command line and give its exit code."""
    output.prepare()
    try:
        code = app.main(args=argv, prog_name="kij-train", standalone_mode=False, obj=argv)
        sys.stdout.flush()
    except InterruptedByUserError as error:
        output.last_words(error.message, error.hints, error.exit_code)
        return error.exit_code
    except KijError as error:
        output.error(error.message, error.hints)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        output.status(error.format_message())
        return 2
    except click.ClickException as error:
        output.error(*_told(error, argv))
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130  # click has ended the line that ^C stands on
    except BrokenPipeError:
        output.abandon(sys.stdout)  # the reader of a pipe (head, less) left
        return 0
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            output.error(f"{shown(str(error.filename))} is too long for the name of a file")
            return 2
        if error.errno not in UNWRITABLE or error.filename is not None:
            return _own_fault(error)
        output.abandon(sys.stdout)
        output.error(f"what was asked for cannot be written: {error.strerror}")
        return 1
    except Exception as error:
        return _own_fault(error)
    return code if isinstance(code, int) else 0


def _own_fault(error: Exception) -> int:
    """Show it as Python would, but for credentials that its message may quote."""
    output.status(redacted("".join(traceback.format_exception(error))))
    output.error(
        f"this is a fault of kij-train {__version__}: {type(error).__name__}",
        hints=("please report it, with the lines above",),
    )
    return 1


def _told(error: click.ClickException, argv: list[str]) -> tuple[str, tuple[str, ...]]:
    """What click found wrong, and what to do; an option without its value is told what it takes."""
    path, command = _command_of(argv)
    see = f"see: {path} --help"
    if isinstance(error, click.BadOptionUsage):  # click does not say whose option it is
        for option in command.params:
            if error.option_name in option.opts and not getattr(option, "is_flag", False):
                text = " or ".join(_values(option)) or option.metavar or option.type.name
                hints = (*_such_as(error.option_name, option), see)
                return f"{error.option_name} needs a value: {text}", hints
        return error.format_message(), (see,)
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return error.format_message(), ()
    see = f"see: {context.command_path} --help"
    wrong = error.param if isinstance(error, click.BadParameter) else None
    if isinstance(wrong, click.Option):
        return error.format_message(), (*_such_as(wrong.opts[0], wrong), see)
    return error.format_message(), (see,)


def _command_of(argv: list[str]) -> tuple[str, click.Command]:
    """The command that a command line names: its path, and itself."""
    path = "kij-train"
    command: click.Command = app
    for word in argv:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        if found is None:
            break
        path, command = f"{path} {word}", found
    return path, command


def _such_as(flag: str, option: click.Parameter) -> tuple[str, ...]:
    """A line with one of an option's values, as the option is written."""
    joint = "=" if flag.startswith("--") else " "
    return tuple(f"such as: {flag}{joint}{value}" for value in _values(option)[:1])


def _values(option: click.Parameter) -> list[str]:
    """The words that an option takes, where it takes no other."""
    return list(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else []
