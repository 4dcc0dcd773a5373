"""A spec as Kubernetes objects: pure functions from values to plain dicts.

No clock, randomness, user name, environment, network or file system in here, so that the dry run
is exactly what is sent, and the same request gives the same bytes.
"""

from kij_train.render.apply import MOST_BYTES as MOST_APPLIED_BYTES
from kij_train.render.apply import applied_bytes
from kij_train.render.code import code_config_maps, lock_config_map
from kij_train.render.job import render_job
from kij_train.render.objects import Code, render
from kij_train.render.service import render_service
from kij_train.render.shapes import Attempt, shape_of
from kij_train.render.text import to_yaml

__all__ = [
    "MOST_APPLIED_BYTES",
    "Attempt",
    "Code",
    "applied_bytes",
    "code_config_maps",
    "lock_config_map",
    "render",
    "render_job",
    "render_service",
    "shape_of",
    "to_yaml",
]
