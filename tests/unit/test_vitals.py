"""What a look at a pod tells: real processes as ranks, files as a cgroup; and what stands out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kij_train.diagnosis import vitals as board
from kij_train.diagnosis.vitals import Board
from kij_train.pod import contract
from kij_train.pod.devices import Gpu
from kij_train.pod.gang.history import SlowRank
from kij_train.pod.gang.jsontypes import to_json
from kij_train.pod.vitals import Cgroup, Look, Rank, Vitals, gpu_of, read_slow

from tests.kube import eventually

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
RUN = f"kij-vitals-test-{os.getpid()}"
"""Other tests, and these in other processes, have ranks on this machine."""
BUSY = """
import os, sys, time
child = os.fork() if "forks" in sys.argv else 1
if child:
    print("ready", flush=True)
while True:
    pass
"""


class Devices:
    """GPUs, as a test says."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = list(gpus)

    def look(self) -> list[Gpu]:
        return self.gpus

    def close(self) -> None:
        pass


@contextlib.contextmanager
def rank_running(
    rank: int, *argv: str, local_rank: int = 0, **env: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that has what torchrun gives a rank, once it works."""
    environ = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(local_rank), "KIJ_JOB": RUN}
    line = [sys.executable, "-S", "-c", BUSY, *argv]
    with subprocess.Popen(
        line,
        env={**environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            os.killpg(process.pid, 9)


def vitals_of(*gpus: Gpu, cgroup: Cgroup | None = None) -> Vitals:
    return Vitals(
        lambda env: env.get("KIJ_JOB") == RUN, cgroup=cgroup, devices=(Devices(*gpus), "a note")
    )


@linux
def test_ranks_are_found_with_their_children_and_no_child_is_a_rank(tmp_path: Path) -> None:
    (tmp_path / "8").write_text("17\n")
    vitals = vitals_of(Gpu("0"), Gpu("1"))
    beats: Any = {contract.ENV_HEARTBEAT_DIR: str(tmp_path), contract.ENV_COMPLETION_INDEX: "4"}
    with rank_running(8, "forks", **beats) as first, rank_running(9, local_rank=1, **beats):
        began = vitals.look()
        assert [(rank.rank, rank.node, rank.gpu) for rank in began.ranks] == [
            (8, 4, "0"),
            (9, 4, "1"),
        ]
        assert began.ranks[0].pid == first.pid
        assert [rank.cores for rank in began.ranks] == [None, None]
        assert eventually(lambda: all((rank.cores or 0) > 0 for rank in vitals.look().ranks), 30)
        eight, nine = vitals.look().ranks
        assert eight.memory_bytes > 1.5 * nine.memory_bytes  # two processes
        assert (eight.step, nine.step) == (17, None)
        assert eight.beat_age_s is not None
        assert 0 <= eight.beat_age_s < 600
    assert eventually(lambda: vitals.look().ranks == [], 30)  # its child is killed, too


@linux
def test_a_child_that_has_outlived_its_rank_is_not_taken_for_the_next_one() -> None:
    vitals = vitals_of()
    with rank_running(8, "forks") as first:
        first.kill()
        first.wait()
        (left,) = vitals.look().ranks
        assert left.pid != first.pid
        with rank_running(8) as second:
            assert [one.pid for one in vitals.look().ranks] == [second.pid]


def proc_entry(root: Path, pid: int, started: int, **env: str) -> None:
    """A process in a folder that is like /proc."""
    words = ["S", "1", *["0"] * 17, str(started), "0", "0"]
    (root / str(pid)).mkdir(exist_ok=True)
    (root / str(pid) / "stat").write_text(f"{pid} (python) {' '.join(words)}")
    (root / str(pid) / "environ").write_text("".join(f"{k}={v}\0" for k, v in env.items()))


@linux
@pytest.mark.parametrize(
    ("started", "newer"), [((7, 7), 12), ((8, 7), 11), ((7, 8), 12)], ids=["tie", "first", "second"]
)
def test_of_two_ranks_with_one_number_the_one_that_began_later_counts(
    tmp_path: Path, started: tuple[int, int], newer: int
) -> None:
    for pid, tick in zip((11, 12), started, strict=True):
        proc_entry(tmp_path, pid, tick, RANK="3", LOCAL_RANK="0")
    ranks = Vitals(proc=str(tmp_path), devices=(Devices(), "")).look().ranks
    assert [one.pid for one in ranks] == [newer]


@linux
def test_a_process_seen_before_it_begins_its_program_becomes_a_rank(tmp_path: Path) -> None:
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    vitals = Vitals(proc=str(tmp_path), devices=(Devices(), ""))
    proc_entry(tmp_path, 11, now, PATH="/bin")
    assert vitals.look().ranks == []
    proc_entry(tmp_path, 11, now, RANK="3", LOCAL_RANK="0")
    assert [one.pid for one in vitals.look().ranks] == [11]


@pytest.mark.parametrize(
    ("env", "gpu"),
    [
        ({"LOCAL_RANK": "1"}, "1"),
        ({"LOCAL_RANK": "7"}, None),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,2"}, "2"),
        ({"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "GPU-c"}, "2"),
        ({"LOCAL_RANK": "0", "HIP_VISIBLE_DEVICES": "1"}, "1"),
        ({"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "9"}, None),
    ],
)
def test_a_rank_has_the_gpu_of_its_local_rank(env: dict[str, str], gpu: str | None) -> None:
    gpus = [Gpu(str(n), f"GPU-{letter}{n}{n}") for n, letter in enumerate("abc")]
    assert gpu_of(env, gpus) == gpu


def test_a_container_is_read_from_its_cgroup(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 5000000\nthrottled_usec 250000\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.max").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000\n")
    cgroup = Cgroup(str(tmp_path))
    assert cgroup.cpu_seconds() == (5.0, 0.25)
    assert cgroup.cores_limit() == 1.5
    assert cgroup.memory() == (2000, 4000)
    vitals = vitals_of(cgroup=cgroup)
    vitals.look()
    (tmp_path / "cpu.stat").write_text("usage_usec 6000000\nthrottled_usec 999000000\n")
    look = vitals.look()
    assert look.cores is not None and look.cores > 0
    assert (look.held_back, look.memory_bytes) == (1.0, 2000)


def test_an_older_cgroup_is_read_as_well_and_none_is_nothing(tmp_path: Path) -> None:
    for name, value in {
        "cpu,cpuacct/cpuacct.usage": 7_000_000_000,
        "cpu,cpuacct/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/cpu.cfs_period_us": 100000,
        "memory/memory.usage_in_bytes": 3000,
        "memory/memory.limit_in_bytes": 1 << 62,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    cgroup = Cgroup(str(tmp_path))
    assert (cgroup.cpu_seconds(), cgroup.cores_limit()) == ((7.0, None), None)
    assert cgroup.memory() == (3000, None)
    nothing = Cgroup(str(tmp_path / "nowhere"))
    assert nothing.cpu_seconds() == nothing.memory() == (None, None)
    assert nothing.cores_limit() is None


def test_a_look_goes_through_its_line_and_nothing_else_does() -> None:
    look = a_look(Rank(3, 1, 99, 0.5, 1000, "0", 7, 0.1), gpus=[Gpu("0", "GPU-x", xids=[79])])
    read = Look.read(look.line())
    assert read is not None
    assert (read.line(), read.ranks, read.gpus[0].xids) == (look.line(), look.ranks, [79])
    for line in ("", "ready", "[]", "{}", '{"at": 1}', look.line().replace('"cores"', '"kores"')):
        assert Look.read(line) is None


def test_the_accounts_of_the_pod_tell_which_ranks_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "accounts.json"
    monkeypatch.setattr(contract, "ACCOUNTS_FILE", str(file))
    for text in (None, "{", "[]", '{"history": {}}', '{"history": {"slow": 3}}'):
        if text is not None:
            file.write_text(text)
        assert read_slow() == []
    file.write_text('{"history": {"slow": [{"rank": 3}]}}')
    assert read_slow() == [{"rank": 3}]


# --- what stands out ------------------------------------------------------------------------------


def a_look(*ranks: Rank, at: float = 0.0, gpus: Any = (), slow: Any = (), **changes: Any) -> Look:
    whole = Look(at, 1.0, 2.0, 0.0, 10 << 20, 1 << 30, list(ranks), list(gpus), slow, "", 0.001)
    return whole._replace(**changes)


def a_rank(rank: int, step: int | None = None, age_s: float = 0.0, gpu: str | None = None) -> Rank:
    return Rank(rank, rank, 10 + rank, 0.5, 1 << 30, gpu, step, None if step is None else age_s)


def a_board(*looks: Look, now: float = 0.0) -> Board:
    made = Board()
    for index, look in enumerate(looks):
        made.watch(index, f"pod-{index}", f"gpu-{index}", now)
        made.take(index, look, now)
    return made


def test_a_job_that_goes_well_has_no_findings() -> None:
    made = a_board(a_look(a_rank(0)), a_look(a_rank(1)))
    assert made.findings(1.0) == []
    assert made.columns() == board.COLUMNS
    assert [row[:3] for row in made.rows()] == [
        ("0/0", "50%", "1.0 GiB"),
        ("1/1", "50%", "1.0 GiB"),
    ]


def test_the_slow_rank_is_named_by_pods_whose_clocks_differ() -> None:
    made = Board()
    for index in range(3):
        made.watch(index, f"pod-{index}", f"gpu-{index}", 0.0)
    for step in range(1, 12):
        now = 10.0 * step
        for index in range(3):
            age_s = 1.0 if index == 1 else 4.0
            look = a_look(a_rank(index, step, age_s), at=now + 1000 * index)
            made.take(index, look, now + 0.01)
        made.compare(now)
    (slow,) = made.findings(110.0)
    assert slow.startswith(
        "slow: rank 1 (index 1 on gpu-1): 3 s later than the median in each step of 10 s, 30 %, for"
    )
    _, second, _ = made.rows()
    assert second[3:] == ("11", "0.1", "3 s")
    (_, pod, _) = made.as_json(110.0)["pods"]
    assert pod["ranks"][0]["lateSeconds"] == pytest.approx(3.0)


def test_what_the_leader_calls_slow_is_told_once_and_its_pod_is_known() -> None:
    said = SlowRank(640, 80, "gpu-80", "2 s later than the median", 1, 61.0, 18, 9.0, True)
    over = said._replace(rank=3, node=0, is_now=False)
    looks = [a_look(a_rank(n), slow=[to_json(said), to_json(over)]) for n in range(2)]
    made = a_board(*looks)
    assert made.findings(1.0) == [f"slow: {said}"]
    assert made.slow_indexes() == {80}
    assert a_board(a_look(slow=[{"rank": "of another release"}])).findings(1.0) == []


def test_an_idle_gpu_is_named_once_it_is_so_for_a_while() -> None:
    made = a_board(a_look(a_rank(0, gpu="0"), gpus=[Gpu("0", utilization=0), Gpu("1")]))
    assert made.findings(1.0) == []
    assert made.findings(12.0) == ["idle: GPU 0 of index 0 on gpu-0: 0 % for 12 s"]
    made.take(0, a_look(gpus=[Gpu("0", utilization=80)]), 13.0)
    made.take(0, a_look(gpus=[Gpu("0", utilization=0)]), 14.0)
    assert made.findings(15.0) == []


def test_what_all_gpus_of_a_pod_have_is_one_line() -> None:
    gpus = [Gpu(str(n), utilization=n, throttled=["power cap"]) for n in (0, 1, 2, 5)]
    made = a_board(a_look(a_rank(0, gpu="0"), gpus=[*gpus, Gpu("6", ecc_errors=1)]))
    assert made.findings(12.0) == [
        "index 0 on gpu-0: each of GPUs 0-2,5 is slowed down: power cap",
        "index 0 on gpu-0: GPU 6 has 1 uncorrected ECC errors",
        "idle: each of GPUs 0-2 of index 0 on gpu-0: 2 % for 12 s",
    ]
    slices = [Gpu(f"0:{n}", lost="gone") for n in range(2)]
    (said,) = a_board(a_look(gpus=slices)).findings(1.0)
    assert said == "index 0 on gpu-0: each of GPUs 0:0, 0:1 does not answer: gone"


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (Gpu("0", lost="GPU is lost"), "index 0 on gpu-0: GPU 0 does not answer: GPU is lost"),
        (Gpu("0", throttled=["power cap"]), "GPU 0 is slowed down: power cap"),
        (Gpu("0", ecc_errors=3), "GPU 0 has 3 uncorrected ECC errors"),
        (Gpu("0", xids=[31, 79]), "GPU 0 has reported XID 31, 79"),
    ],
)
def test_a_gpu_in_trouble_is_named(gpu: Gpu, words: str) -> None:
    made = a_board(a_look(a_rank(0, gpu="0"), gpus=[gpu]))
    (finding,) = made.findings(1.0)
    assert words in finding
    (row,) = made.rows()
    assert len(row) == len(made.columns())
    assert ("lost" in row) == bool(gpu.lost)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory_bytes": 1020 << 20}, "memory 1020 MiB of 1.0 GiB: near its limit"),
        ({"held_back": 0.34}, "its CPU limit of 2 holds it back 34 % of the time"),
        ({"note": "GPUs cannot be read: no driver"}, "GPUs cannot be read: no driver"),
    ],
)
def test_a_pod_that_is_short_of_something_is_named(changes: dict[str, Any], words: str) -> None:
    (finding,) = a_board(a_look(a_rank(0), **changes)).findings(1.0)
    assert finding.startswith("index 0 on gpu-0: ")
    assert words in finding


def test_a_pod_that_is_silent_or_gone_is_named() -> None:
    made = a_board(a_look(a_rank(0)))
    assert made.findings(16.0) == ["index 0 on gpu-0: nothing heard for 16 s"]
    made.pods[0].problem = "the connection broke"
    assert made.findings(16.0) == ["index 0 on gpu-0: the connection broke"]
    made.watch(0, "pod-0", "gpu-0", 17.0)
    assert made.findings(17.0) == ["index 0 on gpu-0: nothing heard for 17 s"]
    made.watch(0, "its-successor", "gpu-7", 18.0)
    assert made.findings(19.0) == []
    assert made.rows()[0][0] == "0/-"


def test_gpus_that_no_rank_has_taken_and_pods_without_ranks_have_rows() -> None:
    made = a_board(a_look(a_rank(0, gpu="0"), gpus=[Gpu("0", utilization=90), Gpu("1")]), a_look())
    first, spare, empty = made.rows()
    assert (first[0], first[6], first[7]) == ("0/0", "0", "90%")
    assert (spare[0], spare[6], spare[7]) == ("0/-", "1", "-")
    assert (empty[0], empty[1]) == ("1/-", "100%")
    assert len({len(row) for row in made.rows()} | {len(made.columns())}) == 1


def test_64_gpus_of_a_node_have_a_row_each() -> None:
    gpus = [Gpu(str(n), utilization=99) for n in range(64)]
    made = a_board(a_look(*(a_rank(n, gpu=str(n)) for n in range(64)), gpus=gpus))
    assert [row[0] for row in made.rows()] == [f"0/{n}" for n in range(64)]
    assert len(a_look(gpus=gpus).line()) < 1 << 16


def test_the_look_at_many_processes_says_what_it_costs() -> None:
    vitals = vitals_of()
    vitals.look()
    time.sleep(0.01)
    assert 0 < vitals.look().cost < 1
    assert vitals.cost > 0
