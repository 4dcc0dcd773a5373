"""Describing images to containerd without ever packing their files.

An image is a manifest that names layers by digest, and containerd unpacks a layer's archive only
if it has no snapshot for it yet. The store (store.py) makes the snapshots first, straight from
folders, so no archive of gigabytes is written, hashed and unpacked: the layer's blob is a
stand-in of a few bytes with a digest of its own, and nobody ever opens it.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY_BLOCK = bytes(1024)
"""The end of a tar archive, so that a stand-in is an archive: an empty one."""


@dataclass(frozen=True)
class Layer:
    """One layer, known by what its stand-in says: different names, different digests."""

    name: str
    content: bytes = b""
    """An archive of its files, of a layer for which no snapshot is made before."""

    @property
    def blob(self) -> bytes:
        """Its archive, or what stands for it."""
        return self.content or EMPTY_BLOCK + self.name.encode()

    @property
    def digest(self) -> str:
        return _digest(self.blob)


def chain_id(layers: Sequence[Layer]) -> str:
    """The name of the snapshot that has these layers on top of each other."""
    chain = layers[0].digest
    for layer in layers[1:]:
        chain = _digest(f"{chain} {layer.digest}".encode())
    return chain


def write_archive(
    path: Path, name: str, layers: Sequence[Layer], command: Sequence[str], environment: list[str]
) -> None:
    """Write an OCI archive of one image, for `ctr images import`."""
    config = _json(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Cmd": list(command), "Env": environment},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(LAYER, layer.blob) for layer in layers],
        }
    )
    entry = {
        **_descriptor(MANIFEST, manifest),
        "annotations": {"io.containerd.image.name": name},
    }
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
        for blob in (manifest, config, *(layer.blob for layer in layers)):
            _add(archive, "blobs/" + _digest(blob).replace(":", "/"), blob)


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def _add(archive: tarfile.TarFile, name: str, blob: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(blob)
    archive.addfile(member, io.BytesIO(blob))
