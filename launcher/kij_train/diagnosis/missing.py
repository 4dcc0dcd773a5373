"""A file or module that a script did not find, and that was left out of the code at launch."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from kij_train.ignorefile import adding
from kij_train.pod import contract

CODE_DIR = f"{contract.WORK_DIR}/code"
_NOT_FOUND = re.compile(
    r"FileNotFound|No such file|not found|cannot find|can't find|does not exist"
)
_NO_MODULE = re.compile(r"No module named '([\w.]{1,200})'")
_QUOTED = re.compile(r"'([^'\n]{1,1000})'|\"([^\"\n]{1,1000})\"")


def missing_file(message: str, left_out: str | None, code_dir: str = CODE_DIR) -> str | None:
    """What to do about it; None where nothing that was left out is missed.

    `left_out` is the annotation names.LEFT_OUT of the Job; `code_dir` where the script ran.
    """
    try:
        paths = [str(path) for path in json.loads(left_out or "[]")]
    except (ValueError, TypeError, RecursionError):
        return None
    for sought in _sought(message, code_dir):
        for path in paths:
            if _is_in(sought, path):
                line = "!/" + (sought if sought.startswith(path) else path)
                return (
                    f"{path} was left out of the code at launch. Put data onto a volume: --mount "
                    f"pvc:NAME:/path; or ship it: {adding(Path.cwd(), line)}"
                )
    return None


def _sought(message: str, code_dir: str) -> Iterator[str]:
    """Paths inside of the code folder that the message names as missing."""
    module = _NO_MODULE.search(message)
    if module is not None:
        path = module[1].replace(".", "/")
        yield from (f"{path}.py", f"{path}/__init__.py")
    elif _NOT_FOUND.search(message):
        for match in _QUOTED.finditer(message):
            path = posixpath.normpath(match[1] or match[2]).removeprefix(f"{code_dir}/")
            if not path.startswith("/"):
                yield path


def _is_in(sought: str, path: str) -> bool:
    """Whether it is `path`, or lies in it; both may begin in a folder of the other."""
    if path.endswith("/"):
        return f"/{path}" in f"/{sought}/"
    return f"/{sought}".endswith(f"/{path}") or f"/{path}".endswith(f"/{sought}")
