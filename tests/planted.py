"""Secrets that are planted wherever a machine may have them, and looked for wherever they could go.

Commands run against an API server that takes everything, or that refuses everything and says back
what it was sent. Looked through are what is printed and logged, what the server gets (but for the
header that is for it), every file that is left, and the command lines of all processes meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import lzma
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import yaml
from kij_train import redaction
from kij_train.cli import main

from tests.badinput import EXEC_API, kubeconfig
from tests.commandline import KIJ_TRAIN
from tests.fuzz import Recorder
from tests.unit.test_client import Handler

TRAIN = "import os\nprint('trained', os.environ.get('RANK'), flush=True)\n"
FAILS = "import time\ntime.sleep(1)\nraise ValueError('bad batch')\n"


def secret(name: str) -> str:
    """One that has the form of none, so that nothing but care keeps it back."""
    return f"Pl4nted+{name}/0f8a1c"


def url(name: str, rest: str = "index.invalid/simple") -> str:
    """One of a user with a secret for a password, written as a URL has it."""
    return f"https://ada:{urllib.parse.quote(secret(name), '')}@{rest}"


SHELL = {
    "AWS_SECRET_ACCESS_KEY": secret("aws"),
    "WANDB_API_KEY": secret("wandb"),
    "HF_TOKEN": "hf_" + "Planted0f8a1cPlantedHuggingFace0f8",
    "OPENAI_API_KEY": secret("openai"),
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": secret("oidc"),
    "UV_INDEX_LAB_USERNAME": "ada",
    "UV_INDEX_LAB_PASSWORD": secret("uv-index"),
    "PIP_INDEX_URL": url("pip"),
    "UV_DEFAULT_INDEX": url("uv"),
    "HTTPS_PROXY": url("proxy", "127.0.0.1:9").replace("https:", "http:"),
}
TOKEN, PASSWORD, PLUGIN, PLUGIN_ENV, KEY = (
    secret(name) for name in ("token", "basic", "plugin", "plugin-env", "client-key")
)
HOME_FILES = {
    "login.json": json.dumps(
        {"apiVersion": EXEC_API, "kind": "ExecCredential", "status": {"token": PLUGIN}}
    ),
    ".netrc": f"machine index.invalid login ada password {secret('netrc')}\n",
    ".config/pip/pip.conf": f"[global]\nextra-index-url = {url('pipconf')}\n",
    ".config/uv/uv.toml": f'index-url = "{url("uvtoml")}"\n',
    ".cache/huggingface/token": "hf_" + "Planted1f8a1cPlantedHuggingFace1f8",
    ".aws/credentials": f"[default]\naws_secret_access_key = {secret('awsfile')}\n",
    ".docker/config.json": json.dumps({"auths": {"r.invalid": {"auth": secret("docker")}}}),
}
PROJECT_FILES = {
    ".env": f"TOKEN={secret('dotenv')}\n",
    ".git/config": f'[remote "o"]\n\turl = {url("git", "git.invalid/x.git")}\n',
    "secrets/id_ed25519": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{'A' * 60}{secret('ssh')}\n",
}
USERS: dict[str, dict[str, Any]] = {
    "token": {"token": TOKEN},
    "basic": {"username": "ada", "password": PASSWORD},
    "plugin": {
        "exec": {
            "apiVersion": EXEC_API,
            "command": "sh",
            "args": ["-c", "echo login of $WHO >&2; cat ~/login.json"],
            "env": [{"name": "WHO", "value": PLUGIN_ENV}],
            "interactiveMode": "Never",
        }
    },
    "plugin that fails": {
        "exec": {
            "apiVersion": EXEC_API,
            "command": "sh",
            "args": ["-c", "cat ~/login.json; exit 3"],
            "interactiveMode": "Never",
        }
    },
    "key": {
        "client-certificate-data": base64.b64encode(b"no certificate").decode(),
        "client-key-data": base64.b64encode(f"no key {KEY}".encode()).decode(),
    },
}


def forms(value: str) -> set[str]:
    """The ways in which a secret may be written."""
    raw = value.encode()
    return {
        value,
        urllib.parse.quote(value, ""),
        base64.b64encode(raw).decode(),
        base64.b64encode(f"ada:{value}".encode()).decode(),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
    }


PLANTED = {
    *(value for value in SHELL.values() if "://" not in value and value != "ada"),
    *(secret(name) for name in ("pip", "uv", "proxy", "netrc", "pipconf", "uvtoml", "awsfile")),
    *(secret(name) for name in ("docker", "dotenv", "git", "ssh", "github", "fetch", "index")),
    HOME_FILES[".cache/huggingface/token"],
    *(TOKEN, PASSWORD, PLUGIN, PLUGIN_ENV, KEY),
}
NEEDLES = {form.encode() for value in PLANTED for form in forms(value)}


def planted_in(content: bytes) -> list[str]:
    """What is found, in any form."""
    return sorted(needle.decode() for needle in NEEDLES if needle in content)


def unpacked(request: bytes) -> bytes:
    """A request, and behind it the files of the archives that its objects carry."""
    found = [request]
    for text in re.findall(rb"[A-Za-z0-9+/]{100,}={0,2}", request):
        with contextlib.suppress(ValueError, lzma.LZMAError, EOFError):
            found.append(lzma.decompress(base64.b64decode(text)))
    return b"\n".join(found)


class Server(Recorder):
    """Remembers what it gets; with `refuses`, says all of that back with this status."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _Echoes
        self.got: list[bytes] = []
        self.refuses = 0


