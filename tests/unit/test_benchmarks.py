"""The pure parts of benchmarks/allreduce.py: what it applies, reads, pairs and sums up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from kij_train.payloads import allreduce

from benchmarks import allreduce as benchmark

PAIR = "kij-train in pods / torchrun in pods"


def test_the_plain_job_runs_the_payload_with_the_same_arguments() -> None:
    service, job = yaml.safe_load_all(benchmark.plain_manifest("plain-1", "image:1"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert service["metadata"]["name"] == pod["subdomain"] == "plain-1"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == benchmark.PODS
    assert "--master-addr=plain-1-0.plain-1" in container["command"]
    assert "--node-rank=$(JOB_COMPLETION_INDEX)" in container["command"]
    args = allreduce.parse_args(container["args"])
    assert (args.minbytes, args.maxbytes, args.output_file) == (2**20, 2**26, "-")


def test_the_report_is_found_among_the_lines_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    row = allreduce.make_row(allreduce.parse_args([]), 2**20, 2**18, [1e-3, 1e-3], 0)
    allreduce.write_json({"results": [row]}, "-")
    log = f"# a table\n{capsys.readouterr().out}# its end\n"
    assert benchmark.figures_of_log(log) == {2**20: pytest.approx(2**20 / 1e-3 / 1e9)}


def test_launches_take_turns_and_change_who_is_first() -> None:
    order = []

    def launch(who: str, busbw: float) -> benchmark.Figures:
        order.append(who)
        return {1: busbw, 2: 2 * busbw}

    sides = benchmark.in_turn(3, "x", lambda: launch("a", 1.0), lambda: launch("b", 4.0))
    assert "".join(order) == "baabba"
    assert sides == [{1: [1.0] * 3, 2: [2.0] * 3}, {1: [4.0] * 3, 2: [8.0] * 3}]


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
