"""Commands that are printed can be pasted: they parse, and are about the cluster that was named."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from kij_train import commands
from kij_train.cli import main
from kij_train.cli.app import app
from kij_train.commands import Address

from tests.unit.test_backend import Jobs
from tests.unit.test_client import ApiServer
from tests.unit.test_job_commands import SITUATIONS, OneJob

CONTEXT = "my team's"
"""A shell would take it apart."""
NAMESPACE = "ml"
ABOUT_NO_CLUSTER = [["launch", "--local"], ["launch", "--help"], ["render"]]
ABOUT_NO_NAMESPACE = [["auth", "whoami"], ["cluster-info"], ["create", "namespace"]]
END = re.compile(r"; | …|, or |, of | · | \(|$")
"""Of a command in a sentence."""


@contextlib.contextmanager
def serving(server: ApiServer, folder: Path) -> Iterator[list[str]]:
    """The flags that name it, none of which a command finds by itself."""
    address = f"http://127.0.0.1:{server.server_port}"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "a kubeconfig"
    path.write_text(yaml.safe_dump(config))
    with server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield ["-n", NAMESPACE, "--context", CONTEXT, "--kubeconfig", str(path)]
        server.shutdown()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    (tmp_path / "train.py").touch()


def commands_in(text: str) -> Iterator[list[str]]:
    """Commands of a text, as a shell would take them apart."""
    for found in re.finditer(r"\b(kij-train|kubectl) ([a-z]+)\b[^\n]*", text):
        name = found[2]
        if found[1] == "kubectl" or app.get_command(click.Context(app), name) is not None:
            yield shlex.split(END.split(found[0])[0])


def check(words: list[str], where: list[str]) -> None:
    """Whether a command is whole, and about the cluster that was named."""
    program, *rest = words
    if program == "kij-train":
        if any(rest[: len(each)] == each for each in ABOUT_NO_CLUSTER):
            return
        found = app.get_command(click.Context(app), rest[0])
        assert found is not None
        params = found.make_context(rest[0], rest[1:]).params
        fields = ("namespace", "context", "kubeconfig")
        assert [params.get(f, params.get(f"spec_{f}")) for f in fields] == where[1::2], words
        return
    assert program == "kubectl"
    without = any(rest[: len(each)] == each for each in ABOUT_NO_NAMESPACE)
    flags = where[2:] if without else where
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        assert rest[rest.index(flag) + 1] == value, words


def said_by(capsys: pytest.CaptureFixture[str], argv: list[str], where: list[str]) -> str:
    """What a command prints; the flags stand in front of --."""
    at = argv.index("--") if "--" in argv else len(argv)
    main([*argv[:at], *where, *argv[at:]])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out + captured.err


@pytest.mark.parametrize("situation", sorted(path.stem for path in SITUATIONS.glob("*.json")))
def test_what_why_says_to_do_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], situation: str
) -> None:
    with serving(OneJob(situation), tmp_path) as where:
        said = said_by(capsys, ["why", "job"], where)
        for words in commands_in(said):
            check(words, where)
        findings = json.loads(said_by(capsys, ["why", "job", "-o", "json"], where))["findings"]
    assert "\x02" not in said
    assert all(each["hint"] in said for each in findings if each["hint"])


@pytest.mark.parametrize(
    ("situation", "argv"),
    [
        ("running", ["why", "job"]),
        ("running", ["cancel", "job"]),
        ("running", ["cancel", "job", "--grace", "1h"]),
        ("running", ["resume", "job"]),
        ("running", ["status", "job", "-w", "-o", "json"]),
        ("running", ["status", "other"]),
        ("running", ["shell", "job"]),
        ("running", ["delete", "--finished", "--label", "a=b c"]),
        ("cancelled", ["why", "job"]),
        ("cancelled", ["resume", "job"]),
        ("succeeded", ["resume", "job"]),
        ("image-never-pulled", ["exec", "job", "--", "true"]),
        ("image-never-pulled", ["stacks", "job"]),
        ("image-never-pulled", ["logs", "job", "--previous"]),
        ("nccl-timeout", ["why", "job"]),
        ("queued", ["why", "job"]),
    ],
)
def test_what_the_other_commands_say_to_do_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], situation: str, argv: list[str]
) -> None:
    with serving(OneJob(situation), tmp_path) as where:
        said = said_by(capsys, argv, where)
        found = list(commands_in(said))
        assert found, said
        for words in found:
            check(words, where)


def test_what_a_detached_launch_says_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Jobs(), tmp_path) as where:
        main(["launch", "--detach", "--name", "a", *where, "train.py"])
        captured = capsys.readouterr()
        assert captured.out == "a\n"
        found = list(commands_in(captured.err))
        assert [words[1] for words in found] == ["attach", "status", "cancel", "delete"]
        for words in found:
            check(words, where)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, ""),
        (403, 'jobs.batch is forbidden: User "ada" cannot create resource "jobs" in API group'),
        (403, "jobs is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: 1"),
        (404, 'namespaces "ml" not found'),
    ],
)
def test_what_a_refusal_says_to_do_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, message: str
) -> None:
    server = Jobs()
    details = {"kind": "namespaces"} if status == 404 else {}
    body = {"kind": "Status", "message": message, "details": details}
    server.answer = lambda *_: (status, json.dumps(body).encode())
    with serving(server, tmp_path) as where:
        said = said_by(capsys, ["launch", *where, "train.py"], [])
        found = list(commands_in(said))
        assert found, said
        for words in found:
            check(words, where)


def test_what_a_server_that_is_away_says_to_do_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Jobs(), tmp_path) as where:
        pass
    found = list(commands_in(said_by(capsys, ["list"], where)))
    assert ["kubectl", "cluster-info"] in [words[:2] for words in found]
    for words in found:
        check(words, where)


def test_what_a_plain_command_finds_is_not_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(OneJob("running"), tmp_path) as where:
        monkeypatch.setenv("KIJ_CONTEXT", CONTEXT)
        (tmp_path / "kij-train.toml").write_text(f'kubeconfig = "{where[-1]}"\n')
        said = said_by(capsys, ["cancel", "job", "-n", NAMESPACE], [])
        assert f"kij-train resume job -n {NAMESPACE}\n" in said
        said = said_by(capsys, ["exec", "gone", "--", "true"], ["-n", NAMESPACE])
        assert f"kij-train list -n {NAMESPACE}, or" in said


def test_kubectl_is_told_what_only_kij_train_finds() -> None:
    at = Address.of("a file", "c", frozenset({"context", "kubeconfig"}))
    assert at.command("list") == "kij-train list"
    assert at.kubectl("get", "pods") == "kubectl get pods --context c --kubeconfig 'a file'"


def test_several_kubeconfigs_are_named_as_kubectl_takes_them() -> None:
    at = Address.of("one:the other", None)
    said = at.kubectl_of_cluster("cluster-info")
    assert said == "env 'KUBECONFIG=one:the other' kubectl cluster-info"
    assert at.command("list") == "kij-train list --kubeconfig 'one:the other'"


def test_marks_become_commands_and_other_characters_stay() -> None:
    at = Address("ml", ("--context", "c"), ("--context", "c"))
    text = f"see {commands.on_job('logs', '--all')}; {commands.kubectl('get', 'pods')} \x02[1]\x03"
    assert at.fill(text, "job") == (
        "see kij-train logs job -n ml --context c --all; kubectl get pods -n ml --context c "
        "\x02[1]\x03"
    )
