"""Looks at the ranks of a local run of another command, as `jobs.top` does in pods."""

from __future__ import annotations

import time
from collections import defaultdict

import psutil

from kij_train.diagnosis.vitals import Board
from kij_train.errors import RequestError
from kij_train.local.machine import ENV_RUN_ID
from kij_train.pod import contract
from kij_train.pod.vitals import FIRST_S, Look, Rank, Vitals


class LocalTop:
    """Looks at one run. Use it as a context; `board` has what is seen."""

    def __init__(self, name: str, *, index: int | None = None) -> None:
        """Raises RequestError where this machine has no such run."""
        if not psutil.LINUX:
            raise RequestError("top --local reads /proc, which only Linux has")
        self.board = Board()
        self._name, self._index = name, index
        self._vitals = Vitals(lambda env: env.get(contract.ENV_JOB) == name)
        self.running = 0
        """Local nodes that run, looked at or not."""
        if not self._seen(self._vitals.look()):
            self._vitals.close()
            raise self._no_such_run()

    def __enter__(self) -> LocalTop:
        return self

    def __exit__(self, *_: object) -> None:
        self._vitals.close()

    def first(self) -> None:
        """A second look, since what is counted needs two."""
        self.look(FIRST_S)

    def look(self, seconds: float) -> bool:
        """Wait for so long, then look. False when the run has ended."""
        time.sleep(seconds)
        now = time.monotonic()
        there = self._seen(self._vitals.look())
        self.board.compare(now)
        return there

    def _seen(self, look: Look) -> bool:
        """Take in a look at this machine, apart for each node; whether the run has any."""
        by_index: dict[int, list[Rank]] = defaultdict(list)
        for rank in look.ranks:
            by_index[rank.node or 0].append(rank)
        self.running = len(by_index)
        if self._index is not None and by_index:
            if self._index not in by_index:
                there = ", ".join(map(str, sorted(by_index)))
                raise RequestError(f"no rank of index {self._index} runs; there are {there}")
            by_index = defaultdict(list, {self._index: by_index[self._index]})
        if by_index:  # else the table of its last moment stays
            self.board.keep(by_index)
        now = time.monotonic()
        for index, ranks in by_index.items():
            mine = {rank.gpu for rank in ranks}
            gpus = [gpu for gpu in look.gpus if gpu.id in mine]
            self.board.watch(index, f"node-{index}", "", now)
            self.board.take(index, look._replace(ranks=ranks, gpus=gpus), now)
        return bool(by_index)

    def _no_such_run(self) -> RequestError:
        names = set()
        for process in psutil.process_iter():
            try:
                env = process.environ()
            except (psutil.Error, OSError):
                continue
            if env.get(ENV_RUN_ID) and env.get(contract.ENV_JOB):
                names.add(env[contract.ENV_JOB])
        if self._name in names:
            return RequestError(
                f"no rank of {self._name} runs yet, or its script is run without torchrun"
            )
        hints = [f"there is: kij-train top {name} --local" for name in sorted(names)]
        return RequestError(
            f"no run {self._name} with --local on this machine",
            hints=tuple(hints) or ("its name is the first word that launch --local prints",),
        )
