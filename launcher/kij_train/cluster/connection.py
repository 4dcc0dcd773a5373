"""From a kubeconfig, or the pod around us, to a connection pool with credentials.

The official client reads the kubeconfig. What it leaves to its users is done here: a missing file
or context becomes one clear error, and so does a credential plugin that fails, which the client
only logs before it goes on without credentials.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kij_train.errors import UnreachableError

PLUGIN = "credential plugin"
SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class CredentialsError(UnreachableError):
    """The kubeconfig names credentials that cannot be had: a plugin that is missing or fails."""


@dataclass(frozen=True)
class Entry:
    """What a kubeconfig says of one context; nothing of it is secret."""

    path: str
    context: str
    cluster: str
    user: str
    credentials: str
    """What the user has to show: "token", "client certificate", f"{PLUGIN} aws"."""

    @property
    def runs_plugin(self) -> bool:
        """Whether a program of its own gives the credentials."""
        return self.credentials.startswith(PLUGIN)

    @classmethod
    def of(cls, path: str, context: str | None) -> Entry:
        """The entry of a context, of the current one if None. Raises UnreachableError."""
        with _readable(path):
            merged, current = _merged(path), _context(path, context)
            cluster, user = (str(current["context"].get(key) or "") for key in ("cluster", "user"))
            server = str((_named(merged, "clusters", cluster) or {}).get("server") or "")
            has = _named(merged, "users", user) if user else {}
            credentials = _kind(has or {})
        name = str(current["name"])
        if has is None:
            raise UnreachableError(
                f"kubeconfig {path}: context {name} names user {user}, which it has not",
                hints=("see what it has: kubectl config view", "or name another: --context NAME"),
            )
        _check_scheme(path, cluster, server)
        return cls(path, name, cluster, user, credentials)


@dataclass(frozen=True)
class Connection:
    """An API server, and how to speak to it."""

    host: str
    """https://address[:port][/path]"""
    pool: Any
    """urllib3.PoolManager or ProxyManager with the server's CA and the client's certificate."""
    configuration: Any
    """kubernetes.client.Configuration, which refreshes tokens."""
    namespace: str
    """The context's namespace."""

    def headers(self) -> dict[str, str]:
        """Authorization headers of the next request."""
        settings = self.configuration.auth_settings()
        return {
            str(one["key"]): str(one["value"])
            for one in settings.values()
            if one["in"] == "header" and one["value"]
        }


def open_connection(kubeconfig: str | None, context: str | None) -> Connection:
    """Read the configuration; the server is not spoken to. Raises UnreachableError."""
    from kubernetes import client, config
    from kubernetes.client.rest import RESTClientObject

    configuration = client.Configuration()
    path = find_kubeconfig(kubeconfig, context)
    if path is None:
        config.load_incluster_config(client_configuration=configuration)
        namespace = SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    else:
        namespace = _load(path, context, configuration)
    pool = RESTClientObject(configuration).pool_manager
    return Connection(configuration.host.rstrip("/"), pool, configuration, namespace)


def find_kubeconfig(kubeconfig: str | None, context: str | None) -> str | None:
    """The kubeconfig to read; None where the service account of the pod around us serves.

    Raises UnreachableError when there is neither.
    """
    given = kubeconfig or os.environ.get("KUBECONFIG")
    path = given or str(Path("~/.kube/config").expanduser())
    if any(Path(p).expanduser().is_file() for p in path.split(os.pathsep) if p):
        return path
    if given is None and context is None and SERVICE_ACCOUNT_NAMESPACE.exists():
        return None
    raise UnreachableError(
        f"no kubeconfig: {path} does not exist",
        hints=(
            "name one: --kubeconfig FILE, or set KUBECONFIG",
            "train on this machine instead: kij-train launch --local",
        ),
    )


