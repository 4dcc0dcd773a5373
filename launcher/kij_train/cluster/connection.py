"""From a kubeconfig, or the pod around us, to a connection pool with credentials.

The official client reads the kubeconfig. What it leaves to its users is done here: a missing file
or context becomes one clear error, and so does a credential plugin that fails, which the client
only logs before it goes on without credentials.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kij_train.errors import UnreachableError

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


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
    given = kubeconfig or os.environ.get("KUBECONFIG")
    path = given or str(Path("~/.kube/config").expanduser())
    exists = any(Path(p).expanduser().is_file() for p in path.split(os.pathsep) if p)
    if not exists and given is None and context is None and SERVICE_ACCOUNT_NAMESPACE.exists():
        config.load_incluster_config(client_configuration=configuration)
        namespace = SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    elif not exists:
        raise UnreachableError(
            f"no kubeconfig: {path} does not exist",
            hints=(
                "name one: --kubeconfig FILE, or set KUBECONFIG",
                "train on this machine instead: kij-train launch --local",
            ),
        )
    else:
        namespace = _load(path, context, configuration)
    pool = RESTClientObject(configuration).pool_manager
    return Connection(configuration.host.rstrip("/"), pool, configuration, namespace)


def _load(path: str, context: str | None, configuration: Any) -> str:
    """Fill the configuration from the kubeconfig; gives the context's namespace."""
    from kubernetes import config

    try:
        contexts, current = config.list_kube_config_contexts(config_file=path)
        if context is not None:
            current = next((one for one in contexts if one["name"] == context), None)
            if current is None:
                known = ", ".join(sorted(str(one["name"]) for one in contexts))
                raise UnreachableError(
                    f"--context {context}: {path} has no such context", hints=(f"it has: {known}",)
                )
        with _CaughtErrors() as caught:
            config.load_kube_config(
                config_file=path, context=context, client_configuration=configuration
            )
    except config.ConfigException as error:
        raise UnreachableError(f"kubeconfig {path}: {error}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UnreachableError(f"kubeconfig {path} cannot be read: {error}") from None
    if caught.messages:
        # Not the plugin's whole output: it may hold what it was asked for.
        raise UnreachableError(
            f"kubeconfig {path}: the credential plugin of context {current['name']} failed: "
            + caught.messages[0].strip().splitlines()[0][:300],
            hints=("see what it says: kubectl auth whoami",),
        )
    if not str(configuration.host).startswith(("https://", "http://")):
        cluster, host = current["context"]["cluster"], configuration.host
        raise UnreachableError(
            f"kubeconfig {path}: server {host!r} of cluster {cluster} has no scheme",
            hints=(
                f"set it: kubectl config set-cluster {cluster} --server=https://{host or 'HOST'}",
            ),
        )
    return str(current["context"].get("namespace") or "default")


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
