"""The way to an API server, on real sockets: TLS, proxies, renewed credentials, and exec."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import shlex
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from kij_train.cluster import Cluster, credentials, watch
from kij_train.cluster import plugin as plugin_module
from kij_train.cluster.apierrors import NotAcceptedError
from kij_train.cluster.credentials import CredentialsError
from kij_train.cluster.execute import ask, execute
from kij_train.cluster.proxies import proxy_from_environment
from kij_train.errors import CommandNotRunError, KijError, RefusedError, UnreachableError

from tests.proxies import HttpProxy, SocksProxy, running

HOST = "lab.test"
"""A name that nobody but a proxy can look up."""
Parts = list[tuple[int, bytes]]


class Handler(http.server.BaseHTTPRequestHandler):
    """Lists of nothing for those who may ask; exec says what the server's `says` holds."""

    server: Api
    wbufsize = -1

    def do_GET(self) -> None:
        self.server.asked.append(dict(self.headers.items()))
        token = str(self.headers.get("Authorization", "")).removeprefix("Bearer ")
        if self.server.accepted is not None and token not in self.server.accepted:
            self._answer(401, {"kind": "Status", "message": "Unauthorized"})
        elif self.headers.get("Upgrade") == "websocket":
            self._speak()
        elif "watch=true" in self.path:
            self._answer(200, None)
        else:
            self._answer(200, {"metadata": {"resourceVersion": "1"}, "items": []})

    def _answer(self, status: int, body: dict[str, Any] | None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _speak(self) -> None:
        if self.server.refuses is not None:
            self._answer(*self.server.refuses)
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.send_header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
        self.end_headers()
        for channel, data in self.server.says:
            self.wfile.write(bytes([0x82, len(data) + 1, channel]) + data)
        if self.server.closes:
            self.wfile.write(b"\x88\x02\x03\xe8")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Api(http.server.ThreadingHTTPServer):
    """What stands for an API server."""

    daemon_threads = True
    accepted: set[str] | None = None
    """Tokens; None: nobody is asked."""
    says: Parts
    closes = True
    refuses: tuple[int, dict[str, Any]] | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, str]] = []
        self.says = [(1, b"out\n"), (2, b"err\n"), (3, b'{"status": "Success"}')]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave are what some tests are about."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def api(authority: trustme.CA) -> Iterator[Api]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    with running(Api(), context) as made:
        yield made


@pytest.fixture
def connect(api: Api, authority: trustme.CA, tmp_path: Path) -> Callable[..., Cluster]:
    """The cluster of a kubeconfig with this user and this about the cluster."""

    def made(user: dict[str, Any] | None = None, /, **cluster: Any) -> Cluster:
        pem = base64.b64encode(authority.cert_pem.bytes()).decode()
        cluster = {
            "server": f"https://127.0.0.1:{api.server_port}",
            "tls-server-name": HOST,
            "certificate-authority-data": pem,
            **cluster,
        }
        config = {
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "ada", "user": user or {}}],
            "contexts": [{"name": "here", "context": {"cluster": "lab", "user": "ada"}}],
            "current-context": "here",
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        path = str(tmp_path / "config")
        return Cluster.connect(kubeconfig=path, context=None, namespace=None)

    return made


# --- TLS ------------------------------------------------------------------------------------------


