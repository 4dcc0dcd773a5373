"""Files with `steps`: a workflow, each value with its line."""

from __future__ import annotations

from pathlib import Path

from kij_train.spec.workflow import Workflow
from kij_train.specfile import check, yaml_text
from kij_train.specfile.layers import Layer
from kij_train.specfile.sources import read_text

STEPS = "steps"


def read_workflow(path: str) -> Workflow | None:
    """The workflow of a file; None for a file without steps. Raises RequestError."""
    values, origins = yaml_text.read(read_text(Path(path), path), path, ())
    if STEPS not in values:
        return None
    return check(Layer(values, origins), Workflow).spec
