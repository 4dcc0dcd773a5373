"""What the objects of a job say: phases of its nodes, why it failed, waits or hangs.

Pure functions from dicts, as the API server gives them, to verdicts. Nothing here reads
a cluster, and nothing guesses: what has no known cause is quoted as it was seen.
"""

from kij_train.diagnosis.accounts import accounts_at_the_end, accounts_now
from kij_train.diagnosis.capacity import which_nobody_has, with_free, without
from kij_train.diagnosis.causes import hint_here
from kij_train.diagnosis.failures import (
    Failure,
    failures_of_pods,
    first_failure,
    last_words,
    parse_record,
    verdict,
)
from kij_train.diagnosis.held import HELD_S, own_end
from kij_train.diagnosis.missing import missing_file
from kij_train.diagnosis.pending import Finding, sorted_events
from kij_train.diagnosis.phases import (
    STARTED,
    JobState,
    Node,
    Phase,
    epoch,
    gang_settings,
    grace_s,
    index_of,
    is_out_of_touch,
    job_state,
    node_of,
    nodes_of_job,
    own,
    own_container,
    phases,
    ranks_per_node,
    restarts_by_itself,
    terminal_condition,
    trimmed,
)
from kij_train.diagnosis.why import Verdict, as_json, why

__all__ = [
    "HELD_S",
    "STARTED",
    "Failure",
    "Finding",
    "JobState",
    "Node",
    "Phase",
    "Verdict",
    "accounts_at_the_end",
    "accounts_now",
    "as_json",
    "epoch",
    "failures_of_pods",
    "first_failure",
    "gang_settings",
    "grace_s",
    "hint_here",
    "index_of",
    "is_out_of_touch",
    "job_state",
    "last_words",
    "missing_file",
    "node_of",
    "nodes_of_job",
    "own",
    "own_container",
    "own_end",
    "parse_record",
    "phases",
    "ranks_per_node",
    "restarts_by_itself",
    "sorted_events",
    "terminal_condition",
    "trimmed",
    "verdict",
    "which_nobody_has",
    "why",
    "with_free",
    "without",
]
