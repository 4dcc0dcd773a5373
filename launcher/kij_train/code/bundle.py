"""A working directory as a reproducible archive. Which files go in is told by listing.py.

The archive is a function of the shipped files' names, contents, executable bits and links, and of
nothing else: no times, no owners, no order of the file system.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import stat
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kij_train.code import gitignore, leftout
from kij_train.code.leftout import LeftOut
from kij_train.code.listing import MAX_UNPACKED_BYTES, Listing, list_files, unreadable
from kij_train.errors import RequestError
from kij_train.ignorefile import adding
from kij_train.paths import shown
from kij_train.units import format_bytes

MAX_PACKED_BYTES = 8 * 2**20
"""What nine ConfigMaps hold; every node of the cluster that runs a pod fetches all of it."""
MAX_FILES = 20_000
XZ_PRESET = 0
"""Of 12 MiB of Python it makes 2.6 MB in 0.4 s, where preset 6 makes 1.9 MB in 5 s."""
_FAST = [{"id": lzma.FILTER_LZMA2, "preset": XZ_PRESET, "dict_size": MAX_PACKED_BYTES}]
"""It would forget after 256 KiB what it has seen."""
XZ_BEST_PRESET = 6
"""For what is too large by so little that it may still fit."""
BEST_SAVES = 1.4
BLOCK_BYTES, PROBE_BYTES = 64 * 1024, 4 * 1024
COMPRESSES = 0.9
"""Data whose probe stays larger than this part of itself hardly gets smaller."""
MTIME = 946684800
"""2000-01-01 UTC, of every file: ZIP, for one, knows no time before 1980."""
MOST_NAMED = 5


@dataclass(frozen=True)
class Archive:
    """The shipped code."""

    packed: bytes
    """tar.xz"""
    sha256: str
    """Of the tar before compression, so that it does not hang on the compressor's version."""
    files: tuple[str, ...]
    """Paths of the files and links, relative to the folder."""
    notes: tuple[str, ...] = ()
    """What was left out by us and might be missed, or ships and might not be meant."""
    left_out: tuple[LeftOut, ...] = ()
    """All that stays here, but for caches."""


def pack(folder: Path) -> Archive:
    """The archive of what `folder` ships.

    Raises RequestError when it is too large, holds a link that leaves it, or cannot be read.
    """
    listing = list_files(folder)
    _check_size(listing)
    tar = _tar(listing)
    return Archive(
        packed=_compress(tar, listing),
        sha256=hashlib.sha256(tar).hexdigest(),
        files=listing.names,
        notes=(
            *listing.notes,
            *leftout.notes(listing.folder, listing.left_out, listing.checkpoints),
        ),
        left_out=tuple(listing.left_out),
    )


def _compress(tar: bytes, listing: Listing) -> bytes:
    """As tar.xz. Raises RequestError when that is too large."""
    hard = _bytes_that_stay(tar)
    if hard * COMPRESSES > MAX_PACKED_BYTES:
        raise _too_large(listing, f"{format_bytes(hard)} of it do not compress, {_MOST}")
    packed = lzma.compress(tar, filters=_FAST)
    if MAX_PACKED_BYTES < len(packed) <= MAX_PACKED_BYTES * BEST_SAVES:
        packed = lzma.compress(tar, preset=XZ_BEST_PRESET)
    if len(packed) > MAX_PACKED_BYTES:
        raise _too_large(listing, f"{format_bytes(len(packed))} compressed, {_MOST}")
    return packed


_MOST = f"{format_bytes(MAX_PACKED_BYTES)} is the most"


def _bytes_that_stay(tar: bytes) -> int:
    """How much of it hardly compresses, told from the beginning of every block.

    xz finds out as well, at 2 MB a second. What is there twice counts once, as it does for xz.
    """
    hard: set[bytes] = set()
    for start in range(0, len(tar) - BLOCK_BYTES + 1, BLOCK_BYTES):
        probe = tar[start : start + PROBE_BYTES]
        if len(zlib.compress(probe, 1)) > PROBE_BYTES * COMPRESSES:
            hard.add(probe)
    return len(hard) * BLOCK_BYTES


def _check_size(listing: Listing) -> None:
    if listing.is_cut or len(listing.files) > MAX_FILES:
        raise _too_large(listing, f"more than {MAX_FILES:,} files", by_count=True)
    if listing.size_bytes > MAX_UNPACKED_BYTES:
        most = format_bytes(MAX_UNPACKED_BYTES)
        raise _too_large(listing, f"{format_bytes(listing.size_bytes)}, {most} is the most")


def _too_large(listing: Listing, how: str, *, by_count: bool = False) -> RequestError:
    heaviest = _heaviest(listing, by_count)
    names = "".join(f"\n  {line}" for _, line in heaviest)
    out = "name in .kijignore what is no code"  # where there are only folders, and no file
    if heaviest:
        command = adding(listing.folder, gitignore.literal(heaviest[0][0]))
        out = f"leave out the largest, if the script does not need it: {command}"
    return RequestError(
        f"the code in {shown(str(listing.folder))} is too large to ship: {how}. What takes most:"
        f"{names}",
        hints=(
            out,
            "get data and weights elsewhere: --fetch https://HOST/FILE:/FOLDER; with --cache "
            "pvc:NAME, the next job has them at once",
            "or from a volume: --mount pvc:NAME:/FOLDER",
            "or put the code into the image: --no-code --image IMAGE",
            "or onto a volume: --no-code --mount pvc:NAME:/code, and run /code/SCRIPT",
            "or let the image fetch it: --no-code --no-python sh -c 'git clone … && …'",
        ),
    )


def _heaviest(listing: Listing, by_count: bool) -> list[tuple[str, str]]:
    """The files and folders that take most, each as deep as it still holds it all, with a line."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    children: dict[str, set[str]] = {}
    for path in listing.names:
        part = path
        for parent in PurePosixPath(path).parents:
            folder = "" if str(parent) == "." else f"{parent}/"
            children.setdefault(folder, set()).add(part)
            part = folder
        for each in (path, *(f"{parent}/" for parent in PurePosixPath(path).parents)):
            sizes[each] += listing.files[path].st_size
            counts[each] += 1
    weights = counts if by_count else sizes
    lines = []
    for name in sorted(children.get("", ()), key=lambda each: -weights[each])[:MOST_NAMED]:
        heavy = name
        while children.get(heavy):
            first = max(children[heavy], key=lambda each: weights[each])
            if weights[first] < weights[heavy] * 0.9:
                break
            heavy = first
        many = f" ({counts[heavy]:,} files)" if heavy.endswith("/") else ""
        lines.append((heavy, f"{format_bytes(sizes[heavy]):>9}  {shown(heavy)}{many}"))
    return lines


def _tar(listing: Listing) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, info in listing.files.items():
            member = tarfile.TarInfo(path.rstrip("/"))
            member.mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
            member.mtime = MTIME
            if stat.S_ISLNK(info.st_mode):
                member.type, member.mode = tarfile.SYMTYPE, 0o777
                member.linkname = listing.links[path]
                tar.addfile(member)
            elif path.endswith("/"):
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                try:
                    content = (listing.folder / path).read_bytes()
                except OSError as error:
                    raise unreadable(listing.folder, path, error) from None
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
