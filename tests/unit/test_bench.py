"""What is made of measurements: formulas, sizes, test data, fits, gates, comparisons."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import extras, runs
from kij_train.bench import documents, files, gates, plots, rows, scaling, sweep
from kij_train.bench.rows import ReportLines
from kij_train.cli import main
from kij_train.errors import InterruptedByUserError, JobFailedError, RefusedError, RequestError
from kij_train.pod.collectives import arguments, measuring, table
from kij_train.pod.collectives.report import number, row_text, write_json
from kij_train.pod.collectives.rows import make_row
from kij_train.spec import JobSpec


def report(
    *,
    ranks: int = 2,
    sizes: tuple[int, ...] = (1024, 65536, 2**20),
    slower: float = 1.0,
    **own: Any,
) -> dict[str, Any]:
    """What the payload reports for times of 100 us + 1 us per 1000 bytes."""
    args = arguments.parse_args([])
    rows = [
        make_row(args, size, size // 4, [(100e-6 + size * 1e-9) * slower] * ranks, 0)
        for size in sizes
    ]
    return {
        "kij": {"collective": "all_reduce", "ranks": ranks, "nodes": 1, **own},
        "results": rows,
        "average_bus_bandwidth": {"okay": "unchecked", "bandwidth": 1.0},
    }


def document(*runs: tuple[int, dict[str, Any]]) -> rows.Document:
    made = documents.new_document({"arguments": ["-b", "1K"]})
    for nodes, one in runs:
        documents.add_run(made, nodes, 1.0, one)
    return made


# --- the conventions of nccl-tests ----------------------------------------------------------------


FACTORS = [
    ("all_reduce", 8, 1.75),
    ("all_reduce", 1, 0),
    ("all_gather", 4, 0.75),
    ("reduce_scatter", 4, 0.75),
    ("alltoall", 2, 0.5),
    ("broadcast", 8, 1),
]


def test_every_collective_has_a_factor_to_compare_with() -> None:
    assert {collective for collective, _, _ in FACTORS} == set(table.COLLECTIVES)


@pytest.mark.parametrize(("collective", "ranks", "factor"), FACTORS)
def test_bus_bandwidth_has_the_factors_of_nccl_tests(
    collective: str, ranks: int, factor: float
) -> None:
    assert table.COLLECTIVES[collective].factor(ranks) == factor


@pytest.mark.parametrize(
    ("text", "size"),
    [("8", 8), ("1K", 1024), ("64k", 65536), ("8M", 2**23), ("1.5G", 3 * 2**29), ("1GiB", 2**30)],
)
def test_sizes_are_binary(text: str, size: int) -> None:
    assert arguments.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1X", "1 M", "1e6", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        arguments.parse_size(text)


def test_steps_are_by_factor_or_by_bytes() -> None:
    assert arguments.message_sizes(1024, 20000, 0, 4) == [1024, 4096, 16384]
    assert arguments.message_sizes(10, 35, 10, 0) == [10, 20, 30]
    assert arguments.message_sizes(8, 8, 0, 2) == [8]


@given(
    st.sampled_from(sorted(table.COLLECTIVES)),
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 100),
)
def test_no_buffer_is_larger_than_the_message(
    collective: str, size: int, element_bytes: int, ranks: int
) -> None:
    count, send, receive = table.elements(collective, size, element_bytes, ranks)
    assert max(send, receive) * element_bytes <= size
    assert max(send, receive) in (count, count * ranks)


def test_columns_are_where_parsers_of_nccl_tests_look() -> None:
    args = arguments.parse_args([])
    row = make_row(args, 8388608, 2097152, [0.001, 0.003], 0)
    fields = row_text(row).split()
    assert fields[:5] == ["8388608", "2097152", "float", "sum", "-1"]
    assert fields[5:9] == ["N/A"] * 4
    assert fields[9:] == ["2000.00", "4.19", "4.19", "0"]
    assert row["ranks"] == {"times_us": [1000.0, 3000.0], "slowest": 1, "spread": 1.0}
    assert len(row_text(row)) == 52 + 2 * 33


@given(st.floats(0, 1e12), st.sampled_from([6, 7]))
def test_a_figure_never_breaks_its_column(figure: float, width: int) -> None:
    text = number(figure, width)
    assert len(text) <= max(width, 7)
    assert math.isclose(float(text), figure, rel_tol=0.1, abs_tol=0.006)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-b 8M -e 1M", "-b 8388608 is more than -e 1048576"),
        ("-b 2 -d double", "less than one element of double"),
        ("-i 1K -f 2", "-i and -f conflict"),
        ("-f 1", "makes no step"),
        ("-n 0", "-n must be at least 1"),
        ("-b lots", "lots is no size"),
        ("-d float8", "invalid choice"),
        ("-o avg -d int8", "-o avg does not go with -d int8"),
        ("--backend nccl --device cpu", "needs GPUs"),
    ],
)
def test_wrong_flags_are_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments.parse_args(line.split())


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("op", table.REDOPS)
def test_test_data_tells_ranks_and_places_apart(op: str, ranks: int) -> None:
    values = [
        [measuring.value(op, rank, ranks, r) for r in range(measuring.PERIOD)]
        for rank in range(ranks)
    ]
    assert len({tuple(row) for row in values}) == ranks
    results = [measuring.reduced(op, ranks, r) for r in range(measuring.PERIOD)]
    assert max(results) <= 6 * ranks
    if op == "sum":
        assert results == [sum(column) for column in zip(*values, strict=True)]


# --- reports come back among the output -----------------------------------------------------------


def test_a_report_survives_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    sent = report(ranks=300, note="a | b\n  c é")
    write_json(sent, "-")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) < 16 * 1024
    picked = ReportLines()
    assert [line for line in ["# head", *lines, "tail"] if not picked.take(line)] == [
        "# head",
        "tail",
    ]
    assert picked.report() == sent


def test_a_report_with_a_hole_is_none() -> None:
    picked = ReportLines()
    assert picked.report() is None
    picked.take('#json 1/2 {"a":')
    assert picked.report() is None


# --- the model ------------------------------------------------------------------------------------


@given(
    st.floats(0.5, 1e4),
    st.floats(0.01, 500),
    st.lists(st.integers(3, 33), min_size=3, max_size=12, unique=True),
)
def test_the_fit_finds_latency_and_bandwidth_of_an_ideal_network(
    latency_us: float, bandwidth: float, powers: list[int]
) -> None:
    sizes = [2**power for power in powers]
    times = [latency_us + size / bandwidth / 1000 for size in sizes]
    model = scaling.fit(sizes, times, 1.0)
    assert model is not None
    assert model.residual < 1e-4
    for size, time in zip(sizes, times, strict=True):
        fitted = model.latency_us + size / model.bandwidth / 1000
        assert fitted == pytest.approx(time, rel=1e-3)


@given(st.lists(st.floats(0.1, 1e6), min_size=3, max_size=10))
def test_no_measurement_gives_a_negative_latency_or_bandwidth(times: list[float]) -> None:
    model = scaling.fit([2**n for n in range(len(times))], times, 1.5)
    assert model is not None
    assert model.latency_us >= 0
    assert model.bandwidth > 0


def test_two_sizes_are_no_fit() -> None:
    assert scaling.fit([1, 2, 2], [1.0, 2.0, 2.0], 1.0) is None


def test_efficiency_is_against_the_smallest_run_that_has_a_peer() -> None:
    lines = scaling.summarize(
        document((4, report(ranks=4, slower=2.0)), (1, report(ranks=1)), (2, report(ranks=2)))
    )
    assert [line.nodes for line in lines] == [1, 2, 4]
    assert [line.efficiency for line in lines] == [None, 1.0, pytest.approx(0.75)]
    assert lines[1].latency_us == pytest.approx(100)
    assert lines[1].bandwidth == pytest.approx(1.0)


def test_runs_are_compared_at_the_largest_size_they_share() -> None:
    lines = scaling.summarize(
        document((2, report(sizes=(8, 1024, 4096))), (4, report(ranks=4, sizes=(8, 1024))))
    )
    assert [line.size for line in lines] == [1024, 1024]


# --- gates ----------------------------------------------------------------------------------------


def test_a_gate_names_the_rows_that_are_under_it() -> None:
    made = document((2, report()), (4, report(ranks=4, slower=3.0)))
    assert gates.below(made, [(2**20, 0.6)]) == [
        "all_reduce float 4 nodes 4 ranks 1048576 B: busbw 0.456 GB/s is under 0.6 GB/s"
    ]
    assert gates.below(made, [(2**20, 0.4)]) == []


def test_wrong_results_fail_without_any_gate() -> None:
    bad = report()
    bad["results"][1]["in_place"]["nwrong"] = 7
    assert "7 elements are wrong" in gates.below(document((2, bad)), [])[0]


def test_a_gate_that_judges_no_row_is_a_problem() -> None:
    alone = document((1, report(ranks=1)))
    assert gates.below(alone, [(2**20, 0.1)]) == [
        "no row of 1M and several ranks to judge by its busbw"
    ]


def test_a_bandwidth_of_zero_can_be_compared_with() -> None:
    old = document((2, report(sizes=(1024,))))
    old["runs"][0]["report"]["results"][0]["in_place"]["alg_bw"] = 0
    (one,) = gates.compare(old, document((2, report(sizes=(1024,)))), 0.1)
    assert (one.ratio, one.change) == (math.inf, "better")
    (one,) = gates.compare(old, old, 0.1)
    assert (one.ratio, one.change) == (1.0, "same")


@pytest.mark.parametrize(
    ("new", "change"),
    [(110, "same"), (111, "better"), (260, "better"), (100, "same"), (90, "same"), (89, "worse")],
)
def test_a_row_is_better_worse_or_neither(new: float, change: str) -> None:
    old, newer = document((2, report(sizes=(1024,)))), document((2, report(sizes=(1024,))))
    for one, bandwidth in ((old, 100), (newer, new)):
        one["runs"][0]["report"]["results"][0]["in_place"]["alg_bw"] = bandwidth
    (row,) = gates.compare(old, newer, 0.1)
    assert row.change == change


@pytest.mark.parametrize("text", ["8M", "8M:", ":3", "8M:-1", "8M:nan", "x:1", "8M:inf", "0:1"])
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="SIZE:GBPS"):
        gates.parse_gate(text)


def test_a_comparison_finds_what_fell_and_what_is_missing() -> None:
    old, new = document((2, report())), document((2, report(slower=1.05)))
    assert not any(one.fell for one in gates.compare(old, new, 0.1))
    assert all(one.fell for one in gates.compare(old, new, 0.01))
    short = document((2, report(sizes=(1024,))))
    compared = gates.compare(old, short, 0.1)
    assert not any(one.fell for one in compared)
    assert [one.problem for one in compared] == [
        None,
        "all_reduce float 2 nodes 2 ranks 65536 B: missing from the new report",
        "all_reduce float 2 nodes 2 ranks 1048576 B: missing from the new report",
    ]
    with pytest.raises(RequestError, match="no row in common"):
        gates.compare(old, document((8, report(ranks=8))), 0.1)


# --- all jobs at once -----------------------------------------------------------------------------


class FakeJob:
    """A run that knows whether it is still there."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.name = nodes, f"job-n{nodes}"
        self.deleted = False

    def delete(self) -> None:
        self.deleted = True


