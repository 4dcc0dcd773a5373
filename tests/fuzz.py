"""Bad input of every kind, against the command line: what is said, and what is left behind.

    python -m tests.fuzz --out FILE      every kind once, and a table of what is said
    python -m tests.fuzz --minutes 60    then mixtures of them at random, for so long

The kinds are those of tests/badinput.py. Nothing may raise, take more than a minute, or give
an exit code that docs/settings.md does not name. What is refused with exit code 2 may write no
file and create nothing in the cluster, which is a small server here. `tests/unit/test_fuzz.py` runs
it. The table is benchmarks/results/bad_input.md; it is written as it goes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from kij_train.cli import main

from tests.badinput import TEXTS, Kind, kinds, kubeconfig
from tests.unit.test_client import Answer, ApiServer, Handler

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 126, 127, 130, 141, 143}
"""docs/settings.md, "Exit codes"."""
LONGEST = 4000
"""Characters that an error may have, however long what it is about."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal could take for a command, or show in another order."""
LIMIT_S = 60
"""That a kind may take; most take hundredths of a second."""
HEAD = """\
# What is said of bad input

Made by `python -m tests.fuzz --out benchmarks/results/bad_input.md`: every error that bad input
leads to, once. What ended with 0 was no bad input, such as a value that has just this form there.
"""
WRITE_EACH = 1000
"""Kinds after which the table is written again."""
RUNNING = {
    "kind": "Job",
    "metadata": {"name": "a", "uid": "1", "resourceVersion": "2"},
    "spec": {"completions": 1, "parallelism": 1},
    "status": {"active": 1},
}


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    code: int
    said: str
    wrong: tuple[str, ...]
    """What must not be."""

    @property
    def message(self) -> str:
        """The error's first line, or nothing; without names and ports of this one run."""
        lines = [line for line in self.said.splitlines() if line.startswith(("error: ", "Error: "))]
        line = lines[0].partition(": ")[2] if lines else ""
        line = re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+", "~", line)
        return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", line)


