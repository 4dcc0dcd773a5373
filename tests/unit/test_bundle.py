"""Which files are shipped, as which bytes; and that unpacking them never leaves its folder."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import random
import socket
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kij_train.code import bundle, leftout, listing
from kij_train.errors import RequestError
from kij_train.paths import shown
from kij_train.pod import contract, unpack


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def shipped(folder: Path) -> list[str]:
    return list(bundle.pack(folder).files)


NAMES = st.text("abcxyz.-_ é", min_size=1, max_size=8).filter(
    lambda name: name.strip(". ") == name and name not in (".git", ".env")
)
TREES = st.dictionaries(NAMES, st.binary(max_size=200), min_size=1, max_size=8)


@given(TREES, st.randoms(use_true_random=False))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
def test_the_archive_is_a_function_of_content(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes], order: random.Random
) -> None:
    archives = []
    for turn in range(2):
        folder = tmp_path_factory.mktemp("tree")
        names = list(tree)
        order.shuffle(names)
        for name in names:
            (folder / name).write_bytes(tree[name])
            (folder / name).chmod(0o600 if turn else 0o664)
            os.utime(folder / name, (turn * 1000, turn * 1000))
        archives.append(bundle.pack(folder))
    assert archives[0] == archives[1]
    assert sorted(archives[0].files) == sorted(tree)


@given(TREES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
def test_what_is_packed_is_what_the_pod_unpacks(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes]
) -> None:
    source, mounted, target = (tmp_path_factory.mktemp(name) for name in "abc")
    (source / "sub").mkdir()
    for name, content in tree.items():
        (source / "sub" / name).write_bytes(content)
    archive = bundle.pack(source)
    half = len(archive.packed) // 2
    (mounted / f"{contract.CODE_PREFIX}000").write_bytes(archive.packed[:half])
    (mounted / f"{contract.CODE_PREFIX}001").write_bytes(archive.packed[half:])
    unpack.unpack_code(str(mounted), str(target / "code"), archive.sha256)
    assert {p.name: p.read_bytes() for p in (target / "code/sub").iterdir()} == tree


def test_one_changed_byte_is_another_archive(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "x = 1"})
    before = bundle.pack(tmp_path).sha256
    write(tmp_path, {"a.py": "x = 2"})
    assert bundle.pack(tmp_path).sha256 != before


def test_executable_bits_and_links_inside_survive(tmp_path: Path) -> None:
    write(tmp_path, {"src/run.sh": "#!/bin/sh", "src/data/a.txt": "a"})
    (tmp_path / "src/run.sh").chmod(0o755)
    (tmp_path / "src/link").symlink_to("data/a.txt")
    archive = bundle.pack(tmp_path / "src")
    (tmp_path / "mnt").mkdir()
    (tmp_path / f"mnt/{contract.CODE_PREFIX}000").write_bytes(archive.packed)
    unpack.unpack_code(str(tmp_path / "mnt"), str(tmp_path / "out"), archive.sha256)
    assert os.access(tmp_path / "out/run.sh", os.X_OK)
    assert not os.access(tmp_path / "out/data/a.txt", os.X_OK)
    assert (tmp_path / "out/link").readlink() == Path("data/a.txt")


def test_ignore_files_work_as_git_reads_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".gitignore": "*.log\n/out/\n!keep.log\n",
            "a.log": "",
            "keep.log": "",
            "out/x": "",
            "sub/out/x": "",
            "sub/.gitignore": "x.py\n!a.log\n",
            "sub/x.py": "",
            "sub/a.log": "",
            "x.py": "",
        },
    )
    assert shipped(tmp_path) == [
        ".gitignore",
        "keep.log",
        "sub/.gitignore",
        "sub/a.log",
        "sub/out/x",
        "x.py",
    ]


def test_kijignore_has_the_last_word(tmp_path: Path) -> None:
    write(
        tmp_path,
        {".gitignore": "*.pt\n", ".kijignore": "!tiny.pt\ndocs/\n", "tiny.pt": "", "big.pt": ""},
    )
    write(tmp_path, {"docs/a.md": "", "a.py": ""})
    assert shipped(tmp_path) == [".gitignore", ".kijignore", "a.py", "tiny.pt"]


def test_gitignores_above_count_up_to_the_repository(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".gitignore": "ignored_by_stranger.py\n",
            "repo/.git/HEAD": "",
            "repo/.git/objects/a": "",
            "repo/.git/refs/a": "",
            "repo/.gitignore": "*.log\n/exp/secret.py\n",
            "repo/exp/a.log": "",
            "repo/exp/secret.py": "",
            "repo/exp/ignored_by_stranger.py": "",
        },
    )
    assert shipped(tmp_path / "repo/exp") == ["ignored_by_stranger.py"]


def test_what_never_belongs_to_a_run_stays_here(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".git/HEAD": "",
            "__pycache__/a.pyc": "",
            "env/pyvenv.cfg": "",
            "env/bin/python": "",
            "a.py": "",
        },
    )
    assert shipped(tmp_path) == ["a.py"]


def test_files_that_look_like_secrets_stay_here_and_are_named(tmp_path: Path) -> None:
    write(tmp_path, {".env": "TOKEN=x", "a.py": ""})
    archive = bundle.pack(tmp_path)
    assert archive.files == ("a.py",)
    (note,) = archive.notes
    back = f"echo '!/.env' >> {tmp_path}/.kijignore"
    assert note == f"left out .env: it looks like a secret; to ship it: {back}"
    subprocess.run(["sh", "-c", back], check=True)
    assert ".env" in shipped(tmp_path)


@pytest.mark.parametrize("target", ["/etc/hosts", "../outside", "sub/../../outside"])
def test_a_link_that_leaves_is_refused_with_the_way_out(tmp_path: Path, target: str) -> None:
    (tmp_path / "code/sub").mkdir(parents=True)
    (tmp_path / "code/link").symlink_to(target)
    with pytest.raises(RequestError, match="link is a link to") as caught:
        bundle.pack(tmp_path / "code")
    subprocess.run(["sh", "-c", caught.value.hints[0].partition(": ")[2]], check=True)
    assert shipped(tmp_path / "code") == [".kijignore"]


def test_an_absolute_link_that_stays_inside_leads_there_in_the_pods(tmp_path: Path) -> None:
    write(tmp_path, {"code/data/a.txt": "a", "code/sub/b.py": ""})
    (tmp_path / "alias").symlink_to(tmp_path / "code")
    (tmp_path / "code/sub/file").symlink_to(tmp_path / "code/data/a.txt")
    (tmp_path / "code/folder").symlink_to(tmp_path / "code/data")
    (tmp_path / "code/by-alias").symlink_to(tmp_path / "alias/data/a.txt")
    (tmp_path / "code/top").symlink_to(tmp_path / "code")
    archive = bundle.pack(tmp_path / "alias")
    (tmp_path / f"{contract.CODE_PREFIX}000").write_bytes(archive.packed)
    unpack.unpack_code(str(tmp_path), str(tmp_path / "out"), archive.sha256)
    links = {
        path: str((tmp_path / "out" / path).readlink())
        for path in archive.files[-9:]
        if (tmp_path / "out" / path).is_symlink()
    }
    assert links == {
        "by-alias": "data/a.txt",
        "folder": "data",
        "sub/file": "../data/a.txt",
        "top": ".",
    }
    assert archive.notes == ()


def test_many_links_that_leave_are_one_error_about_their_folder(tmp_path: Path) -> None:
    (tmp_path / "cache/run").mkdir(parents=True)
    for number in range(50):
        (tmp_path / f"cache/run/{number}").symlink_to(f"/outside/{number}")
    (tmp_path / "data").symlink_to("/outside")
    write(tmp_path, {"a.py": ""})
    with pytest.raises(RequestError, match="and 50 more would lead nowhere") as caught:
        bundle.pack(tmp_path)
    command = caught.value.hints[0].partition(": ")[2]
    assert command.startswith("printf '%s\\n' /cache/ /data >>")
    subprocess.run(["sh", "-c", command], check=True)
    assert shipped(tmp_path) == [".kijignore", "a.py"]


def test_what_training_tools_write_stays_here_links_and_all(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "train.py": "",
            "wandb/run-1/config.yaml": "",
            "lightning_logs/version_0/hparams.yaml": "",
            "outputs/2026-01-01/.hydra/config.yaml": "",
            "exp/checkpoint-500/trainer_state.json": "",
            "exp/last.ckpt": "",
            "exp/events.out.tfevents.1": "",
            "exp/big.pt": "x" * 100_000,
            "exp/small.pt": "x",
            "model/outputs/heads.yaml": "",
            "runs/__init__.py": "",
        },
    )
    (tmp_path / "wandb/debug.log").symlink_to("/outside/debug.log")
    (tmp_path / "mlruns").symlink_to("/outside/mlruns")
    archive = bundle.pack(tmp_path)
    assert archive.files == (
        "exp/small.pt",
        "model/outputs/heads.yaml",
        "runs/__init__.py",
        "train.py",
    )
    (note,) = [note for note in archive.notes if "output of earlier runs" in note]
    assert note.startswith("left out exp/big.pt, exp/checkpoint-500/, exp/events.out.tfevents.1, ")
    assert "and 3 more (9 files, 98 KiB)" in note
    assert any(note.startswith("ships exp/small.pt") for note in archive.notes)


def test_output_ships_when_kijignore_names_it(tmp_path: Path) -> None:
    write(tmp_path, {"outputs/a/b.ckpt": "", "outputs/c.py.txt": "", "wandb/x": "", "d.ckpt": ""})
    (note,) = bundle.pack(tmp_path).notes
    subprocess.run(["sh", "-c", note.partition("to ship: ")[2]], check=True)
    assert len(shipped(tmp_path)) == 5
    write(tmp_path, {".kijignore": "!*.ckpt\n"})
    assert shipped(tmp_path) == [".kijignore", "d.ckpt"]


def test_a_link_that_leaves_by_another_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code/d/e").mkdir(parents=True)
    (tmp_path / "code/d/e/l").symlink_to("../..")
    (tmp_path / "code/m").symlink_to("d/e/l/../../etc/passwd")
    with pytest.raises(RequestError, match=r"m is a link to d/e/l/\.\./\.\./etc/passwd, outside"):
        bundle.pack(tmp_path / "code")


def test_links_to_what_is_not_shipped_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"big.pt": "", "a.py": "", "sub/b.py": "", ".kijignore": "*.pt\n"})
    for name, target in (
        ("ignored", "big.pt"),
        ("dangling", "none"),
        ("chain", "ignored"),
        ("good", "a.py"),
        ("folder", "sub"),
        ("top", "."),
    ):
        (tmp_path / name).symlink_to(target)
    archive = bundle.pack(tmp_path)
    assert archive.notes == (
        "chain is a link to ignored, which is not among the shipped files",
        "dangling is a link to none, which is not among the shipped files",
        "ignored is a link to big.pt, which is not among the shipped files",
    )


def test_sockets_and_pipes_are_left_out_and_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        archive = bundle.pack(tmp_path)
    assert archive.files == ()
    assert archive.notes == ("left out pipe, s: a socket, pipe or device",)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.py": ""})
    (tmp_path / "a.py").chmod(0)
    if os.access(tmp_path / "a.py", os.R_OK):  # root reads everything
        original = Path.read_bytes

        def read_bytes(path: Path) -> bytes:
            if path.name == "a.py":
                raise PermissionError(13, "Permission denied")
            return original(path)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(RequestError, match=r"cannot read a\.py: Permission denied"):
        bundle.pack(tmp_path)


def test_code_that_is_too_large_names_the_biggest_files_and_the_ways_out(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": ""})
    (tmp_path / "model.bin").write_bytes(random.Random(1).randbytes(9 * 2**20))
    with pytest.raises(RequestError) as caught:
        bundle.pack(tmp_path)
    assert "9.0 MiB  model.bin" in str(caught.value)
    assert "8.9 MiB of it do not compress, 8.0 MiB is the most" in str(caught.value)
    out, *others = caught.value.hints
    assert out.endswith(f" not need it: echo /model.bin >> {tmp_path}/.kijignore")
    assert all(any(flag in hint for hint in others) for flag in ("--fetch", "--mount", "--image"))
    subprocess.run(["sh", "-c", out.partition(": ")[2]], check=True)
    assert bundle.pack(tmp_path).files == (".kijignore", "a.py")


def test_data_that_does_not_compress_is_refused_without_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images.tar").write_bytes(random.Random(1).randbytes(60 * 2**20))
    monkeypatch.setattr(lzma, "compress", pytest.fail)
    with pytest.raises(RequestError, match="do not compress"):
        bundle.pack(tmp_path)


@pytest.mark.parametrize("repeats", [3, 12])  # of 1 MiB, where 8 may ship
def test_what_is_there_many_times_is_no_reason_to_refuse(tmp_path: Path, repeats: int) -> None:
    (tmp_path / "table").write_bytes(random.Random(1).randbytes(2**20) * repeats)
    assert len(bundle.pack(tmp_path).packed) < bundle.MAX_PACKED_BYTES


def test_what_only_the_best_compression_makes_fit_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = sorted(Path(os.__file__).parent.glob("*.py"))[:60]
    write(tmp_path, {source.name: source.read_text(errors="replace") for source in sources})
    fast = len(bundle.pack(tmp_path).packed)
    monkeypatch.setattr(bundle, "MAX_PACKED_BYTES", fast - 1)
    assert len(bundle.pack(tmp_path).packed) < fast


def test_code_of_too_many_files_names_the_folder_that_holds_them(tmp_path: Path) -> None:
    for number in range(300):
        write(tmp_path, {f"data/{number % 7}/{number}.txt": "x", "big.bin": "x" * 1000})
    with pytest.MonkeyPatch.context() as patched, pytest.raises(RequestError) as caught:
        patched.setattr(bundle, "MAX_FILES", 100)
        bundle.pack(tmp_path)
    first, second = str(caught.value).splitlines()[1:]
    assert "more than 100 files" in str(caught.value)
    assert first.split(maxsplit=2)[2] == "data/ (300 files)"
    assert second.endswith("big.bin")


def test_a_tree_of_any_size_is_refused_after_so_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_LISTED", 20)
    write(tmp_path, {f"data/{number}": "" for number in range(40)})
    with pytest.raises(RequestError, match="more than 20,000 files"):
        bundle.pack(tmp_path)


def test_files_in_pods_are_not_older_than_zip_knows(tmp_path: Path) -> None:
    write(tmp_path, {"src/sub/a.py": "x"})
    archive = bundle.pack(tmp_path / "src")
    (tmp_path / f"{contract.CODE_PREFIX}000").write_bytes(archive.packed)
    unpack.unpack_code(str(tmp_path), str(tmp_path / "out"), archive.sha256)
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as made:
        for path in sorted((tmp_path / "out").rglob("*")):
            made.write(path)
    assert (tmp_path / "out/sub/a.py").stat().st_mtime < time.time() - 3600


def test_a_huge_folder_is_refused_before_anything_is_compressed(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(100 * 2**30)
    with pytest.raises(RequestError, match="100 GiB, 64 MiB is the most"):
        bundle.pack(tmp_path)


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 1 if kind == tarfile.REGTYPE else 0
    return info


PARTS = st.sampled_from(["a", "b", "..", ".", "", "/etc", "link"])
MEMBERS = st.builds(
    lambda parts, kind, link: member("/".join(parts) or "a", kind, "/".join(link)),
    st.lists(PARTS, min_size=1, max_size=4),
    st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE]),
    st.lists(PARTS, max_size=4),
)


@given(st.lists(MEMBERS, min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_unpacking_never_leaves_its_folder(
    tmp_path_factory: pytest.TempPathFactory, members: list[tarfile.TarInfo]
) -> None:
    top = tmp_path_factory.mktemp("top")
    mounted, work = top / "mnt", top / "work"
    mounted.mkdir()
    work.mkdir()
    tar = tar_of(*members)
    (mounted / f"{contract.CODE_PREFIX}000").write_bytes(lzma.compress(tar, preset=0))
    before = sorted(top.rglob("*"))
    try:
        unpack.unpack_code(str(mounted), str(work / "code"), hashlib.sha256(tar).hexdigest())
    except contract.Failure as failure:
        assert failure.exit_code == contract.EXIT_CODE
    inside = work / "code"
    outside = [p for p in sorted(top.rglob("*")) if p != inside and inside not in p.parents]
    assert outside == before
    for path in inside.rglob("*"):
        assert path.parent.resolve().is_relative_to(inside)
        if path.is_symlink():
            where = Path(os.path.normpath(path.parent / path.readlink()))
            assert where.is_relative_to(inside)


@pytest.mark.parametrize(
    "bad",
    [
        member("../a"),
        member("/etc/a"),
        member("a", tarfile.SYMTYPE, "/etc"),
        member("a", tarfile.SYMTYPE, "../.."),
        member("a", tarfile.LNKTYPE, "b"),
        member("a", tarfile.FIFOTYPE),
    ],
)
def test_members_that_would_leave_are_named(bad: tarfile.TarInfo) -> None:
    with pytest.raises(contract.Failure, match="would leave its folder"):
        unpack.check_members([bad])


@pytest.mark.parametrize(
    ("links", "stays"),
    [
        ({"m": "d/e/l/../../etc/passwd", "d/e/l": "../.."}, False),
        ({"m": "l/..", "l": "d/e"}, True),
        ({"m": "l/../..", "l": "d/e"}, True),
        ({"m": "l/../../..", "l": "d/e"}, False),
        ({"m": "l", "l": "/etc"}, False),
        ({"m": "m"}, True),
        ({"m": "l/x", "l": "m"}, True),
        ({"m": "x/../y"}, True),
        ({"d/m": "../a"}, True),
        ({"d/m": "../../a"}, False),
    ],
)
def test_links_are_followed_through_each_other(links: dict[str, str], stays: bool) -> None:
    assert all(unpack.stays_inside(link, links) for link in links) is stays


def test_a_member_below_a_link_is_refused() -> None:
    with pytest.raises(contract.Failure, match="d/a"):
        unpack.check_members([member("d", tarfile.SYMTYPE, "e"), member("d/a")])


def test_code_that_was_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"src/a.py": ""})
    archive = bundle.pack(tmp_path / "src")
    (tmp_path / f"{contract.CODE_PREFIX}000").write_bytes(archive.packed)
    with pytest.raises(contract.Failure, match="is not what was launched"):
        unpack.unpack_code(str(tmp_path), str(tmp_path / "out"), "0" * 64)
    (tmp_path / f"{contract.CODE_PREFIX}000").write_bytes(archive.packed[:-8])
    with pytest.raises(contract.Failure, match="cannot read the code"):
        unpack.unpack_code(str(tmp_path), str(tmp_path / "out"), archive.sha256)


# --- names that would steer a terminal ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("a\nb", r'"a\nb"'),
        ("\x1b[31mred", r'"\033[31mred"'),
        ('a\t"\\', r'"a\t\"\\"'),
        ("a\u202eb", r'"a\342\200\256b"'),
        (os.fsdecode(b"a\xff"), r'"a\377"'),
        ("a\ud800", r'"a\ud800"'),
        ('é "\\', 'é "\\'),
    ],
)
def test_a_name_is_shown_on_one_line_as_git_quotes_it(name: str, quoted: str) -> None:
    assert shown(name) == quoted


STEERING = ["a\nb", "a\r", "\x1b[2J", "\u202e", os.fsdecode(b"\xff")]


@pytest.mark.parametrize("name", STEERING)
def test_no_note_error_or_command_holds_a_name_that_steers_the_terminal(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path, {f"{name}.env": "", f"{name}.ckpt": "", f"{name}.pt": "", f"{name}/.npmrc": ""})
    (tmp_path / f"{name}.x").symlink_to(f"{name}.none")
    os.mkfifo(tmp_path / f"{name}.pipe")
    archive = bundle.pack(tmp_path)
    notes = [*archive.notes, *map(leftout.describe, archive.left_out)]
    assert len(notes) == 10
    (tmp_path / f"{name}.out").symlink_to(f"/{name}")
    with pytest.raises(RequestError) as caught:
        bundle.pack(tmp_path)
    told = "".join([*notes, caught.value.message, *caught.value.hints])
    assert told.isprintable()
    subprocess.run(["sh", "-c", caught.value.hints[0].partition(": ")[2]], check=True)
    assert f"{name}.out" not in shipped(tmp_path)


@pytest.mark.parametrize("above", [False, True])
def test_a_home_folder_ships_only_where_it_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: bool
) -> None:
    home = tmp_path / "ada"
    write(home / "project", {"train.py": ""})
    monkeypatch.setenv("HOME", str(home))
    folder = tmp_path if above else home
    with pytest.raises(RequestError, match="your home folder") as caught:
        bundle.pack(folder)
    assert f"it is meant so: touch {folder}/.kijignore" in caught.value.hints[2]
    assert shipped(home / "project") == ["train.py"]
    (folder / ".kijignore").touch()
    assert "project/train.py" in "".join(shipped(folder))


def test_without_a_home_every_folder_is_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nobody)
    write(tmp_path, {"train.py": ""})
    assert shipped(tmp_path) == ["train.py"]
