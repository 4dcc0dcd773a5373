"""The records that the indexes of an attempt have left in its folder."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from kij_train.arrays.files import damaged
from kij_train.pod import results

_PART = re.compile(r"\.?part-(\d{5,9})\.jsonl(\.tmp-.*|\.seen)?")
"""A part, and what of one is not whole: as a runner here writes it, or as it was seen in a log."""


class Parts:
    """What the indexes of an attempt have left in its folder, as it is at this moment.

    The folder is listed once: it may have tens of thousands of files.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.whole: set[int] = set()
        """Indexes whose records are all there."""
        self.begun: dict[int, list[str]] = {}
        """Index → files of records that are not whole."""
        with contextlib.suppress(FileNotFoundError):
            for file in path.iterdir():
                name = file.name
                match = _PART.fullmatch(name)
                if match is not None and match[2] is None:
                    self.whole.add(int(match[1]))
                elif match is not None:
                    self.begun.setdefault(int(match[1]), []).append(name)

    def records(self, index: int) -> list[results.Json]:
        """The records of an index. What is not whole ends in the middle of a line, maybe."""
        names = self.begun.get(index, [])
        if index in self.whole:
            names = [results.part_name(index)]
        found: list[results.Json] = []
        for name in sorted(names):
            try:
                found += results.read_part((self._path / name).read_bytes()).records
            except FileNotFoundError:
                continue  # it has become whole meanwhile
            except OSError as error:
                raise damaged(self._path / name, error) from None
        return found
