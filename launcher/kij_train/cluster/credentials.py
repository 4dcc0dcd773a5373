"""What a request shows of its user: read from files, asked of a plugin, renewed in time.

As kubectl does it (client-go: rest, transport, plugin/pkg/client/auth): files are read again every
minute, a plugin runs again when what it gave has expired, and both when the server answers 401.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kij_train.cluster.kubeconfig import Chosen, KubeconfigError, Section
from kij_train.errors import UnreachableError
from kij_train.redaction import keep_secret

REREAD_S = 50.0
"""Below the minute in which a renewed file must be noticed."""


class CredentialsError(UnreachableError):
    """The kubeconfig names credentials that cannot be had: a plugin that is missing or fails."""


@dataclass(frozen=True)
class Shown:
    """What one request shows."""

    authorization: str = field(default="", repr=False)
    """The header's value."""
    certificate: bytes = field(default=b"", repr=False)
    """PEM, with its key; empty: none."""


class Credentials(Protocol):
    """Where they come from."""

    said: str
    """In words, for errors: "the token of user ada"."""

    def shown(self) -> Shown:
        """For the next request. Raises CredentialsError, KubeconfigError."""

    def renewed(self, refused: Shown) -> bool:
        """Whether there are others now than those which the server has refused."""


class Stated:
    """What stands in files: the kubeconfig itself, and those that it names."""

    def __init__(self, said: str, read: Callable[[], Shown]) -> None:
        self.said = said
        self._read = read
        self._last: Shown | None = None
        self._read_at = 0.0
        self._lock = threading.Lock()

    def shown(self) -> Shown:
        with self._lock:
            return self._current(REREAD_S)

    def renewed(self, refused: Shown) -> bool:
        with self._lock:
            return self._current(0.0) != refused

    def _current(self, at_most_s: float) -> Shown:
        now = time.monotonic()
        if self._last is None:
            self._last, self._read_at = self._read(), now
        elif now - self._read_at >= at_most_s:
            self._read_at = now
            # One in the middle of being renewed: what was there goes on, as in client-go.
            with suppress(KubeconfigError):
                self._last = self._read()
        return self._last


def anonymous() -> Credentials:
    """No credentials."""
    return Stated("none: the requests are anonymous", Shown)


def of_token_file(path: Path) -> Credentials:
    """The token in a file, such as that of a pod's service account."""
    section = Section({"tokenFile": str(path)}, path, "the service account")
    return Stated(f"the token in {path}", lambda: Shown(_authorization(section)))


def of_kubeconfig(chosen: Chosen) -> Credentials:
    """The credentials of a context's user. Raises KubeconfigError, CredentialsError."""
    section = chosen.credentials
    if section is None:
        return anonymous()
    stated = Stated(said(chosen), lambda: _stated(section))
    if stated.shown().authorization:
        return stated
    plugin, provider = section.section("exec"), section.section("auth-provider")
    if plugin is not None and provider is not None:
        raise section.wrong("exec", "and auth-provider exclude each other")
    if plugin is not None:
        from kij_train.cluster.plugin import Plugin

        return Plugin(chosen, plugin, stated)
    if provider is not None:
        from kij_train.cluster.oidc import provider_of

        return provider_of(chosen, provider, stated)
    return stated


def said(chosen: Chosen) -> str:
    """What a context's user has to show, in the order in which it counts."""
    section, of_user = chosen.credentials, f"of user {chosen.user}"
    if section is None:
        return "none: the requests are anonymous"
    if section.text("tokenFile"):
        return f"the token in {section.path('tokenFile')}"
    if section.text("token"):
        return f"the token {of_user}"
    if section.text("username"):
        return f"the user name and password {of_user}"
    if (plugin := section.section("exec")) is not None:
        return f"the credential plugin {plugin.text('command')} {of_user}"
    if (provider := section.section("auth-provider")) is not None:
        return f"the auth provider {provider.text('name')} {of_user}"
    if section.text("client-certificate") or section.text("client-certificate-data"):
        return f"the client certificate {of_user}"
    return f"none: user {chosen.user} has no credentials, the requests are anonymous"


def _stated(section: Section) -> Shown:
    """What a user of a kubeconfig shows without anybody's help."""
    return Shown(_authorization(section), _certificate(section))


def _authorization(section: Section) -> str:
    token = section.text("token")
    keep_secret(token)
    if (path := section.path("tokenFile")) is not None:
        try:
            found = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            if not token:
                what = f"names {path}, which cannot be read: {error.strerror}"
                raise section.wrong("tokenFile", what) from None
        else:
            keep_secret(found)
            if not found.strip():
                raise section.wrong("tokenFile", f"names {path}, which is empty")
            return bearer(found, section, f"tokenFile names {path}, which")
    if token:
        return bearer(token, section, "token")
    if user := section.text("username"):
        password = section.text("password")
        return basic(user, password)
    return ""


def bearer(token: str, section: Section, what: str) -> str:
    """The header of a token. Raises KubeconfigError for one that no header can carry."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise section.wrong(what, "holds a line break, or another character that no token has")
    return f"Bearer {token}"


def basic(user: str, password: str) -> str:
    """The header of a user name and a password."""
    from base64 import b64encode

    encoded = b64encode(f"{user}:{password}".encode()).decode()
    keep_secret(password, encoded)
    return f"Basic {encoded}"


def _certificate(section: Section) -> bytes:
    certificate, key = section.content("client-certificate"), section.content("client-key")
    if certificate is None and key is None:
        return b""
    if certificate is None or key is None:
        has, lacks = ("client-key", "certificate") if key else ("client-certificate", "key")
        raise section.wrong(has, f"has no client-{lacks} beside it")
    keep_secret(key.decode("ascii", "replace"))
    return certificate.rstrip() + b"\n" + key
