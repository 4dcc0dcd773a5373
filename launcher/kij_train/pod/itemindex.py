"""One index of an array: its items in order, those that failed again, and what becomes of them.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
import os
import re
import shlex
import shutil
import stat
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from kij_train.pod import contract, itemplan, results
from kij_train.pod.itemoutput import Output
from kij_train.pod.itemparts import Part
from kij_train.pod.itemplan import ArraySettings, Item
from kij_train.pod.itemrecords import (
    MOST_FILE_BYTES,
    Run,
    dumps,
    failed,
    item_records,
    slice_records,
)
from kij_train.pod.itemrun import PROGRAM, RANKS, SCRIPT, Order, Starter, Stop
from kij_train.pod.records import clipped
from kij_train.pod.status import ItemStarts

if TYPE_CHECKING:
    from kij_train.pod.itemstudy import Study

Json = Dict[str, Any]
EXIT_USAGE = 2
"""Of an item whose command cannot be made."""
KEY_SHOWN, COMMAND_SHOWN = 200, 400
"""Bytes of them in a line of status."""

_UNPRINTABLE = "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"


class Tools(NamedTuple):
    """What all indexes of a runner share."""

    settings: ArraySettings
    argv: List[str]
    """[-m | --no-python] SCRIPT [ARG ...], with placeholders."""
    indexes: int
    """How many the array has."""
    machine: str
    scratch: str
    output: Output
    stop: Stop
    starter: Starter
    study: "Optional[Study]" = None
    """Of an adaptive search."""


class Verdict(NamedTuple):
    """How an index ended."""

    exit_code: int
    account: results.Account


class Found(NamedTuple):
    """What came of one item."""

    lines: List[str]
    """Its records."""
    error: str
    """Empty where it went well."""


class Index:
    """The items of one index, on their way."""

    def __init__(self, tools: Tools, index: int, items: List[Tuple[str, Any]], part: Part) -> None:
        """`items` are keys and values; `part` takes their records."""
        self._tools, self._index, self._items, self._part = tools, index, items, part
        self._settings, self._say = tools.settings, tools.output.say
        self._result_file = os.path.join(tools.scratch, "result.jsonl")
        self._items_file = os.path.join(tools.scratch, "items.jsonl")
        self._error_file = os.path.join(tools.scratch, "error.json")
        self._is_cut_short = False
        """An item was told to end, and did not end well, or was not tried again for that."""
        self._error = ""
        """Of the process, in slice mode."""

    def run(self) -> Verdict:
        """Run all that is not done. Raises Failure where nothing can be run or recorded."""
        left = [at for at, (key, _) in enumerate(self._items) if key not in self._part.done]
        done = f", {len(self._items) - len(left)} of them done before" if self._part.done else ""
        items = f"{len(self._items)} item{'' if len(self._items) == 1 else 's'}"
        self._say(
            f"index {self._index} of {self._tools.indexes}, {items}{done}, on {self._tools.machine}"
        )
        self._env = self._environment()
        held: Dict[int, Found] = {}
        """Records of items that failed and are to be tried again."""
        for tries_left in range(self._settings.retries, -1, -1):
            for at, found in self._try(left):
                held.pop(at, None)
                if tries_left and found.error:
                    held[at] = found
                else:
                    self._part.add(found.lines)
            left = sorted(held)
            if not left or self._tools.stop.is_set():
                break
            self._say(f"index {self._index}: trying {len(left)} items again that failed")
        for found in held.values():
            self._is_cut_short = True
            self._part.add(found.lines)
        return self._verdict()

    def _try(self, left: Sequence[int]) -> Iterator[Tuple[int, Found]]:
        """Run items, those at these places; gives the records of each that has had its turn."""
        if self._settings.slice and left:
            yield from self._run_slice(left)
            return
        for at in left:
            if self._tools.stop.is_set():
                return
            yield at, self._run_item(at)

    def _verdict(self) -> Verdict:
        places = {key: at for at, (key, _) in enumerate(self._items)}
        account = results.account_of(self._index, self._settings.attempt, places, self._part.lines)
        if self._error and account.error is None:
            error = {"key": "", "message": self._error, "exit_code": 1}
            account = account._replace(error=error)
        self._say(
            f"index {self._index}: {account.done} of {len(self._items)} items done"
            + (f", {account.failed} failed" if account.failed else "")
        )
        ran_all = account.done + account.failed == len(self._items)
        if self._tools.stop.is_set() and (self._is_cut_short or not ran_all):
            return Verdict(128 + self._tools.stop.signum, account)
        self._part.finish()
        return Verdict(itemplan.EXIT_ITEMS if account.error else 0, account)

    # --- one process ------------------------------------------------------------------------------

    def _run_item(self, at: int) -> Found:
        key, value = self._items[at]
        seed = itemplan.seed_of(self._settings.seed, key)
        item = Item(key, value, self._index, seed)
        env = {
            itemplan.ENV_KEY: key,
            itemplan.ENV_ITEM: json.dumps(value),
            itemplan.ENV_SEED: str(seed),
        }
        try:
            argv = [itemplan.fill(argument, item) for argument in self._tools.argv]
            if self._has_parameters(value):
                from kij_train.pod import trials

                argv += trials.arguments(value, self._settings.style)
            about = f"seed {seed}, key {shown(key, KEY_SHOWN)}: {command(argv)}"
            self._say(ItemStarts(self._index, at + 1, len(self._items), about).text())
            run, written, fields = self._run_trial(key, argv, env)
            metrics = self._metrics()
        except itemplan.UnknownNameError as error:
            run, written = self._whose()._replace(exit_code=EXIT_USAGE, error=str(error)), b""
            metrics, fields = {}, {}
        records = item_records(key, run, written)
        records[-1].update(fields)
        if metrics:
            from kij_train.pod import trials  # not in other arrays

            records[-1] = trials.with_metrics(records[-1], metrics)
        if self._has_parameters(value):
            from kij_train.pod import trials

            records = [trials.with_parameters(record, value, seed) for record in records]
        found = self._kept(key, run, records)
        if found.error:
            self._say(f"index {self._index}, key {shown(key, KEY_SHOWN)} failed: {found.error}")
        return found

    def _run_trial(self, key: str, argv: List[str], env: Dict[str, str]) -> Tuple[Run, bytes, Json]:
        """Run an item; of an adaptive search with its study, and what it has reported there."""
        study = self._tools.study
        if study is None:
            return (*self._run(argv, env), {})
        os.makedirs(self._tools.scratch, exist_ok=True)  # an item before may have emptied /tmp
        run, written = self._run(argv, {**env, **study.begin(key)})
        run, fields = study.end(run)
        return run, written, fields

    def _has_parameters(self, value: Any) -> bool:
        """Whether an item's own fields become arguments."""
        return bool(self._settings.style) and isinstance(value, dict)

    def _metrics(self) -> Dict[str, float]:
        """What was found in the output of the item that has just ended."""
        metrics = self._tools.output.metrics
        return {} if metrics is None else metrics.values()

    def _run_slice(self, left: Sequence[int]) -> Iterator[Tuple[int, Found]]:
        os.makedirs(self._tools.scratch, exist_ok=True)  # an index before may have emptied /tmp
        with open(self._items_file, "w", encoding="utf-8") as file:
            for key, value in (self._items[at] for at in left):
                seed = itemplan.seed_of(self._settings.seed, key)
                file.write(json.dumps({"key": key, "item": value, "seed": seed}) + "\n")
        env = {
            itemplan.ENV_ITEMS_FILE: self._items_file,
            itemplan.ENV_SEED: str(itemplan.seed_of(self._settings.seed, str(self._index))),
        }
        self._say(f"index {self._index}, {len(left)} items at once: {command(self._tools.argv)}")
        run, written = self._run(self._tools.argv, env)
        keys = [self._items[at][0] for at in left]
        records, self._error = slice_records(keys, run, written)
        if self._error:
            self._say(f"index {self._index} failed: {self._error}")
        of_keys: Dict[str, List[Json]] = {key: [] for key in keys}
        for record in records:
            of_keys[record["key"]].append(record)
        for at, key in zip(left, keys):
            yield at, self._kept(key, run, of_keys[key])

    def _kept(self, key: str, run: Run, records: List[Json]) -> Found:
        """The records of an item; or one that says why they cannot be kept."""
        lines = [dumps(record) for record in records]
        said = self._part.too_large(lines)
        if said:
            records = item_records(key, run._replace(error=f"{said}: --results"), b"")
            lines = [dumps(record) for record in records]
        return Found(lines, next((r["error"] for r in records if failed(r)), ""))

    def _run(self, argv: List[str], env: Dict[str, str]) -> Tuple[Run, bytes]:
        """Run a process to its end; what it wrote to its result file."""
        settings = self._settings
        os.makedirs(self._tools.scratch, exist_ok=True)  # an item before may have emptied /tmp
        for path in (self._result_file, self._error_file):
            remove(path)
        order = self._order(argv, dict(self._env, **env))
        ended = self._tools.starter.run(order, settings.item_timeout_s, settings.grace_s)
        if ended.is_told and ended.exit_code:
            self._is_cut_short = True
        written, error = read_results(self._result_file)
        error = ended.error or error
        whole = self._whose()._replace(
            seconds=ended.seconds,
            exit_code=ended.exit_code,
            error=error,
            error_at=ended.error_at,
        )
        return whole, written

    def _whose(self) -> Run:
        return Run(self._index, self._settings.attempt, 0.0, 0, self._tools.machine)

    def _order(self, argv: List[str], env: Dict[str, str]) -> Order:
        unset = [itemplan.ENV_ARRAY, contract.ENV_ERROR_FILE]
        nodes, nproc = self._settings.nodes, self._settings.nproc_per_node
        if nodes > 1 or nproc > 1:
            if contract.ENV_NODE_RANK not in os.environ:  # as in a pod that is one of several
                env.update(ranks_environment(nproc, nodes))
            env[contract.ENV_ERROR_FILE] = self._error_file
            return Order(RANKS, argv, env, unset[:1], self._error_file)
        if argv[0] == "--no-python":
            return Order(PROGRAM, argv[1:], env, unset, self._error_file)
        return Order(SCRIPT, argv, env, unset, self._error_file)

    def _environment(self) -> Dict[str, str]:
        """What all items of the index find."""
        base = self._settings.run_dir or os.path.join(self._tools.scratch, "run")
        run_dir = os.path.join(os.path.abspath(base), str(self._index))
        try:
            os.makedirs(run_dir, exist_ok=True)
        except OSError as error:
            said = f"cannot make the folder {run_dir}: {error.strerror}"
            raise contract.Failure(contract.EXIT_FAILED, said) from error
        return {
            contract.ENV_COMPLETION_INDEX: str(self._index),
            itemplan.ENV_INDEX: str(self._index),
            itemplan.ENV_COUNT: str(self._tools.indexes),
            itemplan.ENV_ATTEMPT: str(self._settings.attempt),
            contract.ENV_RUN_DIR: run_dir,
            itemplan.ENV_RESULT_FILE: self._result_file,
        }


