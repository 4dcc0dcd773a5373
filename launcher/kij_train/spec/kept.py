"""What a Job keeps of the request that it was made from, and the request that comes of it again.

An annotation of the Job has the values that are not defaults. The environment stands in the pods
already, and is read from there. Its name, its owner, and where files and cluster are, are no part
of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from kij_train import names
from kij_train.spec import reserved, training
from kij_train.spec.common import Common

MOST_CHARS = 16 * 1024
"""Longer requests are not kept: all annotations of an object may have 256 KiB, and clients such as
`kubectl apply` keep the whole object in one."""
_WHERE = {"name", "context", "kubeconfig", "namespace", "owner"}


def kept(spec: Common) -> str | None:
    """The annotation; None for a request that is too long."""
    values = request_of(spec)
    values.pop("env", None)
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= MOST_CHARS else None


def request_of(spec: Common) -> dict[str, Any]:
    """The values that are not defaults, by field; without its name, and where it runs."""
    values = spec.model_dump(mode="json", exclude=_WHERE, exclude_defaults=True, by_alias=True)
    values["image"] = spec.image  # the default changes with versions
    if isinstance(spec, training.JobSpec) and spec.min_nodes is not None:
        values["nodes"] = f"{values.pop('min_nodes')}:{spec.nodes}"
    if PurePath(spec.code_dir).is_absolute():
        values.pop("code_dir", None)
    return values


def values_of(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request of a Job, by field name; None where it keeps none."""
    text = (job["metadata"].get("annotations") or {}).get(names.REQUEST)
    if text is None:
        return None
    contract = reserved.OF_TRAINING | reserved.OF_ARRAYS
    container = job["spec"]["template"]["spec"]["containers"][0]
    env = {
        str(variable["name"]): _as_written(str(variable["value"]))
        for variable in container.get("env") or []
        if "value" in variable and variable["name"] not in contract
    }
    return {**json.loads(text), "env": env}


def _as_written(value: str) -> str:
    """A value of the pod spec, where $ is written $$ unless it begins a reference."""
    return value.replace("$$", "$")