class Recorder(ApiServer):
    """A cluster that takes everything, and knows what was created for good."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[str] = []
        self.answer = self._answer

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        if method in ("POST", "PATCH") and "dryRun" not in path and "review" not in path:
            self.created.append(f"{method} {path.partition('?')[0]}")
        if method == "POST":
            body.setdefault("metadata", {})["uid"] = "1"
            return 201, json.dumps({**body, "status": {"allowed": True}}).encode()
        if path.startswith("/version"):
            return 200, b'{"gitVersion": "v1.37.0", "major": "1", "minor": "37"}'
        bare = path.partition("?")[0]
        if "watch=" in path:
            return 200, json.dumps({"type": "MODIFIED", "object": RUNNING}).encode() + b"\n"
        if method == "GET" and re.search(r"/apis/[^/]+$|/jobs/[^/]*$", bare):
            return 404, b'{"kind": "Status", "reason": "NotFound", "message": "none"}'
        return 200, b'{"metadata": {"resourceVersion": "1", "uid": "1"}, "items": [], "groups": []}'


class Bench:
    """A folder with a project, and a cluster."""

    def __init__(self, folder: Path, server: Recorder) -> None:
        self.folder, self.server = folder, server
        folder.mkdir()
        (folder / "train.py").write_text("print(1)\n")
        (folder / "rows.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
        self.config = folder.parent / "works"
        self.config.write_text(yaml.safe_dump(kubeconfig(server.server_port)))

    def run(self, kind: Kind) -> Outcome:
        """Try it."""
        for name, content in kind.files.items():
            content = content.replace(b"127.0.0.1:1\n", b"127.0.0.1:%d\n" % self.server.server_port)
            (self.folder / name).write_bytes(content)
        before, wrong = self._there(), []
        self.server.created.clear()
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape") for _ in range(2))
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder.parent),
            "KUBECONFIG": str(self.config),
        }
        code = -1
        with (
            mock.patch.dict(os.environ, {**env, **kind.env}, clear=True),
            _inside(self.folder),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                with _limited():
                    code = main(list(kind.line))
            except (Exception, SystemExit, _TooLongError) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                wrong.append(f"raised {type(error).__name__}: {error} ({where.name})"[:300])
        said = _text(err)
        made = self._there() - before
        if code not in EXIT_CODES and not wrong:
            wrong.append(f"exit code {code}")
        if "Traceback" in said or "Error:" in said.replace("\nError: ", ""):
            wrong.append("a traceback")
        if len(said) > LONGEST:
            wrong.append(f"{len(said)} characters are said")
        if CONTROL.search(said):
            wrong.append("control characters are printed")
        if code == 2 and "error: " not in said.lower():
            wrong.append("exit code 2 without an error")
        if code == 2 and self.server.created:
            wrong.append(f"created: {', '.join(self.server.created)}")
        if code == 2 and made:
            wrong.append(f"files: {', '.join(sorted(made))}"[:300])
        if (self.folder / "pwned").exists():
            wrong.append("a shell has run what was given")
        self._tidy(made, kind)
        return Outcome(code, said, tuple(wrong))

    def _there(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def _tidy(self, made: set[str], kind: Kind) -> None:
        for name in sorted({*made, *kind.files} - {"train.py"}, reverse=True):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        (self.folder / "rows.jsonl").write_text('{"id": 1}\n{"id": 2}\n')


class _TooLongError(BaseException):
    """No `except Exception` may catch it."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise _TooLongError(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("utf-8", "replace")


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A place to try kinds in."""
    with tempfile.TemporaryDirectory() as folder, Recorder() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield Bench(Path(folder) / "project", server)
        server.shutdown()


def mixed(pool: list[Kind], choice: random.Random) -> Kind:
    """Two kinds at once: the line of one, the files and variables of both, a byte changed."""
    one, other = choice.sample(pool, 2)
    files = {**other.files, **one.files}
    for name, content in files.items():
        if content and choice.random() < 0.5:
            at = choice.randrange(min(len(content), 4096))
            files[name] = content[:at] + bytes([choice.randrange(256)]) + content[at + 1 :]
    line = list(one.line)
    if choice.random() < 0.5 and one.line[0] == other.line[0]:
        line[1:1] = [word for word in other.line[1:] if word.startswith("--")]
    return Kind(
        f"{one.place} + {other.place}",
        f"{one.fault} + {other.fault}",
        tuple(line),
        files,
        {**other.env, **one.env},
    )


_GIVEN = sorted(
    {shown for text in TEXTS.values() for shown in (text, repr(text), repr(text)[1:-1])} - {""},
    key=len,
    reverse=True,
)


def form_of(message: str) -> str:
    """What is the same in messages about the same fault."""
    for text in _GIVEN:
        message = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", "…", message)
    message = re.sub(r"'[^']*'|\"[^\"]*\"|\d[\d,.]*|x{20,}…*", "…", message)
    message = re.sub(r"(--|KIJ_)[\w-]+", "…", message)
    message = re.sub(r"(?<=\.(?:yaml|toml):…: )[\w.]+", "…", message)
    message = re.sub(r"[. ]Did you mean.*", "", message)
    return re.sub(r"(?:… ?)+", "…", message)


def table(found: list[tuple[Kind, Outcome]]) -> str:
    """Markdown: each error that is said, where it was met first, and of how many kinds it is said.

    Messages are the same if they differ in what was given, quoted words, numbers, and the names of
    flags and keys.
    """
    first: dict[str, tuple[Kind, Outcome]] = {}
    times: Counter[str] = Counter()
    for kind, outcome in found:
        if outcome.code == 0 or not outcome.message:
            continue
        form = form_of(outcome.message)
        first.setdefault(form, (kind, outcome))
        times[form] += 1
    rows = []
    for form, (kind, outcome) in first.items():
        said = re.sub(r"x{20,}", "xxx…", outcome.message)
        said = said if len(said) <= 160 else f"{said[:159]}…"
        cells = [kind.place, kind.fault, str(times[form]), str(outcome.code), said]
        rows.append("| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |")
    counted = Counter(outcome.code for _, outcome in found)
    ended = ", ".join(f"{times:,} with {code}" for code, times in sorted(counted.items()))
    head = f"{len(found):,} kinds of bad input were tried; they ended {ended}.\n"
    columns = "| where, first | what | kinds | exit code | what is said |\n|---|---|---:|---:|---|"
    return "\n".join([HEAD, head, columns, *rows, ""])


def cli() -> int:
    """Run it; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="of mixtures at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the table")
    chosen = parser.parse_args()
    pool = list(kinds())
    found, faults = [], 0
    with bench() as place:

        def attempt(kind: Kind) -> None:
            nonlocal faults
            outcome = place.run(kind)
            found.append((kind, outcome))
            if outcome.wrong:
                faults += 1
                line = [word if len(word) < 200 else word[:40] + "…" for word in kind.line]
                print(
                    f"{kind.place}: {kind.fault}: {'; '.join(outcome.wrong)}\n    {line}",
                    flush=True,
                )

        for number, kind in enumerate(pool, 1):
            attempt(kind)
            if chosen.out and (number % WRITE_EACH == 0 or number == len(pool)):
                chosen.out.write_text(table(found), encoding="utf-8")
                print(f"{number:,} of {len(pool):,} kinds, {faults} wrong", flush=True)
        choice, until = random.Random(chosen.seed), time.monotonic() + 60 * chosen.minutes
        while time.monotonic() < until:
            attempt(mixed(pool, choice))
    print(f"{len(found)} tried, {faults} wrong")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(cli())