def _is_kubectls(path: str) -> bool:
    """Whether kubectl reads it without being told."""
    return path == (os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser()))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """What a kubeconfig that is none makes the client raise becomes one error."""
    from kubernetes import config

    try:
        yield
    except config.ConfigException as error:
        raise UnreachableError(f"kubeconfig {path}: {error}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UnreachableError(f"kubeconfig {path} cannot be read: {error}") from None


def _context(path: str, context: str | None) -> dict[str, Any]:
    """The entry of a context under `contexts`. Raises UnreachableError where there is none."""
    from kubernetes import config

    contexts, current = config.list_kube_config_contexts(config_file=path)
    if context is None:
        return dict(current)
    for one in contexts:
        if one["name"] == context:
            return dict(one)
    known = ", ".join(sorted(str(one["name"]) for one in contexts))
    raise UnreachableError(
        f"--context {context}: {path} has no such context", hints=(f"it has: {known}",)
    )


def _merged(path: str) -> Mapping[str, Any]:
    """All files that KUBECONFIG lists, as the client takes them together."""
    from kubernetes.config.kube_config import KubeConfigMerger

    return dict(KubeConfigMerger(path).config.value)


def _named(merged: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any] | None:
    """What stands under a name in `clusters` or `users`; None for a name that is not there."""
    for one in merged[kind]:
        if one.value["name"] == name:
            return dict(one.value.get(kind.removesuffix("s")) or {})
    return None


def _kind(user: Mapping[str, Any]) -> str:
    """What a user has to show, in the order in which the client looks."""
    if "auth-provider" in user:
        return f"auth provider {user['auth-provider'].get('name')}"
    if "token" in user or "tokenFile" in user:
        return "token"
    if "exec" in user:
        return f"{PLUGIN} {user['exec'].get('command')}"
    if "client-certificate" in user or "client-certificate-data" in user:
        return "client certificate"
    return "user name and password" if "username" in user else "none"


def _load(path: str, context: str | None, configuration: Any) -> str:
    """Fill the configuration from the kubeconfig; gives the context's namespace."""
    from kubernetes import config

    with _readable(path):
        current = _context(path, context)
        with _CaughtErrors() as caught:
            config.load_kube_config(
                config_file=path, context=context, client_configuration=configuration
            )
    if caught.messages:
        with _readable(path):
            user = str(current["context"].get("user"))
            has = _named(_merged(path), "users", user) or {}
            raise _no_credentials(path, str(current["name"]), user, has, caught.messages[0])
    _check_scheme(path, str(current["context"]["cluster"]), str(configuration.host))
    return str(current["context"].get("namespace") or "default")


def _check_scheme(path: str, cluster: str, host: str) -> None:
    if host.startswith(("https://", "http://")):
        return
    raise UnreachableError(
        f"kubeconfig {path}: server {host!r} of cluster {cluster} has no scheme",
        hints=(f"set it: kubectl config set-cluster {cluster} --server=https://{host or 'HOST'}",),
    )


def _no_credentials(
    path: str, context: str, user: str, has: Mapping[str, Any], said: str
) -> CredentialsError:
    """The credential plugin, by its name: what is wrong with it, and what to do."""
    # Not the plugin's whole output, nor its arguments: they may hold what it was asked for.
    first = (said.strip().splitlines() or [""])[0][:300].removeprefix("exec: ")
    plugin = has.get("exec") or {}
    what = f"kubeconfig {path}: the {_kind(has)} of user {user}"
    another = "or name another context: --context NAME"
    if first.startswith("[Errno 2]"):
        install = " ".join(str(plugin.get("installHint") or "").split())[:300]
        return CredentialsError(
            f"{what} was not found",
            hints=(install or "install it, and put its folder into PATH", another),
        )
    if first.startswith("[Errno 13]"):
        fix = f"make it executable: chmod +x {shlex.quote(str(plugin.get('command')))}"
        return CredentialsError(f"{what} may not be run", hints=(fix, another))
    flags = shlex.join(
        ["--context", context, *([] if _is_kubectls(path) else ["--kubeconfig", path])]
    )
    return CredentialsError(
        f"{what} failed: {first}",
        hints=(
            f"see all that it says: kubectl auth whoami {flags}",
            "then log in again, as it or your cluster's admin says",
        ),
    )


class _CaughtErrors(logging.Handler):
    """Collects what is logged to the root logger as an error, which is where the client logs."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> _CaughtErrors:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
