"""A folder that jobs share: what one of them has fetched or installed, the next ones find there.

    FOLDER/kij-train-cache-1/whole/KEY      something whole: one file
    FOLDER/kij-train-cache-1/filling/KEY.N  what somebody puts there now (leases.py)

KEY is a hash of what is meant. A file of `whole` came there by a rename: who reads it never sees
half of it. It has the bytes of all files end to end, then their layout, the SHA-256 of every chunk,
and a trailer; every chunk is checked when it is read. Names of files are in the layout alone, which
is checked as one that comes from another pod is. All is opened below the folder, and no link is
followed.

A cache that cannot be used or written costs a line in the log, and nothing else.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import errno
import hashlib
import json
import os
import socket
import stat
import struct
from typing import Callable, Dict, Iterator, List, Optional, Sequence

from kij_train.pod import contract
from kij_train.pod.spread.chunks import CHUNK_BYTES, File, Layout
from kij_train.pod.spread.disk import HELD_BACK, Disk
from kij_train.pod.spread.leases import Beat, Lease, Leases, Owner
from kij_train.pod.status import AwaitingCache, size_text

FORMAT = "kij-train-cache-1"
PART = "part"
SAY_AGAIN = 60
"""Looks at somebody else's count between two lines that say so: half a minute."""
_TRAILER = struct.Struct(">8sIQ32s")
_MAGIC = b"kijcache"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
Say = Callable[[str], None]


class Damaged(Exception):  # noqa: N818 - a verdict
    """What the cache has is not what was put there."""


