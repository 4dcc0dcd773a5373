"""Which files of a folder ship: what git would keep, without what never belongs to a run.

In this order, the first that speaks decides:

1. .kijignore and .torchxignore, written as .gitignore is. A line with "!" brings back what git
   ignores, and reaches into folders that are ignored, which it cannot in a .gitignore.
2. Credentials (credentials.py) stay here, unless .kijignore brings one back by its own name.
3. What git tracks ships.
4. What git ignores stays here: .gitignore up to the repository's root, .git/info/exclude, the
   user's own file. Submodules and other repositories inside follow their own.
5. Caches, virtual environments and the output of earlier runs stay here, unless .kijignore brings
   them back.

Links that stay inside are kept as links; one that leaves, or a file that cannot be read, is an
error; sockets, pipes and devices are left out.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from kij_train.code import credentials, gitignore, repository, rules
from kij_train.code.leftout import LeftOut, Why
from kij_train.code.rules import State
from kij_train.errors import RequestError
from kij_train.ignorefile import adding
from kij_train.paths import shown

MOST_LINKS = 3
"""Of one folder, that are named one by one."""
MAX_LISTED = 200_000
"""Files and folders of a tree that is too large to ship; what comes after is not looked at."""
MAX_MEASURED = 50_000
"""Of what is left out, which is counted only to be told."""
MAX_UNPACKED_BYTES = 64 * 2**20
"""Above this nothing ships: code is smaller. So nothing more is searched for credentials."""
MAX_SEARCHED_BYTES = 2**20
"""Of the beginning of a file, and of its end; files that people write are smaller."""
NEVER = frozenset({".git", ".hg", ".svn", ".bzr", ".jj"})
"""Histories, with the addresses and logins of where they came from."""


@dataclass
class Listing:
    """The files of a folder that would be shipped, and those that would not."""

    folder: Path
    files: dict[str, os.stat_result] = field(default_factory=dict)
    """Relative POSIX path to its lstat; folders end in '/'."""
    links: dict[str, str] = field(default_factory=dict)
    """Path of a link to its target, always a relative one."""
    left_out: list[LeftOut] = field(default_factory=list)
    """But for caches."""
    notes: list[str] = field(default_factory=list)
    """What might be missed, or not meant, a sentence each."""
    checkpoints: list[str] = field(default_factory=list)
    """Files that ship, and may be what a run on this machine has saved."""
    is_cut: bool = False
    """There is more than MAX_LISTED."""
    measured: int = 0
    """Files that were left out and counted."""

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes."""
        return sum(info.st_size for info in self.files.values() if stat.S_ISREG(info.st_mode))

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the files and links."""
        return tuple(name for name in self.files if not name.endswith("/"))


def list_files(folder: Path) -> Listing:
    """What a folder ships, in sorted order. Raises RequestError."""
    if not folder.is_dir():
        raise RequestError(f"{shown(str(folder))}: no such folder to ship")
    listing = Listing(folder.resolve())
    _check_is_meant(listing.folder)
    _Walk(listing).run()
    listing.files = dict(sorted(listing.files.items()))
    listing.notes += _links_to_nothing(listing)
    return listing


def _check_is_meant(folder: Path) -> None:
    """Raise RequestError for a home folder, and for what is above it: that is no project.

    Unless it says itself what of it ships, in an ignore file or as a repository.
    """
    try:
        home = Path.home().resolve()
    except RuntimeError:  # a user id without one
        return
    marks = (*rules.IGNORE_FILES, ".git")
    if not home.is_relative_to(folder) or any((folder / mark).exists() for mark in marks):
        return
    what = "your home folder" if folder == home else f"where your home folder {shown(str(home))} is"
    mark = shlex.quote(str(folder / rules.IGNORE_FILES[0]))
    raise RequestError(
        f"the code folder {shown(str(folder))} is {what}, and all below it would ship",
        hints=(
            "launch from a folder of the project's own, or name it: --code-dir FOLDER",
            "the image has the code: --no-code",
            f"it is meant so: touch {mark}, which says what stays here",
        ),
    )


class _Walk:
    """Goes through a folder once."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.folder = listing.folder
        self.leaving: list[tuple[str, str]] = []
        self.shipped_bytes = 0
        root = repository.root_of(self.folder)
        self.above = ""
        if root is not None and root != self.folder:
            self.above = f"{self.folder.relative_to(root).as_posix()}/"
        self.root = root or self.folder
        self.state = self._enter(self.above, self.folder, root)

    def run(self) -> None:
        """Fill the listing. Raises RequestError."""
        state, where = self.state, ""
        for part in self.above.split("/")[:-1]:
            state = state.with_gitignore(self.root, where)
            word = state.word_of_git(os.fsencode(where + part), True)
            if word is not None and not word.brings_back:
                state = replace(state, excluded=Why.GITIGNORE)
                self.listing.notes.append(
                    "git ignores this folder, so nothing of it ships but what .kijignore names. "
                    "To ship all: echo '!*' >> .kijignore"
                )
                break
            where += f"{part}/"
        self._walk("", state)
        if self.leaving:
            raise _leaving_links(self.folder, self.leaving)

    def _enter(self, base: str, folder: Path, root: Path | None) -> State:
        known = repository.ask(folder, root)
        if known.silent is not None:
            self.listing.notes.append(
                f"git does not tell which files it tracks in {shown(str(folder))} "
                f"({known.silent}): those that an ignore file names as well are left out"
            )
        return rules.start(known, base, base if folder != self.folder else "")

    def _why_not(self, path: str, info: os.stat_result, state: State) -> Why | None:
        """Why `path` does not ship; None for what does."""
        is_folder = stat.S_ISDIR(info.st_mode)
        full = os.fsencode(self.above + path)
        word = state.word(full, is_folder)
        if word is not None and not word.brings_back:
            return Why.KIJIGNORE
        named = word is not None and not word.is_for_everything
        if not named and is_folder and self._is_environment(path):
            return Why.CACHE
        if state.excluded is Why.SECRET or credentials.is_by_name(path):
            return None if word is not None and word.releases else Why.SECRET
        if named or (state.tracks(full) and state.excluded is not Why.KIJIGNORE):
            return None
        if word is None and state.excluded is not None:
            return state.excluded
        if not state.brought_back and rules.is_cache(path):
            return Why.CACHE
        if word is None:
            word = state.word_of_git(full, is_folder)
            if word is not None and not word.brings_back:
                return Why.GITIGNORE
        return Why.OUTPUT if not state.brought_back and self._is_output(path, info) else None

    def _is_environment(self, path: str) -> bool:
        return any((self.folder / path / each).exists() for each in ("pyvenv.cfg", "conda-meta"))

    def _is_output(self, path: str, info: os.stat_result) -> bool:
        """Whether training tools call their output so; a folder with modules in it is code."""
        is_folder = stat.S_ISDIR(info.st_mode)
        if is_folder or stat.S_ISLNK(info.st_mode):
            return rules.is_output_folder(path) and not (is_folder and self._has_modules(path))
        return rules.is_output_file(path, info.st_size)

    def _has_modules(self, path: str) -> bool:
        return any(entry.name.endswith(".py") for entry in self._entries(path))

    # --- walking ----------------------------------------------------------------------------------

    def _walk(self, inside: str, state: State) -> None:
        state = state.entered(self.root, self.above + inside)
        for entry in self._entries(inside):
            if len(self.listing.files) >= MAX_LISTED:
                self.listing.is_cut = True
                return
            if entry.name not in NEVER:
                with contextlib.suppress(FileNotFoundError):  # removed since
                    info = entry.stat(follow_symlinks=False)
                    self._take(inside + entry.name, info, state)

    def _entries(self, inside: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder / inside) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(self.folder, inside or ".", error) from None

    def _take(self, path: str, info: os.stat_result, state: State) -> None:
        why = self._why_not(path, info, state)
        if stat.S_ISDIR(info.st_mode):
            self._take_folder(path + "/", info, state, why)
        elif why is not None:
            self._leave_out(path, why, info)
        elif stat.S_ISREG(info.st_mode):
            self._take_file(path, info, state)
        elif stat.S_ISLNK(info.st_mode):
            self._take_link(path, info)
        else:
            self._leave_out(path, Why.SPECIAL, info)

    def _take_folder(self, path: str, info: os.stat_result, state: State, why: Why | None) -> None:
        full = os.fsencode(self.above + path)
        if why is not None:
            if state.reaches(full) or (
                state.tracks_in(full) and why not in (Why.KIJIGNORE, Why.SECRET)
            ):
                before = len(self.listing.files)
                self._walk(path, replace(state, excluded=why))
                if len(self.listing.files) > before:
                    self.listing.files[path] = info
            else:
                self._leave_out(path, why, info)
            return
        # Of a folder that ships although it is a cache or output, all does.
        ours = rules.is_cache(path[:-1]) or self._is_output(path[:-1], info)
        word = state.word(full[:-1], True)
        named = ours and word is not None and not word.is_for_everything
        inner = replace(state, excluded=None, brought_back=state.brought_back or named)
        if repository.is_root(self.folder / path):
            known = self._enter(self.above + path, self.folder / path, self.folder / path)
            inner = replace(known, kij=inner.kij, wanted=inner.wanted, brought_back=named)
        elif state.tracks(full[:-1]) and not self._entries(path):
            self.listing.notes.append(
                f"the submodule {shown(path)} is not checked out: git submodule update --init"
            )
        if word is not None and word.releases and credentials.is_by_name(path[:-1]):
            self._tell_released(path, None)
        self.listing.files[path] = info
        self._walk(path, inner)

    def _take_file(self, path: str, info: os.stat_result, state: State) -> None:
        full = os.fsencode(self.above + path)
        word = state.word(full, False)
        released = word is not None and word.releases
        holds = self._credential_in(path, info)
        if holds is not None and not released:
            self._leave_out(path, Why.SECRET, info, holds)
            return
        if released and (holds is not None or credentials.is_by_name(path)):
            self._tell_released(path, holds)
        self.listing.files[path] = info
        self.shipped_bytes += info.st_size
        if rules.may_be_checkpoint(path) and word is None and not state.tracks(full):
            self.listing.checkpoints.append(path)

    def _tell_released(self, path: str, holds: str | None) -> None:
        looks = f"holds {holds}" if holds else "looks like a secret"
        self.listing.notes.append(
            f"ships {shown(path)}, which {looks}: who may read the ConfigMaps of the namespace can "
            "read it"
        )

    def _credential_in(self, path: str, info: os.stat_result) -> str | None:
        if self.shipped_bytes + info.st_size > MAX_UNPACKED_BYTES:
            return None
        try:
            with (self.folder / path).open("rb") as file:
                beginning = file.read(credentials.SNIFFED_BYTES)
                if not credentials.is_text(beginning):
                    return None
                content = beginning + file.read(MAX_SEARCHED_BYTES - len(beginning))
                if info.st_size > len(content):
                    file.seek(max(len(content), info.st_size - MAX_SEARCHED_BYTES))
                    # What lies on the border of both is found where both are one.
                    between = b"" if file.tell() == len(content) else b"\n"
                    content += between + file.read(MAX_SEARCHED_BYTES)
        except OSError as error:
            raise unreadable(self.folder, path, error) from None
        return credentials.found_in(content)

    def _take_link(self, path: str, info: os.stat_result) -> None:
        if path.rpartition("/")[2] in rules.IGNORE_FILES:
            self._leave_out(path, Why.LINK, info)
            if path.endswith(rules.GITIGNORE):
                self.listing.notes.append(
                    f"{shown(path)} does not count: it is a link, which git ignores"
                )
            return
        target = (self.folder / path).readlink()
        beside = (self.folder / path).parent
        where = os.path.normpath(beside / target)
        if target.is_absolute() and not Path(where).is_relative_to(self.folder):
            # The folder by another name, through a link above it.
            where = str(Path(where).parent.resolve() / Path(where).name)
        # As it reads, and through other links, which the pod follows as well.
        places = (where, os.path.realpath(beside / target))
        if not all(Path(place).is_relative_to(self.folder) for place in places):
            self.leaving.append((path, str(target)))
            return
        self.listing.files[path] = info
        relative = os.path.relpath(where, beside) if target.is_absolute() else str(target)
        self.listing.links[path] = relative

    def _leave_out(
        self, path: str, why: Why, info: os.stat_result, holds: str | None = None
    ) -> None:
        if why is Why.CACHE:
            return
        if not path.endswith("/"):
            self.listing.left_out.append(
                LeftOut(path, why, 1, info.st_size, path, info.st_size, holds=holds)
            )
            return
        files = size = biggest_bytes = 0
        biggest = ""
        for name, each in self._below(path):
            files, size = files + 1, size + each
            if not biggest or each > biggest_bytes:
                biggest, biggest_bytes = name, each
        cut = self.listing.measured >= MAX_MEASURED
        self.listing.left_out.append(
            LeftOut(path, why, files, size, biggest, biggest_bytes, is_cut=cut)
        )

    def _below(self, path: str) -> Iterator[tuple[str, int]]:
        """Files of a folder that does not ship, as far as they are counted, with their sizes."""
        folders = [path]
        while folders:
            here = folders.pop()
            try:
                with os.scandir(self.folder / here) as entries:
                    for entry in entries:
                        if self.listing.measured >= MAX_MEASURED:
                            return
                        self.listing.measured += 1
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(here + entry.name + "/")
                        else:
                            yield here + entry.name, entry.stat(follow_symlinks=False).st_size
            except OSError:
                continue  # it does not ship, so it need not be readable


