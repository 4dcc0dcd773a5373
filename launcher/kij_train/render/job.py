"""The Indexed Job: one pod a node, the pod contract in its environment."""

from __future__ import annotations

import json
from typing import Any

from kij_train import names, units
from kij_train.pod import bootstrap, gang, preflight
from kij_train.render.code import BOOTSTRAP_KEY, PREFLIGHT_KEY
from kij_train.render.gpus import container_claims, pod_claims
from kij_train.render.metadata import job_labels, metadata
from kij_train.render.scheduling import (
    SCHEDULER_NAMES,
    affinity,
    scheduling_metadata,
    sorted_dict,
)
from kij_train.render.volumes import volume_mounts, volumes
from kij_train.spec import DEFAULT_PORT, SUPERVISOR_PORT, JobSpec

LOST_MACHINE_S = 5
"""After which a pod on a machine that is not heard of is replaced; Kubernetes' own is 300."""
FAIL_FAST_EXIT_CODES = [bootstrap.EXIT_CONTRACT, bootstrap.EXIT_CODE]
"""The bootstrap's failures that another pod would repeat."""


def render_job(
    spec: JobSpec, *, name: str, config_maps: list[str], code_sha256: str | None
) -> dict[str, Any]:
    """The Job. `config_maps` carry the code, `code_sha256` is its hash, None for no code."""
    labels = job_labels(spec, name)
    body: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": spec.pods,
        "parallelism": spec.pods,
        **(_restarts(spec) if spec.supervised else _fails_fast(spec)),
    }
    if spec.timeout is not None:
        body["activeDeadlineSeconds"] = spec.timeout
    if spec.ttl is not None:
        body["ttlSecondsAfterFinished"] = spec.ttl
    if spec.kueue is not None:
        body["suspend"] = True  # until Kueue admits it
    own = scheduling_metadata(spec, name)
    template_metadata: dict[str, Any] = {"labels": sorted_dict(labels | own.pod_labels)}
    job_metadata = metadata(spec, name, labels | own.job_labels)
    for target, notes in (
        (template_metadata, spec.annotations | own.pod_annotations),
        (job_metadata, spec.annotations | own.job_annotations),
    ):
        if notes:
            target["annotations"] = sorted_dict(notes)
    body["template"] = {
        "metadata": template_metadata,
        "spec": _pod(spec, name, config_maps, code_sha256),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": job_metadata, "spec": body}


def _fails_fast(spec: JobSpec) -> dict[str, Any]:
    """The first pod that fails ends the job."""
    return {
        "backoffLimit": spec.backoff,
        # Two pods of index 0 would both be in DNS: the new one waits until the old one is gone.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": names.CONTAINER,
                        "operator": "In",
                        "values": FAIL_FAST_EXIT_CODES,
                    },
                }
            ]
        },
    }


def _restarts(spec: JobSpec) -> dict[str, Any]:
    """Lost pods are replaced; the job ends when its nodes have.

    No podFailurePolicy: it forces podReplacementPolicy Failed, under which a pod on a dead machine
    is not replaced until somebody removes it. An index has its own backoff, which starts at 10 s,
    where that of all pods together would double with every loss.
    """
    return {
        "backoffLimit": spec.max_restarts,
        "backoffLimitPerIndex": spec.max_restarts,
        "successPolicy": {"rules": [{"succeededCount": spec.min_nodes or spec.nodes}]},
    }


def _pod(
    spec: JobSpec, name: str, config_maps: list[str], code_sha256: str | None
) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "subdomain": name,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(spec),
        "containers": [_container(spec, name, code_sha256)],
        "volumes": volumes(spec, config_maps),
    }
    optional: dict[str, Any] = {
        "nodeSelector": dict(sorted(spec.node_selector.items())),
        "tolerations": _tolerations(spec),
        "affinity": spec.affinity or affinity(spec, name),
        "schedulerName": SCHEDULER_NAMES.get(spec.scheduler or ""),
        "resourceClaims": pod_claims(spec, name),
        "terminationGracePeriodSeconds": spec.grace,
        "schedulingGroup": {"podGroupName": name} if spec.scheduler == "native" else None,
        "priorityClassName": spec.priority_class,
        "serviceAccountName": spec.service_account,
        "imagePullSecrets": [{"name": secret} for secret in dict.fromkeys(spec.image_pull_secrets)],
    }
    return {**pod, **{key: value for key, value in optional.items() if value}}


def _pod_security(spec: JobSpec) -> dict[str, Any]:
    """With `run_as_user`, all that Pod Security "restricted" asks of a pod."""
    context: dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if spec.run_as_user is not None:
        context |= {
            "runAsNonRoot": True,
            "runAsUser": spec.run_as_user,
            "runAsGroup": spec.run_as_user,
            "fsGroup": spec.run_as_user,
            "fsGroupChangePolicy": "OnRootMismatch",
        }
    return context


