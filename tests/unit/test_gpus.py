"""Kinds of GPU: one table for the flag, Kubernetes, this machine and hints."""

from __future__ import annotations

from pathlib import Path

import pytest
from kij_train import gpus
from kij_train.spec import JobSpec
from pydantic import ValidationError


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


def test_claims_have_a_device_class_and_no_resource() -> None:
    assert (gpus.kind("dra").resource, gpus.kind("dra").device_class) == (None, "gpu.nvidia.com")
    slices = gpus.kind("dra:mig-1g.10gb.example.com")
    assert (slices.resource, slices.device_class) == (None, "mig-1g.10gb.example.com")
    assert slices.flags == "--gpus with --gpu-kind dra:mig-1g.10gb.example.com"
    assert [gpus.claim_of(name) for name in ("gpu.nvidia.com", "a.b")] == ["dra", "dra:a.b"]


@pytest.mark.parametrize(
    ("name", "is_slice"),
    [
        ("whole", False),
        ("shared", False),
        ("dra", False),
        ("mig-1g.5gb", True),
        ("dra:mig.nvidia.com", True),
        ("dra:gpu.example.com", False),
    ],
)
def test_mig_slices_are_known_by_their_names(name: str, *, is_slice: bool) -> None:
    assert gpus.kind(name).is_slice == is_slice


@pytest.mark.parametrize("resource", ["nvidia.com/mig-big", "amd.com/fpga", "gpu", "cpu", ""])
def test_other_resources_are_no_gpus(resource: str) -> None:
    assert gpus.of_resource(resource) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tpu", "must be one of whole, shared, amd, dra, a MIG slice such as mig-1g.5gb, or dra:"),
        ("mig", "must say how large the MIG slice is, as nvidia-smi mig -lgip does: mig-1g.5gb"),
        ("mig-1g", "must say how large"),
        ("1g.10gb", "must say how large"),
        ("mig-0.5", "Those of a cluster: kij-train doctor"),
        ("dra-x", "must be one of"),
        ("dra:", "is no object name"),
        ("dra:Not A Class", "is no object name"),
    ],
)
def test_an_unknown_kind_is_refused_with_those_there_are(name: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSpec(script="a.py", gpus=1, gpu_kind=name)
    assert said in str(refused.value)


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
