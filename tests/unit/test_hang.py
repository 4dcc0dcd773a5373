"""Signs of life, and who holds up the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from kij_train.pod.gang import hang
from kij_train.pod.gang.messages import RankStack
from kij_train.pod.stacks import RankNow

TORCH = "/opt/lib/python3.11/site-packages/torch/"
C10D = (TORCH + "distributed/distributed_c10d.py", 2800, "all_reduce")
MAIN = ("/code/train.py", 20, "main")
LOAD = ("/code/train.py", 7, "load")
SELECT = ("/usr/lib/python3.11/selectors.py", 415, "select")
STARTS = ("/kij/bundle/worker.py", 137, "as_main")


def rank(number: int, *frames: tuple[str, int, str], state: str = "S (sleeping)") -> RankStack:
    lines = [f'File "{file}", line {line} in {name}' for file, line, name in frames]
    return RankStack(number, state, lines)


@pytest.mark.parametrize(
    ("ranks", "suspect", "first_line"),
    [
        # Two ranks: the one in no collective.
        ([rank(0, C10D, MAIN), rank(1, LOAD, MAIN)], 1, "rank 1 is in load (train.py:7)"),
        # Most do something else than the collective's one: those that are not there yet.
        (
            [rank(0, C10D, MAIN), *(rank(n, SELECT, LOAD, MAIN) for n in (1, 2))],
            1,
            "ranks 1-2 are in select, called in load (train.py:7)",
        ),
        # Nobody is in a collective, as with NCCL: the fewest.
        (
            [*(rank(n, MAIN) for n in range(4)), rank(4, SELECT, LOAD)],
            4,
            "rank 4 is in select, called in load (train.py:7)",
        ),
        # One does not answer.
        (
            [rank(0, C10D, MAIN), rank(1, state="T (stopped)"), rank(2, LOAD)],
            1,
            "rank 1 is silent: T (stopped)",
        ),
        # All at one place, and one half here, the other there: nobody can be named.
        ([rank(n, C10D, MAIN) for n in range(4)], None, "ranks 0-3 are in all_reduce, called in"),
        ([rank(0, MAIN), rank(1, LOAD)], None, "rank 0 is in main (train.py:20)"),
        ([rank(n) for n in range(2)], None, "ranks 0-1 are silent"),
        ([], None, "no rank says where it is"),
    ],
)
def test_who_holds_up_the_others(
    ranks: list[RankStack], suspect: int | None, first_line: str
) -> None:
    found = hang.compare(ranks)
    assert found.rank == suspect
    assert found.text.splitlines()[0].startswith(first_line)


def test_its_stack_is_that_of_the_script() -> None:
    found = hang.compare([rank(0, C10D, MAIN, STARTS), rank(1, LOAD, MAIN, STARTS)])
    assert found.callstack.splitlines() == [
        '  File "/code/train.py", line 20, in main',
        '  File "/code/train.py", line 7, in load',
    ]
    assert found.text.splitlines() == [
        "rank 1 is in load (train.py:7)",
        "rank 0 is in all_reduce, called in main (train.py:20)",
    ]


def test_of_ranks_at_one_place_the_stack_of_one_is_kept() -> None:
    found = hang.compare([rank(n, C10D, MAIN, STARTS) for n in range(4)])
    assert found.callstack.splitlines()[0] == '  File "/code/train.py", line 20, in main'


def test_a_script_with_a_handler_of_its_own_is_told_of_it() -> None:
    lines = hang.compare([rank(n) for n in range(2)]).text.splitlines()
    assert lines == [
        "ranks 0-1 are silent: S (sleeping)",
        "a script that handles SIGUSR2 itself cannot say where it is",
    ]


def test_the_main_thread_is_what_the_leader_gets() -> None:
    dump = (
        "Thread 0x01 (most recent call first):\n"
        '  File "a.py", line 1 in other\n\n'
        "Current thread 0x02 (most recent call first):\n"
        '  File "train.py", line 2 in main\n'
    )
    (brief,) = hang.brief([RankNow(3, 1, "R (running)", True, dump)])
    assert brief == RankStack(3, "R (running)", ['File "train.py", line 2 in main'])


def test_a_touched_file_is_a_sign_of_life(tmp_path: Path) -> None:
    signs = hang.Signs(str(tmp_path / "beats"))
    time.sleep(0.05)
    before = signs.ever
    assert signs.silence_s() >= 0.05
    (tmp_path / "beats/0").touch()
    assert signs.silence_s() < 0.05
    assert (before, signs.ever) == (False, True)
    time.sleep(0.05)
    assert signs.silence_s() >= 0.05
    os.utime(tmp_path / "beats/0", (1, 1))  # whatever its clock says
    assert signs.silence_s() < 0.05


def test_a_number_in_the_file_is_the_step(tmp_path: Path) -> None:
    signs = hang.Signs(str(tmp_path))
    for name, text, step in (
        ("0", "", None),
        ("0", "12", 12),
        ("1", " 13\n", 13),
        ("1", "1" * 30, 13),
        ("0", "step 14", 13),
        ("0", "11", 13),
        ("1", "-20", 13),
    ):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, ns=(1, time.monotonic_ns()))
        signs.silence_s()
        assert signs.step == step


def test_output_is_passed_on_and_is_a_sign_of_life(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = hang.Output()
    output.start()
    signs = hang.Signs(str(tmp_path), output)
    time.sleep(0.05)
    silent_until = time.monotonic()
    if os.fork() == 0:
        output.take()
        os.write(1, b"out\n" * 50_000)
        os.write(2, b"unended")
        os._exit(0)
    os.wait()
    assert signs.silence_s() < time.monotonic() - silent_until
    output.close(5)
    output.end_lines()
    captured = capfd.readouterr()
    assert captured.out == "out\n" * 50_000
    assert captured.err == "unended\n"
