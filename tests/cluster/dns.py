"""CoreDNS: the names of Services and pods, for every pod, at its node's own address."""

from __future__ import annotations

import os
from pathlib import Path

from .network import CLUSTER_DOMAIN, Family
from .paths import StatePaths
from .pki import ADMIN_GROUP, Authority
from .processes import Daemon, without_proxies

TTL_S = 5
COREFILE = """\
.:53 {{
    bind {addresses}
    errors
    ready 127.0.0.1:8181
    kubernetes {domain} {{
        kubeconfig {kubeconfig}
        ttl {ttl_s}
    }}
    cache {ttl_s}
}}
"""


def daemon(paths: StatePaths, programs: Path, authority: Authority, family: Family) -> Daemon:
    """CoreDNS, not started yet; the bridges must be there when it is."""
    kubeconfig = authority.kubeconfig(paths.pki / "coredns.conf", "coredns", ADMIN_GROUP)
    corefile = paths.run / "Corefile"
    corefile.write_text(
        COREFILE.format(
            addresses=" ".join(family.addresses()),
            domain=CLUSTER_DOMAIN,
            kubeconfig=kubeconfig,
            ttl_s=TTL_S,
        )
    )
    return Daemon(
        "coredns",
        [programs / "coredns", "-conf", corefile],
        logs=paths.logs,
        env=without_proxies(os.environ),
    )