def _leaving_links(folder: Path, links: list[tuple[str, str]]) -> RequestError:
    """One error, however many links; of folders with many of them, the folder at the top."""
    tops = Counter(path.partition("/")[0] for path, _ in links)
    many = {top for top, count in tops.items() if count > MOST_LINKS}
    names = dict.fromkeys(
        f"{top}/" if (top := path.partition("/")[0]) in many else path for path, _ in links
    )
    path, target = links[0]
    one = len(links) == 1
    nowhere = "it would lead nowhere in the pods"
    if not one:
        nowhere = f"it and {len(links) - 1} more would lead nowhere in the pods"
    return RequestError(
        f"{shown(path)} is a link to {shown(target)}, outside of {shown(str(folder))}: {nowhere}",
        hints=(
            f"leave {'it' if one else 'them'} out: "
            + adding(folder, *(gitignore.literal(name) for name in names)),
            "mount data: --mount pvc:NAME:/path",
        ),
    )


def unreadable(folder: Path, path: str, error: OSError) -> RequestError:
    """The error of a file that ships and cannot be read."""
    return RequestError(
        f"cannot read {shown(path)}: {error.strerror}",
        hints=(f"leave it out: {adding(folder, gitignore.literal(path))}",),
    )


def _links_to_nothing(listing: Listing) -> Iterator[str]:
    """A note for every link whose target is not shipped: ignored, or not there at all."""
    for path in listing.links:
        place = Path(os.path.realpath(listing.folder / path))
        where = place.relative_to(listing.folder).as_posix()
        if where != "." and where not in listing.files and f"{where}/" not in listing.files:
            target = shown(str((listing.folder / path).readlink()))
            yield f"{shown(path)} is a link to {target}, which is not among the shipped files"
