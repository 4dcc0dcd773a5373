"""etcd, the API server, the controller manager and the scheduler."""

from __future__ import annotations

import os
from pathlib import Path

from .api import Api
from .network import API_PORT, Family
from .paths import StatePaths
from .pki import ADMIN_GROUP, Authority, KeyPair
from .processes import Daemon, wait_until, without_proxies

ETCD = "http://127.0.0.1:2379"
ETCD_PEERS = "http://127.0.0.1:2380"
READY_TIMEOUT_S = 90.0
FAST = ["--kube-api-qps=500", "--kube-api-burst=1000"]
"""By default 20 requests a second, at which thousands of simulated pods take minutes."""


class ControlPlane:
    """The four daemons, and the administrator's access to them."""

    def __init__(self, paths: StatePaths, programs: Path, family: Family) -> None:
        self._paths = paths
        self._family = family
        self._programs = programs
        self.authority = Authority(paths.pki)
        self._daemons: dict[str, Daemon] = {}

    def start(self) -> Api:
        """Start everything and wait until pods could be created."""
        self.authority.create()
        admin = self.authority.client("kubernetes-admin", ADMIN_GROUP)
        self.authority.kubeconfig(self._paths.kubeconfig, "kubernetes-admin", ADMIN_GROUP)
        api = Api(str(self.authority.own.cert), admin)
        self._run("etcd", self._etcd())
        self._run("kube-apiserver", self._api_server(admin))
        wait_until("API server", api.ready, timeout_s=READY_TIMEOUT_S, needs=self.daemons)
        self._run("kube-controller-manager", self._controller_manager())
        self._run("kube-scheduler", self._scheduler())
        wait_until(
            "controller manager",
            lambda: _default_service_account_exists(api),
            timeout_s=READY_TIMEOUT_S,
            needs=self.daemons,
        )
        return api

    @property
    def daemons(self) -> list[Daemon]:
        return list(self._daemons.values())

    def stop_api_server(self) -> None:
        """Kill the API server as a crash would: connections break, nothing is said."""
        self._daemons["kube-apiserver"].kill()

    def start_api_server(self, api: Api) -> None:
        """Start it again, with the same certificates and the same data."""
        server = self._daemons["kube-apiserver"]
        if not server.alive:
            server.start()
        wait_until("API server", api.ready, timeout_s=READY_TIMEOUT_S, needs=[server])

    def _run(self, name: str, flags: list[str]) -> None:
        daemon = Daemon(
            name,
            [self._programs / name, *flags],
            logs=self._paths.logs,
            env=without_proxies(os.environ),
        )
        daemon.start()
        self._daemons[name] = daemon

    def _etcd(self) -> list[str]:
        return [
            f"--data-dir={self._paths.run / 'etcd'}",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={ETCD_PEERS}",
            f"--initial-advertise-peer-urls={ETCD_PEERS}",
            f"--initial-cluster=default={ETCD_PEERS}",
            "--unsafe-no-fsync",  # the data need not survive the machine
            "--log-level=warn",
        ]

    def _api_server(self, kubelet_client: KeyPair) -> list[str]:
        family = self._family
        serving = self.authority.api_server(["127.0.0.1", *family.addresses()])
        return [
            f"--etcd-servers={ETCD}",
            f"--secure-port={API_PORT}",
            f"--bind-address={family.everywhere}",
            f"--advertise-address={family.loopback}",
            "--endpoint-reconciler-type=none",  # there is no ClusterIP to keep endpoints for
            f"--tls-cert-file={serving.cert}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority.own.cert}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.authority.service_account_key}",
            f"--service-account-signing-key-file={self.authority.service_account_key}",
            f"--service-cluster-ip-range={family.service_range}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={kubelet_client.cert}",
            f"--kubelet-client-key={kubelet_client.key}",
            "--kubelet-preferred-address-types=InternalIP,Hostname",
        ]

    def _controller_manager(self) -> list[str]:
        config = self._config("system:kube-controller-manager")
        return [
            f"--kubeconfig={config}",
            *FAST,
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.authority.service_account_key}",
            f"--root-ca-file={self.authority.own.cert}",
        ]

    def _scheduler(self) -> list[str]:
        config = self._config("system:kube-scheduler")
        return [f"--kubeconfig={config}", *FAST, "--leader-elect=false"]

    def _config(self, user: str) -> Path:
        return self.authority.kubeconfig(self._paths.pki / f"{user.split(':')[-1]}.conf", user)


def _default_service_account_exists(api: Api) -> bool:
    """Without it, creating a pod is refused: the API server's "ready" comes a little too early."""
    accounts = api.call("GET", "/api/v1/namespaces/default/serviceaccounts")["items"]
    return any(account["metadata"]["name"] == "default" for account in accounts)
