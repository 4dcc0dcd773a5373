"""Runs the indexes of an array: in a pod one of them, on this machine one after another.

It runs the items of an index in order, each in a process of its own (or one process for all, in
slice mode), goes on after one that fails, tries those that failed again, and ends with 0 only when
all were well. What is done is recorded at once: SIGTERM or a kill loses only the item that runs.

What it says of itself goes to standard error. Records go to the log by standard output, or to part
files. The answers of --serve are JSON: {"number": as asked, "exit_code": ..., "account": {...}}.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
import os
import re
import selectors
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence, Tuple

from kij_train.pod import contract, itemplan, results, status
from kij_train.pod.contract import Failure
from kij_train.pod.firstprocess import end_of_node
from kij_train.pod.itemfork import Forked
from kij_train.pod.itemindex import Index, Tools, Verdict
from kij_train.pod.itemoutput import Output
from kij_train.pod.itemparts import FilePart, LogPart, NoPart, Part
from kij_train.pod.itemplan import ArraySettings, ItemPlan, Selection
from kij_train.pod.itemrun import Starter, Stop

if TYPE_CHECKING:
    from kij_train.pod.itemstudy import Study
    from kij_train.pod.trials import Metrics

SERVE = "--serve"


class Runner:
    """Runs indexes, one after another, from one warm interpreter."""

    def __init__(self, tools: Tools, plan: ItemPlan, selection: Optional[Selection]) -> None:
        self._tools, self._plan, self._selection = tools, plan, selection
        self._has_waited = False

    def run(self, number: int) -> Verdict:
        """Run an index of this attempt. Raises Failure where nothing can be run or recorded."""
        settings, output = self._tools.settings, self._tools.output
        index, positions = self._share(number)
        if settings.jitter_s and not self._has_waited:
            self._has_waited = True
            # Spread over the whole time, and not by chance: a run can be repeated.
            share = itemplan.seed_of(settings.attempt, f"{settings.name} {index}") / 2**32
            self._tools.stop.wait(share * settings.jitter_s)
        part: Part
        if os.environ.get(contract.ENV_NODE_RANK, "0") != "0":
            part = NoPart()
        elif settings.results_dir:
            part = FilePart(settings.results_dir, index, settings.attempt)
        else:
            part = LogPart(lambda line: output.line(1, line))
        try:
            verdict = Index(self._tools, index, self._plan.items(positions), part).run()
        finally:
            part.close()
        if settings.aggregate and verdict.exit_code in (0, itemplan.EXIT_ITEMS):
            return verdict._replace(account=self._aggregated(index, verdict.account))
        return verdict

    def _aggregated(self, index: int, account: results.Account) -> results.Account:
        """The account of an index whose records stay on the volume, and the numbers of all where
        it is the last one."""
        from kij_train.pod.itemfigures import Folder, aggregate  # which few arrays need

        settings, selection = self._tools.settings, self._selection
        own = range(self._plan.indexes)
        mine = own if selection is None else [one for one, _ in selection.indexes]
        folders = [Folder(number, path, own) for number, path in settings.earlier]
        folders.append(Folder(settings.attempt, settings.results_dir, mine))
        output = self._tools.output
        found = aggregate(folders, self._plan, index, lambda line: output.line(1, line))
        return account._replace(lines=(), figures=found)

    def _share(self, number: int) -> Tuple[int, Sequence[int]]:
        """The index of the first attempt, and positions in the plan."""
        selection = self._selection
        count = self._plan.indexes if selection is None else len(selection.indexes)
        if not 0 <= number < count:
            raise Failure(contract.EXIT_CONTRACT, f"there is no index {number} of {count}")
        if selection is None:
            return number, self._plan.positions(number)
        return selection.indexes[number]


def run_one(runner: Runner) -> int:
    """Run the index of this pod, and leave its account as the termination message."""
    text = os.environ.get(contract.ENV_COMPLETION_INDEX, "")
    if not (text.isascii() and text.isdigit()):
        said = f"{contract.ENV_COMPLETION_INDEX}={text!r} is no number"
        raise Failure(contract.EXIT_CONTRACT, said)
    # Of an item of several pods, each of them runs it.
    verdict = runner.run(0 if contract.ENV_NODE_RANK in os.environ else int(text))
    try:
        # In place: /dev/termination-log is a mount, which cannot be replaced.
        with open(contract.error_file(), "wb") as file:
            file.write(results.encode_account(verdict.account))
    except OSError as error:
        status.say(f"cannot write the account to {contract.error_file()}: {error}")
    return verdict.exit_code


def serve(runner: Runner, answers: int, stop: Stop) -> int:
    """Run the indexes that stdin names, until it ends or this process is told to."""
    os.set_inheritable(answers, False)
    for number in _numbers(stop):
        verdict = runner.run(number)
        account = json.loads(results.encode_account(verdict.account))
        answer = {"number": number, "exit_code": verdict.exit_code, "account": account}
        line = memoryview(json.dumps(answer).encode() + b"\n")
        while line:
            line = line[os.write(answers, line) :]
        if stop.is_set():
            break
    return 128 + stop.signum if stop.is_set() else 0


def _numbers(stop: Stop) -> Iterator[int]:
    """What comes on stdin, while nothing tells this process to end."""
    held = b""
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        ready.register(stop.woken, selectors.EVENT_READ)
        while not stop.is_set():
            line, end, rest = held.partition(b"\n")
            if end:
                held = rest
                yield int(line)
                continue
            found = [key.fd for key, _ in ready.select()]
            if stop.woken in found:
                stop.take_in()
            elif 0 in found:
                chunk = os.read(0, 4096)
                if not chunk:
                    return
                held += chunk


def run_items(argv: List[str], output: Output, zygote: Optional[Forked]) -> int:
    """From the settings to the exit code. Raises Failure.

    `output` is where items write to; `zygote` starts them; None: one is started when it is needed.
    """
    env = os.environ
    answers = int(argv[1]) if argv[0] == SERVE else None
    command = argv if answers is None else argv[2:]
    settings = ArraySettings.from_json(env.get(itemplan.ENV_ARRAY, ""))
    plan = itemplan.read(settings.items_file or contract.BUNDLE_DIR, settings.plan_sha256)
    selection = None
    if settings.selection:
        selection = itemplan.read_selection(settings.selection_file or contract.BUNDLE_DIR)
    check_program(command)
    output.metrics, stop = metrics_of(settings), Stop()
    starter = Starter(output, stop, command, list(settings.preload), zygote)
    machine = env.get(contract.ENV_NODE_NAME) or os.uname().nodename
    scratch_dir = env.get(contract.ENV_SCRATCH_DIR)
    with tempfile.TemporaryDirectory(prefix="kij-items-", dir=scratch_dir) as scratch:
        study = study_of(settings, scratch)
        tools = Tools(
            settings, command, plan.indexes, machine, scratch, output, stop, starter, study
        )
        runner = Runner(tools, plan, selection)
        try:
            exit_code = run_one(runner) if answers is None else serve(runner, answers, stop)
        finally:
            starter.close()
    return end_of_node(exit_code)


def study_of(settings: ArraySettings, scratch: str) -> "Optional[Study]":
    """The study of an adaptive search; None where there is none. Raises Failure."""
    if not settings.study:
        return None
    from kij_train.pod.itemstudy import Study, read_study  # not in other arrays

    return Study(read_study(settings.study_file or contract.BUNDLE_DIR), scratch)


def metrics_of(settings: ArraySettings) -> "Optional[Metrics]":
    """What to look for in the output. Raises Failure for what this Python cannot search."""
    if not settings.metrics:
        return None
    from kij_train.pod.trials import Metrics  # not in other arrays

    try:
        return Metrics(settings.metrics)
    except re.error as error:
        version = ".".join(map(str, sys.version_info[:2]))
        said = f"--metric: the regular expression is none for Python {version} here: {error}"
        raise Failure(contract.EXIT_CONTRACT, said) from error


def check_program(command: List[str]) -> None:
    """Raise Failure where the program of all items is not there, or cannot be run."""
    if command[0] != "--no-python" or itemplan.placeholders(command[1]):
        return
    from kij_train.pod.programs import fault_of_program  # not for scripts

    found = shutil.which(command[1])
    if found is None:
        said = f"{command[1]}: no such program, or it may not be run, in the code or in the image"
        raise Failure(contract.EXIT_CODE, said)
    fault = fault_of_program(found)
    if fault:
        raise Failure(contract.EXIT_CODE, f"{command[1]} cannot be run: {fault}")
