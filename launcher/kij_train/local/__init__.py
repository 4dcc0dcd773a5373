"""A job as processes of this machine: one bootstrap a node, the same contract as in pods."""

from kij_train.local.machine import LOCAL_IGNORES, check_machine, with_counted_ranks
from kij_train.local.nodes import Outcome, Stop, run_nodes

__all__ = ["LOCAL_IGNORES", "Outcome", "Stop", "check_machine", "run_nodes", "with_counted_ranks"]
