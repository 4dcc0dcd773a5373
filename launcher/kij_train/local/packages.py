"""The folder of this machine in which nodes install packages, and find those of other runs.

Who needs it first installs into it, under a lock; the same request, with the same Python and the
same packages in it, is installed once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from kij_train.errors import RequestError
from kij_train.pod import contract
from kij_train.pod.packages import Request


def cache_dir(environ: Mapping[str, str]) -> Path:
    """Where kij-train keeps what can be had again."""
    base = environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache", "kij-train")  # noqa: PTH117


def offered(request: Request | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Write the request where nodes find it; variables for the nodes. Raises RequestError."""
    if request is None:
        return {}
    folder = cache_dir(environ) / "packages" / request.sha256[:16]
    file = folder / f"{contract.PACKAGES_PREFIX}000"
    try:
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f"{os.getpid()}.new")
            new.write_bytes(request.packed())
            new.replace(file)
    except OSError as error:
        raise RequestError(
            f"packages cannot be installed in {folder}: {error.strerror}",
            hints=("name another folder: XDG_CACHE_HOME=/PATH kij-train launch --local …",),
        ) from None
    return {
        contract.ENV_PACKAGES_SHA256: request.sha256,
        contract.ENV_PACKAGES_DIR: str(folder),
    }
