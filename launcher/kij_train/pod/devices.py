"""GPUs of this pod or machine: what they do now, from what is there already.

NVIDIA: NVML through the library `pynvml` (the package nvidia-ml-py) where this Python has it, else
the program nvidia-smi, which the container runtime brings with the driver. AMD: what the driver
amdgpu shows in sysfs (docs.kernel.org/gpu/amdgpu/thermal.html).

Standard library only, Python 3.8 or later: the launcher sends this file into the pods.
"""

import contextlib
import csv
import glob
import os
import re
import shutil
import subprocess
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

THROTTLES = (
    (0x40, "too hot (hardware)"),
    (0x20, "too hot (driver)"),
    (0x80, "power brake"),
    (0x04, "power cap"),
)
"""Bits of NVML's reasons for lower clocks: HwThermalSlowdown, SwThermalSlowdown,
HwPowerBrakeSlowdown, SwPowerCap."""
HARDWARE_SLOWDOWN = 0x08
"""Comes with the first and third of them, and sometimes alone."""
EVERY_LINK = 0xFFFFFFFF
"""The scope of NVML's field values that stands for all NVLinks together."""
NVLINK_TX, NVLINK_RX = 138, 139
"""NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX and _RX, counters in KiB."""
PCIE_TX, PCIE_RX = 197, 198
"""NVML_FI_DEV_PCIE_COUNT_TX_BYTES and _RX_BYTES."""
WIDE = 3
"""NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: a counter of 32 bits is full within a tenth of a second."""
MOST_PCIE = 4
"""GPUs whose PCIe traffic is measured at a look, in turn: NVML waits 20 ms for each direction."""
MOST_XIDS = 8
SMI_S = 5.0
"""Between two lines of nvidia-smi, which takes more of a core than NVML does."""
SMI_STARTS_S = 20.0
SMI_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The field's name, and what drivers before 535 call it."""
SMI_FIELDS = (
    "index",
    "uuid",
    "name",
    "utilization.gpu",
    "memory.used",
    "memory.total",
    "power.draw",
    "enforced.power.limit",
    "temperature.gpu",
    "clocks.sm",
    "clocks.max.sm",
    "ecc.errors.uncorrected.volatile.total",
)
MIB = 1 << 20


class Gpu(NamedTuple):
    """One GPU, or one MIG slice, now. What the driver does not say is None."""

    id: str
    """Its number in this pod."""
    uuid: str = ""
    name: str = ""
    utilization: Optional[float] = None
    """Percent of the time in which a kernel ran; unknown of a MIG slice."""
    memory_bytes: Optional[int] = None
    memory_total_bytes: Optional[int] = None
    power_w: Optional[float] = None
    power_limit_w: Optional[float] = None
    temperature_c: Optional[float] = None
    clock_mhz: Optional[float] = None
    """Of the multiprocessors."""
    clock_max_mhz: Optional[float] = None
    throttled: Sequence[str] = ()
    """Why its clocks are lower than they could be, under load."""
    nvlink_bytes_s: Optional[float] = None
    """Both directions together, as those of PCIe."""
    pcie_bytes_s: Optional[float] = None
    ecc_errors: Optional[int] = None
    """Uncorrected ones since the driver was loaded."""
    xids: Sequence[int] = ()
    """XID errors since the first look, the newest last."""
    lost: str = ""
    """Why it does not answer any more; empty for one that does."""


def throttles(reasons: int) -> List[str]:
    """What the bits say that NVML gives as reasons for lower clocks."""
    found = [words for bit, words in THROTTLES if reasons & bit]
    hardware = reasons & HARDWARE_SLOWDOWN and not reasons & (0x40 | 0x80)
    return found + (["hardware slowdown"] if hardware else [])


