"""The bootstrap and the code archive as immutable ConfigMaps, named by their content."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kij_train.pod import contract
from kij_train.render.apply import MOST_BYTES, applied_bytes, text_bytes
from kij_train.render.metadata import metadata, shared_labels
from kij_train.spec import JobSpec

BOOTSTRAP_KEY = "bootstrap.py"
PREFLIGHT_KEY = "preflight.py"
MOST_CONFIG_MAPS = 999
"""As many as the three digits in a chunk's key can count; far more than bundle.py allows."""
KEYS_BYTES = 64
"""For the words `data` and `binaryData`."""
LEAST_CHUNK_BYTES = 16 * 1024
"""A ConfigMap with sources in it gets a chunk of the code only if so much of it fits."""


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
    """As many ConfigMaps as the code takes, one at least, for the bootstrap.

    Each is small enough for `kubectl apply`, which takes a quarter of what a ConfigMap can hold. A
    launch sends the same objects, with one short request for each. The name is a hash of the
    content, so that jobs with the same code share one object.
    """
    sources = {BOOTSTRAP_KEY: code.bootstrap}
    if code.preflight:
        sources[PREFLIGHT_KEY] = code.preflight
    sources.update(code.more)
    identity = "\n".join([code.sha256 or "", str(sorted(shared_labels(spec).items()))])
    digest = hashlib.sha256((identity + "".join(sources.values())).encode()).hexdigest()[:16]

    def config_map(index: int) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(spec, f"kij-code-{digest}-{index}", shared_labels(spec)),
            "immutable": True,
        }

    room = MOST_BYTES - applied_bytes(config_map(MOST_CONFIG_MAPS))
    return [{**config_map(i), **share} for i, share in enumerate(_shares(sources, code, room))]


def _shares(sources: Mapping[str, str], code: Code, room: int) -> list[dict[str, Any]]:
    """`data` and `binaryData` of every ConfigMap: at most `room` bytes each, as JSON has them."""
    shares: list[dict[str, Any]] = [{}]
    left = room - KEYS_BYTES
    for name, source in sources.items():
        size = text_bytes({name: source})
        if size > left and shares[-1]:
            shares.append({})
            left = room - KEYS_BYTES
        shares[-1].setdefault("data", {})[name] = source
        left -= size
    start = number = 0
    while start < len(code.archive):
        key = f"{contract.CODE_PREFIX}{number:03d}"
        chunk = code.archive[start : start + max(0, left - text_bytes({key: ""})) // 4 * 3]
        if len(chunk) < min(LEAST_CHUNK_BYTES, len(code.archive) - start):
            shares.append({})
            left = room - KEYS_BYTES
            continue
        shares[-1]["binaryData"] = {key: base64.b64encode(chunk).decode()}
        start, number, left = start + len(chunk), number + 1, 0
    return shares
