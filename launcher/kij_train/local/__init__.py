"""A job as processes of this machine: a bootstrap for each node, the same contract as in pods."""

from kij_train.local.array import (
    ArrayOutcome,
    Ended,
    Share,
    check_machine_for_array,
    run_array,
    runners_here,
)
from kij_train.local.fetches import fetched
from kij_train.local.machine import check_machine, ignores, with_counted_ranks
from kij_train.local.nodes import Outcome, Stop, Streams, run_nodes
from kij_train.local.output import Emit
from kij_train.local.packages import offered

__all__ = [
    "ArrayOutcome",
    "Emit",
    "Ended",
    "Outcome",
    "Share",
    "Stop",
    "Streams",
    "check_machine",
    "check_machine_for_array",
    "fetched",
    "ignores",
    "offered",
    "run_array",
    "run_nodes",
    "runners_here",
    "with_counted_ranks",
]