def _container(spec: JobSpec, name: str, code_sha256: str | None) -> dict[str, Any]:
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    if spec.capabilities:
        security["capabilities"]["add"] = sorted(set(spec.capabilities))
    if spec.read_only_root:
        security["readOnlyRootFilesystem"] = True
    first = gang.SUPERVISOR.name if spec.supervised else BOOTSTRAP_KEY
    port = spec.port or DEFAULT_PORT
    container: dict[str, Any] = {
        "name": names.CONTAINER,
        "image": spec.image,
        "command": ["python3", "-u", f"{bootstrap.BUNDLE_DIR}/{first}"],
        "args": [literal(argument) for argument in spec.command],
        "env": _environment(spec, name, code_sha256),
        "ports": [{"name": "rendezvous", "containerPort": port}],
        "securityContext": security,
        "terminationMessagePath": bootstrap.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": volume_mounts(spec),
    }
    if spec.supervised:
        container["ports"].append({"name": "supervisor", "containerPort": port + SUPERVISOR_PORT})
        # Ready is who trains.
        ready = port + SUPERVISOR_PORT + gang.READY_PORT
        container["readinessProbe"] = {
            "tcpSocket": {"port": ready},
            "periodSeconds": 5,
            "failureThreshold": 1,
        }
    if spec.image_pull_policy is not None:
        container["imagePullPolicy"] = spec.image_pull_policy
    if spec.env_from_secrets:
        secrets = dict.fromkeys(spec.env_from_secrets)
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in secrets]
    resources, claims = _resources(spec), container_claims(spec)
    if resources or claims:
        container["resources"] = {}
    if resources:
        container["resources"] |= {"requests": resources, "limits": dict(resources)}
    if claims:
        container["resources"]["claims"] = claims
    return container


def literal(text: str) -> str:
    """Text that the kubelet gives to the process as it is, but for $(NODE_RANK).

    It expands $(VAR) and folds $$.
    """
    parts = text.split(bootstrap.NODE_RANK_REFERENCE)
    return bootstrap.NODE_RANK_REFERENCE.join(part.replace("$", "$$") for part in parts)


def _environment(spec: JobSpec, name: str, code_sha256: str | None) -> list[dict[str, Any]]:
    def field(variable: str, path: str) -> dict[str, Any]:
        return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    fixed = {
        bootstrap.ENV_NNODES: str(spec.nodes),
        bootstrap.ENV_NPROC_PER_NODE: str(spec.ranks_per_node),
        bootstrap.ENV_WORLD_SIZE: str(spec.world_size),
        bootstrap.ENV_MASTER_ADDR: f"{name}-0.{name}",
        bootstrap.ENV_MASTER_PORT: str(spec.port or DEFAULT_PORT),
        bootstrap.ENV_RENDEZVOUS_TIMEOUT_S: str(spec.rendezvous_timeout),
        bootstrap.ENV_ERROR_FILE: bootstrap.TERMINATION_LOG,
    }
    if spec.preflight:
        fixed[bootstrap.ENV_PREFLIGHT] = f"{bootstrap.BUNDLE_DIR}/{PREFLIGHT_KEY}"
        fixed[bootstrap.ENV_PREFLIGHT_GPUS] = str(spec.gpus or 0)
        if spec.shm is not None:
            fixed[preflight.ENV_SHM_BYTES] = str(int(units.quantity_value(spec.shm)))
    if spec.settings_script is not None:
        fixed[bootstrap.ENV_SETTINGS_SCRIPT] = literal(spec.settings_script)
    if spec.supervised:
        peer = f"{name}-{{}}.{name}:{(spec.port or DEFAULT_PORT) + SUPERVISOR_PORT}"
        settings = spec.gang_settings([peer], spec.max_restarts)
        fixed[gang.ENV_GANG] = json.dumps(settings._asdict())
    if code_sha256 is not None:
        fixed[bootstrap.ENV_CODE_SHA256] = code_sha256
    user = {"PYTHONUNBUFFERED": "1", **spec.env}
    if spec.gpus:
        user = {"NCCL_DEBUG": "WARN", **user}
    return [
        # First, so that later values may use $(NODE_RANK).
        field(bootstrap.ENV_NODE_RANK, f"metadata.annotations['{names.COMPLETION_INDEX}']"),
        field(bootstrap.ENV_NODE_NAME, "spec.nodeName"),
        *(
            [
                field(gang.ENV_POD_IP, "status.podIP"),
                field(gang.ENV_GANG_ID, f"metadata.labels['{names.CONTROLLER_UID}']"),
            ]
            if spec.supervised
            else []
        ),
        *({"name": key, "value": value} for key, value in fixed.items()),
        *({"name": key, "value": literal(value)} for key, value in sorted(user.items())),
    ]


def _resources(spec: JobSpec) -> dict[str, str]:
    """Requests equal limits: guaranteed, and what the user asked for, neither more nor less."""
    resources = {name: str(count) for name, count in sorted(spec.resources.items())}
    if spec.gpu_resource is not None:
        resources[spec.gpu_resource] = str(spec.gpus)
    if spec.memory is not None:
        resources["memory"] = spec.memory
    if spec.cpu is not None:
        resources["cpu"] = spec.cpu
    return dict(sorted(resources.items()))


def _tolerations(spec: JobSpec) -> list[dict[str, Any]]:
    tolerations = [t.model_dump(by_alias=True, exclude_none=True) for t in spec.tolerations]
    if spec.gpus:
        amd = spec.gpu_kind == "amd"
        taint = names.AMD_GPU_RESOURCE if amd else names.GPU_RESOURCE
        tolerations.insert(0, {"key": taint, "operator": "Exists"})
    if spec.supervised:
        given = {t.get("key") for t in tolerations}
        tolerations += [
            {
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": LOST_MACHINE_S,
            }
            for key in (names.NOT_READY, names.UNREACHABLE)
            if key not in given
        ]
    return [t for i, t in enumerate(tolerations) if t not in tolerations[:i]]
