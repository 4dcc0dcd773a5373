"""What quotas, Pod Security and the cluster's own rules say against pods and other objects.

A request is refused in these words, and so are the pods that the Job controller creates, which then
stand in an event of the Job. The texts are those of k8s.io/apiserver/pkg/admission, of its plugins
resourcequota and podsecurity, and of its webhooks and policies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kij_train import commands

_DENIED = re.compile(r"admission webhook .* denied the request|AdmissionPolicy .* denied request")
_QUOTA = re.compile(r"\b(exceeded|failed) quota: ")
_POD_SECURITY = "violates PodSecurity"


@dataclass(frozen=True)
class Refusal:
    """A refusal whose words are known."""

    kind: str
    """As of a Finding."""
    clause: str
    """What the namespace does, to stand behind its name."""
    said: str
    """The cluster's own words, as far as they are about that."""
    hint: str | None
    """A command in it is a mark."""


def refusal_in(message: str, what: str) -> Refusal | None:
    """The refusal that a message of the API server is; None for words of anybody else.

    `what` is refused, such as "the pods". A webhook's refusal is looked for first: it may be about
    anything, in the words of any other one.
    """
    if _DENIED.search(message):
        return Refusal(
            "refused",
            f"refuses {what}",
            message,
            "it is a rule of this cluster's admins. What it asks for may be a flag: "
            "--label KEY=VALUE, --annotation KEY=VALUE",
        )
    said = message.partition("is forbidden: ")[2] or message
    quota = _QUOTA.search(message)
    if quota is not None and quota[1] == "failed":
        hint = "give them: --cpu 4 --memory 16Gi"
        return Refusal("quota", "has a quota that asks for numbers", said, hint)
    if quota is not None:
        hint = f"ask for less, or wait; what is used: {commands.command('doctor')}"
        return Refusal("quota", "has no quota left", said, hint)
    if _POD_SECURITY in message:
        as_root = "runAsNonRoot" in message
        return Refusal(
            "pod-security",
            f"refuses {what} by its Pod Security level",
            _POD_SECURITY + message.partition(_POD_SECURITY)[2],
            "run as a user other than root: --run-as-user 1000" if as_root else None,
        )
    return None
