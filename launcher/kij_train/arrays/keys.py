"""Whether the keys of a list can be told apart: by us, by file systems, and by people."""

from __future__ import annotations

import json
import unicodedata
from array import array
from collections.abc import Callable, Sequence

from kij_train.errors import RequestError
from kij_train.paths import shown

MOST_SHOWN = 80
"""Characters of a key in a message."""
PARTS = 8
"""In which many keys are compared."""


def folded(key: str) -> str:
    """What is the same for keys that some file systems, and most people, take for the same."""
    if key.isascii():
        return key.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())


def check_distinct(keys: Sequence[str], place: Callable[[int], str]) -> None:
    """Raise RequestError for two keys that are hard to tell; `place` says where one stands."""
    # Of a million keys, a set of them, or of their hashes, is as large as the keys.
    hashes = array("q", (hash(folded(key)) for key in keys))
    repeated: set[int] = set()
    for part in range(PARTS):
        seen: set[int] = set()
        for number in hashes:
            if number % PARTS == part:
                (repeated if number in seen else seen).add(number)
    if not repeated:
        return
    first_of: dict[str, int] = {}
    twice = []
    for position, key in enumerate(keys):
        if hashes[position] in repeated:
            first = first_of.setdefault(folded(key), position)
            if first != position:
                twice.append((first, position))
    if twice:
        raise _not_distinct(keys, place, *twice[0], len(twice) - 1)


def _not_distinct(
    keys: Sequence[str], place: Callable[[int], str], first: int, second: int, more: int
) -> RequestError:
    one, other = keys[first], keys[second]
    others = f" (and {more:,} more)" if more else ""
    where = f"{place(second)}: {_quoted(other)}"
    if one == other:
        return RequestError(
            f"{where} is at {place(first)} already, and each item needs a key of its own{others}",
            hints=(
                "of lines, each once: sort -u LIST",
                'to run one several times, JSON lines with a key each: {"key": "a-1", "path": "a"}',
            ),
        )
    differ = "by case"
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        differ = "in their form of Unicode"
        where = f"{place(second)}: {_quoted(other, ascii_only=True)}"
    return RequestError(
        f"{where} and {_quoted(one, ascii_only=differ != 'by case')} at {place(first)} "
        f"differ only {differ}, so that files named by them may be one{others}",
        hints=('JSON lines with a key each tell them apart: {"key": "1-a", "id": "a"}',),
    )


def _quoted(key: str, *, ascii_only: bool = False) -> str:
    text = key if len(key) <= MOST_SHOWN else key[:MOST_SHOWN] + "…"
    return shown(json.dumps(text, ensure_ascii=ascii_only))
