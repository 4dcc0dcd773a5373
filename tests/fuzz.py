"""Bad input of every kind, against the command line: what is said, and what is left behind.

    python -m tests.fuzz --out FILE      every kind once, and a table of what is said
    python -m tests.fuzz --minutes 60    then mixtures of them at random, for so long

A kind is a place and a fault. Places are the flags and operands of all commands, the keys of spec
and project files, variables, the fields of a kubeconfig, and files of data. Faults are values of
the wrong kind, size, form or encoding. Nothing may raise, or give
an exit code that docs/settings.md does not name. What is refused with exit code 2 may write no
file and create nothing in the cluster, which is a small server here. `tests/unit/test_fuzz.py` runs
it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import click
import yaml
from kij_train.cli import main
from kij_train.cli.app import app
from kij_train.spec import ArraySpec, JobSpec
from kij_train.spec.settings import settings_of

from tests.unit.test_client import Answer, ApiServer, Handler

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 126, 127, 130, 141, 143}
"""docs/settings.md, "Exit codes"."""
LONGEST = 4000
"""Characters that an error may have, however long what it is about."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal could take for a command, or show in another order."""
TEXTS = {
    "empty": "",
    "white space": " \t ",
    "a line's end": "a\nb",
    "no UTF-8": "a\udcff",
    "a terminal's escape": "\x1b[2Ja",
    "right to left": "a\u202eb",
    "emoji": "🚀",
    "very long": "x" * 100_000,
    "negative": "-1",
    "zero": "0",
    "a fraction": "1.5",
    "forty digits": "9" * 40,
    "not a number": "nan",
    "infinite": "1e999",
    "an unknown unit": "5parsecs",
    "a path upwards": "../../etc/passwd",
    "a path of nothing": "/no/such/place",
    "broken JSON": '{"a": [',
    "broken YAML": "{a: [",
    "colons": "::::",
    "an equals sign": "=",
    "no value": "a=",
    "capitals": "ABC_Def",
    "a shell's words": "$(touch pwned) `touch pwned`; touch pwned",
    "a reference": "$(NODE_RANK) {item}",
    "an option": "--no-such-option",
}
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a number": 17,
    "a fraction": 0.5,
    "a huge number": 10**40,
    "not a number": float("nan"),
    "a date": yaml.safe_load("2026-01-01"),
    "an empty list": [],
    "a list": [1, "a", None],
    "a list of lists": [[["a"]]],
    "an empty mapping": {},
    "a mapping": {"a": {"b": 1}},
    "keys that are no text": {1: 2, None: 3},
    "bytes": b"\x00\xff",
    "a set": {"a"},
    "deep": json.loads("[" * 60 + "]" * 60),
    **{f"text: {name}": text for name, text in TEXTS.items() if "\udcff" not in text},
}
FILES: dict[str, bytes] = {
    "empty": b"",
    "only a comment": b"# nothing\n",
    "NUL": b"nodes: 2\0\n",
    "no UTF-8": b"nodes: \xff\n",
    "UTF-16": "nodes: 2\n".encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbfnodes: x\n",
    "a tab": b"nodes:\t- 2\n\t- 3\n",
    "a list": b"- nodes: 2\n",
    "a text": b"just words\n",
    "a key twice": b"nodes: 2\nnodes: 3\n",
    "an unknown key": b"nodez: 2\n",
    "two documents": b"nodes: 2\n---\nnodes: 3\n",
    "a tag of Python": b"nodes: !!python/object/apply:os.system ['touch pwned']\n",
    "an alias of nothing": b"nodes: *a\n",
    "an alias of itself": b"env: &a {A: *a}\n",
    "aliases that grow": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(8)
    ),
    "deep": b"env: " + b"[" * 3000 + b"]" * 3000 + b"\n",
    "a merge of a number": b"<<: 5\nnodes: 2\n",
    "a key that is a list": b"[1, 2]: 3\n",
    "JSON that breaks off": b'{"nodes": 2',
    "a million lines": b"# x\n" * 200_000 + b"nodez: 2\n",
    "a gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}