def key_of(*parts: object) -> str:
    """A key for what some words and numbers name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Entry:
    """Something whole, open for reading."""

    def __init__(self, fd: int, layout: Layout, hashes: bytes) -> None:
        self._fd, self.layout, self._hashes = fd, layout, hashes
        self._number, self._data = -1, b""
        """The last chunk that was read: small files share one."""

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """Of the bytes of all files. Raises Damaged."""
        while length:
            number, skip = divmod(start, self.layout.chunk_bytes)
            data = self.chunk(number)[skip : skip + length]
            yield data
            start, length = start + len(data), length - len(data)

    def chunk(self, number: int) -> bytes:
        """Raises Damaged."""
        if number != self._number:
            size = self.layout.size_of(number)
            try:
                data = _read_whole(self._fd, size, number * self.layout.chunk_bytes)
            except OSError as error:
                raise Damaged(error.strerror) from error
            if hashlib.sha256(data).digest() != self._hashes[32 * number : 32 * number + 32]:
                raise Damaged("its bytes are not those that were put there")
            self._number, self._data = number, data
        return self._data

    def unpack(self, folder: str) -> None:
        """Write all files. Raises Damaged and Failure."""
        disk = Disk([folder], self.layout)
        disk.prepare()
        for number in range(self.layout.count):
            disk.write(number, self.chunk(number))

    def close(self) -> None:
        """Let the file go."""
        os.close(self._fd)


def _open_entry(whole: int, key: str) -> Entry:
    """Raises OSError where there is none, and Damaged."""
    fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=whole)
    try:
        about = os.fstat(fd)
        end = about.st_size - _TRAILER.size
        if not stat.S_ISREG(about.st_mode) or end < 0:
            raise Damaged("it is none of ours")
        magic, length, count, digest = _TRAILER.unpack(_read_whole(fd, _TRAILER.size, end))
        if magic != _MAGIC or length + 32 * count > end:
            raise Damaged("it is none of ours")
        footer = _read_whole(fd, length + 32 * count, end - length - 32 * count)
        if hashlib.sha256(footer).digest() != digest:
            raise Damaged("its list of files is not what was put there")
        layout = Layout.decode(footer[:length], 1)
        if layout.mark != key or layout.count != count:
            raise Damaged("it is something else")
        if layout.total + len(footer) != end:
            raise Damaged("it is not whole")
        return Entry(fd, layout, footer[length:])
    except (ValueError, struct.error) as error:
        os.close(fd)
        raise Damaged(str(error)) from error
    except (OSError, Damaged):
        os.close(fd)
        raise


def _read_whole(fd: int, size: int, offset: int) -> bytes:
    """Raises Damaged where there is less, and OSError."""
    parts: List[bytes] = []
    while size:
        data = os.pread(fd, size, offset)
        if not data:
            raise Damaged("it is not whole")
        parts.append(data)
        size, offset = size - len(data), offset + len(data)
    return b"".join(parts)


class Filling:
    """Something that this process puts there. What cannot be put is said once, and left."""

    def __init__(self, cache: "Cache", leases: Leases, lease: Lease, whole: int, key: str) -> None:
        self._cache, self._leases, self._whole, self._key = cache, leases, whole, key
        self._lease: Optional[Lease] = lease
        self._file = -1
        self._hashes: List[bytes] = []
        self._hash, self._left = hashlib.sha256(), CHUNK_BYTES

    def begin(self, total: Optional[int]) -> None:
        """`total` is how many bytes will come, where that is known."""
        with self._said():
            assert self._lease is not None
            found = os.fstatvfs(self._lease.fd)
            if total is not None and total > found.f_bavail * found.f_frsize - HELD_BACK:
                free = size_text(found.f_bavail * found.f_frsize)
                raise OSError(
                    errno.ENOSPC, f"it has {free} free, and {size_text(total)} would come"
                )
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._file = os.open(PART, flags, 0o666 & self._cache.mode, dir_fd=self._lease.fd)
            with contextlib.suppress(OSError):
                os.fchmod(self._file, 0o666 & self._cache.mode)

    def write(self, data: bytes) -> None:
        """The next bytes of all files."""
        if self._lease is None:
            return
        with self._said():
            _write_whole(self._file, data)
            self._lease.done += len(data)
            view = memoryview(data)
            while view:
                part, view = view[: self._left], view[self._left :]
                self._hash.update(part)
                self._left -= len(part)
                if not self._left:
                    self._end_chunk()

    def _end_chunk(self) -> None:
        self._hashes.append(self._hash.digest())
        self._hash, self._left = hashlib.sha256(), CHUNK_BYTES

    def publish(self, files: Sequence[File]) -> None:
        """All bytes of these files were written: let others see them."""
        if self._lease is None:
            return
        with self._said():
            if self._left < CHUNK_BYTES:
                self._end_chunk()
            layout = Layout(files, self._key)
            layout.check()
            if layout.total != self._lease.done:
                raise OSError(errno.EIO, "not all of it has come")
            encoded, hashes = layout.encode(), b"".join(self._hashes)
            digest = hashlib.sha256(encoded + hashes).digest()
            trailer = _TRAILER.pack(_MAGIC, len(encoded), len(self._hashes), digest)
            _write_whole(self._file, encoded + hashes + trailer)
            os.fsync(self._file)
            os.rename(PART, self._key, src_dir_fd=self._lease.fd, dst_dir_fd=self._whole)
            self._cache.say(f"put {size_text(layout.total)} into the cache")
        self.close()

    def put_folder(self, folder: str, files: Sequence[File]) -> None:
        """All files of a folder."""
        self.write_files(folder, files)
        self.publish(files)

    def write_files(self, folder: str, files: Sequence[File], total: Optional[int] = None) -> None:
        """The content of files of a folder, or the first `total` bytes of it."""
        left = sum(file.size for file in files) if total is None else total
        with self._said():
            for file in files:
                size = min(file.size, left)
                left -= size
                with open(os.path.join(folder, *file.path.split("/")), "rb") as source:
                    while size and self._lease is not None:
                        data = source.read(min(size, 1 << 20))
                        if not data:
                            raise OSError(errno.EIO, f"{source.name} has become shorter")
                        size -= len(data)
                        self.write(data)

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """An error of the volume is a line, and the end of this."""
        try:
            yield
        except (OSError, ValueError) as error:
            if self._lease is not None:
                taken = isinstance(error, FileNotFoundError)  # it has removed this folder
                why = ValueError("another process took over") if taken else error
                self._cache.cannot("not kept in the cache", why)
            self.close()

    def close(self) -> None:
        """Let it go; what was not published is removed."""
        if self._lease is None:
            return
        lease, self._lease = self._lease, None
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._leases.release(lease)


def _write_whole(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


class Cache:
    """The folder. Nothing of it raises OSError."""

    def __init__(self, folder: str, owner: Owner, say: Say) -> None:
        self._folder, self._owner, self.say = folder, owner, say
        self._whole = -1
        self._open: List[int] = []
        self._leases: Optional[Leases] = None
        self._why: Optional[OSError] = None
        """Why it cannot be written."""
        self.mode = 0o777
        """Of what is made in it: as the folder itself is."""
        try:
            self._enter()
        except OSError as error:
            self._why = error

    def _enter(self) -> None:
        with contextlib.suppress(OSError):
            os.makedirs(self._folder, exist_ok=True)
        root = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)  # may be a link of the user's
        self._open.append(root)
        self.mode = stat.S_IMODE(os.fstat(root).st_mode) & 0o2777
        top = self._enter_folder(FORMAT, root)
        self._whole = self._enter_folder("whole", top)
        self._leases = Leases(self._enter_folder("filling", top), self.mode, self._owner)

    def _enter_folder(self, name: str, above: int) -> int:
        try:
            fd = os.open(name, _FOLDER, dir_fd=above)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, self.mode, dir_fd=above)
            fd = os.open(name, _FOLDER, dir_fd=above)
            with contextlib.suppress(OSError):
                os.fchmod(fd, self.mode)  # whatever the umask
        self._open.append(fd)
        return fd

    def get(self, key: str) -> Optional[Entry]:
        """What it has whole."""
        if self._whole < 0:
            return None
        try:
            return _open_entry(self._whole, key)
        except Damaged as damage:
            self.discard(key, str(damage))
        except OSError:
            pass
        return None

    def discard(self, key: str, why: str) -> None:
        """What it has is no good."""
        self.say(f"the cache has something damaged, which is not used: {why}")
        with contextlib.suppress(OSError):
            os.unlink(key, dir_fd=self._whole)

    def fill(
        self,
        key: str,
        what: str,
        total: Optional[int] = None,
        *,
        goes_on: bool = False,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Optional[Filling]:
        """Begin to put something there; None where it is whole by now, or cannot be put.

        Why it cannot is said. `what` is for people, `goes_on` as in Leases.take. `on_wait` is
        called before another one is waited for.
        """
        if self._leases is None:
            assert self._why is not None
            self.cannot("going on without the cache", self._why)
            return None
        looks = 0

        def wait(beat: Beat) -> None:
            nonlocal looks
            if not looks % SAY_AGAIN:
                on_wait()
                self.say(AwaitingCache(beat.owner.name, what, beat.done).text())
            looks += 1

        try:
            lease = self._leases.take(
                key, lambda: not self._has(key), goes_on=goes_on, on_wait=wait
            )
        except OSError as error:
            self.cannot("not kept in the cache", error)
            return None
        if lease is None:
            return None
        filling = Filling(self, self._leases, lease, self._whole, key)
        filling.begin(total)
        return filling

    def _has(self, key: str) -> bool:
        try:
            _open_entry(self._whole, key).close()
        except (OSError, Damaged):
            return False
        return True

    def cannot(self, what: str, error: Exception) -> None:
        """Say why something of the cache cannot be done."""
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.say(f"{what}: {self._folder}: {why}")

    def close(self) -> None:
        """Let all go."""
        if self._leases is not None:
            self._leases.close()
        while self._open:
            os.close(self._open.pop())
        self._whole, self._leases = -1, None


def cache_of(environment: Dict[str, str], say: Say) -> Optional[Cache]:
    """The cache that this pod was given; None without one."""
    folder = environment.get(contract.ENV_CACHE, "")
    if not folder:
        return None
    uid = environment.get(contract.ENV_SPREAD_KEY) or os.urandom(16).hex()
    owner = Owner(
        hashlib.sha256(f"cache of {uid}".encode()).hexdigest()[:16],
        environment.get(contract.ENV_COMPLETION_INDEX) or "0",
        "".join((environment.get(contract.ENV_JOB) or socket.gethostname()).split()) or "?",
    )
    return Cache(folder, owner, say)


def filled(
    key: str,
    what: str,
    folder: str,
    make: Callable[[str], None],
    environment: Dict[str, str],
    say: Say,
) -> bool:
    """Fill an empty folder, from the cache or else by `make`, whose files get there then.

    Returns whether it came from the cache. Raises Failure, and what `make` raises.
    """
    from kij_train.pod.spread.sharing import list_folder

    cache = cache_of(environment, say)
    if cache is None:
        make(folder)
        return False
    filling: Optional[Filling] = None
    try:
        if _unpacked(cache, key, folder):
            return True
        filling = cache.fill(key, what)
        if filling is None and _unpacked(cache, key, folder):
            return True
        make(folder)
        if filling is not None:
            filling.put_folder(folder, list_folder(folder))
        return False
    finally:
        if filling is not None:
            filling.close()
        cache.close()


def _unpacked(cache: Cache, key: str, folder: str) -> bool:
    """Raises Failure."""
    entry = cache.get(key)
    if entry is None:
        return False
    try:
        entry.unpack(folder)
        return True
    except Damaged as damage:
        cache.discard(key, str(damage))
        _empty(folder, entry.layout.files)
        return False
    finally:
        entry.close()


def _empty(folder: str, files: Sequence[File]) -> None:
    """Remove what a damaged entry has left."""
    for file in files:
        with contextlib.suppress(OSError):
            os.remove(os.path.join(folder, *file.path.split("/")))
