"""The files of an array: each is written whole or not at all; and what is said where that fails."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shlex
from pathlib import Path
from typing import Any

from kij_train.errors import RequestError
from kij_train.paths import shown


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock: of an attempt, the one that runs it."""
    import fcntl

    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def damaged(path: Path, error: Exception) -> RequestError:
    in_attempt = path.parent.name.startswith("attempt-")
    folder = path.parent.parent if in_attempt else path.parent
    quoted = shlex.quote(str(folder))
    return RequestError(
        f"{shown(str(path))} is damaged: {error}",
        hints=(
            f"its results, as far as they are there: cat {quoted}/attempt-*/part-*.jsonl",
            f"give the array up with its results: rm -r {quoted}",
        ),
    )


def cannot_write(path: Path, error: OSError) -> RequestError:
    folder = next((one for one in path.parents if one.is_dir()), path.parent)
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, FileNotFoundError):
        return RequestError(
            f"cannot write {shown(str(path))}: its folder is not there any more",
            hints=(f"see what is there: ls -la {shlex.quote(str(folder))}",),
        )
    see = "see what is left of the disk: df -h" if is_full else "see who may write: ls -ld"
    return RequestError(
        f"cannot write {shown(str(path))}: {error.strerror}",
        hints=(f"{see} {shlex.quote(str(folder))}",),
    )


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def write(path: Path, data: bytes, *, lasting: bool = False) -> None:
    """Whole or not at all; `lasting`, also where the machine loses its power right afterwards."""
    made = path.with_name(f".new-{secrets.token_hex(6)}-{path.name}")
    try:
        with made.open("xb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
