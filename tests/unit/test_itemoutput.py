"""The output of items: in which order two readers of two pipes see it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

CHILD = """
import os, sys, time
from kij_train.pod import itemoutput
itemoutput.SETTLE_S = float(sys.argv[1])
output = itemoutput.Output()
if sys.argv[2] == "ours":
    output.say("item 1")
    os.write(1, b"of item 1\\n")
else:
    os.write(1, b"of item 0\\n")
    output.say("item 1")
"""


def order(settle_s: float, first: str) -> list[str]:
    """Which stream was read first; what comes first is read late."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(settle_s), first],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        streams = {"stderr": child.stderr, "stdout": child.stdout}
        seen: list[str] = []
        late = "stderr" if first == "ours" else "stdout"

        def read(name: str) -> None:
            if name == late:
                time.sleep(1)
            os.read(streams[name].fileno(), 1)
            seen.append(name)
            streams[name].read()

        readers = [threading.Thread(target=read, args=(name,)) for name in streams]
        for each in readers:
            each.start()
        for each in readers:
            each.join()
    return seen


@pytest.mark.parametrize(
    ("first", "expected"), [("ours", ["stderr", "stdout"]), ("its", ["stdout", "stderr"])]
)
def test_what_is_written_first_is_read_first_however_late(first: str, expected: list[str]) -> None:
    assert order(60, first) == expected


def test_a_reader_that_stands_still_is_not_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert order(0.01, "ours") == ["stdout", "stderr"]
