"""Printing what goes on and how long it took.

Every phase ends in one line with its time, so a log of `up` is also its profile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One line for the user, at once even where stdout is a file."""
    print(text, flush=True)


@contextmanager
def phase(name: str, *, expect: str = "") -> Iterator[None]:
    """Time a phase. `expect` announces one that takes long enough to be mistaken for a hang."""
    if expect:
        say(f"           {name}: {expect} ...")
    begin = time.monotonic()
    yield
    say(f"{time.monotonic() - begin:8.1f} s {name}")
