"""Kinds of GPU: what Kubernetes calls them, how this machine counts them, how a hint names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

CLAIM = "gpus"
"""Name of a pod's claim of Dynamic Resource Allocation."""
DEVICE_CLASS = "gpu.nvidia.com"
"""DeviceClass of the NVIDIA driver for Dynamic Resource Allocation."""
WHOLE, SHARED, AMD, DRA = "whole", "shared", "amd", "dra"
WHOLE_RESOURCE = _NVIDIA = "nvidia.com/gpu"
_AMD = "amd.com/gpu"
_MIG = re.compile(r"mig-\d+g\.\d+gb(\.me(\.all)?)?")
"""As the resources of the "mixed" MIG strategy are called, without nvidia.com/."""
_PROFILE = re.compile(r"\d+g\b")
"""How a MIG profile begins, by its own name."""


def _nvidia_devices(root: Path) -> list[str]:
    found = (re.fullmatch(r"nvidia(\d+)", path.name) for path in root.glob("dev/nvidia*"))
    return sorted((match[1] for match in found if match), key=int)


def _amd_devices(root: Path) -> list[str]:
    """The driver's topology has a node for every processor; those that are GPUs have an id."""
    nodes = root.glob("sys/class/kfd/kfd/topology/nodes/*/gpu_id")
    gpus = [node for node in nodes if node.read_text(encoding="ascii").strip() not in ("", "0")]
    return [str(number) for number in range(len(gpus))]


@dataclass(frozen=True)
class Kind:
    """One kind of GPU."""

    name: str
    """The value of --gpu-kind."""
    resource: str | None
    """The extended resource that counts it; None where pods claim it."""
    taint: str
    """Taint of the machines that have it."""
    visible: str
    """Environment variable that lists the devices a process may use."""
    devices: Callable[[Path], list[str]]
    """Those of a machine, below the root of its file system."""
    device_class: str | None = None
    """The DeviceClass that pods claim it from, instead of a resource."""

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice, as far as its name says so."""
        return "mig" in (self.device_class or self.name)

    @property
    def flags(self) -> str:
        """How a user asks for it."""
        return "--gpus" if self.name == WHOLE else f"--gpus with --gpu-kind {self.name}"

    def on_this_machine(self, environ: Mapping[str, str], root: Path = Path("/")) -> list[str]:
        """Devices that a process may use: those that the environment lists, else all there are."""
        listed = environ.get(self.visible)
        if listed is not None:
            return [device for device in listed.split(",") if device.strip() not in ("", "-1")]
        return self.devices(root)


def _nvidia(name: str, resource: str | None, device_class: str | None = None) -> Kind:
    return Kind(name, resource, _NVIDIA, "CUDA_VISIBLE_DEVICES", _nvidia_devices, device_class)


_KINDS = (
    _nvidia(WHOLE, _NVIDIA),  # also slices with MIG's "single" strategy
    _nvidia(SHARED, f"{_NVIDIA}.shared"),  # time-slicing or MPS, with renameByDefault
    Kind(AMD, _AMD, _AMD, "HIP_VISIBLE_DEVICES", _amd_devices),
    _nvidia(DRA, None, DEVICE_CLASS),
)


def names() -> tuple[str, ...]:
    """The kinds that have a name of their own: beside them there are MIG slices."""
    return tuple(one.name for one in _KINDS)


def kind(name: str) -> Kind:
    """The kind that --gpu-kind calls so. Raises ValueError."""
    for one in _KINDS:
        if one.name == name:
            return one
    prefix, colon, device_class = name.partition(":")
    if colon and prefix == DRA:  # its name is checked with the spec
        return _nvidia(name, None, device_class)
    if _MIG.fullmatch(name) is None:
        if name.startswith("mig") or _PROFILE.match(name):
            raise ValueError(
                "must say how large the MIG slice is, as nvidia-smi mig -lgip does: mig-1g.5gb, "
                "mig-1g.10gb, mig-3g.40gb. Those of a cluster: kij-train doctor"
            )
        raise ValueError(
            f"must be one of {', '.join(names())}, a MIG slice such as mig-1g.5gb, or "
            f"{DRA}:CLASS for another DeviceClass"
        )
    return _nvidia(name, f"nvidia.com/{name}")


def claim_of(device_class: str) -> str:
    """How a user asks for a claim of a DeviceClass."""
    return DRA if device_class == DEVICE_CLASS else f"{DRA}:{device_class}"


def of_resource(resource: str) -> Kind | None:
    """The kind that an extended resource counts; None for a resource that is no GPU."""
    for one in _KINDS:
        if one.resource == resource:
            return one
    vendor, _, name = resource.partition("/")
    return kind(name) if vendor == "nvidia.com" and _MIG.fullmatch(name) else None
