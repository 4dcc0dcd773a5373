"""The commands that add lines to .kijignore, which a user can paste."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from kij_train.paths import shown

NAME = ".kijignore"


def adding(folder: Path, *lines: str) -> str:
    """The command that adds lines to a folder's .kijignore.

    Where it cannot, or would write through a link into another file: what to do in words.
    """
    quoted = " ".join(map(shlex.quote, lines))
    file = folder / NAME
    why_not = _why_not(file)
    if why_not is not None:
        return f"put into {_place(file)}, which {why_not}, the line{'s'[: len(lines) - 1]} {quoted}"
    # Of some shells, echo reads a backslash.
    write = "echo" if len(lines) == 1 and "\\" not in lines[0] else "printf '%s\\n'"
    return f"{write} {quoted} >> {_place(file)}"


def _why_not(file: Path) -> str | None:
    """Why a line should not be appended to it."""
    if file.is_symlink():
        return f"is a link to {shown(str(file.readlink()))}"
    if not os.path.lexists(file):
        return None if os.access(file.parent, os.W_OK) else "you may not make"
    if not file.is_file():
        return "is no file"
    return None if os.access(file, os.W_OK) else "you may not write"


def _place(file: Path) -> str:
    """As a shell in the current folder knows it."""
    here = Path.cwd()
    return shlex.quote(str(file.relative_to(here) if file.is_relative_to(here) else file))
