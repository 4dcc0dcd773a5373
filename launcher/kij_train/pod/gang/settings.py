"""What every supervisor is told: the contract on top of the bootstrap's.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
from typing import Dict, List, NamedTuple, Optional, Tuple

from kij_train.pod import contract

ENV_GANG = "KIJ_GANG"
"""JSON of Settings."""
ENV_GANG_ID = "KIJ_GANG_ID"
"""Of the job; whoever has another one is not one of us."""
ENV_POD_IP = "KIJ_POD_IP"
ENV_RESTARTS = "KIJ_RESTARTS"
"""For the script: rounds that came before this one."""
ENV_SPARE = "KIJ_SPARE"
"""For the script: 1 on a node that waited as a spare, else 0."""
READY_PORT = 1
"""Added to the supervisor's port: open while this node trains, for a readiness probe."""


class Settings(NamedTuple):
    """What `render` and `local` tell every node."""

    low: int
    """Nodes that a round takes at least."""
    high: int
    """And at most."""
    spares: int
    peers: List[str]
    """host:port of every index, an IPv6 host in []; or INDEX.SERVICE:PORT, with {} for the number
    of the index, where SERVICE resolves to the addresses of all pods that are there."""
    max_restarts: int
    """Rounds that may fail before the job does."""
    backoff_limit: int
    """Pods that the Job allows to fail; the job's own end must exceed it."""
    reserve: int = 0
    """Indexes that have no pod until another index is lost, whose place they take. With 0, a lost
    index comes back with another pod."""
    grace_s: float = float(contract.GRACE_S)
    """Between SIGTERM and SIGKILL where a round ends so that more nodes can take part."""
    hang_timeout_s: float = 0.0
    """How long no rank may give a sign of life; 0: for ever."""
    start_timeout_s: float = 600.0
    """The same until the first one of a round, where that is longer."""
    heartbeat: str = "file"
    """What a sign of life is: hang.FILE or hang.OUTPUT."""
    shared: Optional[List[str]] = None
    """Paths of volumes that all pods write to; None for nodes of one machine."""

    @property
    def pods(self) -> int:
        """How many there are at once."""
        return self.high + self.spares

    @property
    def indexes(self) -> int:
        """How many there may be in the life of the job."""
        return self.pods + self.reserve

    @property
    def service(self) -> str:
        """The name that all pods have in DNS; empty where they have none."""
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
    """Raises Failure."""
    try:
        return Settings(**json.loads(env[ENV_GANG]))
    except (KeyError, ValueError, TypeError) as error:
        raise contract.Failure(
            contract.EXIT_CONTRACT,
            f"{ENV_GANG}={env.get(ENV_GANG)!r} does not say how the job restarts",
        ) from error


def read_node(env: Dict[str, str], settings: Settings) -> contract.Node:
    """The bootstrap's contract, whose counts are those without spares. Raises Failure."""
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
