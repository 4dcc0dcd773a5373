"""Which cluster a command is about: what its flags, KIJ_* and the project file come to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import runs
from kij_train.commands import Address
from kij_train.errors import UnreachableError
from kij_train.spec import JobSpec
from kij_train.spec.settings import settings_of
from kij_train.specfile import WHERE, Layer, Origin, Resolved, resolve

if TYPE_CHECKING:
    from kij_train.cluster import Cluster


def connect(params: dict[str, Any]) -> Cluster:
    """The cluster that flags, KIJ_* and the project file name."""
    spec = resolved_where(params).spec
    try:
        return runs.connect(spec)
    except UnreachableError as error:
        from kij_train import jobs

        error.hints = (*error.hints, jobs.ABOUT_LOCAL)
        raise


def resolved_where(params: dict[str, Any]) -> Resolved:
    """All that says which cluster it is."""
    return resolve(where_layer(params), environ=os.environ, cwd=Path.cwd())


def address(params: dict[str, Any]) -> Address:
    """How commands name the cluster of these flags, before anybody has connected to it."""
    spec = resolved_where(params).spec
    return replace(runs.address_of(spec), namespace=spec.namespace or "")


def where_layer(params: dict[str, Any]) -> Layer:
    """The flags of where_options as the highest layer."""
    layer = Layer({})
    for field in WHERE:
        flags = settings_of(JobSpec)[field].flags
        given = params.get(field, params.get(f"spec_{field}"))  # launch calls it so
        if given is not None:
            layer.values[field] = given
            layer.origins[(field,)] = Origin(flags[0], names_value=True, in_command=True)
    return layer