SCRIPTS = {"launch": ["train.py"], "render": ["train.py"], "map": ["--range", "0:3", "train.py"]}
SCRIPTS["sweep"] = ["-p", "lr=1,2", "--min", "loss", "train.py"]
SCRIPTS["eval"] = ["--data", "rows.jsonl", "--id", "id", "--metric", "accuracy", "train.py"]
SCRIPTS["bench"] = ["--nodes", "2"]
SUBMITS = {name: ["-d", "--name", "a"] for name in ("launch", "map", "sweep", "eval")}
SUBMITS |= {"render": [], "bench": ["--name", "a"]}
RUNNING = {
    "kind": "Job",
    "metadata": {"name": "a", "uid": "1", "resourceVersion": "2"},
    "spec": {"completions": 1, "parallelism": 1},
    "status": {"active": 1},
}
NOT_RUN = {"--help", "--version", "--local", "--debug", "-f", "--file", "--config"}
"""Flags that stay as they are: --local would train, files have kinds of their own."""


@dataclass(frozen=True)
class Kind:
    """A way to be wrong."""

    place: str
    fault: str
    line: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    code: int
    said: str
    wrong: tuple[str, ...]
    """What must not be."""

    @property
    def message(self) -> str:
        """The error's first line, or nothing."""
        lines = [line for line in self.said.splitlines() if line.startswith(("error: ", "Error: "))]
        return lines[0].partition(": ")[2] if lines else ""


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


# --- the kinds ------------------------------------------------------------------------------------


def kinds() -> Iterator[Kind]:
    """All of them, always in the same order."""
    yield from _of_flags()
    yield from _of_operands()
    yield from _of_spec_files()
    yield from _of_variables()
    yield from _of_project_files()
    yield from _of_kubeconfigs()
    yield from _of_data()


def _of_flags() -> Iterator[Kind]:
    for name, command in _commands(app, ()):
        base = SUBMITS.get(name[0], [])
        operands = SCRIPTS.get(name[0], ["a"] if any(_operands(command)) else [])
        if name[0] == "bench" and name != ("bench", "allreduce"):
            continue  # its collectives have the same flags
        for option in command.params:
            if name[0] not in ("launch", "map") and option.name in settings_of(ArraySpec):
                continue  # each field has one way from its flag into the spec
            flags = [each for each in option.opts if each.startswith("--")]
            if not isinstance(option, click.Option) or not flags or {*option.opts} & NOT_RUN:
                continue
            place = f"{' '.join(name)} {flags[0]}"
            if option.is_flag:
                line = [*name, *base, f"{flags[0]}=yes", *operands]
                yield Kind(place, "a value for a switch", tuple(line))
                continue
            for fault, text in TEXTS.items():
                yield Kind(place, fault, (*name, *base, f"{flags[0]}={text}", *operands))
            yield Kind(place, "no value at all", (*name, *base, *operands, flags[0]))


def _of_operands() -> Iterator[Kind]:
    for name, command in _commands(app, ()):
        base = SUBMITS.get(name[0], [])
        if name[0] in ("shell", "exec", "top"):
            continue  # they would run what is given
        yield Kind(" ".join(name), "nothing given", name)
        yield Kind(" ".join(name), "an unknown option", (*name, "--no-such-option"))
        if not any(_operands(command)):
            yield Kind(" ".join(name), "an operand too many", (*name, *base, "extra", "more"))
            continue
        for fault, text in TEXTS.items():
            yield Kind(f"{' '.join(name)} OPERAND", fault, (*name, *base, text))


def _of_spec_files() -> Iterator[Kind]:
    render = ("render", "-f", "job.yaml")
    for fault, content in FILES.items():
        yield Kind("spec file", fault, render, {"job.yaml": content})
    for name in settings_of(JobSpec):
        for fault, value in VALUES.items():
            spec = {"script": "train.py", name: value}
            with contextlib.suppress(yaml.representer.RepresenterError):
                text = yaml.dump(spec, allow_unicode=True).encode()
                yield Kind(f"spec file, {name}", fault, render, {"job.yaml": text})
    for fault, path in (("a folder", "."), ("not there", "none.yaml"), ("a device", "/dev/null")):
        yield Kind("spec file", fault, ("render", "-f", path))


def _of_variables() -> Iterator[Kind]:
    for model, line in ((JobSpec, ("render", "train.py")), (ArraySpec, ("map", "--dry-run=plan"))):
        for name in settings_of(model):
            if model is ArraySpec and name in settings_of(JobSpec):
                continue
            for fault, text in TEXTS.items():
                more = ("--range", "0:3", "train.py") if model is ArraySpec else ()
                variable = f"KIJ_{name.upper()}"
                yield Kind(f"${variable}", fault, (*line, *more), env={variable: text})


