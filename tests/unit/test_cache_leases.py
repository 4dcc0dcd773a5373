"""Who may fill the cache: several at once, that are killed, stand still and wake up again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kij_train import pod
from kij_train.pod import spread
from kij_train.pod.spread import leases
from kij_train.pod.spread.cache import FORMAT, Cache, key_of
from kij_train.pod.spread.chunks import File
from kij_train.pod.spread.leases import Beat, Lease, Leases, Owner

from tests.unit.test_bootstrap import PYTHON_3_8

KEY, OTHER = key_of("something"), key_of("another")
MINE, THEIRS = Owner("job-a", "0", "mine"), Owner("job-b", "0", "theirs")


class Clock:
    """In place of the module `time`: it goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(leases, "time", made)
    monkeypatch.setattr(leases, "BEAT_S", 3600.0)  # the tests count themselves
    return made


class Folder:
    """What is being filled, and those that do it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self._made: list[Leases] = []

    def of(self, owner: Owner) -> Leases:
        self._made.append(Leases(self.fd, 0o777, owner))
        return self._made[-1]

    @property
    def names(self) -> set[str]:
        return {each.name for each in self.path.iterdir()}

    def close(self) -> None:
        for each in self._made:
            each.close()
        os.close(self.fd)


@pytest.fixture
def filling(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.close()


def take(taker: Leases, key: str = KEY, waits: list[Beat] | None = None, **how: bool) -> Lease:
    waited = waits if waits is not None else []
    lease = taker.take(key, lambda: True, goes_on=how.get("goes_on", False), on_wait=waited.append)
    assert lease is not None
    return lease


def test_what_nobody_fills_is_taken_at_once_and_leaves_nothing(
    filling: Folder, clock: Clock
) -> None:
    mine, waits = filling.of(MINE), list[Beat]()
    mine.release(take(mine, waits=waits))
    mine.release(take(mine, waits=waits))
    assert waits == [] and filling.names == set() and clock.now == 1000.0


def test_a_lease_whose_owner_counts_no_more_is_taken_after_its_time_and_not_before(
    filling: Folder, clock: Clock
) -> None:
    take(filling.of(THEIRS))
    waits: list[Beat] = []
    take(filling.of(MINE), waits=waits)
    waited_s = clock.now - 1000.0
    assert leases.EXPIRES_S <= waited_s <= leases.EXPIRES_S + leases.LOOK_S
    assert {beat.owner for beat in waits} == {THEIRS} and filling.names == {f"{KEY}.2"}


def test_an_owner_that_counts_is_never_taken_for_gone(filling: Folder, clock: Clock) -> None:
    theirs = take(filling.of(THEIRS))
    looks = 0

    def wait(beat: Beat) -> None:
        nonlocal looks
        looks += 1
        theirs.done += 1
        if not looks % 25:  # every 12.5 s
            theirs.beat(THEIRS)

    mine = filling.of(MINE)
    none = mine.take(KEY, lambda: looks < 10_000, goes_on=False, on_wait=wait)
    assert none is None and clock.now > 4000 and filling.names == {f"{KEY}.1"}


def test_an_owner_that_counts_and_puts_nothing_is_not_waited_for_longer(
    filling: Folder, clock: Clock
) -> None:
    theirs = take(filling.of(THEIRS))
    with pytest.raises(OSError, match="job theirs has put nothing more for 600 s"):
        filling.of(MINE).take(
            KEY, lambda: True, goes_on=False, on_wait=lambda _: theirs.beat(THEIRS)
        )
    assert clock.now >= 1600


def test_a_pod_that_comes_for_a_lost_one_of_its_job_has_its_lease_at_once(
    filling: Folder, clock: Clock
) -> None:
    take(filling.of(MINE))
    take(filling.of(MINE))
    assert clock.now == 1000.0 and filling.names == {f"{KEY}.2"}
    neighbour = MINE._replace(pod="3")
    take(filling.of(neighbour), goes_on=True)
    assert clock.now == 1000.0 and filling.names == {f"{KEY}.3"}
    take(filling.of(MINE))  # which begins anew, and does not know that the other one is lost
    assert clock.now >= 1000.0 + leases.EXPIRES_S


def test_who_goes_on_for_a_lost_pod_waits_for_no_other_job(filling: Folder, clock: Clock) -> None:
    take(filling.of(THEIRS))
    with pytest.raises(OSError, match="job theirs puts it there"):
        take(filling.of(MINE), goes_on=True)
    assert clock.now == 1000.0


def test_what_others_have_left_is_removed_once_they_are_gone(filling: Folder, clock: Clock) -> None:
    theirs = take(filling.of(THEIRS), OTHER)
    (filling.path / f"{OTHER}.1" / "part").write_text("half")
    mine = filling.of(MINE)
    lease, watches = take(mine), {}  # type: ignore[var-annotated]
    for _ in range(10):
        mine._sweep(watches)
        clock.now += leases.EXPIRES_S - 1
        theirs.beat(THEIRS)
    assert filling.names == {f"{OTHER}.1", f"{KEY}.1"}
    mine._sweep(watches)
    clock.now += leases.EXPIRES_S
    mine._sweep(watches)
    assert filling.names == {f"{KEY}.1"}
    mine.release(lease)


def test_an_owner_that_wakes_up_after_others_took_over_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    slow, quick = (Cache(str(tmp_path), owner, said.append) for owner in (THEIRS, MINE))
    asleep = slow.fill(KEY, "x")
    assert asleep is not None
    asleep.write(b"slow")
    monkeypatch.setattr(leases, "EXPIRES_S", 0.0)
    awake = quick.fill(KEY, "x")
    assert awake is not None
    awake.write(b"quick")
    asleep.write(b"er")
    awake.publish([File(0, "a", 5)])
    asleep.publish([File(0, "a", 6)])
    entry = quick.get(KEY)
    assert entry is not None and entry.chunk(0) == b"quick"
    entry.close()
    assert said == [
        "put 5 bytes into the cache",
        f"not kept in the cache: {tmp_path}: another process took over",
    ]
    assert list((tmp_path / FORMAT / "filling").iterdir()) == []
    for each in (slow, quick):
        each.close()


@given(st.integers(0, 10**18), st.integers(0, 2**60))
def test_a_count_is_read_as_it_was_written_and_is_always_as_long(number: int, done: int) -> None:
    beat = Beat(number, done, MINE)
    assert Beat.read(beat.text()) == beat
    assert len(beat.text()) == len(Beat(0, 0, MINE).text())
    assert Beat.read(beat.text()[:-9]) is None or beat.text()[:-9].split()[-1] != "mine"


# --- processes ------------------------------------------------------------------------------------

FILLER = """
import sys, types
here, folder, me, key, expires_s = sys.argv[1:6]
for name in ("kij_train", "kij_train.pod", "kij_train.pod.spread"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [here]
from kij_train.pod.spread import leases
from kij_train.pod.spread.cache import Cache
from kij_train.pod.spread.chunks import File
leases.BEAT_S, leases.LOOK_S, leases.EXPIRES_S = 0.05, 0.05, float(expires_s)

cache = Cache(folder, leases.Owner("job-" + me, "0", me), lambda text: None)
mine = me.encode() * 3_000_000
filling = cache.fill(key, "something")
if filling is not None:
    filling.write(mine[:2_000_000])
    print("wrote", flush=True)
    sys.stdin.readline()
    filling.write(mine[2_000_000:])
    filling.publish([File(0, me, len(mine))])
entry = cache.get(key)
whole = b"".join(entry.read(0, entry.layout.total))
(file,) = entry.layout.files
assert whole == file.path.encode() * 3_000_000, "half a thing"
cache.close()
print("has", file.path, flush=True)
"""


@pytest.fixture(scope="module")
def as_in_a_pod() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as here:
        for file in (*pod.BESIDE, *spread.FILES):
            shutil.copy(file, here)
        yield Path(here)


def start(here: Path, folder: str, me: int, expires_s: float) -> subprocess.Popen[str]:
    python = PYTHON_3_8 or sys.executable
    return subprocess.Popen(
        [python, "-I", "-S", "-c", FILLER, str(here), folder, str(me), KEY, str(expires_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(process: subprocess.Popen[str]) -> None:
    """Let it write the rest, now or when it comes to that."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None


def ended(*processes: subprocess.Popen[str], killed: Container[int] = ()) -> list[str]:
    """What they have printed; `killed` may not have come to an end."""
    for each in processes:
        go(each)  # all of them: one may wait for another
    outs = [each.communicate(timeout=300) for each in processes]
    for number, (each, (_, err)) in enumerate(zip(processes, outs, strict=True)):
        assert not each.returncode or number in killed, err
    return [out for out, _ in outs]


def test_of_several_at_once_one_fills_and_all_have_the_same(
    as_in_a_pod: Path, tmp_path: Path
) -> None:
    fillers = [start(as_in_a_pod, str(tmp_path), me, 600) for me in range(4)]
    outs = ended(*fillers)
    assert sum("wrote" in out for out in outs) == 1
    assert len({out.splitlines()[-1] for out in outs}) == 1
    assert list((tmp_path / FORMAT / "filling").iterdir()) == []


DEEDS = st.sampled_from([signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, None])


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), DEEDS, st.floats(0, 0.3)), max_size=8))
def test_whoever_is_killed_or_stands_still_nobody_reads_half_and_nothing_is_left(
    as_in_a_pod: Path, deeds: list[tuple[int, signal.Signals | None, float]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fillers = [start(as_in_a_pod, folder, me, 0.5) for me in range(3)]
        killed = set()
        for me, deed, pause_s in deeds:
            time.sleep(pause_s)  # not to wait for anything: where it strikes is to differ
            if deed is not None:
                fillers[me].send_signal(deed)
                killed |= {me} if deed is signal.SIGKILL else set()
            else:
                go(fillers[me])
        for each in fillers:
            each.send_signal(signal.SIGCONT)
        ended(*fillers, killed=killed)
        last = start(as_in_a_pod, folder, 9, 0.5)
        assert "has" in ended(last)[0]
        filling = Path(folder, FORMAT, "filling")
        # What a killed one has left is the business of the next one that fills something.
        assert not list(filling.iterdir()) or killed
