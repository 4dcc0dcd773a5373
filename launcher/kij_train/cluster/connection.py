"""From a kubeconfig, or the pod around us, to requests that an API server takes.

All requests, and the WebSockets of `exec`, go the same way: through one proxy, with one TLS
context, with credentials that are renewed when they have expired. What urllib3, ssl, http.client
and websocket raise becomes an error of ours here, and nowhere else.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from kij_train.cluster.apierrors import NotAcceptedError, unreachable
from kij_train.cluster.credentials import (
    Credentials,
    CredentialsError,
    Shown,
    anonymous,
    basic,
    of_kubeconfig,
    of_token_file,
    said,
)
from kij_train.cluster.kubeconfig import Chosen, KubeconfigError, Section, address_of, read
from kij_train.cluster.proxies import (
    Proxy,
    pool_manager,
    proxy_from_environment,
    proxy_of,
    split_url,
)
from kij_train.cluster.tls import tls_context
from kij_train.commands import Address
from kij_train.errors import UnreachableError
from kij_train.redaction import keep_secret

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST = re.compile(r"[-\w.:]{1,253}", re.ASCII)
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Entry:
    """What a kubeconfig says of one context; nothing of it is secret."""

    path: str
    context: str
    cluster: str
    user: str
    credentials: str
    """What the user has to show: "the token of user ada", "the credential plugin aws …"."""
    runs_plugin: bool
    """Whether a program of its own gives the credentials."""

    @classmethod
    def of(cls, path: str, context: str | None) -> Entry:
        """The entry of a context, of the current one if None. Raises UnreachableError."""
        chosen = read(path, context)
        _server_of(chosen)
        what = said(chosen)
        is_plugin = what.startswith("the credential plugin")
        return cls(path, chosen.context, chosen.cluster, chosen.user, what, is_plugin)


@dataclass(frozen=True)
class Trust:
    """Which certificates TLS trusts."""

    authority: bytes | None = None
    """PEM; None: the authorities of this machine."""
    insecure: bool = False
    server_name: str | None = None
    """Stands for the server's host."""
    said: str = "the certificate authority"
    """Where it stands, for errors."""


