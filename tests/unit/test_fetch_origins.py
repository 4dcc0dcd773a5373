"""What --fetch reads: files over HTTP that fail in all ways, folders, stores of fsspec."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.spread import disk, origins, web
from kij_train.pod.spread.chunks import File, Layout
from kij_train.pod.spread.origin import Fetch
from kij_train.pod.spread.origins import fetch_all
from kij_train.pod.spread.urls import file_name

from tests.origin import Answer, Origin, running

DATA = bytes(range(256)) * 40_000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(web, "PATIENCE_S", 30.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE_S", 0.3)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Fetched:
    """A pod alone that fetches."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[str]()

    def __call__(self, *fetches: Fetch, **environment: str) -> Path:
        environment[contract.ENV_FETCH] = json.dumps(fetches)
        fetch_all(environment, self.said.append)
        return self.folder

    def from_(self, origin: Origin, path: str = "/m.tar", sha256: str = "", **env: str) -> bytes:
        self(Fetch(f"http://localhost:{origin.port}{path}", str(self.folder), sha256), **env)
        return (self.folder / file_name(path)).read_bytes()


@pytest.fixture
def fetched(tmp_path: Path) -> Fetched:
    return Fetched(tmp_path / "to")


def test_a_file_is_read_by_one_request(fetched: Fetched) -> None:
    with running(DATA) as origin:
        assert fetched.from_(origin, "/a/m%20x.tar?revision=2", SHA256) == DATA
    assert [request.path for request in origin.requests] == ["/a/m%20x.tar?revision=2"]
    assert names(fetched.folder) == ["m x.tar"]


def no_ranges(origin: Origin) -> None:
    origin.ranges = False


def throttled(origin: Origin) -> None:
    origin.answers = [Answer(429, {"Retry-After": "0"}), Answer(503), Answer(500)]


def throttled_until_a_date(origin: Origin) -> None:
    origin.answers = [Answer(429, {"Retry-After": formatdate(time.time(), usegmt=True)})]


def without_etag(origin: Origin) -> None:
    origin.etags = False


@pytest.mark.parametrize("how", [no_ranges, throttled, throttled_until_a_date, without_etag])
def test_a_file_whose_origin_stops_in_the_middle_is_read_on(
    fetched: Fetched, how: Callable[[Origin], None]
) -> None:
    with running(DATA) as origin:
        origin.cut_after = [5_000_000, 100]
        how(origin)
        assert fetched.from_(origin, sha256=SHA256) == DATA
    assert any("Trying again" in line for line in fetched.said)
    if origin.ranges:
        assert origin.sent == len(DATA)


def test_a_file_of_unknown_length_is_whole_too(fetched: Fetched) -> None:
    with running(DATA) as origin:
        origin.lengths = False
        assert fetched.from_(origin, sha256=SHA256) == DATA
    assert names(fetched.folder) == ["m.tar"]


