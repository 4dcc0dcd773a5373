"""Jobs whose queue has room for them, and that wait for nodes: Kueue's ProvisioningRequests.

Kueue asks an autoscaler for all nodes of a job at once (Cluster Autoscaler, GKE's flex-start), and
starts the job when they are there. Conditions are those of ProvisioningRequest
(k8s.io/autoscaler, autoscaling.x-k8s.io/v1), states those of a Workload's admission checks.
"""

from __future__ import annotations

from collections.abc import Sequence

from kij_train import commands
from kij_train.diagnosis.finding import Finding
from kij_train.diagnosis.jobview import Object, condition

PROVISIONING_REQUESTS = ("autoscaling.x-k8s.io", "provisioningrequests")
"""Group and resource."""
_RESOURCE = ".".join(reversed(PROVISIONING_REQUESTS))
_FAILED = {
    "Failed": "no nodes were given for it",
    "CapacityRevoked": "its nodes were taken away again",
    "BookingExpired": "its nodes were kept ready for it, and given up before it started",
}
"""Condition of a request that has come to nothing, the strongest first → what is said."""


def of_checks(workload: Object | None, requests: Sequence[Object], where: str) -> Finding | None:
    """What a job waits for that has its quota, and not all checks of its queue.

    None where it has no quota yet, or no such check. `requests` are the ProvisioningRequests of the
    namespace, as far as they may be read. `where` names the queue.
    """
    checks = [one for one in _checks(workload) if one.get("state") != "Ready"]
    if not checks:
        return None
    check = checks[0]
    name, state, message = str(check["name"]), check.get("state"), str(check.get("message") or "")
    request = _newest(workload, requests)
    head = f"{where} has room for it; "
    if request is None:
        kind = "no-node-coming" if state in ("Retry", "Rejected") else "queue-check"
        known = {"Retry": "did not pass, and is tried again", "Rejected": "has refused it"}
        summary = f"{head}check {name} of the queue {known.get(str(state), 'has not passed yet')}"
        look = commands.kubectl("get", _RESOURCE)
        return Finding(kind, summary, _quoted(message), f"where that check buys nodes: {look}")
    return _of_request(request, str(state), head, message)


def _of_request(request: Object, state: str, head: str, message: str) -> Finding:
    name = str(request["metadata"]["name"])
    of_class = str(request.get("spec", {}).get("provisioningClassName"))
    look = commands.kubectl("describe", _RESOURCE, name)
    for kind, words in _FAILED.items():
        failed = condition(request, kind)
        if failed is not None:
            then = {"Retry": ", and Kueue tries again", "Rejected": ", and Kueue gives it up"}
            said = str(failed.get("message") or message)
            hint = f"another queue or kind of machine: --queue NAME; all of it: {look}"
            return Finding(
                "no-node-coming", head + words + then.get(state, ""), _quoted(said), hint
            )
    if condition(request, "Provisioned") is not None:
        return Finding("node-coming", f"{head}its nodes are there, and it starts now", ())
    if condition(request, "Accepted") is not None:
        return Finding(
            "node-coming",
            f"{head}all its nodes are being bought together ({of_class})",
            _quoted(_provisioned_says(request) or message),
            f"how far it is: {look}",
        )
    return Finding(
        "queue-check",
        f"{head}no autoscaler has taken its request for nodes yet ({of_class})",
        _quoted(message),
        f"is one there that knows this class? {look}",
    )


def _checks(workload: Object | None) -> Sequence[Object]:
    """Of a Workload that has its quota; a check that failed takes the quota back."""
    status = (workload or {}).get("status", {})
    checks: Sequence[Object] = status.get("admissionChecks") or ()
    failed = any(one.get("state") in ("Retry", "Rejected") for one in checks)
    reserved = workload is not None and condition(workload, "QuotaReserved") is not None
    return checks if reserved or failed else ()


def _newest(workload: Object | None, requests: Sequence[Object]) -> Object | None:
    """Of every try there is a request, which the Workload owns."""
    uid = (workload or {}).get("metadata", {}).get("uid")
    ours = [
        one
        for one in requests
        if any(owner.get("uid") == uid for owner in one["metadata"].get("ownerReferences") or [])
    ]
    return max(ours, key=lambda one: str(one["metadata"].get("creationTimestamp")), default=None)


def _provisioned_says(request: Object) -> str:
    """What an autoscaler says while it buys: the condition is False until the nodes are there."""
    conditions = request.get("status", {}).get("conditions") or []
    return next((str(c.get("message") or "") for c in conditions if c["type"] == "Provisioned"), "")


def _quoted(message: str) -> tuple[str, ...]:
    return (message.strip(),) if message.strip() else ()
