"""Scripts for ranks, here and in pods: what Python gives a main program, as JSON; orphans."""

from __future__ import annotations

import sys
import zipapp
from pathlib import Path

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
SCRIPTS = ["train.py", "./train.py", "sub/train.py", "sub/../sub/train.py", "bom.py", "link.py"]
CONTAINERS = ["sub/folder", "link-to-folder", "app.pyz"]
MODULES = ["-m train", "-m pkg", "-m pkg.inner", "-m pkg.train", "-m sub.train"]


def pythons() -> list[str]:
    """Of this machine, one a minor version, in pyenv's folders; not that of the tests."""
    found = {}
    for path in Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3"):
        major, minor = path.parent.parent.name.split(".")[:2]
        if int(minor) >= 8 and (int(major), int(minor)) != sys.version_info[:2]:
            found[int(minor)] = str(path)
    return [found[minor] for minor in sorted(found)]


def make_project(folder: Path) -> Path:
    """The same program in every form that Python takes."""
    for name in ("sub/folder", "pkg/inner", "elsewhere"):
        (folder / name).mkdir(parents=True)
    places = ["train.py", "sub/train.py", "sub/folder/__main__.py", "elsewhere/real.py"]
    places += ["pkg/__main__.py", "pkg/inner/__main__.py", "pkg/train.py"]
    for place in places:
        (folder / place).write_text(PROBE)
    (folder / "bom.py").write_text(BOM + PROBE)
    for name in (".", "sub", "sub/folder", "elsewhere"):
        (folder / name / "helper.py").write_text(HELPER)
        (folder / name / "queue.py").touch()
        (folder / name / "socket").mkdir()  # no module: Python's own is further down the path
    for name in ("pkg", "pkg/inner"):
        (folder / name / "__init__.py").touch()
    (folder / "link.py").symlink_to("elsewhere/real.py")
    (folder / "link-to-folder").symlink_to("sub/folder")
    zipapp.create_archive(folder / "sub/folder", folder / "app.pyz")
    return folder


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
