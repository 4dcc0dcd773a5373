"""What is read of GPUs: stand-ins for NVML's library, for nvidia-smi, and for files of sysfs."""

from __future__ import annotations

import ast
import inspect
import os
import stat
import sys
from pathlib import Path

import pynvml
import pytest
from kij_train.pod import devices
from kij_train.pod.devices import Amd, Gpu, Nvml, Smi, open_devices, smi_line, throttles

from tests.unit.fakenvml import Card, FakeNvml


def test_the_library_has_all_names_that_are_used_of_the_stand_in() -> None:
    tree = ast.parse(inspect.getsource(devices))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.lower().startswith("nvml")
    } - {"_nvml", "nvmlReturn"}
    assert len(used) > 20
    assert [name for name in used if not hasattr(pynvml, name)] == []
    assert [name for name in used if not hasattr(FakeNvml(), name)] == []
    names = ["NVLINK_THROUGHPUT_DATA_TX", "NVLINK_THROUGHPUT_DATA_RX"]
    names += ["PCIE_COUNT_TX_BYTES", "PCIE_COUNT_RX_BYTES"]
    numbers = [getattr(pynvml, f"NVML_FI_DEV_{name}") for name in names]
    assert numbers == [devices.NVLINK_TX, devices.NVLINK_RX, devices.PCIE_TX, devices.PCIE_RX]
    assert pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG == devices.WIDE
    bits = ("HwThermalSlowdown", "SwThermalSlowdown", "HwPowerBrakeSlowdown", "SwPowerCap")
    known = [getattr(pynvml, f"nvmlClocksEventReason{name}") for name in bits]
    assert known == [bit for bit, _ in devices.THROTTLES]
    assert pynvml.nvmlClocksEventReasonHwSlowdown == devices.HARDWARE_SLOWDOWN


def test_a_gpu_is_read_whole() -> None:
    nvml = Nvml(FakeNvml([Card(reasons=0x48, ecc=2)]))
    (gpu,) = nvml.look()
    assert gpu == Gpu(
        "0",
        "GPU-0",
        "NVIDIA H100",
        utilization=97,
        memory_bytes=70 << 30,
        memory_total_bytes=80 << 30,
        power_w=650,
        power_limit_w=700,
        temperature_c=61,
        clock_mhz=1755,
        clock_max_mhz=1980,
        throttled=["too hot (hardware)"],
        nvlink_bytes_s=None,
        pcie_bytes_s=4e9,
        ecc_errors=2,
        xids=[],
    )


def test_what_a_gpu_does_not_tell_is_none_and_the_rest_is_there() -> None:
    (gpu,) = Nvml(FakeNvml([Card(busy=None, power_mw=None, ecc=None)])).look()
    assert (gpu.utilization, gpu.power_w, gpu.ecc_errors) == (None, None, None)
    assert gpu.temperature_c == 61
    assert gpu.lost == ""


def test_a_gpu_that_falls_off_in_the_middle_is_lost_and_the_others_are_not() -> None:
    fake = FakeNvml([Card(), Card()])
    nvml = Nvml(fake)
    assert [gpu.lost for gpu in nvml.look()] == ["", ""]
    fake.events.append((1, 79))
    fake.cards[1].lost = True
    first, second = nvml.look()
    assert (first.lost, first.utilization) == ("", 97)
    assert (second.lost, second.id, second.xids) == ("GPU is lost", "1", [79])
    fake.cards[1].lost = False
    assert nvml.look()[1].xids == [79]


def test_the_traffic_is_the_difference_of_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 14.0])
    monkeypatch.setattr("kij_train.pod.devices.time.monotonic", lambda: next(clock))
    card = Card(nvlink_kib=0, pcie_bytes=10**9)
    nvml = Nvml(FakeNvml([card]))
    assert nvml.look()[0].nvlink_bytes_s is None
    card.nvlink_kib, card.pcie_bytes = 1 << 20, 3 * 10**9
    gpu = nvml.look()[0]
    assert gpu.nvlink_bytes_s == 2 * (1 << 30) / 2
    assert gpu.pcie_bytes_s == 2e9
    card.nvlink_kib = 5  # the driver has begun anew
    assert nvml.look()[0].nvlink_bytes_s is None


def test_of_64_gpus_few_wait_for_the_pcie_at_each_look_and_all_in_turn() -> None:
    fake = FakeNvml([Card() for _ in range(64)])
    nvml = Nvml(fake)
    assert len(nvml.look()) == 64
    assert sorted(set(fake.pcie_asked)) == [0, 1, 2, 3]
    for _ in range(15):
        nvml.look()
    assert sorted(set(fake.pcie_asked)) == list(range(64))


def test_slices_stand_in_the_place_of_their_gpu() -> None:
    first, second = Nvml(FakeNvml([Card(slices=2)])).look()
    assert (first.id, first.uuid, second.uuid) == ("0:0", "MIG-0-0", "MIG-0-1")
    assert first.name == "NVIDIA H100 MIG 1g.10gb"
    assert (first.utilization, first.memory_total_bytes) == (None, 80 << 30)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x1, []),
        (0x4, ["power cap"]),
        (0x48, ["too hot (hardware)"]),
        (0x8, ["hardware slowdown"]),
        (0x88, ["power brake"]),
    ],
)
def test_reasons_for_lower_clocks_are_said_in_words(bits: int, words: list[str]) -> None:
    assert throttles(bits) == words