@pytest.mark.parametrize(
    ("answer", "kind", "word"),
    [
        (Answer(403), "access is refused", "FETCH_AUTHORIZATION_LOCALHOST"),
        (Answer(401), "access is refused", "is not set"),
        (Answer(404), "there is no such file", "HTTP 404"),
        (Answer(410), "there is no such file", "HTTP 410"),
        (Answer(302, {"Location": "file:///etc/passwd"}), "there is no such file", "HTTP 302"),
    ],
)
def test_an_answer_that_will_not_change_fails_at_once(
    fetched: Fetched, answer: Answer, kind: str, word: str
) -> None:
    with running(DATA) as origin:
        origin.answers = [answer]
        with pytest.raises(Failure, match=kind) as caught:
            fetched.from_(origin, "/m.tar?token-of=mine")
    assert word in str(caught.value) and "mine" not in str(caught.value)
    assert caught.value.exit_code == contract.EXIT_PREPARE and len(origin.requests) == 1


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([Answer(429, {"Retry-After": "0"})] * 200, "asks for fewer requests"),
        ([Answer(502)] * 200, "the origin is gone"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_an_origin_that_stays_ill_is_given_up(
    fetched: Fetched, answers: list[Answer], kind: str
) -> None:
    with running(DATA) as origin:
        origin.answers = answers
        with pytest.raises(Failure, match=kind) as caught:
            fetched.from_(origin)
    assert caught.value.exit_code == contract.EXIT_ORIGIN


@pytest.mark.usefixtures("impatient")
def test_an_origin_that_is_gone_is_said(fetched: Fetched) -> None:
    with running(DATA) as origin:
        url = f"http://localhost:{origin.port}/m.tar"
    with pytest.raises(Failure, match=r"the origin is gone: http://localhost.*refused"):
        fetched(Fetch(url, str(fetched.folder)))


@pytest.mark.usefixtures("impatient")
def test_an_origin_that_is_gone_in_the_middle_is_given_up_with_its_last_words(
    fetched: Fetched,
) -> None:
    with running(DATA) as origin:
        origin.cut_after = [5_000_000]

        def say(text: str) -> None:
            origin.answers = [Answer(503)] * 200

        url = f"http://localhost:{origin.port}/m.tar"
        env = {contract.ENV_FETCH: json.dumps([Fetch(url, str(fetched.folder))])}
        with pytest.raises(Failure, match=r"the origin is gone: http://localhost.*503") as caught:
            fetch_all(env, say)
    assert caught.value.exit_code == contract.EXIT_ORIGIN


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_gets_full_in_the_middle_is_said(tmp_path: Path) -> None:
    there = disk.Disk([str(tmp_path)], Layout([File(0, "m.bin", 10)]))
    there.prepare()
    (tmp_path / "m.bin").unlink()
    (tmp_path / "m.bin").symlink_to("/dev/full")
    with pytest.raises(Failure, match=r"no room is left: .*m\.bin: No space left") as caught:
        there.write(0, b"0123456789")
    assert caught.value.exit_code == contract.EXIT_ORIGIN


@pytest.mark.parametrize("other", [DATA[::-1], DATA + b"more", DATA[:-1]])
def test_a_file_that_changes_while_it_is_read_is_found(fetched: Fetched, other: bytes) -> None:
    with running(DATA) as origin:
        origin.cut_after = [6_000_000]
        origin.bytes_s = 30e6

        def say(text: str) -> None:
            origin.data = other

        with pytest.raises(Failure, match="has changed while it was read"):
            url = f"http://localhost:{origin.port}/m.tar"
            env = {contract.ENV_FETCH: json.dumps([Fetch(url, str(fetched.folder))])}
            fetch_all(env, say)


def test_another_hash_than_asked_for_fails(fetched: Fetched) -> None:
    with running(DATA) as origin, pytest.raises(Failure, match=f"SHA-256 {SHA256}, not aaaa"):
        fetched.from_(origin, sha256="a" * 64)


def test_credentials_go_to_their_host_alone_and_are_not_said(fetched: Fetched) -> None:
    with running(DATA) as origin, running(DATA) as other:
        origin.answers = [Answer(302, {"Location": f"http://127.0.0.1:{other.port}/m.tar"})]
        secret = {"FETCH_AUTHORIZATION_LOCALHOST": "Bearer top-secret\n"}
        assert fetched.from_(origin, **secret) == DATA
        assert [request.authorization for request in origin.requests] == ["Bearer top-secret"]
        assert [request.authorization for request in other.requests] == [None]
        origin.answers = [Answer(403)]
        with pytest.raises(Failure, match="did not help") as caught:
            fetched.from_(origin, **secret)
    assert "top-secret" not in str(caught.value) + "".join(fetched.said)


def test_a_disk_without_room_is_said_before_anything_is_read(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "HELD_BACK", 1 << 60)
    with running(DATA) as origin, pytest.raises(Failure, match=r"no room is left: .* free, and"):
        fetched.from_(origin)


def test_a_folder_gets_there_with_all_below_it(fetched: Fetched, tmp_path: Path) -> None:
    origin = tmp_path / "llama"
    (origin / "blobs").mkdir(parents=True)
    (origin / "blobs/x").write_bytes(DATA)
    (origin / "weights").symlink_to("blobs/x")
    (origin / "empty").touch()
    (origin / "run.sh").write_text("#!/bin/sh\n")
    (origin / "run.sh").chmod(0o755)
    (origin / "blobs/up").symlink_to("..")
    to = fetched(Fetch(str(origin), str(fetched.folder)))
    found = {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()}
    assert found == {"blobs/x", "weights", "empty", "run.sh"}
    assert (to / "weights").read_bytes() == DATA and os.access(to / "run.sh", os.X_OK)


def test_several_sources_share_a_folder_unless_their_names_meet(
    fetched: Fetched, tmp_path: Path
) -> None:
    for name in ("one/a", "one/b", "two/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    to = str(fetched.folder)
    fetched(Fetch(str(tmp_path / "one/b"), to), Fetch(str(tmp_path / "two"), to))
    assert names(fetched.folder) == ["a", "b"]
    with pytest.raises(Failure, match="comes twice"):
        fetched(Fetch(str(tmp_path / "one"), to), Fetch(str(tmp_path / "two"), to))


def test_what_is_not_there_is_said(fetched: Fetched, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"there is no such file: .*/nothing"):
        fetched(Fetch(str(tmp_path / "nothing"), str(fetched.folder)))


def test_fsspec_reads_what_it_knows(fetched: Fetched) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/m/a": DATA, "/bucket/m/sub/b": b"b", "/bucket/other": b""})
    to = fetched(Fetch("memory://bucket/m", str(fetched.folder)))
    assert (to / "a").read_bytes() == DATA and (to / "sub/b").read_bytes() == b"b"
    fetched(Fetch("memory://bucket/m/sub/b", str(fetched.folder)))
    with pytest.raises(Failure, match="there is no such file"):
        fetched(Fetch("memory://bucket/none", str(fetched.folder)))
    with pytest.raises(Failure, match="cannot fetch"):
        fetched(Fetch("nosuch://bucket/none", str(fetched.folder)))


def test_a_store_whose_library_is_not_there_says_which(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(Failure, match="the image lacks a library: s3:// needs fsspec"):
        fetched(Fetch("s3://bucket/m", str(fetched.folder)))


def test_a_store_cannot_write_outside_of_the_folder(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil(origins.Mounted):
        def look(self) -> tuple[list[File], str]:
            return [File(0, "../../etc/cron.d/x", 1)], ""

    monkeypatch.setattr(origins, "origin_of", lambda fetch, *_: Evil("/x"))
    with pytest.raises(Failure, match="a file would leave its folder"):
        fetched(Fetch("/x", str(fetched.folder)))
