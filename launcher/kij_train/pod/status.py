"""The status lines of a node's processes, on standard error: standard output is the script's.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import sys


def say(text: str) -> None:
    """One line of status; where nobody takes it, the work goes on."""
    with contextlib.suppress(OSError):
        print("kij-train: " + text, file=sys.stderr, flush=True)
