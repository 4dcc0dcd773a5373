"""What an array that is an evaluation comes to, from its folder."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kij_train.arrays import evaluation, gates
from kij_train.arrays.evaluation import Evaluation
from kij_train.arrays.gates import Gate
from kij_train.arrays.outcomes import Outcome
from kij_train.arrays.statistics import Scores
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, outcomes_of
from kij_train.errors import RequestError


def is_evaluation(request: Mapping[str, Any]) -> bool:
    """Whether the request of an array asks for one."""
    return bool(request.get("evaluate"))


def evaluation_in(folder: ArrayFolder, live: Live | None = None) -> Evaluation:
    """Judge what is in the folder. Raises RequestError for a baseline that cannot be read."""
    request = folder.about.request
    scored = evaluation.scores_of(outcomes_of(folder, live))
    ids = scored.scores.ids
    wanted, baseline = judges(request.get("gates") or (), request.get("baseline"), ids)

    def outcomes_at(positions: list[int]) -> Iterator[Outcome]:
        plan, asked = folder.plan(), set(positions)
        starts, every = (lambda index: plan.positions(index).start), range(plan.indexes)
        indexes = {bisect.bisect_right(every, at, key=starts) - 1 for at in positions}
        for outcome in outcomes_of(folder, live, indexes):
            if outcome.position in asked:
                yield outcome

    return evaluation.evaluate(scored, wanted, baseline, outcomes_at)


def judges(
    texts: tuple[str, ...] | list[str], baseline: str | None, ids: list[str]
) -> tuple[list[Gate], Scores | None]:
    """Gates and baseline of a request, checked against each other. Raises RequestError."""
    wanted = list(map(gates.parse_gate, texts))
    before = None
    if baseline is not None:
        before = evaluation.read_baseline(_read(baseline), baseline, ids)
    gates.check(wanted, before)
    return wanted, before


def _read(baseline: str) -> bytes:
    try:
        return Path(baseline).read_bytes()
    except OSError as error:
        raise RequestError(
            f"--baseline {baseline}: cannot be read: {error.strerror}",
            hints=("make one: kij-train results NAME --format jsonl > baseline.jsonl",),
        ) from None
