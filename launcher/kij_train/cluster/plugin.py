"""Credential plugins: kubernetes.io/docs/reference/access-authn-authz/authentication.

A plugin's words may hold what it was asked for. Of its output nothing is shown, of its complaints
the first line, where they have not gone to the terminal already.
"""

from __future__ import annotations

import base64
import json
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from kij_train import names, tokens
from kij_train.cluster.apierrors import json_of
from kij_train.cluster.credentials import Credentials, CredentialsError, Shown, bearer
from kij_train.cluster.kubeconfig import Chosen, KubeconfigError, Section, address_of
from kij_train.redaction import keep_secret, redacted

PAUSE_S = 30.0
"""Between two runs that were not asked for by an expiry: after a failure, after a 401."""
LOOK_S = 0.05
"""Between two looks whether a plugin has ended that keeps its output open."""
DRAIN_S = 0.5
"""How long others that write on into its output are listened to, when it has ended."""
EXTENSION = "client.authentication.k8s.io/exec"
MODES = ("", "Never", "IfAvailable", "Always")


class Plugin:
    """Runs a program for a token or a certificate, and again when that has expired."""

    def __init__(self, chosen: Chosen, section: Section, stated: Credentials) -> None:
        """`stated` are what the kubeconfig itself has: a client certificate, perhaps."""
        self.said = stated.said
        self._chosen = chosen
        self._section = section
        self._stated = stated
        self._last: Shown | None = None
        self._expires: float | None = None
        """In seconds since 1970; None: never."""
        self._refused_at = -PAUSE_S
        self._failed: tuple[float, CredentialsError] | None = None
        self._lock = threading.Lock()

    def shown(self) -> Shown:
        with self._lock:
            if self._last is None or (self._expires is not None and time.time() > self._expires):
                return self._ran()
            return self._last

    def renewed(self, refused: Shown) -> bool:
        with self._lock:
            if self._last != refused:
                return True  # while that request was on its way
            now = time.monotonic()
            if now - self._refused_at < PAUSE_S:
                return False
            self._refused_at = now
            self._ran()
            return True

    def _ran(self) -> Shown:
        """Run it now, unless it has failed a moment ago."""
        now = time.monotonic()
        if self._failed is not None and now - self._failed[0] < PAUSE_S:
            raise self._failed[1]
        try:
            status = _status(self._section, self._run(), self._failure)
            self._last = self._taken(status)
        except CredentialsError as error:
            self._failed = (time.monotonic(), error)
            raise
        self._failed = None
        return self._last

    def _run(self) -> bytes:
        """What it writes to stdout."""
        args, given = self._section.texts("args"), self._variables()
        command = [self._program(), *args]
        interactive = self._interactive()
        environ = {**os.environ, **given, "KUBERNETES_EXEC_INFO": self._info(interactive)}
        try:
            code, out, err = _heard(command, environ, interactive=interactive)
        except OSError as error:
            raise self._failure(f"cannot be run: {error.strerror}") from None
        if code:
            # Not secret elsewhere: variables hold a region or a profile, as a rule.
            said = redacted(err.decode("utf-8", "replace"), *given.values(), *_secrets_of(args))
            said = tokens.hidden(said)
            # Cut last: half a secret would not be found.
            first = (said.strip().splitlines() or [""])[0][:300]
            raise self._failure(f"{_how(code)}: {first}" if first else _how(code))
        return out

    def _variables(self) -> dict[str, str]:
        """What the kubeconfig adds to its environment."""
        given = {}
        for one in self._section.sections("env"):
            name, value = one.text("name"), one.text("value")
            if names.looks_secret(name, value):
                keep_secret(value)
            if not name:
                raise one.wrong("name", "is missing")
            if "=" in name:  # not quoted: what stands behind it may be secret
                raise one.wrong("name", "holds '=': put what is behind it into value")
            given[name] = value
        return given

    def _program(self) -> str:
        command = self._section.text("command")
        if not command:
            raise self._section.wrong("command", "is missing")
        if os.sep in command:
            path = self._section.file.parent / command
            if path.is_file() and not os.access(path, os.X_OK):
                fix = f"make it executable: chmod +x {shlex.quote(str(path))}"
                raise self._failure("may not be run", fix)
            found = str(path) if path.is_file() else None
        else:
            found = shutil.which(command)
        if found is None:
            install = " ".join(self._section.text("installHint").split())[:300]
            raise self._failure(
                "was not found", install or "install it, and put its folder into PATH"
            )
        return found

    def _interactive(self) -> bool:
        """Whether it gets our terminal to ask its user."""
        mode = self._section.text("interactiveMode")
        if mode not in MODES:
            raise self._section.wrong("interactiveMode", f"must be one of {', '.join(MODES[1:])}")
        terminal = sys.stdin is not None and sys.stdin.isatty()
        if mode == "Always" and not terminal:
            raise self._failure("asks its user something, and there is no terminal")
        return terminal and mode != "Never"

    def _info(self, interactive: bool) -> str:
        """KUBERNETES_EXEC_INFO."""
        version = self._section.text("apiVersion")
        if not version:
            raise self._section.wrong("apiVersion", "is missing")
        spec: dict[str, Any] = {"interactive": interactive}
        if self._section.flag("provideClusterInfo"):
            spec["cluster"] = _cluster_info(self._chosen.settings)
        request = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
        try:
            return json.dumps(request, default=str)  # YAML has dates
        except (TypeError, ValueError, RecursionError):
            what = f"of {EXTENSION} holds what JSON cannot"
            raise self._chosen.settings.wrong("extensions", what) from None

    def _taken(self, status: dict[str, str]) -> Shown:
        """From now on, this is shown. Raises CredentialsError for what cannot be."""
        keep_secret(*(status.get(key, "") for key in ("token", "clientKeyData")))
        certificate, key = (status.get(f"client{what}Data", "") for what in ("Certificate", "Key"))
        token = status.get("token", "").strip()
        if bool(certificate) != bool(key):
            raise self._failure("gave a certificate without a key, or a key alone")
        if not token and not certificate:
            raise self._failure("gave neither a token nor a certificate")
        try:
            authorization = bearer(token, self._section, "command") if token else ""
        except KubeconfigError:
            what = "gave a token with a line break, or another character that no token has"
            raise self._failure(what) from None
        self._expires = self._expiry(status.get("expirationTimestamp", ""))
        # JSON can hold what UTF-8 cannot; TLS refuses what then stands there.
        pem = f"{certificate.rstrip()}\n{key}".encode("utf-8", "replace") if certificate else b""
        return Shown(authorization, pem or self._stated.shown().certificate)

    def _expiry(self, text: str) -> float | None:
        if not text:
            return None
        try:
            # Without fractions, which Python 3.10 takes only of some lengths.
            at = datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))
        except ValueError:
            raise self._failure("gave an expirationTimestamp that is no time") from None
        return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()

    def _failure(self, what: str, hint: str = "") -> CredentialsError:
        chosen = self._chosen
        whoami = address_of(chosen.path, chosen.context).kubectl_of_cluster("auth", "whoami")
        see = f"see all that it says: {whoami}"
        steps = (hint,) if hint else (see, "then log in again, as it or your cluster's admin says")
        return CredentialsError(
            f"kubeconfig {chosen.path}: {self.said} {what}",
            hints=(*steps, "or name another context: --context NAME"),
        )


