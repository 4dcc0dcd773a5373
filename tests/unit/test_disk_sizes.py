"""Room on the disk: what pods ask for, and what cannot fit, before a launch and before a fetch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kij_train.diagnosis.jobview import JobView
from kij_train.diagnosis.unschedulable import unschedulable
from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.spread.origin import Fetch
from kij_train.pod.spread.origins import fetch_all
from kij_train.runs.sizes import without_room
from kij_train.spec import JobSpec
from pydantic import ValidationError

from tests.origin import Origin, running
from tests.unit.test_caches import job
from tests.unit.test_fetches import environment

DATA = b"x" * 3_000_000


def test_pods_ask_for_room_and_have_no_more() -> None:
    container = job(disk="80Gi", memory="1Gi")["spec"]["template"]["spec"]["containers"][0]
    for kind in ("requests", "limits"):
        assert container["resources"][kind] == {"ephemeral-storage": "80Gi", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"disk": "80 GB"}, "is no Kubernetes quantity"),
        ({"disk": "0"}, "must be more than zero"),
        ({"resources": {"ephemeral-storage": 1}}, "has its own flag: --disk"),
    ],
)
def test_a_size_that_is_none_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        JobSpec(script="a.py", **fields)


def test_a_pod_knows_what_it_may_write() -> None:
    fetch = ("https://h/m:/data", "https://h/n:/more")
    found = job(fetch=fetch, disk="2Gi", mounts=("emptydir:1Gi:/data", "emptydir:/other"))
    assert json.loads(environment(found)[contract.ENV_FETCH_LIMITS]) == [
        ["--mount emptydir:1Gi:/data", 2**30, ["/data"]],
        ["--disk 2Gi", 2**31, ["/data", "/more"]],
    ]
    assert contract.ENV_FETCH_LIMITS not in environment(job(fetch=fetch))
    assert contract.ENV_FETCH_LIMITS not in environment(job(disk="1Gi"))


@pytest.mark.parametrize(("most", "fits"), [(6_000_000, True), (5_999_999, False)])
def test_more_than_is_allowed_is_refused_before_anything_is_written(
    tmp_path: Path, most: int, fits: bool
) -> None:
    folders = [str(tmp_path / name) for name in ("a", "b")]
    with running(DATA) as origin:
        url = f"http://localhost:{origin.port}/m.bin"
        limits = [["--mount emptydir:4M:/a", 4_000_000, folders[:1]], ["--disk 6M", most, folders]]
        env = {
            contract.ENV_FETCH: json.dumps([Fetch(url, folder) for folder in folders]),
            contract.ENV_FETCH_LIMITS: json.dumps(limits),
        }
        if fits:
            fetch_all(env, lambda _: None)
            return
        with pytest.raises(Failure, match=r"more than the request allows: .*--disk 6M") as caught:
            fetch_all(env, lambda _: None)
    assert caught.value.exit_code == contract.EXIT_PREPARE
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def origin() -> Any:
    with running(DATA) as made:
        yield made


def warned(origin: Origin, **fields: Any) -> list[str]:
    fetch = tuple(f"http://localhost:{origin.port}/m.bin:/{to}" for to in ("data", "more"))
    spec = JobSpec(script="a.py", fetch=(*fetch, "pvc:w:/x:/more"), **fields)
    return [note.text for note in without_room(spec)]


def test_a_launch_warns_of_what_cannot_fit_where_it_knows_the_size(origin: Origin) -> None:
    assert warned(origin, disk="7M") == []
    assert origin.heads == 2
    (text,) = warned(origin, disk="5M")
    assert text.startswith("what --fetch brings takes 5.7 MiB, and --disk 5M allows 4.8 MiB")
    (text,) = warned(origin, mounts=("emptydir:2M:/data",))
    assert "--mount emptydir:2M:/data allows" in text
    assert origin.requests == []


def test_a_launch_without_limits_asks_nobody(origin: Origin) -> None:
    assert warned(origin) == [] and origin.heads == 0


def test_an_origin_that_only_pods_reach_is_no_matter() -> None:
    with running(DATA) as gone:
        url = f"http://localhost:{gone.port}/m.bin:/data"
    spec = JobSpec(script="a.py", disk="2M", fetch=(url,))
    assert list(without_room(spec)) == []


def test_folders_that_may_hold_more_than_the_pod_are_warned_of() -> None:
    mounts = ("emptydir:30Gi:/a", "emptydir:20Gi:/b", "emptydir:/c")
    (note,) = without_room(JobSpec(script="a.py", disk="40Gi", mounts=mounts))
    assert "may hold 50 GiB, and --disk 40Gi is less" in note.text
    assert note.hints == ("--disk 50Gi, and some more for the rest",)
    assert list(without_room(JobSpec(script="a.py", disk="60Gi", mounts=mounts))) == []


def test_machines_without_the_room_are_counted_with_the_flag() -> None:
    said = "0/2 nodes are available: 2 Insufficient ephemeral-storage."
    machines = [{"status": {"allocatable": {"ephemeral-storage": "107374182400"}}}] * 2
    found = unschedulable(said, JobView(job(disk="200Gi")), machines)
    assert "2 have too little ephemeral-storage free (asked 200Gi" in found.summary
    assert "the largest machine has 100 GiB" in found.summary
    assert found.hint == "ask for less a node: --disk"
