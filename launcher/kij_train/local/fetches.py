"""What --fetch names, on this machine: a folder of the cache, which the first node fills.

Its later runs find it there, unless the origin says that it has changed. Arguments and variables
that name the folder of the pods get that of the cache in its place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TypeVar

from kij_train.errors import RequestError
from kij_train.local.packages import cache_dir
from kij_train.pod import contract
from kij_train.spec import Common

Spec = TypeVar("Spec", bound=Common)


def fetched(spec: Spec, environ: Mapping[str, str]) -> tuple[Spec, dict[str, str]]:
    """The spec as it is for this machine, and variables for its nodes. Raises RequestError."""
    cache = {} if spec.cache_claim or not spec.cache_dir else {contract.ENV_CACHE: spec.cache_dir}
    if not spec.fetch:
        return spec, cache
    for one in spec.fetch:
        if one.claim is not None:
            raise RequestError(
                f"--fetch {one}: this machine has no claim {one.claim}",
                hints=(f"name a path of this machine: --fetch /PATH:{one.to}",),
            )
    folders = {}
    for to in spec.fetch_folders:
        sources = [str(one) for one in spec.fetch if one.to == to]
        key = hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]
        folders[to] = str(cache_dir(environ) / "fetch" / key)

    def here(text: str) -> str:
        for to, folder in folders.items():
            ends = rf"(?<![\w./-]){re.escape(to)}(?![\w.-])"
            text = re.sub(ends, lambda _, folder=folder: folder, text)  # type: ignore[misc]
        return text

    changed = {
        "args": tuple(map(here, spec.args)),
        "env": {name: here(value) for name, value in spec.env.items()},
    }
    fetches = [[one.source, folders[one.to], one.sha256 or ""] for one in spec.fetch]
    return spec.model_copy(update=changed), {
        **cache,
        contract.ENV_FETCH: json.dumps(fetches),
        contract.ENV_FETCHED: ":".join(folders[one.to] for one in spec.fetch),
    }
