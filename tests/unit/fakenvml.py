"""A stand-in for the library pynvml (nvidia-ml-py): the functions that devices.py calls, no driver.

`test_devices.py` checks that the library itself has every name that is used of this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_TIMEOUT, NVML_ERROR_GPU_IS_LOST = 3, 10, 15
NVML_ERROR_DRIVER_NOT_LOADED = 9
TEXTS = {3: "Not Supported", 9: "Driver Not Loaded", 10: "Timeout", 15: "GPU is lost"}


class NVMLError(Exception):
    """Of a function, with its number."""

    def __init__(self, value: int) -> None:
        super().__init__(TEXTS[value])
        self.value = value


@dataclass
class Card:
    """One GPU of the machine; what is None is not supported."""

    busy: int | None = 97
    used: int = 70 << 30
    power_mw: int | None = 650_000
    temperature: int = 61
    clock: int = 1755
    reasons: int = 0
    ecc: int | None = 0
    nvlink_kib: int | None = None
    pcie_bytes: int | None = None
    slices: int = 0
    lost: bool = False


@dataclass
class FakeNvml:
    """The module, with the cards of a machine."""

    cards: list[Card] = field(default_factory=list)
    driver: bool = True
    events: list[tuple[int, int]] = field(default_factory=list)
    """Card and XID, to be told."""
    pcie_asked: list[int] = field(default_factory=list)
    NVMLError: type[NVMLError] = NVMLError
    NVML_ERROR_GPU_IS_LOST: int = NVML_ERROR_GPU_IS_LOST
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED: int = 1
    NVML_VOLATILE_ECC: int = 0
    NVML_TEMPERATURE_GPU: int = 0
    NVML_CLOCK_SM: int = 1
    NVML_PCIE_UTIL_TX_BYTES: int = 0
    NVML_PCIE_UTIL_RX_BYTES: int = 1
    nvmlEventTypeXidCriticalError: int = 8

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError(NVML_ERROR_DRIVER_NOT_LOADED)

    def nvmlShutdown(self) -> None:
        self.driver = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> Any:
        return number

    def _card(self, handle: Any) -> Card:
        card = self.cards[handle[0] if isinstance(handle, tuple) else handle]
        if card.lost:
            raise NVMLError(NVML_ERROR_GPU_IS_LOST)
        return card

    def _or_not(self, value: Any) -> Any:
        if value is None:
            raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
        return value

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        if isinstance(handle, tuple):
            return f"MIG-{handle[0]}-{handle[1]}"
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: Any) -> bytes:
        return b"NVIDIA H100 MIG 1g.10gb" if isinstance(handle, tuple) else b"NVIDIA H100"

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=self._or_not(self._card(handle).busy), memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(used=self._card(handle).used, total=80 << 30, free=0)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return int(self._or_not(self._card(handle).power_mw))

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        self._card(handle)
        return 700_000

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        return self._card(handle).temperature

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int) -> int:
        return self._card(handle).clock

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, kind: int) -> int:
        self._card(handle)
        return 1980

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        return self._card(handle).reasons

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:
        return int(self._or_not(self._card(handle).ecc))

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        slices = self._card(handle).slices
        return [int(slices > 0)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, place: int) -> Any:
        if place >= self._card(handle).slices:
            raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
        return handle, place

    def nvmlDeviceGetFieldValues(self, handle: Any, fields: list[tuple[int, int]]) -> list[Any]:
        card = self._card(handle)
        counts = {138: card.nvlink_kib, 139: card.nvlink_kib}
        counts |= {197: card.pcie_bytes, 198: card.pcie_bytes}
        return [
            SimpleNamespace(
                nvmlReturn=0 if counts[number] is not None else NVML_ERROR_NOT_SUPPORTED,
                valueType=3,
                value=SimpleNamespace(ullVal=counts[number] or 0),
            )
            for number, _ in fields
        ]

    def nvmlDeviceGetPcieThroughput(self, handle: Any, direction: int) -> int:
        self.pcie_asked.append(handle)
        return 2_000_000  # kilobytes

    def nvmlEventSetCreate(self) -> Any:
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: Any) -> None:
        self._card(handle)

    def nvmlEventSetWait(self, events: Any, timeout_ms: int) -> Any:
        if not self.events:
            raise NVMLError(NVML_ERROR_TIMEOUT)
        card, xid = self.events.pop(0)
        return SimpleNamespace(device=card, eventData=xid)
