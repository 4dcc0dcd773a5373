"""A folder that jobs share: what one has put there whole, the next one finds, whatever happened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.spread import cache as caches
from kij_train.pod.spread.cache import FORMAT, Cache, Entry, cache_of, filled, key_of
from kij_train.pod.spread.chunks import CHUNK_BYTES, File
from kij_train.pod.spread.leases import Owner
from kij_train.pod.spread.origin import Fetch
from kij_train.pod.spread.origins import Origins, fetch_all

from tests.origin import Origin, running

KEY = key_of("something")
DATA = bytes(range(256)) * 40_000
SHA256 = hashlib.sha256(DATA).hexdigest()
ME = Owner("job", "0", "mine")
FILES = {"a": b"first", "sub/b": b"", "c": bytes(range(200))}


class Job:
    """A pod alone that fetches, of a job of its own."""

    def __init__(self, folder: Path, name: str = "job-1") -> None:
        self.folder, self.cache = folder / name, folder / "cache"
        self.said: list[str] = []
        self.environment = {
            contract.ENV_CACHE: str(self.cache),
            contract.ENV_SPREAD_KEY: f"uid of {name}",
            contract.ENV_JOB: name,
        }

    def say(self, line: str) -> None:
        """All but the last line, which says how long it took."""
        if not line.startswith("fetched "):
            self.said.append(line)

    def fetch(self, origin: Origin, path: str = "/m.bin", sha256: str = "") -> bytes:
        url = f"http://localhost:{origin.port}{path}"
        plan = json.dumps([Fetch(url, str(self.folder), sha256)])
        fetch_all({**self.environment, contract.ENV_FETCH: plan}, self.say)
        return (self.folder / path.rpartition("/")[2]).read_bytes()

    @property
    def left(self) -> list[str]:
        """What is half there."""
        return [each.name for each in (self.cache / FORMAT / "filling").iterdir()]

    @property
    def whole(self) -> list[Path]:
        return list((self.cache / FORMAT / "whole").iterdir())


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> Iterator[Cache]:
    made = Cache(str(tmp_path / "cache"), ME, said.append)
    yield made
    made.close()


def put(cache: Cache, files: dict[str, bytes], key: str = KEY) -> None:
    filling = cache.fill(key, "something")
    assert filling is not None
    filling.write(b"".join(files.values()))
    filling.publish([File(0, name, len(data)) for name, data in files.items()])


def content(entry: Entry | None) -> bytes:
    assert entry is not None
    try:
        return b"".join(entry.read(0, entry.layout.total))
    finally:
        entry.close()


# --- what is fetched ------------------------------------------------------------------------------


def test_a_second_job_asks_the_origin_for_nothing_where_the_hash_is_named(tmp_path: Path) -> None:
    with running(DATA) as origin:
        first, second = Job(tmp_path), Job(tmp_path, "job-2")
        assert first.fetch(origin, sha256=SHA256) == DATA
        assert second.fetch(origin, "/mirror/other.bin", SHA256) == DATA
    assert len(origin.requests) == 1
    assert any("put 9.8 MiB into the cache" in line for line in first.said)
    assert second.said == [f"http://localhost:{origin.port}/mirror/other.bin is in the cache"]
    assert first.left == [] and len(first.whole) == 1


def test_without_a_hash_the_origin_is_asked_for_its_version_alone(tmp_path: Path) -> None:
    with running(DATA) as origin:
        Job(tmp_path).fetch(origin)
        origin.bytes_s = 1e6  # so that the second answer is not read to its end
        assert Job(tmp_path, "job-2").fetch(origin) == DATA
        assert origin.requests[1].sent < len(DATA) / 2
        origin.bytes_s, origin.data = float("inf"), DATA[::-1]
        assert Job(tmp_path, "job-3").fetch(origin) == DATA[::-1]


def test_what_does_not_tell_its_version_is_not_kept(tmp_path: Path) -> None:
    with running(DATA) as origin:
        origin.etags = False
        job = Job(tmp_path)
        assert job.fetch(origin) == DATA
        assert job.whole == [] and "does not say which version it is" in job.said[0]
        assert Job(tmp_path, "job-2").fetch(origin, sha256=SHA256) == DATA
        assert len(job.whole) == 1


def test_a_length_that_nobody_knows_before_is_no_obstacle(tmp_path: Path) -> None:
    with running(DATA) as origin:
        origin.lengths = False
        for name in ("job-1", "job-2"):
            job = Job(tmp_path, name)
            assert job.fetch(origin) == DATA
            assert [each.name for each in job.folder.iterdir()] == ["m.bin"]
    assert len(job.whole) == 1


def test_bytes_that_are_not_what_was_asked_for_are_neither_kept_nor_handed_out(
    tmp_path: Path,
) -> None:
    job = Job(tmp_path)
    with running(DATA) as origin, pytest.raises(Failure, match="the file has another hash"):
        job.fetch(origin, sha256="a" * 64)
    assert job.whole == [] and job.left == []


def test_the_last_chunk_comes_when_the_whole_is_checked(tmp_path: Path) -> None:
    with running(DATA) as origin:
        to = str(tmp_path / "to")
        url = f"http://localhost:{origin.port}/m.bin"
        source = Origins([Fetch(url, to, "a" * 64)], {}, lambda _: None)
        layout = source.open([to], None)
        got = []
        with pytest.raises(Failure, match="another hash"):
            for chunk in source.chunks([to], layout, 0):
                got.append(chunk)
        assert len(got) == layout.count - 1
        source.close()


def test_a_pod_that_goes_on_for_a_lost_one_completes_what_that_one_has_begun(
    tmp_path: Path,
) -> None:
    with running(DATA) as origin:
        job = Job(tmp_path)
        to, url = str(job.folder), f"http://localhost:{origin.port}/m.bin"

        def source(index: str) -> Origins:
            environment = {**job.environment, contract.ENV_COMPLETION_INDEX: index}
            return Origins([Fetch(url, to, SHA256)], environment, job.said.append)

        lost, heir = source("0"), source("1")
        layout = lost.open([to], None)
        chunks = lost.chunks([to], layout, 0)
        job.folder.mkdir()
        (job.folder / "m.bin").write_bytes(next(chunks))
        rest = list(heir.chunks([to], heir.open([to], layout), 1))
        heir.close()
        assert b"".join(rest) == DATA[CHUNK_BYTES:]
        assert list(chunks) == rest  # it was only cut off, and ends without another word
        lost.close()
        again = Job(tmp_path, "job-2")
        assert again.fetch(origin, sha256=SHA256) == DATA
    assert [request.first for request in origin.requests] == [0, 0, CHUNK_BYTES]
    assert again.left == []


def test_a_copy_that_is_damaged_is_read_on_from_the_origin_and_mended(tmp_path: Path) -> None:
    with running(DATA) as origin:
        Job(tmp_path).fetch(origin, sha256=SHA256)
        (kept,) = Job(tmp_path).whole
        with kept.open("r+b") as file:
            file.seek(CHUNK_BYTES + 5)
            file.write(b"damage")
        second, third = Job(tmp_path, "job-2"), Job(tmp_path, "job-3")
        assert second.fetch(origin, sha256=SHA256) == DATA
        assert any("something damaged" in line for line in second.said)
        assert third.fetch(origin, sha256=SHA256) == DATA
        assert origin.requests[-1].first == CHUNK_BYTES and len(origin.requests) == 3


def test_a_copy_under_the_name_of_another_hash_is_found_and_removed(tmp_path: Path) -> None:
    with running(DATA) as origin:
        job = Job(tmp_path)
        cache = cache_of(job.environment, job.said.append)
        assert cache is not None
        put(cache, {"m.bin": b"evil"}, key_of("sha256", SHA256))
        cache.close()
        with pytest.raises(Failure, match="had something else") as caught:
            job.fetch(origin, sha256=SHA256)
        assert caught.value.exit_code == contract.EXIT_ORIGIN
        assert job.fetch(origin, sha256=SHA256) == DATA


def test_a_folder_of_a_store_is_kept_and_what_is_mounted_is_not(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    job = Job(tmp_path)
    there = tmp_path / "bucket"
    (there / "sub").mkdir(parents=True)
    (there / "sub/a").write_bytes(DATA)
    (there / "empty").touch()
    (there / "z").write_bytes(b"z")

    def fetch(source: str, job: Job) -> None:
        plan = json.dumps([Fetch(source, str(job.folder))])
        fetch_all({**job.environment, contract.ENV_FETCH: plan}, job.say)
        assert (job.folder / "sub/a").read_bytes() == DATA
        assert (job.folder / "empty").read_bytes() == b"" and (job.folder / "z").exists()

    fetch(str(there), job)
    assert job.whole == []
    fetch(f"local://{there}", job)
    second = Job(tmp_path, "job-2")
    fetch(f"local://{there}", second)
    assert second.said == [f"local://{there} is in the cache"] and len(job.whole) == 1


# --- what is made ---------------------------------------------------------------------------------


def make(folder: str) -> None:
    Path(folder, "lib").mkdir()
    Path(folder, "lib/a.py").write_text("a = 1\n")
    Path(folder, "run").write_text("#!/bin/sh\n")
    Path(folder, "run").chmod(0o755)
    Path(folder, "empty").touch()


def never(folder: str) -> None:
    raise AssertionError(f"{folder} is in the cache")


def test_a_folder_that_one_job_has_made_the_next_one_gets(tmp_path: Path) -> None:
    first, second = Job(tmp_path), Job(tmp_path, "job-2")
    for job, how in ((first, make), (second, never)):
        job.folder.mkdir()
        came = filled(KEY, "packages", str(job.folder), how, job.environment, job.said.append)
        assert came == (job is second)
    assert (second.folder / "lib/a.py").read_text() == "a = 1\n"
    assert os.access(second.folder / "run", os.X_OK) and (second.folder / "empty").exists()
    assert first.left == []


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path)

    def fail(folder: str) -> None:
        raise Failure(contract.EXIT_ORIGIN, "no such package")

    with pytest.raises(Failure, match="no such package"):
        filled(KEY, "packages", str(job.folder), fail, job.environment, job.said.append)
    assert job.left == [] and job.whole == []


# --- a cache that is no good ----------------------------------------------------------------------


def a_file(at: Path) -> None:
    at.write_text("")


def below_a_file(at: Path) -> None:
    at.mkdir()
    (at / FORMAT).write_text("")


def a_link(at: Path) -> None:
    at.mkdir()
    (at / FORMAT).symlink_to("/tmp")


def a_link_below(at: Path) -> None:
    (at / FORMAT).mkdir(parents=True)
    (at / FORMAT / "filling").symlink_to(at.parent)


def below_a_link_to_nothing(at: Path) -> None:
    at.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize(
    "wrong", [below_a_link_to_nothing, a_file, below_a_file, a_link, a_link_below]
)
def test_a_folder_that_is_none_costs_one_line(
    tmp_path: Path, wrong: Callable[[Path], None]
) -> None:
    job = Job(tmp_path)
    wrong(job.cache)
    before = {*tmp_path.iterdir(), job.folder}
    with running(DATA) as origin:
        assert job.fetch(origin, sha256=SHA256) == DATA
    (line,) = job.said
    assert line.startswith(f"going on without the cache: {job.cache}: ")
    assert {*tmp_path.iterdir()} == before


def test_a_cache_without_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "HELD_BACK", 1 << 60)
    job = Job(tmp_path)
    with running(DATA) as origin:
        assert job.fetch(origin, sha256=SHA256) == DATA
    (line,) = job.said
    assert line.startswith("not kept in the cache: ") and "9.8 MiB would come" in line
    assert job.left == [] and job.whole == []


def test_a_cache_that_gets_full_in_the_middle_is_left(tmp_path: Path) -> None:
    job = Job(tmp_path)
    cache = cache_of(job.environment, job.said.append)
    assert cache is not None
    filling = cache.fill(KEY, "something")
    assert filling is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, hard))
    try:
        filling.write(DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    filling.write(DATA)
    filling.publish([File(0, "a", 2 * len(DATA))])
    cache.close()
    (line,) = job.said
    assert line == f"not kept in the cache: {job.cache}: File too large"
    assert job.left == [] and job.whole == []


def test_a_cache_without_write_access_is_read(said: list[str]) -> None:
    with tempfile.TemporaryDirectory() as above:  # pytest's own folders let no other user in
        folder = Path(above, "cache")
        seeded = Cache(str(folder), ME, said.append)
        put(seeded, FILES)
        seeded.close()
        inside = [folder / FORMAT / "filling", folder / FORMAT / "whole", folder / FORMAT, folder]
        for each in (*inside, Path(above)):
            each.chmod(0o555)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                if not os.getuid():
                    os.setresuid(65534, 65534, 65534)
                cache = Cache(str(folder), ME, said.append)
                got = content(cache.get(KEY))
                assert got == b"".join(FILES.values())
                assert cache.fill(key_of("another"), "something") is None
                assert said[1:] == [f"not kept in the cache: {folder}: Permission denied"]
                os._exit(7)
            os._exit(1)
        ended = os.waitpid(child, 0)[1]
        for each in (Path(above), *reversed(inside)):
            each.chmod(0o755)
        assert os.WEXITSTATUS(ended) == 7


def test_what_is_made_in_it_is_as_open_as_the_folder_itself(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.cache.mkdir()
    job.cache.chmod(0o2777)
    mask = os.umask(0o077)
    try:
        with running(DATA) as origin:
            job.fetch(origin, sha256=SHA256)
    finally:
        os.umask(mask)
    for folder in (FORMAT, f"{FORMAT}/whole", f"{FORMAT}/filling"):
        assert stat.S_IMODE((job.cache / folder).stat().st_mode) == 0o2777
    (kept,) = job.whole
    assert stat.S_IMODE(kept.stat().st_mode) == 0o666


# --- entries that are no good ---------------------------------------------------------------------


@given(st.data())
def test_a_file_with_any_change_is_never_taken_for_what_was_put(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(folder, ME, lambda _: None)
        try:
            put(cache, FILES)
            kept = Path(folder, FORMAT, "whole", KEY)
            good = kept.read_bytes()
            where = data.draw(st.integers(0, len(good) - 1))
            cut = data.draw(st.booleans())
            bad = (
                good[:where] if cut else good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :]
            )
            kept.write_bytes(bad)
            entry = cache.get(KEY)
            if entry is not None:
                with pytest.raises(caches.Damaged):
                    content(entry)
            assert content(_again(cache)) == b"".join(FILES.values())
        finally:
            cache.close()


def _again(cache: Cache) -> Entry | None:
    cache.discard(KEY, "for the test")
    put(cache, FILES)
    return cache.get(KEY)


def crafted(files: Any, data: bytes, mark: str = KEY) -> bytes:
    """An entry that somebody has made by hand, with all its hashes right."""
    said = json.dumps({"files": files, "mark": mark, "chunk": CHUNK_BYTES}).encode()
    footer = zlib.compress(said) + hashlib.sha256(data).digest()
    digest = hashlib.sha256(footer).digest()
    return data + footer + struct.pack(">8sIQ32s", b"kijcache", len(footer) - 32, 1, digest)


@pytest.mark.parametrize(
    "made",
    [
        crafted([[0, "../../etc/cron.d/x", 4, False]], b"evil"),
        crafted([[0, "/etc/cron.d/x", 4, False]], b"evil"),
        crafted([[1, "x", 4, False]], b"evil"),
        crafted([[0, "a", 2, False], [0, "a", 2, False]], b"evil"),
        crafted([[0, "a", 2, False], [0, "a/b", 2, False]], b"evil"),
        crafted([[0, "a", 5, False]], b"evil"),
        crafted([[0, "a", 4, False]], b"evil", mark=key_of("another")),
        b"",
        b"x" * 500,
    ],
)
def test_an_entry_that_is_none_is_not_read_and_the_next_one_replaces_it(
    tmp_path: Path, cache: Cache, said: list[str], made: bytes
) -> None:
    kept = tmp_path / "cache" / FORMAT / "whole" / KEY
    kept.write_bytes(made)
    assert cache.get(KEY) is None
    assert "something damaged" in said[0] and not kept.exists()
    kept.write_bytes(made)
    put(cache, FILES)
    assert content(cache.get(KEY)) == b"".join(FILES.values())


def test_links_in_the_cache_are_not_followed(tmp_path: Path, cache: Cache) -> None:
    secret = tmp_path / "secret"
    put(cache, FILES)
    kept = tmp_path / "cache" / FORMAT / "whole" / KEY
    kept.rename(secret)
    kept.symlink_to(secret)
    assert cache.get(KEY) is None
    (tmp_path / "cache" / FORMAT / "filling" / f"{KEY}.7").symlink_to(tmp_path)
    put(cache, FILES)
    assert not kept.is_symlink() and secret.exists()
    assert content(cache.get(KEY)) == b"".join(FILES.values())


def test_a_pipe_or_a_folder_in_place_of_an_entry_holds_up_nobody(
    tmp_path: Path, cache: Cache
) -> None:
    kept = tmp_path / "cache" / FORMAT / "whole" / KEY
    os.mkfifo(kept)
    assert cache.get(KEY) is None
    kept.mkdir()
    assert cache.get(KEY) is None
    filling = cache.fill(KEY, "something")
    assert filling is not None
    filling.write(b"x")
    filling.publish([File(0, "x", 1)])
    assert cache.get(KEY) is None
