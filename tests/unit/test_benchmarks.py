"""The pure parts of benchmarks/allreduce.py: what it applies, reads, pairs and sums up."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from benchmarks import allreduce as benchmark
from benchmarks import turns

PAIR = "kij-train in pods / torchrun in pods"


def test_the_plain_job_takes_the_turns_of_the_other_side(tmp_path: Path) -> None:
    service, job = benchmark.plain_objects("plain", "image:1", tmp_path, 9)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert service["metadata"]["name"] == pod["subdomain"] == "plain"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == benchmark.PODS
    assert "--master-addr=plain-0.plain" in container["command"]
    assert "--node-rank=$(JOB_COMPLETION_INDEX)" in container["command"]
    assert container["command"][-4:] == ["/code/turns.py", "/shared", "1", "9"]


def test_turns_change_who_is_first() -> None:
    assert (turns.turns_of(0, 4), turns.turns_of(1, 4)) == ([0, 3, 4, 7], [1, 2, 5, 6])


def test_two_jobs_begin_when_both_are_there_and_end_with_the_last_turn(tmp_path: Path) -> None:
    def job(side: int) -> None:
        (tmp_path / f"ready-{side}").touch()
        for turn in turns.turns_of(side, 2):
            turns.await_turn(tmp_path, turn)
            with (tmp_path / f"side-{side}").open("a") as file:
                print(json.dumps({8: turn}), file=file)
            turns.pass_on(tmp_path, turn + 1)

    jobs = [threading.Thread(target=job, args=(side,)) for side in (0, 1)]
    for each in jobs:
        each.start()
    assert benchmark.in_turn(tmp_path, 2, lambda: True) == [{8: [0, 3]}, {8: [1, 2]}]
    for each in jobs:
        each.join()


def test_a_job_that_fails_ends_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "log-1").write_text("no torch here")
    with pytest.raises(AssertionError, match="no torch here"):
        benchmark.in_turn(tmp_path, 2, lambda: False)


def test_the_ratio_is_the_median_of_the_geometric_means_of_the_rounds() -> None:
    ours = {1: [1.0, 1.0, 1.0], 2: [4.0, 1.0, 9.0]}
    other = {1: [1.0, 1.0, 1.0], 2: [1.0, 1.0, 1.0]}
    result = benchmark.compare(PAIR, [ours, other])
    assert result["ratio"] == pytest.approx(2.0)
    assert result["by_size"]["2"]["ratio"] == 4.0
    low, high = result["interval_95"]
    assert 1.0 <= low <= 2.0 <= high <= 3.0 + 1e-9
    assert result["by_size"]["1"]["interval_95"] == [1.0, 1.0]
    json.dumps(result)


def test_the_plot_is_a_png_and_an_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sides = {2**20: [1.0, 2.0], 2**22: [2.0, 3.0]}
    files = benchmark.plot([benchmark.compare(PAIR, [sides, sides])], tmp_path / "out.json")
    assert [file.name for file in files] == ["out.png", "out.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
