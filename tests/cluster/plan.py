"""What the supervisor has prepared outside the namespaces, for the process inside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """Everything inside.py needs to know; no network, no cache and no building after this."""

    programs: str
    """Folder of the daemons."""
    image_store: str | None
    """Prepared containerd store; None: no nodes."""
    cgroup: str
    ipv6: bool
    """Whether nodes, pods and Services have addresses of IPv6 alone, or else of IPv4."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        return cls(**json.loads(path.read_text()))
