"""Kubeconfigs that are wrong, many, or made of several files; and credentials that stay home."""

from __future__ import annotations

import base64
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kij_train import jobs
from kij_train.cli import main
from kij_train.redaction import keep_secret, redacted

from tests.proxies import running
from tests.unit.test_client import ApiServer, Handler, said

NOTHING = json.dumps({"metadata": {}, "items": []}).encode()
SECRET = "s3cr3t-of-ada"
Ran = tuple[int, str]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with running(ApiServer(("127.0.0.1", 0), Handler)) as made:
        made.answer = lambda *_: (200, NOTHING)
        yield made


@pytest.fixture
def listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Run `list` with a kubeconfig: a document, a text, or None for that of KUBECONFIG."""
    monkeypatch.chdir(tmp_path)

    def ran(config: object, *flags: str) -> Ran:
        if config is not None:
            text = config if isinstance(config, str) else yaml.safe_dump(config)
            Path("config").write_text(text)
            flags = ("--kubeconfig", "config", *flags)
        code = main(["list", *flags])
        out, err = capsys.readouterr()
        return code, out + err

    return ran


def config_of(server: ApiServer, user: object, /, **cluster: object) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "lab",
                "cluster": {"server": f"http://127.0.0.1:{server.server_port}", **cluster},
            }
        ],
        "users": [{"name": "ada", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "lab", "user": "ada"}}],
        "current-context": "here",
    }


def test_what_is_right_is_read(server: ApiServer, listed: Callable[..., Ran]) -> None:
    assert listed(config_of(server, {"token": SECRET}))[0] == 0


# --- wrong in every place -------------------------------------------------------------------------

WRONG_VALUES: list[object] = [None, "", 7, [None], {"a": None}, "\x00é%\n"]
PEM = base64.b64encode(b"no PEM").decode()
FULL_USER = {
    "token": SECRET,
    "tokenFile": "token",
    "username": "ada",
    "password": SECRET,
    "client-certificate-data": PEM,
    "client-key-data": base64.b64encode(SECRET.encode()).decode(),
    "client-certificate": "cert",
    "client-key": "key",
    "as": "bob",
    "as-groups": ["x"],
    "as-user-extra": {"k": ["v"]},
}
PLUGIN = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "sh",
    "args": ["-c", f"echo {SECRET}"],
    "env": [{"name": "API_TOKEN", "value": SECRET}],
    "interactiveMode": "Never",
    "provideClusterInfo": True,
    "installHint": "install it",
}
OIDC = {
    "name": "oidc",
    "config": {
        "idp-issuer-url": "http://127.0.0.1:9",
        "client-id": "kij",
        "client-secret": SECRET,
        "id-token": f"a.{SECRET}.c",
        "refresh-token": SECRET,
    },
}


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    if path:
        yield path
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, one in inner:
        yield from places(one, (*path, key))


def with_value(document: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    at: Any = changed
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return changed


@pytest.mark.parametrize("user", [FULL_USER, {"exec": PLUGIN}, {"auth-provider": OIDC}])
def test_any_field_may_be_wrong_and_no_traceback_nor_secret_is_shown(
    server: ApiServer,
    listed: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    user: dict[str, Any],
) -> None:
    url = f"http://ada:{SECRET}@127.0.0.1:{server.server_port}"
    monkeypatch.setattr(time, "sleep", lambda _: None)
    document = config_of(
        server,
        user,
        **{
            "server": url,
            "proxy-url": url,  # the server takes what a proxy is asked, too
            "certificate-authority-data": PEM,
            "tls-server-name": "lab",
            "extensions": [{"name": "x", "extension": {}}],
        },
    )
    for name in ("token", "cert", "key"):
        Path(name).write_text(f"{SECRET}\n{SECRET}\n")
    # What is not of a user is the same for every kind of user.
    everywhere = user is FULL_USER
    for path in (path for path in places(document) if everywhere or path[0] == "users"):
        for value in (*WRONG_VALUES, ...):
            code, text = listed(with_value(document, path, value))
            assert code in (0, 3, 4), (path, value, text)
            assert SECRET not in text, (path, value, text)
            assert "fault of kij-train" not in text, (path, value, text)
            assert code == 0 or "\n  " in text, (path, value, text)  # a hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no contexts"),
        ("7", "must be a mapping, and is a number"),
        ("- 1", "must be a mapping, and is a list"),
        (f"users:\n- token: '{SECRET}\n", "is no YAML in line"),
        (f"token: *{SECRET}", "is no YAML in line 1"),
        (f"token: !{SECRET} x", "is no YAML in line 1"),
        (f'token: "\\{SECRET}"', "is no YAML in line 1"),
        (f"a: b: {SECRET}", "is no YAML in line 1, column"),
        ("\x00", "is no YAML"),
        ("[" * 1000, "is no YAML"),
    ],
)
def test_what_is_no_kubeconfig_is_said_without_its_words(
    listed: Callable[..., Ran], text: str, words: str
) -> None:
    code, seen = listed(text)
    assert (code, words in seen, SECRET in seen) == (4, True, False), seen
    assert "\n  " in seen


def test_a_folder_and_a_file_that_may_not_be_read_are_named(
    tmp_path: Path, listed: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path))
    code, text = listed(None)
    assert (code, f"kubeconfig {tmp_path} is a folder" in text) == (4, True)
    assert f"export KUBECONFIG={tmp_path}/config" in text
    (tmp_path / "closed").write_bytes(b"\xff\xfe\xff")
    monkeypatch.setenv("KUBECONFIG", "closed")
    assert "is no YAML" in listed(None)[1]
    if os.getuid():
        (tmp_path / "closed").chmod(0)
        code, text = listed(None)
        assert (code, "cannot be read: Permission denied" in text) == (4, True)


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"current-context": ""}, "has no current-context", "kubectl config use-context here"),
        ({"current-context": "x"}, "current-context x is none of", "it has: here"),
        ({"contexts": None}, "has no contexts", "--kubeconfig FILE"),
        ({"users": None}, "names user ada, which it has not", "it has no users at all"),
        ({"users": [{"name": "bob"}]}, "names user ada, which it has not", "its users: bob"),
        ({"clusters": []}, "names cluster lab, which it has not", "set-context here --cluster"),
        ({"users": [{"name": "ada"}] * 2}, "users holds the name ada twice", "config view"),
        ({"users": [{"user": {}}]}, "users, entry 1: name is missing", "config view"),
        ({"users": [None]}, "users entry 1 must be a mapping, and is empty", "config view"),
    ],
)
def test_what_leads_nowhere_is_said_with_the_way_out(
    server: ApiServer, listed: Callable[..., Ran], changes: dict[str, Any], words: str, hint: str
) -> None:
    code, text = listed({**config_of(server, {"token": SECRET}), **changes})
    assert (code, words in text, hint in text) == (4, True, True), text


def test_a_context_that_is_not_there_is_told_which_are(
    server: ApiServer, listed: Callable[..., Ran]
) -> None:
    code, text = listed(config_of(server, {}), "--context", "there")
    assert (code, "--context there" in text, "it has: here" in text) == (4, True, True)


@pytest.mark.parametrize("entry", [{"name": "ada"}, {"name": "ada", "user": None}])
def test_a_user_without_credentials_asks_without_and_a_refusal_says_so(
    server: ApiServer, listed: Callable[..., Ran], entry: dict[str, Any]
) -> None:
    config = {**config_of(server, {}), "users": [entry]}
    assert listed(config)[0] == 0
    server.answer = lambda *_: said(401, "Unauthorized", "Unauthorized")
    code, text = listed(config)
    assert (code, "user ada has no credentials" in text) == (3, True), text


@pytest.mark.parametrize("namespace", ["A/B..", "a b\r\nX: y", "..", "-", "n" * 64])
def test_the_namespace_of_a_context_is_checked_as_that_of_the_flag(
    server: ApiServer, listed: Callable[..., Ran], namespace: str
) -> None:
    config = config_of(server, {"token": SECRET})
    config["contexts"][0]["context"]["namespace"] = namespace
    code, text = listed(config)
    assert code == 4
    assert f"context here: namespace {namespace!r} is no namespace name" in text


@pytest.mark.parametrize(
    "value", ["https://", "https:///", "http://:6443", f"https://ada:{SECRET}@", "https:///path"]
)
def test_a_server_without_a_host_is_said_to_have_none(
    server: ApiServer, listed: Callable[..., Ran], value: str
) -> None:
    code, text = listed(config_of(server, {}, server=value))
    assert (code, "server has no host" in text, SECRET in text) == (4, True, False), text


@pytest.mark.parametrize(
    "name", [".x", "a..b", "x" * 300, ".".join(["x" * 60] * 5), "a b", "a\r\nX: y", "a/b"]
)
def test_a_server_name_that_is_none_is_named_with_its_key(
    server: ApiServer, listed: Callable[..., Ran], name: str
) -> None:
    code, text = listed(config_of(server, {}, **{"tls-server-name": name}))
    assert (code, "cluster lab: tls-server-name is no name" in text) == (4, True), text


@pytest.mark.parametrize("name", ["lab.test", "10.0.0.1", "::1", "a_b.lab", "bücher.test"])
def test_other_server_names_are_taken(
    server: ApiServer, listed: Callable[..., Ran], name: str
) -> None:
    assert listed(config_of(server, {}, **{"tls-server-name": name}))[0] == 0


# --- several files --------------------------------------------------------------------------------


def test_of_several_files_the_first_wins_and_paths_stand_beside_the_file_that_names_them(
    server: ApiServer,
    listed: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = config_of(server, {"exec": {**PLUGIN, "command": "./bin/login", "args": []}})
    for folder, keys in (("one", ["clusters"]), ("two", ["users"]), ("three", list(whole))):
        (tmp_path / folder).mkdir()
        part = {key: whole[key] for key in keys}
        if folder == "three":  # says all again, and otherwise
            part["clusters"] = [{"name": "lab", "cluster": {"server": "http://127.0.0.1:1"}}]
            part["users"] = [{"name": "ada", "user": {}}]
        (tmp_path / folder / "config").write_text(yaml.safe_dump(part))
    (tmp_path / "two/bin").mkdir()
    status: dict[str, Any] = {"apiVersion": PLUGIN["apiVersion"], "kind": "ExecCredential"}
    status["status"] = {"token": "t"}
    (tmp_path / "two/bin/login").write_text(f"#!/bin/sh\npwd > ran\necho '{json.dumps(status)}'\n")
    (tmp_path / "two/bin/login").chmod(0o755)
    files = ["none", "one/config", "", "two/config", "three/config"]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(files))
    code, text = listed(None)
    assert code == 0, text
    assert Path("ran").read_text().strip() == str(tmp_path)  # it runs where we are


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"token": f"{SECRET}\n{SECRET}"}, "user ada: token holds a line break"),
        ({"token": f"{SECRET}\x00"}, "user ada: token holds a NUL byte"),
        ({"token": f"{SECRET}é"}, "or another character that no token has"),
        ({"tokenFile": "two-lines"}, "two-lines, which holds a line break"),
        ({"tokenFile": "nowhere"}, "nowhere, which cannot be read: No such file"),
        ({"tokenFile": "empty"}, "empty, which is empty"),
        ({"client-key-data": base64.b64encode(SECRET.encode()).decode()}, "has no client-certif"),
        ({"client-key-data": SECRET, "client-certificate-data": PEM}, "is not base64"),
        ({"exec": {**PLUGIN, "args": ["-c", f"echo {SECRET}"]}}, "gave no ExecCredential"),
        (
            {"exec": {**PLUGIN, "args": ["-c", "echo $API_TOKEN >&2; exit 1"]}},
            "failed with exit code 1: ***",
        ),
        (
            {"exec": {**PLUGIN, "env": [{"name": f"A={SECRET}", "value": "v"}]}},
            "user ada, exec, env, entry 1: name holds '='",
        ),
        ({"exec": {**PLUGIN, "env": [{"value": SECRET}]}}, "env, entry 1: name is missing"),
        ({"exec": {**PLUGIN, "args": [f"{SECRET}\0"]}}, "args has a text that holds a NUL byte"),
        ({"exec": {**PLUGIN, "args": [f"{SECRET}\ud800"]}}, "args has a text that is no UTF-8"),
        ({"token": f"{SECRET}\ud800"}, "user ada: token is no UTF-8"),
        ({"auth-provider": {"name": "gcp"}}, "auth provider gcp of user ada is not known"),
        ({"auth-provider": {"name": "oidc", "config": {}}}, "lacks idp-issuer-url or client-id"),
        ({"auth-provider": OIDC}, "was not renewed: http://127.0.0.1:9/"),
    ],
)
def test_credentials_that_cannot_be_shown_are_named_and_not_quoted(
    server: ApiServer, listed: Callable[..., Ran], user: dict[str, Any], words: str
) -> None:
    Path("two-lines").write_text(f"{SECRET}\n{SECRET}\n")
    Path("empty").write_text("\n")
    code, text = listed(config_of(server, user))
    assert (code, words in text, SECRET in text) == (4, True, False), text
    assert "\n  " in text


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"server": f"http://ada:{SECRET}@127.0.0.1:9"}, "http://127.0.0.1:9 does not answer"),
        ({"server": f"https://ada:{SECRET}@[::1"}, "server is no URL"),
        ({"server": f"https://ada:{SECRET}@a b:7"}, "server is no URL"),
        ({"server": f"ada:{SECRET}@127.0.0.1:9"}, "has no scheme"),
        ({"proxy-url": f"http://ada:{SECRET}@127.0.0.1:9"}, "the proxy http://127.0.0.1:9 (proxy-"),
        ({"proxy-url": f"socks5://ada:{SECRET}@127.0.0.1:9"}, "the proxy socks5://127.0.0.1:9"),
        ({"proxy-url": f"ftp://ada:{SECRET}@127.0.0.1:9"}, "ftp:// is no proxy that can be used"),
        ({"proxy-url": f"http://ada:{SECRET}@127.0.0.1:x"}, "is no URL"),
    ],
)
def test_urls_are_shown_without_user_and_password(
    server: ApiServer, listed: Callable[..., Ran], cluster: dict[str, Any], words: str
) -> None:
    code, text = listed(config_of(server, {}, **cluster))
    assert (code, words in text, SECRET in text) == (4, True, False), text


def test_a_fault_of_ours_shows_its_traceback_without_credentials(
    server: ApiServer, listed: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"Invalid header value b'Bearer {SECRET}'")

    keep_secret(SECRET)
    monkeypatch.setattr(jobs, "list_jobs", broken)
    code, text = listed(config_of(server, {"token": SECRET}))
    assert (code, SECRET in text, "Bearer ***" in text) == (1, False, True), text
    assert "Traceback" in text
    assert "please report it" in text


def test_redaction_knows_lines_of_a_secret_and_leaves_short_words() -> None:
    keep_secret("first-line\nsecond-line\n", "abc")
    assert redacted("first-line, second-line, abc") == "***, ***, abc"
    assert redacted("see ssh://git:pass@host/a@b") == "see ssh://***@host/a@b"
    assert redacted("see https://ada:pa/ss@host/a") == "see https://***@host/a"
    for plain in ("https://host:80/a@b", "https://[::1]:80/a@b", "http://host:/a@b"):
        assert redacted(plain) == plain
