"""Paths that users name: what no file system takes, and what a shell would have made of them."""

from __future__ import annotations

import errno
from pathlib import Path

from kij_train.errors import RequestError
from kij_train.specfile.explain import brief


def tilde(path: str) -> tuple[str, ...]:
    """A hint for a path that is not there, where its `~` reached us."""
    if not path.startswith("~"):
        return ()
    home = '"$HOME' + path[1:] + '"' if path[1:2] in ("", "/") else "its absolute path"
    return (f'"~" is the shell\'s, outside of quotes and at the start of a word: write {home}',)


def check_path(path: Path, named: str) -> None:
    """Raise RequestError for a path that no file can have; what is not there is no matter."""
    try:
        path.stat()
    except ValueError:
        raise RequestError(f"{named}: holds a NUL byte, which no path can") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise RequestError(f"{named}: {error.strerror}") from None


def expanded(path: str, named: str) -> Path:
    """A path of a file of ours, in which `~` is the home. Raises RequestError."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise RequestError(f"{named} {brief(path)}: no such user") from None
