"""Other formats of a job than the objects that `kij-train launch` makes.

Each is a module of this package with a function `convert`, which raises RequestError for what the
format has no counterpart for.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kij_train.render.shapes import Shape
from kij_train.spec import Common

Objects = list[dict[str, Any]]

KUBERNETES = "kubernetes"
FORMATS = {
    KUBERNETES: "what launch makes",
    "argo": "a WorkflowTemplate of Argo Workflows",
    "jobset": "a JobSet",
    "trainjob": "a TrainJob of Kubeflow Trainer",
}
"""Name → what it is, for the help."""
SUFFIXES = {"jobset": "-node-0", "trainjob": "-node-0"}
"""What the operator of a format adds to a name, for that of the Job that it makes."""


@dataclass(frozen=True)
class Rendered:
    """A job whose objects are to be had in another format."""

    spec: Common
    name: str
    shape: Shape


def convert(form: str, objects: Sequence[dict[str, Any]], job: Rendered) -> Objects:
    """The objects of a job, the Job last, in a format. Raises RequestError."""
    if form == KUBERNETES:
        return list(objects)
    module = importlib.import_module(f"{__name__}.{form}")
    converted: Objects = module.convert(objects, job)
    return converted