# --- what there is to read them by ----------------------------------------------------------------


def a_machine(root: Path, gpus: int) -> str:
    (root / "dev").mkdir()
    for number in range(gpus):
        (root / "dev" / f"nvidia{number}").touch()
    return str(root)


def test_a_machine_without_gpus_has_nothing_to_say(tmp_path: Path) -> None:
    reader, note = open_devices(a_machine(tmp_path, 0))
    assert (reader.look(), note) == ([], "")


def test_without_library_and_program_the_note_says_what_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    reader, note = open_devices(a_machine(tmp_path, 1))
    assert reader.look() == []
    assert "nvidia-ml-py is not in the image" in note
    assert "NVIDIA_DRIVER_CAPABILITIES=utility" in note


def test_without_a_driver_the_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
    monkeypatch.setenv("PATH", str(tmp_path))
    _, note = open_devices(a_machine(tmp_path, 1))
    assert "NVML: Driver Not Loaded" in note


def test_the_library_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([Card()]))
    reader, note = open_devices(a_machine(tmp_path, 1))
    assert (reader.look()[0].name, note) == ("NVIDIA H100", "")


LINE = (
    "{}, GPU-{}, NVIDIA H100 80GB HBM3, 97, 71680, 81559, 650.12, 700.00, 61, 1755, 1980, 0, {}\n"
)


def program(folder: Path, script: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def test_a_line_of_nvidia_smi_is_read() -> None:
    gpu = smi_line(LINE.format(3, "abc", "0x0000000000000040"))
    assert gpu is not None
    assert (gpu.id, gpu.uuid, gpu.utilization, gpu.power_w) == ("3", "GPU-abc", 97, 650.12)
    assert (gpu.memory_bytes, gpu.throttled) == (71680 << 20, ["too hot (hardware)"])
    assert (gpu.nvlink_bytes_s, gpu.pcie_bytes_s) == (None, None)
    slice_ = smi_line("0, GPU-a, NVIDIA A100, [N/A], 20, 40, [N/A], 400.00, 30, 1, 2, [N/A], 0x0\n")
    assert slice_ is not None
    assert (slice_.utilization, slice_.power_w, slice_.ecc_errors) == (None, None, None)
    lost = smi_line("1, [GPU is lost]" + ", [GPU is lost]" * 11 + "\n")
    assert lost is not None
    assert lost.lost == "GPU is lost"
    assert smi_line("No devices were found\n") is None


@pytest.mark.skipif(os.name != "posix", reason="runs a shell script")
def test_nvidia_smi_is_asked_by_the_name_that_its_driver_knows(tmp_path: Path) -> None:
    script = f"""
case "$1" in
  *clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'
    exit 2;;
esac
printf '{LINE.format(0, "a", "0x4").strip()}\\n{LINE.format(1, "b", "0x0").strip()}\\n'
exec sleep 60
"""
    smi = Smi(program(tmp_path, script))
    try:
        first, second = smi.look()
    finally:
        smi.close()
    assert (first.throttled, second.throttled) == (["power cap"], [])
    assert (first.lost, second.uuid) == ("", "GPU-b")


def test_gpus_that_nvidia_smi_had_shown_are_lost_when_it_ends(tmp_path: Path) -> None:
    line = LINE.format(0, "a", "0x0").strip()
    script = f"echo '{line}'\necho 'Unable to determine the device handle: GPU is lost.'\nexit 15\n"
    smi = Smi(program(tmp_path, script))
    smi._process.wait()
    (gpu,) = smi.look()
    assert gpu.uuid == "GPU-a"
    assert gpu.lost == "Unable to determine the device handle: GPU is lost."


def test_amd_gpus_are_read_from_sysfs_if_the_pod_has_them(tmp_path: Path) -> None:
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD129").touch()
    for number in range(2):
        card = tmp_path / f"sys/class/drm/card{number}/device"
        (card / f"drm/renderD{128 + number}").mkdir(parents=True)
        (card / "hwmon/hwmon3").mkdir(parents=True)
        files = {
            "gpu_busy_percent": 40 + number,
            "mem_info_vram_used": 3 << 30,
            "mem_info_vram_total": 192 << 30,
            "hwmon/hwmon3/power1_average": 512_000_000,
            "hwmon/hwmon3/temp1_input": 55_000,
            "hwmon/hwmon3/freq1_input": 2_100_000_000,
        }
        for name, value in files.items():
            (card / name).write_text(f"{value}\n")
    reader, note = open_devices(str(tmp_path))
    assert note == ""
    assert isinstance(reader, Amd)
    (gpu,) = reader.look()
    assert (gpu.utilization, gpu.power_w, gpu.temperature_c, gpu.clock_mhz) == (41, 512, 55, 2100)
    assert (gpu.memory_bytes, gpu.memory_total_bytes, gpu.ecc_errors) == (3 << 30, 192 << 30, None)