class Rates:
    """Bytes a second, from counters."""

    def __init__(self) -> None:
        self._before: Dict[str, Tuple[float, float]] = {}

    def see(self, what: str, count: float, now: float) -> Optional[float]:
        """None at the first look, and where the counter has begun anew."""
        before, self._before[what] = self._before.get(what), (count, now)
        if before is None or count < before[0] or now <= before[1]:
            return None
        return (count - before[0]) / (now - before[1])


class Nvml:
    """NVIDIA's GPUs, by the library."""

    def __init__(self, pynvml: Any) -> None:
        """Raises pynvml.NVMLError where there is no driver."""
        self._nvml = pynvml
        pynvml.nvmlInit()
        self._count = int(pynvml.nvmlDeviceGetCount())
        self._rates = Rates()
        self._next_pcie = 0
        self._xids: Dict[str, List[int]] = {}
        self._events = self._register()

    def look(self) -> List[Gpu]:
        found: List[Gpu] = []
        self._take_xids()
        measured = self._turn()
        for number in range(self._count):
            found += self._gpu(number, number in measured)
        return found

    def close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _turn(self) -> List[int]:
        if not self._count:
            return []
        first = self._next_pcie
        self._next_pcie = (first + MOST_PCIE) % self._count
        return [(first + n) % self._count for n in range(min(MOST_PCIE, self._count))]

    def _register(self) -> Any:
        """XID errors are told to who waits for them; None where the driver tells none."""
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return None
        for number in range(self._count):
            with contextlib.suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        return events

    def _take_xids(self) -> None:
        for _ in range(MOST_XIDS * max(1, self._count) if self._events is not None else 0):
            try:
                event = self._nvml.nvmlEventSetWait(self._events, 0)
                uuid = _text(self._nvml.nvmlDeviceGetUUID(event.device))
            except self._nvml.NVMLError:  # a timeout: there are no more
                return
            self._xids.setdefault(uuid, []).append(int(event.eventData))

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """Raises LostError where the GPU is gone; None for what it does not tell."""
        try:
            return question(*arguments)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) == self._nvml.NVML_ERROR_GPU_IS_LOST:
                raise LostError(str(error)) from None
            return None

    def _gpu(self, number: int, measures: bool) -> List[Gpu]:
        """The GPU, or in its place those of its MIG slices that this pod has."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
        except nvml.NVMLError as error:
            return [Gpu(str(number), lost=str(error))]
        uuid = name = ""
        try:
            uuid = _text(self._ask(nvml.nvmlDeviceGetUUID, handle))
            name = _text(self._ask(nvml.nvmlDeviceGetName, handle))
            slices = self._slices(number, handle)
            return slices or [self._whole(number, handle, uuid, name, measures)]
        except LostError as error:
            return [Gpu(str(number), uuid, name, xids=self._xids_of(uuid), lost=str(error))]

    def _whole(self, number: int, handle: Any, uuid: str, name: str, measures: bool) -> Gpu:
        nvml, ask = self._nvml, self._ask
        busy = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        uncorrected = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        reasons = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return Gpu(
            str(number),
            uuid,
            name,
            None if busy is None else float(busy.gpu),
            None if memory is None else int(memory.used),
            None if memory is None else int(memory.total),
            _thousandths(ask(nvml.nvmlDeviceGetPowerUsage, handle)),
            _thousandths(ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
            throttles(reasons or 0),
            *self._traffic(uuid or str(number), handle, measures),
            ask(nvml.nvmlDeviceGetTotalEccErrors, handle, *uncorrected),
            self._xids_of(uuid),
        )

    def _xids_of(self, uuid: str) -> List[int]:
        return self._xids.get(uuid, [])[-MOST_XIDS:]

    def _slices(self, number: int, handle: Any) -> List[Gpu]:
        nvml = self._nvml
        mode = self._ask(nvml.nvmlDeviceGetMigMode, handle)
        if mode is None or not mode[0]:
            return []
        found = []
        for place in range(self._ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            mine = self._ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
            if mine is None:
                continue
            memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, mine)
            found.append(
                Gpu(
                    f"{number}:{place}",
                    _text(self._ask(nvml.nvmlDeviceGetUUID, mine)),
                    _text(self._ask(nvml.nvmlDeviceGetName, mine)),
                    memory_bytes=None if memory is None else int(memory.used),
                    memory_total_bytes=None if memory is None else int(memory.total),
                )
            )
        return found

    def _traffic(
        self, key: str, handle: Any, measures: bool
    ) -> Tuple[Optional[float], Optional[float]]:
        """Bytes a second by NVLink, and by PCIe."""
        nvml, now = self._nvml, time.monotonic()
        wanted = [(NVLINK_TX, EVERY_LINK), (NVLINK_RX, EVERY_LINK), (PCIE_TX, 0), (PCIE_RX, 0)]
        values = self._ask(nvml.nvmlDeviceGetFieldValues, handle, wanted) or ()
        counts: List[Any] = [
            value.value.ullVal if value.nvmlReturn == 0 and value.valueType == WIDE else None
            for value in values
        ] or [None] * len(wanted)
        nvlink = pcie = None
        if None not in counts[:2]:
            nvlink = self._rates.see(f"nvlink {key}", sum(counts[:2]) * 1024, now)
        if None not in counts[2:]:
            pcie = self._rates.see(f"pcie {key}", sum(counts[2:]), now)
        elif measures:
            directions = (nvml.NVML_PCIE_UTIL_TX_BYTES, nvml.NVML_PCIE_UTIL_RX_BYTES)
            ask = nvml.nvmlDeviceGetPcieThroughput
            kilobytes: List[Any] = [self._ask(ask, handle, each) for each in directions]
            if None not in kilobytes:
                pcie = sum(kilobytes) * 1000.0
        return nvlink, pcie


class LostError(Exception):
    """The GPU does not answer any more."""


def _text(answer: Any) -> str:
    """NVML's texts, which older bindings give as bytes."""
    return answer.decode() if isinstance(answer, bytes) else str(answer or "")


