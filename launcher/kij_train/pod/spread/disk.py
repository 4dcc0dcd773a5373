"""The files of a layout on disk, in the folders that they are spread into.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import errno
import itertools
import os
from typing import BinaryIO, Dict, List, Optional, Sequence, Tuple, Union

from kij_train.pod.contract import Failure
from kij_train.pod.spread.chunks import File, Layout
from kij_train.pod.spread.faults import origin_fault
from kij_train.pod.status import size_text

HELD_BACK = 1 << 20
"""Bytes of a volume that are left free, for names and folders."""


class Disk:
    """Writes and reads chunks. Only one thread may write."""

    def __init__(self, folders: Sequence[str], layout: Layout) -> None:
        self._folders, self._layout = list(folders), layout

    def prepare(self) -> None:
        """Make folders and empty files. Raises Failure, also where they cannot have room."""
        self._check_room()
        try:
            for folder in self._folders:
                os.makedirs(folder, exist_ok=True)
            for file in self._layout.files:
                path = self._path(file)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb"):
                    pass
                os.chmod(path, 0o755 if file.executable else 0o644)
        except OSError as error:
            raise unwritable(error) from error

    def write(self, chunk: int, data: "Union[bytes, memoryview]") -> None:
        """Raises Failure."""
        view, path = memoryview(data), ""
        try:
            for piece in self._layout.pieces(chunk):
                part, view = view[: piece.length], view[piece.length :]
                path = self._path(self._layout.files[piece.file])
                with open(path, "r+b", buffering=0) as file:
                    file.seek(piece.offset)
                    while part:
                        part = part[file.write(part) :]
        except OSError as error:
            raise unwritable(error, path) from error

    def read(self, chunk: int) -> bytes:
        """Raises OSError, also where a file has become shorter."""
        parts: List[bytes] = []
        for piece in self._layout.pieces(chunk):
            with open(self._path(self._layout.files[piece.file]), "rb", buffering=0) as file:
                file.seek(piece.offset)
                left = piece.length
                while left:
                    part = file.read(left)
                    if not part:
                        raise OSError(f"{file.name} has become shorter")
                    parts.append(part)
                    left -= len(part)
        return b"".join(parts)

    def whole(self, chunk: int) -> Optional[Tuple[BinaryIO, int]]:
        """The file that a chunk lies in, and where; None where it lies in several. Raises OSError.

        Whoever asks closes it.
        """
        pieces = list(itertools.islice(self._layout.pieces(chunk), 2))
        if len(pieces) != 1:
            return None
        return open(self._path(self._layout.files[pieces[0].file]), "rb"), pieces[0].offset

    def _path(self, file: File) -> str:
        return os.path.join(self._folders[file.folder], *file.path.split("/"))

    def _check_room(self) -> None:
        wanted = [0] * len(self._folders)
        for file in self._layout.files:
            wanted[file.folder] += file.size
        rooms: Dict[int, Tuple[str, int, int]] = {}
        for folder, size in zip(self._folders, wanted):
            while not os.path.isdir(folder):
                folder = os.path.dirname(folder) or "."
            found = os.statvfs(folder)
            device, free = os.stat(folder).st_dev, found.f_bavail * found.f_frsize
            before = rooms.get(device, (folder, free, 0))
            rooms[device] = (before[0], free, before[2] + size)
        for folder, free, size in rooms.values():
            if size > free - HELD_BACK:
                raise origin_fault(
                    "full",
                    f"{folder} has {size_text(free)} free, and {size_text(size)} are to be written",
                )


def unwritable(error: OSError, path: str = "") -> Failure:
    """Why nothing can be written there."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    about = f"cannot write {error.filename or path}: {error.strerror or error}"
    return origin_fault("full" if is_full else "unwritable", about)
