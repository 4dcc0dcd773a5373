"""Queues of the real Kueue for a namespace of the test cluster, and jobs that hold their quota."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client

from tests.kube import Namespace, eventually

GROUP, VERSION = "kueue.x-k8s.io", "v1beta2"
QUEUE = "team-a"
MACHINES = ("node-1", "node-2")
KINDS = (
    *("ClusterQueue", "ResourceFlavor", "Topology", "WorkloadPriorityClass"),
    *("AdmissionCheck", "ProvisioningRequestConfig"),
)
"""Of the cluster, in the order in which they are removed."""
Object = dict[str, Any]


@dataclass(frozen=True)
class Quota:
    """A ClusterQueue, of one flavor, for one namespace."""

    cores: str
    racks: str = ""
    """Label of machines by which Kueue knows places; "" for none."""
    flavor: Mapping[str, Any] = field(default_factory=dict)
    """Of the flavor's spec."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Of the ClusterQueue's spec."""


def make(ns: Namespace, quota: Quota) -> None:
    """The ClusterQueue, named as the namespace, with a LocalQueue team-a there."""
    flavor = dict(quota.flavor)
    if quota.racks:
        for number, machine in enumerate(MACHINES):
            labels = {quota.racks: f"r{number}", f"{quota.racks}s": "true"}
            ns.core.patch_node(machine, {"metadata": {"labels": labels}})
        levels = [{"nodeLabel": quota.racks}, {"nodeLabel": "kubernetes.io/hostname"}]
        create(ns, "Topology", {"levels": levels})
        flavor |= {"nodeLabels": {f"{quota.racks}s": "true"}, "topologyName": ns.name}
    create(ns, "ResourceFlavor", flavor)
    cpu = {"name": "cpu", "nominalQuota": quota.cores}
    flavors = [{"name": ns.name, "resources": [cpu]}]
    spec = {
        "namespaceSelector": {},
        "resourceGroups": [{"coveredResources": ["cpu"], "flavors": flavors}],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    create(ns, "ClusterQueue", {**spec, **quota.more})
    local(ns, QUEUE)


def local(ns: Namespace, name: str) -> None:
    """A LocalQueue of the namespace's ClusterQueue."""
    body = {**_head("LocalQueue", name), "spec": {"clusterQueue": ns.name}}
    custom(ns).create_namespaced_custom_object(GROUP, VERSION, ns.name, "localqueues", body)


def create(ns: Namespace, kind: str, spec: Object) -> None:
    """An object of the cluster, named as the namespace."""
    body = {**_head(kind, ns.name), "spec": spec}
    custom(ns).create_cluster_custom_object(GROUP, VERSION, _plural(kind), body)


def priority(ns: Namespace, value: int) -> str:
    """The name of a new WorkloadPriorityClass."""
    name = f"{ns.name}-{value}"
    body = {**_head("WorkloadPriorityClass", name), "value": value}
    custom(ns).create_cluster_custom_object(GROUP, VERSION, "workloadpriorityclasses", body)
    return name


def remove(ns: Namespace) -> None:
    """All of them, when their jobs are gone."""
    api = custom(ns)
    for machine in MACHINES:
        labels = ns.core.read_node(machine).metadata.labels
        ours = {label: None for label in labels if label.startswith("kij-train.test/rack")}
        ns.core.patch_node(machine, {"metadata": {"labels": ours}})
    for kind in KINDS:
        for body in api.list_cluster_custom_object(GROUP, VERSION, _plural(kind))["items"]:
            name = body["metadata"]["name"]
            if name.startswith(ns.name):
                api.delete_cluster_custom_object(GROUP, VERSION, _plural(kind), name)


def hold(ns: Namespace, image: str, cores: str, *, urgent: bool = False) -> None:
    """Have a job `holder` of one pod admitted; an urgent one preempts others."""
    labels = {"kueue.x-k8s.io/queue-name": QUEUE}
    if urgent:
        labels["kueue.x-k8s.io/priority-class"] = priority(ns, 1000)
    resources = {"requests": {"cpu": cores}, "limits": {"cpu": cores}}
    container = {"name": "c", "image": image, "command": ["sleep", "600"], "resources": resources}
    pod = {"restartPolicy": "Never", "containers": [container], "terminationGracePeriodSeconds": 0}
    spec = {"suspend": True, "template": {"spec": pod}}
    meta = {"name": "holder", "labels": labels}
    ns.batch.create_namespaced_job(ns.name, {"metadata": meta, "spec": spec})
    assert eventually(lambda: not ns.batch.read_namespaced_job("holder", ns.name).spec.suspend)


def workload(ns: Namespace, job: str) -> Object:
    """What Kueue has of a Job."""
    uid = ns.batch.read_namespaced_job(job, ns.name).metadata.uid
    selector = f"kueue.x-k8s.io/job-uid={uid}"
    (one,) = custom(ns).list_namespaced_custom_object(
        GROUP, VERSION, ns.name, "workloads", label_selector=selector
    )["items"]
    return dict(one)


def custom(ns: Namespace) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(ns.api)


def _head(kind: str, name: str) -> Object:
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}}


def _plural(kind: str) -> str:
    plain = kind.lower()
    if plain.endswith("s"):
        return f"{plain}es"
    return f"{plain[:-1]}ies" if plain.endswith("y") else f"{plain}s"