class FakeBackend:
    """Starts jobs, and knows them by their nodes; 13 nodes are refused."""

    def __init__(self) -> None:
        self.made: dict[int, FakeJob] = {}

    def where(self, spec: JobSpec) -> str:
        return f"{spec.nodes} fake machines"

    def start(self, plan: runs.Plan) -> FakeJob:
        if plan.spec.nodes == 13:
            raise RefusedError("quota")
        self.made[plan.spec.nodes] = FakeJob(plan.spec.nodes)
        return self.made[plan.spec.nodes]


@pytest.fixture
def backend() -> Any:
    return FakeBackend()


def plan_for(nodes: int) -> runs.Plan:
    return runs.Plan(JobSpec(script="a.py", nodes=nodes), "job", Path(), None)


def at_once(
    backend: Any,
    counts: list[int],
    follow: Callable[[Any, Callable[[str], bool]], float],
    saved: Callable[[rows.Document], None] = lambda _: None,
) -> tuple[rows.Document, list[str], list[str]]:
    """The document, the errors and the output of a parallel sweep."""
    made, said = document(), list[str]()
    sinks = sweep.Sinks(said.append, lambda _: None, follow, saved)
    errors = sweep.sweep_at_once(made, counts, plan_for, backend=backend, sinks=sinks)
    return made, [str(error) for error in errors], said


