"""A TorchX role and run options as a request of kij-train, and a Job as a TorchX role again.

The rules, which docs/how-to/from-torchx.md states:

- A role is one Indexed Job; its replicas are the nodes, ${replica_id} the completion index.
- Entrypoint and args run once a replica, as they are: a component starts torchrun itself. Replicas
  but the first wait until replica 0 listens on the port that port_map calls c10d.
- ${rank0_env} names a variable that holds localhost in replica 0 of the first role, and the DNS
  name of that replica in all others.
- max_retries counts per replica; with the policy APPLICATION a failing replica takes the others
  along, as torchrun's do, so it counts for each of them. ROLE and HOT_SPARE are refused.
- min_replicas is for torchrun, which has it in its args: the Job has all replicas.
- A capability with a '/' in its name is a node label, a device an extended resource.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import torchx
from torchx.specs import AppDef, BindMount, Role, VolumeMount, macros

from kij_train import gpus, names
from kij_train.diagnosis import JobView
from kij_train.errors import RequestError
from kij_train.pod import contract
from kij_train.spec import JobSpec, reserved
from kij_train.spec.settings import Fact, fields_with
from kij_train.specfile import Layer, Location, Origin
from kij_train.specfile.layers import merge

OPTIONS = fields_with(JobSpec, Fact.TORCHX)
RENDEZVOUS_PORT = "c10d"
METADATA_PREFIX = "kij_train."
WORKSPACE = METADATA_PREFIX + "workspace"
"""Key of a role's metadata with the folder to ship; the workspace puts it there."""
ANNOTATION_PREFIX = "torchx.pytorch.org/"


def job_layer(
    app: AppDef,
    role: Role,
    options: Mapping[str, Any],
    *,
    name: str,
    app_id: str,
    rank0: str | None = None,
    image_root: str = "",
) -> Layer:
    """The request of one role. Raises RequestError.

    `name` is the Job's, `rank0` the host of replica 0 of the first role, for another one.
    """
    _check_macros(role)
    values = macros.Values(
        img_root=image_root,
        app_id=app_id,
        replica_id=contract.NODE_RANK_REFERENCE,
        rank0_env=contract.ENV_RANK0_HOST,
    )
    role = values.apply(role)
    given = {key: value for key, value in options.items() if key in OPTIONS and value is not None}
    origins: dict[Location, Origin] = {
        (key,): Origin(f"-cfg {key}", names_value=True) for key in given
    }
    layers = [Layer(given, origins), _role_layer(role, name, rank0)]
    notes = {_annotation(key): str(value) for key, value in app.metadata.items()}
    if notes:
        layers.append(Layer({"annotations": notes}, {("annotations",): Origin("app metadata")}))
    for key, value in role.metadata.items():
        if key.startswith(METADATA_PREFIX) and key != WORKSPACE:
            field = key[len(METADATA_PREFIX) :]
            origin = Origin(f"role {role.name}, metadata {key}", names_value=True)
            layers.append(Layer({field: value}, {(field,): origin}))
    return merge(layers)


def at_port(role: Role, port: int) -> None:
    """Move the rendezvous of a role, which its command names behind ${rank0_env}, to another port.

    Apps on one machine would meet each other at the port that all components have.
    """
    usual = role.port_map.get(RENDEZVOUS_PORT)
    endpoint = re.compile(rf"(rank0_env}}\S*:){usual}\b")
    if any(endpoint.search(argument) for argument in role.args):
        role.args = [endpoint.sub(rf"\g<1>{port}", argument) for argument in role.args]
        role.port_map = {**role.port_map, RENDEZVOUS_PORT: port}


def _role_layer(role: Role, name: str, rank0: str | None) -> Layer:
    env = {key: str(value) for key, value in role.env.items()}
    if rank0 is not None:
        env[contract.ENV_RANK0_HOST] = rank0
    values: dict[str, Any] = {
        "name": name,
        "nodes": role.num_replicas,
        "program": role.entrypoint,
        "args": [str(argument) for argument in role.args],
        "torchrun": False,
        "env": env,
        "backoff": _retries(role),
        **_resources(role),
    }
    # A component whose image nobody chose has TorchX's own, which is made for other things.
    if role.image and role.image != torchx.IMAGE:
        values["image"] = role.image
    if role.mounts:
        values["mounts"] = [_mount(role, mount) for mount in role.mounts]
    if RENDEZVOUS_PORT in role.port_map and role.num_replicas > 1:
        values["port"] = role.port_map[RENDEZVOUS_PORT]
    if WORKSPACE in role.metadata:
        values["code_dir"] = str(role.metadata[WORKSPACE])
    else:
        values["code"] = False
    return Layer(values, {(key,): Origin(f"role {role.name}") for key in values})


