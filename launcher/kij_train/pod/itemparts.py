"""Where a runner keeps the records of an index: in a file of its own, or in the log.

A file grows under a temporary name, which no other pod has, and gets its own name when the index is
over. Records of items that went well are found again by the next pod of the index.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import glob
import os
import time
from typing import Callable, Dict, List, Optional, Set

from kij_train.pod import results
from kij_train.pod.contract import EXIT_FAILED, Failure
from kij_train.pod.itemrecords import failed

SYNC_S = 1.0
"""How much a machine that loses its power may lose. A process that is killed loses nothing."""


class Part:
    """The records of an index, as lines."""

    most_line_bytes: Optional[int] = None
    most_bytes: Optional[int] = None
    """None: there is no limit."""

    def __init__(self) -> None:
        self.lines: List[str] = []
        self.done: Set[str] = set()
        """Keys of the items that an earlier pod has done."""
        self._size = 0

    def too_large(self, lines: List[str]) -> str:
        """Why the records of an item cannot be kept, in a line; empty where they can."""
        most, most_of_all = self.most_line_bytes, self.most_bytes
        if most is None or most_of_all is None:
            return ""
        sizes = [len(line.encode()) for line in lines]
        if max(sizes) > most:
            return f"a result of {max(sizes):,} bytes; the log takes {most:,}, a volume more"
        if self._size + sum(sizes) > most_of_all:
            return f"the log takes {most_of_all:,} bytes of results an index, a volume more"
        return ""

    def add(self, lines: List[str]) -> None:
        """Keep the records of an item. Raises Failure where they cannot be written."""
        self._size += sum(len(line.encode()) for line in lines)
        self._keep(lines)
        self.lines += lines

    def finish(self) -> None:
        """The index is over. Raises Failure where what is left cannot be written."""

    def close(self) -> None:
        """The runner ends, before the index does perhaps."""

    def _keep(self, lines: List[str]) -> None:
        raise NotImplementedError


class NoPart(Part):
    """Of a node that has not rank 0: its records are kept nowhere."""

    def _keep(self, lines: List[str]) -> None:
        pass


class LogPart(Part):
    """Records that travel through the log."""

    most_line_bytes = results.MOST_LINE_BYTES
    most_bytes = results.MOST_LOG_BYTES

    def __init__(self, write: Callable[[bytes], None]) -> None:
        """`write` puts a line into the log."""
        super().__init__()
        self._write = write

    def _keep(self, lines: List[str]) -> None:
        for number, line in enumerate(lines, len(self.lines)):
            self._write(results.encode_line(number, line))


class FilePart(Part):
    """Records in a part file."""

    def __init__(self, folder: str, index: int, attempt: int) -> None:
        """Take over what earlier pods have done. Raises Failure where nothing can be written."""
        super().__init__()
        self._folder, self._name = folder, results.part_name(index)
        self._prefix = f".{self._name}.tmp-{attempt}-"
        own = f"{self._prefix}{os.uname().nodename}-{os.getpid()}"
        self._path = os.path.join(folder, own)
        self._synced = time.monotonic()
        try:
            os.makedirs(folder, exist_ok=True)
            found = self._find()
            self._file = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644
            )
        except OSError as error:
            raise self._failure(error) from error
        self.lines = [line for lines in found.values() for line in lines]
        self.done = set(found)
        self._append(self.lines)

    def _keep(self, lines: List[str]) -> None:
        self._append(lines)
        if time.monotonic() > self._synced + SYNC_S:
            self._sync()

    def finish(self) -> None:
        """Give the file its name, and remove those of earlier pods."""
        self._sync()
        self.close()
        path = os.path.join(self._folder, self._name)
        try:
            try:
                os.replace(self._path, path)
                results.sync_folder(self._folder)
            except FileNotFoundError:
                # Removed by another pod of this index, which is over: one of the two was on a
                # machine that had not been heard of.
                results.write_whole(path, "".join(line + "\n" for line in self.lines).encode())
        except OSError as error:
            raise self._failure(error) from error
        for path in self._temporaries():
            with contextlib.suppress(OSError):
                os.unlink(path)

    def close(self) -> None:
        """The file stays, for the next pod."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _find(self) -> Dict[str, List[str]]:
        """Lines of the items that went well, by key."""
        found: Dict[str, List[str]] = {}
        whole = os.path.join(self._folder, self._name)
        paths = [whole] if os.path.exists(whole) else []
        for path in paths + self._temporaries():
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                found.update(_done(file.read(), is_whole=path == whole))
        return found

    def _temporaries(self) -> List[str]:
        pattern = glob.escape(os.path.join(self._folder, self._prefix)) + "*"
        return sorted(path for path in glob.glob(pattern) if path != self._path)

    def _append(self, lines: List[str]) -> None:
        left = memoryview("".join(line + "\n" for line in lines).encode())
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise self._failure(error) from error

    def _sync(self) -> None:
        self._synced = time.monotonic()
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> Failure:
        said = error.strerror or str(error)
        return Failure(EXIT_FAILED, f"cannot write results to {self._folder}: {said}")


def _done(data: bytes, *, is_whole: bool) -> Dict[str, List[str]]:
    """Lines of the items of a part that went well, by key.

    In a part that its pod has not finished the last item may lack lines, where it had several.
    """
    part = results.read_part(data)
    lines = part.data.decode().split("\n")
    found: Dict[str, List[str]] = {}
    bad = {record["key"] for record in part.records if failed(record)}
    last = part.records[-1] if part.records and not is_whole else {}
    if "line" in last:
        bad.add(last["key"])
    for record, line in zip(part.records, lines):
        if record["key"] not in bad:
            found.setdefault(record["key"], []).append(line)
    return found
