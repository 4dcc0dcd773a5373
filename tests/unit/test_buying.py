"""What `why` makes of the words of autoscalers: is a node being bought, or will none come?

The messages are those of Karpenter 1.13, Cluster Autoscaler, GKE and Kueue 0.17, by their sources;
those of Karpenter and Kueue are also had from the real ones, in tests/node/test_buying.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kij_train import diagnosis
from kij_train.diagnosis import JobView, Queue, Verdict

FOLDER = Path(__file__).parent / "situations"
LIMITS = "Failed to schedule pod, all available instance types exceed limits for nodepool"
GROUP = "https://www.googleapis.com/compute/v1/projects/p/zones/us-east4-a/instanceGroups/gke-l4"


def pending(*said: tuple[str, str]) -> Verdict:
    """Of a job whose pods no machine fits, with events about its first pod, oldest first."""
    found = json.loads((FOLDER / "asks-for-9-gpus.json").read_text())
    first = found["pods"][0]["metadata"]["name"]
    events = [event for event in found["events"] if event["involvedObject"]["name"] == first]
    for second, (reason, message) in enumerate(said):
        events.append(
            {
                "reason": reason,
                "message": message,
                "involvedObject": {"kind": "Pod", "name": first},
                "metadata": {},
                "lastTimestamp": f"2099-01-01T00:00:{second:02}Z",
            }
        )
    pods = [diagnosis.trimmed(pod) for pod in found["pods"][:1]]
    return diagnosis.why(
        JobView(found["job"]), pods, events, now=found["now"], machines=found["machines"]
    )


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        (
            "Nominated",
            "Pod should schedule on: nodeclaim/training-x7k2p",
            ("Karpenter is buying a node for it", "describe nodeclaim training-x7k2p"),
        ),
        (
            "Nominated",
            "Pod should schedule on: nodeclaim/training-x7k2p, node/ip-10-0-0-7",
            ("Karpenter expects it on a node that gets ready",),
        ),
        (
            "TriggeredScaleUp",
            f"pod triggered scale-up: [{{{GROUP} 1->3 (max: 20)}}]",
            ("a node is being bought for it: gke-l4 grows from 1 to 3 of at most 20 nodes",),
        ),
        ("TriggeredScaleUp", "pod triggered scale-up: [something else]", ("being bought",)),
    ],
)
def test_a_node_that_is_being_bought_is_told_first(
    reason: str, message: str, words: tuple[str, ...]
) -> None:
    verdict = pending((reason, message))
    (finding,) = verdict.findings
    assert finding.kind == "node-coming"
    assert finding.summary.partition("; now ")[2].startswith("0 of "), (
        "the scheduler's word follows"
    )
    assert finding.evidence[-1] == message
    for each in words:
        assert each in verdict.text()
    assert "ask for less" not in verdict.text()


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        (
            "FailedScheduling",
            f"{LIMITS} (NodePool=training); incompatible requirements, key karpenter.sh/nodepool, "
            "karpenter.sh/nodepool In [training] not in karpenter.sh/nodepool In [evaluations]",
            ("Karpenter: NodePool training is at its limits\n", "kubectl get nodepools"),
        ),
        ("FailedScheduling", f'{LIMITS} "old"', ("NodePool old is at its limits",)),
        (
            "FailedScheduling",
            "Failed to schedule pod, node limits have been exhausted for nodepool "
            "(NodePool=static)",
            ("NodePool static is at its limits",),
        ),
        (
            "FailedScheduling",
            "Failed to schedule pod, did not tolerate taint (taint=spot=yes:NoSchedule); "
            'incompatible requirements, label "disk" does not have known values',
            (
                "has the taint spot=yes:NoSchedule",
                "--toleration spot=yes:NoSchedule",
                "no NodePool makes nodes that fit in disk",
                "another --node-selector",
            ),
        ),
        (
            "FailedScheduling",
            "Failed to schedule pod, incompatible requirements, key karpenter.sh/capacity-type, "
            "karpenter.sh/capacity-type In [spot] not in karpenter.sh/capacity-type In [on-demand]",
            ("nodes that fit in karpenter.sh/capacity-type",),
        ),
        (
            "FailedScheduling",
            "Failed to schedule pod, no instance type has enough resources, "
            'requirements=karpenter.sh/nodepool In [training], resources={"nvidia.com/gpu":"9"}',
            ("no instance type has enough resources", "ask for less a node"),
        ),
        (
            "FailedScheduling",
            "Failed to schedule pod, pod has Dynamic Resource Allocation requirements that are not "
            "yet supported by Karpenter",
            ("buys no nodes for pods with claims", "leave out --gpu-kind dra"),
        ),
        ("FailedScheduling", "Failed to schedule pod, a new reason", ("Karpenter: a new reason",)),
        (
            "NotTriggerScaleUp",
            "pod didn't trigger scale-up: 2 Insufficient nvidia.com/gpu, 1 max node group size "
            "reached",
            (
                "no node will come, says the cluster's autoscaler: 2 node groups: Insufficient "
                "nvidia.com/gpu, 1 node group at their largest size",
                "raise the maximum",
            ),
        ),
        (
            "NotTriggerScaleUp",
            "pod didn't trigger scale-up: 1 in backoff after failed scale-up, 3 node(s) had "
            "untolerated taint {workload: mog}",
            ("no node comes for now", "the last purchase failed", "3 node groups: node(s) had"),
        ),
        ("NotTriggerScaleUp", "pod didn't trigger scale-up: ", ("no node group has machines",)),
        (
            "NotTriggerScaleUp",
            "pod didn't trigger scale-up: max total nodes in cluster reached",
            ("autoscaler: max total nodes in cluster reached",),
        ),
        (
            "FailedScaleUp",
            "Node scale up in zones us-central1-a associated with this pod failed: GCE out of "
            "resources. Pod is at risk of not being scheduled.",
            ("asked for in us-central1-a and not given: GCE out of resources", "--queue NAME"),
        ),
    ],
)
def test_that_no_node_will_come_is_told_with_the_reason(
    reason: str, message: str, words: tuple[str, ...]
) -> None:
    verdict = pending((reason, message))
    (finding,) = verdict.findings
    assert finding.kind == "no-node-coming"
    assert finding.summary.startswith("0 of "), "Karpenter's event is not taken for the scheduler's"
    for each in words:
        assert each in verdict.text()


def test_the_newest_word_counts() -> None:
    bought = ("Nominated", "Pod should schedule on: nodeclaim/training-x7k2p")
    refused = ("FailedScheduling", f"{LIMITS} (NodePool=training)")
    assert pending(bought, refused).findings[0].kind == "no-node-coming"
    assert pending(refused, bought).findings[0].kind == "node-coming"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("Nominated", "something else"),
        ("TriggeredScaleUp", "something else"),
        ("NotTriggerScaleUp", "something else"),
        ("FailedScaleUp", "something else"),
    ],
)
def test_words_that_nobody_knows_change_nothing(reason: str, message: str) -> None:
    assert pending((reason, message)) == pending()


# --- Kueue's ProvisioningRequests -----------------------------------------------------------------


def in_queue(
    state: str, message: str, conditions: dict[str, tuple[str, str]] | None, *, quota: bool = True
) -> Verdict:
    """Of a job in a queue with a check; `conditions` of its request: status and message."""
    found = json.loads((FOLDER / "kueue-short-of-quota.json").read_text())
    queue = found["queue"]
    workload = queue["workload"]
    uid = workload["metadata"].setdefault("uid", "w")
    reserved = {"type": "QuotaReserved", "status": "True" if quota else "False", "message": "no"}
    workload["status"] = {
        "conditions": [reserved],
        "admissionChecks": [{"name": "prov", "state": state, "message": message}],
    }
    if conditions is not None:
        old = {"name": "job-prov-1", "creationTimestamp": "2026-01-01T00:00:00Z"}
        new = {"name": "job-prov-2", "creationTimestamp": "2026-01-01T00:05:00Z"}
        queue["requests"] = [
            {
                "metadata": {**head, "ownerReferences": [{"uid": owner}]},
                "spec": {"provisioningClassName": "queued-provisioning.gke.io"},
                "status": {
                    "conditions": [
                        {"type": kind, "status": status, "message": said}
                        for kind, (status, said) in of.items()
                    ]
                },
            }
            for head, owner, of in (
                (new, uid, conditions),
                (old, uid, {"Failed": ("True", "of the first try")}),
                ({**new, "name": "other"}, "another", {"Failed": ("True", "of another job")}),
            )
        ]
    return diagnosis.why(
        JobView(found["job"]), [], found["events"], now=found["now"], queue=Queue(**queue)
    )


@pytest.mark.parametrize(
    ("state", "message", "conditions", "kind", "words"),
    [
        (
            "Pending",
            "",
            {"Accepted": ("True", ""), "Provisioned": ("False", "about 20 minutes")},
            "node-coming",
            (
                "has room for it; all its nodes are being bought together "
                "(queued-provisioning.gke.io)",
                "about 20 minutes",
                "describe provisioningrequests.autoscaling.x-k8s.io job-prov-2",
            ),
        ),
        (
            "Pending",
            "",
            {"Accepted": ("True", ""), "Provisioned": ("True", "")},
            "node-coming",
            ("its nodes are there",),
        ),
        (
            "Retry",
            "Retrying after failure: out of stock",
            {"Accepted": ("True", ""), "Failed": ("True", "out of stock")},
            "no-node-coming",
            ("no nodes were given for it, and Kueue tries again", "out of stock"),
        ),
        (
            "Rejected",
            "too late",
            {"Provisioned": ("True", ""), "BookingExpired": ("True", "too late")},
            "no-node-coming",
            ("given up before it started, and Kueue gives it up", "too late"),
        ),
        (
            "Rejected",
            "",
            {"Provisioned": ("True", ""), "CapacityRevoked": ("True", "after 7 days")},
            "no-node-coming",
            ("its nodes were taken away again", "after 7 days"),
        ),
        ("Pending", "", {}, "queue-check", ("no autoscaler has taken its request",)),
        (
            "Pending",
            "soon",
            None,
            "queue-check",
            ("check prov of the queue has not passed", "soon"),
        ),
        ("Retry", "out of stock", None, "no-node-coming", ("tried again", "out of stock")),
    ],
)
def test_a_job_that_waits_for_the_nodes_of_its_queue_is_told_how_far_they_are(
    state: str,
    message: str,
    conditions: dict[str, tuple[str, str]] | None,
    kind: str,
    words: tuple[str, ...],
) -> None:
    verdict = in_queue(state, message, conditions)
    assert verdict.findings[0].kind == kind
    for each in words:
        assert each in verdict.text()
    for others in ("of the first try", "of another job"):
        assert others not in verdict.text()


def test_without_quota_a_job_waits_for_that() -> None:
    assert in_queue("Pending", "", None, quota=False).findings[0].kind == "queued"


def test_a_request_that_may_not_be_read_is_told_by_its_check() -> None:
    found: dict[str, Any] = {"state": "Pending", "message": "", "conditions": None}
    assert "kubectl get provisioningrequests" in in_queue(**found).text()
