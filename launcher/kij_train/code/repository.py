"""What git knows of a folder, asked of git: the files that it tracks, and its settings.

Where git is not installed, or refuses to read the folder, the ignore files alone speak.
"""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from kij_train.code import gitignore

# A hook of git, or `git rebase --exec`, points them at another repository or index.
_OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")

_GIT_FILE = b"gitdir: "
_PARTS = ("objects", "refs")


@dataclass(frozen=True)
class Knowledge:
    """Of a repository, or of a folder that is none."""

    tracked: frozenset[bytes] = frozenset()
    """Paths from the folder that was asked for; submodules are among them."""
    patterns: tuple[gitignore.Pattern, ...] = ()
    """Of .git/info/exclude and of the user's own file, core.excludesFile."""
    ignore_case: bool = False
    silent: str | None = None
    """Why git does not tell what it tracks."""
    folders: frozenset[bytes] = field(init=False)
    """Those that hold something tracked; they end with "/"."""

    def __post_init__(self) -> None:
        folders = set()
        for path in self.tracked:
            while (end := path.rfind(b"/")) > 0 and path[: end + 1] not in folders:
                folders.add(path[: end + 1])
                path = path[:end]
        object.__setattr__(self, "folders", frozenset(folders))


def is_root(folder: Path) -> bool:
    """Whether a repository begins here, by git's own test; .git is a file in work trees."""
    there = folder / ".git"
    try:
        if there.is_file():
            text = there.read_bytes()
            if not text.startswith(_GIT_FILE):
                return False
            there = folder / os.fsdecode(text.removeprefix(_GIT_FILE).rstrip(b"\r\n"))
        common, elsewhere = there, there / "commondir"
        if elsewhere.is_file():
            common = there / os.fsdecode(elsewhere.read_bytes().rstrip(b"\r\n"))
    except OSError:
        return False
    return (there / "HEAD").exists() and all((common / part).exists() for part in _PARTS)


def root_of(folder: Path) -> Path | None:
    """The repository that a folder is part of."""
    return next((place for place in (folder, *folder.parents) if is_root(place)), None)


def ask(folder: Path, root: Path | None) -> Knowledge:
    """What git knows of `folder`, which is inside of the repository `root`, or of none."""
    settings = _settings(folder)
    ignore_case = settings.get("core.ignorecase", "").lower() in ("true", "yes", "on", "1")
    own = settings.get("core.excludesfile")
    if own is None:
        config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        own = f"{config}/git/ignore"
    # git goes to the root of the repository before it reads its settings' paths.
    files = [(root or folder) / os.path.expanduser(own)]  # noqa: PTH111 - ~nobody stays as it is
    tracked: frozenset[bytes] = frozenset()
    silent = None
    if root is not None:
        try:
            listed = _git(folder, "ls-files", "-z")
            tracked = frozenset(path for path in listed.split(b"\0") if path)
            exclude = os.fsdecode(_git(folder, "rev-parse", "--git-path", "info/exclude").rstrip())
        except _SilentError as error:
            silent, exclude = str(error), str(root / ".git/info/exclude")
        files.insert(0, folder / exclude)
    patterns = [each for file in files for each in read(file, ignore_case)]
    return Knowledge(tracked, tuple(patterns), ignore_case, silent)


def read(file: Path, ignore_case: bool) -> list[gitignore.Pattern]:
    """The patterns of a file; none of one that is not there. Raises OSError when it may not be."""
    try:
        # A pipe would not end, and neither do some devices.
        if not stat.S_ISREG(file.stat().st_mode):
            return []
        return gitignore.parse(file.read_bytes(), ignore_case=ignore_case)
    except (FileNotFoundError, NotADirectoryError):
        return []


class _SilentError(Exception):
    """git does not answer; the text says why."""


def _git(folder: Path, *command: str) -> bytes:
    # A file system monitor would be a program of the repository's own choice.
    argv = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *command]
    environ = {key: value for key, value in os.environ.items() if key not in _OF_ANOTHER}
    environ["LC_ALL"] = "C"
    try:
        answer = subprocess.run(argv, env=environ, capture_output=True, check=False)
    except OSError:
        raise _SilentError("git is not installed") from None
    if answer.returncode:
        said = answer.stderr.decode(errors="replace").strip().splitlines()
        raise _SilentError(said[0] if said else f"git: exit code {answer.returncode}")
    return answer.stdout


def _settings(folder: Path) -> dict[str, str]:
    try:
        found = _git(folder, "config", "-z", "--get-regexp", r"^core\.(excludesfile|ignorecase)$")
    except _SilentError:  # git gives 1 when nothing is set
        return {}
    pairs = (entry.partition(b"\n") for entry in found.split(b"\0") if entry)
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
