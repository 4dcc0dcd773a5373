"""Simulated nodes, by kwok: the scheduler sees them, and pods on them run without a process.

They are tainted, so that only pods which tolerate it go there. kwok-stages.yaml says what becomes
of them.
"""

from __future__ import annotations

import os
from pathlib import Path

from .api import Api, Object
from .paths import PACKAGE, StatePaths
from .pki import ADMIN_GROUP, Authority
from .processes import Daemon, wait_until, without_proxies

LABEL = "kij-train.test/simulated"
"""A node selector and a toleration with this key bring a pod to these nodes."""
STAGES = PACKAGE / "kwok-stages.yaml"
READY_TIMEOUT_S = 120.0
CAPACITY = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"}


def daemon(paths: StatePaths, program: Path, authority: Authority) -> Daemon:
    """kwok for the nodes that `create` makes; not started yet."""
    kubeconfig = authority.kubeconfig(paths.pki / "kwok.conf", "kwok", ADMIN_GROUP)
    return Daemon(
        "kwok",
        [
            program,
            f"--kubeconfig={kubeconfig}",
            f"--config={STAGES}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-label-selector={LABEL}=true",
            "--node-lease-duration-seconds=40",
        ],
        logs=paths.logs,
        env=without_proxies(os.environ),
    )


def create(api: Api, count: int, runs: Daemon) -> None:
    """Have at least `count` nodes, named simulated-1 and so on, all of them ready."""
    there = len(_nodes(api))
    for name in [f"simulated-{number}" for number in range(there + 1, count + 1)]:
        taint = {"key": LABEL, "value": "true", "effect": "NoSchedule"}
        labels = {LABEL: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        api.call(
            "POST",
            "/api/v1/nodes",
            {
                "metadata": {"name": name, "labels": labels},
                "spec": {"taints": [taint]},
                "status": {"capacity": CAPACITY, "allocatable": CAPACITY},
            },
        )
    wait_until(
        "simulated nodes", lambda: _ready(api) >= count, timeout_s=READY_TIMEOUT_S, needs=[runs]
    )


def _nodes(api: Api) -> list[Object]:
    return list(api.call("GET", f"/api/v1/nodes?labelSelector={LABEL}%3Dtrue")["items"])


def _ready(api: Api) -> int:
    return sum(
        condition["type"] == "Ready" and condition["status"] == "True"
        for node in _nodes(api)
        for condition in node["status"].get("conditions", [])
    )
