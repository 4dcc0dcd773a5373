"""The views of a job: a row a phase, however many nodes, within 80 columns."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
from kij_train.cli.view import LiveView, PlainView, table
from kij_train.diagnosis import Node, Phase
from rich.console import Console

if TYPE_CHECKING:
    from kij_train.cluster import Observation

LONG = "a-job-with-a-name-that-takes-all-of-the-room-there-is-x3k9z"


@dataclass
class Observed:
    """As much of an Observation as the views read."""

    nodes: list[Node]
    asked: int = 0

    def __getattribute__(self, name: str) -> object:
        if name == "nodes":
            self.asked += 1
        return super().__getattribute__(name)


def some_nodes(count: int) -> list[Node]:
    """Nodes of every phase, two of them in trouble."""
    began = time.time() - 90
    nodes = [
        Node(i, list(Phase)[i % 5], f"{LONG}-{i}-abcde", f"gpu-node-{i}.example.internal", began)
        for i in range(count - 2)
    ]
    trouble = [
        Node(count - 2, Phase.PULLING, "p", "n", began, "ImagePullBackOff"),
        Node(count - 1, Phase.FAILED, "p", "n", began, "OOMKilled", 137),
    ]
    return nodes + trouble


@pytest.mark.parametrize("count", [8, 5000])
def test_the_table_has_a_row_a_phase_and_fits_80_columns(count: int) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(table(LONG, some_nodes(count), 3700, width=80))
    drawn = cast(io.StringIO, console.file).getvalue()
    lines = drawn.splitlines()
    assert len(lines) == 1 + len({node.phase for node in some_nodes(count)})
    assert max(map(len, lines)) <= 80
    assert f"{count} nodes" in drawn
    assert f"index {count - 2} ImagePullBackOff" in drawn
    assert f"index {count - 1} OOMKilled" in drawn


def test_the_table_tells_what_a_node_does_before_its_ranks_start() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    nodes = [Node(0, Phase.RUNNING), Node(1, Phase.RUNNING)]
    console.print(table("job", nodes, 3, width=80, steps={0: "installing", 1: ""}))
    drawn = cast(io.StringIO, console.file).getvalue()
    assert "index 0 installing" in drawn and "index 1" not in drawn


def test_the_live_view_does_not_go_over_all_nodes_at_every_event() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    observed = Observed(some_nodes(5000))
    observed.asked = 0
    with LiveView("job", console) as view:
        for _ in range(200):
            view.change(cast("Observation", observed))
    assert 1 <= observed.asked <= 3
    assert "5000 nodes" in cast(io.StringIO, console.file).getvalue()


def test_the_plain_view_prints_a_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView("job")
    observed = cast("Observation", Observed([Node(0, Phase.RUNNING), Node(1, Phase.PENDING)]))
    for _ in range(3):
        view._at = 0.0
        view.change(observed)
    assert capsys.readouterr().err == "job  2 nodes: pending 1, running 1\n"


def test_the_plain_view_does_not_repeat_a_line_for_another_word_of_the_same_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = PlainView("job")
    for reason in ("ErrImagePull", "ImagePullBackOff", "ErrImagePull"):
        view._at = 0.0
        view.change(cast("Observation", Observed([Node(0, Phase.PULLING, reason=reason)])))
    assert capsys.readouterr().err == "job  1 node: pulling 1 · index 0 ErrImagePull\n"
