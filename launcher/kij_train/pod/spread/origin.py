"""What something is fetched from: one source of --fetch.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

from typing import Iterator, List, NamedTuple, Tuple

from kij_train.pod.contract import Failure
from kij_train.pod.spread.chunks import File
from kij_train.pod.spread.faults import request_fault


class Fetch(NamedTuple):
    """A source and the folder that it gets into."""

    source: str
    """A URL, or an absolute path in the pod."""
    to: str
    sha256: str = ""
    """Of a single file."""


class Origin:
    """One source. Methods block, and raise Failure."""

    name = ""
    """Of the file, where the source is one."""

    def look(self) -> Tuple[List[File], str]:
        """Its files, in folder 0, and what tells this state of it from others.

        The mark is empty where nothing tells.
        """
        raise NotImplementedError

    def read(self, path: str, offset: int) -> Iterator[bytes]:
        """The bytes of a file, from there on."""
        raise NotImplementedError

    def end(self, path: str) -> None:
        """All bytes of the file were read, and are those that were asked for."""

    def other_hash(self, source: str, has: str, wanted: str) -> Failure:
        """The failure where they are not."""
        return request_fault("hash", f"{source} has SHA-256 {has}, not {wanted}")

    def close(self) -> None:
        """Let go what `look` has left open."""
