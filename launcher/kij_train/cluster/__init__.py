"""The API server: the only part of kij-train that speaks to one.

It moves dicts, over urllib3, without the official client: its models take a second to import, and
it reads kubeconfigs, proxies and credentials in another way than kubectl.
"""

from kij_train.cluster.client import Cluster
from kij_train.cluster.connection import Entry, find_kubeconfig
from kij_train.cluster.follow import End, await_a_pod, follow
from kij_train.cluster.logs import LogChoice, LogLine
from kij_train.cluster.observe import Observation
from kij_train.cluster.submit import Submission

__all__ = [
    "Cluster",
    "End",
    "Entry",
    "LogChoice",
    "LogLine",
    "Observation",
    "Submission",
    "await_a_pod",
    "find_kubeconfig",
    "follow",
]
