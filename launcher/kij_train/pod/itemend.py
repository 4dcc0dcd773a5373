"""A quick end for an item, which runs in a fork of a process that has imported modules.

When Python ends, it destroys every module. If a module was imported before the fork, this touches
all memory of the module, and so copies it: 8 ms for what this process needs itself, which is twice
what the rest of a short item takes, and 0.3 s for torch, whose import takes 3 s. The destructors of
C libraries do the same. So if an item ends well, this file destroys only the objects of the item
itself, writes what its files still buffer, and then ends the process at once, as multiprocessing
does with its processes.

Before that, Python does as always: it waits for threads, runs `atexit` functions and prints errors.
If the item ends by an exception other than SystemExit, or leaves a thread, Python does all of it.
So it does if the item has loaded a library of C that may have something to do at the end, unless
modules were preloaded.

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
    """Ends the process. Make it before preloading: atexit runs last what is registered first."""

    def __init__(self) -> None:
        self._process, self._code = 0, 0
        self._before: FrozenSet[str] = frozenset()
        self._libraries: Optional[FrozenSet[bytes]] = None
        self.with_libraries = False
        """Whether an end is quick if the item has loaded libraries."""
        atexit.register(self._end)

    def begin(self) -> None:
        """The item begins. Modules that are loaded from now on belong to the item."""
        self._before = frozenset(sys.modules)
        self._libraries = None if self.with_libraries else loaded_libraries()

    def is_due(self, error: Optional[BaseException]) -> None:
        """The script has ended, with this exception if there is one."""
        code = 0 if error is None else _plain_code(error)
        if code is not None:
            self._process, self._code = os.getpid(), code

    def _end(self) -> None:
        with contextlib.suppress(BaseException):  # if stdout is full, Python reports it
            if self._may_be_quick():
                write_what_is_left()  # else a file may be destroyed before its buffer
                destroy_what_is_new(self._before)
                write_what_is_left()
                os._exit(self._code)
        gc.unfreeze()  # so that Python's own end finds every object

    def _may_be_quick(self) -> bool:
        # A child that the script has forked must not end like this. A thread that still runs would
        # use objects that are gone.
        if os.getpid() != self._process or len(sys._current_frames()) > 1:
            return False
        if self.with_libraries:
            return True
        return self._libraries is not None and loaded_libraries() == self._libraries


def _plain_code(error: BaseException) -> Optional[int]:
    """The exit code of a SystemExit, if it is a number from 0 to 255 or none; else None."""
    if type(error) is not SystemExit:
        return None
    code = error.code
    if code is None:
        return 0
    return code if type(code) is int and 0 <= code <= 255 else None


def loaded_libraries() -> Optional[FrozenSet[bytes]]:
    """Files of code in this process, but for Python's own modules. None: they cannot be known."""
    own = os.path.join(os.path.dirname(os.__file__), "lib-dynload").encode()
    try:
        with open("/proc/self/maps", "rb") as file:
            # address, permissions, offset, device, inode, path
            rows = [line.split(None, 5) for line in file]
    except OSError:
        return None
    return frozenset(
        row[5] for row in rows if len(row) == 6 and b"x" in row[1] and not row[5].startswith(own)
    )


def destroy_what_is_new(before: FrozenSet[str]) -> None:
    """Destroy the script's own module and the modules that it has loaded, as Python does."""
    main = weakref.ref(sys.modules["__main__"])
    for name in [name for name in sys.modules if name not in before or name == "__main__"]:
        del sys.modules[name]
    gc.collect()
    held = main()
    if held is None:
        return
    names = vars(held)
    for private in (True, False):  # names with an underscore come first
        for name in list(names):
            if name.startswith("_") is private and name != "__builtins__":
                names[name] = None
    del held, names
    gc.collect()


def write_what_is_left() -> None:
    """Flush files that are still open, of Python and of C. Raises if stdout or stderr fails."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    for each in gc.get_objects():
        kind: Any = type(each)
        if issubclass(kind, (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            with contextlib.suppress(OSError, ValueError):
                each.flush()
    ctypes.CDLL(None).fflush(None)
