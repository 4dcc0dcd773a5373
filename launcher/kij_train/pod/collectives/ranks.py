"""What a rank says of its machine and of the versions that it runs."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any

from .measuring import Run


def describe_rank(run: Run) -> dict[str, Any]:
    """This rank in the words of nccl-tests."""
    found: dict[str, Any] = {
        "rank": run.rank,
        "group": 0,
        "pid": os.getpid(),
        "hostname": socket.gethostname(),
        "device": run.device.index if run.gpu else -1,
        "device_hex": "",
        "device_info": f"CPU {platform.machine()}",
    }
    if run.gpu:
        properties = run.torch.cuda.get_device_properties(run.device)
        found["device_info"] = properties.name
        bus = getattr(properties, "pci_bus_id", None)
        if bus is not None:
            domain, slot = properties.pci_domain_id, properties.pci_device_id
            found["device_hex"] = f"{domain:04x}:{bus:02x}:{slot:02x}"
        if run.local_rank == 0:
            found["node"] = describe_gpus()
    return found


def describe_gpus() -> dict[str, Any]:
    """Driver, PCIe and NVLink of this node's GPUs, where nvidia-ml-py is in the image."""
    try:
        import pynvml
    except ImportError:
        return {"nvml": "no nvidia-ml-py in the image"}
    try:
        pynvml.nvmlInit()
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            links = 0
            for link in range(getattr(pynvml, "NVML_NVLINK_MAX_LINKS", 18)):
                try:
                    links += pynvml.nvmlDeviceGetNvLinkState(handle, link)
                except pynvml.NVMLError:
                    break
            gpus.append(
                {
                    "name": str(pynvml.nvmlDeviceGetName(handle)),
                    "pcie_generation": pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
                    "pcie_lanes": pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
                    "nvlinks": links,
                }
            )
        return {"driver": str(pynvml.nvmlSystemGetDriverVersion()), "gpus": gpus}
    except pynvml.NVMLError as error:  # MIG slices and some virtual GPUs answer only in part
        return {"nvml": str(error)}


def versions(run: Run) -> dict[str, str]:
    """Versions that change results."""
    torch = run.torch
    found = {"torch": torch.__version__, "python": platform.python_version()}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if run.backend == "nccl":
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found
