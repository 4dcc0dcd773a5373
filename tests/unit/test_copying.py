"""cp: its two ends through a pair of sockets, and the command against pods of this machine."""

from __future__ import annotations

import copy
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kij_train import names
from kij_train.cli import main
from kij_train.jobs import Place
from kij_train.pod import copying
from kij_train.pod.copying import PART, CopyError, Summary, Wire

from tests.kube import eventually
from tests.proxies import running
from tests.unit.pods import OnePod


def wire(end: socket.socket) -> Wire:
    def read(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = end.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    return Wire(read, end.sendall)


def copied(source: Path, target: Path | str) -> Summary:
    """As the two ends do it. Raises what the taker does."""
    one, other = socket.socketpair()
    with one, other:
        sending = threading.Thread(target=quietly, args=(wire(one), str(source)), daemon=True)
        sending.start()
        try:
            return copying.take(wire(other), str(target))
        finally:
            other.shutdown(socket.SHUT_RDWR)
            sending.join()


def quietly(end: Wire, path: str) -> None:
    try:
        copying.send(end, path)
    except CopyError as error:
        end.tell("X", {"message": error.message, "is_request": error.is_request})
    except (EOFError, OSError):
        pass


def tree(folder: Path) -> dict[str, Any]:
    """What is in a folder, by its path."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = "folder"
        else:
            info = path.stat()
            found[name] = (path.read_bytes(), info.st_mode & 0o777, info.st_mtime_ns)
    return found


NAME = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1)
NAMES = NAME.filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.binary(max_size=200), max_size=6
    )
)
def test_any_tree_arrives_as_it_is_and_is_not_copied_twice(
    tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, ...], bytes]
) -> None:
    folder = tmp_path_factory.mktemp("trees")
    source, target = folder / "in", folder / "out"
    source.mkdir()
    for parts, content in files.items():
        path = source.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
    first = copied(source, target)
    assert first.problems == []
    assert tree(target) == tree(source)
    again = copied(source, target)
    assert (again.files, again.size_bytes, again.kept) == (0, 0, first.files)


def test_names_that_are_no_text_and_what_is_empty_arrive(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "empty folder").mkdir(parents=True)
    (source / "empty").touch(0o640)
    (source / os.fsdecode(b"\xff \n'\"$;")).write_bytes(b"x")
    assert copied(source, tmp_path / "out").problems == []
    assert tree(tmp_path / "out") == tree(source)


@pytest.mark.parametrize("into", ["new", "new/", "there", "there/", "deep/er/", "deep/er/new"])
def test_a_file_becomes_its_target_or_a_file_in_it(tmp_path: Path, into: str) -> None:
    (tmp_path / "a").write_text("content")
    (tmp_path / "there").mkdir()
    assert copied(tmp_path / "a", f"{tmp_path}/{into}").files == 1
    inside = into in ("there", "there/") or into.endswith("/")
    assert (tmp_path / into / "a" if inside else tmp_path / into).read_text() == "content"


def test_what_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    target = tmp_path / "out"
    target.mkdir()
    part = target / copying._part_of("a")
    part.write_bytes(content[:200_000])
    summary = copied(tmp_path / "a", target)
    assert (summary.files, summary.size_bytes) == (1, 100_000)
    assert (target / "a").read_bytes() == content
    assert not part.exists()
    # A part of what the file was before is no beginning of it.
    (target / "a").unlink()
    part.write_bytes(os.urandom(200_000))
    assert copied(tmp_path / "a", target).size_bytes == 300_000
    assert (target / "a").read_bytes() == content


def test_a_file_that_changed_is_copied_again_and_one_of_a_job_is_no_part(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a").write_text("one")
    (source / f"{PART}0").write_text("of a copy that brings it here")
    copied(source, target)
    (source / "a").write_text("two")
    os.utime(source / "a", (1, 1))
    assert copied(source, target).files == 1
    assert tree(target) == {"a": (b"two", (source / "a").stat().st_mode & 0o777, 10**9)}


def test_links_stay_links_and_none_leads_out_of_the_folder(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "a" / "b").mkdir(parents=True)
    (source / "file").write_text("x")
    inside = {"to": "file", "a/up": "../file", "a/b/far": "../../a/up", "dot": "a", "no": "none"}
    outside = {
        "root": "/etc/passwd",
        "above": "..",
        "a/above": "../../x",
        "turn": "a/../../x",
        "a/b/back": "../b/../../../x",
    }
    for name, leads_to in {**inside, **outside}.items():
        (source / name).symlink_to(leads_to)
    summary = copied(source, target)
    found = {name: what[1] for name, what in tree(target).items() if what[0] == "link"}
    assert found == inside
    assert len(summary.problems) == len(outside)
    assert "root: a link to /etc/passwd, which is not in the folder" in summary.problems
    assert copied(source, target).files == 0


def test_no_link_that_lies_in_the_target_is_followed(tmp_path: Path) -> None:
    source, target, other = tmp_path / "in", tmp_path / "out", tmp_path / "other"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "a").write_text("ours")
    (source / "b").write_text("ours")
    (source / "c").write_text("ours")
    other.mkdir()
    (other / "b").write_text("theirs")
    target.mkdir()
    (target / "sub").symlink_to(other)
    (target / "b").symlink_to(other / "b")
    (target / copying._part_of("c")).symlink_to(other / "b")
    summary = copied(source, target)
    assert tree(other) == {"b": tree(other)["b"]}
    assert (other / "b").read_text() == "theirs"
    assert (target / "b").read_text() == "ours"
    assert sorted(each.partition(":")[0] for each in summary.problems) == ["c", "sub", "sub/a"]


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", ".", "a//b", "a\0b"])
def test_a_sender_that_names_a_path_outside_is_not_obeyed(tmp_path: Path, path: str) -> None:
    one, other = socket.socketpair()
    with one, other:
        lies = wire(one)
        lies.tell("R", {"is_folder": True, "name": "x"})
        lies.tell("E", {"path": path, "size": 0, "mtime": 0})
        lies.tell("E", None)
        with pytest.raises(CopyError, match="would leave the folder"):
            copying.take(wire(other), str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "out"])


def test_what_cannot_be_read_or_is_no_file_is_told_and_the_rest_arrives(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "a").write_text("x")
    (target / "a").mkdir(parents=True)
    (source / "b").write_text("x")
    summary = copied(source, target)
    assert sorted(summary.problems) == [
        "a: something else of its name is there",
        "pipe: a socket, a pipe or a device",
    ]
    assert (summary.files, (target / "b").read_text()) == (1, "x")


def test_bytes_that_change_on_the_way_are_no_file(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other:
        lies = wire(one)
        lies.tell("R", {"is_folder": False, "name": "a"})
        lies.tell("E", {"path": "", "size": 3, "mtime": 0})
        lies.tell("E", None)
        lies.tell("H", {"n": 0, "from": 0, "size": 3, "mtime": 0, "mode": 0o644})
        lies.send("D", b"abc")
        lies.tell("T", {"sha": "0"})
        lies.tell(".", None)
        summary = copying.take(wire(other), f"{tmp_path}/out/")
    assert summary.problems == ["a: it arrived damaged"]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in "abc":
        (source / name).write_bytes(b"x" * 1000)

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying, "_write_all", full)
    with pytest.raises(CopyError, match=r"out: No space left on device") as caught:
        copied(source, target)
    assert not caught.value.is_request


def test_a_target_without_room_is_refused_before_a_byte_goes(tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other:
        wants = wire(one)
        wants.tell("R", {"is_folder": False, "name": "a"})
        wants.tell("E", {"path": "", "size": 2**60, "mtime": 0})
        wants.tell("E", None)
        with pytest.raises(CopyError, match="there is not enough room"):
            copying.take(wire(other), f"{tmp_path}/out/")
    assert list((tmp_path / "out").iterdir()) == []


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnePod]:
    with running(OnePod()) as made:
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield made


def filled(folder: Path) -> Path:
    """A folder with odd names, a link, and a file of more than a frame."""
    (folder / "a b" / "ü").mkdir(parents=True)
    (folder / "a b" / "ü" / "big").write_bytes(os.urandom(3_000_000))
    (folder / "'q' $(x).txt").write_text("x")
    (folder / "link").symlink_to("a b/ü/big")
    return folder


@pytest.mark.parametrize("upwards", [False, True])
def test_a_folder_is_copied_either_way_and_not_twice(
    server: OnePod, tmp_path: Path, capsys: pytest.CaptureFixture[str], upwards: bool
) -> None:
    source = filled(tmp_path / "in put")
    here, there = ("in put", "out") if upwards else ("out", f"{source}")
    there = f"job:0:{tmp_path / 'out'}" if upwards else f"job:0:{source}"
    line = ["cp", here, there] if upwards else ["cp", there, here]
    assert main(line) == 0, capsys.readouterr().err
    assert tree(tmp_path / "out") == tree(source)
    assert "copied 2 files, 2.9 MiB" in capsys.readouterr().err
    assert main(line) == 0
    assert "copied 0 files, 0 B; 2 more were there already" in capsys.readouterr().err


def of_three(server: OnePod) -> None:
    """Indexes 0 and 1 run, and 2 is done."""
    server.job["spec"] |= {"completions": 3, "parallelism": 3}
    (first,) = server.items["pods"]
    for index in (1, 2):
        pod = copy.deepcopy(first)
        pod["metadata"] |= {"name": f"job-{index}-abcde", "uid": f"uid-{index}"}
        for where in ("labels", "annotations"):
            pod["metadata"][where][names.COMPLETION_INDEX] = str(index)
        server.items["pods"].append(pod)
    pod["status"]["phase"] = "Succeeded"
    pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}


@pytest.mark.parametrize("upwards", [False, True])
def test_all_indexes_that_run_are_copied_and_the_others_are_named(
    server: OnePod, tmp_path: Path, capsys: pytest.CaptureFixture[str], upwards: bool
) -> None:
    of_three(server)
    source = filled(tmp_path / "in put")
    (tmp_path / "file").write_text("one")
    there = tmp_path / "out"
    if upwards:
        del server.items["pods"][1]  # these pods share their files, so that one is enough
    assert main(["cp", *(("in put", f"job:{there}") if upwards else (f"job:{source}", "out"))]) == 1
    err = capsys.readouterr().err
    assert "not copied: index 2: it is done" in err and "index 0" not in err
    if upwards:
        assert "not copied: index 1: it is pending" in err and tree(there) == tree(source)
        return
    assert tree(there / "0") == tree(there / "1") == tree(source)
    assert sorted(each.name for each in there.iterdir()) == ["0", "1"]
    assert main(["cp", f"job:{tmp_path}/file", "out"]) == 1
    assert (there / "1/file").read_text() == "one"
    assert main(["cp", f"job:{source}", "out"]) == 1
    assert "copied 0 files, 0 B; 4 more were there already" in capsys.readouterr().err


def test_what_fails_for_all_indexes_is_one_error(
    server: OnePod, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_three(server)
    assert main(["cp", f"job:{tmp_path}/none", "out"]) == 2
    assert "No such file" in capsys.readouterr().err
    server.items["pods"] = server.items["pods"][2:]
    assert main(["cp", f"job:{tmp_path}/none", "out"]) == 2
    assert "no pod of job runs" in capsys.readouterr().err


@pytest.mark.parametrize("upwards", [False, True])
def test_a_connection_that_breaks_is_opened_again_and_goes_on(
    server: OnePod, tmp_path: Path, capsys: pytest.CaptureFixture[str], upwards: bool
) -> None:
    content = os.urandom(5_000_000)
    (tmp_path / "in").write_bytes(content)
    server.cut_after = 3_000_000
    there = tmp_path / ("out" if upwards else "in")
    places = ["in", f"job:0:{there}"] if upwards else [f"job:0:{there}", "out"]
    assert main(["cp", *places]) == 0
    assert (tmp_path / "out").read_bytes() == content
    err = capsys.readouterr().err
    assert "broke" in err
    assert "going on" in err
    assert len(server.opened) == 2


def test_a_pod_that_was_replaced_meanwhile_is_said(
    server: OnePod, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_bytes(os.urandom(5_000_000))
    server.cut_after = 1_000_000
    server.when_cut = lambda: server.replace_pod("job-0-next")
    assert main(["cp", f"job:0:{tmp_path}/in", "out"]) == 4
    err = capsys.readouterr().err
    assert "pod job-0-rbmzm was replaced by job-0-next while it was copied" in err
    assert "the same command again" in err


def test_ctrl_c_leaves_a_part_that_the_next_run_goes_on_with(
    server: OnePod, tmp_path: Path
) -> None:
    content = os.urandom(30_000_000)
    (tmp_path / "in").write_bytes(content)
    server.pause_after = 10_000_000
    line = [sys.executable, "-m", "kij_train", "cp", f"job:0:{tmp_path}/in", "out/"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as ours:
        part = tmp_path / "out" / copying._part_of("in")
        assert eventually(lambda: part.exists() and part.stat().st_size > 9_000_000, 100)
        ours.send_signal(signal.SIGINT)
        _, err = ours.communicate(timeout=100)
    assert ours.returncode == 130
    assert "the same command again goes on from there" in err
    assert "Traceback" not in err
    had = part.stat().st_size
    server.pause_after = None
    server.resumed.set()
    again = subprocess.run(line, stderr=subprocess.PIPE, text=True, check=True)
    assert (tmp_path / "out" / "in").read_bytes() == content
    assert len(content) - had < 21_000_000
    assert "copied 1 file" in again.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["a", "b"], 2, "neither is in a pod"),
        (["job:0:a", "job:0:b"], 2, "both are in pods"),
        (["job:7:/a", "b"], 2, "has no index 7"),
        (["nope:0:/a", "b"], 4, "the files of a run with --local are on this machine"),
        (["job:0:/no/such", "b"], 2, "/no/such: No such file or directory"),
        (["no such", "job:0:/tmp/x"], 2, "no such: No such file or directory"),
        (["job:0:/dev/null", "b"], 2, "/dev/null is neither a file nor a folder"),
        (["kubeconfig", "job:0:/proc/x/y"], 2, "/proc/x/y: No such file or directory"),
        (["job:0:/etc", "kubeconfig"], 2, "kubeconfig is a file, and a folder was to be copied"),
    ],
)
def test_what_cannot_be_copied_is_said_in_a_line(
    server: OnePod,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    assert main(["cp", *words]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_pod_that_has_ended_has_its_files_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(OnePod("succeeded")) as server:
        config = server.kubeconfig(tmp_path)
        assert main(["cp", "job:0:/tmp/out", "out", "--kubeconfig", config]) == 2
    err = capsys.readouterr().err
    assert "index 0 of job does not run: it is done" in err
    assert "--mount pvc:NAME:/out" in err


def test_an_image_without_python_is_said(
    server: OnePod, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fails = {
        "status": "Failure",
        "message": 'exec: "python3": executable file not found in $PATH',
    }
    assert main(["cp", "job:0:/a", "b"]) == 127
    assert "cannot run python3: its image has no such program" in capsys.readouterr().err


def test_a_place_is_a_name_an_index_and_a_path() -> None:
    assert Place.parse("train-x:0:/tmp/a b:c") == Place("train-x", 0, "/tmp/a b:c")
    assert Place.parse("train-x:12:out") == Place("train-x", 12, "out")
    assert Place.parse("train-x:/tmp/a:b") == Place("train-x", None, "/tmp/a:b")
    for here in ("out", "./job:0:x", "a/b:0:c", "./job:/tmp", "job:tmp", "job:0:", "C:x"):
        assert Place.parse(here) is None


def test_the_program_in_the_pod_runs_by_itself() -> None:
    """Without our package beside it, as Python's main program."""
    asked = json.dumps({"sends": True, "path": "/no/such", "folder": "/"}).encode()
    program = Path(copying.__file__).read_bytes()
    frame = b"Q" + len(asked).to_bytes(4, "big") + asked
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program.decode()],
        input=frame,
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert done.stdout[:1] == b"X"
    assert b"/no/such: No such file or directory" in done.stdout
