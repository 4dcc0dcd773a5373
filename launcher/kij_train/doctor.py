"""Before the first launch: what this machine has, and what a cluster and a namespace let one do.

Each check is one or two requests that change nothing. One that may not be made, because the user
lacks a right that training does not need, is skipped and says so.
"""

from __future__ import annotations

import enum
import importlib.metadata
import importlib.util
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis, names, runs, units
from kij_train.arrays.items import from_values
from kij_train.diagnosis import places
from kij_train.errors import KijError, RefusedError
from kij_train.spec import TOPOLOGIES, ArraySpec, JobSpec
from kij_train.specfile import Resolved

if TYPE_CHECKING:
    from kij_train.cluster import Cluster, Entry

OLDEST_MINOR, NEWEST_MINOR = 31, 37
"""Kubernetes 1.x that is tested."""

RIGHTS = (
    ("batch", "jobs", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "services", ("create",)),
    ("", "configmaps", ("create", "patch")),
    ("", "pods", ("list", "watch")),
    ("", "pods/log", ("get",)),
    ("", "pods/exec", ("create", "get")),
    ("", "pods/portforward", ("create", "get")),
    ("", "events", ("list",)),
    ("", "resourcequotas", ("list",)),
)
"""API group, resource and verbs that every launch uses; manifests/role.yaml grants them."""

ENFORCERS = {
    "cilium.io": "Cilium",
    "projectcalico.org": "Calico",
    "antrea.io": "Antrea",
    "k8s.ovn.org": "OVN-Kubernetes",
}
"""API group, or the end of one, → the network that brings it and enforces NetworkPolicies."""

ARGO_GROUP = "argoproj.io"
ARGO_RIGHTS = (
    (ARGO_GROUP, "workflowtemplates", ("create",)),
    (ARGO_GROUP, "workflows", ("create",)),
    ("", "serviceaccounts", ("create",)),
    ("rbac.authorization.k8s.io", "roles", ("create",)),
    ("rbac.authorization.k8s.io", "rolebindings", ("create",)),
)
"""What it takes to apply what `render --format argo` prints, and to run it."""

GANG_SCHEDULERS = {
    "kueue.x-k8s.io": "Kueue",
    "scheduling.volcano.sh": "Volcano",
    "scheduling.x-k8s.io": "coscheduling",
}
"""API group → what brings it."""
OPERATORS = {
    "jobset.x-k8s.io": "JobSet (kij-train render --format jobset)",
    "trainer.kubeflow.org": "Kubeflow Trainer (kij-train render --format trainjob)",
}
"""API group → what takes a job in its own format."""


