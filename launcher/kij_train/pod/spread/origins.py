"""What --fetch names: URLs, folders that are mounted, and what fsspec reads.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py. fsspec is
imported where a URL needs it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import posixpath
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.spread.cache import Cache, cache_of
from kij_train.pod.spread.cached import Cached
from kij_train.pod.spread.chunks import File, Layout, check_path
from kij_train.pod.spread.faults import has_changed, origin_fault, request_fault
from kij_train.pod.spread.limits import check_limits
from kij_train.pod.spread.origin import Fetch, Origin
from kij_train.pod.spread.others import FETCHES
from kij_train.pod.spread.reader import Source
from kij_train.pod.spread.sharing import list_folder, spread
from kij_train.pod.spread.urls import file_name
from kij_train.pod.spread.web import READ_BYTES, HttpFile, Say


class Web(Origin):
    """A file of http or https."""

    def __init__(self, url: str, scratch: str, environment: Dict[str, str], say: Say) -> None:
        self._file, self.name = HttpFile(url, environment, say), file_name(url)
        self._scratch = scratch
        self._part = ""

    def look(self) -> Tuple[List[File], str]:
        size, mark = self._file.look()
        if size is None:
            # Others are told sizes first, so it is read to the end before.
            size = self._read_to_the_end()
        return [File(0, self.name, size)], mark

    def close(self) -> None:
        self._file.close()
        if self._part:
            with contextlib.suppress(OSError):
                os.remove(self._part)
            self._part = ""

    def _read_to_the_end(self) -> int:
        self._part = os.path.join(self._scratch, f".{self.name}.part")
        try:
            os.makedirs(self._scratch, exist_ok=True)
            with open(self._part, "wb") as part:
                for data in self._file.read(0):
                    part.write(data)
                return part.tell()
        except OSError as error:
            raise origin_fault("full", f"cannot write {self._part}: {error.strerror}") from error

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        del path
        if not self._part:
            yield from self._file.read(offset)
            return
        with open(self._part, "rb") as part:
            part.seek(offset)
            yield from iter(lambda: part.read(READ_BYTES), b"")
        self.close()


class Mounted(Origin):
    """A file or folder that the pod has."""

    def __init__(self, path: str) -> None:
        self._path = path

    def look(self) -> Tuple[List[File], str]:
        path = self._path
        try:
            if os.path.isdir(path):
                files = list_folder(path)
            else:
                name = posixpath.basename(path)
                files = [File(0, name, os.stat(path).st_size, os.access(path, os.X_OK))]
            times = [os.stat(self._at(file.path)).st_mtime_ns for file in files]
        except FileNotFoundError as error:
            raise request_fault("not-found", f"{path}: there is no such file or folder") from error
        except OSError as error:
            raise request_fault("refused", f"{path}: {error.strerror}") from error
        return files, hashlib.sha256(json.dumps(times).encode()).hexdigest()

    def _at(self, path: str) -> str:
        return os.path.join(self._path, path) if os.path.isdir(self._path) else self._path

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        try:
            with open(self._at(path), "rb") as file:
                file.seek(offset)
                yield from iter(lambda: file.read(READ_BYTES), b"")
        except OSError as error:
            raise origin_fault("gone", f"{self._at(path)}: {error.strerror}") from error


class Listed(Origin):
    """A file, or all files below a prefix, of a store that fsspec knows."""

    def __init__(self, url: str) -> None:
        self._url, scheme = url, url.partition("://")[0]
        self.name = posixpath.basename(url)
        try:
            import fsspec

            self._store, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise request_fault(
                "no-library", f"{scheme}:// needs fsspec and its package for that: {error}"
            ) from error
        except Exception as error:
            raise request_fault("refused", f"{url}: {error}") from error

    def look(self) -> Tuple[List[File], str]:
        with self._told():
            found: Dict[str, Any] = self._store.find(self._root, detail=True)
        if not found:
            raise request_fault("not-found", f"{self._url}: there is nothing")
        files, marks = [], []
        for name, about in sorted(found.items()):
            path = posixpath.relpath(name, self._root)
            files.append(File(0, posixpath.basename(name) if path == "." else path, about["size"]))
            keys = ("ETag", "etag", "LastModified", "mtime", "updated")
            marks.append(str(next((about[key] for key in keys if about.get(key)), "")))
        mark = hashlib.sha256(json.dumps(marks).encode()).hexdigest() if all(marks) else ""
        return files, mark

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        with self._told():
            is_file = self._store.isfile(self._root)
            name = self._root if is_file else posixpath.join(self._root, path)
            with self._store.open(name, "rb") as file:
                file.seek(offset)
                yield from iter(lambda: file.read(READ_BYTES), b"")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Libraries raise what they like."""
        try:
            yield
        except (Failure, GeneratorExit):
            raise
        except FileNotFoundError as error:
            raise request_fault("not-found", f"{self._url}: {error}") from error
        except PermissionError as error:
            raise request_fault("refused", f"{self._url}: {error}") from error
        except Exception as error:
            raise origin_fault("gone", f"{self._url}: {type(error).__name__}: {error}") from error


