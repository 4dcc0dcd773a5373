"""The cluster's own network, inside its network namespace.

Every cluster has the same addresses and ports: they cannot meet, because each namespace is a
machine of its own as far as the network goes. Nothing gets out: there is no link to the host, and
the default route (which programs look for) leads nowhere.

Node N has the bridge `kijN` with the address 10.77.N.1, and its pods are in 10.77.N.0/24; in a
cluster of IPv6 alone fd77:0:0:N::1 and fd77:0:0:N::/64. What speaks to the API server and etcd on
this machine uses its loopback 127.0.0.1 in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .processes import run

API_PORT = 6443
API_SERVER = f"https://127.0.0.1:{API_PORT}"
CLUSTER_DOMAIN = "cluster.local"
LINK_PREFIX = "kij"
NODE_COUNT = 2


@dataclass(frozen=True)
class Family:
    """What differs between IPv4 and IPv6: nodes, pods and Services have addresses of one."""

    ip: tuple[str, ...]
    """The command that configures it."""
    prefix: str
    """Of a node's addresses, with {} for its number."""
    subnet: str
    service_range: str
    everywhere: str
    """What a daemon binds to that listens at all addresses."""
    loopback: str
    default_route: str
    forwarding: str

    def addresses(self) -> list[str]:
        """Of the nodes."""
        return [NodeNetwork(number, self).address for number in range(1, NODE_COUNT + 1)]


IPV4 = Family(
    ip=("ip",),
    prefix="10.77.{}.",
    subnet="0/24",
    service_range="10.96.0.0/16",
    everywhere="0.0.0.0",
    loopback="127.0.0.1",
    default_route="0.0.0.0/0",
    forwarding="/proc/sys/net/ipv4/ip_forward",
)
IPV6 = Family(
    ip=("ip", "-6"),
    prefix="fd77:0:0:{}::",
    subnet="/64",
    service_range="fd96::/112",
    everywhere="::",
    loopback="::1",
    default_route="::/0",
    forwarding="/proc/sys/net/ipv6/conf/all/forwarding",
)


@dataclass(frozen=True)
class NodeNetwork:
    """The part of the network that belongs to the node with this number, from 1."""

    number: int
    family: Family

    @property
    def bridge(self) -> str:
        return f"{LINK_PREFIX}{self.number}"

    @property
    def address(self) -> str:
        """The node's own address, and its pods' gateway and name server."""
        return self.family.prefix.format(self.number) + "1"

    @property
    def pod_subnet(self) -> str:
        return self.family.prefix.format(self.number) + self.family.subnet

    def create(self) -> None:
        """Make the bridge; the kubelet wants its address to exist when it starts."""
        run(["ip", "link", "add", self.bridge, "type", "bridge"])
        length = self.pod_subnet.partition("/")[2]
        address = [f"{self.address}/{length}", "dev", self.bridge]
        # Nobody else has it: an address of IPv6 would be of no use for a second.
        at_once = ["nodad"] if self.family is IPV6 else []
        run([*self.family.ip, "address", "add", *address, *at_once])
        self.set_up(True)

    def set_up(self, up: bool) -> None:
        """Connect or cut the whole node."""
        set_link(self.bridge, up)


def create_isolated_network(family: Family) -> None:
    """What every cluster needs before its first daemon: loopback, forwarding, no way out."""
    set_link("lo", True)
    run([*family.ip, "route", "add", "blackhole", "default"])
    forward = Path(family.forwarding)
    if forward.read_text().strip() != "1":
        forward.write_text("1\n")


def set_link(name: str, up: bool) -> None:
    run(["ip", "link", "set", name, "up" if up else "down"])
