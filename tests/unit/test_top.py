"""`kij-train top`: which pods it looks at, the program in them, records, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kij_train.cli import main
from kij_train.cli.top import live_table
from kij_train.cluster import execute
from kij_train.cluster.apierrors import NotPermittedError
from kij_train.diagnosis import Node, Phase
from kij_train.diagnosis.vitals import Board
from kij_train.errors import KijError, UnreachableError
from kij_train.jobs import top, vitalsplot
from kij_train.jobs.top import MOST_PODS, chosen
from kij_train.pod import vitals
from kij_train.pod.devices import Gpu
from rich.console import Console

from tests.unit.test_job_commands import OneJob, run
from tests.unit.test_vitals import RUN, linux, rank_running


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneJob]:
    with OneJob("running") as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield made
        made.shutdown()


class HereSession:
    """What a connection to a pod is: the program that is sent there runs on this machine."""

    def __init__(self, command: list[str]) -> None:
        line = [sys.executable, *command[1:]]
        self._process = subprocess.Popen(
            line,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.ended = False

    def waits(self, timeout_s: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], timeout_s)[0])

    def read(self, timeout_s: float) -> tuple[int, bytes]:
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), 65536)
        self.ended = not data
        return execute.STDOUT, data

    def write(self, channel: int, data: bytes) -> None:
        assert channel == execute.STDIN
        assert self._process.stdin is not None
        self._process.stdin.write(data)

    def ping(self) -> None:
        pass

    def exit_code(self) -> int:
        return self._process.wait()

    def close(self) -> None:
        """As the kubelet does: its stdin ends, and what it writes goes nowhere."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process.wait(30)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[HereSession]:
    """Every pod is this machine; the sessions."""
    made: list[HereSession] = []

    def opened(cluster: Any, pod: str, command: list[str], **_: Any) -> HereSession:
        made.append(HereSession(command))
        return made[-1]

    monkeypatch.setattr(execute.Session, "open", opened)
    return made


def refused(monkeypatch: pytest.MonkeyPatch, error: KijError) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(execute.Session, "open", opened)


# --- which pods -----------------------------------------------------------------------------------


def nodes(count: int, *, down: tuple[int, ...] = ()) -> list[Node]:
    phase = dict.fromkeys(down, Phase.PENDING)
    return [Node(n, phase.get(n, Phase.RUNNING), f"job-{n}-x", f"gpu-{n}") for n in range(count)]


def test_of_a_large_job_eight_pods_are_looked_at_evenly() -> None:
    found = [node.index for node in chosen(nodes(1000))]
    assert found == list(range(0, 1000, 125))
    assert len(chosen(nodes(1000), everyone=True)) == 1000
    assert [node.index for node in chosen(nodes(1000), index=777)] == [777]
    for count in range(1, 40):
        some = [node.index for node in chosen(nodes(count))]
        assert some[0] == 0
        assert min(4, count) <= len(some) <= MOST_PODS


def test_pods_that_do_not_run_are_not_looked_at() -> None:
    assert [node.index for node in chosen(nodes(4, down=(0, 2)))] == [1, 3]
    assert chosen(nodes(2, down=(0, 1)), everyone=True) == []


def test_pods_stay_and_those_of_slow_ranks_come_in_addition() -> None:
    now = [str(node.pod) for node in chosen(nodes(1000))]
    found = chosen(nodes(1000), slow={3, 4, 5}, now=now)
    assert [node.index for node in found] == sorted([3, 4, *range(0, 1000, 125)])
    left = chosen(nodes(1000, down=(125,)), now=now)
    assert len(left) == MOST_PODS
    assert {node.pod for node in left} >= set(now) - {"job-125-x"}


def test_a_thousand_pods_cost_no_more_requests_than_status(
    server: OneJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pod,) = server.items["pods"]
    key = "batch.kubernetes.io/job-completion-index"
    for kind in ("completions", "parallelism"):
        server.job["spec"][kind] = 1000
    server.items["pods"] = [
        json.loads(json.dumps(pod).replace("job-0-", f"job-{n}-")) for n in range(1000)
    ]
    for number, made in enumerate(server.items["pods"]):
        made["metadata"]["annotations"][key] = made["metadata"]["labels"][key] = str(number)
    opened: list[str] = []

    def unreachable(cluster: Any, pod: str, *_: Any, **__: Any) -> None:
        opened.append(pod)
        raise UnreachableError(f"pod {pod} has not answered")

    monkeypatch.setattr(execute.Session, "open", unreachable)
    assert main(["status", "job"]) == 0
    cost = len(server.asked)
    server.asked.clear()
    assert main(["top", "job"]) == 4
    assert len(opened) == MOST_PODS
    assert len(server.asked) + len(opened) <= cost


# --- the program in a pod -------------------------------------------------------------------------


@linux
def test_a_look_comes_for_each_line_and_the_program_ends_with_its_stdin() -> None:
    session = HereSession(top.COMMAND)

    def line() -> str:
        said = b""
        while not said.endswith(b"\n"):
            assert session.waits(30)
            said += session.read(1)[1]
        return said.decode()

    assert line() == f"{vitals.READY}\n"
    session.write(execute.STDIN, top._PROGRAM)
    with rank_running(4711):
        assert line() == f"{vitals.READY}\n"
        session.write(execute.STDIN, b"\n")
        look = vitals.Look.read(line())
        assert look is not None
        assert 4711 in {rank.rank for rank in look.ranks}
    assert session._process.stdin is not None
    session._process.stdin.close()
    assert session._process.wait(30) == 0
    session.close()


