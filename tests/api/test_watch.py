"""What breaks a watch, against a real API server: old versions, half-open connections, doctor."""

from __future__ import annotations

import contextlib
import gc
import json
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kij_train import doctor
from kij_train.cluster import Cluster, connection, watch
from kij_train.cluster.watch import Back, Changed, Lost, Synced

from tests.kube import ROOT, Namespace


class Expires(Cluster):
    """The first watch is answered as for a version that is too old."""

    expired = 0

    def watch(self, kind: str, **query: str) -> Iterator[dict[str, Any]]:
        if not self.expired:
            self.expired += 1
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            return iter([{"type": "ERROR", "object": status}])
        return super().watch(kind, **query)


def config_map(ns: Namespace, name: str) -> None:
    ns.core.create_namespaced_config_map(ns.name, {"metadata": {"name": name}})


def test_a_version_that_is_too_old_is_answered_by_a_new_list(ns: Namespace) -> None:
    cluster = Expires.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)
    found = watch.changes(cluster, "ConfigMap", stop=threading.Event())
    first = next(found)
    assert isinstance(first, Synced)
    config_map(ns, "new")
    second = next(found)
    assert isinstance(second, Synced)
    assert "new" in {one["metadata"]["name"] for one in second.objects}
    config_map(ns, "newer")
    third = next(found)
    assert isinstance(third, Changed)
    assert third.object["metadata"]["name"] == "newer"
    found.close()


class Proxy:
    """Forwards TCP to the API server, until it falls silent without closing anything."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.silent = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._until_closed, args=(client,), daemon=True).start()

    def _until_closed(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._forward(client)

    def _forward(self, client: socket.socket) -> None:
        born_silent = self.silent.is_set()
        server = socket.create_connection(self._target)
        other = {client: server, server: client}
        self._open += other
        while True:
            for one in select.select([client, server], [], [], 0.1)[0]:
                if self.silent.is_set() and not born_silent:
                    continue  # half-open: neither data nor an end
                data = one.recv(2**16)
                if not data:
                    return
                other[one].sendall(data)


# The half-open connection is what this is about: nobody closes it before it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_that_falls_silent_is_noticed(
    ns: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READ_TIMEOUT_S", 4.0)
    monkeypatch.setattr(watch, "WATCH_S", 3)
    server = yaml.safe_load(Path(ns.kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
    host, _, port = server.removeprefix("https://").partition(":")
    proxy = Proxy(host, int(port or 443))
    user = yaml.safe_load(Path(ns.kubeconfig).read_text())["users"][0]["user"]
    config = ns.with_user(user, tmp_path / "config", server=f"https://127.0.0.1:{proxy.port}")
    cluster = Cluster.connect(kubeconfig=config, context=None, namespace=ns.name)
    found = watch.changes(cluster, "ConfigMap", stop=threading.Event())
    assert isinstance(next(found), Synced)
    proxy.silent.set()  # what was open stays open, and says nothing any more
    config_map(ns, "unheard")
    seen = next(event for event in found if not isinstance(event, (Lost, Back)))
    assert isinstance(seen, Changed)
    assert seen.object["metadata"]["name"] == "unheard"
    found.close()
    cluster.close()
    proxy.close()
    del found, cluster
    gc.collect()


def test_doctor_asks_for_what_the_role_grants() -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    granted = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {(group, resource, verb) for group, resource, verbs in doctor.RIGHTS for verb in verbs}
    # What only some flags use, or no job fails without, is not asked for with the rest.
    optional = {"podgroups", "resourceclaimtemplates", "networkpolicies"}
    optional |= {"workloads", "localqueues", "provisioningrequests"}
    wanted = {right for right in granted if right[1] not in optional}
    no_launch = {("", "pods", "delete"), ("", "services", "get"), ("", "services", "patch")}
    from_elsewhere = {("", "configmaps", "get")}  # arrays that another machine has launched
    assert asked == wanted - no_launch - from_elsewhere


def test_doctor_names_the_missing_right_and_the_way_out(ns: Namespace, tmp_path: Path) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    without = [rule for rule in rules if rule["resources"] != ["services"]]
    config = ns.user("worker", without, tmp_path)
    result = ns.kij_train("doctor", "-o", "json", cwd=tmp_path, kubeconfig=config)
    assert result.returncode == 3
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert checks["permissions"]["result"] == "failed"
    assert checks["permissions"]["detail"] == "missing: create services"
    assert "kubectl apply" in checks["permissions"]["hint"]
    assert checks["gpus"]["result"] == "skipped"
    assert checks["dry run"]["result"] == "failed"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("list", "resourcequotas"),
        ("create", "pods/exec"),
        ("get", "pods/exec"),
        ("create", "pods/portforward"),
        ("get", "pods/portforward"),
    ],
)
def test_doctor_names_rights_that_no_launch_takes(
    ns: Namespace, tmp_path: Path, verb: str, resource: str
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    for rule in rules:
        if rule["resources"] == [resource]:
            rule["verbs"].remove(verb)
    config = ns.user("worker", [rule for rule in rules if rule["verbs"]], tmp_path)
    result = ns.kij_train("doctor", "-o", "json", cwd=tmp_path, kubeconfig=config)
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert checks["permissions"]["detail"] == f"missing: {verb} {resource}"


@pytest.mark.labels({"pod-security.kubernetes.io/enforce": "restricted"})
def test_doctor_knows_the_pod_security_level(ns: Namespace, tmp_path: Path) -> None:
    result = ns.kij_train("doctor", "-o", "json", cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert "restricted" in checks["namespace"]["detail"]
    assert "--run-as-user 1000" in checks["namespace"]["hint"]
    assert (checks["dry run"]["result"], result.returncode) == ("failed", 3)


def test_doctor_without_a_cluster_says_what_it_can(tmp_path: Path, ns: Namespace) -> None:
    user = {"token": "none"}
    config = ns.with_user(user, tmp_path / "config", server="https://127.0.0.1:1")
    result = ns.kij_train("doctor", cwd=tmp_path, kubeconfig=config)
    assert result.returncode == 4
    checks = {line.split()[0]: line for line in result.stdout.splitlines()}
    for name in ("python", "kubeconfig", "credentials"):
        assert checks[name].split()[1] == "ok", result.stdout
    assert checks["server"].split()[1] == "NO"
    assert "does not answer" in checks["server"]
    assert "see above" in result.stderr
