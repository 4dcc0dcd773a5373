"""The cluster's own network, inside its network namespace.

Every cluster has the same addresses and ports: they cannot meet, because each namespace is a
machine of its own as far as the network goes. Nothing gets out: there is no link to the host, and
the default route (which programs look for) leads nowhere.

Node N has the bridge `kijN` with the address 10.77.N.1, and its pods are in 10.77.N.0/24.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .processes import run

API_PORT = 6443
API_SERVER = f"https://127.0.0.1:{API_PORT}"
SERVICE_RANGE = "10.96.0.0/16"
CLUSTER_DOMAIN = "cluster.local"
LINK_PREFIX = "kij"
NODE_COUNT = 2


@dataclass(frozen=True)
class NodeNetwork:
    """The part of the network that belongs to the node with this number, from 1."""

    number: int

    @property
    def bridge(self) -> str:
        return f"{LINK_PREFIX}{self.number}"

    @property
    def address(self) -> str:
        """The node's own address, and its pods' gateway and name server."""
        return f"10.77.{self.number}.1"

    @property
    def pod_subnet(self) -> str:
        return f"10.77.{self.number}.0/24"

    def create(self) -> None:
        """Make the bridge; the kubelet wants its address to exist when it starts."""
        run(["ip", "link", "add", self.bridge, "type", "bridge"])
        run(["ip", "address", "add", f"{self.address}/24", "dev", self.bridge])
        self.set_up(True)

    def set_up(self, up: bool) -> None:
        """Connect or cut the whole node."""
        set_link(self.bridge, up)


BRIDGE_ADDRESSES = [NodeNetwork(number).address for number in range(1, NODE_COUNT + 1)]


def create_isolated_network() -> None:
    """What every cluster needs before its first daemon: loopback, forwarding, no way out."""
    set_link("lo", True)
    run(["ip", "route", "add", "blackhole", "default"])
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    if forward.read_text().strip() != "1":
        forward.write_text("1\n")


def set_link(name: str, up: bool) -> None:
    run(["ip", "link", "set", name, "up" if up else "down"])