def ranks_environment(nproc: int, nodes: int) -> Dict[str, str]:
    """The contract of a node that is alone, or of several on this machine, with a free port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        **({contract.ENV_NODE_RANK: "0"} if nodes == 1 else {}),
        contract.ENV_NNODES: str(nodes),
        contract.ENV_NPROC_PER_NODE: str(nproc),
        contract.ENV_WORLD_SIZE: str(nproc * nodes),
        contract.ENV_MASTER_ADDR: "127.0.0.1",
        contract.ENV_MASTER_PORT: str(port),
    }


def remove(path: str) -> None:
    """Whatever a script may have made of it."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def read_results(path: str) -> Tuple[bytes, str]:
    """What an item wrote to its result file; or why that is not read, in a line."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return b"", "the result file is no file any more"
        if found.st_size > MOST_FILE_BYTES:
            said = f"{found.st_size:,} bytes of results; an item may write {MOST_FILE_BYTES:,}"
            return b"", f"{said}: write a file to KIJ_RUN_DIR, and its name as the result"
        with open(path, "rb") as file:
            return file.read(), ""
    except FileNotFoundError:
        return b"", ""
    except OSError as error:
        return b"", f"the result file cannot be read: {error.strerror}"


def command(argv: List[str]) -> str:
    """A command as one types it, on one line."""
    if argv[0] == contract.FUNCTION:
        return f"{argv[1]}(item)"
    words = argv[1:] if argv[0] == "--no-python" else ["python", *argv]
    return shown(" ".join(map(shlex.quote, words)), COMMAND_SHOWN)


def shown(text: str, room: int) -> str:
    """A text on one line of a terminal, in `room` bytes."""
    if not text.isprintable():  # else the expression, which takes long to compile, finds nothing
        text = re.sub(_UNPRINTABLE, lambda found: ascii(found.group())[1:-1], text)
    return clipped(text, room)
