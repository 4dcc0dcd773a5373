"""One node: containerd, kubelet, its bridge and its cgroup; and how it dies and comes back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cgroups, store
from .api import Api
from .containerd import Containerd, Cri
from .errors import ClusterError
from .network import CLUSTER_DOMAIN, Family, NodeNetwork, set_link
from .paths import StatePaths
from .pki import Authority
from .processes import Daemon, run, wait_until, without_proxies
from .requirements import cni_folder

READY_TIMEOUT_S = 90.0
KILL_TIMEOUT_S = 15.0
KUBELET_PORT = 10250
HEALTH_PORT = 10350
NODE_GROUP = "system:nodes"


@dataclass(frozen=True)
class NodeSettings:
    """What a node is made from."""

    paths: StatePaths
    programs: Path
    prepared_store: Path
    cgroup: str
    """The cluster's; the node makes its own in it."""
    family: Family


class Node:
    """A node of the cluster."""

    def __init__(self, number: int, settings: NodeSettings, authority: Authority) -> None:
        self.name = f"node-{number}"
        self.network = NodeNetwork(number, settings.family)
        self._settings = settings
        self._authority = authority
        self._cgroup = f"{settings.cgroup}/{self.name}"
        self._disk = settings.paths.node(self.name)
        self._number = number
        self._containerd: Containerd | None = None
        self._kubelet: Daemon | None = None

    def create(self) -> None:
        """Make what outlives a reboot: disk, identity, configuration, bridge."""
        cni_programs = cni_folder()
        assert cni_programs is not None, "requirements.py has seen to it"
        cgroups.create(self._cgroup)
        self._disk.mkdir(parents=True)
        store.copy_for_node(self._settings.prepared_store, self._disk / "images")
        self._write_cni_config()
        kubeconfig = self._disk / "kubeconfig"
        self._authority.kubeconfig(kubeconfig, f"system:node:{self.name}", NODE_GROUP)
        config = self._disk / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config(), indent=2))
        self.network.create()
        entering = cgroups.entering(self._cgroup)
        logs = self._settings.paths.logs
        self._containerd = Containerd(
            f"{self.name}-containerd",
            root=self._disk / "images",
            state=self._disk / "containerd",
            logs=logs,
            cri=Cri(store.PAUSE.name, cni_programs, self._disk / "cni"),
            prefix=entering,
        )
        self._kubelet = Daemon(
            f"{self.name}-kubelet",
            [
                *entering,
                self._settings.programs / "kubelet",
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--root-dir={self._disk / 'kubelet'}",
                f"--node-ip={self.network.address}",
                f"--cert-dir={self._disk / 'kubelet-pki'}",
            ],
            logs=logs,
            env={**without_proxies(os.environ), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        )

    @property
    def daemons(self) -> list[Daemon]:
        assert self._containerd is not None and self._kubelet is not None
        return [self._containerd.daemon, self._kubelet]

    def start(self) -> None:
        """Switch the node on; `wait_ready` waits for it."""
        assert self._containerd is not None and self._kubelet is not None
        if self._kubelet.alive:
            return
        self.network.set_up(True)
        self._containerd.start()
        self._kubelet.start()

    def wait_ready(self, api: Api) -> None:
        """Wait until the scheduler would put a pod here."""
        path = f"/api/v1/nodes/{self.name}"

        def ready() -> bool:
            with suppress(ClusterError):  # before it has registered
                node = api.call("GET", path)
                tainted = node["spec"].get("taints")
                return not tainted and any(
                    condition["type"] == "Ready" and condition["status"] == "True"
                    for condition in node["status"].get("conditions", [])
                )
            return False

        wait_until(self.name, ready, timeout_s=READY_TIMEOUT_S, needs=self.daemons)

    def kill(self) -> None:
        """The power goes: every process dies at once, the network is gone, the disk stays."""
        self.network.set_up(False)
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while remaining := cgroups.processes(self._cgroup):
            for pid in remaining:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name}: processes {remaining} do not die")
            time.sleep(0.02)
        for daemon in self.daemons:
            daemon.kill()
        self._forget_mounts()

    def pod_link(self, namespace: str, pod: str) -> str | None:
        """The port of this node's bridge that a pod is plugged into; None if it is not here.

        The CNI plugins keep what they did in files, so this needs neither the API server nor
        a pod that answers.
        """
        for result in self._cni_results():
            arguments = dict(result.get("cniArgs") or [])
            owner = arguments.get("K8S_POD_NAMESPACE"), arguments.get("K8S_POD_NAME")
            if owner == (namespace, pod):
                names = [link["name"] for link in result["result"]["interfaces"]]
                return next((name for name in names if name.startswith("veth")), None)
        return None

    def _cni_results(self) -> Iterator[dict[str, Any]]:
        for file in Path("/var/lib/cni/results").glob(f"{self.name}-*"):
            with suppress(OSError, ValueError):  # its pod may end meanwhile
                yield json.loads(file.read_text())

    def _forget_mounts(self) -> None:
        """After the power has gone nothing is mounted: volumes, containers, pods' networks."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split()[4] for line in mounts]
        for point in sorted(points, key=len, reverse=True):
            if point.startswith(f"{self._disk}/"):
                run(["umount", "--lazy", point])

    def _write_cni_config(self) -> None:
        bridge = {
            "type": "bridge",
            "bridge": self.network.bridge,
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._disk / "ipam"),
                "ranges": [[{"subnet": self.network.pod_subnet}]],
                "routes": [{"dst": self.network.family.default_route}],
            },
        }
        config = {"cniVersion": "1.0.0", "name": self.name, "plugins": [bridge]}
        folder = self._disk / "cni"
        folder.mkdir()
        (folder / "10-bridge.conflist").write_text(json.dumps(config, indent=2))

    def _kubelet_config(self) -> dict[str, object]:
        socket = f"unix://{self._disk / 'containerd' / 'containerd.sock'}"
        return {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "authentication": {"x509": {"clientCAFile": str(self._authority.own.cert)}},
            "address": self.network.address,
            "port": KUBELET_PORT,
            "healthzPort": HEALTH_PORT + self._number,
            "containerRuntimeEndpoint": socket,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [self.network.address],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": "",  # the machine's own name servers cannot be reached
            "volumePluginDir": str(self._disk / "volume-plugins"),
            "podLogsDir": str(self._disk / "pod-logs"),
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            # Small and often, so that tests of logs meet it.
            "containerLogMaxSize": "1Mi",
            "containerLogMonitorInterval": "3s",
        }


def cut_link(nodes: list[Node], pod: str, up: bool) -> str:
    """Cut or heal a pod's network from its node's side; the pod itself is told nothing.

    `pod` is NAME or NAMESPACE/NAME. Returns the link's name.
    """
    namespace, _, name = pod.rpartition("/")
    for node in nodes:
        if link := node.pod_link(namespace or "default", name):
            set_link(link, up)
            return link
    raise ClusterError(f"no node has a pod {namespace or 'default'}/{name} with a network")
