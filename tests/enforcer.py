"""kube-router, which enforces NetworkPolicies on the test cluster while a test asks for it.

`python -m tests.cluster build --part kube-router` builds it. It works by iptables and ipset in the
network namespace that both machines of the cluster share, so that all pods meet its rules.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster import network, parts
from tests.cluster.errors import ClusterError
from tests.cluster.paths import StatePaths
from tests.cluster.processes import Daemon, run, wait_until, without_proxies
from tests.cluster.state import State, locked
from tests.operators import WITH_US

HEALTH_PORT = 20244
READY_S = 120.0
BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
"""Whether packets from pod to pod of one machine meet iptables as well. Of this namespace alone."""
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Policies are enforced in this block; its log is `folder/kube-router.log`."""
    paths = StatePaths.of_this_clone()
    state = State.of_running(paths)
    assert state is not None, "first: make cluster"
    program = parts.found("kube-router") / "kube-router"
    daemon = Daemon(
        "kube-router",
        [
            *(*WITH_US, program, "--run-firewall=true", "--run-router=false"),
            *("--run-service-proxy=false", f"--service-cluster-ip-range={_services()}"),
            # The test cluster's own, as an address of it says: see `changes` in parts.py.
            *("--hostname-override=node-1", f"--kubeconfig={state.kubeconfig}"),
            *(f"--health-port={HEALTH_PORT}", "--iptables-sync-period=10s", "--v=1"),
        ],
        logs=folder,
        env={**without_proxies(os.environ), "PATH": SBIN},
    )
    with locked(paths.root / "kube-router.lock", wait=True):
        BRIDGED.write_text("1\n")
        daemon.start()
        try:
            wait_until("kube-router", _enforces, timeout_s=READY_S, needs=[daemon])
            yield
            assert daemon.alive, f"kube-router ended\n{daemon.log_tail()}"
        finally:
            if daemon.alive:
                daemon.stop()
            BRIDGED.write_text("0\n")
            _forget()


def _services() -> str:
    return network.IPV4.service_range


def _enforces() -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError), opener.open(f"http://127.0.0.1:{HEALTH_PORT}/healthz") as answer:
        return bool(answer.status == 200) and "KUBE-ROUTER-FORWARD" in _iptables("-S", "FORWARD")
    return False


def _forget() -> None:
    """Nobody else has rules in the namespace of a test cluster."""
    _iptables("-F")
    with suppress(ClusterError):  # a chain that another one still leads to
        _iptables("-X")
    run(["ipset", "destroy"], env={"PATH": SBIN})


def _iptables(*words: str) -> str:
    return run(["iptables", "-w", *words], env={"PATH": SBIN})
