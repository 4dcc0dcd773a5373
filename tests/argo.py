"""Argo Workflows for tests: the real controller for a namespace, and what it makes of workflows."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client

from tests import controllers
from tests.cluster import images, network, parts
from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.kube import Namespace, eventually

GROUP, VERSION = "argoproj.io", "v1alpha1"
CRDS = Path("manifests/base/crds/full")
CHECKED = ("workflows", "workflowtemplates", "workflowtaskresults")
"""Kinds whose CRDs have full schemas here: all that a template or a test writes."""
UNCHECKED = {
    "workflowtasksets": "WorkflowTaskSet",
    "workflowartifactgctasks": "WorkflowArtifactGCTask",
    "cronworkflows": "CronWorkflow",
    "clusterworkflowtemplates": "ClusterWorkflowTemplate",
}
"""The controller waits for these, too. Full schemas of all would cost the server a minute."""
ENDED = ("Succeeded", "Failed", "Error")
PATIENCE_S = 240.0


class Argo:
    """A namespace in which workflows run."""

    def __init__(self, ns: Namespace, step_image: str) -> None:
        self.ns = ns
        self.step_image = step_image
        self.objects = client.CustomObjectsApi(ns.api)

    def apply(self, path: Path, *flags: str) -> dict[str, Any]:
        """Render what a file says, apply it as users are told to, and give the template."""
        line = ("render", "--format", "argo", "-o", "json", *flags, "-f", str(path))
        done = self.ns.kij_train(*line, cwd=path.parent)
        assert done.returncode == 0, done.stderr
        kubectl(self.ns.kubeconfig, "apply", "--server-side", "-f", "-", stdin=done.stdout)
        template: dict[str, Any] = json.loads(done.stdout)["items"][-1]
        return template

    def submit(self, template: str, **parameters: str) -> str:
        """Start a workflow, as `argo submit --from` does, and give its name."""
        listed = [{"name": name, "value": value} for name, value in parameters.items()]
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Workflow",
            "metadata": {"generateName": f"{template}-"},
            "spec": {
                "workflowTemplateRef": {"name": template},
                "arguments": {"parameters": listed},
            },
        }
        made = self.objects.create_namespaced_custom_object(
            GROUP, VERSION, self.ns.name, "workflows", body
        )
        return str(made["metadata"]["name"])

    def get(self, name: str) -> dict[str, Any]:
        """A workflow as it is now."""
        found: dict[str, Any] = self.objects.get_namespaced_custom_object(
            GROUP, VERSION, self.ns.name, "workflows", name
        )
        return found

    def patch(self, name: str, body: Mapping[str, Any]) -> None:
        """Change a workflow, as `argo stop` does."""
        self.objects.patch_namespaced_custom_object(
            GROUP, VERSION, self.ns.name, "workflows", name, body
        )

    def ended(self, name: str) -> dict[str, Any]:
        """The workflow once it has ended."""
        assert eventually(lambda: phase_of(self.get(name)) in ENDED, PATIENCE_S), self.said(name)
        return self.get(name)

    def job_of(self, workflow: str, step: str) -> Any:
        """The Job of a step, once there is one."""
        found: list[Any] = []

        def look() -> bool:
            selector = f"workflows.argoproj.io/workflow={workflow}"
            jobs = self.ns.batch.list_namespaced_job(self.ns.name, label_selector=selector).items
            found[:] = [job for job in jobs if job.metadata.name.startswith(f"{workflow}-{step}-")]
            return bool(found)

        assert eventually(look, PATIENCE_S), self.said(workflow)
        return found[0]

    def log_of(self, node: Mapping[str, Any]) -> str:
        """What a container step has said."""
        selector = f"workflows.argoproj.io/workflow={node['name'].partition('.')[0]}"
        pods = self.ns.core.list_namespaced_pod(self.ns.name, label_selector=selector).items
        (pod,) = [one.metadata.name for one in pods if one.metadata.name.endswith(_hash_of(node))]
        return str(self.ns.core.read_namespaced_pod_log(pod, self.ns.name, container="main"))

    def said(self, name: str) -> str:
        """What is known of a workflow, for a test that failed."""
        lines = [json.dumps(node) for node in nodes_of(self.get(name)).values()]
        for pod in self.ns.core.list_namespaced_pod(self.ns.name).items:
            for container in ("main", "wait"):
                with contextlib.suppress(client.ApiException):
                    log = self.ns.core.read_namespaced_pod_log(
                        pod.metadata.name, self.ns.name, container=container, tail_lines=30
                    )
                    lines += [
                        f"{pod.metadata.name} {container} | {one}" for one in log.splitlines()
                    ]
        return "\n".join([*lines, self.ns.report()])


def _hash_of(node: Mapping[str, Any]) -> str:
    """What the name of a node's pod ends with."""
    return str(node["id"]).rpartition("-")[2]


