"""Arranging and reading a real cluster from tests: namespaces, users, and what a namespace holds.

Through the official client's models, on purpose: kij-train's own requests are what is tested.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

ROOT = Path(__file__).parent.parent
PATIENCE_S = 90
KINDS = ("jobs", "pods", "services", "configmaps", "networkpolicies")


class Namespace:
    """A namespace of one test."""

    def __init__(self, kubeconfig: str, name: str) -> None:
        self.kubeconfig = kubeconfig
        self.name = name
        configuration = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=configuration)
        self.configuration = configuration
        self.api = client.ApiClient(configuration)
        self.core = client.CoreV1Api(self.api)
        self.batch = client.BatchV1Api(self.api)
        self.rbac = client.RbacAuthorizationV1Api(self.api)
        self.networking = client.NetworkingV1Api(self.api)

    def left(self) -> list[str]:
        """kind/name of everything that a launch may make and that is there."""
        found = []
        for kind in KINDS:
            api = {"jobs": self.batch, "networkpolicies": self.networking}.get(kind, self.core)
            special = {"configmaps": "config_map", "networkpolicies": "network_policy"}
            singular = special.get(kind, kind[:-1])
            items = getattr(api, f"list_namespaced_{singular}")(self.name).items
            found += [f"{kind}/{item.metadata.name}" for item in items]
        return [name for name in found if name != "configmaps/kube-root-ca.crt"]

    def empties(self, within_s: float = 30) -> bool:
        """Whether nothing is left, once the garbage collector has had its time."""
        return eventually(lambda: not self.left(), within_s)

    def delete_job(self, name: str) -> None:
        """What `kubectl delete job NAME --cascade=foreground` does."""
        self.batch.delete_namespaced_job(name, self.name, propagation_policy="Foreground")

    def user(self, name: str, rules: list[dict[str, Any]], folder: Path) -> str:
        """A kubeconfig of a service account that may do what `rules` say, in this namespace."""
        meta = {"name": name}
        self.core.create_namespaced_service_account(self.name, {"metadata": meta})
        self.rbac.create_namespaced_role(self.name, {"metadata": meta, "rules": rules})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.name}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        self.rbac.create_namespaced_role_binding(
            self.name, {"metadata": meta, "roleRef": role, "subjects": [subject]}
        )
        token = self.core.create_namespaced_service_account_token(
            name, self.name, {"spec": {"expirationSeconds": 3600}}
        )
        return self.with_user({"token": token.status.token}, folder / f"{name}.kubeconfig")

    def with_user(self, user: dict[str, Any], path: Path, server: str | None = None) -> str:
        """The kubeconfig with another user, and another server if one is named."""
        document = yaml.safe_load(Path(self.kubeconfig).read_text(encoding="utf-8"))
        document["users"] = [{"name": one["name"], "user": user} for one in document["users"]]
        if server is not None:
            for cluster in document["clusters"]:
                cluster["cluster"]["server"] = server
        path.write_text(yaml.safe_dump(document))
        return str(path)

    def kij_train(
        self, *argv: str, kubeconfig: str | None = None, cwd: Path, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line in this namespace."""
        words = 2 if argv[0] == "bench" else 1
        line = [sys.executable, "-m", "kij_train", *argv[:words], "--namespace", self.name]
        line += ["--kubeconfig", kubeconfig or self.kubeconfig, *argv[words:]]
        return subprocess.run(
            line, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def report(self) -> str:
        """Events, pod states and last log lines, for a test that failed."""
        lines = [f"--- namespace {self.name}"]
        for event in self.core.list_namespaced_event(self.name).items:
            about = event.involved_object
            lines.append(f"event {about.kind}/{about.name} {event.reason}: {event.message}")
        for pod in self.core.list_namespaced_pod(self.name).items:
            lines.append(f"pod {pod.metadata.name} {pod.status.phase} on {pod.spec.node_name}")
            for status in pod.status.container_statuses or []:
                lines.append(f"  {status.state}")
            try:
                log = self.core.read_namespaced_pod_log(pod.metadata.name, self.name, tail_lines=20)
                lines += [f"  | {line}" for line in str(log).splitlines()]
            except client.ApiException as error:
                lines.append(f"  no log: {error.reason}")
        return "\n".join(lines)


@contextmanager
def namespace(kubeconfig: str, labels: dict[str, str] | None = None) -> Iterator[Namespace]:
    """A new namespace, deleted at the end."""
    name = f"kij-test-{uuid.uuid4().hex[:8]}"
    made = Namespace(kubeconfig, name)
    made.core.create_namespace({"metadata": {"name": name, "labels": labels or {}}})
    # Pods are refused until the namespace has its default service account.
    assert eventually(
        lambda: bool(made.core.list_namespaced_service_account(name).items), within_s=30
    )
    try:
        yield made
    finally:
        made.core.delete_namespace(name)
        made.api.close()


def eventually(check: Callable[[], bool], within_s: float = PATIENCE_S) -> bool:
    """Whether `check` comes true in time; slow machines have PATIENCE_S at least."""
    deadline = time.monotonic() + max(within_s, PATIENCE_S)
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
