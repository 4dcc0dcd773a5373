"""Numbers of the parts on a volume: what the last pod sends, and the figures that come of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kij_train.arrays import evaluation, gates
from kij_train.arrays.outcomes import Outcome, Standing, State, merged
from kij_train.pod import itemfigures, itemplan, itemrecords, results
from kij_train.pod.contract import Failure
from kij_train.pod.itemfigures import Folder
from kij_train.pod.itemplan import ItemPlan

IDS = [f"q{number}" for number in range(40)]


def plan_of(shards: int) -> ItemPlan:
    items = [(name, {"id": name}) for name in IDS]
    return itemplan.decode(itemplan.encode(items, indexes=shards, chunk=None, seed=0))


def write_parts(
    folder: Path, plan: ItemPlan, written: dict[str, list[dict[str, Any]]], attempt: int = 0
) -> None:
    folder.mkdir()
    for index in range(plan.indexes):
        keys = list(plan.keys(plan.positions(index)))
        run = itemrecords.Run(index, attempt, 1.5, 0, "machine-1")
        text = "".join(
            json.dumps({"id": key, **line}) + "\n" for key in keys for line in written[key]
        )
        records, _ = itemrecords.slice_records(keys, run, text.encode())
        lines = [itemrecords.dumps(record) + "\n" for record in records]
        (folder / results.part_name(index)).write_text("".join(lines), "utf-8")


def scores_of(plan: ItemPlan, parts: dict[int, bytes]) -> evaluation.Scored:
    outcomes: list[Outcome] = []
    for index in range(plan.indexes):
        positions = plan.positions(index)
        items = zip(positions, plan.keys(positions), strict=True)
        records = results.read_part(parts.get(index, b"")).records
        outcomes += merged(index, items, records, lambda _: Standing(State.MISSING))
    return evaluation.scores_of(outcomes)


def sent(folders: list[Folder], plan: ItemPlan, index: int = 0) -> dict[tuple[int, int], bytes]:
    """What a client makes of the lines that a pod prints."""
    printed: list[bytes] = []
    said = itemfigures.aggregate(folders, plan, index, printed.append)
    if said is None:
        return {}
    reader = results.LogReader()
    for line in printed:
        reader.feed(line.decode())
    found = itemfigures.parts(itemfigures.joined(reader.part().records, said), plan)
    return {(attempt, index): data for attempt, index, data in found}


VALUES = st.fixed_dictionaries(
    {
        "acc": st.booleans() | st.none(),
        "loss": st.floats(),
        "said": st.text(max_size=5),
    },
    optional={"at": st.integers(0, 9)},
)


@given(st.lists(st.lists(VALUES, max_size=3), min_size=len(IDS), max_size=len(IDS)))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_figures_are_the_same_by_either_way_from_1_3_and_7_shards(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[dict[str, Any]]]
) -> None:
    written = dict(zip(IDS, lines, strict=True))
    seen = []
    for shards in (1, 3, 7):
        plan = plan_of(shards)
        path = tmp_path_factory.mktemp("parts") / "attempt-0"
        write_parts(path, plan, written)
        whole = {i: (path / results.part_name(i)).read_bytes() for i in range(shards)}
        short = {
            i: data for (_, i), data in sent([Folder(0, str(path), range(shards))], plan).items()
        }
        assert short.keys() == whole.keys()
        assert b"said" not in b"".join(short.values())
        wanted = [gates.parse_gate("acc >= 0.5"), gates.parse_gate("loss <= 1")]
        for parts in (whole, short):
            scores, counts, _ = scores_of(plan, parts)
            judged = [gates.judge(gate, scores, None) for gate in wanted]
            tables = {
                m: (scores.nan(m), scores.without(m), scores.means(m)) for m in scores.metrics
            }
            seen.append(repr((counts, judged, tables)))
    assert len(set(seen)) == 1


def test_while_a_part_is_missing_nothing_is_sent(tmp_path: Path) -> None:
    plan, path = plan_of(3), tmp_path / "attempt-0"
    write_parts(path, plan, {name: [{"acc": 1}] for name in IDS})
    part = path / results.part_name(1)
    part.rename(path / f".{part.name}.tmp-0-pod-1")
    folders = [Folder(0, str(path), range(3))]
    assert sent(folders, plan) == {}
    (path / f".{part.name}.tmp-0-pod-1").rename(part)
    assert len(sent(folders, plan)) == 3


def test_a_rerun_sends_what_earlier_attempts_have_as_well(tmp_path: Path) -> None:
    plan, first, again = plan_of(3), tmp_path / "attempt-0", tmp_path / "attempt-1"
    for attempt, path in enumerate((first, again)):
        write_parts(path, plan, {name: [{"acc": 1}] for name in IDS}, attempt)
    (first / results.part_name(1)).unlink()
    for index in (0, 2):
        (again / results.part_name(index)).unlink()
    found = sent([Folder(0, str(first), range(3)), Folder(1, str(again), [1])], plan)
    assert set(found) == {(0, 0), (0, 2), (1, 1)}
    scored = scores_of(plan, {index: data for (_, index), data in found.items()})
    assert scored.counts == {State.DONE: len(IDS)}
    assert not scored.unsent


def test_figures_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    plan, path = plan_of(1), tmp_path / "attempt-0"
    write_parts(path, plan, {name: [{"acc": 1}] for name in IDS})
    printed: list[bytes] = []
    said = itemfigures.aggregate([Folder(0, str(path), [0])], plan, 0, printed.append)
    assert said is not None
    with pytest.raises(ValueError, match="not whole in the log"):
        itemfigures.joined([], said)
    with pytest.raises(ValueError, match="too many"):
        itemfigures.joined([], {"error": "too many"})
    with pytest.raises(ValueError, match="damaged"):
        list(itemfigures.parts(b"none", plan))


def test_of_a_damaged_part_the_sound_records_are_sent_and_the_others_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan, path = plan_of(1), tmp_path / "attempt-0"
    write_parts(path, plan, {name: [{"acc": 1}] for name in IDS})
    part = path / results.part_name(0)
    part.write_bytes(part.read_bytes()[:-20])
    found = sent([Folder(0, str(path), [0])], plan)
    scored = scores_of(plan, {index: data for (_, index), data in found.items()})
    assert scored.counts == {State.DONE: len(IDS) - 1, State.MISSING: 1}
    assert "line 40 of the part is no record" in capfd.readouterr().err


def test_a_volume_that_cannot_be_read_fails_the_index_in_a_line(tmp_path: Path) -> None:
    folders = [Folder(0, str(tmp_path / "gone"), [0])]
    with pytest.raises(Failure, match=r"cannot read the results in .*gone: No such file"):
        itemfigures.aggregate(folders, plan_of(1), 0, print)
