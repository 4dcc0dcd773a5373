"""Names: DNS labels, label and annotation keys, and what kij-train itself calls things.

Everything that writes or selects a Kubernetes label imports it from here. The environment names of
the pod contract live in pod/contract.py: what runs in pods must stand alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kij_train import tokens

MANAGER = "kij-train"
"""Field manager, `app.kubernetes.io/managed-by`, and the `name` of every object."""

LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_JOB_NAME = "batch.kubernetes.io/job-name"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
"""Label and annotation that the Job controller puts on the pods of an Indexed Job."""

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
"""Label that the Job controller puts on pods, with the Job's uid."""
NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""Label of every namespace: its name."""
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
"""Taints of a machine that is not heard of."""

SUBMISSION = "kij-train/submission"
"""Annotation of a Job with an id, by which one whose creation was not answered is known."""
REQUEST = "kij-train/request"
"""Annotation of a Job with what it was made from: the values that are not defaults."""
USER = "kij-train/user"
"""Label of a Job with who launched it."""
LEFT_OUT = "kij-train/left-out"
"""Annotation of a Job: a JSON list of the biggest files and folders that its code was without."""
CANCELLED = "kij-train/cancelled"
"""Annotation of a Job that its user cancelled."""
CANCELLED_QUEUE = "kij-train/cancelled-queue"
"""Annotation of a cancelled Job with the queue that it was in."""

ARRAY = "kij-train/array"
"""Label of the Jobs and pods of an array: its name, which is that of the first Job."""
ATTEMPT = "kij-train/attempt"
"""Label beside it: 0 for the first Job, n for the n-th rerun."""

APP = "kij-train/app"
"""Label of a Job with the TorchX app it belongs to."""
ROLE = "kij-train/role"
ROLE_INDEX = "kij-train/role-index"
"""Annotations of a Job with the role of that app."""

PER_INDEX = "backoffLimitPerIndex"
"""Field of a Job that servers before 1.33 may drop."""
DEADLINE_EXCEEDED = "DeadlineExceeded"
"""Reason of a Job that did not end in activeDeadlineSeconds."""

CONTAINER = "train"
CODE_VOLUME = "bundle"
"""The pods' volume with the bootstrap and the code."""

QUEUE = "kueue.x-k8s.io/queue-name"
"""Label of a Job that waits for Kueue to admit it."""
KUEUE_GROUP = "kueue.x-k8s.io"
KUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
"""Label of a Job with its WorkloadPriorityClass."""
KUEUE_JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label of the Workload that Kueue makes of a Job."""
KUEUE_REQUIRED_TOPOLOGY = "kueue.x-k8s.io/podset-required-topology"
KUEUE_PREFERRED_TOPOLOGY = "kueue.x-k8s.io/podset-preferred-topology"
KUEUE_MIN_PARALLELISM = "kueue.x-k8s.io/job-min-parallelism"
"""Annotation of a Job that Kueue may admit with fewer pods at once."""
VOLCANO_MIN_MEMBER = "scheduling.volcano.sh/group-min-member"
VOLCANO_QUEUE = "scheduling.volcano.sh/queue-name"
COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"
NATIVE_GROUP = "scheduling.k8s.io"
NATIVE_VERSIONS = ("v1beta1", "v1alpha3", "v1alpha2")
"""Of Kubernetes' own PodGroup, the best first: 1.37 has the first two, 1.36 the last. What we write
of it is the same in all."""
COSCHEDULING_KIND = "PodGroup.scheduling.x-k8s.io"
NATIVE_KIND = f"PodGroup.{NATIVE_GROUP}"
"""PodGroups of two schedulers, as kubectl tells them apart."""
HOSTNAME = "kubernetes.io/hostname"

DNS_LABEL_MAX = 63
DNS_SUBDOMAIN_MAX = 253

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_KEY_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
# Names before values: an environment variable that is called so holds a secret more often than not.
_SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|(API|ACCESS|PRIVATE|SECRET)_?KEY)(_|$)",
    re.IGNORECASE,
)
# A path and Kubernetes' $(NAME) are no secrets, and --pad-token has a word.
_PASSWORD = re.compile(r"[^\s/$<][^\s/]{3,}")
_OPAQUE = re.compile(r"(?=\D*\d)(?=[^A-Za-z]*[A-Za-z])[\w+=~-]{8,}")
_SWITCHES = frozenset({"true", "false", "none", "null", "yes", "no"})


def check_job_name(name: str, nodes: int = 1) -> str:
    """A name whose every pod gets a host name: `<name>-<nodes-1>` must be a DNS-1123 label.

    It starts with a letter because the headless Service has the same name, and Service names had
    to before Kubernetes 1.36. Raises ValueError.
    """
    if _JOB_NAME.fullmatch(name) is None:
        suggestion = suggest_job_name(name)
        raise ValueError(
            "must be lower-case letters, digits and '-', starting with a letter and not ending "
            "with '-' (DNS-1123)" + (f". Did you mean {suggestion}?" if suggestion else "")
        )
    longest = f"{name}-{nodes - 1}"
    if len(longest) > DNS_LABEL_MAX:
        raise ValueError(
            f"is too long by {len(longest) - DNS_LABEL_MAX}: the host name of the last pod, "
            f"{longest}, may have {DNS_LABEL_MAX} characters"
        )
    return name


def suggest_job_name(text: str) -> str:
    """Text turned into a job name as far as its characters allow; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789").rstrip("-")


def attempt_name(array: str, number: int) -> str:
    """Name of the Job of an attempt: that of the array, or <array>-r1 of its first rerun."""
    return array if number == 0 else f"{array}-r{number}"


