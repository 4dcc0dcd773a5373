"""Which files were in a folder when a job began, so that it can be told what has changed since.

Files that have come since are not told: reports, results and logs that are written beside the code
are no change of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from kij_train.code.listing import NEVER

Known = dict[str, list[int]]
"""Path → size in bytes, and time of the last change in ns."""
MOST = 20_000
"""Files; of a folder with more, nothing is kept."""
_NO_CODE = {*NEVER, "__pycache__", "node_modules"}


def look(folder: Path, names: Iterable[str] | None = None) -> Known | None:
    """These files as they are now; without `names`, those of a folder, if they are not too many."""
    found: Known = {}
    for name in _below(folder) if names is None else names:
        with suppress(OSError):
            info = os.lstat(folder / name)
            found[name] = [info.st_size, info.st_mtime_ns]
        if len(found) > MOST:
            return None
    return found


def changed(folder: Path, known: Mapping[str, list[int]]) -> list[str]:
    """Which of these files are not as they were, or gone."""
    now = look(folder, known) or {}
    return sorted(name for name, was in known.items() if now.get(name) != was)


def _below(folder: Path, path: str = "") -> Iterator[str]:
    """Files of a folder and of those in it, without caches, histories and virtual environments."""
    with suppress(OSError), os.scandir(folder / path) as entries:
        for entry in entries:
            name = f"{path}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                yield name
            elif entry.name not in _NO_CODE and not (
                entry.name.startswith(".") or Path(entry, "pyvenv.cfg").exists()
            ):
                yield from _below(folder, f"{name}/")