def phase_of(workflow: Mapping[str, Any]) -> str:
    """Of the workflow; empty before the controller has seen it."""
    return str((workflow.get("status") or {}).get("phase") or "")


def nodes_of(workflow: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Its nodes, by the names that people see."""
    nodes = (workflow.get("status") or {}).get("nodes") or {}
    return {str(node["displayName"]): node for node in nodes.values()}


def outputs_of(node: Mapping[str, Any]) -> dict[str, str]:
    """The output parameters of a node."""
    listed = (node.get("outputs") or {}).get("parameters") or []
    return {one["name"]: one.get("value", "") for one in listed}


def kubectl(kubeconfig: str, *words: str, stdin: str | None = None) -> str:
    """Run kubectl. Raises AssertionError with what it said."""
    line = ["kubectl", "--kubeconfig", kubeconfig, *words]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _write_crds(folder: Path, part: Path) -> None:
    folder.mkdir(exist_ok=True)
    for kind in CHECKED:
        file = f"{GROUP}_{kind}.yaml"
        shutil.copy(part / CRDS / file, folder / file)
    for plural, kind in UNCHECKED.items():
        body = unchecked(plural, kind, "Cluster" if plural.startswith("cluster") else "Namespaced")
        (folder / f"{plural}.json").write_text(json.dumps(body))


def unchecked(plural: str, kind: str, scope: str = "Namespaced") -> dict[str, Any]:
    """A CRD that takes any field, as those of Argo 3 do."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": VERSION, "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{**version, "schema": {"openAPIV3Schema": anything}}],
        },
    }


@contextmanager
def controller(ns: Namespace, log: Path) -> Iterator[Argo]:
    """Argo Workflows for a namespace: its CRDs, its controller and its images."""
    paths, part = StatePaths.of_this_clone(), parts.found("argo")
    executor = images.with_program(paths, part / "argoexec")
    step_image = images.with_kij_train(paths)
    crds = log.parent / "crds"
    _write_crds(crds, part)
    flags = ("-f", str(crds))
    kubectl(ns.kubeconfig, "apply", "--server-side", "--force-conflicts", *flags)
    kubectl(ns.kubeconfig, "wait", "--for=condition=Established", "--timeout=120s", *flags)
    name = "workflow-controller-configmap"
    # There is no ClusterIP at which pods could reach the API server.
    state = State.of_running(paths)
    assert state is not None
    family = network.IPV6 if state.ipv6 else network.IPV4
    env = [
        {"name": "KUBERNETES_SERVICE_HOST", "value": family.addresses()[0]},
        {"name": "KUBERNETES_SERVICE_PORT", "value": str(network.API_PORT)},
    ]
    settings = json.dumps({"executor": {"env": env}, "mainContainer": {"env": env}})
    config = {"metadata": {"name": name}, "data": {"config": settings}}
    ns.core.create_namespaced_config_map(ns.name, config)
    argv: list[str | Path] = [
        part / "workflow-controller",
        *(
            "--kubeconfig",
            ns.kubeconfig,
            "--namespace",
            ns.name,
            "--namespaced",
            "--managed-namespace",
            ns.name,
        ),
        *("--executor-image", executor, "--executor-image-pull-policy", "IfNotPresent"),
    ]
    variables = {
        "ARGO_NAMESPACE": ns.name,
        "LEADER_ELECTION_DISABLE": "true",
        # What it would leave on pods when it is ended would keep the namespace.
        "ARGO_POD_STATUS_CAPTURE_FINALIZER": "false",
    }
    try:
        with controllers.running(argv, log, variables):
            yield Argo(ns, step_image)
    finally:
        made = [f"{kind}.{GROUP}" for kind in (*CHECKED, *UNCHECKED)]
        words = ("delete", "crd", "--ignore-not-found", "--wait=false")
        kubectl(ns.kubeconfig, *words, *made)
