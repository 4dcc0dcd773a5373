"""What the user allows to be written: the size of an emptyDir, and of all that a pod has on disk.

A volume's free room does not tell it: an emptyDir has that of its machine's disk, and a pod that
writes more than it may is evicted in the middle.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
from typing import List, NamedTuple, Sequence

from kij_train.pod.spread.chunks import File
from kij_train.pod.spread.faults import request_fault
from kij_train.pod.status import size_text


class Limit(NamedTuple):
    """How much may be written into some folders together."""

    flag: str
    """That says so, for people."""
    most: int
    """In bytes."""
    folders: List[str]


def check_limits(text: str, folders: Sequence[str], files: Sequence[File]) -> None:
    """`text` is JSON of all limits, or empty. Raises Failure."""
    for limit in (Limit(*each) for each in json.loads(text or "[]")):
        size = sum(file.size for file in files if folders[file.folder] in limit.folders)
        if size > limit.most:
            most = size_text(limit.most)
            raise request_fault(
                "limit", f"{size_text(size)} are to be written, and {limit.flag} allows {most}"
            )
