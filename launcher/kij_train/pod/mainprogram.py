"""A script as the main program of a process of ours, run and ended as `python SCRIPT` does it.

The script finds what Python itself gives a main program: a `__main__` module of its own, which
stays after its last line, `sys.argv`, `sys.path`, and no module of ours in its way. It ends as
Python would end it: exceptions, exit codes, signals, threads and atexit are Python's.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import os
import re
import sys
import traceback
from importlib.machinery import PathFinder, SourcelessFileLoader
from pkgutil import get_importer
from types import CodeType, TracebackType
from typing import Any, Dict, FrozenSet, List, Optional, Type

from kij_train.pod import contract, environment, records

EXIT_NO_FILE = 2
"""Python's own, where the script cannot be read."""
LONG_BITS = 63
SYS_IS_MARKED = sys.version_info >= (3, 13)
"""Whether a warning about "sys" names <sys>, line 0."""
FRESH: Dict[str, Any] = {}
AT_START: FrozenSet[str] = frozenset()


def started_as(fresh: Dict[str, Any], at_start: FrozenSet[str]) -> None:
    """Say what Python gave the main program of this process, and which modules it had loaded."""
    global FRESH, AT_START
    FRESH, AT_START = fresh, at_start


# --- the script -----------------------------------------------------------------------------------


def as_main(argv: List[str]) -> None:
    """Run the script, or, after -m, the module, in this process, as Python runs its main program.

    Python gives a script's arguments in `sys.argv`, its folder, or the folder or archive that it
    is, first in `sys.path`, and its place as an absolute path (before Python 3.9 as it was given).
    """
    as_module = argv[0] == "-m"
    target = argv[1] if as_module else argv[0]
    given = getattr(sys, "orig_argv", [])
    if given:
        given[len(given) - len(sys.argv) :] = argv
    sys.argv[:] = argv[1:] if as_module else argv
    environment.hide_own_folder()
    main = _fresh_main()
    path = target if as_module else os.path.join(os.getcwd(), target)
    is_container = not as_module and get_importer(path) is not None
    if as_module or is_container:
        import runpy  # before a module of the script can be in its place
    sys.path[:0] = folder_of(argv)
    if as_module or is_container:
        sys.argv[0] = "-m" if as_module else target
        _make_way()
        # What the interpreter itself calls.
        start: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
        start(target if as_module else "__main__", alter_argv=as_module)
        return
    _make_way()
    code = _read_script(path, main)
    # A warning whose stacklevel goes above the script is about "sys" in Python.
    call = compile("exec(code, main)", "<sys>" if SYS_IS_MARKED else "sys", "exec")
    if SYS_IS_MARKED:
        call = call.replace(co_firstlineno=0)
    exec(call, {"__name__": "sys", "code": code, "main": vars(main)})  # noqa: S102


def folder_of(argv: List[str]) -> List[str]:
    """What Python puts in front of `sys.path` for a script or module, if anything."""
    path = os.path.join(os.getcwd(), argv[0])
    if argv[0] != "-m" and get_importer(path) is not None:
        return [path]
    if getattr(sys.flags, "safe_path", False):
        return []
    return [os.getcwd() if argv[0] == "-m" else os.path.dirname(os.path.realpath(path))]


def _fresh_main() -> Any:
    """A `__main__` that stays in sys.modules: what is pickled after the script's end needs it."""
    main = type(sys)("__main__")
    vars(main).clear()
    vars(main).update(FRESH, __doc__=None)
    if "__annotations__" in FRESH:
        vars(main)["__annotations__"] = {}
    for name in ("__file__", "__cached__"):
        vars(main).pop(name, None)
    sys.modules["__main__"] = main
    return main


def _make_way() -> None:
    """Forget modules of ours, and those of Python's that the script's folder has its own of.

    Python alone would not have loaded them yet, and would take those of the script.
    """
    for name in set(sys.modules) - AT_START - {"__main__"}:
        if name.partition(".")[0] == "kij_train":
            del sys.modules[name]
        elif "." not in name and PathFinder.find_spec(name, sys.path[:1]) is not None:
            finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
            specs = (find(name, None) for find in finders if find is not None)
            found = next((spec for spec in specs if spec is not None), None)
            loaded = getattr(sys.modules[name], "__spec__", None)
            if found is not None and found.origin != getattr(loaded, "origin", None):
                del sys.modules[name]


def _read_script(path: str, main: Any) -> CodeType:
    """The code of a script, or of a .pyc file; `main` gets its file and loader."""
    loader: Any = FRESH["__loader__"]
    kind = SourcelessFileLoader if path.endswith(".pyc") else type(loader)
    main.__loader__ = kind("__main__", path)
    main.__file__ = path
    if "__cached__" in FRESH:
        main.__cached__ = None
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        said = f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}"
        raise NoScriptError(f"{sys.executable}: {said}") from None
    if kind is SourcelessFileLoader:
        code: CodeType = main.__loader__.get_code("__main__")
        return code
    return compile(source, path, "exec", dont_inherit=True)


