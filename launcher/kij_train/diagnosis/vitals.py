"""What `top` shows: the newest looks at the pods of a job, and what stands out in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kij_train import units
from kij_train.pod.devices import Gpu
from kij_train.pod.gang.history import SlowRank
from kij_train.pod.gang.jsontypes import MalformedError, from_json
from kij_train.pod.gang.pace import Beat, Clocks, Pace, Slow
from kij_train.pod.itemplan import compress_numbers
from kij_train.pod.vitals import Look, Rank

IDLE_PERCENT = 5.0
"""A GPU that computes less than this is idle."""
IDLE_S = 10.0
"""And for at least this long."""
FULL = 0.95
"""The share of its memory limit from which on a pod is named."""
HELD_BACK = 0.2
"""The share of the time from which on a CPU limit is named."""
MUTE_S = 15.0
"""A pod that has said nothing for so long is named."""
COLUMNS = ("rank", "cpu", "mem", "step", "steps/s", "late")
GPU_COLUMNS = ("gpu", "gpu%", "gpu mem", "power", "temp", "clock", "throttled", "nvlink", "pcie")


@dataclass
class Pod:
    """One pod, or one local node, that is looked at."""

    index: int
    name: str
    machine: str
    look: Look | None = None
    arrived: float = 0.0
    """When the newest look came."""
    since: float = 0.0
    """Since when it is looked at."""
    problem: str = ""
    """Why it cannot be looked at; empty while it can."""
    idle_since: dict[str, float] = field(default_factory=dict)
    """id of a GPU that is idle → since when."""

    @property
    def title(self) -> str:
        return f"index {self.index}" + (f" on {self.machine}" if self.machine else "")


class Board:
    """The pods that are looked at, and how their ranks go along. Times are the caller's clock."""

    def __init__(self) -> None:
        self.pods: dict[int, Pod] = {}
        self._pace = Pace()
        self._clocks = Clocks()
        self._beats: dict[int, Beat] = {}
        self._slow: list[Slow] = []

    def watch(self, index: int, name: str, machine: str, now: float) -> None:
        """A pod that is looked at from now on, in place of an earlier one of its index."""
        known = self.pods.get(index)
        if known is None or known.name != name:
            self.pods[index] = Pod(index, name, machine, since=now)
        else:
            known.problem = ""

    def keep(self, indexes: Collection[int]) -> None:
        """Forget the pods of other indexes."""
        self.pods = {index: pod for index, pod in self.pods.items() if index in indexes}

    def slow_indexes(self) -> set[int]:
        """Of ranks that the leader of the job calls slow."""
        return {one.node for one in self._told() if one.is_now}

    def take(self, index: int, look: Look, now: float) -> None:
        """Take in a look at a pod."""
        pod = self.pods[index]
        pod.look, pod.arrived, pod.problem = look, now, ""
        offset = self._clocks.here(pod.name, look.at, now)
        for rank in look.ranks:
            if rank.step is not None and rank.beat_age_s is not None:
                at = look.at + offset - rank.beat_age_s
                self._beats[rank.rank] = Beat(rank.rank, rank.step, at)
        idle = {gpu.id for gpu in look.gpus if gpu.utilization is not None and is_idle(gpu)}
        pod.idle_since = {gpu: pod.idle_since.get(gpu, now) for gpu in idle}

    def compare(self, now: float) -> None:
        """Compare the ranks, once all pods have answered, or should have."""
        here = {rank.rank for _, rank in self._ranks()}
        self._beats = {rank: beat for rank, beat in self._beats.items() if rank in here}
        self._slow = self._pace.look(self._beats.values(), now)

    def _ranks(self) -> Iterator[tuple[Pod, Rank]]:
        for _, pod in sorted(self.pods.items()):
            for rank in pod.look.ranks if pod.look is not None else ():
                yield pod, rank

    # --- what stands out

    def findings(self, now: float) -> list[str]:
        """What to look at: a line each, the slow ranks first."""
        found = [*self._slow_ranks(now)]
        for _, pod in sorted(self.pods.items()):
            found += self._of_pod(pod, now)
        return found

    def _slow_ranks(self, now: float) -> Iterator[str]:
        at = {rank.rank: pod for pod, rank in self._ranks()}
        told = {slow.rank: slow for slow in self._told()}
        for slow in sorted(self._slow, key=lambda one: (-one.behind, -one.late_s)):
            if slow.rank not in told and slow.rank in at:
                for_s = units.format_seconds(max(0.0, now - slow.since))
                pod = at[slow.rank]
                yield f"slow: rank {slow.rank} ({pod.title}): {slow.text()}, for {for_s}"
        yield from (f"slow: {one}" for one in told.values() if one.is_now)

    def _told(self) -> list[SlowRank]:
        """What the leader of a job that restarts knows, which hears all pods."""
        newest = max(
            (pod for pod in self.pods.values() if pod.look is not None and pod.look.slow),
            key=lambda pod: pod.arrived,
            default=None,
        )
        try:
            said = newest.look.slow if newest is not None and newest.look is not None else ()
            return [from_json(SlowRank, one, "slow") for one in said]
        except MalformedError:  # of another release
            return []

    def _of_pod(self, pod: Pod, now: float) -> Iterator[str]:
        look = pod.look
        if pod.problem:
            yield f"{pod.title}: {pod.problem}"
        elif now - max(pod.arrived, pod.since) > MUTE_S:
            silent_s = units.format_seconds(now - max(pod.arrived, pod.since))
            yield f"{pod.title}: nothing heard for {silent_s}"
        if look is None:
            return
        if look.note:
            yield f"{pod.title}: {look.note}"
        yield from _of_gpus(pod, look.gpus, now)
        used, limit = look.memory_bytes, look.memory_limit_bytes
        if used is not None and limit and used > FULL * limit:
            yield (
                f"{pod.title}: memory {units.format_bytes(used)} of {units.format_bytes(limit)}"
                ": near its limit, at which the kernel kills it"
            )
        if look.held_back is not None and look.held_back > HELD_BACK and look.cores_limit:
            share = 100 * look.held_back
            yield (
                f"{pod.title}: its CPU limit of {look.cores_limit:g} holds it back {share:.0f} % "
                "of the time"
            )

    # --- tables and JSON

    def columns(self) -> tuple[str, ...]:
        """Titles, with those of GPUs where a pod has any."""
        has_gpus = any(pod.look is not None and pod.look.gpus for pod in self.pods.values())
        return (*COLUMNS, *GPU_COLUMNS) if has_gpus else COLUMNS

    def rows(self) -> list[tuple[str, ...]]:
        """A row a rank; a row for a pod without ranks, and for a GPU that no rank has taken."""
        found: list[tuple[str, ...]] = []
        width = len(self.columns())
        late = {slow.rank: slow for slow in self._slow}
        for _, pod in sorted(self.pods.items()):
            if pod.look is None:
                found.append((f"{pod.index}/-", "", "", "", "", pod.problem or "…"))
                continue
            gpus = {gpu.id: gpu for gpu in pod.look.gpus}
            for rank in pod.look.ranks:
                gpu = gpus.pop(rank.gpu, None) if rank.gpu is not None else None
                mine = self._rank_cells(pod.index, rank, late.get(rank.rank))
                found.append((*mine, *_gpu_cells(gpu)))
            cells = (f"{pod.index}/-", _cores(pod.look.cores), _bytes(pod.look.memory_bytes))
            alone = (*cells, "", "", "")
            if not pod.look.ranks and not gpus:
                found.append(alone)
            for gpu in gpus.values():
                found.append((*alone, *_gpu_cells(gpu)))
        return [(*row, *[""] * width)[:width] for row in found]

    def _rank_cells(self, index: int, rank: Rank, slow: Slow | None) -> tuple[str, ...]:
        rate = self._pace.rate(rank.rank)
        late = "" if slow is None else f"{slow.late_s:.2g} s"
        if slow is not None and slow.behind > 1:
            late = f"{slow.behind} steps"
        return (
            f"{index}/{rank.rank}",
            _cores(rank.cores),
            _bytes(rank.memory_bytes),
            "" if rank.step is None else f"{rank.step}",
            "" if rate is None else f"{rate:.3g}",
            late,
        )

    def as_json(self, now: float) -> dict[str, Any]:
        """The newest look at every pod, for scripts; what is not known is null."""
        late = {slow.rank: slow for slow in self._slow}
        return {
            "pods": [self._pod_as_json(pod, late) for _, pod in sorted(self.pods.items())],
            "findings": self.findings(now),
        }

    def _pod_as_json(self, pod: Pod, late: Mapping[int, Slow]) -> dict[str, Any]:
        look = pod.look
        said: dict[str, Any] = {
            "index": pod.index,
            "pod": pod.name,
            "node": pod.machine or None,
            "problem": pod.problem or None,
        }
        if look is None:
            return {**said, "ranks": [], "gpus": []}
        return {
            **said,
            "cores": look.cores,
            "coresLimit": look.cores_limit,
            "heldBack": look.held_back,
            "memoryBytes": look.memory_bytes,
            "memoryLimitBytes": look.memory_limit_bytes,
            "note": look.note or None,
            "costOfLooking": round(look.cost, 5),
            "ranks": [self._rank_as_json(rank, late.get(rank.rank)) for rank in look.ranks],
            "gpus": [_gpu_as_json(gpu) for gpu in look.gpus],
        }

    def _rank_as_json(self, rank: Rank, slow: Slow | None) -> dict[str, Any]:
        return {
            "rank": rank.rank,
            "cores": rank.cores,
            "memoryBytes": rank.memory_bytes,
            "gpu": rank.gpu,
            "step": rank.step,
            "stepsPerSecond": self._pace.rate(rank.rank),
            "lateSeconds": None if slow is None else slow.late_s,
            "stepsBehind": None if slow is None else slow.behind,
        }


