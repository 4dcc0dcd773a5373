"""What every supervisor is told, in addition to the contract of the bootstrap.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
from typing import Dict, List, NamedTuple, Optional, Tuple

from kij_train.pod import contract

ENV_GANG = "KIJ_GANG"
"""JSON of what a supervisor is told: how many nodes, spares and restarts, and its peers."""
ENV_GANG_ID = "KIJ_GANG_ID"
"""The id of the job. A supervisor with another id does not belong to this job."""
ENV_POD_IP = "KIJ_POD_IP"
"""The pod's own address, by which the others reach it."""
ENV_RESTARTS = "KIJ_RESTARTS"
"""For the script: how many rounds came before this one."""
ENV_SPARE = "KIJ_SPARE"
"""For the script: 1 on a node that waited as a spare, else 0."""
READY_PORT = 1
"""Added to the supervisor's port. The port is open while this node trains, for the readiness probe.
"""


CROWD = 500
"""Pods that can all ask one of them at the same moment, and are answered in good time."""


class Settings(NamedTuple):
    """What `render` and `local` tell every node."""

    low: int
    """The fewest nodes that a round may have."""
    high: int
    """The most nodes that a round may have."""
    spares: int
    peers: List[str]
    """The address of every index as host:port, with an IPv6 host in []. Or one text for all:
    INDEX.SERVICE:PORT, with {} in place of the index' number. In DNS, SERVICE has the addresses of
    all pods that run."""
    max_restarts: int
    """Rounds that may fail before the job does."""
    backoff_limit: int
    """How many pods may fail before the Job fails. To end the Job, more pods have to fail."""
    reserve: int = 0
    """How many indexes have no pod until another index is lost; they then take its place. With 0,
    a lost index comes back with another pod."""
    grace_s: float = float(contract.GRACE_S)
    """Between SIGTERM and SIGKILL, if a round ends so that more nodes can take part."""
    hang_timeout_s: float = 0.0
    """After so long without a sign of life of any rank, the job hangs; 0: never."""
    start_timeout_s: float = 600.0
    """The same until the first sign of life of a round; it holds if it is longer."""
    heartbeat: str = "file"
    """What a sign of life is: hang.FILE or hang.OUTPUT."""
    shared: Optional[List[str]] = None
    """Paths of volumes that all pods write to; None if all nodes run on this machine (--local)."""

    @property
    def pods(self) -> int:
        """How many pods run at the same time."""
        return self.high + self.spares

    @property
    def indexes(self) -> int:
        """How many indexes there may be in the life of the job."""
        return self.pods + self.reserve

    @property
    def crowd(self) -> float:
        """How many times longer pods wait for each other than a few hundred have to.

        After a loss all pods ask the same one at once, which answers some hundred a second.
        """
        return max(1.0, self.pods / CROWD)

    @property
    def service(self) -> str:
        """The name in DNS of the Service of all pods; empty if there is none."""
        if len(self.peers) > 1:
            return ""
        return self.peers[0].rpartition(":")[0].partition("{}.")[2]

    @property
    def first_sign_s(self) -> float:
        """How long a round may take until its first sign of life."""
        return max(self.hang_timeout_s, self.start_timeout_s)

    def address(self, index: int) -> Tuple[str, int]:
        """Host and port of an index."""
        peer = self.peers[index] if len(self.peers) > 1 else self.peers[0]
        host, _, port = peer.replace("{}", str(index)).rpartition(":")
        return host.strip("[]"), int(port)


def read_settings(env: Dict[str, str]) -> Settings:
    """The settings from the environment. Raises Failure."""
    try:
        return Settings(**json.loads(env[ENV_GANG]))
    except (KeyError, ValueError, TypeError) as error:
        raise contract.Failure(
            contract.EXIT_CONTRACT,
            f"{ENV_GANG}={env.get(ENV_GANG)!r} does not say how the job restarts",
        ) from error


def read_node(env: Dict[str, str], settings: Settings) -> contract.Node:
    """This pod's place, from the bootstrap's contract. Raises Failure.

    The counts in the environment are those of one round: they leave out the spares and the reserve.
    """
    nproc = env.get(contract.ENV_NPROC_PER_NODE, "")
    world = str(settings.high * int(nproc)) if nproc.isdigit() else ""
    if env.get(contract.ENV_WORLD_SIZE) not in ("", None, world):
        raise contract.Failure(
            contract.EXIT_CONTRACT,
            f"{contract.ENV_WORLD_SIZE}={env[contract.ENV_WORLD_SIZE]!r}, not {world}",
        )
    every = settings.indexes
    counts = {contract.ENV_NNODES: str(every)}
    if nproc.isdigit() and env.get(contract.ENV_WORLD_SIZE):
        counts[contract.ENV_WORLD_SIZE] = str(every * int(nproc))
    return contract.read_contract(dict(env, **counts))
