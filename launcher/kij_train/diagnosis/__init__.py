"""What the objects of a job say: phases of its nodes, why it failed, waits or hangs.

Pure functions from dicts, as the API server gives them, to verdicts. Nothing here reads
a cluster, and nothing guesses: what has no known cause is quoted as it was seen.
"""

from kij_train.diagnosis.accounts import accounts_at_the_end, accounts_now
from kij_train.diagnosis.arrays import items_of
from kij_train.diagnosis.capacity import which_nobody_has, with_free, without
from kij_train.diagnosis.causes import hint_here, hint_there
from kij_train.diagnosis.failures import (
    Failure,
    failures_of_pods,
    first_failure,
    last_words,
    parse_record,
    verdict,
)
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.held import HELD_S, end_while_held, own_end, state_with
from kij_train.diagnosis.jobview import JobState, JobView, Object, epoch, own
from kij_train.diagnosis.kinds import STAYING
from kij_train.diagnosis.missing import missing_file
from kij_train.diagnosis.offers import (
    DEVICE_CLASSES,
    GKE_SHARING,
    KARPENTER,
    PRODUCT,
    SHARED_BY,
    SHARING,
    SLICES,
    has_whole,
    of_classes,
    of_machines,
    of_pool,
)
from kij_train.diagnosis.pending import sorted_events
from kij_train.diagnosis.phases import (
    STARTED,
    TOLD_TO_END,
    Node,
    Phase,
    index_of,
    is_out_of_touch,
    node_of,
    nodes_of_job,
    phases,
    same_reason,
    trimmed,
)
from kij_train.diagnosis.provisioning import PROVISIONING_REQUESTS
from kij_train.diagnosis.queues import Queue
from kij_train.diagnosis.why import Verdict, as_json, of_rounds, why

__all__ = [
    "DEVICE_CLASSES",
    "GKE_SHARING",
    "HELD_S",
    "KARPENTER",
    "PRODUCT",
    "PROVISIONING_REQUESTS",
    "SHARED_BY",
    "SHARING",
    "SLICES",
    "STARTED",
    "STAYING",
    "TOLD_TO_END",
    "Failure",
    "Finding",
    "JobState",
    "JobView",
    "Node",
    "Object",
    "Phase",
    "Queue",
    "Verdict",
    "accounts_at_the_end",
    "accounts_now",
    "as_json",
    "end_while_held",
    "epoch",
    "failures_of_pods",
    "first_failure",
    "has_whole",
    "hint_here",
    "hint_there",
    "index_of",
    "is_out_of_touch",
    "items_of",
    "last_words",
    "missing_file",
    "node_of",
    "nodes_of_job",
    "of_classes",
    "of_machines",
    "of_pool",
    "of_rounds",
    "own",
    "own_end",
    "parse_record",
    "phases",
    "same_reason",
    "sorted_events",
    "state_with",
    "trimmed",
    "verdict",
    "which_nobody_has",
    "why",
    "with_free",
    "without",
]
