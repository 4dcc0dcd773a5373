"""A source of --fetch with a cache before it.

What the cache has is read from there. Else the source is read, and what comes is put there too, if
something tells its versions apart: the hash that was asked for, or the source's own mark.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from typing import Iterator, List, Optional, Tuple

from kij_train.pod.contract import Failure
from kij_train.pod.spread.cache import Cache, Damaged, Entry, Filling, Say, key_of
from kij_train.pod.spread.chunks import File
from kij_train.pod.spread.faults import origin_fault
from kij_train.pod.spread.origin import Fetch, Origin
from kij_train.pod.spread.urls import shown


class Cached(Origin):
    """A source, and the cache that may have it."""

    def __init__(self, origin: Origin, fetch: Fetch, cache: Cache, say: Say) -> None:
        self._origin, self._fetch, self._cache, self._say = origin, fetch, cache, say
        self._shown = shown(fetch.source)
        self._key = ""
        """Empty where nothing tells its versions apart."""
        self._files: List[File] = []
        self._entry: Optional[Entry] = None
        self._filling: Optional[Filling] = None
        self._looked = self._began = self._from_cache = False

    def look(self) -> Tuple[List[File], str]:
        wanted = self._fetch.sha256
        if wanted:
            self._key = key_of("sha256", wanted)
            self._entry = self._cache.get(self._key)
            if self._entry is not None:
                size = self._entry.layout.total
                self._files = [File(0, self._origin.name, size)]
                return self._files, f"sha256:{wanted}"
        self._files, mark = self._look_at_origin()
        if wanted:
            mark = f"sha256:{wanted}"
            if len(self._files) != 1:
                self._key = ""
        elif mark:
            self._key = key_of("source", self._fetch.source, self._files, mark)
        else:
            self._say(
                f"not kept in the cache: {self._shown} does not say which version it is. To name "
                "its hash helps: #sha256=HEX"
            )
        return self._files, mark

    def _look_at_origin(self) -> Tuple[List[File], str]:
        self._looked = True
        return self._origin.look()

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        if self._key and not self._began:
            self._begin(path, offset)
        if self._entry is not None:
            try:
                for data in self._entry.read(
                    self._start_of(path) + offset, self._left(path, offset)
                ):
                    offset += len(data)
                    yield data
                return
            except Damaged as damage:
                self._leave_entry(damage)
                self._begin(path, offset)
        for data in self._origin.read(path, offset):
            if self._filling is not None:
                self._filling.write(data)
            yield data

    def _begin(self, path: str, offset: int) -> None:
        """Decide where it comes from: this far, it is here already."""
        self._began = True
        here = self._start_of(path) + offset
        if self._entry is None:
            # Others may need the connection while this pod waits for another job.
            self._filling = self._cache.fill(
                self._key, self._shown, self._total, goes_on=here > 0, on_wait=self._origin.close
            )
            if self._filling is None:
                self._entry = self._cache.get(self._key)
        if self._entry is not None:
            self._from_cache = True
            self._say(f"{self._shown} is in the cache")
        elif self._filling is not None and here:
            self._filling.write_files(self._fetch.to, self._files, here)

    def _leave_entry(self, damage: Damaged) -> None:
        """Go on with the source."""
        assert self._entry is not None
        self._cache.discard(self._key, str(damage))
        self._entry.close()
        self._entry, self._from_cache = None, False
        if not self._looked:
            self._look_at_origin()

    @property
    def _total(self) -> int:
        return sum(file.size for file in self._files)

    def _start_of(self, path: str) -> int:
        """Where a file begins, in the bytes of all."""
        start = 0
        for file in self._files:
            if file.path == path:
                break
            start += file.size
        return start

    def _left(self, path: str, offset: int) -> int:
        return next(file.size for file in self._files if file.path == path) - offset

    def end(self, path: str) -> None:
        last = [file.path for file in self._files if file.size][-1]
        if self._filling is not None and path == last:
            self._filling.publish(self._files)

    def other_hash(self, source: str, has: str, wanted: str) -> Failure:
        if not self._from_cache:
            return self._origin.other_hash(source, has, wanted)
        self._cache.discard(self._key, f"it has SHA-256 {has}, not {wanted}")
        return origin_fault("hash", f"the cache had something else for {source}: start again")

    def close(self) -> None:
        if self._filling is not None:
            self._filling.close()
        if self._entry is not None:
            self._entry.close()
            self._entry = None
        self._origin.close()
