"""What of a folder does not ship, why, and how it is told.

What git ignores is told in one line and is no warning: that is what git was asked to do. What
kij-train leaves out by itself is a warning with the command that brings it back.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kij_train.code import gitignore
from kij_train.ignorefile import adding
from kij_train.paths import shown, steers
from kij_train.units import format_bytes

MOST_NAMED = 5
"""Of one kind."""
MOST_RECORDED, MOST_RECORDED_CHARS = 40, 2000
"""What an annotation of the Job holds."""
LIST_COMMAND = "kij-train render --list-code"


class Why(enum.Enum):
    """Why something does not ship."""

    KIJIGNORE = ".kijignore"
    GITIGNORE = ".gitignore"
    SECRET = "it looks like a secret"  # noqa: S105 - a reason
    OUTPUT = "output of earlier runs"
    LINK = "an ignore file that is a link"
    SPECIAL = "a socket, pipe or device"
    CACHE = "a cache or virtual environment"


@dataclass(frozen=True)
class LeftOut:
    """A file, or a folder with all that it holds, that does not ship."""

    path: str
    """Folders end in '/'."""
    why: Why
    files: int = 1
    size_bytes: int = 0
    biggest: str = ""
    """The biggest file."""
    biggest_bytes: int = 0
    is_cut: bool = False
    """There is more in it than was counted."""
    holds: str | None = None
    """The credential that stands in it."""

    def covers(self, path: str) -> bool:
        """Whether `path` is it, or is in it."""
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


def notes(folder: Path, left_out: Sequence[LeftOut], checkpoints: Sequence[str]) -> Iterator[str]:
    """A sentence for what kij-train itself left out, with the way back; and for what it did not.

    `checkpoints` are files that ship and may be ones.
    """
    secrets = [left for left in left_out if left.why is Why.SECRET]
    for left in secrets[:MOST_NAMED]:
        looks = f"it holds {left.holds}" if left.holds else left.why.value
        back = bring_back(folder, left.path)
        yield f"left out {shown(left.path)}: {looks}; to ship it: {back}"
    if more := secrets[MOST_NAMED:]:
        yield f"left out {len(more)} more that look like secrets: {LIST_COMMAND}"
    outputs = [left for left in left_out if left.why is Why.OUTPUT]
    if outputs:
        paths = [left.path for left in outputs]
        yield (
            f"left out {_names(paths)} ({_amount(outputs)}): {Why.OUTPUT.value}, which the job "
            f"would go on from; to ship: {bring_back(folder, *paths[:MOST_NAMED])}"
        )
    if checkpoints:
        lines = map(gitignore.literal, checkpoints[:MOST_NAMED])
        yield (
            f"ships {_names(checkpoints)}: a job that resumes may go on from there; to leave out: "
            f"{adding(folder, *lines)}"
        )
    special = [left.path for left in left_out if left.why is Why.SPECIAL]
    if special:
        yield f"left out {_names(special)}: {Why.SPECIAL.value}"


def kept_back(left_out: Sequence[LeftOut]) -> str | None:
    """One line about what git ignores; None where that is nothing."""
    ignored = [left for left in left_out if left.why is Why.GITIGNORE and left.files]
    if not ignored:
        return None
    biggest = max(ignored, key=lambda left: left.biggest_bytes)
    size = format_bytes(biggest.biggest_bytes)
    return (
        f"not shipped, since git ignores it: {_amount(ignored)}, the biggest "
        f"{shown(biggest.biggest)} ({size}); all of it: {LIST_COMMAND}"
    )


def describe(left: LeftOut) -> str:
    """One line about one thing."""
    reason = f"it holds {left.holds}" if left.holds else left.why.value
    return f"not shipped: {shown(left.path)} ({_amount([left])}): {reason}"


def record(left_out: Sequence[LeftOut]) -> str | None:
    """The biggest, as a JSON list of paths, for the Job's annotation; None where there is nothing.

    Names of what looks like a secret are not in it.
    """
    told = [left for left in left_out if left.why not in (Why.SECRET, Why.LINK, Why.SPECIAL)]
    told = sorted(told, key=lambda left: -left.size_bytes)[:MOST_RECORDED]
    paths: list[str] = []
    for left in told:
        if len(json.dumps([*paths, left.path])) <= MOST_RECORDED_CHARS:
            paths.append(left.path)
    return json.dumps(sorted(paths)) if paths else None


def _names(paths: Sequence[str]) -> str:
    more = len(paths) - MOST_NAMED
    return ", ".join(map(shown, paths[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")


def _amount(left_out: Sequence[LeftOut]) -> str:
    files = sum(left.files for left in left_out)
    cut = "at least " if any(left.is_cut for left in left_out) else ""
    size = format_bytes(sum(left.size_bytes for left in left_out))
    return f"{cut}{files:,} file{'' if files == 1 else 's'}, {size}"


def bring_back(folder: Path, *paths: str) -> str:
    """The command that brings paths back."""
    named = [path for path in paths if not any(map(steers, path))]
    if not named:
        return "rename it, which no line of an ignore file can name"
    return adding(folder, *("!" + gitignore.literal(path) for path in named))