def test_a_client_certificate_is_shown_and_leaves_no_file(
    api: Api,
    connect: Callable[..., Cluster],
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    mine = authority.issue_cert("ada@lab.test")
    pem = base64.b64encode(mine.cert_chain_pems[0].bytes()).decode()
    (tmp_path / "key").write_bytes(mine.private_key_pem.bytes())
    cluster = connect({"client-certificate-data": pem, "client-key": "key"})
    assert cluster.list("Job") == []
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(UnreachableError, match="of user ada, its certificate and key: cannot be"):
        connect({"client-certificate-data": pem, "client-key-data": pem})


def test_whom_the_kubeconfig_does_not_trust_is_not_spoken_to(
    api: Api, connect: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    other = base64.b64encode(trustme.CA().cert_pem.bytes()).decode()
    wrong: list[dict[str, Any]] = [
        {"certificate-authority-data": other},
        {"certificate-authority-data": None},
        {"tls-server-name": None},
    ]
    for change in wrong:
        with pytest.raises(UnreachableError, match="certificate verify failed") as caught:
            connect(**change).list("Job")
        assert "certificate-authority-data, tls-server-name" in caught.value.hints[0]
    assert api.asked == []
    insecure = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    assert connect(**insecure).list("Job") == []
    with pytest.raises(UnreachableError, match="exclude each other"):
        connect(**{"insecure-skip-tls-verify": True})


def test_a_server_without_tls_is_told_apart(connect: Callable[..., Cluster]) -> None:
    with running(Api()) as plain:
        cluster = connect(server=f"https://127.0.0.1:{plain.server_port}")
        with pytest.raises(UnreachableError) as caught:
            cluster.list("Job")
    assert "no TLS is spoken there" in caught.value.hints[0]


def test_whom_the_user_acts_as_is_told_to_the_server(
    api: Api, connect: Callable[..., Cluster]
) -> None:
    user = {"token": "t", "as": "bob", "as-groups": ["dev", "ops"], "as-uid": "7"}
    connect({**user, "as-user-extra": {"team": ["a"]}}).list("Job")
    said = api.asked[-1]
    assert (said["Impersonate-User"], said["Impersonate-Uid"]) == ("bob", "7")
    assert said["Impersonate-Group"] in ("dev", "ops", "dev, ops")
    assert said["Impersonate-Extra-team"] == "a"


# --- proxies --------------------------------------------------------------------------------------

PASSWORD = "p@ss:word"
LOGIN = "ada:p%40ss%3Aword"


@pytest.mark.parametrize("by", ["proxy-url", "environment"])
@pytest.mark.parametrize(
    "kind", ["http", "http with login", "https", "socks5", "socks5 with login"]
)
def test_requests_and_exec_go_by_the_proxy(
    api: Api,
    connect: Callable[..., Cluster],
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    by: str,
) -> None:
    scheme, _, login = kind.partition(" with ")
    user = f"ada:{PASSWORD}" if login else None
    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
    made = (SocksProxy if "socks" in scheme else HttpProxy)(user, ("127.0.0.1", api.server_port))
    with running(made, context) as proxy:
        url = f"{scheme}://{LOGIN + '@' if login else ''}127.0.0.1:{proxy.server_port}"
        monkeypatch.setenv("HTTPS_PROXY", url if by == "environment" else "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "*" if by == "proxy-url" else "")
        how = {"proxy-url": url} if by == "proxy-url" else {}
        cluster = connect(server=f"https://{HOST}:6443", **{"tls-server-name": None}, **how)
        assert cluster.list("Job") == []
        assert execute(cluster, "pod", ["true"], stdin=False, tty=False) == 0
        assert [one.out for one in ask(cluster, ["pod"], ["true"], timeout_s=5)] == ["out\n"]
        assert set(proxy.led_to) == {f"{HOST}:6443"}
        assert "Proxy-Authorization" not in str(api.asked)
        cluster.close()
    assert capfd.readouterr().out == "out\n"


def test_a_plain_server_behind_a_plain_proxy_is_reached_as_kubectl_reaches_it(
    connect: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
    with running(Api()) as plain, running(HttpProxy(None, plain.server_address)) as proxy:
        way = {"server": "http://127.0.0.1:9", "proxy-url": f"127.0.0.1:{proxy.server_port}"}
        cluster = connect(**way)
        assert cluster.list("Job") == []
        assert execute(cluster, "pod", ["true"], stdin=False, tty=False) == 0
        assert proxy.led_to == ["127.0.0.1:9"] * 2


def test_a_proxy_that_wants_a_login_is_named_with_who_named_it(
    connect: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with running(HttpProxy("ada:right")) as proxy:
        wrong = f"http://ada:wrong-password@127.0.0.1:{proxy.server_port}"
        cluster = connect(**{"proxy-url": wrong})
        calls: list[Callable[[], object]] = [
            lambda: cluster.list("Job"),
            lambda: execute(cluster, "pod", ["true"], stdin=False, tty=False),
        ]
        for call in calls:
            with pytest.raises(UnreachableError) as caught:
                call()
            error = caught.value
            place = f"http://127.0.0.1:{proxy.server_port} (proxy-url of cluster lab in "
            assert place in error.message
            assert "407" in error.message
            assert "wants a user and a password" in error.hints[0]
            assert "wrong-password" not in f"{error}{error.hints}{error.__cause__}"


@pytest.mark.parametrize(
    ("url", "environ", "goes_by"),
    [
        # As golang.org/x/net/http/httpproxy has it.
        ("https://a.test", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://a.test", {"https_proxy": "p"}, "http://p:80"),
        ("https://a.test", {"HTTPS_PROXY": "P", "https_proxy": "q"}, "http://p:80"),
        ("https://a.test", {"HTTPS_PROXY": "socks5://p"}, "socks5://p:1080"),
        ("https://a.test", {"HTTP_PROXY": "p", "ALL_PROXY": "p"}, None),
        ("http://a.test", {"HTTP_PROXY": "p"}, "http://p:80"),
        ("http://a.test", {"HTTPS_PROXY": "p"}, None),
        ("https://localhost:6443", {"HTTPS_PROXY": "p"}, None),
        ("https://127.3.0.1", {"HTTPS_PROXY": "p"}, None),
        ("https://[::1]:1", {"HTTPS_PROXY": "p"}, None),
        ("https://a.test", {"HTTPS_PROXY": "p", "NO_PROXY": "*"}, None),
        ("https://a.test", {"HTTPS_PROXY": "p", "NO_PROXY": " x, A.Test "}, None),
        ("https://b.a.test", {"HTTPS_PROXY": "p", "no_proxy": "a.test"}, None),
        ("https://ba.test", {"HTTPS_PROXY": "p", "no_proxy": "a.test"}, "http://p:80"),
        ("https://b.a.test", {"HTTPS_PROXY": "p", "NO_PROXY": ".a.test"}, None),
        ("https://a.test", {"HTTPS_PROXY": "p", "NO_PROXY": ".a.test"}, "http://p:80"),
        ("https://b.a.test", {"HTTPS_PROXY": "p", "NO_PROXY": "*.a.test"}, None),
        ("https://a.test:6443", {"HTTPS_PROXY": "p", "NO_PROXY": "a.test:6443"}, None),
        ("https://a.test", {"HTTPS_PROXY": "p", "NO_PROXY": "a.test:6443"}, "http://p:80"),
        ("https://a.test", {"HTTPS_PROXY": "p", "NO_PROXY": "a.test:443"}, None),
        ("https://10.1.2.3", {"HTTPS_PROXY": "p", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://11.1.2.3", {"HTTPS_PROXY": "p", "NO_PROXY": "10.0.0.0/8"}, "http://p:80"),
        ("https://10.1.2.3", {"HTTPS_PROXY": "p", "NO_PROXY": "10.1.2.3"}, None),
        ("https://10.1.2.3:6443", {"HTTPS_PROXY": "p", "NO_PROXY": "10.1.2.3:6443"}, None),
        ("https://10.1.2.3:6443", {"HTTPS_PROXY": "p", "NO_PROXY": "10.1.2.3:1"}, "http://p:80"),
        ("https://[fd00::1]:6443", {"HTTPS_PROXY": "p", "NO_PROXY": "fd00::/8"}, None),
        ("https://[fd00::1]:6443", {"HTTPS_PROXY": "p", "NO_PROXY": "[fd00::1]:6443"}, None),
        ("https://[fd00::1]:6443", {"HTTPS_PROXY": "p", "NO_PROXY": "fd00::1"}, None),
        ("https://a.test", {"HTTPS_PROXY": "p", "NO_PROXY": "://, /8, :80, ,[, a"}, "http://p:80"),
    ],
)
def test_the_environments_proxies_are_taken_as_go_takes_them(
    url: str, environ: dict[str, str], goes_by: str | None
) -> None:
    proxy = proxy_from_environment(url, environ)
    assert (proxy.url if proxy else None) == goes_by


# --- credentials that end -------------------------------------------------------------------------


def test_a_token_file_is_read_again_when_it_is_due_and_when_the_token_is_refused(
    api: Api, connect: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.accepted = {"first"}
    (tmp_path / "token").write_text("first\n")
    cluster = connect({"tokenFile": "token"})
    assert cluster.list("Job") == []
    api.accepted = {"second"}
    (tmp_path / "token").write_text("second\n")
    assert cluster.list("Job") == []
    assert [one["Authorization"] for one in api.asked[-2:]] == ["Bearer first", "Bearer second"]
    api.accepted = {"third"}
    (tmp_path / "token").write_text("third\n")
    assert execute(cluster, "pod", ["true"], stdin=False, tty=False) == 0
    monkeypatch.setattr(credentials, "REREAD_S", 0.0)
    (tmp_path / "token").write_text("")  # about to be written: what was there is shown on
    assert cluster.list("Job") == []
    api.accepted = {"fourth"}
    (tmp_path / "token").write_text("fourth")
    before = len(api.asked)
    assert cluster.list("Job") == []
    assert len(api.asked) == before + 1  # without a refusal before
    api.accepted = set()
    with pytest.raises(NotAcceptedError, match=f"the token in {tmp_path}/token"):
        cluster.list("Job")


def test_watching_goes_on_when_a_token_is_renewed_late_and_never_begins_without(
    api: Api, connect: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAUSE_S", 0.01)
    api.accepted = {"first"}
    (tmp_path / "token").write_text("first")
    cluster = connect({"tokenFile": "token"})
    found = watch.changes(cluster, "Job", stop=threading.Event())
    assert isinstance(next(found), watch.Synced)
    api.accepted = {"second"}
    lost = next(found)
    assert isinstance(lost, watch.Lost)
    assert isinstance(lost.error, NotAcceptedError)
    (tmp_path / "token").write_text("second")
    assert isinstance(next(found), watch.Back)
    found.close()
    api.accepted = set()
    with pytest.raises(NotAcceptedError):
        next(watch.changes(cluster, "Job", stop=threading.Event()))


@pytest.fixture
def login(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The user of a plugin that answers what `answers` lists, run by run; the last for ever."""

    def made(*answers: str) -> dict[str, Any]:
        for number, answer in enumerate(answers, 1):
            (tmp_path / f"answer{number}").write_text(answer)
        (tmp_path / "login").write_text(
            f"#!/bin/sh\ncd {tmp_path}\necho x >> runs\nn=$(wc -l < runs)\n"
            f"[ $n -le {len(answers)} ] || n={len(answers)}\nsh ./answer$n\n"
        )
        (tmp_path / "login").chmod(0o755)
        return {"exec": {"apiVersion": VERSION, "command": "./login"}}

    return made


VERSION = "client.authentication.k8s.io/v1"


def gives(token: str, **status: Any) -> str:
    """The shell line of an answer."""
    said = {"apiVersion": VERSION, "kind": "ExecCredential", "status": {"token": token, **status}}
    return f"printf %s '{json.dumps(said)}'"


def python(program: str) -> str:
    """The shell line of a Python program."""
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


def at(seconds: float) -> str:
    moment = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def test_a_plugin_runs_again_when_its_token_has_expired_and_not_before(
    api: Api, connect: Callable[..., Cluster], login: Callable[..., Any], tmp_path: Path
) -> None:
    hour = at(3600)
    past = gives("first", expirationTimestamp=at(-1))
    cluster = connect(login(past, gives("second", expirationTimestamp=hour), "exit 1"))
    cluster.list("Job")
    cluster.list("Job")
    assert [one["Authorization"] for one in api.asked] == ["Bearer second"] * 2
    assert (tmp_path / "runs").read_text() == "x\n" * 2


def test_a_plugin_that_fails_at_its_next_run_is_named_and_the_old_token_is_not_shown(
    api: Api,
    connect: Callable[..., Cluster],
    login: Callable[..., Any],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    past = gives("first-token", expirationTimestamp=at(-1))
    cluster = connect(login(past, "echo no login for first-token >&2; exit 3"))
    for _ in range(3):
        with pytest.raises(CredentialsError, match="exit code 3: no login for ") as caught:
            cluster.list("Job")
        assert "first-token" not in str(caught.value)
    assert api.asked == []
    assert (tmp_path / "runs").read_text() == "x\n" * 2  # not at every request anew
    assert capfd.readouterr() == ("", "")


def test_a_refused_token_has_the_plugin_run_once_more(
    api: Api,
    connect: Callable[..., Cluster],
    login: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api.accepted = {"second"}
    cluster = connect(login(gives("first"), gives("second"), gives("third")))
    assert cluster.list("Job") == []
    api.accepted = set()
    for _ in range(3):
        with pytest.raises(NotAcceptedError, match=r"the credential plugin \./login of user ada"):
            cluster.list("Job")
    assert (tmp_path / "runs").read_text() == "x\n" * 2
    monkeypatch.setattr(plugin_module, "PAUSE_S", 0.0)
    api.accepted = {"third"}
    assert cluster.list("Job") == []


def test_a_plugin_may_give_a_certificate_and_is_told_of_the_cluster(
    api: Api,
    connect: Callable[..., Cluster],
    login: Callable[..., Any],
    authority: trustme.CA,
    tmp_path: Path,
) -> None:
    mine = authority.issue_cert("ada@lab.test")
    pair = {
        "clientCertificateData": mine.cert_chain_pems[0].bytes().decode(),
        "clientKeyData": mine.private_key_pem.bytes().decode(),
    }
    user = login(f'echo "$KUBERNETES_EXEC_INFO" > info\n{gives("", **pair)}')
    user["exec"] |= {"provideClusterInfo": True}
    extension = [{"name": "client.authentication.k8s.io/exec", "extension": {"a": 1}}]
    assert connect(user, extensions=extension).list("Job") == []
    told = json.loads((tmp_path / "info").read_text())["spec"]["cluster"]
    assert told["server"] == f"https://127.0.0.1:{api.server_port}"
    assert (told["tls-server-name"], told["config"]) == (HOST, {"a": 1})
    assert base64.b64decode(told["certificate-authority-data"]) == authority.cert_pem.bytes()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("echo hello", "gave no ExecCredential"),
        (python("print('[' * 200_000)"), "gave no ExecCredential"),
        (python("print('{\"a\":' * 200_000)"), "gave no ExecCredential"),
        (python("print('9' * 10_000)"), "gave no ExecCredential"),
        (python("print('{\"kind\": ' + '9' * 10_000 + '}')"), "gave no ExecCredential"),
        ("printf '\\377\\376\\000'", "gave no ExecCredential"),
        ("echo NaN", "gave no ExecCredential"),
        (gives("t").replace("/v1", "/v1beta1"), "gave another apiVersion than the client.auth"),
        (gives(""), "gave neither a token nor a certificate"),
        (gives("", clientKeyData="k"), "gave a certificate without a key, or a key alone"),
        (gives("t", expirationTimestamp="soon"), "an expirationTimestamp that is no time"),
        (gives("a\x07b"), "gave a token with a line break"),
    ],
)
def test_what_a_plugin_must_not_answer_is_said(
    connect: Callable[..., Cluster], login: Callable[..., Any], answer: str, words: str
) -> None:
    with pytest.raises(CredentialsError, match=words) as caught:
        connect(login(answer))
    assert "kubectl auth whoami --context here --kubeconfig" in caught.value.hints[0]


def test_what_a_plugin_leaves_running_is_not_waited_for(
    api: Api, connect: Callable[..., Cluster], login: Callable[..., Any], tmp_path: Path
) -> None:
    writes = "while :; do echo more >&2; done"
    for left in ("exec sleep 600", writes):
        (tmp_path / "runs").unlink(missing_ok=True)
        last = gives("a" * 200_000)  # more than a pipe holds
        connect(login(f"({left}) & echo $! > left\n{last}"))
        pid = int((tmp_path / "left").read_text())
        os.kill(pid, signal.SIGKILL)  # it was there still


HIDDEN = "hunter2-hunter3"
JWT = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("complaint", "shown"),
    [
        ("no login with $KEYRING_WORD today", "no login with *** today"),
        ("no login with $TWO_LINES", "no login with ***"),
        ("bad --client-secret: $2", "bad --client-secret: ***"),
        ("bad flag $1", "bad flag --pass-through-token=***"),
        (f"refused {JWT} for ada", "refused *** for ada"),
        ("refused Bearer abcdefghijklmnop.qrst for ada", "refused *** for ada"),
        ("refused hf_abcdefghijklmnopqrstuvw for ada", "refused *** for ada"),
        (f"refused k8s-aws-v1.{HIDDEN}", "refused ***"),
        (f"see https://ada:{HIDDEN}@lab.test/", "see https://***@lab.test/"),
        ("profile dev-of-ada has expired", "profile dev-of-ada has expired"),
    ],
)
def test_what_a_plugin_complains_of_is_shown_without_secrets(
    connect: Callable[..., Cluster],
    login: Callable[..., Any],
    tmp_path: Path,
    complaint: str,
    shown: str,
) -> None:
    user = login("")
    program = f'#!/bin/sh\nshift; set -- "$1" "$3"\necho "{complaint}" >&2\nexit 1\n'
    (tmp_path / "login").write_text(program)
    user["exec"] |= {
        "env": [
            {"name": "KEYRING_WORD", "value": HIDDEN},
            {"name": "TWO_LINES", "value": f"{HIDDEN[:7]}\n{HIDDEN[8:]}"},
        ],
        "args": ["get", f"--pass-through-token={HIDDEN}", "--client-secret", HIDDEN],
    }
    with pytest.raises(CredentialsError) as caught:
        connect(user)
    assert caught.value.message.endswith(f"failed with exit code 1: {shown}")
    assert HIDDEN[:7] not in str(caught.value)


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM"])
def test_a_plugin_that_a_signal_ends_is_told_by_its_name(
    connect: Callable[..., Cluster], login: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    user = login("")
    (tmp_path / "login").write_text(f"#!/bin/sh\nkill -{name} $$\n")
    with pytest.raises(CredentialsError, match=f"was ended by SIG{name}"):
        connect(user)


def test_a_plugin_is_told_of_the_cluster_what_json_can_hold(
    api: Api, connect: Callable[..., Cluster], login: Callable[..., Any], tmp_path: Path
) -> None:
    user = login(f'echo "$KUBERNETES_EXEC_INFO" > info\n{gives("t")}')
    user["exec"]["provideClusterInfo"] = True
    day = date(2026, 1, 2)
    extension: dict[str, Any] = {
        "name": "client.authentication.k8s.io/exec",
        "extension": {"since": day},
    }
    connect(user, extensions=[extension])
    told = json.loads((tmp_path / "info").read_text())["spec"]["cluster"]["config"]
    assert told == {"since": "2026-01-02"}
    extension = {**extension, "extension": {day: 1}}
    with pytest.raises(UnreachableError, match=r"extensions .* holds what JSON cannot"):
        connect(user, extensions=[extension])


def test_a_plugins_certificate_may_hold_anything(
    connect: Callable[..., Cluster], login: Callable[..., Any]
) -> None:
    answer = gives("", clientCertificateData="\ud800", clientKeyData="k")
    with pytest.raises(CredentialsError, match="cannot be used: no PEM"):
        connect(login(answer))


class Issuer(http.server.BaseHTTPRequestHandler):
    """Gives each refresh token once."""

    server: Any

    def do_GET(self) -> None:
        self._say({"token_endpoint": f"http://127.0.0.1:{self.server.server_port}/token"})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.asked.append((self.headers["Authorization"], self.rfile.read(length).decode()))
        self._say({"id_token": jwt(time.time() + 3600), "refresh_token": "refresh-2"})

    def _say(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def jwt(expires: float) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"exp": int(expires)}).encode())
    return f"head.{payload.decode().rstrip('=')}.signature"


def test_an_id_token_that_has_expired_is_renewed_and_kept_in_the_kubeconfig(
    api: Api, connect: Callable[..., Cluster], tmp_path: Path
) -> None:
    with running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)) as issuer:
        issuer.asked = []
        config = {
            "idp-issuer-url": f"http://127.0.0.1:{issuer.server_port}/",
            "client-id": "kij",
            "client-secret": "the-secret",
            "id-token": jwt(time.time() - 1),
            "refresh-token": "refresh-1",
        }
        cluster = connect({"auth-provider": {"name": "oidc", "config": config}})
        cluster.list("Job")
        cluster.list("Job")
    basic = base64.b64encode(b"kij:the-secret").decode()
    assert issuer.asked == [(f"Basic {basic}", "grant_type=refresh_token&refresh_token=refresh-1")]
    kept = yaml.safe_load((tmp_path / "config").read_text())
    kept = kept["users"][0]["user"]["auth-provider"]["config"]
    assert kept["refresh-token"] == "refresh-2"
    assert {one["Authorization"] for one in api.asked} == {f"Bearer {kept['id-token']}"}


# --- exec -----------------------------------------------------------------------------------------

OCI = (
    "Internal error occurred: error executing command in container: failed to exec in container: "
    'OCI runtime exec failed: exec failed: unable to start container process: exec: "nope": '
)


def failed(message: str, causes: list[dict[str, str]]) -> Parts:
    status = {"status": "Failure", "message": message, "details": {"causes": causes}}
    return [(1, b"out\n"), *cut(3, json.dumps(status).encode())]


def cut(channel: int, data: bytes) -> Parts:
    return [(channel, data[i : i + 100]) for i in range(0, len(data), 100)]


@pytest.mark.parametrize(
    ("says", "closes", "outcome"),
    [
        ([(3, b'{"status": "Success"}')], True, 0),
        (failed("exit", [{"reason": "ExitCode", "message": "7"}]), True, 7),
        (failed(OCI + "executable file not found in $PATH", []), True, (CommandNotRunError, 127)),
        (failed(OCI + "permission denied", []), True, (CommandNotRunError, 126)),
        (failed("container not found", []), True, (RefusedError, 3)),
        ([(1, b"half")], True, (UnreachableError, 4)),
        ([(1, b"half")], False, (UnreachableError, 4)),
        ([(3, b"no json")], True, (UnreachableError, 4)),
        ([(3, b"null")], True, (UnreachableError, 4)),
        (cut(3, b"[" * 100_000), True, (UnreachableError, 4)),
        ([(7, b"?"), (255, b"\x01"), (3, b'{"status": "Success"}')], True, 0),
    ],
)
def test_how_a_command_ends_is_told_in_a_sentence(
    api: Api, connect: Callable[..., Cluster], says: Parts, closes: bool, outcome: Any
) -> None:
    api.says, api.closes = says, closes
    cluster = connect()
    if isinstance(outcome, int):
        assert execute(cluster, "pod-0", ["nope"], stdin=False, tty=False) == outcome
        return
    kind, code = outcome
    with pytest.raises(kind) as caught:
        execute(cluster, "pod-0", ["nope"], stdin=False, tty=False)
    assert (caught.value.exit_code, "pod pod-0" in str(caught.value)) == (code, True)
    assert "\n" not in str(caught.value)
    (answer,) = ask(cluster, ["pod-0"], ["nope"], timeout_s=5)
    assert type(answer.error) is kind


def test_a_pod_that_does_not_take_the_command_is_quoted(
    api: Api, connect: Callable[..., Cluster]
) -> None:
    ended = "cannot exec into a container in a completed pod; current phase is Succeeded"
    api.refuses = (400, {"status": "Failure", "reason": "BadRequest", "message": ended})
    with pytest.raises(KijError, match="in a completed pod"):
        execute(connect(), "pod-0", ["true"], stdin=False, tty=False)


def test_a_pod_that_says_nothing_is_given_up(
    connect: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kij_train.cluster.client.OPENING_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cluster = connect(server=f"http://127.0.0.1:{silent.getsockname()[1]}")
        (answer,) = ask(cluster, ["pod-0"], ["true"], timeout_s=1)
    assert isinstance(answer.error, UnreachableError)