class Connection:
    """An API server, and how to speak to it."""

    def __init__(
        self,
        host: str,
        *,
        namespace: str = "default",
        credentials: Credentials | None = None,
        trust: Trust | None = None,
        proxy: Proxy | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`host` is https://address[:port][/path], `headers` go with every request."""
        self.host = host
        self.namespace = namespace
        self.address = Address()
        """How commands name it, which `open_connection` knows."""
        self._credentials = credentials or anonymous()
        self._trust = trust or Trust()
        self.proxy = proxy
        """What leads there."""
        self._headers = headers
        self._pool: tuple[bytes, Any] | None = None
        """Of the certificate that was shown last."""
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Get the credentials, and see that all is there to begin; the server is not spoken to.

        Raises UnreachableError.
        """
        self._pool_of(self._credentials.shown())

    def close(self) -> None:
        """Close idle connections; the next request opens new ones."""
        with self._lock:
            if self._pool is not None:
                self._pool[1].clear()

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        retries: Any = None,
        stream: bool = False,
    ) -> Any:
        """urllib3's response, of any status, not yet read with `stream`.

        Raises UnreachableError; NotAcceptedError for credentials that are refused when they have
        been renewed, too.
        """
        import urllib3
        from urllib3._collections import HTTPHeaderDict  # public from urllib3 2 on alone

        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        for last in (False, True):
            shown = self._credentials.shown()
            pool = self._pool_of(shown)
            of_request = HTTPHeaderDict(headers)
            for name, value in self._shown_headers(shown):
                of_request.add(name, value)
            try:
                response = pool.request(
                    method,
                    self.host + path,
                    body=body,
                    headers=of_request,
                    timeout=timeout,
                    retries=retries,
                    preload_content=not stream,
                )
                if response.status == 401:
                    response.drain_conn()
            except Exception as error:
                raise unreachable(self.host, error, self.proxy, self.address) from None
            if response.status != 401:
                return response
            if last or not self._credentials.renewed(shown):
                raise NotAcceptedError(self._credentials.said, self.address)
        raise AssertionError("the last attempt returns or raises")

    def websocket(self, path: str, *, protocols: list[str], timeout_s: float) -> Any:
        """An open websocket.WebSocket, by the same way as requests.

        Raises UnreachableError, NotAcceptedError, websocket.WebSocketBadStatusException for any
        other refusal.
        """
        import websocket

        url = "ws" + self.host.removeprefix("http") + path
        for last in (False, True):
            shown = self._credentials.shown()
            pool = self._pool_of(shown)
            opened: Any = websocket.WebSocket(enable_multithread=True)
            try:
                opened.connect(
                    url,
                    socket=self._socket(pool, timeout_s),
                    header=[f"{name}: {value}" for name, value in self._shown_headers(shown)],
                    subprotocols=protocols,
                    suppress_origin=True,
                    redirect_limit=0,
                )
                return opened
            except websocket.WebSocketBadStatusException as error:
                if error.status_code != 401:
                    raise
            except Exception as error:
                raise unreachable(self.host, error, self.proxy, self.address) from None
            if last or not self._credentials.renewed(shown):
                raise NotAcceptedError(self._credentials.said, self.address)
        raise AssertionError("the last attempt returns or raises")

    def _socket(self, pool: Any, timeout_s: float) -> Any:
        """A new socket to the server, through the proxy and in TLS as the pool has it."""
        of_host = pool.connection_from_url(self.host)
        # urllib3 has no other way to a socket of one's own.
        connection = of_host._new_conn()
        connection.timeout = timeout_s
        if self.proxy is not None and not self.proxy.is_socks:
            if of_host.scheme == "https":
                of_host._prepare_proxy(connection)
            else:
                parts = urlsplit(self.host)
                headers = getattr(pool, "proxy_headers", None)
                connection.set_tunnel(parts.hostname, parts.port or 80, headers)
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(timeout_s)
        return connection.sock

    def _shown_headers(self, shown: Shown) -> list[tuple[str, str]]:
        own = [("Authorization", shown.authorization)] if shown.authorization else []
        return [*own, *self._headers]

    def _pool_of(self, shown: Shown) -> Any:
        """The pool of a certificate; a new certificate has a new one."""
        with self._lock:
            if self._pool is None or self._pool[0] != shown.certificate:
                self._pool = (shown.certificate, self._new_pool(shown.certificate))
            return self._pool[1]

    def _new_pool(self, certificate: bytes) -> Any:
        trust, context = self._trust, None
        if self.host.startswith("https:"):
            context = self._context(certificate)
        if trust.insecure:
            import urllib3

            # It was asked for, in the kubeconfig, as kubectl takes it.
            warnings.filterwarnings(
                "ignore", category=urllib3.exceptions.InsecureRequestWarning, module="urllib3"
            )
        return pool_manager(self.proxy, context, trust.server_name)

    def _context(self, certificate: bytes) -> ssl.SSLContext:
        trust = self._trust
        what = trust.said
        try:
            tls_context(authority=trust.authority, insecure=trust.insecure)
            what = f"{self._credentials.said}, its certificate and key:"
            return tls_context(
                authority=trust.authority, insecure=trust.insecure, certificate=certificate
            )
        except (ssl.SSLError, ValueError):
            raise CredentialsError(
                f"{what} cannot be used: no PEM, an encrypted key, or not of one pair",
                hints=("log in again, or name another context: --context NAME",),
            ) from None
        except OSError as error:
            raise CredentialsError(
                f"{what} cannot be used: {error.strerror}",
                hints=("a key takes a file for a moment: name a folder for it, TMPDIR=FOLDER",),
            ) from None


def open_connection(
    kubeconfig: str | None, context: str | None, implied: frozenset[str] = frozenset()
) -> Connection:
    """Read the configuration; the server is not spoken to. Raises UnreachableError.

    `implied`: see Address.of.
    """
    path = find_kubeconfig(kubeconfig, context)
    made = _of_this_pod() if path is None else _of_context(read(path, context))
    made.address = Address.of(kubeconfig, context, implied)
    made.prepare()
    return made


def find_kubeconfig(kubeconfig: str | None, context: str | None) -> str | None:
    """The kubeconfig to read; None where the service account of the pod around us serves.

    Raises UnreachableError when there is neither.
    """
    given = kubeconfig or os.environ.get("KUBECONFIG")
    path = given or str(Path("~/.kube/config").expanduser())
    if any(Path(p).expanduser().exists() for p in path.split(os.pathsep) if p):
        return path
    if given is None and context is None and (SERVICE_ACCOUNT / "namespace").exists():
        return None
    raise UnreachableError(
        f"no kubeconfig: {path} does not exist",
        hints=(
            "name one: --kubeconfig FILE, or set KUBECONFIG",
            "train on this machine instead: kij-train launch --local",
        ),
    )


def _of_this_pod() -> Connection:
    """What every pod is given: kubernetes.io/docs/tasks/run-application/access-api-from-pod."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "")
    try:
        authority = (SERVICE_ACCOUNT / "ca.crt").read_bytes()
        namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise _no_service_account(f"{error.filename}: {error.strerror}") from None
    if not host or not port:
        raise _no_service_account("KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set")
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Connection(
        url,
        namespace=namespace,
        credentials=of_token_file(SERVICE_ACCOUNT / "token"),
        trust=Trust(authority, said=str(SERVICE_ACCOUNT / "ca.crt")),
        proxy=proxy_from_environment(url),
    )


def _no_service_account(why: str) -> UnreachableError:
    return UnreachableError(
        f"no kubeconfig, and the service account of this pod cannot be used: {why}",
        hints=("name one: --kubeconfig FILE, or set KUBECONFIG",),
    )


def _of_context(chosen: Chosen) -> Connection:
    """Raises UnreachableError."""
    settings = chosen.settings
    host, of_url = _server_of(chosen)
    authority = settings.content("certificate-authority")
    insecure = settings.flag("insecure-skip-tls-verify")
    if authority is not None and insecure:
        what = "and a certificate-authority exclude each other: leave one out"
        raise settings.wrong("insecure-skip-tls-verify", what)
    where = f"kubeconfig {settings.file}: certificate-authority of cluster {chosen.cluster}"
    trust = Trust(authority, insecure, _server_name(settings), where)
    named = settings.text("proxy-url")
    origin = f"proxy-url of cluster {chosen.cluster} in {settings.file}"
    proxy = proxy_of(named, origin) if named else proxy_from_environment(host)
    credentials = of_kubeconfig(chosen)
    headers = _impersonation(chosen.credentials)
    if of_url and not credentials.shown().authorization:
        headers = (("Authorization", of_url), *headers)
    return Connection(
        host,
        namespace=chosen.namespace,
        credentials=credentials,
        trust=trust,
        proxy=proxy,
        headers=headers,
    )


def _server_name(settings: Section) -> str | None:
    """The name that the server's certificate has, where it is not the host of its URL."""
    name = settings.text("tls-server-name")
    try:
        ascii_name = name.encode("idna").decode()
    except UnicodeError:  # a part that is empty, or longer than 63
        ascii_name = "."
    if name and (ascii_name.startswith(".") or _HOST.fullmatch(ascii_name) is None):
        raise settings.wrong("tls-server-name", "is no name of a host, and no address")
    return name or None


def _server_of(chosen: Chosen) -> tuple[str, str]:
    """URL of the server, and the Authorization that stands in it, which Go takes from there."""
    settings, cluster = chosen.settings, chosen.cluster
    whole = settings.text("server")
    server = whole.rstrip("/")
    if not whole.startswith(("http://", "https://")):
        _, _, place = server.rpartition("@")
        url = f"https://{place.rpartition('://')[2] or 'HOST'}"
        words = ("config", "set-cluster", cluster, f"--server={url}")
        raise KubeconfigError(
            f"kubeconfig {settings.file}: server {place!r} of cluster {cluster} has no scheme",
            hints=(f"set it: {address_of(chosen.path).kubectl_of_cluster(*words)}",),
        )
    parts = split_url(server)
    if re.match(r"https?://([^/@]*@)?(:\d*)?(/|$)", whole):
        raise settings.wrong("server", "has no host: it is to be such as https://HOST:6443")
    if parts is None:
        raise settings.wrong("server", "is no URL such as https://HOST:6443")
    host, port = parts.hostname or "", parts.port
    keep_secret(parts.password or "", unquote(parts.password or ""))
    place = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path}"
    if parts.username is None:
        return url, ""
    return url, basic(unquote(parts.username), unquote(parts.password or ""))


def _impersonation(user: Section | None) -> tuple[tuple[str, str], ...]:
    """Whom the user acts as; Kubernetes' header names."""
    if user is None or not user.text("as"):
        return ()
    headers = [("Impersonate-User", user.text("as"))]
    headers += [("Impersonate-Group", group) for group in user.texts("as-groups")]
    if uid := user.text("as-uid"):
        headers.append(("Impersonate-Uid", uid))
    extra = user.section("as-user-extra")
    for key in extra.value if extra is not None else ():
        name = f"Impersonate-Extra-{quote(key, safe='')}"
        headers += [(name, value) for value in extra.texts(key)] if extra is not None else []
    for name, value in headers:
        if not (value.isascii() and value.isprintable()):
            raise user.wrong("as", f"holds what {name} cannot carry")
    return tuple(headers)
