"""What ships is what git would keep: random trees and ignore files against git itself.

`KIJ_TREES=2000 pytest tests/unit/test_gitignore.py -k random` tries as many trees.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from kij_train.code import bundle, gitignore
from kij_train.code.listing import list_files

TREES = int(os.environ.get("KIJ_TREES", "80"))
NAMES = ["a", "b", "ab", "a.b", "foo", "x-y", "[", "]", "a b", "é", "-", "^", "!", "#", "*", "?"]
NAMES += ["\\", "a ", "A1", "data"]
ATOMS = ["a", "b", "ab", "foo", "data", "x", "*", "**", "?", "/", "[ab]", "[!a]", "[a-c]", "[z-a]"]
ATOMS += ["[[:digit:]]", "[[:alpha:]]", "[[:nope:]]", "[]]", "[^b]", "[a\\]]", "[\\-x]", "[--a]"]
ATOMS += ["[", "[a-", "]", "\\", "\\ ", " ", "!", "#", "-", ".", "é", "**/", "/**", "/**/", "\r"]

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git as it is without a user's or a machine's settings."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-settings"))


def git(folder: Path, *command: str) -> bytes:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    allow = ["-c", "protocol.file.allow=always"]
    argv = ["git", "-C", str(folder), *identity, *allow, *command]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def kept_by_git(folder: Path) -> set[str]:
    """What git tracks, as far as it is still there, and what it does not ignore."""
    listed = git(folder, "ls-files", "-co", "--exclude-standard", "-z").split(b"\0")
    return {
        name for path in listed if path and os.path.lexists(folder / (name := os.fsdecode(path)))
    }


def kept_by_us(folder: Path) -> set[str]:
    return set(list_files(folder).names)


# --- random trees ---------------------------------------------------------------------------------


def random_ignore_file(rng: random.Random) -> bytes:
    lines = []
    for _ in range(rng.randint(1, 5)):
        line = "".join(rng.choice(ATOMS) for _ in range(rng.randint(1, 5)))
        line = "!" * (rng.random() < 0.3) + "/" * (rng.random() < 0.2) + line
        lines.append(line + "/" * (rng.random() < 0.2))
    text = "\ufeff" * (rng.random() < 0.1) + "\n".join(lines) + "\n" * (rng.random() < 0.8)
    return text.encode()


def grow(rng: random.Random, folder: Path, depth: int = 0) -> None:
    for name in rng.sample(NAMES, rng.randint(1, 4)):
        if depth < 3 and rng.random() < 0.5:
            (folder / name).mkdir()
            grow(rng, folder / name, depth + 1)
        else:
            (folder / name).touch()
    if rng.random() < (0.9 if depth == 0 else 0.25):
        (folder / ".gitignore").write_bytes(random_ignore_file(rng))


@needs_git
def test_random_trees_ship_what_git_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(TREES):
        rng = random.Random(seed)
        top = tmp_path / f"tree{seed}"
        top.mkdir()
        grow(rng, top)
        git(top, "init", "--quiet")
        folders = [
            top,
            *(path for path in top.rglob("*") if path.is_dir() and ".git" not in path.parts),
        ]
        if rng.random() < 0.5:
            # Of no repository, and without git, a folder is read by the same rules.
            expected = kept_by_git(top)
            shutil.rmtree(top / ".git")
            with monkeypatch.context() as patched:
                patched.setenv("PATH", "")
                assert kept_by_us(top) == expected, f"seed {seed}, without git"
        else:
            files = [path for path in top.rglob("*") if path.is_file() and ".git" not in path.parts]
            tracked = rng.sample(files, min(len(files), rng.randint(0, 2)))
            if tracked:
                names = [str(path.relative_to(top)) for path in tracked]
                git(top, "--literal-pathspecs", "add", "--force", "--", *names)
            if rng.random() < 0.3:
                (top / ".git/info/exclude").write_bytes(random_ignore_file(rng))
            below = rng.choice(folders)
            assert kept_by_us(below) == kept_by_git(below), f"seed {seed}, {below}"
        shutil.rmtree(top)


# --- single lines, as git reads them --------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "path", "ignored"),
    [
        ("!", "a", False),
        ("", "a", False),
        ("# a", "# a", False),
        ("\\# a", "# a", True),
        ("wandb\\", "wandb", False),
        ("build\\  ", "build ", True),
        ("build  ", "build", True),
        ("[z-a]", "m", False),
        ("[[:digit:]]*", "7up", True),
        ("[[:digit:]]*", "seven", False),
        ("[[:nope:]]", "n", False),
        ("[", "[", False),
        ("[]-]x", "]x", True),
        ("[!a-c]", "b", False),
        ("*.py[co]", "a/b.pyc", True),
        ("a?c", "a/c", False),
        ("a/*", "a/b/c", False),
        ("a/**", "a/b/c", True),
        ("a/**/c", "a/c", True),
        ("**/c", "c", True),
        ("foo**/x", "foox", True),
        ("/a", "b/a", False),
        ("a\r", "a", True),
        ("a\0b", "a", True),
        ("é?", "éa", True),
        ("??", "é", True),
    ],
)
def test_a_line_means_what_it_means_to_git(line: str, path: str, ignored: bool) -> None:
    patterns = gitignore.parse(line.encode())
    found = gitignore.verdict(patterns, path.encode(), is_folder=False)
    assert (found is not None and not found.brings_back) is ignored


@pytest.mark.parametrize("name", ["a*b", "[a]", "a\\b", "a ", "what?", "é", "!a", "#a"])
def test_a_name_can_be_written_as_a_pattern(name: str) -> None:
    (pattern,) = gitignore.parse(("!" + gitignore.literal(name)).encode())
    assert pattern.spells_a_name
    assert pattern.matches(os.fsencode(name), is_folder=False)


def test_many_stars_take_no_longer_than_the_name_is_long() -> None:
    """It would not end before the sun does, if every star tried every place."""
    (pattern,) = gitignore.parse(b"*a" * 40 + b"*b")
    assert not pattern.matches(b"a" * 255, is_folder=False)


# --- what git knows beside the ignore files -------------------------------------------------------


@needs_git
def test_what_git_tracks_ships_although_it_is_ignored(tmp_path: Path) -> None:
    files = {".gitignore": "conf.json\ndata/\n", "conf.json": "", "data/a": "", "data/b": ""}
    write(tmp_path, files)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--force", "conf.json", "data/a")
    assert kept_by_us(tmp_path) == {".gitignore", "conf.json", "data/a"} == kept_by_git(tmp_path)
    write(tmp_path, {".kijignore": "/conf.json\n/data/\n"})
    assert kept_by_us(tmp_path) == {".gitignore", ".kijignore"}


@needs_git
def test_a_submodule_ships_by_its_own_rules(tmp_path: Path) -> None:
    library, top = tmp_path / "library", tmp_path / "top"
    write(library, {".gitignore": "*.o\n", "a.py": "", "b.o": "", "c.log": ""})
    write(top, {".gitignore": "third_party/\n*.log\n", "train.py": "", "other/d.log": ""})
    for folder in (library, top):
        git(folder, "init", "--quiet")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", "a")
    git(top, "submodule", "--quiet", "add", "--force", str(library), "third_party/library")
    submodule = top / "third_party/library"
    write(submodule, {"b.o": "", "e.log": ""})
    shipped = {name for name in kept_by_us(top) if name.startswith("third_party")}
    below = "third_party/library/"
    assert shipped == {below + ".gitignore", below + "a.py", below + "c.log", below + "e.log"}
    shutil.rmtree(submodule)
    submodule.mkdir()
    assert any("git submodule update --init" in note for note in list_files(top).notes)


@needs_git
def test_a_repository_inside_follows_its_own_exclude_file(tmp_path: Path) -> None:
    files = {"inner/a": "", "inner/sub/a": "", "a": "", ".kijignore": "/inner/sub/b\n"}
    write(tmp_path, {**files, "inner/sub/b": "", ".gitignore": "sub/\n"})
    git(tmp_path / "inner", "init", "--quiet")
    (tmp_path / "inner/.git/info/exclude").write_text("/a\n")
    inner = {"inner/sub/a"}
    assert kept_by_us(tmp_path) == {".gitignore", ".kijignore", "a", *inner}
    git(tmp_path, "init", "--quiet")
    assert kept_by_us(tmp_path) == {".gitignore", ".kijignore", "a", *inner}


@needs_git
@pytest.mark.parametrize("settings", ["core.excludesFile", "the default place"])
def test_the_users_own_ignore_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    top = tmp_path / "top"
    write(tmp_path, {"own/git/ignore": "*.swp\n", "top/a.py": "", "top/a.swp": ""})
    if settings == "core.excludesFile":
        write(tmp_path, {"config": f"[core]\nexcludesFile = {tmp_path}/own/git/ignore\n"})
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    assert kept_by_us(top) == {"a.py"}
    git(top, "init", "--quiet")
    assert kept_by_us(top) == {"a.py"} == kept_by_git(top)


@needs_git
def test_a_relative_ignore_file_of_the_settings_is_that_of_the_repositorys_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config": "[core]\nexcludesFile = own\n", "own": "*.py\n"})
    top = tmp_path / "top"
    write(
        top, {"own": "*.log\n", "a.log": "", "sub/own": "*.py\n", "sub/b.log": "", "sub/c.py": ""}
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    git(top, "init", "--quiet")
    assert kept_by_us(top) == {"own", "sub/own", "sub/c.py"} == kept_by_git(top)
    assert kept_by_us(top / "sub") == {"own", "c.py"} == kept_by_git(top / "sub")


@needs_git
def test_the_home_of_nobody_in_the_settings_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"config": "[core]\nexcludesFile = ~nobody-here/x\n", "top/a.py": ""})
    git(tmp_path / "top", "init", "--quiet")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    assert kept_by_us(tmp_path / "top") == {"a.py"}


@needs_git
@pytest.mark.parametrize("text", ["gitdir: /nope", "gitdir: ../nope\n", "hello", "", "gitdir: "])
def test_a_broken_git_file_begins_no_repository(tmp_path: Path, text: str) -> None:
    write(tmp_path, {".gitignore": "*.log\n", "in/a.log": "", "in/b.py": "", "in/.git": text})
    git(tmp_path, "init", "--quiet")
    assert kept_by_us(tmp_path) == {".gitignore", "in/b.py"} == kept_by_git(tmp_path)
    assert kept_by_us(tmp_path / "in") == {"b.py"}


@pytest.mark.parametrize("name", [".gitignore", ".kijignore", ".torchxignore", "own"])
def test_a_pipe_or_device_as_an_ignore_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It would wait for a writer for ever."""
    write(tmp_path, {"config": f"[core]\nexcludesFile = {tmp_path}/own\n", "top/a.py": ""})
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    os.mkfifo(tmp_path / name if name == "own" else tmp_path / "top" / name)
    assert kept_by_us(tmp_path / "top") == {"a.py"}


