"""An adaptive search: the points of a sweep that Optuna chooses by the results of those before.

It is asked and told centrally, in batches; trials know nothing of it. The study is a file beside
the results, and each choice depends on that and on the seed alone, so that a search that was
interrupted goes on as it would have. Raises RequestError throughout.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import extras
from kij_train.arrays.axes import Axis, Continuous, Listed, Stepped, Value
from kij_train.arrays.objective import Objective
from kij_train.arrays.outcomes import Outcome
from kij_train.arrays.points import MOST_POINTS, Point, Space, grid, key_of
from kij_train.arrays.sweeps import Row
from kij_train.errors import RequestError
from kij_train.pod import itemplan
from kij_train.pod.itemstudy import POINT
from kij_train.pod.trials import INTERMEDIATE, point_key

if TYPE_CHECKING:
    import optuna

STUDY_NAME = "kij-train"
MOST_REPEATED = 10
"""Points in a row that are there already, before one is drawn that is not."""
FEW_POINTS = 10_000
"""Of which all that are left are looked at."""
_ROW = "(point of the file)"
_SEARCH = "search"
Steps = Mapping[str, Mapping[int, float]]
"""Key of a point → what its trials have reported on their way, by step."""


class Search:
    """A study of Optuna, and the space that its points are of."""

    def __init__(self, study: optuna.Study, space: Space, seed: int) -> None:
        self._study, self._space, self._seed = study, space, seed
        for trial in self._trials():
            if trial.state == _states().RUNNING and POINT not in trial.user_attrs:
                study.tell(trial.number, state=_states().FAIL)  # the end came as it was chosen
        self._keys = {
            trial.user_attrs[POINT] for trial in self._trials() if POINT in trial.user_attrs
        }

    @classmethod
    def open(
        cls, path: Path, space: Space, objective: Objective, *, seed: int, repeat: int
    ) -> Search:
        """The study in a file, which is made where it is not there.

        Raises RequestError where it is one of another search.
        """
        extras.require("optuna", "--sampler tpe", "or: --sampler random")
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _quiet():
            _mend(path)
            try:
                study = optuna.create_study(
                    storage=JournalStorage(JournalFileBackend(str(path))),
                    study_name=STUDY_NAME,
                    direction="maximize" if objective.is_max else "minimize",
                    load_if_exists=True,
                )
            except (OSError, ValueError, KeyError) as error:
                raise RequestError(f"{path} is no study of Optuna: {error}") from None
        mine = _as_text(space, objective, seed, repeat)
        said = study.user_attrs.get(_SEARCH)
        if said is None:
            study.set_user_attr(_SEARCH, mine)
        elif said != mine:
            raise RequestError(
                f"the search that is there is another one: {_difference(said, mine)}",
                hints=("begin anew, without its results: --replace", "or take another --name"),
            )
        return cls(study, space, seed)

    @property
    def count(self) -> int:
        """Points that were chosen so far."""
        return len(self._keys)

    # --- choosing ---------------------------------------------------------------------------------

    def ask(self, count: int) -> None:
        """Choose so many points more, none of which was there. They are `waiting` then."""
        repeated, wanted = 0, self.count + count
        while self.count < wanted:
            drawn = repeated >= MOST_REPEATED
            if drawn:
                self._study.enqueue_trial(self._params(self._unseen()))
            trial = self._ask_one()
            point = self._point(trial.params)
            key = key_of(point)
            if key in self._keys:
                # Its result is known, or will be: Optuna forgets what has failed.
                trial.set_user_attr("same_as", key)
                self._study.tell(trial, state=_states().FAIL)
                repeated += 1
                continue
            trial.set_user_attr(POINT, key)
            self._keys.add(key)
            repeated = 0

    def _ask_one(self) -> optuna.trial.Trial:
        import optuna

        number = len(self._trials())
        with _quiet():
            # One for each trial: a search that goes on has the same numbers of chance.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=itemplan.seed_of(self._seed, str(number)), constant_liar=True
            )
            return self._study.ask(_distributions(self._space))

    def waiting(self) -> dict[str, Point]:
        """Points that no result is known of, by their keys."""
        return {
            trial.user_attrs[POINT]: self._point(trial.params)
            for trial in self._trials()
            if trial.state == _states().RUNNING and POINT in trial.user_attrs
        }

    def _unseen(self) -> Point:
        """A point that was not chosen yet, by chance."""
        draw = random.Random(f"{self._seed} {len(self._trials())}")  # noqa: S311 - not a secret
        there = self._space.count
        if there is not None and there <= FEW_POINTS:
            left = [point for point in grid(self._space) if key_of(point) not in self._keys]
            return draw.choice(left)
        while True:
            point = {axis.name: axis.draw(draw.random()) for axis in self._space.axes}
            if self._space.rows:
                point = {**draw.choice(self._space.rows), **point}
            if key_of(point) not in self._keys:
                return point

    # --- results ----------------------------------------------------------------------------------

    def tell(self, rows: Iterable[Row], steps: Steps) -> int:
        """Say what became of points that were waiting; how many have a value, or were pruned.

        A point without a number of all its trials counts as failed, or as pruned if one was.
        """
        import optuna

        states, found = _states(), {row.key: row for row in rows}
        told = 0
        for trial in self._trials():
            row = found.get(trial.user_attrs.get(POINT, ""))
            if trial.state != states.RUNNING or row is None:
                continue
            with _quiet():
                going = optuna.Trial(self._study, trial._trial_id)
                for step, value in sorted(steps.get(row.key, {}).items()):
                    going.report(value, step)
                if row.is_ranked:
                    self._study.tell(trial.number, row.values.mean)
                elif row.values.pruned:
                    self._study.tell(trial.number, state=states.PRUNED)
                else:
                    self._study.tell(trial.number, state=states.FAIL)
            told += row.is_ranked or row.values.pruned > 0
        return told

    # --- points and Optuna's parameters -----------------------------------------------------------

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        found: list[optuna.trial.FrozenTrial] = self._study.get_trials(deepcopy=False)
        return found

    def _point(self, params: Mapping[str, Any]) -> Point:
        rows = self._space.rows
        point: Point = dict(rows[params[_ROW]]) if rows else {}
        point.update((axis.name, _value(axis, params[axis.name])) for axis in self._space.axes)
        return point

    def _params(self, point: Point) -> dict[str, Value]:
        params = {axis.name: point[axis.name] for axis in self._space.axes}
        if self._space.rows:
            names = self._space.rows[0]
            params[_ROW] = self._space.rows.index({name: point[name] for name in names})
        return params


def check_space(space: Space, count: int) -> None:
    """Raise RequestError where there are not more than `count` points, or too many are wanted."""
    if not 1 <= count <= MOST_POINTS:
        raise RequestError(f"--sample {count}: must be from 1 to {MOST_POINTS:,}")
    there = space.count
    if there is not None and there <= count:
        raise RequestError(
            f"--sample {count}: there are only {there:,} points",
            hints=("all of them: leave --sample and --sampler out",),
        )


def steps_of(outcomes: Iterable[Outcome]) -> Steps:
    """What trials have reported on their way: the mean over the repeats of a point."""
    found: dict[str, dict[int, list[float]]] = {}
    for outcome in outcomes:
        for record in outcome.records:
            for step, value in _pairs(record.get(INTERMEDIATE)):
                of_point = found.setdefault(point_key(outcome.key), {})
                of_point.setdefault(step, []).append(value)
    return {
        key: {step: math.fsum(values) / len(values) for step, values in steps.items()}
        for key, steps in found.items()
    }


def _pairs(value: Any) -> Iterator[tuple[int, float]]:
    """A script may have written what it likes into a field of that name."""
    for pair in value if isinstance(value, list) else ():
        with contextlib.suppress(TypeError, ValueError):
            step, number = pair
            yield int(step), float("nan") if number is None else float(number)


def _distributions(space: Space) -> dict[str, Any]:
    found = {axis.name: _distribution(axis) for axis in space.axes}
    if space.rows:
        import optuna

        rows = range(len(space.rows))
        found[_ROW] = optuna.distributions.CategoricalDistribution(list(rows))
    return found


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(axis, Listed):
        return CategoricalDistribution(list(axis.values))
    if isinstance(axis, Continuous):
        return FloatDistribution(axis.low, axis.high, log=axis.is_log)
    ends = sorted([axis.at(0), axis.at(axis.count - 1)], key=float)
    step = abs(axis.step)
    if axis.are_whole:
        return IntDistribution(int(ends[0]), int(ends[1]), step=int(step))
    return FloatDistribution(float(ends[0]), float(ends[1]), step=float(step))


def _value(axis: Axis, param: Any) -> Value:
    """The value of an axis for what Optuna has chosen."""
    if isinstance(axis, Continuous):
        return axis.rounded(float(param))
    if isinstance(axis, Stepped):
        at = round((float(param) - float(axis.start)) / float(axis.step))
        return axis.at(min(max(at, 0), axis.count - 1))
    value: Value = param
    return value


def _as_text(space: Space, objective: Objective, seed: int, repeat: int) -> str:
    """What a search is, by its parts."""
    rows = itemplan.sha256(json.dumps(space.rows).encode()) if space.rows else ""
    axes = {axis.name: str(_distribution(axis)) for axis in space.axes}
    parts = {"parameters": axes, "points of the file": rows, "seed": seed, "repeat": repeat}
    return json.dumps({**parts, "metric": objective.flag}, sort_keys=True)


def _difference(said: str, mine: str) -> str:
    before, now = json.loads(said), json.loads(mine)
    names = [name for name in now if now[name] != before.get(name)]
    if names == ["parameters"]:
        both = {**before["parameters"], **now["parameters"]}
        names = [
            f"parameter {one}"
            for one in both
            if before["parameters"].get(one) != now["parameters"].get(one)
        ] or ["order of the parameters"]
    return f"it has another {', another '.join(names)}"


def _mend(path: Path) -> None:
    """Take out what is no whole line at the end of a journal: the last write was cut off."""
    with contextlib.suppress(FileNotFoundError):
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _states() -> type[optuna.trial.TrialState]:
    import optuna

    states: type[optuna.trial.TrialState] = optuna.trial.TrialState
    return states


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that what it offers is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