def is_idle(gpu: Gpu) -> bool:
    """Whether it computes nothing now, as far as its driver says."""
    return not gpu.lost and gpu.utilization is not None and gpu.utilization < IDLE_PERCENT


def _of_gpus(pod: Pod, gpus: Sequence[Gpu], now: float) -> Iterator[str]:
    """What is wrong with GPUs of a pod: those with the same in one line."""
    same: dict[str, list[Gpu]] = defaultdict(list)
    for gpu in gpus:
        for said in _of_gpu(gpu):
            same[said].append(gpu)
    for said, those in same.items():
        yield f"{pod.title}: {_named(those)} {said}"
    idle = [gpu for gpu in gpus if now - pod.idle_since.get(gpu.id, now) >= IDLE_S]
    if idle:
        busy = max(gpu.utilization or 0 for gpu in idle)
        since = units.format_seconds(min(now - pod.idle_since[gpu.id] for gpu in idle))
        yield f"idle: {_named(idle)} of {pod.title}: {busy:.0f} % for {since}"


def _named(gpus: Sequence[Gpu]) -> str:
    if len(gpus) == 1:
        return f"GPU {gpus[0].id}"
    ids = [gpu.id for gpu in gpus]
    if all(one.isdigit() for one in ids):
        return f"each of GPUs {compress_numbers(sorted(map(int, ids)))}"
    return f"each of GPUs {', '.join(ids)}"