@needs_git
@pytest.mark.parametrize("target", ["rules", "../outside"])
def test_ignore_files_that_are_links_do_not_ship(tmp_path: Path, target: str) -> None:
    top = tmp_path / "top"
    write(tmp_path, {"outside": "*.log\n", "top/rules": "*.log\n", "top/a.log": "", "top/b.py": ""})
    git(top, "init", "--quiet")
    (top / ".kijignore").symlink_to(target)
    assert kept_by_us(top) == {"rules", "b.py"}
    (top / ".kijignore").rename(top / ".gitignore")
    assert kept_by_us(top) == {"rules", "b.py", "a.log"} == kept_by_git(top) - {".gitignore"}
    assert list_files(top).notes == [".gitignore does not count: it is a link, which git ignores"]


def test_no_hint_writes_through_a_link_or_into_what_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"outside": "", "top/.env": "", "top/a.py": ""})
    top = tmp_path / "top"
    monkeypatch.chdir(top)
    told = "left out .env: it looks like a secret; to ship it: "
    (top / ".kijignore").symlink_to("../outside")
    link = "put into .kijignore, which is a link to ../outside, the line '!/.env'"
    assert bundle.pack(top).notes == (told + link,)
    (top / ".kijignore").unlink()
    (top / ".kijignore").mkdir()
    assert (
        told + "put into .kijignore, which is no file, the line '!/.env'" in bundle.pack(top).notes
    )
    (top / ".kijignore").rmdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert bundle.pack(top).notes == (
        told + "put into .kijignore, which you may not make, the line '!/.env'",
    )
    (top / ".kijignore").touch()
    assert bundle.pack(top).notes == (
        told + "put into .kijignore, which you may not write, the line '!/.env'",
    )


