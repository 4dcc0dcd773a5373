"""A job as processes of this machine: a bootstrap for each node, the same contract as in pods."""

from kij_train.local.machine import LOCAL_IGNORES, check_machine, with_counted_ranks
from kij_train.local.nodes import Outcome, Stop, Streams, run_nodes
from kij_train.local.output import Emit

__all__ = [
    "LOCAL_IGNORES",
    "Emit",
    "Outcome",
    "Stop",
    "Streams",
    "check_machine",
    "run_nodes",
    "with_counted_ranks",
]