class _Echoes(Handler):
    def answer(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        server.got.append(f"{self.command} {self.path}".encode() + body)
        authorization = str(self.headers.get("Authorization"))
        status, content = server.answer(self.command, self.path, json.loads(body or b"{}"))
        if server.refuses:
            told = f"no entry with {authorization} for {self.path}"
            refusal = {"kind": "Status", "code": server.refuses, "message": told, "reason": told}
            status, content = server.refuses, json.dumps(refusal).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = answer  # noqa: N815 - of http.server


class Machine:
    """A home with secrets, a project, and a server that a kubeconfig names."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.home, self.project = folder / "home", folder / "project"
        for root, files in ((self.home, HOME_FILES), (self.project, PROJECT_FILES)):
            for name, content in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(content)
        for name, content in {"train.py": TRAIN, "fails.py": FAILS}.items():
            (self.project / name).write_text(content)
        self.leaks: list[str] = []
        self.log_in("token")

    def log_in(self, how: str) -> None:
        """By one of USERS."""
        content = kubeconfig(self.server.server_port)
        content["users"][0]["user"] = USERS[how]
        (self.home / "kubeconfig").write_text(yaml.safe_dump(content))

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        given = {"PATH": os.environ["PATH"], "HOME": str(self.home), **SHELL, **more}
        return {**given, "KUBECONFIG": str(self.home / "kubeconfig")}

    def run(self, *line: str, **more: str) -> tuple[int, str]:
        """A command in this process, with more variables: its exit code, and what is said."""
        redaction._known.clear()  # what one command has learnt is no help to the next
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape")
        handler = logging.StreamHandler(out)
        logging.getLogger().addHandler(handler)
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.DEBUG)
        self.server.got.clear()
        before = Path.cwd()
        os.chdir(self.project)
        try:
            with (
                mock.patch.dict(os.environ, self.environment(more), clear=True),
                mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
                watched(os.getpid()) as command_lines,
            ):
                code = main(list(line))
        finally:
            os.chdir(before)
            logging.getLogger().setLevel(level)
            logging.getLogger().removeHandler(handler)
        out.flush()
        assert isinstance(out.buffer, io.BytesIO)
        said = out.buffer.getvalue()
        self.look(f"{line} said", said)
        for request in self.server.got:
            self.look(f"{line} sent", unpacked(request))
        for words in command_lines:
            self.look(f"{line} ran", words)
        return code, said.decode(errors="replace")

    def run_alone(self, *line: str) -> tuple[int, str]:
        """The same in a process of its own, with a folder of its own for what is temporary."""
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        with watched(os.getpid()) as command_lines:
            done = subprocess.run(
                [*KIJ_TRAIN, *line],
                cwd=self.project,
                env=self.environment({"TMPDIR": str(scratch)}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=280,
                check=False,
            )
        self.look(f"{line} said", done.stdout)
        assert command_lines
        for words in command_lines:
            self.look(f"{line} ran", words)
        return done.returncode, done.stdout.decode(errors="replace")

    def look(self, where: str, content: bytes) -> None:
        """What is found there is a leak."""
        self.leaks += [f"{where}: {each}" for each in planted_in(content)]

    def look_at_files(self) -> list[Path]:
        """All that were not planted."""
        planted = {self.home / name for name in (*HOME_FILES, "kubeconfig")}
        planted |= {self.project / name for name in PROJECT_FILES}
        files = [path for path in self.folder.rglob("*") if path.is_file() and path not in planted]
        for path in files:
            self.look(str(path), path.read_bytes())
        return files


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """One, until the end of the block."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield Machine(folder, server)
        server.shutdown()


@contextlib.contextmanager
def watched(pid: int) -> Iterator[set[bytes]]:
    """The command lines of all descendants of a process, looked at again and again."""
    found: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(pid).children(recursive=True):
                    with contextlib.suppress(OSError):
                        found.add(Path(f"/proc/{child.pid}/cmdline").read_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