def tell(job: Any, take: Callable[[str], bool]) -> None:
    """Print a table and a report."""
    take(f"# table of {job.nodes}")
    take(f"row of {job.nodes}")
    take(f"#json 1/1 {json.dumps(report(ranks=job.nodes))}")


def test_a_parallel_sweep_runs_all_its_jobs_at_the_same_time(backend: Any) -> None:
    meeting = threading.Barrier(3, timeout=20)

    def follow(job: Any, take: Callable[[str], bool]) -> float:
        meeting.wait()
        tell(job, take)
        return 1.0

    made, errors, said = at_once(backend, [1, 2, 4], follow)
    assert errors == []
    assert [run["nodes"] for run in made["runs"]] == [1, 2, 4]
    assert [line["nodes"] for line in made["summary"]] == [1, 2, 4]
    # Tables come whole, in whichever order jobs end.
    assert sorted(zip(said[::2], said[1::2], strict=True)) == [
        (f"# table of {nodes}", f"row of {nodes}") for nodes in (1, 2, 4)
    ]
    assert all(job.deleted for job in backend.made.values())


def test_jobs_that_fail_or_are_refused_leave_the_others_alone(backend: Any) -> None:
    def follow(job: Any, take: Callable[[str], bool]) -> float:
        if job.nodes == 2:
            raise JobFailedError("job-n2 failed")
        tell(job, take)
        return 1.0

    made, errors, _ = at_once(backend, [1, 2, 4, 13], follow)
    assert errors == ["job-n2 failed", "quota"]
    assert [run["nodes"] for run in made["runs"]] == [1, 4]
    # A failed job stays, for its logs.
    assert [job.nodes for job in backend.made.values() if not job.deleted] == [2]