def test_a_way_out_of_a_name_with_a_backslash_works_in_any_shell(tmp_path: Path) -> None:
    (tmp_path / r"a\nb*.ckpt").touch()
    (note,) = bundle.pack(tmp_path).notes
    subprocess.run(["sh", "-c", note.partition("to ship: ")[2]], check=True)
    assert kept_by_us(tmp_path) == {".kijignore", r"a\nb*.ckpt"}


@needs_git
def test_a_work_tree_follows_the_exclude_file_of_its_repository(tmp_path: Path) -> None:
    write(tmp_path, {"top/a.py": ""})
    top, other = tmp_path / "top", tmp_path / "other"
    git(top, "init", "--quiet")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "--message", "a")
    git(top, "worktree", "add", "--quiet", str(other))
    (top / ".git/info/exclude").write_text("*.log\n")
    write(other, {"b.log": "", "c.py": ""})
    assert kept_by_us(other) == {"a.py", "c.py"} == kept_by_git(other)


@needs_git
def test_a_hooks_environment_does_not_mislead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"top/.gitignore": "*.json\n", "top/a.json": "", "other/b": ""})
    for name in ("top", "other"):
        git(tmp_path / name, "init", "--quiet")
    git(tmp_path / "top", "add", "--force", "a.json")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", "nowhere")
    assert kept_by_us(tmp_path / "top") == {".gitignore", "a.json"}


