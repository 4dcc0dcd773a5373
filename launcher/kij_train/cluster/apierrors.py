"""What the API server refuses, and why it cannot be reached, as errors with a way out.

A 403 is told apart: missing permission (RBAC), quota, admission (Pod Security, webhooks). The
server's own words are quoted. A webhook may refuse anything, with any status.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from kij_train.commands import Address
from kij_train.diagnosis.refusals import refusal_in
from kij_train.errors import KijError, RefusedError, UnreachableError

ANYWHERE = Address()


@dataclass(frozen=True)
class Action:
    """What was tried: verb and resource as RBAC names them, and the object."""

    verb: str
    resource: str
    """With its API group: jobs.batch."""
    name: str
    at: Address
    """Without a namespace for all of them."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {self.name}".rstrip()


class BrokenStreamError(UnreachableError):
    """A connection broke in the middle of an answer."""


class GoneError(UnreachableError):
    """The object, or its namespace, does not exist (404)."""


class NotSentError(UnreachableError):
    """There was no connection: whatever was asked has not been done."""


class NotPermittedError(RefusedError):
    """RBAC: the user lacks a verb on a resource (403)."""


class NotAcceptedError(RefusedError):
    """The server does not know who asks (401)."""

    def __init__(self, said: str, at: Address) -> None:
        """`said` are the credentials, in words."""
        whoami = at.kubectl_of_cluster("auth", "whoami")
        super().__init__(
            "the cluster does not accept these credentials: expired, or of another cluster "
            f"({said})",
            hints=(f"check: {whoami}", "then log in again, as your cluster's admin says"),
        )


class ConflictError(RefusedError):
    """Something changed meanwhile: the object, or a quota that counts it (409)."""


class TakenError(ConflictError):
    """An object of this name exists already (409)."""


class ExpiredError(UnreachableError):
    """The version to go on from is too old: list again (410)."""


class NotReadyError(RefusedError):
    """The server will answer later: a container that has not started (400 from the log)."""


def refusal(status: int, body: bytes, action: Action) -> KijError:
    """The error for an HTTP status above 299."""
    reason, message, details = _parse(body)
    where = f"namespace {action.at.namespace}"
    what = "the pods" if action.resource == "pods" else f"this {action.resource}"
    known = admission_refusal(message, what, action.at)
    if known is not None:
        return known
    if status == 403:
        return _forbidden(message, action)
    if status == 404:
        if details.get("kind") == "namespaces":
            create = action.at.kubectl_of_cluster("create", "namespace", action.at.namespace)
            return GoneError(
                f"{where} does not exist",
                hints=(
                    "name another: --namespace NAME",
                    f"or create it: {create}",
                ),
            )
        return GoneError(f"{where} has no {action.resource} {action.name}: {message}")
    if status == 410:
        return ExpiredError(f"{action}: {message}")
    if status == 409 and reason == "AlreadyExists":
        return TakenError(f"{action}: {message}")
    if status == 409:
        return ConflictError(f"the cluster cannot {action}: {message}", hints=("try again",))
    if status == 400 and ("waiting to start" in message or "not available" in message):
        return NotReadyError(message)
    if status == 422 or reason == "BadRequest":
        return RefusedError(f"the cluster does not take this {action.resource}: {message}")
    if status == 429 or status >= 500:
        return UnreachableError(f"the cluster cannot {action} now ({status}): {message}")
    return RefusedError(f"the cluster refuses to {action} ({status} {reason}): {message}")


