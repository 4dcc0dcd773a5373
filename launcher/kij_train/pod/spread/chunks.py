"""What is spread: files, laid end to end and cut into chunks of one size. No I/O.

Chunks come in order, so that how far a pod is, is one number.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import bisect
import hashlib
import itertools
import json
import zlib
from typing import Any, Iterator, NamedTuple, Sequence, Set, Tuple

CHUNK_BYTES = 4 << 20
MOST_BYTES = 64 << 20
"""Of a layout as JSON: about a million files."""


class File(NamedTuple):
    """A file, in one of the folders that something is spread into."""

    folder: int
    path: str
    """Relative, with /."""
    size: int
    executable: bool = False


class Piece(NamedTuple):
    """The part of a file that lies in a chunk."""

    file: int
    offset: int
    length: int


def check_path(path: object) -> str:
    """The path. Raises ValueError for one that would leave its folder, or could be no file."""
    parts = path.split("/") if isinstance(path, str) else []
    if not parts or any(part in ("", ".", "..") for part in parts) or "\0" in "".join(parts):
        raise ValueError(f"{path!r} would leave its folder")
    return str(path)


class Layout:
    """The files of an item, and where each lies in the whole."""

    def __init__(
        self, files: Sequence[File], mark: str = "", chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        """`mark` tells this state of the origin from others: ETags, say."""
        self.files, self.mark, self.chunk_bytes = tuple(files), mark, chunk_bytes
        self._ends = list(itertools.accumulate(file.size for file in self.files))
        self.total = self._ends[-1] if self._ends else 0
        """In bytes."""
        self.count = -(-self.total // chunk_bytes)
        """Of chunks."""
        self.id = hashlib.sha256(self._text()).hexdigest()
        """Pods that have the same one have the same files, and may exchange chunks."""

    def size_of(self, chunk: int) -> int:
        """Of a chunk, in bytes."""
        return min(self.chunk_bytes, self.total - chunk * self.chunk_bytes)

    def pieces(self, chunk: int) -> Iterator[Piece]:
        """What a chunk is made of, in order."""
        start = chunk * self.chunk_bytes
        end = start + self.size_of(chunk)
        file = bisect.bisect_right(self._ends, start)
        while start < end:
            first = self._ends[file] - self.files[file].size
            length = min(end, self._ends[file]) - start
            if length:
                yield Piece(file, start - first, length)
            start, file = start + length, file + 1

    def _text(self) -> bytes:
        said = {"files": self.files, "mark": self.mark, "chunk": self.chunk_bytes}
        return json.dumps(said, separators=(",", ":")).encode()

    def encode(self) -> bytes:
        """As it is sent. Raises ValueError for too many files."""
        text = self._text()
        if len(text) > MOST_BYTES:
            raise ValueError(f"{len(self.files):,} files are too many: pack them into archives")
        return zlib.compress(text, 1)

    @staticmethod
    def decode(data: bytes, folders: int) -> "Layout":
        """Raises ValueError for what is none, or would write outside of its `folders`."""
        inflate = zlib.decompressobj()
        try:
            said: Any = json.loads(inflate.decompress(data, MOST_BYTES).decode())
            files = [_file(entry, folders) for entry in said["files"]]
            layout = Layout(files, str(said["mark"]), int(said["chunk"]))
        except (zlib.error, KeyError, TypeError, RecursionError, ZeroDivisionError) as error:
            raise ValueError(f"no list of files: {error}") from error
        if not 0 < layout.chunk_bytes <= MOST_BYTES:
            raise ValueError(f"chunks of {layout.chunk_bytes} bytes")
        layout.check()
        return layout

    def check(self) -> None:
        """Raises ValueError where two files would be one, or one would be a folder of another."""
        paths: Set[Tuple[int, str]] = set()
        for file in self.files:
            if (file.folder, file.path) in paths:
                raise ValueError(f"{file.path!r} comes twice")
            paths.add((file.folder, file.path))
        for folder, path in paths:
            for at, letter in enumerate(path):
                if letter == "/" and (folder, path[:at]) in paths:
                    raise ValueError(f"{path[:at]!r} is a file and a folder")


def _file(entry: Any, folders: int) -> File:
    folder, path, size, executable = entry
    if not isinstance(folder, int) or not 0 <= folder < folders:
        raise ValueError(f"there is no folder {folder!r} of {folders}")
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{path!r} has {size!r} bytes")
    return File(folder, check_path(path), size, bool(executable))
