"""Who fills the cache with something: one process at a time, as long as it counts.

Whoever fills KEY makes the folder KEY.N, with N above all that are there: to make one is atomic,
and fails where there is one. In it, the owner counts in a file. Others watch this count by their
own monotonic clock: where it stands still for EXPIRES_S, the owner is gone, and the next one makes
KEY.N+1 and removes what is below. Clocks of two machines are never compared.

This saves work, and no more hangs on it. Each owner writes into its own folder, from which a rename
takes what is whole. An owner that stood still and wakes up finds its folder gone, and ends.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import errno
import os
import re
import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

BEAT_S = 1.0
EXPIRES_S = 15.0
LOOK_S = 0.5
STUCK_S = 600.0
"""An owner that counts, and has put nothing more for this long, is not waited for."""
BEAT = "beat"
"""The file with the count."""
_NAME = re.compile(r"([0-9a-f]{64})\.([0-9]{1,9})")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Owner(NamedTuple):
    """Who fills something."""

    job: str
    """A hash of its uid: the uid itself is what the job's pods know each other by."""
    pod: str
    """The index, or what else tells it from others of the job."""
    name: str
    """Of the job, for people."""


class Beat(NamedTuple):
    """What an owner says now and then."""

    number: int
    """It grows."""
    done: int
    """Bytes that it has put."""
    owner: Owner

    def text(self) -> str:
        """Always of the same length, since it is written over the last one."""
        return f"{self.number:020d} {self.done:020d} {' '.join(self.owner)}\n"

    @staticmethod
    def read(text: str) -> "Optional[Beat]":
        """None for what is none."""
        parts = text.split()
        if len(parts) != 5 or not (parts[0].isdigit() and parts[1].isdigit()):
            return None
        return Beat(int(parts[0]), int(parts[1]), Owner(*parts[2:]))


class _Watch:
    """What this process has seen of somebody else's count."""

    def __init__(self, filling: int, name: str) -> None:
        self._filling, self._name = filling, name
        self.beat: Optional[Beat] = None
        self._since = self._put = time.monotonic()

    def look(self) -> bool:
        """Whether there is an owner."""
        now = time.monotonic()
        try:
            folder = os.open(self._name, _FOLDER, dir_fd=self._filling)
        except OSError:
            return False
        try:
            beat = Beat.read(_read(folder))
        finally:
            os.close(folder)
        if beat is not None and beat != self.beat:
            if self.beat is None or beat.done != self.beat.done:
                self._put = now
            self.beat, self._since = beat, now
        return now - self._since < EXPIRES_S

    @property
    def is_stuck(self) -> bool:
        """Whether it puts nothing more."""
        return time.monotonic() - self._put >= STUCK_S