class NoScriptError(Exception):
    """Python cannot read the script."""


# --- its end --------------------------------------------------------------------------------------


def exit_status(code: Any) -> int:
    """What the system makes of what sys.exit was told."""
    if code is None:
        return 0
    if not issubclass(type(code), int):
        return 1
    number = int.__add__(code, 0)  # without what a class of the script makes of it
    return number & 0xFF if -1 << LONG_BITS <= number < 1 << LONG_BITS else 0xFF


def _told_to_exit(end: SystemExit) -> Any:
    """What sys.exit was told; where a class of the script hides it, Python takes the exception."""
    try:
        return end.code
    except BaseException:
        return end


def _own(error: BaseException, name: str) -> Any:
    """What Python itself has set on an exception, whose class may hide it."""
    return BaseException.__dict__[name].__get__(error)


def swallowed(end: SystemExit) -> Optional[BaseException]:
    """The exception that was being handled when the script was left by sys.exit."""
    seen: List[int] = []
    error: Optional[BaseException] = end
    while issubclass(type(error), SystemExit) and id(error) not in seen:
        assert error is not None
        seen.append(id(error))
        hidden = _own(error, "__suppress_context__")
        error = _own(error, "__context__" if not hidden else "__cause__")
    return None if issubclass(type(error), SystemExit) else error


def record_end(error: BaseException, path: str, who: str, **facts: Any) -> None:
    """Leave the record of an exception that ends the script, if it ends it badly.

    `who` is what the message calls the script, such as "rank 3". Never raises, whatever the
    script's classes do when they are asked.
    """
    try:
        _record(error, path, who, facts)
    except BaseException:
        with contextlib.suppress(BaseException):
            said = f"{who} ended by an exception that cannot be shown"
            records.write_record(path, said, "", **facts)


def _record(error: BaseException, path: str, who: str, facts: Dict[str, Any]) -> None:
    cause: Optional[BaseException] = error
    said = ""
    if issubclass(type(error), SystemExit):
        assert isinstance(error, SystemExit)
        code = _told_to_exit(error)
        status = exit_status(code)
        if not status:
            return
        facts["exit_code"] = status
        cause = swallowed(error)
        said = f"{who} exited with code {status}"
        if not issubclass(type(code), int):
            said = _text(code) or said
        elif cause is not None:
            said = f"{_words(cause)}\n{who} then exited with code {status}"
    callstack = ""
    if cause is not None:
        said = said or _words(cause)
        callstack = _callstack(cause)
        if cause is not error:  # the message does not end as it does
            callstack = callstack.rstrip()
            ending = _words(cause)
            callstack = callstack[: -len(ending)] if callstack.endswith(ending) else callstack
    records.write_record(path, said, callstack, **facts)


def _text(thing: Any, failed: str = "") -> str:
    try:
        return "".join([str(thing)])  # no subclass of str
    except BaseException:
        return failed


def _words(error: BaseException) -> str:
    kind = type(error)
    try:
        return "".join(traceback.format_exception_only(kind, error)).strip()
    except BaseException:
        return f"{kind.__name__}: {_text(error, '<exception str() failed>')}".strip()


def _callstack(error: BaseException) -> str:
    trace = _own(error, "__traceback__")
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:
        return "".join(["Traceback (most recent call last):\n", *traceback.format_tb(trace)])


def without_our_frames(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    """From the first frame of the script on."""
    while trace is not None and re.search(contract.OUR_FILES, trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def trim(error: BaseException, trace: Optional[TracebackType]) -> Optional[TracebackType]:
    """Give an exception this traceback without our frames, whatever its class says."""
    trace = without_our_frames(trace)
    BaseException.__dict__["__traceback__"].__set__(error, trace)
    return trace


def show_without_our_frames() -> None:
    """Have Python print an exception that goes through us as it would print the script's."""
    shown = getattr(sys, "excepthook", sys.__excepthook__)  # a script may have deleted it

    def show(
        kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        sys.excepthook = shown
        sys.last_traceback = trace = trim(error, trace)
        shown(kind, error, trace)

    sys.excepthook = show


def end_badly(
    error: BaseException, record: Optional[str], process: int, who: str, **facts: Any
) -> None:
    """Leave a record of what ends the script; the caller then raises it again.

    `process` is that of the script: children that it forks come here as well, and leave none.
    """
    if issubclass(type(error), NoScriptError):
        if record:
            records.write_record(record, str(error), "", exit_code=EXIT_NO_FILE, **facts)
        print(error, file=sys.stderr)
        sys.exit(EXIT_NO_FILE)
    trace = trim(error, _own(error, "__traceback__"))
    if record and os.getpid() == process:
        record_end(error, record, who, **facts)
        trim(error, trace)  # its __str__ may have raised it again
    if not issubclass(type(error), SystemExit):
        show_without_our_frames()
