"""The bootstrap and the code archive as immutable ConfigMaps, named by their content."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kij_train import names
from kij_train.pod import contract
from kij_train.pod.packages import Request
from kij_train.render.apply import MOST_BYTES, applied_bytes, text_bytes
from kij_train.render.metadata import metadata, shared_labels
from kij_train.spec import Common

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
    packages: Request | None = None
    """What is to be installed."""
    lock: tuple[str, ...] = ()
    """The versions that another job has installed of that, a requirement each."""

    @property
    def hashes(self) -> dict[str, str]:
        """Variables of the pods: the hashes of what ships."""
        hashes = {} if self.sha256 is None else {contract.ENV_CODE_SHA256: self.sha256}
        if self.packages is not None:
            hashes[contract.ENV_PACKAGES_SHA256] = self.packages.sha256
        return hashes


def code_config_maps(spec: Common, code: Code, component: str = "training") -> list[dict[str, Any]]:
    """As many ConfigMaps as the code takes, one at least, for the bootstrap.

    Each is small enough for `kubectl apply`, which takes a quarter of what a ConfigMap can hold. A
    launch sends the same objects, with one short request for each. The name is a hash of the
    content, so that jobs with the same code share one object.
    """
    sources = {BOOTSTRAP_KEY: code.bootstrap}
    if code.preflight:
        sources[PREFLIGHT_KEY] = code.preflight
    sources.update(code.more)
    content = (code.sha256 or "", *sources.values())
    maps = _ConfigMaps(spec, shared_labels(spec, component), "code", content)
    return maps.of(_shares(sources, contract.CODE_PREFIX, code.archive, maps.room))


def data_config_maps(
    spec: Common, component: str, kind: str, prefix: str, data: bytes
) -> list[dict[str, Any]]:
    """As many ConfigMaps as `data` takes, in chunks whose keys begin with `prefix`.

    They are called kij-KIND-…, by the content, as those of the code.
    """
    content = (hashlib.sha256(data).hexdigest(),)
    maps = _ConfigMaps(spec, shared_labels(spec, component), kind, content)
    return maps.of(_shares({}, prefix, data, maps.room))


def steps_config_maps(
    spec: Common, component: str, sources: Mapping[str, str], archive: bytes
) -> list[dict[str, Any]]:
    """As many ConfigMaps as the steps of a workflow take: what they run, and the code."""
    content = (hashlib.sha256(archive).hexdigest(), *sources.values())
    maps = _ConfigMaps(spec, shared_labels(spec, component), "steps", content)
    return maps.of(_shares(sources, contract.CODE_PREFIX, archive, maps.room))


def lock_name(job: str, image: str, packages: Request) -> str | None:
    """Of the ConfigMap with the versions that pods have installed; None where the request has them.

    `job` is the name of a job, or of an array: all of its attempts have the same versions.
    """
    if packages.locked:
        return None
    what = "\n".join([job, image, packages.sha256])
    return f"kij-lock-{hashlib.sha256(what.encode()).hexdigest()[:16]}"


def lock_config_map(name: str, lock: Sequence[str]) -> dict[str, Any]:
    """The ConfigMap of these versions. Pods that start when it is there install them."""
    labels = {names.LABEL_NAME: names.MANAGER, names.LABEL_MANAGED_BY: names.MANAGER}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels},
        "immutable": True,
        "data": {contract.PACKAGES_LOCK: "".join(f"{line}\n" for line in lock)},
    }


class _ConfigMaps:
    """Immutable ConfigMaps of one content, and the labels that they have."""

    def __init__(
        self, spec: Common, labels: dict[str, str], kind: str, content: Sequence[str]
    ) -> None:
        identity = "\n".join([content[0], str(sorted(labels.items()))])
        digest = hashlib.sha256((identity + "".join(content[1:])).encode()).hexdigest()[:16]
        self._spec, self._labels, self._name = spec, labels, f"kij-{kind}-{digest}"
        self.room = MOST_BYTES - applied_bytes(self._config_map(MOST_CONFIG_MAPS))
        """Bytes of content in each, as JSON has them."""

    def of(self, shares: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The ConfigMaps with these `data` and `binaryData`."""
        return [{**self._config_map(index), **share} for index, share in enumerate(shares)]

    def _config_map(self, index: int) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(self._spec, f"{self._name}-{index}", self._labels),
            "immutable": True,
        }


def _shares(
    sources: Mapping[str, str], prefix: str, data: bytes, room: int
) -> list[dict[str, Any]]:
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
    while start < len(data):
        key = f"{prefix}{number:03d}"
        chunk = data[start : start + max(0, left - text_bytes({key: ""})) // 4 * 3]
        if len(chunk) < min(LEAST_CHUNK_BYTES, len(data) - start):
            shares.append({})
            left = room - KEYS_BYTES
            continue
        shares[-1]["binaryData"] = {key: base64.b64encode(chunk).decode()}
        start, number, left = start + len(chunk), number + 1, 0
    return shares