def origin_of(fetch: Fetch, environment: Dict[str, str], say: Say) -> Origin:
    """Raises Failure."""
    if fetch.source.startswith("/"):
        return Mounted(fetch.source)
    if fetch.source.startswith(("http://", "https://")):
        return Web(fetch.source, fetch.to, environment, say)
    return Listed(fetch.source)


class Origins(Source):
    """All that --fetch names, one after another."""

    def __init__(self, fetches: Sequence[Fetch], environment: Dict[str, str], say: Say) -> None:
        self._fetches, self._environment, self._say = fetches, environment, say
        self._origins: List[Origin] = []
        self._firsts: List[int] = []
        """Of every origin, the number of its first file."""
        self._cache: Optional[Cache] = None

    def close(self) -> None:
        """Let go what `open` has left open."""
        for origin in self._origins:
            origin.close()
        if self._cache is not None:
            self._cache.close()

    def open(self, folders: List[str], layout: Optional[Layout]) -> Layout:
        files: List[File] = []
        marks: List[str] = []
        self._cache = cache_of(self._environment, self._say)
        for fetch in self._fetches:
            origin = origin_of(fetch, self._environment, self._say)
            if self._cache is not None and not isinstance(origin, Mounted):
                origin = Cached(origin, fetch, self._cache, self._say)
            self._origins.append(origin)
            found, mark = origin.look()
            self._firsts.append(len(files))
            marks.append(mark)
            for file in found:
                try:
                    check_path(file.path)
                except ValueError as error:
                    raise request_fault("path", f"{fetch.source}: {error}") from error
                files.append(file._replace(folder=folders.index(fetch.to)))
        check_limits(self._environment.get(contract.ENV_FETCH_LIMITS, ""), folders, files)
        new = Layout(files, json.dumps(marks))
        if layout is not None and layout.id != new.id:
            raise has_changed()
        return new

    def chunks(self, folders: List[str], layout: Layout, start: int) -> Iterator[bytes]:
        parts: List[memoryview] = []
        left = layout.size_of(start) if start < layout.count else 0
        for data in self._bytes(folders, layout, start * layout.chunk_bytes):
            view = memoryview(data)
            while view:
                part, view = view[:left], view[left:]
                parts.append(part)
                left -= len(part)
                # The last chunk waits for the checks of the whole: with it, a pod's script starts.
                if not left and start < layout.count - 1:
                    yield b"".join(parts)
                    parts, start = [], start + 1
                    left = layout.size_of(start)
        if start < layout.count:
            yield b"".join(parts)

    def _bytes(self, folders: List[str], layout: Layout, skip: int) -> Iterator[bytes]:
        """Of all files, end to end, without the first `skip`."""
        for number, file in enumerate(layout.files):
            if skip >= file.size:
                skip -= file.size
                continue
            which = max(i for i, first in enumerate(self._firsts) if first <= number)
            wanted = self._fetches[which].sha256
            digest = hashlib.sha256()
            if skip and wanted:
                _add_file(digest, Path(folders[file.folder], file.path), skip)
            left = file.size - skip
            for data in self._origins[which].read(file.path, skip):
                if len(data) > left:
                    raise has_changed(self._fetches[which].source)
                left -= len(data)
                if wanted:
                    digest.update(data)
                yield data
            if left:
                raise has_changed(self._fetches[which].source)
            if wanted and digest.hexdigest() != wanted:
                source = self._fetches[which].source
                raise self._origins[which].other_hash(source, digest.hexdigest(), wanted)
            self._origins[which].end(file.path)
            skip = 0


def _add_file(digest: Any, path: Path, size: int) -> None:
    """The first part of a file that an earlier reader has read."""
    with path.open("rb") as file:
        while size:
            data = file.read(min(size, READ_BYTES))
            if not data:
                raise has_changed(str(path))
            digest.update(data)
            size -= len(data)


def fetch_all(environment: Dict[str, str], say: Say) -> None:
    """Get what --fetch names into its folders. Raises Failure."""
    fetches = [Fetch(*each) for each in json.loads(environment[contract.ENV_FETCH])]
    if environment.get(contract.ENV_PARENT_PID):
        for to in dict.fromkeys(fetch.to for fetch in fetches):
            _keep_here([fetch for fetch in fetches if fetch.to == to], environment, say)
        return
    folders = list(dict.fromkeys(fetch.to for fetch in fetches))
    spread(FETCHES, Origins(fetches, environment, say), folders, environment, say)


def _keep_here(fetches: List[Fetch], environment: Dict[str, str], say: Say) -> None:
    """Into a folder of this machine's cache, unless the same is there. One process at a time."""
    to, new = fetches[0].to, f"{fetches[0].to}.new"
    os.makedirs(os.path.dirname(to), exist_ok=True)
    with open(f"{to}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        at_new = [fetch._replace(to=new) for fetch in fetches]
        source = Origins(at_new, environment, say)
        mark = f"{to}.mark"
        try:
            known = Path(mark).read_text() if os.path.isdir(to) else ""
        except OSError:
            known = ""
        found = source.open([new], None)
        source.close()
        if known == found.id:
            return
        shutil.rmtree(new, ignore_errors=True)
        spread(FETCHES, Origins(at_new, environment, say), [new], {}, say)
        with contextlib.suppress(OSError):
            os.remove(mark)
        shutil.rmtree(to, ignore_errors=True)
        os.rename(new, to)
        Path(mark).write_text(found.id)
