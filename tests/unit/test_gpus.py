"""Kinds of GPU: one table for the flag, Kubernetes, this machine and hints."""

from __future__ import annotations

from pathlib import Path

import pytest
from kij_train import gpus
from kij_train.spec import JobSpec


@pytest.mark.parametrize(
    ("name", "resource", "taint", "flags"),
    [
        ("whole", "nvidia.com/gpu", "nvidia.com/gpu", "--gpus"),
        ("shared", "nvidia.com/gpu.shared", "nvidia.com/gpu", "--gpus with --gpu-kind shared"),
        ("amd", "amd.com/gpu", "amd.com/gpu", "--gpus with --gpu-kind amd"),
        (
            "mig-1g.5gb",
            "nvidia.com/mig-1g.5gb",
            "nvidia.com/gpu",
            "--gpus with --gpu-kind mig-1g.5gb",
        ),
    ],
)
def test_a_kind_is_found_by_its_flag_and_by_its_resource(
    name: str, resource: str, taint: str, flags: str
) -> None:
    kind = gpus.kind(name)
    assert (kind.resource, kind.taint, kind.flags) == (resource, taint, flags)
    assert gpus.of_resource(resource) == kind
    # What a hint says is what the spec takes.
    assert JobSpec(script="a.py", gpus=1, gpu_kind=name).gpu_resource == resource


def test_claims_have_no_resource() -> None:
    assert gpus.kind("dra").resource is None


@pytest.mark.parametrize("resource", ["nvidia.com/mig-big", "amd.com/fpga", "gpu", "cpu", ""])
def test_other_resources_are_no_gpus(resource: str) -> None:
    assert gpus.of_resource(resource) is None


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"must be one of whole, shared, amd, dra, or a MIG slice"):
        gpus.kind("tpu")


def test_devices_are_counted_as_their_driver_shows_them(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    for node, gpu_id in enumerate(("0", "51234", "51235")):  # the first one is the processor
        folder = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "gpu_id").write_text(f"{gpu_id}\n")
    nvidia, amd = gpus.kind("whole"), gpus.kind("amd")
    assert nvidia.on_this_machine({}, tmp_path) == ["0", "2", "10"]
    assert nvidia.on_this_machine({"CUDA_VISIBLE_DEVICES": "1,GPU-ab"}, tmp_path) == ["1", "GPU-ab"]
    assert nvidia.on_this_machine({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == []
    assert amd.on_this_machine({"CUDA_VISIBLE_DEVICES": "7"}, tmp_path) == ["0", "1"]
    assert amd.on_this_machine({"HIP_VISIBLE_DEVICES": "1"}, tmp_path) == ["1"]
