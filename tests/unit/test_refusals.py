"""What quota, Pod Security and rules of a cluster say, in events of a Job and in answers."""

from __future__ import annotations

import json

import pytest
from kij_train.cluster.apierrors import Action, refusal
from kij_train.commands import Address
from kij_train.diagnosis.pending import of_creation

NO_QUOTA = "exceeded quota: team, requested: pods=1, used: pods=0, limited: pods=0"
NUMBERS = "failed quota: team: must specify requests.cpu for: train"
AS_ROOT = (
    'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "train" must '
    "set securityContext.runAsNonRoot=true)"
)
HOST_PATH = 'violates PodSecurity "baseline:latest": hostPath volumes (volume "data")'
WEBHOOK = 'admission webhook "rules.example.com" denied the request: exceeded quota: of the team'
POLICY = "ValidatingAdmissionPolicy 'tags' with binding 'tags' denied request: name an owner"
NO_CLASS = "no PriorityClass with name none-such was found"
FORBIDDEN = 'pods "job-0-qqlzf" is forbidden: '
# Message of the server, kind of the finding, what the namespace does, the words, the hint.
SAID = [
    (FORBIDDEN + NO_QUOTA, "quota", "has no quota left", NO_QUOTA, "kij-train doctor -n ml"),
    (FORBIDDEN + NUMBERS, "quota", "has a quota that asks for numbers", NUMBERS, "--cpu 4"),
    (FORBIDDEN + AS_ROOT, "pod-security", "Pod Security level", AS_ROOT, "--run-as-user 1000"),
    (FORBIDDEN + HOST_PATH, "pod-security", "Pod Security level", HOST_PATH, ""),
    (WEBHOOK, "refused", "refuses", WEBHOOK, "--label KEY=VALUE"),
    (FORBIDDEN + POLICY, "refused", "refuses", POLICY, "--label KEY=VALUE"),
    (FORBIDDEN + NO_CLASS, "refused", "refuses", NO_CLASS, ""),
]


@pytest.mark.parametrize(("message", "kind", "clause", "words", "hint"), SAID)
def test_a_refusal_reads_the_same_in_an_event_and_in_an_answer(
    message: str, kind: str, clause: str, words: str, hint: str
) -> None:
    event = {
        "reason": "FailedCreate",
        "message": f"Error creating: {message}",
        "involvedObject": {"namespace": "ml"},
        "metadata": {},
    }
    (finding,) = of_creation([event])
    assert finding.kind == kind
    assert clause in finding.summary
    assert finding.evidence[0].endswith(words)
    assert hint in Address("ml").fill(finding.hint or "")
    answer = json.dumps({"kind": "Status", "reason": "Forbidden", "message": message}).encode()
    error = refusal(403, answer, Action("create", "pods", "job-0", Address("ml")))
    assert str(error).startswith("namespace ml ")
    assert clause in str(error)
    assert str(error).endswith(words)
    assert hint in "\n".join(error.hints)


def test_only_a_namespace_that_is_known_stands_in_the_hint() -> None:
    event = {"reason": "FailedCreate", "message": FORBIDDEN + NO_QUOTA, "metadata": {}}
    (finding,) = of_creation([event])
    assert Address().fill(finding.hint or "").endswith("kij-train doctor")
