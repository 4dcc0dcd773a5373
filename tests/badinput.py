"""Bad input: every kind of it, as a place and a fault.

Places are the flags and operands of all commands, the keys of spec and project files, variables of
ours and of the system's, the fields of a kubeconfig and the output of its plugin, and files of
data. Faults are values of the wrong kind, size, form or encoding. tests/fuzz.py tries them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import click
import yaml
from kij_train.cli.app import app
from kij_train.spec import ArraySpec, JobSpec
from kij_train.spec.settings import settings_of

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
NOT_RUN = {"--help", "--version", "--local", "--debug", "-f", "--file", "--config"}
"""Flags that stay as they are: --local would train, files have kinds of their own."""


_NAMES = """
HOME PATH TMPDIR XDG_CACHE_HOME XDG_CONFIG_HOME USER LOGNAME PWD OLDPWD COLUMNS
LINES TERM LANG LC_ALL TZ NO_COLOR KUBECONFIG HTTPS_PROXY HTTP_PROXY ALL_PROXY
NO_PROXY SSL_CERT_FILE SSL_CERT_DIR PIP_CACHE_DIR PIP_INDEX_URL UV_INDEX_URL GIT_DIR
GITHUB_ACTIONS GITHUB_OUTPUT GITHUB_STEP_SUMMARY KUBERNETES_SERVICE_HOST
KUBERNETES_SERVICE_PORT KUBERNETES_EXEC_INFO KIJ_NO_SUCH_SETTING
"""
SYSTEM = _NAMES.split()
"""Variables that are not ours."""
LITERALS = {
    "true": "true",
    "a number": "17",
    "a fraction": "0.5",
    "a huge number": "1" * 40,
    "not a number": "nan",
    "infinite": "-inf",
    "a date": "2026-01-01",
    "a time": "12:00:00",
    "an empty list": "[]",
    "a list": '[1, "a", []]',
    "an empty table": "{}",
    "a table": "{a = {b = 1}}",
    "nothing": "",
    "a text of many lines": '"""\na\nb"""',
}
"""Of TOML."""
EXEC_API = "client.authentication.k8s.io/v1"
_CREDENTIAL = {"apiVersion": EXEC_API, "kind": "ExecCredential"}
_STATUSES: dict[str, Any] = {
    "no status": {},
    "a status that is a list": {"status": []},
    "an empty status": {"status": {}},
    "a token that is a number": {"status": {"token": 5}},
    "a token with a line's end": {"status": {"token": "a\nb"}},
    "a token that is no ASCII": {"status": {"token": "🚀"}},
    "an end that is no time": {"status": {"token": "t", "expirationTimestamp": "soon"}},
    "an end that has passed": {
        "status": {"token": "t", "expirationTimestamp": "2001-01-01T00:00:00Z"}
    },
    "a certificate that is none": {
        "status": {"clientCertificateData": "no PEM", "clientKeyData": "no PEM"}
    },
    "a certificate without a key": {"status": {"clientCertificateData": "no PEM"}},
    "another version": {"apiVersion": "client.authentication.k8s.io/v9", "status": {"token": "t"}},
    "another kind": {"kind": "Pod", "status": {"token": "t"}},
}
PLUGINS = {
    "says nothing": "true",
    "fails": "echo no login >&2; exit 3",
    "is killed": "kill -9 $$",
    "says no JSON": "echo hello",
    "says JSON that breaks off": "echo '{'",
    "says a list": "echo '[]'",
    "says no UTF-8": r"printf '\377'",
    "says ten megabytes": "head -c 10000000 /dev/zero",
    "says an escape": r"printf '\033[2J' >&2; exit 1",
    **{
        f"says {fault}": f"echo {shlex.quote(json.dumps({**_CREDENTIAL, **said}))}"
        for fault, said in _STATUSES.items()
    },
}
"""What a plugin may do, as a command of a shell."""
_CLUSTER, _USER = ("clusters", 0, "cluster"), ("users", 0, "user")
ADDED: list[tuple[Any, ...]] = [
    *((*_CLUSTER, name) for name in (
        "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify",
        "tls-server-name", "proxy-url", "disable-compression",
    )),
    *((*_USER, name) for name in (
        "tokenFile", "client-certificate", "client-certificate-data", "client-key",
        "client-key-data", "username", "password", "exec", "auth-provider", "as", "as-groups",
    )),
    *((*_USER, "exec", name) for name in (
        "apiVersion", "command", "args", "env", "interactiveMode", "provideClusterInfo",
        "installHint",
    )),
    ("contexts", 0, "context", "namespace"),
]  # fmt: skip
"""Fields that a kubeconfig may have, and that the one here has not."""


@dataclass(frozen=True)
class Kind:
    """A way to be wrong."""

    place: str
    fault: str
    line: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def kinds() -> Iterator[Kind]:
    """All of them, always in the same order."""
    yield from _of_flags()
    yield from _of_operands()
    yield from _of_spec_files()
    yield from _of_variables()
    yield from _of_the_environment()
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
            of_spec = (option.name or "").startswith("spec_")
            if of_spec and name[0] not in ("launch", "map"):
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


def _of_the_environment() -> Iterator[Kind]:
    """Variables that are not ours, which a launch or its libraries read."""
    for name in SYSTEM:
        for fault, text in TEXTS.items():
            for line in (("list",), ("launch", *SUBMITS["launch"], "train.py")):
                yield Kind(f"{line[0]}, ${name}", fault, line, env={name: text})


def _of_project_files() -> Iterator[Kind]:
    line = ("render", "train.py")
    for fault, content in FILES.items():
        yield Kind("kij-train.toml", fault, line, {"kij-train.toml": content})
        tool = b"[tool.kij-train]\n" + content
        yield Kind("pyproject.toml", fault, line, {"pyproject.toml": tool})
    literals = LITERALS | {f"text: {name}": json.dumps(text) for name, text in TEXTS.items()}
    for fault, literal in literals.items():
        for name in settings_of(JobSpec):
            toml = f"{name} = {literal}\n".encode("utf-8", "surrogateescape")
            yield Kind(f"kij-train.toml, {name}", fault, line, {"kij-train.toml": toml})
        toml = f"[profiles.p]\nnodes = {literal}\n".encode("utf-8", "surrogateescape")
        chosen = ("render", "--profile", "p", "train.py")
        yield Kind("kij-train.toml, a profile", fault, chosen, {"kij-train.toml": toml})
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
    plugin = {"apiVersion": EXEC_API, "command": "true", "interactiveMode": "Never"}
    with_plugin = _replaced(whole, ("users", 0, "user"), {"exec": plugin})
    for fault, said in PLUGINS.items():
        command = {"command": "sh", "args": ["-c", said]}
        text = _replaced(with_plugin, ("users", 0, "user", "exec"), {**plugin, **command})
        yield Kind("kubeconfig, exec plugin", fault, line, {"config": yaml.dump(text).encode()})
    for path in ADDED:
        named = ".".join(map(str, path))
        for fault, value in VALUES.items():
            changed = _replaced(with_plugin if "exec" in path else whole, path, value)
            with contextlib.suppress(yaml.representer.RepresenterError):
                text = yaml.dump(changed, allow_unicode=True).encode()
                yield Kind(f"kubeconfig, {named}", fault, line, {"config": text})
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