@linux
def test_the_ranks_of_a_job_are_shown_and_told_as_json(
    server: OneJob, here: list[HereSession], capsys: pytest.CaptureFixture[str]
) -> None:
    with rank_running(4711):
        assert main(["top", "job", "--interval", "1s"]) == 0
        shown = capsys.readouterr()
        header, *rows = shown.out.splitlines()
        assert header.split() == ["RANK", "CPU", "MEM", "STEP", "STEPS/S", "LATE"]
        assert any(row.startswith("0/4711 ") for row in rows)
        code, said, _ = run(capsys, "top", "job", "-o", "json", "--for", "1s")
    assert code == 0
    (pod,) = said["pods"]
    assert (pod["index"], pod["pod"]) == (0, server.items["pods"][0]["metadata"]["name"])
    assert 4711 in {rank["rank"] for rank in pod["ranks"]}
    assert [session._process.wait(30) for session in here] == [0, 0]


@linux
def test_what_is_recorded_is_a_line_a_look_and_a_plot(
    server: OneJob,
    here: list[HereSession],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = tmp_path / "run.jsonl"
    with rank_running(4711):
        line = ["top", "job", "--interval", "1s", "--for", "3s", "--record", str(record)]
        assert main(line) == 0
    looks = [json.loads(text) for text in record.read_text().splitlines()]
    assert len(looks) >= 2
    assert all("0/4711" in vitalsplot.series(looks)[title] for title in ("cores", "memory (GiB)"))
    assert (tmp_path / "run.png").stat().st_size > 1000
    assert "wrote" in capsys.readouterr().err
    assert main(line) == 2
    assert "is there already" in capsys.readouterr().err


@linux
def test_a_local_run_is_looked_at_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with rank_running(4711, JOB_COMPLETION_INDEX="2", KIJ_RUN_ID="1-a"):
        code, said, _ = run(
            capsys, "top", RUN, "--local", "-o", "json", "--interval", "1s", "--for", "1s"
        )
        assert code == 0
        (pod,) = said["pods"]
        assert (pod["index"], [rank["rank"] for rank in pod["ranks"]]) == (2, [4711])
        assert pod["ranks"][0]["cores"] > 0
        assert main(["top", RUN, "--local", "--index", "7"]) == 2
        assert "no rank of index 7 runs; there are 2" in capsys.readouterr().err
        assert main(["top", "another", "--local"]) == 2
        assert f"there is: kij-train top {RUN} --local" in capsys.readouterr().err


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NotPermittedError("bob may not create pods/exec"), 3, "may not create pods/exec"),
        (UnreachableError("pod x has not answered"), 4, "has not answered"),
    ],
)
def test_a_job_that_may_not_be_looked_at_says_why(
    server: OneJob,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: KijError,
    code: int,
    words: str,
) -> None:
    refused(monkeypatch, error)
    assert main(["top", "job"]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--index", "0", "--all"], "--index conflicts with --all"),
        (["--local", "--all"], "--all does not go with --local"),
        (["--index", "9"], "job has no index 9: it has 1"),
        (["--interval", "0s"], "--interval 0s must be more than zero"),
        (["--record", "/nowhere/x.jsonl"], "--record /nowhere/x.jsonl: cannot be written"),
    ],
)
def test_a_wrong_request_is_refused(
    server: OneJob, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["top", "job", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("situation", ["succeeded", "exception-on-one-rank"])
def test_a_job_that_has_ended_is_told_with_where_to_look(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    situation: str,
) -> None:
    with OneJob(situation) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        assert main(["top", "job"]) == 2
        made.shutdown()
    said = capsys.readouterr().err
    assert "job does not run any more" in said
    assert "kij-train status job" in said


def test_a_job_without_pods_says_so(server: OneJob, capsys: pytest.CaptureFixture[str]) -> None:
    server.items["pods"] = []
    assert main(["top", "job"]) == 2
    assert "no pod of job runs" in capsys.readouterr().err


# --- a terminal -----------------------------------------------------------------------------------


def drawn(width: int, height: int, *, machines: int = 1) -> str:
    """What a terminal shows of machines with 8 GPUs, all of them slowed down."""
    board = Board()
    gpus = [
        Gpu(str(n), utilization=97, memory_bytes=70 << 30, power_w=650, throttled=["power cap"])
        for n in range(8)
    ]
    now = time.monotonic()
    for index in range(machines):
        ranks = [
            vitals.Rank(8 * index + n, index, 100 + n, 1.0, 1 << 30, str(n), 7, 1.0)
            for n in range(8)
        ]
        board.watch(index, f"pod-{index}", "", now)
        look = vitals.Look(now, 1.0, 2.0, 0.0, 1 << 20, 1 << 30, ranks, gpus, [], "", 0.0)
        board.take(index, look, now)
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(live_table("job", board, machines, height, console.options))
    return console.export_text()


def test_a_narrow_terminal_does_without_the_columns_that_tell_the_least() -> None:
    assert "no room for" not in drawn(160, 30)
    header, row = drawn(70, 30).splitlines()[1:3]
    assert header.split()[:5] == ["RANK", "CPU", "STEP", "STEPS/S", "LATE"]
    assert header.rstrip().endswith("GPU%  GPU MEM  THROTTLED")
    assert row.rstrip().endswith("97%   70 GiB   power cap")
    assert "no room for MEM, POWER, TEMP, CLOCK, NVLINK, PCIE" in drawn(70, 30)
    assert "…" not in drawn(70, 30)


def test_a_low_terminal_shows_some_rows_and_findings_and_counts_the_rest() -> None:
    lines = [line.rstrip() for line in drawn(160, 24, machines=12).splitlines()]
    assert len(lines) <= 24
    assert "and 85 more" in lines
    assert "index 7: each of GPUs 0-7 is slowed down: power cap" in lines
    assert lines[-1] == "and 4 more: kij-train top job -o json"