def test_an_interruption_removes_all_jobs_and_keeps_what_is_done(backend: Any) -> None:
    stay = threading.Event()

    def follow(job: Any, take: Callable[[str], bool]) -> float:
        if job.nodes > 1:
            stay.wait(20)
        tell(job, take)
        return 1.0

    def saved(_: rows.Document) -> None:
        raise KeyboardInterrupt(15)

    made, said = document(), list[str]()
    sinks = sweep.Sinks(said.append, lambda _: None, follow, saved)
    (error,) = sweep.sweep_at_once(made, [1, 2, 4], plan_for, backend=backend, sinks=sinks)
    stay.set()
    assert isinstance(error, InterruptedByUserError)
    assert error.exit_code == 143
    assert all(job.deleted for job in backend.made.values())
    assert [run["nodes"] for run in made["runs"]] == [1]


# --- the file ------------------------------------------------------------------------------------


def test_a_report_is_replaced_by_a_new_measurement_and_not_before(tmp_path: Path) -> None:
    path, said = tmp_path / "out.json", list[str]()
    old = document((1, report()), (2, report()))
    files.write(path, old)
    new = files.start(str(path), False, {}, warn=lambda text, hints: said.extend((text, *hints)))
    assert said == [
        f"--json {path} has measurements of 1, 2 nodes, which new ones replace",
        "to keep them, and add what is missing: --resume",
    ]
    assert new["runs"] == []
    assert files.read(str(path)) == json.loads(json.dumps(old))
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize("what", ["text", "json", "folder"])
def test_what_is_no_report_is_never_replaced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, what: str
) -> None:
    path = tmp_path / "out.json"
    if what == "folder":
        path.mkdir()
    else:
        path.write_text("notes" if what == "text" else '{"lr": 1}')
    code, _, err = run(capsys, "allreduce", "--local", "--json", str(path))
    assert code == 2
    assert f"--json {path}: is there, and is no " in err
    assert path.is_dir() or path.read_text() in ("notes", '{"lr": 1}')


