"""share() in processes that have the files as a pod has them, in one folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kij_train import pod
from kij_train.pod import contract, peering, spread

from tests.unit.test_bootstrap import PYTHON_3_8

POD = """
import os, pathlib, sys, types
here, folder, produced, fails = sys.argv[1:5]
for name in ("kij_train", "kij_train.pod", "kij_train.pod.spread"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [here]
from kij_train.pod import contract
from kij_train.pod import signals
from kij_train.pod.contract import Failure
from kij_train.pod.spread.sharing import share, stay_for_others
from kij_train.pod.status import say

def produce(to):
    with open(produced, "a") as file:
        file.write(os.environ["JOB_COMPLETION_INDEX"] + "\\n")
    if fails:
        raise Failure(contract.EXIT_ORIGIN, fails)
    pathlib.Path(to, "sub").mkdir()
    pathlib.Path(to, "sub/a.whl").write_bytes(os.urandom(9 << 20))
    pathlib.Path(to, "lock.txt").write_text("lock")

try:
    share("packages", produce, folder, dict(os.environ), say)
except Failure as failure:
    print("failed:", failure)
    sys.exit(failure.exit_code)
signals.take_signals(lambda signum, frame: signals.heard.append(signum))
print("here", flush=True)
exit_code = int(sys.stdin.read() or 0)
stay_for_others(exit_code)
sys.exit(exit_code)
"""


@pytest.fixture
def as_in_a_pod(tmp_path: Path) -> Path:
    here = tmp_path / "bundle"
    here.mkdir()
    for file in (*pod.BESIDE, *spread.FILES):
        shutil.copy(file, here)
    return here


def start(
    here: Path, index: int, peers: list[str], *, fails: str = "", stays: bool = False
) -> subprocess.Popen[str]:
    settings = {"peers": peers, "pods": len(peers), "stays": stays}
    env = {
        "PATH": os.environ["PATH"],
        "KIJ_SPREAD": json.dumps(settings) if len(peers) > 1 else "",
        "KIJ_SPREAD_KEY": "uid",
        "JOB_COMPLETION_INDEX": str(index),
    }
    folder = here.parent / f"pod-{index}"
    return subprocess.Popen(
        [
            *(PYTHON_3_8 or sys.executable, "-I", "-S", "-c", POD, str(here), str(folder)),
            *(str(here.parent / "produced"), fails),
        ],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def says_here(pod: subprocess.Popen[str]) -> bool:
    assert pod.stdout is not None
    return pod.stdout.readline() == "here\n"


def some_peers(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        # The port of packages is one above.
        return [f"127.0.0.1:{each.getsockname()[1] - 1}" for each in sockets]


def test_one_pod_makes_what_all_get(as_in_a_pod: Path) -> None:
    peers = some_peers(3)
    pods = [start(as_in_a_pod, index, peers) for index in range(3)]
    for each in pods:
        assert says_here(each)
    for each in pods:
        each.communicate(timeout=60)
        assert each.returncode == 0
    home = as_in_a_pod.parent
    assert (home / "produced").read_text() == "0\n"
    for index in (1, 2):
        for name in ("sub/a.whl", "lock.txt"):
            found = (home / f"pod-{index}" / name).read_bytes()
            assert found == (home / "pod-0" / name).read_bytes()


def test_a_maker_whose_work_ends_at_once_stays_until_the_others_have_it(as_in_a_pod: Path) -> None:
    peers = some_peers(3)
    others = [start(as_in_a_pod, index, peers, stays=True) for index in (1, 2)]
    maker = start(as_in_a_pod, 0, peers, stays=True)
    out, err = maker.communicate("0", timeout=120)
    assert (out, maker.returncode) == ("here\n", 0), err
    assert all(says_here(each) for each in others)
    for each in others:
        each.communicate(timeout=60)
        assert each.returncode == 0
    # Nobody waits for one that comes late, after the maker has ended: it makes it anew.
    assert (as_in_a_pod.parent / "produced").read_text().startswith("0\n")


@contextlib.contextmanager
def who_still_copies(peer: str) -> Iterator[None]:
    """A pod of index 1 that joins and gets nothing done."""
    host, _, port = peer.rpartition(":")
    over = threading.Event()

    async def copy(joined: threading.Event) -> None:
        wire = await peering.connect(host, int(port) + 1, b"uid", 60)
        await wire.send({"join": 1, "port": 1, "have": 0, "id": ""})
        await wire.receive(60)  # it is known there
        while not over.is_set():
            with contextlib.suppress(OSError):
                await wire.send({"have": 0})
            joined.set()
            await asyncio.sleep(0.5)
        wire.close()

    joined = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(copy(joined)))
    thread.start()
    try:
        assert joined.wait(60)
        yield
    finally:
        over.set()
        thread.join()


def test_a_pod_that_is_told_to_end_stays_for_nobody(as_in_a_pod: Path) -> None:
    peers = some_peers(2)
    pod = start(as_in_a_pod, 0, peers, stays=True)
    assert says_here(pod) and pod.stdin and pod.stdout and pod.stderr
    with who_still_copies(peers[0]):
        pod.stdin.close()
        said = "kij-train: done here; staying while index 1 still copies from pods\n"
        assert said in iter(pod.stderr.readline, "")
        pod.send_signal(signal.SIGTERM)
        assert pod.wait(60) == 0
    pod.stdout.close()
    pod.stderr.close()


def test_a_pod_whose_failure_ends_the_job_stays_for_nobody(as_in_a_pod: Path) -> None:
    peers = some_peers(2)
    pod = start(as_in_a_pod, 0, peers)
    assert says_here(pod)
    with who_still_copies(peers[0]):
        pod.communicate("3", timeout=60)
        assert pod.returncode == 3


def test_a_pod_that_is_alone_makes_it_itself_and_leaves_no_process(as_in_a_pod: Path) -> None:
    out, err = start(as_in_a_pod, 0, ["127.0.0.1:1"]).communicate(timeout=60)
    assert out == "here\n", err
    assert (as_in_a_pod.parent / "pod-0/lock.txt").read_text() == "lock"


def test_what_one_pod_cannot_make_fails_all_of_them_with_its_words(as_in_a_pod: Path) -> None:
    peers = some_peers(2)
    pods = [start(as_in_a_pod, index, peers, fails="no such package: x") for index in range(2)]
    outs = [each.communicate(timeout=60)[0] for each in pods]
    assert outs == ["failed: no such package: x\n", "failed: index 0: no such package: x\n"]
    assert [each.returncode for each in pods] == [contract.EXIT_ORIGIN] * 2


def test_a_pod_that_comes_when_the_maker_is_gone_gets_it_from_another(as_in_a_pod: Path) -> None:
    peers = some_peers(3)
    first = [start(as_in_a_pod, index, peers, stays=True) for index in (0, 1)]
    for each in first:
        assert says_here(each)
    first[0].send_signal(signal.SIGKILL)
    first[0].wait()
    late = start(as_in_a_pod, 2, peers, stays=True)
    out, err = late.communicate(timeout=60)
    assert out == "here\n", err
    first[1].kill()
    for each in first:
        each.communicate()
    assert (as_in_a_pod.parent / "produced").read_text() == "0\n"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the processes beside end with theirs
        with contextlib.suppress(OSError), socket.create_connection(split(peers[0]), timeout=1):
            continue
        break
    else:
        pytest.fail("a process outlives its pod")


def split(peer: str) -> tuple[str, int]:
    host, _, port = peer.rpartition(":")
    return host, int(port) + 1
