"""The whole cluster, from inside its namespaces: what is started in which order, and commands."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from . import dns, kwok, network
from .api import Api
from .control import Handler
from .controlplane import ControlPlane
from .errors import ClusterError
from .node import Node, NodeSettings, cut_link
from .paths import StatePaths
from .phases import phase
from .plan import Plan
from .processes import Daemon, run

PRIVATE_FOLDERS = ("/run", "/var/log", "/var/lib/cni")
"""Where daemons write whatever they are told; inside, these are empty folders in memory."""


class Cluster:
    """Every daemon of one cluster."""

    def __init__(self, paths: StatePaths, plan: Plan) -> None:
        self._paths = paths
        self._plan = plan
        self._programs = Path(plan.programs)
        self._family = network.IPV6 if plan.ipv6 else network.IPV4
        self._control_plane = ControlPlane(paths, self._programs, self._family)
        self._nodes: list[Node] = []
        self._others: list[Daemon] = []
        self._name_server: Daemon | None = None
        self._simulator: Daemon | None = None
        self._api: Api | None = None

    def start(self) -> None:
        """Bring everything up; returns when pods can be created."""
        _hide_the_machines_folders()
        network.create_isolated_network(self._family)
        with phase("control plane"):
            self._api = self._control_plane.start()
        if self._plan.image_store is not None:
            with phase("nodes and DNS"):
                self._start_nodes(Path(self._plan.image_store), self._api)

    def commands(self) -> dict[str, Handler]:
        """What control.py may be asked for."""
        return {
            "status": self._command_status,
            "apiserver": self._command_api_server,
            "dns": self._command_dns,
            "node": self._command_node,
            "link": self._command_link,
            "simulate": self._command_simulate,
        }

    def _start_nodes(self, prepared_store: Path, api: Api) -> None:
        authority = self._control_plane.authority
        settings = NodeSettings(
            self._paths, self._programs, prepared_store, self._plan.cgroup, self._family
        )
        for number in range(1, network.NODE_COUNT + 1):
            node = Node(number, settings, authority)
            node.create()
            node.start()
            self._nodes.append(node)
        self._name_server = dns.daemon(self._paths, self._programs, authority, self._family)
        self._name_server.start()
        self._others.append(self._name_server)
        for node in self._nodes:
            node.wait_ready(api)

    def _daemons(self) -> list[Daemon]:
        nodes = [daemon for node in self._nodes for daemon in node.daemons]
        return [*self._control_plane.daemons, *nodes, *self._others]

    def _command_status(self, _: list[str]) -> object:
        return {daemon.name: daemon.pid for daemon in self._daemons()}

    def _command_api_server(self, arguments: list[str]) -> object:
        assert self._api is not None
        if arguments == ["stop"]:
            self._control_plane.stop_api_server()
        else:
            self._control_plane.start_api_server(self._api)
        return None

    def _command_dns(self, arguments: list[str]) -> object:
        if self._name_server is None:
            raise ClusterError("a cluster without nodes has no DNS")
        self._name_server.freeze(arguments == ["stop"])
        return None

    def _command_node(self, arguments: list[str]) -> object:
        assert self._api is not None
        what, name = arguments
        found = [node for node in self._nodes if node.name == name]
        if not found:
            names = ", ".join(node.name for node in self._nodes) or "none"
            raise ClusterError(f"no node {name}; there is {names}")
        if what == "kill":
            found[0].kill()
        else:
            found[0].start()
            found[0].wait_ready(self._api)
        return None

    def _command_link(self, arguments: list[str]) -> object:
        what, pod = arguments
        return cut_link(self._nodes, pod, what == "up")

    def _command_simulate(self, arguments: list[str]) -> object:
        assert self._api is not None
        program, count = arguments
        if self._simulator is None:
            self._simulator = kwok.daemon(self._paths, Path(program), self._control_plane.authority)
            self._simulator.start()
            self._others.append(self._simulator)
        kwok.create(self._api, int(count), self._simulator)
        return None


def _hide_the_machines_folders() -> None:
    """What a daemon leaves in a system folder then ends with the mount namespace.

    A mount needs a folder to cover: an empty /var/lib/cni is what a machine without one keeps.
    """
    for folder in PRIVATE_FOLDERS:
        with suppress(PermissionError):  # without root there are no nodes, and nothing to hide
            Path(folder).mkdir(exist_ok=True)
        if Path(folder).is_dir():
            run(["mount", "-t", "tmpfs", "tmpfs", folder])
