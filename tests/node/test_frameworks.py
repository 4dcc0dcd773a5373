"""Real training scripts under torchrun and in pods: one behaviour, as tests/local has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPORT_LINES
from tests.frameworks import needs_frameworks
from tests.frameworks.cases import ENDS_WELL, OTHERS, Case
from tests.frameworks.packages import packages
from tests.frameworks.table import compare
from tests.frameworks.ways import PODS, by_torchrun, in_pods
from tests.kube import Namespace

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    needs_frameworks,
]


@pytest.mark.parametrize(
    "case", [case for case in (ENDS_WELL, *OTHERS) if case.in_pods], ids=lambda case: case.name
)
def test_a_script_behaves_as_under_torchrun(
    case: Case,
    ns: Namespace,
    image: str,
    shared_folder: str,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    shared = Path(shared_folder)
    torchruns = by_torchrun(case, (2, 1), tmp_path / "torchrun")
    unlike = []
    for way in PODS:
        ours = in_pods(case, way, tmp_path / way, ns, image, shared, packages(shared))
        unlike += compare(case, way, ours, torchruns, pytestconfig.stash[REPORT_LINES])
    assert not unlike, "\n".join(unlike)
