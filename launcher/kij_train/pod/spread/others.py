"""What a pod is told of the others that it gets things from.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
from typing import List, NamedTuple, Tuple

FETCHES = ""
"""The label of what --fetch names."""
PLACES = (FETCHES, "packages")
"""What can be spread. The place of a label is added to the port of Settings."""


class Settings(NamedTuple):
    """What `render` tells every pod."""

    peers: List[str]
    """HOST:PORT of every index; or one INDEX.SERVICE:PORT, with {} for the number of the index,
    where SERVICE has the addresses of all pods that are there."""
    pods: int
    """How many there are at once."""
    stays: bool
    """Whether pods may come later, so that those that have everything go on serving."""
    indexes: int = 0
    """How many there are in all; they start in their order."""
    key: str = ""
    me: int = 0
    """The index of this pod."""

    def address(self, index: int) -> Tuple[str, int]:
        """Host and port of an index."""
        peer = self.peers[index] if len(self.peers) > 1 else self.peers[0]
        host, _, port = peer.replace("{}", str(index)).rpartition(":")
        return host.strip("[]"), int(port)

    def at_place(self, place: int) -> "Settings":
        """With ports that are `place` higher."""
        return self._replace(peers=[_moved(peer, place) for peer in self.peers])

    @property
    def service(self) -> str:
        """The name that all pods have in DNS; empty where they have none."""
        return "" if len(self.peers) > 1 else self.peers[0].rpartition(":")[0].partition("{}.")[2]

    def to_json(self) -> str:
        """Without key and index, which each pod has from elsewhere."""
        said = self._asdict()
        return json.dumps({key: said[key] for key in ("peers", "pods", "stays", "indexes")})


def _moved(peer: str, place: int) -> str:
    host, _, port = peer.rpartition(":")
    return f"{host}:{int(port) + place}"
