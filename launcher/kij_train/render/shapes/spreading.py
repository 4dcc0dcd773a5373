"""What pods have that get things from each other: ports, the names of others, a key."""

from __future__ import annotations

import json
from dataclasses import replace

from kij_train import names
from kij_train.pod import contract, spread
from kij_train.pod.spread.others import PLACES, Settings
from kij_train.render.limits import fetch_limits
from kij_train.render.shapes.shape import Shape
from kij_train.spec import DEFAULT_PORT, Common
from kij_train.spec.fetches import Fetch

SPREAD_PORT = 4
"""Added to the port of the job, behind those of the supervisors."""


def with_spreading(spec: Common, name: str, shape: Shape) -> Shape:
    """The shape of a job whose pods get something before their work begins."""
    if not spec.fetch and not spec.installs:
        return shape
    pods, completions = shape.policy["parallelism"], shape.policy["completions"]
    uid = {contract.ENV_SPREAD_KEY: f"metadata.labels['{names.CONTROLLER_UID}']"}
    fetches = [[_source(one), one.to, one.sha256 or ""] for one in spec.fetch]
    environment, references = {}, {}
    if spec.cache_dir is not None:
        environment[contract.ENV_CACHE] = spec.cache_dir.replace("$", "$$")
        references = uid
    limits = fetch_limits(spec)
    if limits:
        environment[contract.ENV_FETCH_LIMITS] = json.dumps(limits).replace("$", "$$")
    if fetches:
        environment |= {
            contract.ENV_FETCH: json.dumps(fetches).replace("$", "$$"),
            contract.ENV_FETCHED: ":".join(one.to for one in spec.fetch).replace("$", "$$"),
        }
    shape = replace(
        shape,
        sources=(*shape.sources, *spread.FILES),
        environment=shape.environment | environment,
        # Behind the others: NODE_RANK stays the first one.
        field_references=shape.field_references | references,
    )
    if completions == 1:
        return shape
    first = (shape.service_port or DEFAULT_PORT) + SPREAD_PORT
    may_come_later = completions > pods or shape.policy.get("backoffLimit", 1) > 0
    settings = Settings([f"{name}-{{}}.{name}:{first}"], pods, may_come_later, completions)
    ports = {f"spread-{place}": first + place for place in range(len(PLACES))}
    return replace(
        shape,
        environment=shape.environment | {contract.ENV_SPREAD: settings.to_json()},
        field_references=shape.field_references | uid,
        ports=shape.ports | ports,
        service_port=shape.service_port or first,
    )


def _source(one: Fetch) -> str:
    """Where a pod finds it."""
    return one.source if one.claim is None else f"{contract.ORIGINS_DIR}/{one.claim}{one.source}"