def generated_job_name(stem: str, suffix: str, nodes: int, room: int = 0) -> str:
    """`<stem>-<suffix>`, the stem shortened so that every pod's host name fits.

    `room` is left for more characters behind the name.
    """
    room = DNS_LABEL_MAX - room - len(f"-{suffix}-{nodes - 1}")
    return f"{(suggest_job_name(stem) or 'job')[:room].rstrip('-')}-{suffix}"


def parse_owner(text: str) -> dict[str, Any]:
    """VERSION/KIND/NAME/UID as a reference to the owner of an object. Raises ValueError."""
    parts = text.rsplit("/", 3)
    if len(parts) < 4 or not all(parts) or _KEY_NAME.fullmatch(parts[1]) is None:
        raise ValueError(
            "must look like VERSION/KIND/NAME/UID, such as batch/v1/Job/parent/0b29fdd6-7d7c-…"
        )
    version, kind, name, uid = parts
    return {
        "apiVersion": version,
        "kind": kind,
        "name": check_object_name(name),
        "uid": uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }


def check_owner(text: str) -> str:
    """The owner of an object, as parse_owner reads it."""
    parse_owner(text)
    return text


def check_object_name(name: str) -> str:
    """The name of a Secret, claim, ConfigMap and the like (DNS-1123 subdomain)."""
    if len(name) > DNS_SUBDOMAIN_MAX or _DNS_SUBDOMAIN.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no object name: lower-case letters, digits, '-' and '.'")
    return name


def check_namespace(name: str) -> str:
    """A namespace (DNS-1123 label)."""
    if len(name) > DNS_LABEL_MAX or _DNS_LABEL.fullmatch(name) is None:
        raise ValueError("is no namespace name: lower-case letters, digits and '-', 63 at most")
    return name


def check_key(key: str) -> str:
    """A label or annotation key, or an extended resource: `[prefix/]name`."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > DNS_SUBDOMAIN_MAX or _DNS_SUBDOMAIN.fullmatch(prefix) is None):
        raise ValueError(f"{key!r}: the part before '/' must be a DNS name like example.com")
    if len(name) > DNS_LABEL_MAX or _KEY_NAME.fullmatch(name) is None:
        raise ValueError(
            f"{key!r} is no key: letters, digits, '-', '_' and '.', at most 63 after the '/'"
        )
    return key


def check_label_value(value: str) -> str:
    """The value of a label."""
    if len(value) > DNS_LABEL_MAX or _LABEL_VALUE.fullmatch(value) is None:
        raise ValueError(
            f"{value!r} is no label value: letters, digits, '-', '_' and '.', 63 at most"
        )
    return value


# https://github.com/distribution/reference/blob/main/regexp.go
_HOST_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"((?:{_HOST}/)?{_PATH_PART}(?:/{_PATH_PART})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_IMAGE_NAME_MAX = 255
_IMAGE_MAX = 1024
"""A name, a tag of 128 characters and the longest digest have less than half of them."""


def check_image(text: str) -> str:
    """A reference of a container image: [HOST[:PORT]/]NAME[:TAG][@DIGEST]. Raises ValueError."""
    if not text:
        raise ValueError("is empty: is a variable unset?")
    found = _IMAGE.fullmatch(text) if len(text) <= _IMAGE_MAX else None
    if found is not None and len(found[1]) <= _IMAGE_NAME_MAX:
        return text
    if found is not None or len(text) > _IMAGE_MAX:
        raise ValueError(f"is too long: an image's name has {_IMAGE_NAME_MAX} characters at most")
    if _IMAGE.fullmatch(text.lower()):
        raise ValueError("is no image: its name must be in lower case, as its tag need not")
    raise ValueError("is no image. Write it like registry.example.com/team/train:1.0")


def check_text(text: str) -> str:
    """What a program's arguments and environment, and an object of Kubernetes, can hold."""
    if "\0" in text:
        raise ValueError("holds a NUL byte, which no argument, variable or object can carry")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("is no UTF-8, the only text that objects of Kubernetes can carry")
    return text


def check_texts(value: Any) -> Any:
    """The same of all texts in lists and mappings."""
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, dict | list):
        for each in value.items() if isinstance(value, dict) else value:
            check_texts(list(each) if isinstance(each, tuple) else each)
    return value


def check_env_name(name: str) -> str:
    """The name of an environment variable, as Kubernetes of any supported version takes it."""
    if _ENV_NAME.fullmatch(name) is None or name.startswith(".."):
        raise ValueError(f"{name!r} is no name for an environment variable")
    return name


def looks_secret(name: str, value: str) -> bool:
    """Whether an environment variable looks like a credential; empty values never do."""
    if not value:
        return False
    if _SECRET_NAME.search(name) is not None:
        return True
    return tokens.is_in_value(value)


def looks_secret_beside(name: str, value: str) -> bool:
    """The same of an option, label or annotation, whose names speak of tokens that are words."""
    if tokens.is_in_value(value):
        return True
    found = _SECRET_NAME.search(re.sub(r"[-./]", "_", name))
    if found is None or value.lower() in _SWITCHES:
        return False
    form = _PASSWORD if found[2].upper().startswith("PASS") else _OPAQUE
    return form.fullmatch(value) is not None


def secret_arguments(arguments: Sequence[str]) -> dict[int, str]:
    """Which of a program's arguments look like credentials; with what to call each."""
    found: dict[int, str] = {}
    option = ""
    for index, argument in enumerate(arguments):
        before, equals, after = argument.partition("=")
        name, value = (before, after) if equals else (option, argument)
        if looks_secret_beside(name, value) or tokens.is_in_value(argument):
            shown = name if name and not tokens.is_in_value(name) else f"argument {index + 1}"
            found[index] = shown
        option = argument if argument.startswith("-") and not equals else ""
    return found
