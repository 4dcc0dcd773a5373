"""Volumes of a pod: the code, a scratch folder, /dev/shm, and what the user mounts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kij_train import names
from kij_train.pod import contract
from kij_train.spec import Common
from kij_train.spec.types import Mount
from kij_train.units import quantity_value

SHM = "/dev/shm"  # noqa: S108 - a mount point in the pod
SHM_WITH_GPUS = "8Gi"
SHM_WITHOUT_GPUS = "1Gi"


def shm_size(spec: Common) -> str:
    """The limit of /dev/shm, which counts against the memory limit."""
    if spec.shm is not None:
        return spec.shm
    default = SHM_WITH_GPUS if spec.gpus else SHM_WITHOUT_GPUS
    if spec.memory is not None:
        half = quantity_value(spec.memory) / 2
        if half < quantity_value(default):
            return f"{int(half / Decimal(2**20)) or 1}Mi"
    return default


def volumes(spec: Common, bundle: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pod's volumes; those of `spec.mounts` are called mount-0, mount-1, …

    `bundle` are the ConfigMaps of what ships, as the volume's sources name them.
    """
    sources = [{"configMap": each} for each in bundle]
    return [
        {"name": names.CODE_VOLUME, "projected": {"sources": sources}},
        {"name": "work", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm_size(spec)}},
        *(
            {"name": f"mount-{index}", **_source(mount)}
            for index, mount in enumerate(_distinct(spec))
        ),
        *({"name": f"fetched-{index}", "emptyDir": {}} for index, _ in enumerate(_fetched(spec))),
        *(
            {"name": f"origin-{index}", "persistentVolumeClaim": {"claimName": claim}}
            for index, claim in enumerate(_origins(spec))
        ),
        *({"name": "cache", "persistentVolumeClaim": {"claimName": c}} for c in _cache(spec)),
    ]


def volume_mounts(spec: Common) -> list[dict[str, Any]]:
    """Where the container sees them."""
    mounts: list[dict[str, Any]] = [
        {"name": names.CODE_VOLUME, "mountPath": contract.BUNDLE_DIR, "readOnly": True},
        {"name": "work", "mountPath": contract.WORK_DIR},
        {"name": "shm", "mountPath": SHM},
    ]
    for index, mount in enumerate(_distinct(spec)):
        entry: dict[str, Any] = {"name": f"mount-{index}", "mountPath": mount.path}
        if mount.read_only or mount.type in ("secret", "configmap"):
            entry["readOnly"] = True
        mounts.append(entry)
    for index, folder in enumerate(_fetched(spec)):
        mounts.append({"name": f"fetched-{index}", "mountPath": folder})
    for index, claim in enumerate(_origins(spec)):
        path = f"{contract.ORIGINS_DIR}/{claim}"
        mounts.append({"name": f"origin-{index}", "mountPath": path, "readOnly": True})
    mounts += [{"name": "cache", "mountPath": contract.CACHE_DIR} for _ in _cache(spec)]
    return mounts


def _fetched(spec: Common) -> list[str]:
    """Folders that something is fetched into, but for those that the user has mounted."""
    mounted = {mount.path.rstrip("/") for mount in spec.mounts}
    return [folder for folder in spec.fetch_folders if folder not in mounted]


def _origins(spec: Common) -> list[str]:
    """Claims that something is fetched from."""
    return list(dict.fromkeys(one.claim for one in spec.fetch if one.claim is not None))


def _cache(spec: Common) -> list[str]:
    """The claim of the cache, where something may be kept in it."""
    claim = spec.cache_claim if spec.fetch or spec.installs else None
    return [] if claim is None else [claim]


def _distinct(spec: Common) -> list[Mount]:
    return list(dict.fromkeys(spec.mounts))


def _source(mount: Mount) -> dict[str, Any]:
    match mount.type:
        case "pvc":
            return {"persistentVolumeClaim": {"claimName": mount.source}}
        case "secret":
            return {"secret": {"secretName": mount.source}}
        case "configmap":
            return {"configMap": {"name": mount.source}}
        case "hostpath":
            return {"hostPath": {"path": mount.source}}
        case "emptydir":
            return {"emptyDir": {"sizeLimit": mount.source} if mount.source else {}}
