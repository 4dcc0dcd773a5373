"""The bootstrap and the code archive as immutable ConfigMaps, named by their content."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kij_train.pod import bootstrap
from kij_train.render.metadata import metadata, shared_labels
from kij_train.spec import JobSpec

CHUNK_BYTES = 800 * 1024
"""A ConfigMap holds 1 MiB of data; the first one carries what the pods run of ours as well."""

BOOTSTRAP_KEY = "bootstrap.py"
PREFLIGHT_KEY = "preflight.py"


@dataclass(frozen=True)
class Code:
    """What the pods run: the bootstrap's source, and the user's archive unless the image has it."""

    bootstrap: str
    archive: bytes = b""
    sha256: str | None = None
    """Of the archive before compression; None without an archive."""
    preflight: str = ""
    """Source of the preflight, where it is asked for."""
    more: Mapping[str, str] = field(default_factory=dict)
    """File name → source of what lies beside the bootstrap."""


def code_config_maps(spec: JobSpec, code: Code) -> list[dict[str, Any]]:
    """As many ConfigMaps as the archive takes, one at least, for the bootstrap.

    The name is a hash of the content: the same content is the same object, for every job.
    """
    identity = "\n".join([code.sha256 or "", str(sorted(shared_labels(spec).items()))])
    sources = "".join([code.bootstrap, code.preflight, *code.more.values()])
    digest = hashlib.sha256((identity + sources).encode()).hexdigest()[:16]
    chunks = [
        code.archive[start : start + CHUNK_BYTES]
        for start in range(0, len(code.archive), CHUNK_BYTES)
    ]
    config_maps = []
    for index in range(max(1, len(chunks))):
        config_map: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(spec, f"kij-code-{digest}-{index}", shared_labels(spec)),
            "immutable": True,
        }
        if index == 0:
            config_map["data"] = {BOOTSTRAP_KEY: code.bootstrap}
            if code.preflight:
                config_map["data"][PREFLIGHT_KEY] = code.preflight
            config_map["data"].update(code.more)
        if index < len(chunks):
            key = f"{bootstrap.CODE_PREFIX}{index:03d}"
            config_map["binaryData"] = {key: base64.b64encode(chunks[index]).decode()}
        config_maps.append(config_map)
    return config_maps
