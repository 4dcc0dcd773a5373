"""A fixture for test suites of training code: `kij_launch` runs a script on nodes of this machine.

pytest finds it by itself where kij-train is installed. What it needs is imported when a test asks
for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kij_train.api import Run


class KijLaunchFailed(AssertionError):  # noqa: N818 - reads as what happened in a report
    """The verdict on a launch: the first failing rank and its traceback."""


@pytest.fixture
def kij_launch() -> Iterator[Callable[..., list[str]]]:
    """`kij_launch("train.py", "--steps", "3", nodes=2)` gives the lines that the nodes printed.

    Strings after the script are its arguments; keywords are fields of a job, and `cwd`, the folder
    where the script is, and `timeout_s`. The test fails with the first failing rank and its
    traceback when the job does. Nothing of it is left running after the test.
    """
    import kij_train
    from kij_train.errors import KijError

    made: list[Run] = []

    def launch(
        script: str, *args: str, cwd: Any = None, timeout_s: float = 300, **fields: Any
    ) -> list[str]:
        __tracebackhide__ = True
        spec = kij_train.job(script, args=list(args), **fields)
        run = kij_train.launch(spec, local=True, cwd=cwd)
        made.append(run)
        try:
            run.wait(timeout_s)
        except KijError as error:
            for line in run.logs():
                print(f"node {line.index} | {line.text}")  # noqa: T201 - pytest captures it
            raise KijLaunchFailed(error.message) from None
        return [line.text for line in run.logs()]

    yield launch
    for run in made:
        run.cancel()
