"""The whole of a job: ConfigMaps with the code, headless Service, claims, pod group, Job."""

from __future__ import annotations

from typing import Any

from kij_train.render.code import Code, code_config_maps
from kij_train.render.gpus import claim_templates
from kij_train.render.job import render_job
from kij_train.render.scheduling import pod_groups
from kij_train.render.service import render_service
from kij_train.render.shapes import shape_of
from kij_train.spec import JobSpec

__all__ = ["Code", "render"]


def render(spec: JobSpec, *, name: str, code: Code) -> list[dict[str, Any]]:
    """Every object of the job, in the order in which `kubectl apply` should see them.

    `name` becomes that of Job and Service; `code` is what the pods run.
    """
    config_maps = code_config_maps(spec, code)
    names = [str(config_map["metadata"]["name"]) for config_map in config_maps]
    job = render_job(
        spec,
        name=name,
        shape=shape_of(spec, name),
        config_maps=names,
        code_sha256=code.sha256,
    )
    extra = [*claim_templates(spec, name), *pod_groups(spec, name)]
    return [*config_maps, render_service(spec, name=name), *extra, job]