def test_an_empty_file_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "out.json").touch()  # as mktemp makes one
    assert (
        files.start(
            str(tmp_path / "out.json"), False, {}, warn=lambda *said: pytest.fail(str(said))
        )["runs"]
        == []
    )


# --- the command line -----------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["bench", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_compare_exits_with_1_and_names_the_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "old").write_text(json.dumps(document((2, report()))))
    (tmp_path / "new").write_text(json.dumps(document((2, report(slower=2.0)))))
    code, out, err = run(capsys, "compare", str(tmp_path / "old"), str(tmp_path / "new"))
    assert code == 1
    assert out.count("worse") == 3
    assert "2 nodes 2 ranks 65536 B: fell from 0.396 to 0.198 GB/s, to 0.50 of it" in err
    assert err.endswith("of 3 rows: 3 worse by more than 10%\n")
    code, out, err = run(capsys, "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    assert (code, err) == (0, "of 3 rows: 3 better by more than 10%\n")
    assert out.count("better") == 3
    code, out, err = run(capsys, "compare", str(tmp_path / "new"), str(tmp_path / "new"))
    assert (code, err) == (0, "of 3 rows: 3 within 10%\n")
    assert "better" not in out and "worse" not in out


def test_compare_fails_on_wrong_results_and_says_missing_of_what_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = report(sizes=(1024, 65536))
    bad["results"][1]["in_place"]["nwrong"] = 7
    (tmp_path / "old").write_text(json.dumps(document((2, report()))))
    (tmp_path / "new").write_text(json.dumps(document((2, bad))))
    code, _, err = run(capsys, "compare", str(tmp_path / "old"), str(tmp_path / "new"))
    assert code == 1
    assert err.splitlines()[1:] == [
        "all_reduce float 2 nodes 2 ranks 1048576 B: missing from the new report",
        "all_reduce float 2 nodes 2 ranks 65536 B: 7 elements are wrong",
        "of 3 rows: 1 missing, 1 with wrong results, 2 within 10%",
    ]


def broken(**changes: Any) -> str:
    """A document with other values at "a.b.0.c"; `...` takes a key out."""
    made = document((2, report()))
    for path, value in changes.items():
        at: Any = made
        *parents, last = path.split("__")
        for key in parents:
            at = at[int(key) if key.isdigit() else key]
        if value is ...:
            del at[last]
        else:
            at[last] = value
    return json.dumps(made)


ROW = "runs__0__report__results__0"
BROKEN = [
    ("[]", "is no report"),
    ("[" * 100_000, "is no report"),
    (broken(settings=...), "settings: Field required"),
    (broken(settings=None), "settings: Input should be a valid dictionary"),
    (broken(runs={}), "runs: Input should be a valid list"),
    (broken(kij_train_bench=2), "was written by another version"),
    (broken(runs__0__nodes="2"), "runs.0.nodes"),
    (broken(runs__0__report__average_bus_bandwidth=...), "average_bus_bandwidth: Field required"),
    (broken(runs__0__report__kij__collective="x"), "runs.0.report.kij.collective"),
    (broken(**{f"{ROW}__in_place": None}), "neither in_place nor out_of_place"),
    (broken(**{f"{ROW}__in_place__time": 0}), "in_place.time: Input should be greater than 0"),
    (broken(**{f"{ROW}__in_place__bus_bw": math.nan}), "in_place.bus_bw"),
    (broken(**{f"{ROW}__size": 10**400}), "size: Input should be less than"),
    (broken(**{f"{ROW}__ranks": ...}), "ranks: Field required"),
    ('{"results": []}', "runs.0.nodes"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
@pytest.mark.parametrize("line", ["compare x x", "allreduce --local --resume --json x"])
def test_a_report_that_is_damaged_is_refused_with_the_place(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    text: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text(text)
    code, out, err = run(capsys, *line.split())
    assert (code, out) == (2, "")
    assert message in err
    assert (tmp_path / "x").read_text() == text


def test_a_refused_request_leaves_the_file_as_it_was(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("kept")
    name = "a" * 60
    code, _, err = run(capsys, "allreduce", "--nodes", "9999", "--name", name, "--json", "x")
    assert (code, "is too long by" in err) == (2, True)
    assert (tmp_path / "x").read_text() == "kept"


REFUSED = [
    (f"allreduce -b {'9' * 400}", "9999999999999999… is too large: the largest is 16T"),
    (f"allreduce -n {'9' * 5000}", "more than 2147483647"),
    (f"allreduce --nodes {'9' * 5000}", "must look like 4 or 1,2,4,8"),
    ("allreduce -b 1 -d int8 -i 1 -e 8G", "-i 1 makes 8589934592 sizes, 1000 at most"),
    ("allreduce --local --backend nccl", "--backend nccl needs GPUs, and none are asked for"),
    ("allreduce --local --min-busbw 32M:1", "one rank alone has no busbw"),
    ("allreduce --nodes 1,x", "--nodes 1,x: must look like 4 or 1,2,4,8"),
    ("allreduce --nodes 0", "--nodes 0: must look like"),
    ("allreduce -b lots", "lots is no size"),
    ("allreduce -b 8M -e 1M", "is more than -e"),
    ("allreduce --parallel --local", "--parallel does not go with --local"),
    ("allreduce --resume", "--resume needs the file: --json FILE"),
    ("allreduce --min-busbw 8M", "must look like SIZE:GBPS"),
    ("allreduce -b 1M -e 4M --min-busbw 8M:1", "8M is not among the sizes"),
    ("allreduce --memory 16gb", "Did you mean 16Gi"),
    ("allreduce --local --json none/x.json", "--json none/x.json: cannot be written"),
    ("compare none.json none.json", "cannot read none.json"),
    ("compare text text", "text is no report of kij-train bench"),
    ("compare report report --tolerance 200%", "must be less than 100%"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_bad_input_gets_one_error_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "report").write_text(json.dumps(document((2, report()))))
    code, out, err = run(capsys, *line.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_a_plot_without_matplotlib_names_the_pip_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "has", lambda package: False)
    code, _, err = run(capsys, "allreduce", "--local", "--plot", "x.png")
    assert code == 2
    assert "pip install 'kij-train[bench]'" in err


def test_the_plot_is_a_png_and_an_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = plots.plot(
        document((1, report(ranks=1)), (2, report()), (4, report(ranks=4))), tmp_path / "out.v1"
    )
    assert [file.name for file in files] == ["out.v1.png", "out.v1.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files[1].read_text()


def test_resume_refuses_a_report_of_something_else() -> None:
    made = documents.new_document({"arguments": ["-b", "1K"], "gpus": None})
    documents.check_resumable(made, {"arguments": ["-b", "1K"], "gpus": None}, "out.json")
    with pytest.raises(RequestError, match="has gpus None, this is gpus 8"):
        documents.check_resumable(made, {"arguments": ["-b", "1K"], "gpus": 8}, "out.json")
