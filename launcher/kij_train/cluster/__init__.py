"""The API server: the only part of kij-train that imports the `kubernetes` package.

It moves dicts. Requests go over the connection pool that the official client configures from a
kubeconfig (TLS, proxies, credential plugins), without its models, which take a second to import.
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
