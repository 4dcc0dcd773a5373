"""The sessions of the docs that run on this machine print what the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import docblocks
from tests.kube import ROOT


@pytest.mark.parametrize(
    "page", docblocks.pages_with_sessions(""), ids=lambda page: str(page.relative_to(ROOT))
)
def test_what_a_page_shows_is_what_this_machine_prints(page: Path, tmp_path: Path) -> None:
    wrong = docblocks.run_page(page, "", tmp_path / "docs", {}, {})
    assert not wrong, "\n\n".join(wrong)
