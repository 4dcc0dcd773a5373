"""Kinds of job: everything in which they differ on Kubernetes, one file for each.

No other module of `render` asks which kind of job it renders.
"""

from kij_train.render.shapes import gang, static
from kij_train.render.shapes.shape import Shape
from kij_train.spec import JobSpec

__all__ = ["Shape", "shape_of"]


def shape_of(spec: JobSpec, name: str) -> Shape:
    """The shape of the job `name`."""
    return gang.shape(spec, name) if spec.supervised else static.shape(spec)