def _of_project_files() -> Iterator[Kind]:
    line = ("render", "train.py")
    for fault, content in FILES.items():
        yield Kind("kij-train.toml", fault, line, {"kij-train.toml": content})
    for fault, text in {
        "a profile that is a number": "profile = 5\n",
        "an unknown table": "[nothing]\na = 1\n",
        "a key twice": "nodes = 1\nnodes = 2\n",
        "a date": "nodes = 2026-01-01\n",
        "a table for a number": "[nodes]\na = 1\n",
        "profiles that are a list": "profiles = [1]\n",
        "a profile of itself": '[profiles.a]\nprofile = "a"\n',
    }.items():
        yield Kind("kij-train.toml", fault, line, {"kij-train.toml": text.encode()})


def _of_kubeconfigs() -> Iterator[Kind]:
    line = ("doctor", "--kubeconfig", "config")
    for fault, content in FILES.items():
        yield Kind("kubeconfig", fault, line, {"config": content})
    whole = kubeconfig(1)
    for path in _paths(whole):
        named = ".".join(map(str, path))
        for fault, value in VALUES.items():
            changed = _replaced(whole, path, value)
            with contextlib.suppress(yaml.representer.RepresenterError):
                text = yaml.dump(changed, allow_unicode=True).encode()
                yield Kind(f"kubeconfig, {named}", fault, line, {"config": text})


def _of_data() -> Iterator[Kind]:
    for fault, content in FILES.items():
        items = ("map", "--dry-run=plan", "--items", "items", "train.py")
        yield Kind("map --items FILE", fault, items, {"items": content})
        points = ("sweep", "--dry-run=plan", "--points", "points", "--min", "loss", "train.py")
        yield Kind("sweep --points FILE", fault, points, {"points": content})
        rows = ("eval", "--dry-run=plan", *SCRIPTS["eval"])
        yield Kind("eval --data FILE", fault, rows, {"rows.jsonl": content})
        packages = ("render", "--requirements", "requirements.txt", "train.py")
        yield Kind("--requirements FILE", fault, packages, {"requirements.txt": content})
        yield Kind(".kij-trainignore", fault, ("render", "train.py"), {".gitignore": content})
    for fault, text in TEXTS.items():
        axis = ("sweep", "--dry-run=plan", f"-p={text}", "--min", "loss", "train.py")
        yield Kind("sweep -p AXIS", fault, axis)
        axis = ("sweep", "--dry-run=plan", f"-p=lr={text}", "--min", "loss", "train.py")
        yield Kind("sweep -p lr=VALUES", fault, axis)
        gate = ("eval", "--dry-run=plan", f"--gate={text}", *SCRIPTS["eval"])
        yield Kind("eval --gate", fault, gate)


def _commands(
    group: click.Group, before: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*before, name))
        elif command is not None:
            yield (*before, name), command


def _operands(command: click.Command) -> Iterator[click.Argument]:
    return (each for each in command.params if isinstance(each, click.Argument))


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in steps:
        yield (*before, step)
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*before, step))


def _replaced(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(whole)
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


def kubeconfig(port: int) -> dict[str, Any]:
    """One that works."""
    cluster = {"server": f"http://127.0.0.1:{port}"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "ada", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "lab", "user": "ada"}}],
        "current-context": "here",
    }


# --- trying them ----------------------------------------------------------------------------------


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
                code = main(list(kind.line))
            except (Exception, SystemExit) as error:
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


def table(found: list[tuple[Kind, Outcome]]) -> str:
    """Markdown: what is said, for one kind of each message."""
    rows, seen = [], set()
    for kind, outcome in found:
        form = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", outcome.message)
        if outcome.code == 0 or not form or form in seen:
            continue
        seen.add(form)
        cells = [kind.place, kind.fault, str(outcome.code), outcome.message[:160]]
        rows.append("| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |")
    head = "| where | what | exit code | what is said |\n|---|---|---:|---|"
    return "\n".join([head, *rows, ""])


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

        for kind in pool:
            attempt(kind)
        choice, until = random.Random(chosen.seed), time.monotonic() + 60 * chosen.minutes
        while time.monotonic() < until:
            attempt(mixed(pool, choice))
    if chosen.out:
        chosen.out.write_text(table(found[: len(pool)]), encoding="utf-8")
    print(f"{len(found)} tried, {faults} wrong")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(cli())
