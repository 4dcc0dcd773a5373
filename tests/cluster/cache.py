"""The cache: folders that are expensive to make, named by what they are made from.

A key is a hash over everything that goes in, so an entry is never wrong, only unused. An entry
appears in one step (it is built beside its place and renamed), and one process at a time builds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .paths import cache_dir
from .phases import phase
from .state import locked

UNUSED_DAYS = 14
PART = ".part"
USED = ".used"


def digest(*parts: str | bytes) -> str:
    """The key for what is made from these parts; the order matters."""
    summer = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        summer.update(len(data).to_bytes(8, "big") + data)
    return summer.hexdigest()[:12]


def obtain(
    kind: str, key: str, make: Callable[[Path], None], *, what: str, expect: str = ""
) -> Path:
    """The entry `<kind>-<key>`; `make` fills an empty folder for it if it is not there yet.

    `what` and `expect` are the words of phases.py for the making.
    """
    cache = cache_dir()
    target = cache / f"{kind}-{key}"
    if not target.is_dir():
        with locked(cache / f"{kind}.lock", wait=True):
            if not target.is_dir():  # another process may have made it while this one waited
                for crashed in cache.glob(f"{kind}-*{PART}"):
                    _remove(crashed)
                part = cache / f"{kind}-{key}{PART}"
                part.mkdir()
                with phase(what, expect=expect):
                    make(part)
                part.rename(target)
    (target / USED).touch()
    return target


@contextmanager
def in_use(entries: list[Path]) -> Iterator[None]:
    """Keep entries from being pruned, however long a cluster lives."""
    handles = []
    try:
        for path in entries:
            handles.append(os.open(path / USED, os.O_RDONLY))
            fcntl.flock(handles[-1], fcntl.LOCK_SH)
        yield
    finally:
        for handle in handles:
            os.close(handle)


def prune() -> list[str]:
    """Remove entries that nobody has used for `UNUSED_DAYS`; returns their names."""
    removed = []
    for used in cache_dir().glob(f"*/{USED}"):
        too_old = time.time() - used.stat().st_mtime > UNUSED_DAYS * 86_400
        if not too_old:
            continue
        with locked(used, wait=False) as had:
            if had:
                _remove(used.parent)
                removed.append(used.parent.name)
    return removed


def _remove(path: Path) -> None:
    shutil.rmtree(path)
