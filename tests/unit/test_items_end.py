"""The end of an item: what Python does at it, without taking apart what was there before."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.itemrunner import Array
from tests.mainprogram import pythons

ENDS = {
    "file": "f = open('left', 'w'); f.write('x' * 10)",
    "file of a function": "import sys\ndef f():\n    f = open('left', 'w')\n    f.write('x')\n"
    "    sys.exit(3)\nf()",
    "file in a cycle": "class A: pass\na = A(); a.a = a; a.f = open('left', 'w'); a.f.write('x')",
    "file of a module": "import kept, json\n"
    "json.kept = kept.f = open('left', 'wb'); kept.f.write(b'x')",
    "file that is all that is left": "import json\njson.f = open('left', 'w'); json.f.write('x')",
    "destructor": "class A:\n    def __del__(self): print('gone', NAME)\nNAME = 'a'; a = A()",
    "destructor in a cycle": "class A:\n    def __del__(self): print('gone')\na = A(); a.a = a",
    "destructor that raises": "class A:\n    def __del__(self): 1 / 0\na = A()",
    "atexit": "import atexit\natexit.register(print, 'first'); atexit.register(print, 'second')",
    "atexit that raises": "import atexit\n"
    "atexit.register(lambda: 1 / 0); atexit.register(print, 1)",
    "finalizer": "import weakref\nclass A: pass\na = A(); weakref.finalize(a, print, 'finalized')",
    "temporary folder": "import tempfile\nt = tempfile.TemporaryDirectory(dir='.', prefix='tmp-')",
    "log": "import logging, logging.handlers as h\nf = logging.FileHandler('left')\n"
    "logging.getLogger().addHandler(h.MemoryHandler(99, target=f)); logging.warning('said')",
    "thread": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(.2), print('late'))).start()",
    "daemon": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "C's output": "import ctypes\nctypes.CDLL(None).printf(b'from C\\n')",
    "exit": "import sys\nprint('x'); sys.exit(7)",
    "words": "import sys\nsys.exit('no data')",
    "large": "import sys\nsys.exit(256)",
    "true": "import sys\nsys.exit(True)",
    "exception": "raise ValueError('x')",
    "interrupt": "raise KeyboardInterrupt",
    "child": "import os, sys\nif os.fork() == 0: sys.exit(5)\nprint(os.wait()[1])",
    "pool": "import multiprocessing as m\nif __name__ == '__main__':\n"
    "    with m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, -2]))",
    "full": "import sys\nsys.stdout = open('/dev/full', 'w'); print('lost')",
    "async": "import asyncio\nasync def f():\n    try: await asyncio.sleep(9)\n"
    "    finally: print('cancelled')\nasync def g():\n    asyncio.ensure_future(f())\n"
    "    await asyncio.sleep(0)\n"
    "asyncio.run(g())",
}


PRELOADED = ("json", "logging", "threading", "multiprocessing")


def of_items(text: str, mark: str) -> list[str]:
    """What each item wrote; `mark` begins a line in front of it."""
    return [part.partition("\n")[2] for part in ("\n" + text).split("\n" + mark)[1:]]


@pytest.mark.parametrize(
    "python",
    [sys.executable, *pythons()[:1], *pythons()[1:][-1:]],
    ids=lambda path: Path(path).parent.parent.name,
)
@pytest.mark.parametrize("preload", [PRELOADED, ()], ids=["preloaded", "not preloaded"])
def test_what_an_item_has_begun_is_finished_as_by_python(
    tmp_path: Path, python: str, preload: tuple[str, ...]
) -> None:
    names = [f"{number}.py" for number in range(len(ENDS))]
    array = Array(tmp_path, names, preload=preload)
    array.script("", "kept.py")
    for name, script in zip(names, ENDS.values(), strict=True):
        array.script("print('== item')\n" + script.replace("'left'", f"'{name}.left'"), name)
    result = array.run("{item}", python=python)
    assert len(result.logged.records) == len(names)
    outputs = of_items(result.output, "==")
    errors = of_items(result.err, "kij-train: index 0, item")
    for number, (what, name) in enumerate(zip(ENDS, names, strict=True)):
        file = tmp_path / f"{name}.left"
        left = file.read_text() if file.exists() else None
        file.unlink(missing_ok=True)
        assert not list(tmp_path.glob("tmp-*"))
        plain = run_python(tmp_path, python, name)
        code = plain.returncode if plain.returncode >= 0 else 128 - plain.returncode
        assert result.logged.records[number]["exit_code"] == code, what
        assert left == (file.read_text() if file.exists() else None), what
        assert lines_of(outputs[number]) == lines_of(plain.stdout)[1:], what
        said = [lines_of(errors[number].partition("kij-train: ")[0]), lines_of(plain.stderr)]
        if what == "destructor that raises":  # Python has lost its source by then
            said = [[lines[0], lines[-1]] for lines in said]
        assert said[0] == said[1], what


def lines_of(text: str) -> list[str]:
    """Without addresses of memory, empty lines, and folders, which Python 3.8 leaves out."""
    text = re.sub(r"0x[0-9a-f]+|(?<=File \")/.*/", "", text)
    return [line for line in text.splitlines() if line.strip()]


def run_python(folder: Path, python: str, name: str) -> subprocess.CompletedProcess[str]:
    line = [python, "-u", name]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("end", ["pass", "import sys; sys.exit(3)"])
def test_what_is_preloaded_is_not_taken_apart(tmp_path: Path, end: str) -> None:
    array = Array(tmp_path, ["a", "b"], preload=("heavy",))
    array.script("class A:\n    def __del__(self): print('taken apart')\na = A()", "heavy.py")
    array.script(f"import heavy\nprint('ran')\n{end}")
    assert array.run("a.py").output == "ran\nran\n"
    array.script("import heavy\nraise ValueError")
    assert array.run("a.py").output == "taken apart\ntaken apart\n"
