"""Which levels of --topology the labels of machines allow, and which of them hold a job."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from kij_train import commands
from kij_train.diagnosis import JobView, places
from kij_train.diagnosis.places import Level
from kij_train.diagnosis.unschedulable import unschedulable

NVLINK, RACK, ZONE = "nvidia.com/gpu.clique", "example.com/rack", "example.com/zone"
GPU = "nvidia.com/gpu"
SHORT = {NVLINK: "nvlink", RACK: "rack", ZONE: "zone"}


def machine(labels: Mapping[str, str], gpus: int = 4, **more: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": more.pop("ready", "True")}
    return {
        "metadata": {"name": "gpu", "labels": dict(labels)},
        "spec": more,
        "status": {"conditions": [ready], "allocatable": {"cpu": "96", GPU: str(gpus)}},
    }


def racks(*sizes: int) -> list[dict[str, Any]]:
    """Machines of one zone, in as many NVLink domains as there are sizes."""
    return [
        machine({NVLINK: f"uuid.{number}", ZONE: "a"})
        for number, size in enumerate(sizes)
        for _ in range(size)
    ]


def test_places_are_counted_and_so_is_the_room_for_pods() -> None:
    four = {GPU: Decimal(4)}
    nvlink, zone = places.levels(racks(18, 16), SHORT, four)
    assert nvlink == Level(NVLINK, (18, 16), (18, 16), 0)
    assert zone == Level(ZONE, (34,), (34,), 0)
    (halves, _) = places.levels(racks(18, 16), SHORT, {GPU: Decimal(2), "cpu": Decimal(30)})
    assert halves.room == (36, 32)
    assert places.levels(racks(2), SHORT, {})[0].room == ()


@pytest.mark.parametrize(
    "other",
    [
        machine({NVLINK: "uuid.0"}, unschedulable=True),
        machine({NVLINK: "uuid.0"}, ready="False"),
        machine({NVLINK: "uuid.0"}, gpus=0),
    ],
    ids=["cordoned", "not ready", "no GPU"],
)
def test_machines_that_take_no_pod_do_not_count(other: dict[str, Any]) -> None:
    found = places.levels([*racks(2), other], [NVLINK], {GPU: Decimal(1)})
    assert [level.machines for level in found] == [(2,)]


def test_machines_without_the_label_are_counted_and_levels_of_topograph_are_found() -> None:
    leaf = "network.topology.nvidia.com/leaf"
    machines = [*racks(2), machine({leaf: "s1"})]
    found = places.levels(machines, [NVLINK, RACK], {})
    assert {level.label: (level.machines, level.without) for level in found} == {
        NVLINK: ((2,), 1),
        leaf: ((1,), 2),
    }
    said = places.text(found, SHORT, 1, "", required=False).detail
    assert "nvlink: 1 of 2 machines; 1 without" in said
    assert f"{leaf}: 1 of 1 machine; 2 without" in said


def said(sizes: tuple[int, ...], pods: int, asked: str, *, required: bool) -> places.Said:
    found = places.levels(racks(*sizes), SHORT, {GPU: Decimal(4)})
    return places.text(found, SHORT, pods, asked, required=required)


def test_a_job_that_fits_is_told_where() -> None:
    answer = said((18, 18, 17), 18, NVLINK, required=True)
    assert answer == places.Said(
        "nvlink: 2 of 18 machines, 1 of 17 machines; zone: 1 of 53 machines. "
        "18 nodes have room in one nvlink or zone"
    )


def test_a_job_that_can_never_be_placed_as_it_asks_is_told_what_to_do() -> None:
    answer = said((18, 17), 20, NVLINK, required=True)
    assert answer.detail.endswith(
        "20 nodes have room in one zone; the largest nvlink has room for 18: "
        "the job can never start"
    )
    assert answer.hint == "--topology nvlink, which only prefers it, or --nodes 18"
    preferred = said((18, 17), 20, NVLINK, required=False)
    assert preferred.hint is None
    assert preferred.detail.endswith("the largest nvlink has room for 18")


@pytest.mark.parametrize(("required", "then"), [(True, "no pod can start"), (False, "nothing")])
def test_a_label_that_no_machine_has_is_named(required: bool, then: str) -> None:
    answer = said((2, 1), 2, RACK, required=required)
    assert answer.detail.startswith(f"no machine has the label {RACK}")
    assert then in answer.detail
    assert answer.hint == "the machines have: nvlink, zone"
    assert places.text([], SHORT, 2, RACK, required=required).hint == "leave --topology out"


def test_of_many_sizes_the_largest_are_listed() -> None:
    answer = said((9, 8, 7, 6, 5, 4), 1, "", required=False)
    assert "1 of 6 machines, 2 smaller" in answer.detail
    nothing = places.text([], SHORT, 8, "", required=False)
    assert nothing == places.Said("machines have no label of a rack, a zone or an NVLink domain")


def test_a_pod_that_finds_no_room_beside_the_others_is_told_where_to_look() -> None:
    said = "0/9 nodes are available: 9 node(s) didn't match pod affinity rules."
    found = unschedulable(said, JobView({"metadata": {"name": "a"}, "spec": {}}), ())
    assert found.summary == (
        "0 of 9 machines fit: 9 are not in the place of its other pods, or in none"
    )
    assert found.hint is not None
    assert commands.Address().fill(found.hint) == "which places there are: kij-train doctor"
