"""Numbers of indexes as text, `3,7-9`, read; `itemplan.compress_numbers` writes it."""

from __future__ import annotations


def parse(text: str, *, below: int) -> list[int]:
    """The numbers of `3,7-9`, ascending, each once. Raises ValueError that says what is wrong.

    Nothing that is not `below` is taken, so that a range of a billion is no list of a billion.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_number(first) or (dash and not _is_number(last)):
            raise ValueError(f"{part.strip()!r} is no number and no range: write it like 3,7-9")
        low, high = int(first), int(last if dash else first)
        if low > high:
            raise ValueError(f"{part.strip()} goes down: write {high}-{low}")
        if high >= below:
            raise ValueError(f"there is no {max(low, below)}: they go from 0 to {below - 1}")
        found.update(range(low, high + 1))
    return sorted(found)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
