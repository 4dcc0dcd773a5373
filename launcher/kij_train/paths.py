"""Paths as text for a terminal: on one line, and without what would steer it."""

from __future__ import annotations

import os
import unicodedata

_STEERS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of Unicode: control and format characters, no characters, ends of lines."""
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r", '"': r"\"", "\\": r"\\"}


def steers(character: str) -> bool:
    """Whether a terminal would not just print it."""
    return unicodedata.category(character) in _STEERS


def shown(path: str) -> str:
    """The path, in quotes and with escapes where it needs them, as git writes it."""
    if not any(map(steers, path)):
        return path
    return f'"{"".join(map(_escaped, path))}"'


def _escaped(character: str) -> str:
    if character in _SHORT or not steers(character):
        return _SHORT.get(character, character)
    if "\ud800" <= character <= "\udc7f" or "\udd00" <= character <= "\udfff":
        return f"\\u{ord(character):04x}"  # no byte of a path, but text of JSON can have it
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
