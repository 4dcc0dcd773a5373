"""Kinds of job: everything in which they differ on Kubernetes, one file for each.

No other module of `render` asks which kind of job it renders.
"""

from kij_train.render.shapes import array, gang, static
from kij_train.render.shapes.array import Attempt
from kij_train.render.shapes.ranks import with_ranks
from kij_train.render.shapes.shape import Shape
from kij_train.render.shapes.spreading import with_spreading
from kij_train.spec import Common, JobSpec

__all__ = ["Attempt", "Shape", "shape_of"]


def shape_of(spec: Common, name: str, attempt: Attempt | None = None) -> Shape:
    """The shape of the job `name`; of an array that of an `attempt`."""
    if isinstance(spec, JobSpec):
        own = gang.shape(spec, name) if spec.supervised else static.shape(spec)
        return with_spreading(spec, name, with_ranks(spec, name, own))
    from kij_train.spec import ArraySpec

    assert isinstance(spec, ArraySpec)
    assert attempt is not None
    return with_spreading(spec, name, array.shape(spec, attempt))
