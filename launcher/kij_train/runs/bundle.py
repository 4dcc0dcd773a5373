"""A working directory as a reproducible archive: which files go in, and their bytes.

The archive is a function of the shipped files' names, contents, executable bits and links, and of
nothing else: no times, no owners, no order of the file system.

Which files: all, without those that .gitignore (up to the repository's root) or .kijignore name,
and without what never belongs to a run (DEFAULT_IGNORES, virtual environments, .git). A .kijignore
line with "!" brings a file back. Links that stay inside are kept as links; one that leaves, or a
file that cannot be read, is an error; sockets, pipes and devices are left out.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from kij_train.errors import RequestError
from kij_train.units import format_bytes

MAX_PACKED_BYTES = 8 * 2**20
"""What nine ConfigMaps hold; every node of the cluster that runs a pod fetches all of it."""
MAX_UNPACKED_BYTES = 64 * 2**20
"""Above this nothing is compressed to find out: code is smaller."""
MAX_FILES = 20_000
XZ_PRESET = 6

IGNORE_FILES = (".gitignore", ".kijignore", ".torchxignore")
SECRET_FILES = (".env", ".env.*", ".netrc", ".ssh/", ".aws/", ".kube/", "id_rsa", "id_ed25519")
DEFAULT_IGNORES = (
    "__pycache__/",
    "*.py[co]",
    ".DS_Store",
    ".ipynb_checkpoints/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".tox/",
    ".nox/",
    "node_modules/",
    *SECRET_FILES,
)
_SECRETS = GitIgnoreSpec.from_lines(SECRET_FILES)


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
    """What was left out and might be missed, a sentence each."""


@dataclass
class Listing:
    """The files of a folder that would be shipped."""

    files: dict[str, os.stat_result] = field(default_factory=dict)
    """Relative POSIX path to its lstat; folders end in '/'."""
    notes: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes."""
        return sum(info.st_size for info in self.files.values() if stat.S_ISREG(info.st_mode))


@dataclass(frozen=True)
class _Rules:
    """The patterns of one file, and how its paths follow from those of the listing."""

    spec: GitIgnoreSpec
    below: str = ""
    """The file's folder inside the listing, '' or 'sub/'."""
    above: str = ""
    """Or, for a folder further up, the way from it to the listing."""

    def verdict(self, path: str) -> bool | None:
        """True: ignored; False: brought back by '!'; None: not mentioned."""
        return self.spec.check_file(self.above + path[len(self.below) :]).include


def pack(folder: Path) -> Archive:
    """The archive of what `folder` ships.

    Raises RequestError when it is too large, holds a link that leaves it, or cannot be read.
    """
    listing = list_files(folder)
    _check_size(folder, listing)
    tar = _tar(folder, listing)
    packed = lzma.compress(tar, preset=XZ_PRESET)
    if len(packed) > MAX_PACKED_BYTES:
        raise _too_large(
            folder,
            listing,
            f"{format_bytes(len(packed))} compressed, {format_bytes(MAX_PACKED_BYTES)} is the most",
        )
    return Archive(
        packed=packed,
        sha256=hashlib.sha256(tar).hexdigest(),
        files=tuple(name for name in listing.files if not name.endswith("/")),
        notes=tuple(listing.notes),
    )


def list_files(folder: Path) -> Listing:
    """What `pack` would ship, in sorted order. Raises RequestError."""
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such folder to ship")
    folder = folder.resolve()
    listing = Listing()
    rules = [_Rules(GitIgnoreSpec.from_lines(DEFAULT_IGNORES)), *_outer_rules(folder)]
    _walk(folder, "", rules, listing)
    listing.files = dict(sorted(listing.files.items()))
    listing.notes += _links_to_nothing(folder, listing)
    return listing


def lines_that_ship(folder: Path, path: str) -> list[str]:
    """What .kijignore in `folder` takes to ship an ignored file, and nothing else of its folders.

    A folder that is ignored is not looked into: it comes back first, without what it holds.
    """
    listing = list_files(folder)
    lines: list[str] = []
    for parent in reversed(PurePosixPath(path).parents[:-1]):
        if lines or f"{parent}/" not in listing.files:
            lines += [f"!/{parent}/", f"/{parent}/*"]
    return [*lines, f"!/{path}"]


def _outer_rules(folder: Path) -> Iterator[_Rules]:
    """The .gitignore files above `folder`, outermost first, when it is part of a repository."""
    root = next((p for p in (folder, *folder.parents) if (p / ".git").exists()), None)
    if root is None or root == folder:
        return
    above = [p for p in reversed(folder.parents) if p == root or root in p.parents]
    for parent in above:
        lines = _read_lines(parent / ".gitignore")
        if lines:
            way = folder.relative_to(parent).as_posix() + "/"
            yield _Rules(GitIgnoreSpec.from_lines(lines), above=way)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None


