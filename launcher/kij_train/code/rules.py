"""What decides whether a file ships, at a place of the tree: ignore files, git, names of output.

listing.py has the order in which they speak.
"""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kij_train import ignorefile
from kij_train.code import gitignore, repository
from kij_train.code.leftout import Why
from kij_train.errors import RequestError
from kij_train.paths import shown

KIJIGNORE, TORCHXIGNORE, GITIGNORE = ignorefile.NAME, ".torchxignore", ".gitignore"
IGNORE_FILES = (KIJIGNORE, TORCHXIGNORE, GITIGNORE)
SMALL_CHECKPOINT_BYTES = 64 * 1024
"""A tensor of this size may well be part of the code."""

_CACHES = """
__pycache__ .cache .kij-train *.py[co] .DS_Store .ipynb_checkpoints .mypy_cache .pytest_cache
.ruff_cache .hypothesis .tox .nox node_modules *~ *.swp .*.sw[a-p] .#* #*#
"""
"""And what editors keep beside a file."""
_OUTPUT_FOLDERS = "lightning_logs tb_logs mlruns wandb checkpoint-[0-9]* ray_results"
_OUTPUT_AT_THE_TOP = "outputs multirun runs"
"""Of Hydra and TensorBoard: names that a package of the code may have as well."""
_OUTPUT_FILES = "*.ckpt *.distcp events.out.tfevents.*"
_TENSOR_FILES = "*.pt *.pth *.safetensors"


def _any_of(globs: str) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, globs.split())))


_CACHE, _OUTPUT_FILE, _TENSORS = map(_any_of, (_CACHES, _OUTPUT_FILES, _TENSOR_FILES))
_OUTPUT, _TOP_OUTPUT = _any_of(_OUTPUT_FOLDERS), _any_of(_OUTPUT_AT_THE_TOP)


def is_cache(path: str) -> bool:
    """Whether a file or folder is made again wherever it is missed."""
    return _CACHE.fullmatch(path.rpartition("/")[2]) is not None


def is_output_folder(path: str) -> bool:
    """Whether training tools call the folders of their output so."""
    above, _, name = path.rpartition("/")
    return bool(_OUTPUT.fullmatch(name) or (not above and _TOP_OUTPUT.fullmatch(name)))


def is_output_file(path: str, size_bytes: int) -> bool:
    """Whether training tools call their output so; a small tensor may be anything."""
    name = path.rpartition("/")[2]
    large = size_bytes > SMALL_CHECKPOINT_BYTES
    return bool(_OUTPUT_FILE.fullmatch(name) or (large and _TENSORS.fullmatch(name)))


def may_be_checkpoint(path: str) -> bool:
    """Whether a file holds tensors, of whatever."""
    return _TENSORS.fullmatch(path.rpartition("/")[2]) is not None


class _Rules(NamedTuple):
    """The patterns of one file."""

    where: bytes
    """Its folder, from the repository's root: b"" or b"a/"."""
    patterns: list[gitignore.Pattern]
    releases: bool = False
    """It may bring credentials back."""


class _Word(NamedTuple):
    """What the ignore files say of a path."""

    brings_back: bool
    is_for_everything: bool = False
    releases: bool = False
    """It brings this one back by its own name, although it looks like a credential."""


@dataclass(frozen=True)
class State:
    """What holds where the walk is. Paths of rules begin at the repository's root."""

    known: repository.Knowledge
    base: str
    """The folder in which `known` was asked."""
    git: tuple[_Rules, ...]
    """Of .gitignore files, the innermost first."""
    kij: tuple[_Rules, ...] = ()
    """Of .kijignore and .torchxignore."""
    wanted: tuple[bytes, ...] = ()
    """Folders into which a line of .kijignore reaches."""
    excluded: Why | None = None
    """The folder is left out, but for what is brought back in it."""
    brought_back: bool = False
    """.kijignore names a folder above that is a cache or output: all of it is meant."""

    def word(self, path: bytes, is_folder: bool) -> _Word | None:
        """What .kijignore and .torchxignore say of a path."""
        return _word(self.kij, path, is_folder)

    def word_of_git(self, path: bytes, is_folder: bool) -> _Word | None:
        """What the ignore files of git say of a path."""
        return _word(self.git, path, is_folder)

    def tracks(self, path: bytes) -> bool:
        """Whether git does; folders, which are submodules, without their slash."""
        return path[len(os.fsencode(self.base)) :] in self.known.tracked

    def tracks_in(self, folder: bytes) -> bool:
        """Whether git tracks something in a folder."""
        return folder[len(os.fsencode(self.base)) :] in self.known.folders

    def reaches(self, folder: bytes) -> bool:
        """Whether .kijignore brings something in a folder back, which it names."""
        return any(each.startswith(folder) for each in self.wanted)

    def with_gitignore(self, root: Path, where: str) -> State:
        """With the .gitignore of a folder, by its path from the repository's root."""
        file = root / where / GITIGNORE
        if file.is_symlink():  # git does not follow it
            return self
        patterns = _read(file, self.known.ignore_case)
        if not patterns:
            return self
        return replace(self, git=(_Rules(os.fsencode(where), patterns), *self.git))

    def entered(self, root: Path, where: str) -> State:
        """With all ignore files of a folder, by its path from the repository's root."""
        state = self.with_gitignore(root, where)
        below = os.fsencode(where)
        for name in (TORCHXIGNORE, KIJIGNORE):
            patterns = _read(root / where / name, False)
            if patterns:
                into = (below + each.inside for each in patterns if each.brings_back)
                state = replace(
                    state,
                    kij=(_Rules(below, patterns, name == KIJIGNORE), *state.kij),
                    wanted=(*state.wanted, *(each for each in into if each != below)),
                )
        return state


def start(known: repository.Knowledge, base: str, root: str) -> State:
    """At the beginning of a repository, whose own folder is `root`; or of a folder in none."""
    return State(known, base, (_Rules(os.fsencode(root), list(known.patterns)),))


def _word(rules: tuple[_Rules, ...], path: bytes, is_folder: bool) -> _Word | None:
    """What the innermost file says that speaks of a path."""
    for each in rules:
        found = gitignore.verdict(each.patterns, path[len(each.where) :], is_folder)
        if found is not None:
            releases = found.brings_back and each.releases and found.spells_a_name
            return _Word(found.brings_back, found.is_for_everything, releases)
    return None


def _read(file: Path, ignore_case: bool) -> list[gitignore.Pattern]:
    try:
        return repository.read(file, ignore_case)
    except OSError as error:
        raise RequestError(f"cannot read {shown(str(file))}: {error.strerror}") from None