def _thousandths(answer: Any) -> Optional[float]:
    return None if answer is None else answer / 1000


class Smi:
    """NVIDIA's GPUs, by the program, which lists no NVLink or PCIe traffic and no XID errors."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._gpus: Dict[str, Gpu] = {}
        self._last_words = ""
        self._first = threading.Event()
        self._start(SMI_REASONS[0])

    def _start(self, reasons: str) -> None:
        fields = ",".join([*SMI_FIELDS, reasons])
        words = [f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        self._process = subprocess.Popen(
            [self._program, *words, f"--loop-ms={SMI_S * 1000:.0f}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        arguments = (self._process, reasons)
        self._reader = threading.Thread(target=self._read, args=arguments, daemon=True)
        self._reader.start()

    def _read(self, process: "subprocess.Popen[str]", reasons: str) -> None:
        assert process.stdout is not None
        is_older = False
        with process.stdout:
            for line in process.stdout:
                gpu = smi_line(line)
                if gpu is not None:
                    self._gpus[gpu.id] = gpu
                    self._first.set()
                elif line.strip():
                    is_older = "not a valid field" in line and reasons != SMI_REASONS[-1]
                    self._last_words = line.strip()
        process.wait()
        if is_older:
            self._start(SMI_REASONS[-1])
        else:
            self._first.set()

    def look(self) -> List[Gpu]:
        self._first.wait(SMI_STARTS_S)
        ended = self._process.poll() is not None
        if ended:
            self._reader.join(1)
        gpus = [gpu for _, gpu in sorted(self._gpus.items(), key=lambda item: int(item[0]))]
        if not ended:
            return gpus
        why = self._last_words or f"nvidia-smi ended with code {self._process.returncode}"
        return [gpu._replace(lost=why) for gpu in gpus or [Gpu("0")]]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(1)


def smi_line(line: str) -> Optional[Gpu]:
    """A GPU, from a line of nvidia-smi; None for another line."""
    cells = [cell.strip() for cell in next(csv.reader([line]), [])]
    if len(cells) != len(SMI_FIELDS) + 1 or not cells[0].isdigit():
        return None

    def number(cell: str) -> Optional[float]:
        return float(cell) if re.fullmatch(r"\d+(\.\d+)?", cell) else None

    values = [number(cell) for cell in cells[3:12]]
    used, total, ecc = values[1], values[2], values[8]
    lost = next((cell.strip("[]") for cell in cells[1:] if "lost" in cell.lower()), "")
    bits = re.fullmatch(r"0x[0-9a-fA-F]+", cells[12])
    return Gpu(
        cells[0],
        cells[1],
        cells[2],
        values[0],
        None if used is None else int(used * MIB),
        None if total is None else int(total * MIB),
        values[3],
        values[4],
        values[5],
        values[6],
        values[7],
        throttles(int(cells[12], 16)) if bits else [],
        ecc_errors=None if ecc is None else int(ecc),
        lost=lost,
    )


class Amd:
    """AMD's GPUs, by sysfs: those whose render device this pod has."""

    def __init__(self, root: str = "/") -> None:
        cards = glob.glob(os.path.join(root, "sys/class/drm/card*/device/gpu_busy_percent"))
        found = (os.path.dirname(card) for card in cards)
        self._cards = sorted(card for card in found if _is_ours(card, root))

    def __len__(self) -> int:
        return len(self._cards)

    def look(self) -> List[Gpu]:
        return [self._gpu(str(number), card) for number, card in enumerate(self._cards)]

    def close(self) -> None:
        pass

    def _gpu(self, number: str, card: str) -> Gpu:
        def read(path: str, unit: float = 1) -> Optional[float]:
            for file in sorted(glob.glob(os.path.join(card, path))):
                with contextlib.suppress(OSError, ValueError), open(file) as opened:
                    return int(opened.read()) / unit
            return None

        busy = read("gpu_busy_percent")
        if busy is None and not os.path.isdir(card):
            return Gpu(number, lost="its device is gone")
        used, total = read("mem_info_vram_used"), read("mem_info_vram_total")
        power = read("hwmon/hwmon*/power1_average", 1e6)
        return Gpu(
            number,
            name="AMD",
            utilization=busy,
            memory_bytes=None if used is None else int(used),
            memory_total_bytes=None if total is None else int(total),
            power_w=read("hwmon/hwmon*/power1_input", 1e6) if power is None else power,
            power_limit_w=read("hwmon/hwmon*/power1_cap", 1e6),
            temperature_c=read("hwmon/hwmon*/temp1_input", 1e3),
            clock_mhz=read("hwmon/hwmon*/freq1_input", 1e6),
        )


