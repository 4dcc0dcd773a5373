"""The file of a sweep: read, begun, and replaced as a whole after every run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kij_train.bench.documents import check_resumable, new_document, parse_document
from kij_train.bench.rows import Document
from kij_train.errors import RequestError

Warn = Callable[[str, tuple[str, ...]], None]
"""Takes what is worth knowing, and what to do about it."""


def start(json_file: str | None, resume: bool, settings: dict[str, Any], *, warn: Warn) -> Document:
    """A new document, or that of the file, to go on with. Raises RequestError.

    Whether the file can be written is known before the first job runs.
    """
    if json_file is None:
        return new_document(settings)
    path = Path(json_file)
    if resume and path.exists():
        document = read(json_file)
        check_resumable(document, settings, json_file)
        return document
    document = new_document(settings)
    if path.exists():
        _check_may_go(path, json_file, warn)
        _try_beside(path)
    else:
        write(path, document)
    return document


def _check_may_go(path: Path, shown: str, warn: Warn) -> None:
    """Raise RequestError for a file that is no report, and is not empty.

    Says what of a report will go, which is with the first new measurement and not before.
    """
    if not path.is_file():
        raise RequestError(f"--json {shown}: is there, and is no file")
    if path.stat().st_size == 0:
        return
    try:
        old = read(shown)
    except RequestError:
        raise RequestError(
            f"--json {shown}: is there, and is no report of kij-train bench",
            hints=("name another file, or remove it first",),
        ) from None
    if old["runs"]:
        had = ", ".join(str(run["nodes"]) for run in old["runs"])
        warn(
            f"--json {shown} has measurements of {had} nodes, which new ones replace",
            ("to keep them, and add what is missing: --resume",),
        )


def write(path: Path, document: Document) -> None:
    """Replace the file as a whole, so that an interruption leaves the old or the new."""
    beside = _beside(path)
    try:
        beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _try_beside(path: Path) -> None:
    """Raise RequestError where the folder takes no file beside this one."""
    try:
        _beside(path).touch()
        _beside(path).unlink()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _cannot_write(path: Path, error: OSError) -> RequestError:
    return RequestError(f"--json {path}: cannot be written: {error.strerror}")


def read(path: str) -> Document:
    """Raises RequestError for what is no report."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        raise RequestError(f"cannot read {path}: {reason}") from None
    return parse_document(text, path)
