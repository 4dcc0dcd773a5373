"""N nodes that train once, with --restart never: the first pod that fails ends the job."""

from __future__ import annotations

from kij_train import names, pod
from kij_train.pod import contract
from kij_train.render.code import BOOTSTRAP_KEY
from kij_train.render.shapes.shape import Shape
from kij_train.spec import JobSpec

FAIL_FAST_EXIT_CODES = [contract.EXIT_PREPARE, contract.EXIT_CONTRACT, contract.EXIT_CODE]
"""Exit codes of the bootstrap that end the job: another pod would fail in the same way."""


def shape(spec: JobSpec) -> Shape:
    """The shape of a job that does not restart."""
    fail_fast = {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": names.CONTAINER,
            "operator": "In",
            "values": FAIL_FAST_EXIT_CODES,
        },
    }
    return Shape(
        policy={
            "completions": spec.pods,
            "parallelism": spec.pods,
            "backoffLimit": spec.backoff,
            # A new pod waits until the old one is gone: two pods of index 0 would both be in DNS.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [fail_fast]},
        },
        first_process=BOOTSTRAP_KEY,
        sources=pod.BESIDE,
    )