@needs_git
@pytest.mark.parametrize("without", ["git", "its trust"])
def test_without_gits_word_what_it_may_track_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    write(tmp_path, {"top/.gitignore": "*.json\n", "top/a.json": "", "top/a.py": ""})
    git(tmp_path / "top", "init", "--quiet")
    git(tmp_path / "top", "add", "--force", "a.json")
    if without == "git":
        monkeypatch.setenv("PATH", "")
    else:
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    listing = list_files(tmp_path / "top")
    assert set(listing.names) == {".gitignore", "a.py"}
    (note,) = listing.notes
    assert ("git is not installed" if without == "git" else "dubious ownership") in note


@needs_git
def test_an_ignored_folder_that_is_launched_from_ships_nothing_until_it_is_told_to(
    tmp_path: Path,
) -> None:
    write(tmp_path, {".gitignore": "/scratch/\n", "scratch/a/train.py": "", "scratch/a/.env": ""})
    git(tmp_path, "init", "--quiet")
    below = tmp_path / "scratch/a"
    assert kept_by_us(below) == set() == kept_by_git(below)
    assert any("echo '!*' >> .kijignore" in note for note in list_files(below).notes)
    write(below, {".kijignore": "!*\n"})
    assert kept_by_us(below) == {".kijignore", "train.py"}


# --- our own rules on top -------------------------------------------------------------------------


HOME = {
    "src/train.py": "",
    "src/.env": "",
    "src/.aws/credentials": "",
    "src/id_rsa": "",
    "src/__pycache__/x.pyc": "",
}


@pytest.mark.parametrize("ignore_file", [".gitignore", ".kijignore"])
@pytest.mark.parametrize("lines", ["/*\n!/src\n", "!src/\n", "!*\n", "!src/**\n", "!/src/*\n"])
def test_a_line_about_a_folder_brings_no_secret_and_no_cache_back(
    tmp_path: Path, ignore_file: str, lines: str
) -> None:
    write(tmp_path, {**HOME, ignore_file: lines})
    archive = bundle.pack(tmp_path)
    assert set(archive.files) - {ignore_file} == {"src/train.py"}
    assert sum("looks like a secret" in note for note in archive.notes) == 3


@pytest.mark.parametrize("line", ["!.env\n", "!/src/.env\n", "/src/.env\n!.env\n"])
def test_a_secret_ships_when_kijignore_names_it_and_that_is_told(tmp_path: Path, line: str) -> None:
    write(tmp_path, {**HOME, ".kijignore": line})
    archive = bundle.pack(tmp_path)
    assert "src/.env" in archive.files
    assert "src/id_rsa" not in archive.files
    assert any(note.startswith("ships src/.env, which looks like") for note in archive.notes)


@pytest.mark.parametrize("name", [".gitignore", ".torchxignore"])
def test_no_other_file_brings_a_secret_back(tmp_path: Path, name: str) -> None:
    write(tmp_path, {**HOME, name: "!.env\n!/src/.env\n"})
    assert "src/.env" not in bundle.pack(tmp_path).files


def test_kijignore_reaches_into_ignored_folders(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "data/\n", "data/a/x": "", "data/a/y": "", "data/z": ""})
    write(tmp_path, {".kijignore": "!/data/a/x\n", "src/.aws/config": "", "src/.aws/b": ""})
    assert kept_by_us(tmp_path) == {".gitignore", ".kijignore", "data/a/x"}
    write(tmp_path, {".kijignore": "!/data/a/\n!/src/.aws/config\n"})
    expected = {".gitignore", ".kijignore", "data/a/x", "data/a/y", "src/.aws/config"}
    assert kept_by_us(tmp_path) == expected
