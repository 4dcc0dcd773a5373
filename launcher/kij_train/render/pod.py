"""The pod of an index, with the pod contract in its environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kij_train import gpus, names
from kij_train.pod import contract
from kij_train.render.gpus import container_claims, pod_claims
from kij_train.render.scheduling import SCHEDULER_NAMES, affinity
from kij_train.render.shapes import Shape
from kij_train.render.volumes import volume_mounts, volumes
from kij_train.spec import Common


def pod_spec(
    spec: Common,
    name: str,
    shape: Shape,
    bundle: list[dict[str, Any]],
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """The `spec` of the Job's pod template; arguments as for render_job."""
    pod: dict[str, Any] = {
        **({} if shape.service_port is None else {"subdomain": name}),
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(spec),
        "containers": [_container(spec, name, shape, hashes)],
        "volumes": volumes(spec, bundle),
    }
    optional: dict[str, Any] = {
        "nodeSelector": dict(sorted(spec.node_selector.items())),
        "tolerations": _tolerations(spec, shape),
        "affinity": spec.affinity or affinity(spec, name),
        "schedulerName": SCHEDULER_NAMES.get(spec.scheduler or ""),
        "resourceClaims": pod_claims(spec, name),
        "terminationGracePeriodSeconds": spec.grace,
        "schedulingGroup": {"podGroupName": name} if spec.scheduler == "native" else None,
        "priorityClassName": spec.priority_class,
        "dnsPolicy": spec.dns_policy,
        "serviceAccountName": spec.service_account,
        "imagePullSecrets": [{"name": secret} for secret in dict.fromkeys(spec.image_pull_secrets)],
    }
    return {**pod, **{key: value for key, value in optional.items() if value}}


def _pod_security(spec: Common) -> dict[str, Any]:
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


def _container(spec: Common, name: str, shape: Shape, hashes: Mapping[str, str]) -> dict[str, Any]:
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    if spec.capabilities:
        security["capabilities"]["add"] = sorted(set(spec.capabilities))
    if spec.read_only_root:
        security["readOnlyRootFilesystem"] = True
    ports = [{"name": port, "containerPort": number} for port, number in shape.ports.items()]
    container: dict[str, Any] = {
        "name": names.CONTAINER,
        "image": spec.image,
        "command": ["python3", "-u", f"{contract.BUNDLE_DIR}/{shape.first_process}"],
        "args": [literal(argument, shape) for argument in spec.command],
        "env": _environment(spec, name, shape, hashes),
        **({"ports": ports} if ports else {}),
        "securityContext": security,
        "terminationMessagePath": contract.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": volume_mounts(spec),
        **shape.probes,
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


def literal(text: str, shape: Shape) -> str:
    """Text escaped so that the kubelet expands nothing in it but $(NODE_RANK), where there is one.

    It expands $(VAR) and folds $$.
    """
    if contract.ENV_NODE_RANK not in shape.field_references:
        return text.replace("$", "$$")
    parts = text.split(contract.NODE_RANK_REFERENCE)
    return contract.NODE_RANK_REFERENCE.join(part.replace("$", "$$") for part in parts)


def _environment(
    spec: Common, name: str, shape: Shape, hashes: Mapping[str, str]
) -> list[dict[str, Any]]:
    def field(variable: str, path: str) -> dict[str, Any]:
        return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    fixed = {contract.ENV_JOB: name}
    fixed |= shape.environment
    fixed[contract.ENV_ERROR_FILE] = contract.TERMINATION_LOG
    if spec.settings_script is not None:
        fixed[contract.ENV_SETTINGS_SCRIPT] = literal(spec.settings_script, shape)
    if spec.setup is not None:
        fixed[contract.ENV_SETUP] = literal(spec.setup, shape)
    fixed |= hashes
    user = {"PYTHONUNBUFFERED": "1", **spec.env}
    if spec.gpus:
        user = {"NCCL_DEBUG": "WARN", **user}
    env = [
        *(field(variable, path) for variable, path in shape.field_references.items()),
        field(contract.ENV_NODE_NAME, "spec.nodeName"),
        *({"name": key, "value": value} for key, value in fixed.items()),
        *({"name": key, "value": literal(value, shape)} for key, value in sorted(user.items())),
    ]
    known = [entry["name"] for entry in env if contract.OF_A_RUN.fullmatch(entry["name"])]
    return [*env, {"name": contract.ENV_NAMES, "value": " ".join(sorted(known))}]


def _resources(spec: Common) -> dict[str, str]:
    """Requests equal limits, so that the pod gets exactly what was asked for (QoS Guaranteed)."""
    resources = {name: str(count) for name, count in sorted(spec.resources.items())}
    if spec.gpu_resource is not None:
        resources[spec.gpu_resource] = str(spec.gpus)
    if spec.memory is not None:
        resources["memory"] = spec.memory
    if spec.cpu is not None:
        resources["cpu"] = spec.cpu
    if spec.disk is not None:
        resources["ephemeral-storage"] = spec.disk
    return dict(sorted(resources.items()))


def _tolerations(spec: Common, shape: Shape) -> list[dict[str, Any]]:
    tolerations = [t.model_dump(by_alias=True, exclude_none=True) for t in spec.tolerations]
    if spec.gpus:
        taint = gpus.kind(spec.gpu_kind).taint
        tolerations.insert(0, {"key": taint, "operator": "Exists"})
    given = {t.get("key") for t in tolerations}
    tolerations += [added for added in shape.tolerations if added["key"] not in given]
    return [t for i, t in enumerate(tolerations) if t not in tolerations[:i]]