def _read(folder: int) -> str:
    """The file with the count; empty where there is none yet."""
    try:
        # Opened each time: this is when NFS asks the server.
        file = os.open(BEAT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return ""
    try:
        return os.read(file, 4096).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(file)


class Lease:
    """The right to fill something. `fd` is its folder."""

    def __init__(self, filling: int, name: str, fd: int) -> None:
        self.fd, self.name, self._filling = fd, name, filling
        self.done = 0
        """Bytes that were put."""
        self._count = 0

    def beat(self, owner: Owner) -> None:
        """Count. Raises OSError where another one has taken over."""
        self._count += 1
        file = os.open(BEAT, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=self.fd)
        try:
            os.write(file, Beat(self._count, self.done, owner).text().encode())
        finally:
            os.close(file)


class Leases:
    """The folder of what is being filled. One lease at a time; a thread counts for it."""

    def __init__(self, filling: int, mode: int, owner: Owner) -> None:
        """`filling` is the open folder, `mode` that of new ones."""
        self._filling, self._mode, self._owner = filling, mode, owner
        self._lease: Optional[Lease] = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def take(
        self,
        key: str,
        is_wanted: Callable[[], bool],
        *,
        goes_on: bool,
        on_wait: Callable[[Beat], None],
    ) -> Optional[Lease]:
        """The lease of a key, after those that have it; None where it is not wanted any more.

        With `goes_on`, this process goes on with what another pod of its job has begun: that pod's
        lease is taken over at once, and no other is waited for, since the job waits already. Raises
        OSError, also where somebody else keeps the lease.
        """
        least, watch = 0, (0, _Watch(self._filling, ""))
        self._start()
        while is_wanted():
            newest = max([least, *(number for each, number in self._found() if each == key)])
            if newest != watch[0]:
                watch = (newest, _Watch(self._filling, f"{key}.{newest}"))
            if newest and watch[1].look() and not self._is_ours(watch[1].beat, goes_on):
                beat = watch[1].beat
                name = "another process" if beat is None else f"job {beat.owner.name}"
                if goes_on:
                    raise OSError(errno.EBUSY, f"{name} puts it there")
                if watch[1].is_stuck:
                    raise OSError(errno.EBUSY, f"{name} has put nothing more for {STUCK_S:.0f} s")
                if beat is not None:
                    on_wait(beat)
                time.sleep(LOOK_S)
                continue
            least = newest + 1
            with contextlib.suppress(FileExistsError):
                return self._make(key, least)
        return None

    def _is_ours(self, beat: Optional[Beat], goes_on: bool) -> bool:
        """Whether this pod, or this job, had it before."""
        if beat is None or beat.owner.job != self._owner.job:
            return False
        return goes_on or beat.owner.pod == self._owner.pod

    def _make(self, key: str, number: int) -> Lease:
        name = f"{key}.{number}"
        os.mkdir(name, self._mode, dir_fd=self._filling)
        fd = os.open(name, _FOLDER, dir_fd=self._filling)
        with contextlib.suppress(OSError):
            os.fchmod(fd, self._mode)  # whatever the umask
        lease = Lease(self._filling, name, fd)
        try:
            lease.beat(self._owner)
        except OSError:
            os.close(fd)
            remove(self._filling, name)
            raise
        with self._lock:
            self._lease = lease
        for each, lower in self._found():
            if each == key and lower < number:
                remove(self._filling, f"{each}.{lower}")
        return lease

    def release(self, lease: Lease) -> None:
        """Let it go, with what is in its folder."""
        with self._lock:
            self._lease = None
        os.close(lease.fd)
        remove(self._filling, lease.name)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _found(self) -> List[Tuple[str, int]]:
        """Keys and numbers of all folders."""
        named = (_NAME.fullmatch(name) for name in os.listdir(self._filling))
        return [(match[1], int(match[2])) for match in named if match]

    # --- the thread -------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._count, daemon=True)
            self._thread.start()

    def _count(self) -> None:
        watches: Dict[Tuple[str, int], _Watch] = {}
        while not self._ended.wait(BEAT_S):
            with self._lock, contextlib.suppress(OSError):
                if self._lease is not None:
                    self._lease.beat(self._owner)
            with contextlib.suppress(OSError):
                self._sweep(watches)

    def _sweep(self, watches: "Dict[Tuple[str, int], _Watch]") -> None:
        """Remove what owners that are gone have left, of whatever key."""
        found = self._found()
        newest = dict(sorted(found))
        for key, number in found:
            name = f"{key}.{number}"
            with self._lock:
                if self._lease is not None and self._lease.name == name:
                    continue
            if number < newest[key]:
                remove(self._filling, name)
                continue
            if (key, number) not in watches:
                watches[key, number] = _Watch(self._filling, name)
            if not watches[key, number].look():
                # A folder with a higher number, so that two do not do this at once.
                os.mkdir(f"{key}.{number + 1}", self._mode, dir_fd=self._filling)
                remove(self._filling, name)
                remove(self._filling, f"{key}.{number + 1}")


def remove(filling: int, name: str) -> None:
    """Remove a folder and the files in it, as far as that is possible."""
    with contextlib.suppress(OSError):
        fd = os.open(name, _FOLDER, dir_fd=filling)
        try:
            for each in os.listdir(fd):
                os.unlink(each, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=filling)
