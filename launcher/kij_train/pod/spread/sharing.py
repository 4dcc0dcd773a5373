"""Get something into a folder of every pod, so that one pod alone has to get it from elsewhere.

A process of its own does the work, and stays beside the job for pods that come later. Where a pod
is alone, there is none.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import stat
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence

from kij_train.pod import contract, signals, status
from kij_train.pod.contract import Failure
from kij_train.pod.spread.chunks import File, Layout
from kij_train.pod.spread.disk import Disk, unwritable
from kij_train.pod.spread.exchange import Exchange
from kij_train.pod.spread.others import FETCHES, PLACES, Settings
from kij_train.pod.spread.reader import Source

Say = Callable[[str], None]
STAYS_S = 600.0
"""How long a pod whose work is done stays for those that still get something from it."""


class _Beside(NamedTuple):
    """A process beside this one, which hands on what is here."""

    answers: int
    """A pipe that it holds open until it ends."""
    release: int
    """A pipe: a byte in it tells that the work here is done."""
    stays: bool
    """Whether other pods go on where this one fails."""


_beside: List[_Beside] = []


def share(
    label: str,
    produce: Callable[[str], None],
    target: str,
    environment: Dict[str, str],
    say: Say,
) -> None:
    """Fill the folder `target` in every pod with the same files.

    `produce(folder)` is called in one pod alone, the lowest index that is there, and fills its
    `target`; where that pod is lost too early, in another one. All others get the files from pods
    that have them. `label` is one of PLACES. Raises Failure, also what `produce` has raised, in
    every pod.
    """
    spread(label, Produced(produce), [target], environment, say)


def spread(
    label: str, source: Source, folders: Sequence[str], environment: Dict[str, str], say: Say
) -> None:
    """Bring what `source` has into `folders`, in every pod. Raises Failure."""
    settings, began = read_settings(label, environment), time.monotonic()
    if settings is None:
        total = asyncio.run(_alone(label, source, folders, say))
    else:
        total = _with_others(label, settings, source, folders, say)
    if label == FETCHES:
        say(f"fetched {status.size_text(total)} in {time.monotonic() - began:.1f} s")


def _with_others(
    label: str, settings: Settings, source: Source, folders: Sequence[str], say: Say
) -> int:
    """Bytes in all, once they are here. Raises Failure."""
    answers, mine = os.pipe()
    released, release = os.pipe()
    child = os.fork()
    if not child:
        for theirs in (answers, release, *(each.release for each in _beside)):
            os.close(theirs)
        _run_beside(label, settings, source, folders, say, _Ends(mine, released))
    os.close(mine)
    os.close(released)
    signals.companions.add(child)
    _beside.append(_Beside(answers, release, settings.stays))
    with open(answers, encoding="utf-8", closefd=False) as pipe:
        line = pipe.readline()
    said = json.loads(line) if line else {"failed": "the process that gets it was killed"}
    if "failed" in said:
        raise Failure(int(said.get("code", contract.EXIT_ORIGIN)), str(said["failed"]))
    return int(said["done"])


def stay_for_others(exit_code: int) -> None:
    """Once the work here is done: let pods go on that still get something from this one.

    At most for STAYS_S, and not at all where this pod was told to end: that ends it at once. Nor
    where its failure ends the job.
    """

    def end(signum: int, frame: Optional[FrameType]) -> NoReturn:
        del signum, frame
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(exit_code)

    signals.take_signals(end)
    needed = [each for each in _beside if not exit_code or each.stays]
    if signals.heard:
        return
    for each in needed:
        with contextlib.suppress(OSError):  # it is gone
            os.write(each.release, b".")
    until = time.monotonic() + STAYS_S
    for each in needed:
        left = max(0.0, until - time.monotonic())
        if not select.select([each.answers], [], [], left)[0]:
            status.say(f"other pods still copy from this one after {STAYS_S:.0f} s: ending")
            return


def read_settings(label: str, environment: Dict[str, str]) -> Optional[Settings]:
    """None where this pod is alone. Raises Failure."""
    text = environment.get(contract.ENV_SPREAD, "")
    if not text:
        return None
    try:
        said = json.loads(text)
        key, index = (
            environment[contract.ENV_SPREAD_KEY],
            int(environment[contract.ENV_COMPLETION_INDEX]),
        )
        settings = Settings(**said, key=key, me=index)
        return settings.at_place(PLACES.index(label))
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(
            contract.EXIT_CONTRACT,
            f"{contract.ENV_SPREAD}={text!r} does not name the other pods: {error!r}",
        ) from error


async def _alone(label: str, source: Source, folders: Sequence[str], say: Say) -> int:
    exchange = Exchange(label, Settings([], 1, stays=False), source, folders, say, lambda: None)
    await exchange.read_alone()
    return 0 if exchange.state.layout is None else exchange.state.layout.total


class _Ends(NamedTuple):
    """Of the process beside: its ends of the pipes of _Beside."""

    answers: int
    released: int


def _run_beside(
    label: str, settings: Settings, source: Source, folders: Sequence[str], say: Say, ends: _Ends
) -> NoReturn:
    """The process beside. Never returns."""
    parent = os.getppid()

    def answer(said: Dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # nobody asks any more, once everything is here
            os.write(ends.answers, json.dumps(said).encode() + b"\n")

    async def whole() -> None:
        # In here, since what it is made of belongs to one event loop before Python 3.10.
        def done() -> None:
            layout = exchange.state.layout
            answer({"done": 0 if layout is None else layout.total})

        exchange = Exchange(label, settings, source, folders, say, done)
        loop = asyncio.get_running_loop()

        def release() -> None:
            loop.remove_reader(ends.released)
            exchange.release()

        loop.add_reader(ends.released, release)
        await exchange.run()

    try:
        signals.take_signals(signal.SIG_DFL)
        signals.die_with_parent(parent)
        asyncio.run(whole())
        os._exit(0)
    except Failure as failure:
        answer({"failed": str(failure), "code": failure.exit_code})
        os._exit(failure.exit_code)
    except BaseException as error:
        traceback.print_exc()
        answer({"failed": f"{type(error).__name__}: {error}"})
        os._exit(contract.EXIT_ORIGIN)


class Produced(Source):
    """Files that a function makes."""

    in_place = True

    def __init__(self, produce: Callable[[str], None]) -> None:
        self._produce = produce

    def open(self, folders: List[str], layout: Optional[Layout]) -> Layout:
        """What has been made before is made again: nobody knows whether it would be the same."""
        del layout
        folder = folders[0]
        try:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise unwritable(error, folder) from error
        self._produce(folder)
        # The time of making keeps two makings apart whose files have the same sizes.
        return Layout(list_folder(folder), mark=os.urandom(8).hex())

    def chunks(self, folders: List[str], layout: Layout, start: int) -> Iterator[bytes]:
        disk = Disk(folders, layout)
        for number in range(start, layout.count):
            yield disk.read(number)


def list_folder(folder: str, number: int = 0) -> List[File]:
    """All files below a folder, sorted; links are followed, but not in circles. Raises Failure."""
    found: List[File] = []
    # Of the folders above, so that a link to one of them ends there.
    ahead = [(Path(folder), "", frozenset([os.path.realpath(folder)]))]
    try:
        while ahead:
            at, prefix, above = ahead.pop()
            for entry in sorted(at.iterdir()):
                about, path = entry.stat(), f"{prefix}{entry.name}"
                if stat.S_ISDIR(about.st_mode):
                    real = os.path.realpath(str(entry))
                    if real not in above:
                        ahead.append((entry, f"{path}/", above | {real}))
                elif stat.S_ISREG(about.st_mode):
                    executable = bool(about.st_mode & stat.S_IXUSR)
                    found.append(File(number, path, about.st_size, executable))
    except OSError as error:
        raise Failure(
            contract.EXIT_ORIGIN, f"cannot read {error.filename}: {error.strerror}"
        ) from error
    return sorted(found, key=lambda file: file.path)