def json_of(text: bytes | str) -> Any:
    """What others say in JSON; None for what is none, or too deep, or too long a number."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(body: bytes) -> tuple[str, str, dict[str, Any]]:
    """Reason, message and details of a metav1.Status; the text where it is none."""
    text = body.decode("utf-8", "replace").strip()
    status = json_of(text)
    if not isinstance(status, dict):
        return "", text[:500], {}
    details = status.get("details")
    return (
        str(status.get("reason", "")),
        str(status.get("message", "")),
        details if isinstance(details, dict) else {},
    )


def _forbidden(message: str, action: Action) -> RefusedError:
    where = f"namespace {action.at.namespace}" if action.at.namespace else "the cluster"
    if "being terminated" in message:
        return RefusedError(f"{where} is being deleted", hints=("name another: --namespace NAME",))
    found = re.search(r'User "([^"]+)" cannot (\w+) ', message)
    if found is None:
        # Not RBAC's words: an admission plugin's.
        return RefusedError(f"{where} refuses: {message}")
    user = found[1]
    # The server's verb: some requests, such as exec, take more than one.
    action = replace(action, verb=found[2])
    return NotPermittedError(
        f"{where} refuses: {user} may not {action.verb} {action.resource}",
        hints=_role_hints(user, action),
    )


def _role_hints(user: str, action: Action) -> tuple[str, ...]:
    """How to check, and how an admin grants it, with no file that an installation lacks."""
    verb, resource, at = action.verb, action.resource, action.at
    kind = "role" if at.namespace else "clusterrole"
    name = f"kij-train-{verb}-{re.sub('[^a-z]+', '-', resource)}"
    account = user.removeprefix("system:serviceaccount:")
    who = f"--user={user}" if account == user else f"--serviceaccount={account}"
    everywhere = () if at.namespace else ("-A",)
    role = at.kubectl("create", kind, name, f"--verb={verb}", f"--resource={resource}")
    binding = at.kubectl("create", f"{kind}binding", name, f"--{kind}={name}", who)
    return (
        f"check: {at.kubectl('auth', 'can-i', verb, resource, *everywhere)}",
        f"an admin can grant it: {role}",
        f"to the user: {binding}",
        "or all that kij-train uses, with manifests/role.yaml of its sources",
    )


def admission_refusal(message: str, what: str, at: Address) -> RefusedError | None:
    """The error for what a webhook, a quota or Pod Security says; None for anybody else."""
    known = refusal_in(message, what)
    if known is None:
        return None
    hints = [] if known.hint is None else [at.fill(known.hint)]
    if known.kind == "refused":
        hints.append("see what is sent: the same command with --dry-run=client")
    return RefusedError(
        f"namespace {at.namespace} {known.clause}: {known.said}", hints=tuple(hints)
    )


def unreachable(
    host: str, error: Exception, proxy: object = None, at: Address = ANYWHERE
) -> UnreachableError:
    """No answer: what was tried and what came back, whatever a library has raised.

    `proxy` is the one that was asked, in words. What was raised may quote a request with its
    credentials: its own words are shown of known kinds alone.
    """
    import urllib3.exceptions as http
    import websocket

    cause: BaseException = error
    while isinstance(getattr(cause, "reason", None), BaseException):
        cause = cause.reason  # type: ignore[attr-defined] # urllib3 nests causes so
    not_sent = (http.NewConnectionError, http.ConnectTimeoutError, http.SSLError, http.ProxyError)
    kind = NotSentError if isinstance(cause, not_sent) else UnreachableError
    known = (http.HTTPError, OSError, websocket.WebSocketException)
    text = _words(cause) if isinstance(cause, known) else type(cause).__name__
    by = f" through {proxy}" if proxy is not None else ""
    hints = (
        *_way_hints(text, proxy),
        f"check: {at.kubectl_of_cluster('cluster-info')}",
        "train on this machine instead: kij-train launch --local",
    )
    return kind(f"the cluster at {host} does not answer{by}: {text}", hints=hints)


def _words(cause: BaseException) -> str:
    """What urllib3 says, without the objects that it names."""
    if (original := getattr(cause, "original_error", None)) is not None:
        return f"cannot connect to the proxy: {_words(original)}"
    text = re.sub(r"^.*?(Connection\w*|HTTPS?\w+)\([^)]*\): ", "", str(cause))
    return re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>:? ?", "", text)


def _way_hints(text: str, proxy: object) -> tuple[str, ...]:
    """What to do about a proxy or a certificate."""
    if "407" in text:
        return (f"{proxy} wants a user and a password: http://USER:PASSWORD@…",)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "its certificate is of nobody that the kubeconfig trusts: certificate-authority-data, "
            "tls-server-name",
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer" in text:
        return ("no TLS is spoken there: is it http://, or another port?",)
    return ()


def unlike_kubernetes(host: str, content: bytes, at: Address) -> UnreachableError:
    """Something answers in words of its own: a proxy that wants a login, as a rule."""
    start = " ".join(content.decode("utf-8", "replace").split())[:100]
    return UnreachableError(
        f"{host} does not answer like a Kubernetes API server: {start!r}",
        hints=(f"see where it leads, and log in there: {at.kubectl_of_cluster('cluster-info')}",),
    )