def _heard(
    command: list[str], environ: dict[str, str], *, interactive: bool
) -> tuple[int, bytes, bytes]:
    """Run it: exit code, stdout and stderr, which is empty where the terminal has it.

    Processes that the plugin leaves behind may keep the pipes open: they are not waited for.
    """
    out, err = bytearray(), bytearray()
    # stderr: it may ask its user to open a page, and wait.
    with (
        selectors.DefaultSelector() as pipes,
        subprocess.Popen(
            command,
            env=environ,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if sys.stderr.isatty() else subprocess.PIPE,
        ) as process,
    ):
        for pipe, said in ((process.stdout, out), (process.stderr, err)):
            if pipe is not None:
                pipes.register(pipe, selectors.EVENT_READ, said)
        ended_at: float | None = None
        try:
            while pipes.get_map():
                if ended_at is None and process.poll() is not None:
                    ended_at = time.monotonic()
                ready = pipes.select(LOOK_S)
                for key, _ in ready:
                    chunk = os.read(key.fd, 2**16)
                    key.data.extend(chunk)
                    if not chunk:
                        pipes.unregister(key.fileobj)
                if ended_at is not None and (not ready or time.monotonic() - ended_at > DRAIN_S):
                    break
            return process.wait(), bytes(out), bytes(err)
        except BaseException:
            process.kill()
            raise


def _how(code: int) -> str:
    """How it ended, from its exit code as Python has it: negative for a signal."""
    if code > 0:
        return f"failed with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # one of those for real time
        return f"was ended by signal {-code}"


def _secrets_of(args: list[str]) -> list[str]:
    """Values of flags such as --client-secret."""
    found = []
    for one, following in pairwise([*args, ""]):
        flag, has_value, value = one.partition("=")
        value = value if has_value else following
        if flag.startswith("-") and names.looks_secret(flag.strip("-").replace("-", "_"), value):
            found.append(value)
    return found


def _cluster_info(settings: Section) -> dict[str, Any]:
    """What a plugin is told of the cluster."""
    info: dict[str, Any] = {
        key: settings.text(key)
        for key in ("server", "tls-server-name", "proxy-url")
        if settings.text(key)
    }
    if settings.flag("insecure-skip-tls-verify"):
        info["insecure-skip-tls-verify"] = True
    if (authority := settings.content("certificate-authority")) is not None:
        info["certificate-authority-data"] = base64.b64encode(authority).decode()
    for one in settings.sections("extensions"):
        if one.text("name") == EXTENSION:
            info["config"] = one.value.get("extension")
    return info


def _status(
    section: Section, output: bytes, failure: Callable[[str], CredentialsError]
) -> dict[str, str]:
    """The status of an ExecCredential."""
    said = json_of(output)
    if not isinstance(said, dict) or said.get("kind") != "ExecCredential":
        raise failure("gave no ExecCredential")
    version = section.text("apiVersion")
    if said.get("apiVersion") != version:
        raise failure(f"gave another apiVersion than the {version} of the kubeconfig")
    status = said.get("status")
    if not isinstance(status, dict):
        raise failure("gave an ExecCredential without a status")
    return {key: value for key, value in status.items() if isinstance(value, str)}
