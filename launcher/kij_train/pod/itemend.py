"""The end of an item whose process has modules preloaded: they are not taken apart.

Python ends by destroying every module. For what was imported before a fork that touches, and so
copies, all of its memory: 0.3 s for torch, where the import had cost 3 s. So does the end of C's
libraries. An item that ends well has its own objects destroyed, and what they have not written yet
is written; then the process ends at once, as those of multiprocessing do.

Everything before that is Python's: threads are waited for, `atexit` runs, last words are printed.
An end by another exception than SystemExit is Python's alone, and so is one with threads left.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import atexit
import contextlib
import ctypes
import gc
import io
import os
import sys
import weakref
from typing import Any, FrozenSet, Optional


class QuickEnd:
    """Made before anything is preloaded: what is registered first with atexit runs last."""

    def __init__(self) -> None:
        self._process, self._code = 0, 0
        self._before: FrozenSet[str] = frozenset()
        atexit.register(self._end)

    def begin(self) -> None:
        """The item begins: what is loaded from now on is its own."""
        self._before = frozenset(sys.modules)

    def is_due(self, error: Optional[BaseException]) -> None:
        """The script has ended, by this exception perhaps."""
        code = 0 if error is None else _plain_code(error)
        if code is not None:
            self._process, self._code = os.getpid(), code

    def _end(self) -> None:
        # Where a child comes here that the script has forked, it is not due; and a thread would run
        # into what is gone.
        if os.getpid() == self._process and len(sys._current_frames()) == 1:
            with contextlib.suppress(BaseException):  # a stdout that is full: Python tells that
                write_what_is_left()  # of garbage, a file may be destroyed before what it buffers
                destroy_what_is_new(self._before)
                write_what_is_left()
                os._exit(self._code)
        gc.unfreeze()  # Python is to find all that there is


def _plain_code(error: BaseException) -> Optional[int]:
    """Of a SystemExit with a number that needs no thought; None for all else."""
    if type(error) is not SystemExit:
        return None
    code = error.code
    if code is None:
        return 0
    return code if type(code) is int and 0 <= code <= 255 else None


def destroy_what_is_new(before: FrozenSet[str]) -> None:
    """Let go of modules that the script has loaded, and of all that it was, in Python's way."""
    main = weakref.ref(sys.modules["__main__"])
    for name in [name for name in sys.modules if name not in before or name == "__main__"]:
        del sys.modules[name]
    gc.collect()
    held = main()
    if held is None:
        return
    names = vars(held)
    for private in (True, False):  # first those with an underscore
        for name in list(names):
            if name.startswith("_") is private and name != "__builtins__":
                names[name] = None
    del held, names
    gc.collect()


def write_what_is_left() -> None:
    """Of files that are still open, Python's and C's. Raises where stdout or stderr cannot."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    for each in gc.get_objects():
        kind: Any = type(each)
        if issubclass(kind, (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            with contextlib.suppress(OSError, ValueError):
                each.flush()
    ctypes.CDLL(None).fflush(None)