def _is_ours(card: str, root: str) -> bool:
    renders = [os.path.basename(path) for path in glob.glob(os.path.join(card, "drm/renderD*"))]
    return any(os.path.exists(os.path.join(root, "dev/dri", render)) for render in renders)


class NoDevices:
    """No GPU that can be read."""

    def look(self) -> List[Gpu]:
        return []

    def close(self) -> None:
        pass


def open_devices(root: str = "/") -> Tuple[Any, str]:
    """What tells of the GPUs here, and a note on what is missing for it; empty if nothing is."""
    amd = Amd(root)
    if len(amd):
        return amd, ""
    if not glob.glob(os.path.join(root, "dev/nvidia[0-9]*")):
        return NoDevices(), ""
    try:
        import pynvml
    except ImportError:
        why = "nvidia-ml-py is not in the image"
    else:
        try:
            return Nvml(pynvml), ""
        except pynvml.NVMLError as error:
            why = f"NVML: {error}"
    program = shutil.which("nvidia-smi")
    if program is None:
        missing = "and nvidia-smi is not there, which NVIDIA_DRIVER_CAPABILITIES=utility brings"
        return NoDevices(), f"GPUs cannot be read: {why}, {missing}"
    return Smi(program), f"{why}: by nvidia-smi, without NVLink, PCIe and XID errors"