class Result(str, enum.Enum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    result: Result
    detail: str
    hint: str | None = None
    cause: KijError | None = None
    """What ends the checks: nothing behind it can be asked."""


def of_this_machine() -> Iterator[Check]:
    """Python and torch; torch is for --local alone."""
    yield Check("python", Result.OK, platform.python_version())
    if importlib.util.find_spec("torch") is None:
        hint = "for --local: pip install 'kij-train[local]'"
        yield Check("torch", Result.WARNING, "not installed; only --local needs it", hint)
    else:
        yield Check("torch", Result.OK, f"{importlib.metadata.version('torch')}, for --local")


def of_cluster(resolved: Resolved) -> Iterator[Check]:
    """The way to the cluster, and everything about it and the namespace.

    `resolved` gives kubeconfig, context, namespace and image.
    """
    spec = resolved.spec
    doing = "kubeconfig"
    try:
        entry = _entry(spec)
        yield _kubeconfig(entry)
        doing = "credentials"
        cluster = runs.connect(spec)  # runs the credential plugin
        yield _credentials(entry)
        doing = "server"
        yield _version(cluster)
        for doing, check in (
            ("namespace", _namespace),
            ("permissions", _rights),
            ("quota", _quotas),
            ("gpus", _gpus),
            ("topology", partial(topology, resolved.spec)),
            ("bought on demand", _bought),
            ("gang scheduler", partial(_gang, resolved)),
            ("queues", _queues),
            ("other operators", _operators),
            ("arrays", arrays),
            ("network policy", _policy),
            ("argo", argo_workflows),
        ):
            yield _guarded(doing, check, cluster)
    except KijError as error:
        hint = " · ".join(error.hints) or None
        yield Check(doing, Result.FAILED, error.message, hint, cause=error)
    else:
        yield _dry_run(cluster, resolved)


def _guarded(name: str, check: Callable[[Cluster], Check], cluster: Cluster) -> Check:
    try:
        return check(cluster)
    except RefusedError as error:
        return Check(name, Result.SKIPPED, f"may not be asked: {error.message}")


def _entry(spec: JobSpec) -> Entry | None:
    """Of the kubeconfig; None in a pod without one, whose service account serves."""
    from kij_train.cluster import Entry, find_kubeconfig

    path = find_kubeconfig(spec.kubeconfig, spec.context)
    return None if path is None else Entry.of(path, spec.context)


def _kubeconfig(entry: Entry | None) -> Check:
    if entry is None:
        return Check("kubeconfig", Result.OK, "none: this is a pod, with a service account")
    of = f"context {entry.context}, cluster {entry.cluster}, user {entry.user or 'nobody'}"
    return Check("kubeconfig", Result.OK, f"{entry.path}: {of}")


def _credentials(entry: Entry | None) -> Check:
    if entry is None:
        return Check("credentials", Result.OK, "token of the service account")
    if entry.credentials.startswith("none"):
        hint = "name another context, if the server asks who you are: --context NAME"
        return Check("credentials", Result.WARNING, entry.credentials, hint)
    works = ", which works" if entry.runs_plugin else ""
    return Check("credentials", Result.OK, entry.credentials + works)


def _version(cluster: Cluster) -> Check:
    from kij_train.cluster import served

    said = cluster.version()
    minor = served.minor(said)
    by = f", through {cluster.proxy}" if cluster.proxy is not None else ""
    text = f"{said['gitVersion']} at {cluster.host}{by}"
    if minor < OLDEST_MINOR:
        hint = f"kij-train is tested with 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}"
        return Check("server", Result.WARNING, f"{text} is old", hint)
    if minor > NEWEST_MINOR:
        hint = f"kij-train is tested with 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}"
        return Check("server", Result.OK, f"{text}, newer than what kij-train is tested with", hint)
    if minor < served.RESERVE_MINOR:
        text += f"; before 1.{served.RESERVE_MINOR}, a Job makes another pod for one that "
        text += "--restart has lost only after 10 s, and 20 s the next time"
    return Check("server", Result.OK, text)


def _namespace(cluster: Cluster) -> Check:
    labels = cluster.get("Namespace", cluster.namespace)["metadata"].get("labels") or {}
    level = labels.get("pod-security.kubernetes.io/enforce", "privileged")
    hint = "launch with --run-as-user 1000" if level == "restricted" else None
    return Check("namespace", Result.OK, f"{cluster.namespace}, Pod Security {level}", hint)


def _rights(cluster: Cluster) -> Check:
    missing = missing_rights(cluster, RIGHTS)
    if missing:
        grant = cluster.address.kubectl("apply", "-f", "manifests/role.yaml")
        hint = f"an admin can grant it: {grant}"
        return Check("permissions", Result.FAILED, f"missing: {', '.join(missing)}", hint)
    return Check("permissions", Result.OK, "all that kij-train uses")


def missing_rights(
    cluster: Cluster, rights: Iterable[tuple[str, str, tuple[str, ...]]]
) -> list[str]:
    """Of API groups, resources and verbs, those that whoever asks may not use."""
    return [
        f"{verb} {resource}"
        for group, resource, verbs in rights
        for verb in verbs
        if not _allowed(cluster, group, resource, verb)
    ]


def _allowed(cluster: Cluster, group: str, resource: str, verb: str) -> bool:
    resource, _, subresource = resource.partition("/")
    asked = {
        "namespace": cluster.namespace,
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return bool(cluster.create(review)["status"]["allowed"])


def _quotas(cluster: Cluster) -> Check:
    parts = []
    for quota in cluster.list("ResourceQuota"):
        status = quota.get("status", {})
        used = status.get("used") or {}
        for what, hard in (status.get("hard") or {}).items():
            parts.append(f"{what} {_left(str(hard), str(used.get(what, '0')))}")
    return Check("quota", Result.OK, ", ".join(parts) or "none")


def _left(hard: str, used: str) -> str:
    spent = f"{used} of {hard} used"
    try:
        return f"{units.quantity_left(hard, used)} left ({spent})"
    except ValueError:  # in billionths, which kij-train does not reckon with
        return spent


def _gpus(cluster: Cluster) -> Check:
    machines = cluster.list("Node")
    offer = diagnosis.of_machines(machines)
    classes = _device_classes(cluster)
    of_all = f"{len(machines)} machine{'' if len(machines) == 1 else 's'}"
    said = [", ".join(offer.counted)] if offer.counted else []
    said += [f"claims: {diagnosis.of_classes(classes)}"] if classes else []
    if not said:
        hint = "train on CPUs: --profile cpu-gloo"
        bought = "; where machines are bought on demand, they come when a job asks for them"
        return Check("gpus", Result.WARNING, f"{of_all}, none with GPUs{bought}", hint)
    detail = "; ".join([f"{of_all}: {said[0]}", *said[1:], *offer.notes])
    return Check("gpus", Result.WARNING if offer.hint else Result.OK, detail, offer.hint)


def _device_classes(cluster: Cluster) -> list[dict[str, Any]]:
    """What pods may claim, as far as the user may know."""
    if diagnosis.DEVICE_CLASSES[0] not in cluster.groups():
        return []
    try:
        return cluster.custom(*diagnosis.DEVICE_CLASSES, everywhere=True) or []
    except RefusedError:
        return []


def _bought(cluster: Cluster) -> Check:
    """Who buys machines, as far as the API shows it: Cluster Autoscaler alone leaves no trace."""
    found, groups = [], cluster.groups()
    if diagnosis.KARPENTER[0] in groups:
        try:
            pools = cluster.custom(*diagnosis.KARPENTER, everywhere=True) or []
            found.append(f"Karpenter: {', '.join(map(diagnosis.of_pool, pools)) or 'no NodePools'}")
        except RefusedError:
            found.append("Karpenter, whose NodePools your user may not see")
    if diagnosis.PROVISIONING_REQUESTS[0] in groups:
        found.append("all machines of a job together, in queues that ask for them")
    return Check("bought on demand", Result.OK, "; ".join(found) or "nobody who says so")


def topology(spec: JobSpec, cluster: Cluster) -> Check:
    """Which levels of --topology the labels of machines allow, and which of them hold the job."""
    asked = {"cpu": spec.cpu, "memory": spec.memory}
    requests = {one: units.quantity_value(amount) for one, amount in asked.items() if amount}
    if spec.gpu_resource is not None and spec.gpus:
        requests[spec.gpu_resource] = Decimal(spec.gpus)
    label, _, mode = (spec.topology or "").partition(":")
    short = {label: name for name, label in TOPOLOGIES.items() if name != "host"}
    found = places.levels(cluster.list("Node"), {*short, label} - {names.HOSTNAME}, requests)
    wanted = "" if label == names.HOSTNAME else label
    said = places.text(found, short, spec.pods, wanted, required=mode == "required")
    warns = said.hint is not None
    return Check("topology", Result.WARNING if warns else Result.OK, said.detail, said.hint)


def _gang(resolved: Resolved, cluster: Cluster) -> Check:
    groups = cluster.groups()
    found = [what for group, what in GANG_SCHEDULERS.items() if group in groups]
    refused, hint = "", None
    served = cluster.versions(names.NATIVE_GROUP)
    best = next((version for version in names.NATIVE_VERSIONS if version in served), None)
    if best is not None:
        # Served is not enough: with its feature gate off, the pods lose their group silently.
        native = f"native ({names.NATIVE_GROUP}/{best})"
        try:
            _try_job(cluster, resolved, nodes=2, scheduler="native", queue=None)
            found.append(native)
        except KijError as error:
            refused, hint = f"; {native} is refused: {error.message}", " · ".join(error.hints)
    if found:
        return Check("gang scheduler", Result.OK, ", ".join(found) + refused)
    none = "none: nodes of a job start one by one, and may hold GPUs while they wait for the rest"
    return Check("gang scheduler", Result.WARNING, none + refused, hint or None)


def _policy(cluster: Cluster) -> Check:
    if not _allowed(cluster, "networking.k8s.io", "networkpolicies", "create"):
        grant = cluster.address.kubectl("apply", "-f", "manifests/role.yaml")
        detail = "may not be created: whoever reaches a job's pods may connect to them"
        return Check("network policy", Result.WARNING, detail, f"an admin can grant it: {grant}")
    groups = cluster.groups()
    found = [
        what
        for end, what in ENFORCERS.items()
        if any(group == end or group.endswith(f".{end}") for group in groups)
    ]
    if found:
        known = f"this cluster has {', '.join(found)}, which enforces it"
    else:
        known = "whether this cluster's network enforces it cannot be seen from here"
    return Check("network policy", Result.OK, f"every job gets one; {known}")


def _queues(cluster: Cluster) -> Check:
    found = cluster.custom(names.KUEUE_GROUP, "localqueues")
    if found is None:
        return Check("queues", Result.OK, "none: the cluster has no Kueue")
    if not found:
        hint = "an admin makes a LocalQueue in it, for --queue"
        return Check("queues", Result.WARNING, f"none in namespace {cluster.namespace}", hint)
    said = sorted(f"{one['metadata']['name']} ({_of_queue(one)})" for one in found)
    return Check("queues", Result.OK, f"--queue {', '.join(said)}")


def _of_queue(queue: Mapping[str, Any]) -> str:
    """What a LocalQueue says of itself."""
    status = queue.get("status", {})
    waiting = int(status.get("pendingWorkloads") or 0)
    said = f"ClusterQueue {queue['spec'].get('clusterQueue')}, {waiting} waiting"
    active = [one for one in status.get("conditions") or () if one["type"] == "Active"]
    if active and active[0]["status"] != "True":
        said += f", admits nothing: {active[0].get('message')}"
    return said


def _operators(cluster: Cluster) -> Check:
    groups = cluster.groups()
    found = [what for group, what in OPERATORS.items() if group in groups]
    return Check("other operators", Result.OK, ", ".join(found) or "none")


def arrays(cluster: Cluster) -> Check:
    """Whether the server counts retries an index, from 1.33 on always: asked with a dry run."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "item.py").touch()
        spec = ArraySpec(script="item.py", name=f"{names.MANAGER}-doctor")
        place, cwd = runs.OnCluster(cluster), Path(folder)
        plan = runs.plan_array(Resolved(spec, {}), from_values(["a"]), cwd=cwd, place=place)
        try:
            job = runs.dry_run(plan, cluster)[-1]
        except KijError as error:
            hint = " · ".join(error.hints) or None
            return Check("arrays", Result.FAILED, error.message, hint)
    if names.PER_INDEX in job["spec"]:
        return Check("arrays", Result.OK, "each index has its own retries")
    return Check(
        "arrays",
        Result.WARNING,
        f"the server drops {names.PER_INDEX}: retries of an array are counted for all its indexes",
        "it takes Kubernetes 1.33, or its feature gate JobBackoffLimitPerIndex",
    )


def argo_workflows(cluster: Cluster) -> Check:
    """Whether the cluster has Argo Workflows, and would see a mistake in a template."""
    only = "only render --format argo needs it"
    if ARGO_GROUP not in cluster.groups():
        return Check("argo", Result.SKIPPED, f"Argo Workflows is not installed; {only}")
    missing = missing_rights(cluster, ARGO_RIGHTS)
    if missing:
        hint = "an admin applies what kij-train render --format argo prints"
        return Check("argo", Result.WARNING, f"missing: {', '.join(missing)}; {only}", hint)
    name = f"{names.MANAGER}-doctor"
    step = {"name": "main", "container": {"image": "none"}}
    body: dict[str, Any] = {
        "apiVersion": f"{ARGO_GROUP}/v1alpha1",
        "kind": "WorkflowTemplate",
        "metadata": {"name": name},
        "spec": {"entrypoint": "main", "templates": [step]},
    }
    try:
        cluster.create(body, dry_run=True)
    except RefusedError:
        raise
    except KijError as error:  # the group is also that of Argo CD
        return Check("argo", Result.SKIPPED, f"no Argo Workflows: {error.message}; {only}")
    try:
        cluster.create({**body, "spec": {**body["spec"], "noSuchField": 1}}, dry_run=True)
    except RefusedError:
        return Check("argo", Result.OK, "Argo Workflows, whose CRDs check every field")
    return Check(
        "argo",
        Result.WARNING,
        "Argo Workflows, whose CRDs have no schemas, as those of 3.x: a mistake in a template is "
        "seen only when it runs",
        "templates are tested with 4.0; its CRDs with schemas: manifests/base/crds/full of "
        "argoproj/argo-workflows, applied with kubectl apply --server-side",
    )


def _dry_run(cluster: Cluster, resolved: Resolved) -> Check:
    try:
        _try_job(cluster, resolved)
    except KijError as error:
        return Check("dry run", Result.FAILED, error.message, " · ".join(error.hints) or None)
    return Check("dry run", Result.OK, "the server would take a job of one node")


def _try_job(cluster: Cluster, resolved: Resolved, **fields: object) -> None:
    """Ask the server whether it would take a job. Raises what the launch of it would."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train.py").touch()
        fields |= {"script": "train.py", "code_dir": ".", "name": f"{names.MANAGER}-doctor"}
        spec = resolved.spec.model_copy(update=fields)
        plan = runs.plan(Resolved(spec, {}), cwd=Path(folder), place=runs.OnCluster(cluster))
        runs.dry_run(plan, cluster)
