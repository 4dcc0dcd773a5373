"""Scripts for ranks, here and in pods: what Python gives a main program, as JSON; orphans."""

PROBE = r'''# -*- coding: utf-8 -*-
"""What a main program sees."""
import atexit, inspect, io, json, linecache, os, pickle, signal, sys, threading, warnings
import helper

count: int = 1
BEFORE = dict(globals())


class Batch:
    """Is pickled."""


def source_of(thing):
    try:
        return inspect.getsource(thing)
    except OSError as error:
        return str(error)


def shown(value):
    if isinstance(value, (str, int, type(None), dict)):
        return str(value)
    parts = {n: getattr(value, n) for n in ("name", "path", "origin", "parent", "archive")
             if isinstance(getattr(value, n, None), str)}
    return [getattr(value, "__name__", type(value).__name__), parts]


def survives_pickling():
    return type(pickle.loads(pickle.dumps(Batch()))) is Batch


def warned(*levels):
    said = io.StringIO()
    kept, sys.stderr = sys.stderr, said
    for level in levels:
        warnings.warn("level %d" % level, stacklevel=level)
        warnings.warn("level %d" % level, DeprecationWarning, stacklevel=level)
    sys.stderr = kept
    return said.getvalue()


here, before = os.getcwd(), dict(globals())
os.chdir(os.sep)
facts = {
    "argv": sys.argv,
    "orig_argv": getattr(sys, "orig_argv", [])[1:],
    "path": sys.path,
    "flags": list(sys.flags),
    "names": [name for name in BEFORE if name.startswith("__")],
    "values": {name: shown(before[name]) for name in BEFORE if name.startswith("__")},
    "own": vars(sys.modules["__main__"]) is globals(),
    "file": warned.__code__.co_filename,
    "source": source_of(warned) and source_of(Batch),
    "module": Batch.__module__,
    "pickle": survives_pickling(),
    "warned": warned(1, 2) if __spec__ else warned(1, 2, 3),
    "streams": [[s.encoding, s.errors, s.line_buffering, getattr(s, "write_through", None),
                 type(s).__name__, type(s.buffer).__name__] for s in (sys.stdout, sys.stderr)],
    "signals": [str(signal.getsignal(getattr(signal, n)))
                for n in ("SIGINT", "SIGTERM", "SIGPIPE", "SIGHUP", "SIGCHLD")],
    "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__],
    "threads": [thread.name for thread in threading.enumerate()],
    "cwd": here,
    "helper": [helper.__file__, helper.queue],
    "ours": sorted(n for n in sys.modules if n.startswith("kij") or n in ("worker", "bootstrap")),
    "environ": sorted(n for n in os.environ if n.startswith("KIJ_")),
}
warnings.warn("at the top", stacklevel=2)
os.chdir(here)
print(json.dumps(facts, sort_keys=True), flush=True)


def late(where):
    print(where, survives_pickling(), sys.modules["__main__"].count == 1, flush=True)


def outlive():
    threading.main_thread().join()
    late("thread")


atexit.register(late, "atexit")
threading.Thread(target=outlive).start()
'''

HELPER = '''"""Its neighbour `queue` goes before Python's own."""
import queue
queue = queue.__file__
'''

ORPHANS = r"""
import contextlib, os, time
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.1)
        os._exit(0)
    os.wait()


def zombies():
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found += open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[0] == "Z"
    return found


deadline = time.monotonic() + 20
while zombies() and time.monotonic() < deadline:
    time.sleep(0.1)
print("zombies", zombies())
"""
"""A script whose orphans the first process of a pod has to reap."""