def _of_gpu(gpu: Gpu) -> Iterator[str]:
    if gpu.lost:
        yield f"does not answer: {gpu.lost}"
    if gpu.throttled:
        yield f"is slowed down: {', '.join(gpu.throttled)}"
    if gpu.ecc_errors:
        yield f"has {gpu.ecc_errors} uncorrected ECC errors"
    if gpu.xids:
        yield f"has reported XID {', '.join(map(str, gpu.xids))}"


def _gpu_as_json(gpu: Gpu) -> dict[str, Any]:
    return {
        "id": gpu.id,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "utilization": gpu.utilization,
        "memoryBytes": gpu.memory_bytes,
        "memoryTotalBytes": gpu.memory_total_bytes,
        "powerWatts": gpu.power_w,
        "powerLimitWatts": gpu.power_limit_w,
        "temperatureCelsius": gpu.temperature_c,
        "clockMegahertz": gpu.clock_mhz,
        "clockMaxMegahertz": gpu.clock_max_mhz,
        "throttled": list(gpu.throttled),
        "nvlinkBytesPerSecond": gpu.nvlink_bytes_s,
        "pcieBytesPerSecond": gpu.pcie_bytes_s,
        "eccErrors": gpu.ecc_errors,
        "xids": list(gpu.xids),
        "lost": gpu.lost or None,
    }


def _gpu_cells(gpu: Gpu | None) -> tuple[str, ...]:
    if gpu is None:
        return ()
    if gpu.lost:
        return (gpu.id, "lost")
    memory = _bytes(gpu.memory_bytes)
    if gpu.memory_total_bytes:
        memory += f"/{_bytes(gpu.memory_total_bytes)}"
    return (
        gpu.id,
        _number(gpu.utilization, "%"),
        memory,
        _number(gpu.power_w, " W"),
        _number(gpu.temperature_c, " °C"),
        _number(gpu.clock_mhz, " MHz"),
        ", ".join([*gpu.throttled, *_errors(gpu)]),
        _speed(gpu.nvlink_bytes_s),
        _speed(gpu.pcie_bytes_s),
    )


def _errors(gpu: Gpu) -> Sequence[str]:
    ecc = [f"ECC {gpu.ecc_errors}"] if gpu.ecc_errors else []
    return [*ecc, *(f"XID {xid}" for xid in gpu.xids[-1:])]


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f}{unit}"


def _cores(value: float | None) -> str:
    """As `top` has it: 100% is one core."""
    return "-" if value is None else f"{100 * value:.0f}%"


def _bytes(value: int | None) -> str:
    return "-" if value is None else units.format_bytes(value)


def _speed(bytes_s: float | None) -> str:
    return "-" if bytes_s is None else f"{bytes_s / 1e9:.1f} GB/s"
