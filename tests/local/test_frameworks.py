"""Real training scripts under torchrun and under `launch --local`: one behaviour.

`pytest -m frameworks` runs all of them and prints a table; docs/compatibility.md shows it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPORT_LINES
from tests.frameworks import needs_frameworks
from tests.frameworks.cases import ENDS_WELL, OTHERS, Case
from tests.frameworks.table import compare
from tests.frameworks.ways import LOCAL, by_local_launch, by_torchrun

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(3600)]
CASES = [
    pytest.param(ENDS_WELL, id=ENDS_WELL.name, marks=pytest.mark.slow),
    *(
        pytest.param(case, id=case.name, marks=[pytest.mark.slow, needs_frameworks])
        for case in OTHERS
    ),
]


@pytest.mark.parametrize("case", CASES)
def test_a_script_behaves_as_under_torchrun(
    case: Case, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    torchruns = by_torchrun(case, (1, 2), tmp_path / "torchrun")
    unlike = []
    for way in LOCAL:
        ours = by_local_launch(case, way, tmp_path / way)
        unlike += compare(case, way, ours, torchruns, pytestconfig.stash[REPORT_LINES])
    assert not unlike, "\n".join(unlike)
