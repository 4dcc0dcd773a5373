"""The study of an adaptive search, in the pod of a trial: so that the trial can be ended early.

The pod has the journal of the study as it was when its Job was made. Each trial gets a copy of its
own, $KIJ_STUDY_FILE, and its number there, $KIJ_TRIAL. Optuna's own pruners work on that:

    storage = JournalStorage(JournalFileBackend(os.environ["KIJ_STUDY_FILE"]))
    study = optuna.load_study(study_name=None, storage=storage, pruner=MedianPruner())
    trial = optuna.Trial(study, int(os.environ["KIJ_TRIAL"]))
    trial.report(loss, step)
    if trial.should_prune(): raise optuna.TrialPruned

What the trial has reported goes back in its record, so that nobody else writes to that file.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
import math
import os
import re
import shutil
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Tuple

from kij_train.pod import itemplan
from kij_train.pod.itemrecords import Run
from kij_train.pod.trials import INTERMEDIATE, PRUNED, point_key

Json = Dict[str, Any]
ENV_STUDY_FILE = "KIJ_STUDY_FILE"
"""For the script: a copy of the search's Optuna journal."""
ENV_TRIAL = "KIJ_TRIAL"
"""For the script: number of its trial in that journal."""
USER_ATTR, VALUE = "user_attr", "intermediate_value"
"""Keys of the lines of a journal (optuna.storages.journal, _storage.py)."""
POINT = "key"
"""Attribute of a trial: the key of its point."""
MOST_STEPS = 1000
"""Of a trial that go back: of more, some that lie evenly."""
_PRUNED = re.compile(r"(optuna\.exceptions\.)?TrialPruned\b")


class Study:
    """The journal, and the copy of the trial that runs."""

    def __init__(self, journal: bytes, scratch: str) -> None:
        self._journal, self._scratch = journal, scratch
        self._trials = dict(_points(journal))
        self._trial: Optional[int] = None
        self._folder = ""

    def begin(self, key: str) -> Dict[str, str]:
        """Variables of the item of that key; none for one that the study does not have."""
        self._trial = self._trials.get(point_key(key))
        if self._trial is None:
            return {}
        # A folder of its own: a trial that was killed leaves its lock beside the journal.
        self._folder = tempfile.mkdtemp(prefix="study-", dir=self._scratch)
        with open(self._path, "wb") as file:
            file.write(self._journal)
        return {ENV_STUDY_FILE: self._path, ENV_TRIAL: str(self._trial)}

    def end(self, run: Run) -> Tuple[Run, Json]:
        """How the item has ended, and fields of its record. An item that was pruned is well."""
        if self._trial is None:
            return run, {}
        fields: Json = {}
        try:
            with open(self._path, "rb") as file:
                steps = reported(file.read(), self._trial)
        except OSError:
            steps = []
        shutil.rmtree(self._folder, ignore_errors=True)
        if steps:
            fields[INTERMEDIATE] = steps
        if _PRUNED.match(run.error):
            run, fields[PRUNED] = run._replace(exit_code=0, error=""), True
        return run, fields

    @property
    def _path(self) -> str:
        return os.path.join(self._folder, "study.journal")


def read_study(place: str) -> bytes:
    """The journal in a folder of chunks, or in one file. Raises Failure."""
    return itemplan.unpacked(place, itemplan.STUDY_PREFIX)


def reported(journal: bytes, trial: int) -> List[List[Any]]:
    """Steps and values that a trial has reported; null for what is no finite number."""
    found = {}
    for line in _lines(journal, VALUE):
        value = line[VALUE]
        if line.get("trial_id") == trial and isinstance(value, (int, float)):
            found[int(line["step"])] = value if math.isfinite(value) else None
    steps = [[step, value] for step, value in sorted(found.items())]
    every = -(-len(steps) // MOST_STEPS) or 1
    return steps[::-1][::every][::-1]  # with the last one


def _points(journal: bytes) -> Iterator[Tuple[str, int]]:
    """Keys of points, and the number of their trial."""
    for line in _lines(journal, USER_ATTR):
        if POINT in line[USER_ATTR] and "trial_id" in line:
            yield line[USER_ATTR][POINT], line["trial_id"]


def _lines(journal: bytes, key: str) -> Iterator[Json]:
    for text in journal.split(b"\n"):
        if b'"%s"' % key.encode() in text:
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the trial was killed while it wrote
            if isinstance(line, dict) and key in line:
                yield line
