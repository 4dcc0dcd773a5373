"""The folder of an array on this machine: whole or not there, damaged, of two writers at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kij_train.arrays import store
from kij_train.arrays.facts import About, Attempt, Where
from kij_train.arrays.outcomes import State
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import outcomes_of
from kij_train.errors import KijError, RequestError, UnreachableError
from kij_train.pod import itemplan, itemrecords, results

KEYS = ["a", "b", "c", "d", "e"]
PLAN = itemplan.encode(KEYS, indexes=3, chunk=2, seed=0)


def about(**more: Any) -> About:
    given: dict[str, Any] = {"name": "arr", "where": Where(), "request": {"script": "f.py"}}
    given |= {"code_dir": "/src", "code_sha256": "", "created": "2026-01-01T00:00:00Z"}
    return About(**{**given, "plan_sha256": itemplan.sha256(PLAN), **more})


def created(cwd: Path, **more: Any) -> ArrayFolder:
    return ArrayFolder.create(cwd, about(), itemplan.compress(PLAN), **more)


def part(index: int, *keys: str, attempt: int = 0, error: str = "") -> bytes:
    run = itemrecords.Run(index, attempt, 0.5, 1 if error else 0, "here", error)
    lines = (line for key in keys for line in itemrecords.item_records(key, run, b'{"x": 1}'))
    return "".join(itemrecords.dumps(line) + "\n" for line in lines).encode()


def states(folder: ArrayFolder) -> str:
    return " ".join(f"{one.key}:{one.state.value}" for one in outcomes_of(folder))


def test_a_folder_is_found_again_with_all_that_it_was_made_from(tmp_path: Path) -> None:
    made = created(tmp_path)
    made.begin_attempt(Attempt(0, "arr", uid="u", selection=[(1, [2, 3])], request={"cpu": "2"}))
    found = ArrayFolder.open(tmp_path, "arr")
    assert found.about == made.about == about()
    assert found.attempts() == [
        Attempt(0, "arr", uid="u", selection=[(1, [2, 3])], request={"cpu": "2"})
    ]
    assert list(found.plan().keys()) == KEYS
    assert (tmp_path / ".kij-train" / ".gitignore").read_text() == "*\n"
    assert store.known(tmp_path) == ["arr"]


def test_an_array_of_the_same_name_is_not_overwritten(tmp_path: Path) -> None:
    created(tmp_path).begin_attempt(Attempt(0, "arr"))
    with pytest.raises(RequestError, match="there is an array arr in this folder already"):
        created(tmp_path)
    with pytest.raises(RequestError):
        store.check_free(tmp_path, "arr")
    assert ArrayFolder.open(tmp_path, "arr").attempts()
    assert created(tmp_path, replace=True).attempts() == []
    assert [path.name for path in (tmp_path / store.BASE).iterdir()] == ["arr"]


def test_of_two_that_make_it_at_once_one_wins_and_its_folder_is_whole(tmp_path: Path) -> None:
    won: list[ArrayFolder] = []
    lost: list[KijError] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        try:
            won.append(created(tmp_path))
        except RequestError as error:
            lost.append(error)

    run_all([make] * 8)
    assert (len(won), len(lost)) == (1, 7)
    assert [path.name for path in (tmp_path / store.BASE).iterdir()] == ["arr"]
    assert list(won[0].plan().keys()) == KEYS


def run_all(work: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_two_reruns_at_once_one_gets_the_number(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    got: list[int] = []
    start = threading.Barrier(6)

    def begin() -> None:
        start.wait()
        try:
            folder.begin_attempt(Attempt(1, "arr-r1"))
        except RequestError as error:
            assert "another rerun of arr has begun" in error.message
        else:
            got.append(1)

    run_all([begin] * 6)
    assert got == [1]
    assert folder.next_attempt() == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("array.json", b"{", "array.json is damaged"),
        ("array.json", b"[]", "array.json is damaged"),
        ("array.json", b'{"format": 1}', "array.json is damaged"),
        ("array.json", b'{"format": 7}', "is of another version of kij-train: its format is 7"),
        ("items.xz", b"", "items.xz is damaged"),
        ("items.xz", itemplan.compress(PLAN)[:-9], "items.xz is damaged"),
        ("attempt-0/attempt.json", b"{}", "attempt.json is damaged"),
        ("attempt-0/indexes.json", b"[1]", "indexes.json is damaged"),
    ],
)
def test_what_is_damaged_is_named_with_what_to_do(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    (folder.path / name).write_bytes(content)
    with pytest.raises(RequestError) as caught:
        list(outcomes_of(ArrayFolder.open(tmp_path, "arr")))
    assert said in caught.value.message
    assert caught.value.hints
    if "damaged" in said:
        cat, remove = caught.value.hints
        assert cat.endswith(f"cat {folder.path}/attempt-*/part-*.jsonl")
        assert remove.endswith(f"rm -r {folder.path}")


def test_a_part_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    folder.part(0, 1).mkdir()
    with pytest.raises(RequestError, match=r"part-00001.jsonl is damaged: .*Is a directory"):
        list(outcomes_of(folder))


def test_an_array_that_runs_here_is_not_replaced(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    with folder.running(0), pytest.raises(RequestError, match="arr runs on this machine"):
        ArrayFolder.create(tmp_path, about(), itemplan.compress(PLAN), replace=True)
    ArrayFolder.create(tmp_path, about(), itemplan.compress(PLAN), replace=True)
    assert not folder.part(0, 0).parent.exists()


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    shutil.rmtree(folder.path)
    with pytest.raises(RequestError, match="its folder is not there any more") as caught:
        folder.keep_left(0, {0: {"error": "lost"}})
    assert caught.value.hints == (f"see what is there: ls -la {folder.path.parent}",)


def test_a_name_that_no_array_has_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="there is no array nope"):
        ArrayFolder.open(tmp_path, "nope")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".kij-train").write_text("a file")
    with pytest.raises(RequestError, match=r"cannot write .*arrays") as caught:
        created(tmp_path)
    assert caught.value.hints == (f"see who may write: ls -ld {tmp_path}",)


def test_a_full_disk_is_named_with_how_to_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RequestError, match=r"part-00000.jsonl: No space left") as caught:
        folder.write_part(0, 0, part(0, "a"))
    where = folder.results_dir(0)
    assert caught.value.hints == (f"see what is left of the disk: df -h {where}",)


# --- what indexes leave ---------------------------------------------------------------------------


def test_items_are_what_their_parts_say(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    folder.write_part(0, 0, part(0, "a") + part(0, "b", error="no"))
    folder.write_part(0, 1, part(1, "c")[:-1] + b'\n{"key": "d", "ind', whole=False)
    folder.end_attempt(0, "failed")
    folder.keep_left(0, {1: {"error": "OOMKilled", "exit_code": 137, "machine": "gpu-1"}})
    assert states(folder) == "a:done b:failed c:done d:missing e:missing"
    lost = [(one.error, one.exit_code) for one in outcomes_of(folder) if one.state.is_lost]
    assert lost[1:] == [("OOMKilled", 137), ("attempt 0 has failed before it", None)]


def test_a_part_that_becomes_whole_takes_the_place_of_what_was_seen(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    folder.write_part(0, 0, part(0, "a"), whole=False)
    assert folder.parts(0).begun == {0: [".part-00000.jsonl.seen"]}
    folder.write_part(0, 0, part(0, "a", "b"))
    assert (folder.parts(0).whole, folder.parts(0).begun) == ({0}, {})
    assert folder.part(0, 0).read_bytes() == part(0, "a", "b")


def test_a_rerun_counts_where_it_has_something_to_say(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    folder.write_part(0, 0, part(0, "a") + part(0, "b", error="no"))
    folder.write_part(0, 1, part(1, "c") + part(1, "d", error="no"))
    folder.begin_attempt(Attempt(1, "arr-r1", selection=[(0, [1]), (2, [4])]))
    folder.write_part(1, 0, part(0, "b", attempt=1))
    with folder.running(1):
        assert states(folder) == "a:done b:done c:done d:failed e:pending"
        (folder.results_dir(1) / ".part-00002.jsonl.tmp-1-host-7").write_bytes(b"")
        assert states(folder).endswith("e:running")
    assert states(folder).endswith("e:missing")


HOLDER = """
import sys
from pathlib import Path
from kij_train.arrays.store import ArrayFolder
folder = ArrayFolder.open(Path(sys.argv[1]), "arr")
with folder.running(0):
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_run_whose_launcher_was_killed_does_not_run(tmp_path: Path) -> None:
    folder = created(tmp_path)
    folder.begin_attempt(Attempt(0, "arr"))
    assert not folder.is_running(0)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        assert folder.is_running(0)
        assert {one.state for one in outcomes_of(folder)} == {State.PENDING}
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert not folder.is_running(0)


def test_parts_are_named_as_the_runners_name_them(tmp_path: Path) -> None:
    folder = created(tmp_path)
    assert folder.part(2, 123456).name == results.part_name(123456) == "part-123456.jsonl"
    assert json.loads((folder.path / "array.json").read_text())["format"] == 1
