"""Planted secrets (tests/planted.py) do not come out of any command, and of no error."""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import planted
from tests.planted import Machine, secret

COMMANDS = [
    ("doctor",),
    ("launch", "--dry-run=server", "train.py"),
    ("launch", "-d", "--name", "a", "--nodes", "2", "--env-from-secret", "logins", "train.py"),
    ("map", "-d", "--name", "b", "--range", "0:3", "train.py"),
    ("sweep", "-d", "--name", "c", "-p", "lr=1,2", "--min", "loss", "train.py"),
    ("bench", "allreduce", "-d", "--name", "d", "--nodes", "2"),
    ("step", "train", "--workflow", "w/0123"),
    *(
        (name, "a")
        for name in [
            "status",
            "why",
            "logs",
            "events",
            "stacks",
            "top",
            "cancel",
            "resume",
            "delete",
        ]
    ),
    ("wait", "a", "--timeout", "1s"),
    ("report", "b"),
    ("results", "b"),
    ("list",),
    ("exec", "a", "--", "true"),
    ("cp", "a:0:/tmp/x", "x"),
]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with planted.machine(tmp_path) as made:
        yield made


WAYS = [(how, status) for how in planted.USERS for status in (0, 403)]


@pytest.mark.parametrize(("how", "status"), [*WAYS, ("plugin", 401), ("token", 500)])
def test_nothing_of_a_login_is_said_sent_or_left(machine: Machine, how: str, status: int) -> None:
    machine.log_in(how)
    machine.server.refuses = status
    for line in COMMANDS[:3] if status == 500 else COMMANDS:  # each asks again for seconds
        machine.run(*line)
    assert machine.look_at_files()
    assert machine.leaks == []


def test_what_is_rendered_holds_nothing_of_this_machine(machine: Machine) -> None:
    (machine.project / "w.yaml").write_text(
        "name: w\nstep_image: i\nsteps:\n  train:\n    run: launch --nodes 2 train.py\n"
    )
    for line in (
        ("render", "--name", "a", "--restart", "gang", "--nodes", "2", "train.py"),
        ("render", "--name", "a", "-o", "json", "train.py"),
        ("render", "--name", "a", "--with", "numpy==2.0.0", "train.py"),
        ("render", "--format", "jobset", "--nodes", "2", "--name", "a", "train.py"),
        ("render", "--format", "trainjob", "--nodes", "2", "--name", "a", "train.py"),
        ("launch", "--dry-run=client", "--name", "a", "train.py"),
        ("map", "--dry-run=client", "--range", "0:3", "--name", "a", "train.py"),
        ("render", "--format", "argo", "-f", "w.yaml"),
        ("config", "train.py"),
    ):
        code, said = machine.run(*line)
        assert code == 0, said
        machine.look(f"{line} rendered", planted.unpacked(said.encode()))
    assert machine.leaks == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--fetch", f"{planted.url('fetch', 'files.invalid/m.bin')}:/data"],
        ["--fetch", f"https://ada:{secret('fetch')}@files.invalid/m.bin:/data"],
        ["--fetch", f"https://files.invalid/m.bin?X-Amz-Signature={secret('fetch')}:/data"],
        ["--requirements", "r.txt"],
        ["--requirements", "raw.txt"],
        ["--with", f"a @ {planted.url('index', 'index.invalid/a.whl')}"],
        ["--env", f"PASSWORD={secret('fetch')}=", "--nodes", "x"],
    ],
    ids=lambda flags: " ".join(flags)[:24],
)
def test_a_refusal_of_what_holds_a_secret_does_not_quote_it(
    machine: Machine, flags: list[str]
) -> None:
    raw = f"https://ada:{secret('index')}@index.invalid/simple"
    for name, index in (("r.txt", planted.url("index")), ("raw.txt", raw)):
        (machine.project / name).write_text(f"--index-url {index}\nnumpy==2.0.0\n")
    code, said = machine.run("launch", "--dry-run=client", *flags, "train.py")
    assert (code, "error: " in said) == (2, True), said
    assert machine.leaks == []


def test_the_token_of_github_is_neither_said_nor_left(machine: Machine) -> None:
    (machine.project / "report.md").write_text("# fine\n")
    token = {
        "GITHUB_API_URL": f"http://127.0.0.1:{machine.server.server_port}",
        "GITHUB_TOKEN": secret("github"),
        "GITHUB_REPOSITORY": "team/model",
    }
    for status in (0, 401, 403, 500):
        machine.server.refuses = status
        machine.run("comment", "report.md", "--pull-request", "7", **token)
    machine.look_at_files()
    assert machine.leaks == []


def test_what_leaks_would_be_found(machine: Machine) -> None:
    """The search itself: in words, in a request, in an archive in it, and in a file."""
    held = base64.b64encode(lzma.compress(b"x" * 200 + secret("dotenv").encode())).decode()
    machine.run("launch", "-d", "--name", "a", "--env", f"A={secret('aws')}", "train.py")
    machine.look("an archive", planted.unpacked(json.dumps({"data": held}).encode()))
    (machine.project / "left").write_text(secret("token"))
    machine.look_at_files()
    found = "\n".join(machine.leaks)
    for name in ("aws", "dotenv", "token"):
        assert secret(name) in found
    assert "sent" in found and "an archive" in found and "left" in found