def _ignored(path: str, rules: list[_Rules]) -> bool:
    """Whether the innermost rule that speaks of `path` (folders end in '/') ignores it."""
    for rule in reversed(rules):
        verdict = rule.verdict(path)
        if verdict is not None:
            return verdict
    return False


def _walk(folder: Path, inside: str, rules: list[_Rules], listing: Listing) -> None:
    here = folder / inside
    for name in IGNORE_FILES:
        lines = _read_lines(here / name)
        if lines:
            rules = [*rules, _Rules(GitIgnoreSpec.from_lines(lines), below=inside)]
    try:
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(inside or ".", error) from None
    for entry in entries:
        path = inside + entry.name
        info = entry.stat(follow_symlinks=False)
        is_folder = stat.S_ISDIR(info.st_mode)
        if entry.name == ".git" or _ignored(path + "/" * is_folder, rules):
            if _SECRETS.match_file(path + "/" * is_folder):
                listing.notes.append(f"left out {path}: it looks like a secret")
        elif is_folder:
            if (here / entry.name / "pyvenv.cfg").exists():
                continue
            listing.files[path + "/"] = info
            _walk(folder, path + "/", rules, listing)
        elif stat.S_ISREG(info.st_mode):
            listing.files[path] = info
        elif stat.S_ISLNK(info.st_mode):
            _check_link(folder, path)
            listing.files[path] = info
        else:
            listing.notes.append(f"left out {path}: a socket, pipe or device")
    if len(listing.files) > MAX_FILES:
        raise _too_large(folder, listing, f"more than {MAX_FILES} files")


def _check_link(folder: Path, path: str) -> None:
    target = (folder / path).readlink()
    beside = (folder / path).parent
    # As it reads, and through other links, which the pod follows as well.
    places = (os.path.normpath(beside / target), os.path.realpath(beside / target))
    if target.is_absolute() or not all(Path(place).is_relative_to(folder) for place in places):
        raise RequestError(
            f"{path} is a link to {target}, outside of {folder}: it would lead nowhere in the pods",
            hints=(
                f"leave it out: echo /{path} >> .kijignore",
                "mount data: --mount pvc:NAME:/path",
            ),
        )


def _links_to_nothing(folder: Path, listing: Listing) -> Iterator[str]:
    """A note for every link whose target is not shipped: ignored, or not there at all."""
    for path, info in listing.files.items():
        if stat.S_ISLNK(info.st_mode):
            where = Path(os.path.realpath(folder / path)).relative_to(folder).as_posix()
            if where != "." and where not in listing.files and f"{where}/" not in listing.files:
                target = (folder / path).readlink()
                yield f"{path} is a link to {target}, which is not among the shipped files"


def _check_size(folder: Path, listing: Listing) -> None:
    if listing.size_bytes > MAX_UNPACKED_BYTES:
        raise _too_large(
            folder,
            listing,
            f"{format_bytes(listing.size_bytes)}, {format_bytes(MAX_UNPACKED_BYTES)} is the most",
        )


def _too_large(folder: Path, listing: Listing, how: str) -> RequestError:
    sizes: Iterable[tuple[int, str]] = (
        (info.st_size, path) for path, info in listing.files.items() if path[-1] != "/"
    )
    biggest = sorted(sizes, reverse=True)[:5]
    names = "".join(f"\n  {format_bytes(size):>9}  {path}" for size, path in biggest)
    return RequestError(
        f"the code in {folder} is too large to ship: {how}. The biggest files:{names}",
        hints=(
            "leave files out: name them in .kijignore",
            "or put the code into the image: --no-code --image IMAGE",
            "or onto a volume: --no-code --mount pvc:NAME:/code, and run /code/SCRIPT",
            "or let the image fetch it: --no-code --no-python sh -c 'git clone … && …'",
        ),
    )


def _unreadable(path: str, error: OSError) -> RequestError:
    return RequestError(
        f"cannot read {path}: {error.strerror}",
        hints=(f"leave it out: echo /{path} >> .kijignore",),
    )


def _tar(folder: Path, listing: Listing) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, info in listing.files.items():
            member = tarfile.TarInfo(path.rstrip("/"))
            member.mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
            if stat.S_ISLNK(info.st_mode):
                member.type, member.mode = tarfile.SYMTYPE, 0o777
                member.linkname = str((folder / path).readlink())
                tar.addfile(member)
            elif path.endswith("/"):
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                try:
                    content = (folder / path).read_bytes()
                except OSError as error:
                    raise _unreadable(path, error) from None
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
