"""Places that labels of machines name, such as racks and NVLink domains, and what fits one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from kij_train.diagnosis.jobview import Object
from kij_train.units import quantity_value

TOPOGRAPH = ("network.topology.nvidia.com/", "fabric.topograph.run/", "accelerator.topograph.run/")
"""Begin the labels that NVIDIA's Topograph gives to machines: one a level of switches."""
MOST_SIZES = 4
"""Numbers of machines that are listed of a level."""


@dataclass(frozen=True)
class Level:
    """A label of machines whose values are places."""

    label: str
    machines: tuple[int, ...]
    """Of each place, the largest first."""
    room: tuple[int, ...]
    """How many pods of the job each place takes while it is empty, the largest first; none where
    nothing is known of what they ask for."""
    without: int
    """Machines that have no such label."""


@dataclass(frozen=True)
class Said:
    """What there is to say of the levels."""

    detail: str
    hint: str | None = None
    """What to do, where the job cannot be placed as it asks for."""


def levels(
    machines: Sequence[Object], labels: Collection[str], requests: Mapping[str, Decimal]
) -> list[Level]:
    """The labels, and those of Topograph, that a machine has; the one with the most places first.

    Machines count that are ready, not cordoned, and have some of what a pod asks for.
    """
    usable = [machine for machine in machines if _is_usable(machine, requests)]
    there = {label for machine in usable for label in _labels(machine)}
    found = []
    for label in there & set(labels) | {one for one in there if one.startswith(TOPOGRAPH)}:
        count: Counter[str] = Counter()
        room: Counter[str] = Counter()
        for machine in usable:
            place = _labels(machine).get(label)
            if place is not None:
                count[place] += 1
                room[place] += _room(machine, requests)
        rooms = _sorted(room.values()) if requests else ()
        found.append(Level(label, _sorted(count.values()), rooms, len(usable) - count.total()))
    return sorted(found, key=lambda level: (-len(level.machines), level.label))


def _sorted(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(numbers, reverse=True))


def _labels(machine: Object) -> Mapping[str, str]:
    return machine["metadata"].get("labels") or {}


def _allocatable(machine: Object, resource: str) -> Decimal:
    there = machine.get("status", {}).get("allocatable") or {}
    return quantity_value(str(there.get(resource, "0")))


def _is_usable(machine: Object, requests: Mapping[str, Decimal]) -> bool:
    conditions = machine.get("status", {}).get("conditions") or ()
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    cordoned = machine.get("spec", {}).get("unschedulable", False)
    return ready and not cordoned and all(_allocatable(machine, one) for one in requests)


def _room(machine: Object, requests: Mapping[str, Decimal]) -> int:
    """How many pods it takes while it is empty."""
    return min(
        (int(_allocatable(machine, one) / asked) for one, asked in requests.items()), default=0
    )


def text(
    found: Sequence[Level], short: Mapping[str, str], pods: int, asked: str, *, required: bool
) -> Said:
    """The levels, which of them have a place for all pods, and whether the one asked for does.

    `short` has names of labels; `asked` is the label of --topology, or empty.
    """

    def called(level: Level) -> str:
        return short.get(level.label, level.label)

    mine = next((level for level in found if level.label == asked), None)
    if asked and mine is None:
        then = "no pod can start" if required else "it changes nothing"
        detail = f"no machine has the label {asked}, which --topology asks for: {then}"
        others = ", ".join(map(called, found))
        return Said(detail, f"the machines have: {others}" if found else "leave --topology out")
    detail = "; ".join(f"{called(level)}: {_sizes(level)}" for level in found)
    if not found:
        detail = "machines have no label of a rack, a zone or an NVLink domain"
    if pods == 1 or not any(level.room for level in found):
        return Said(detail)
    fits = [level for level in found if level.room[0] >= pods]
    where = f"in one {' or '.join(map(called, fits))}" if fits else "in no single place"
    detail += f". {pods} nodes have room {where}"
    if mine is None or mine in fits:
        return Said(detail)
    detail += f"; the largest {called(mine)} has room for {mine.room[0]}"
    if not required:
        return Said(detail)
    instead = f"--topology {called(mine)}, which only prefers it"
    fewer = f", or --nodes {mine.room[0]}" if mine.room[0] else ""
    return Said(f"{detail}: the job can never start", instead + fewer)


def _sizes(level: Level) -> str:
    """How many places there are of how many machines."""
    each = sorted(Counter(level.machines).items(), reverse=True)
    said = ", ".join(
        f"{count} of {size} machine{'' if size == 1 else 's'}" for size, count in each[:MOST_SIZES]
    )
    more = f", {sum(count for _, count in each[MOST_SIZES:])} smaller" if each[MOST_SIZES:] else ""
    return said + more + (f"; {level.without} without" if level.without else "")
