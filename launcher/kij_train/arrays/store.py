"""An array on this machine: its folder `.kij-train/arrays/NAME`, below the one that is worked in.

    array.json              what was asked for, and where it runs
    items.xz                its plan; items-16.xz once a search has asked for 16 items
    study.journal           the study of a search, as Optuna's JournalStorage has it
    attempt-0/attempt.json  the first Job, or run; a rerun has attempt-1, and so on
    attempt-0/code.json     the files of its code, and when they were changed last
    attempt-0/part-00003.jsonl   the records of index 3, whole; `.part-00003.jsonl.…`: not whole yet
    attempt-0/indexes.json  what is known of indexes that ended without their records

Each file is written under another name and renamed, so that a reader finds it whole or not at all.
Two commands may write at once: an attempt's number is taken by the one that makes its folder, and
both write the same bytes into a part.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kij_train.arrays.facts import FORMAT, ITEMS, STUDY, About, Attempt, Where
from kij_train.arrays.files import as_json, cannot_write, damaged, is_locked, write
from kij_train.arrays.parts import Parts
from kij_train.errors import RequestError, UnreachableError
from kij_train.paths import shown
from kij_train.pod import itemplan, results
from kij_train.pod.contract import Failure

BASE = Path(".kij-train", "arrays")


class ArrayFolder:
    """The folder of one array."""

    def __init__(self, path: Path, about: About) -> None:
        self.path = path
        self.about = about
        self._plan: tuple[str, itemplan.ItemPlan] | None = None
        """The one that was read last, and its SHA-256: plans may grow."""

    @property
    def name(self) -> str:
        """Of the array."""
        return self.about.name

    # --- making and finding -----------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        cwd: Path,
        about: About,
        items_xz: bytes,
        *,
        replace: bool = False,
        study: bytes = b"",
    ) -> ArrayFolder:
        """Make the folder, whole or not at all; `study` is the journal of a search.

        Raises RequestError where the name is taken.
        """
        base = prepare(cwd)
        check_free(cwd, about.name, replace=replace)
        try:
            made = base / f".new-{secrets.token_hex(6)}-{about.name}"
            made.mkdir()
            try:
                write(made / ITEMS, items_xz, lasting=True)
                if study:
                    write(made / STUDY, study, lasting=True)
                write(made / "array.json", as_json(asdict(about)), lasting=True)
                path = base / about.name
                if replace and path.exists():
                    old = path.rename(base / f".old-{secrets.token_hex(6)}-{about.name}")
                    shutil.rmtree(old)
                made.rename(path)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
        except OSError as error:
            if (base / about.name).exists():
                raise _taken(about.name) from None
            raise cannot_write(base, error) from None
        return cls(path, about)

    @classmethod
    def open(cls, cwd: Path, name: str) -> ArrayFolder:
        """The folder of an array that is known here.

        Raises UnreachableError where there is none, RequestError for one that cannot be read.
        """
        path = cwd / BASE / name
        try:
            found = json.loads((path / "array.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise UnreachableError(f"there is no array {name} in {BASE} of this folder") from None
        except (OSError, ValueError) as error:
            raise damaged(path / "array.json", error) from None
        if isinstance(found, dict) and found.get("format") != FORMAT:
            raise RequestError(
                f"{shown(str(path))} is of another version of kij-train: its format is "
                f"{found.get('format')!r}, and this one knows {FORMAT}",
                hints=("read it with the version that made it: kij-train version",),
            )
        try:
            return cls(path, About(**{**found, "where": Where(**found["where"])}))
        except (TypeError, KeyError) as error:
            raise damaged(path / "array.json", error) from None

    def plan(self) -> itemplan.ItemPlan:
        """The list of items. Raises RequestError where it is not what was launched."""
        known = self._plan
        if known is None or known[0] != self.about.plan_sha256:
            try:
                plan = itemplan.read(str(self.path / self.about.items), self.about.plan_sha256)
            except Failure as error:
                raise damaged(self.path / self.about.items, error) from None
            known = self._plan = (self.about.plan_sha256, plan)
        return known[1]

    def plan_text(self) -> bytes:
        """The list of items as it travels, not compressed."""
        self.plan()
        return lzma.decompress((self.path / self.about.items).read_bytes())

    def grow(self, text: bytes) -> None:
        """Take a plan with more items behind those that there are; `text` is what encode gives.

        The file of the plan before stays: runners may be about to read it.
        """
        total = itemplan.decode(text).total
        sha256 = itemplan.sha256(text)
        about = replace(self.about, items=f"items-{total}.xz", plan_sha256=sha256)
        try:
            write(self.path / about.items, itemplan.compress(text), lasting=True)
            write(self.path / "array.json", as_json(asdict(about)), lasting=True)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.about = about

    # --- attempts ---------------------------------------------------------------------------------

    def attempts(self) -> list[Attempt]:
        """All, the first one first. Raises RequestError for one that cannot be read."""
        found = []
        for path in self.path.glob("attempt-*/attempt.json"):
            try:
                values = json.loads(path.read_bytes())
                selection = values.pop("selection")
                chosen = None if selection is None else [(i, list(at)) for i, at in selection]
                found.append(Attempt(**values, selection=chosen))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise damaged(path, error) from None
        return sorted(found, key=lambda attempt: attempt.number)

    def next_attempt(self) -> int:
        """The number after the highest that is there."""
        numbers = [
            int(path.name[len("attempt-") :])
            for path in self.path.glob("attempt-*")
            if path.name[len("attempt-") :].isdigit()
        ]
        return max(numbers, default=-1) + 1

    def begin_attempt(self, attempt: Attempt) -> None:
        """Make its folder. Raises RequestError where somebody else has taken its number."""
        path = self.results_dir(attempt.number)
        try:
            path.mkdir()
            values = asdict(attempt)
            write(path / "code.json", as_json(values.pop("code")))
            write(path / "attempt.json", as_json(values), lasting=True)
        except FileExistsError:
            raise RequestError(
                f"another rerun of {self.name} has begun at this moment as attempt "
                f"{attempt.number}",
                hints=(f"see what it does: kij-train status {self.name}",),
            ) from None
        except OSError as error:
            raise cannot_write(path, error) from None

    def code(self, number: int) -> dict[str, list[int]] | None:
        """The files of the code of an attempt; None where they are not known."""
        path = self.results_dir(number) / "code.json"
        try:
            found: dict[str, list[int]] | None = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise damaged(path, error) from None
        return found

    def end_attempt(self, number: int, state: str) -> None:
        """Keep how an attempt ended."""
        path = self.results_dir(number) / "attempt.json"
        try:
            values = json.loads(path.read_bytes())
            if values.get("state") != state:
                write(path, as_json({**values, "state": state}))
        except ValueError as error:
            raise damaged(path, error) from None
        except OSError as error:
            raise cannot_write(path, error) from None

    @contextlib.contextmanager
    def running(self, number: int) -> Iterator[None]:
        """Say that an attempt runs here, as long as this process lives."""
        import fcntl

        with (self.results_dir(number) / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def is_running(self, number: int) -> bool:
        """Whether a process of this machine runs an attempt at this moment."""
        return is_locked(self.results_dir(number) / "lock")

    # --- what indexes have left -------------------------------------------------------------------

    def results_dir(self, number: int) -> Path:
        """Where the parts of an attempt are."""
        return self.path / f"attempt-{number}"

    def part(self, number: int, index: int) -> Path:
        """The records of an index, once they are whole."""
        return self.results_dir(number) / results.part_name(index)

    def parts(self, number: int) -> Parts:
        """What the indexes of an attempt have left so far."""
        return Parts(self.results_dir(number))

    def write_part(self, number: int, index: int, data: bytes, *, whole: bool = True) -> None:
        """Keep the records of an index; those that are not `whole` beside the place of its part,
        with those that were seen there before: the pods and logs that had them may be gone."""
        part = self.part(number, index)
        seen = part.with_name(f".{part.name}.seen")
        try:
            write(part if whole else seen, data if whole else _added(seen, data))
            if whole:
                seen.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(part, error) from None

    def left(self, number: int) -> dict[int, dict[str, Any]]:
        """What is known of indexes that have no whole part; see `keep_left`."""
        path = self.results_dir(number) / "indexes.json"
        try:
            return {int(index): dict(one) for index, one in json.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise damaged(path, error) from None

    def keep_left(self, number: int, left: Mapping[int, Mapping[str, Any]]) -> None:
        """Keep what is known of indexes without a whole part, for when their pods are gone."""
        path = self.results_dir(number) / "indexes.json"
        try:
            write(path, as_json({str(index): dict(one) for index, one in sorted(left.items())}))
        except OSError as error:
            raise cannot_write(path, error) from None

    @contextlib.contextmanager
    def searching(self) -> Iterator[None]:
        """Be the one that chooses points. Raises RequestError where another process does."""
        import fcntl

        with (self.path / "search.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(
                    f"another process goes on with the search {self.name} at this moment",
                    hints=(f"see how far it is: kij-train report {self.name}",),
                ) from None
            yield


def _added(seen: Path, data: bytes) -> bytes:
    """The lines of a file, and those of `data` that it does not have."""
    try:
        lines = dict.fromkeys(seen.read_bytes().splitlines(keepends=True))
    except FileNotFoundError:
        return data
    return b"".join(lines | dict.fromkeys(data.splitlines(keepends=True)))


def prepare(cwd: Path) -> Path:
    """Make what the folders of arrays are in. Raises RequestError where it cannot be written."""
    base = cwd / BASE
    try:
        base.mkdir(parents=True, exist_ok=True)
        write(base.parent / ".gitignore", b"*\n")
    except OSError as error:
        raise cannot_write(base, error) from None
    return base


def check_free(cwd: Path, name: str, *, replace: bool = False) -> None:
    """Raise RequestError where there is an array of that name; with `replace`, one that runs.

    To be called before anything is made, too.
    """
    folder = cwd / BASE / name
    if not replace:
        if folder.exists():
            raise _taken(name)
    elif any(is_locked(lock) for lock in folder.glob("attempt-*/lock")):
        raise RequestError(
            f"{name} runs on this machine at this moment, and is not replaced",
            hints=(
                f"see how far it is: kij-train report {name}",
                "end it where it was started: Ctrl-C; or take another --name",
            ),
        )


def known(cwd: Path) -> list[str]:
    """The names of the arrays of this folder."""
    return sorted(path.parent.name for path in (cwd / BASE).glob("[!.]*/array.json"))


def _taken(name: str) -> RequestError:
    return RequestError(
        f"there is an array {name} in this folder already, with its results",
        hints=(
            "take another --name, or see it: kij-train report " + name,
            f"give it up with all results: rm -r {BASE / name}",
        ),
    )
