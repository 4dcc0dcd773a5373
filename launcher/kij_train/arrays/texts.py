"""Many texts in one piece of memory. Each string of Python takes 49 bytes more than its text."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import accumulate
from typing import overload


class Texts(Sequence[str]):
    """A sequence of texts, each decoded when it is asked for."""

    def __init__(self, content: bytes, starts: array[int], ends: array[int]) -> None:
        """`content` is UTF-8, `starts` and `ends` are where the texts are in it."""
        self._content, self._starts, self._ends = content, starts, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Pack texts."""
        packed, starts, ends = BytesIO(), array("Q"), array("Q")
        for text in texts:
            starts.append(packed.tell())
            packed.write(text.encode())
            ends.append(packed.tell())
        return cls(packed.getvalue(), starts, ends)

    @classmethod
    def lines(cls, content: bytes, end: bytes) -> tuple[Texts, array[int]]:
        """The lines of `content` that are not empty, without their ends, and their numbers from 1.

        A line ends with a newline, and where it has `end` before that, with that.
        """
        starts, ends, numbers = array("Q"), array("Q"), array("L")
        start = 0
        for number, stop in enumerate(accumulate(map(len, BytesIO(content))), start=1):
            last = stop - 1 if content[stop - 1] == ord("\n") else stop
            if end and content.endswith(end, start, last):
                last -= len(end)
            if last > start:
                starts.append(start)
                ends.append(last)
                numbers.append(number)
            start = stop
        return cls(content, starts, ends), numbers

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        return self._content[self._starts[at] : self._ends[at]].decode()

    def __iter__(self) -> Iterator[str]:
        content = self._content
        for start, end in zip(self._starts, self._ends, strict=True):
            yield content[start:end].decode()