def _resources(role: Role) -> dict[str, Any]:
    """cpu, memory, GPUs, extended resources and node labels; -1 stands for "not said"."""
    resource = role.resource
    values: dict[str, Any] = {}
    if resource.cpu > 0:
        values["cpu"] = str(resource.cpu)
    if resource.memMB > 0:
        values["memory"] = f"{int(resource.memMB)}M"
    if resource.gpu > 0:
        values["gpus"] = int(resource.gpu)
    others = dict(resource.devices)
    for device in resource.devices:
        kind = gpus.of_resource(device)
        if kind is not None:
            values |= {"gpus": int(others.pop(device)), "gpu_kind": kind.name}
    if others:
        values["resources"] = {device: int(count) for device, count in others.items()}
    capabilities = resource.capabilities.items()
    labels = {key: str(value) for key, value in capabilities if "/" in key}
    if labels:
        values["node_selector"] = labels
    return values


def _mount(role: Role, mount: object) -> dict[str, Any]:
    if isinstance(mount, BindMount):
        kind, source = "hostpath", mount.src_path
    elif isinstance(mount, VolumeMount):
        kind, source = "pvc", mount.src
    else:
        raise RequestError(
            f"role {role.name}: a device mount would take privileged pods, which kij-train never "
            "makes",
            hints=("ask for the device as a resource, of its device plugin: Resource(devices=…)",),
        )
    return {"type": kind, "source": source, "path": mount.dst_path, "read_only": mount.read_only}


def _retries(role: Role) -> int:
    policy = str(getattr(role.retry_policy, "value", role.retry_policy))
    if role.max_retries <= 0:
        return 0
    if policy == "APPLICATION":
        return int(role.max_retries * role.num_replicas)
    if policy == "REPLICA":
        return int(role.max_retries)
    raise RequestError(
        f"role {role.name}: a plain Job cannot do the retry policy {policy}",
        hints=("use RetryPolicy.APPLICATION or RetryPolicy.REPLICA, or max_retries=0",),
    )


def _check_macros(role: Role) -> None:
    """Refuse what was meant as a macro and is none; other ${…} are the shell's."""
    known = [value[2:-1] for key, value in vars(macros).items() if str(value) == f"${{{key}}}"]
    for text in (*role.args, *role.env.values()):
        for match in Template.pattern.finditer(str(text)):
            name = match.group("braced")
            if name is None or name in known or name in role.env:
                continue
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            if close:
                raise RequestError(
                    f"role {role.name}: ${{{name}}} is no macro of TorchX. Did you mean "
                    f"${{{close[0]}}}?",
                    hints=(f"for a variable of the shell, write $${{{name}}}",),
                )


def _annotation(key: str) -> str:
    return key if "/" in key else ANNOTATION_PREFIX + re.sub(r"[^-A-Za-z0-9_.]", "-", key)


def mark(objects: list[dict[str, Any]], app: AppDef, role_index: int, app_id: str) -> None:
    """Write into the Job which role of which app it is, and into the pod its other ports.

    Into the Job alone: the code's ConfigMaps are shared with other jobs.
    """
    role = app.roles[role_index]
    job = next(body for body in objects if body["kind"] == "Job")
    job["metadata"]["labels"][names.APP] = app_id
    job["metadata"].setdefault("annotations", {}).update(
        {names.ROLE: role.name, names.ROLE_INDEX: str(role_index)}
    )
    ports = job["spec"]["template"]["spec"]["containers"][0]["ports"]
    taken = {port["containerPort"] for port in ports}
    for name, number in role.port_map.items():
        if number not in taken:
            ports.append({"name": _port_name(name), "containerPort": number})


def _port_name(name: str) -> str:
    """A name of at most 15 characters, as Kubernetes wants it."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:15].rstrip("-")
    return text if re.search("[a-z]", text) else f"port-{text}"[:15]


# --- back again -----------------------------------------------------------------------------------


def app_id_of(job: JobView) -> str:
    """The app that a Job belongs to; one that TorchX did not make is its own."""
    return job.labels.get(names.APP) or job.name


def role_name_of(job: JobView) -> str:
    """The role that a Job runs."""
    return job.annotations.get(names.ROLE) or names.CONTAINER


def role_index_of(job: JobView) -> int:
    """Its place among the roles of its app."""
    return int(job.annotations.get(names.ROLE_INDEX) or 0)


def role_of(job: JobView) -> Role:
    """The role as far as its Job tells."""
    flags = (contract.NO_TORCHRUN, contract.AWAIT_RANK0, "--no-python")
    command = [text.replace("$$", "$") for text in job.arguments]
    while command and command[0] in flags:
        command.pop(0)
    env = {
        name: value.replace("$$", "$")
        for name, value in job.environment.items()
        if name not in reserved.OF_TRAINING
    }
    return Role(
        name=role_name_of(job),
        image=str(job.container.get("image")),
        entrypoint=command[0] if command else "",
        args=command[1:],
        env=env,
        num_replicas=job.size,
    )


def workspace_folder(workspace: str) -> Path | None:
    """The folder of a workspace on this machine, which is a path or file://path; else None."""
    scheme, separator, path = workspace.partition("://")
    if not separator:
        return Path(workspace)
    return Path(path) if scheme == "file" else None
