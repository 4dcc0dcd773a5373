"""Python tracebacks in the lines of a log, for commands that leave no failure record.

A torchrun that is the user's own prefixes the lines of its ranks, and ends with a traceback of its
own, which says only that a rank failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HEAD = "Traceback (most recent call last):"
_PREFIX = re.compile(r"^(\[rank\d+\]: |\[[^\]\s]*\]:)+")
_TORCHRUNS_OWN = "ChildFailedError"
MOST_LINES = 40


def first_traceback(lines: Iterable[str]) -> list[str]:
    """The lines of the first traceback that is not torchrun's own; empty where there is none.

    Lines of several ranks may be mixed: a traceback is that of the prefix it begins with.
    """
    open_prefix: str | None = None
    found: list[str] = []
    for line in lines:
        match = _PREFIX.match(line)
        prefix = match.group(0) if match else ""
        text = line[len(prefix) :]
        if text.startswith(HEAD) and open_prefix is None:
            open_prefix, found = prefix, [text]
        elif prefix == open_prefix:
            found.append(text)
            if text[:1].isspace() or not text:
                continue
            open_prefix = None
            if _TORCHRUNS_OWN not in text:
                return found[-MOST_LINES:]
            found = []
    return []
