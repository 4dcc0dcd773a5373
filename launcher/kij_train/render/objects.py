"""The whole of a job: ConfigMaps, headless Service, NetworkPolicy, claims, pod group, Job."""

from __future__ import annotations

from typing import Any

from kij_train.pod import contract, itemplan
from kij_train.render.code import (
    Code,
    code_config_maps,
    data_config_maps,
    lock_config_map,
    lock_name,
)
from kij_train.render.gpus import claim_templates
from kij_train.render.job import render_job
from kij_train.render.network import network_policies
from kij_train.render.scheduling import pod_groups
from kij_train.render.service import render_service
from kij_train.render.shapes import Attempt, shape_of
from kij_train.spec import Common

__all__ = ["Code", "render"]


def render(
    spec: Common, *, name: str, code: Code, attempt: Attempt | None = None
) -> list[dict[str, Any]]:
    """Every object of the job, in the order in which `kubectl apply` should see them.

    `name` becomes that of Job and Service; `code` is what the pods run, `attempt` what an array
    runs it for.
    """
    shape = shape_of(spec, name, attempt)
    config_maps = code_config_maps(spec, code, shape.component)
    if code.packages is not None:
        packed, prefix = code.packages.packed(), contract.PACKAGES_PREFIX
        config_maps += data_config_maps(spec, shape.component, "packages", prefix, packed)
    if attempt is not None:
        for kind, prefix, data in (
            ("items", itemplan.ITEMS_PREFIX, attempt.plan),
            ("selection", itemplan.SELECTION_PREFIX, attempt.selection),
            ("study", itemplan.STUDY_PREFIX, attempt.study),
        ):
            if data:
                config_maps += data_config_maps(spec, shape.component, kind, prefix, data)
    bundle: list[dict[str, Any]] = [{"name": each["metadata"]["name"]} for each in config_maps]
    if code.packages is not None:
        whose = name if attempt is None else attempt.array
        lock = lock_name(whose, spec.image, code.packages)
        if lock is not None:
            bundle.append({"name": lock, "optional": True})
            config_maps += [_in_namespace(spec, lock_config_map(lock, code.lock))] * bool(code.lock)
    job = render_job(spec, name=name, shape=shape, bundle=bundle, hashes=code.hashes)
    service = [] if shape.service_port is None else [render_service(spec, name=name, shape=shape)]
    extra = [*claim_templates(spec, name, shape), *pod_groups(spec, name, shape)]
    extra += network_policies(spec, name=name, shape=shape)
    return [*config_maps, *service, *extra, job]


def _in_namespace(spec: Common, body: dict[str, Any]) -> dict[str, Any]:
    where = {} if spec.namespace is None else {"namespace": spec.namespace}
    return {**body, "metadata": {**body["metadata"], **where}}
