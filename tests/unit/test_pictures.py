"""Pictures: each in both schemes, and those that are drawn from kept data show that data."""

from __future__ import annotations

import json
import re

import pytest

from tests import pictures, recoverypicture, scalingpicture
from tests.kube import ROOT

BOTH_IN_ONE = {"live-view", "top"}
"""Pictures of terminals: one file, which follows the reader's screen."""


@pytest.mark.parametrize("name", pictures.makers())
def test_every_picture_is_there_light_and_dark_and_loads_nothing(name: str) -> None:
    if name in BOTH_IN_ONE:
        files = [ROOT / "docs" / f"{name}.svg"]
        assert "@media (prefers-color-scheme: dark)" in files[0].read_text(encoding="utf-8")
    else:
        files = sorted(pictures.FOLDER.glob(f"{name}-*.*"))
        assert [file.stem for file in files] == [f"{name}-dark", f"{name}-light"]
    for file in files:
        assert file.stat().st_size > 1000
        if file.suffix == ".svg":
            text = file.read_text(encoding="utf-8")
            assert not re.findall(r"(?:href|src)=\"http|@import|url\(http", text)


def test_the_timeline_is_drawn_from_what_was_recorded() -> None:
    recorded = json.loads(recoverypicture.FILE.read_text())
    assert len(recorded["faults"]) == 3
    drawn = pictures.file("recovery", "light").read_text(encoding="utf-8")
    for _, seconds, what in recoverypicture.losses(recorded):
        assert what in drawn
        assert f"no step for {seconds:.1f} s" in drawn
    assert recorded["account"].partition(";")[0] in drawn


def test_the_scaling_plot_shows_what_is_kept() -> None:
    drawn = pictures.file("scaling", "dark").read_text(encoding="utf-8")
    for label, points in scalingpicture.seconds().items():
        assert label in drawn
        for nodes, _ in points:
            assert f">{nodes}<" in drawn
