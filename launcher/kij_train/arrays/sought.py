"""What an array whose request names a metric has found, from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kij_train.arrays.axes import Value
from kij_train.arrays.objective import Objective, unknown_metric
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.sweeps import Row, Sweep, sweep_of
from kij_train.arrays.view import Live, outcomes_of
from kij_train.pod import itemindex, trials
from kij_train.pod.trials import point_key


def objective_of(request: Mapping[str, Any]) -> Objective | None:
    """What the request of an array seeks; None: nothing."""
    if request.get("maximize") is not None:
        return Objective(str(request["maximize"]), is_max=True)
    metric = request.get("minimize")
    return None if metric is None else Objective(str(metric))


def sweep_in(
    folder: ArrayFolder, live: Live | None = None, objective: Objective | None = None
) -> Sweep | None:
    """What has been found; None where nothing is sought.

    Raises RequestError where trials have given numbers, and none of that name.
    """
    sought = objective or objective_of(folder.about.request)
    if sought is None:
        return None
    plan = folder.plan()
    found = sweep_of(
        (
            (outcome, point_of(plan.item(outcome.position)[1]))
            for outcome in outcomes_of(folder, live)
        ),
        sought,
    )
    known = {name: count for name, count in found.metrics.items() if name not in found.names}
    if sought.metric not in known and any(row.values.missing for row in found.rows):
        raise unknown_metric(sought.metric, known.keys() - {"seconds", "seed"}, sought.flag)
    return replace(found, metrics=known)


def point_of(value: Any) -> Mapping[str, Value]:
    """The parameters of an item: the fields of an object, or the item itself."""
    fields = value if isinstance(value, dict) else {"item": value}
    return {
        name: one
        if isinstance(one, (int, float, str)) and not isinstance(one, bool)
        else json.dumps(one, ensure_ascii=False)
        for name, one in fields.items()
    }


def command_of(folder: ArrayFolder, row: Row) -> str:
    """The command of a point, without what is filled in for an item alone."""
    request = folder.about.request
    script = ["-m", request["module"]] if request.get("module") else [request.get("script") or ""]
    if request.get("program"):
        script = ["--no-python", request["program"]]
    style = request.get("style")
    parameters = trials.arguments(row.point, style) if style else []
    return itemindex.command([*script, *map(str, request.get("args") or ()), *parameters])


def order_of(folder: ArrayFolder) -> list[str]:
    """Keys of the points as they were planned."""
    return list(dict.fromkeys(map(point_key, folder.plan().keys())))
