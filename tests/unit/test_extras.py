"""Extras: what an error tells to install must bring the package."""

from __future__ import annotations

import pytest
from kij_train import extras
from kij_train.specfile import sources

from tests.kube import ROOT


@pytest.mark.parametrize(("package", "extra"), extras.EXTRAS.items())
def test_an_extra_that_is_named_brings_its_package(package: str, extra: str) -> None:
    project = sources.tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(one.startswith(package) for one in project["optional-dependencies"][extra])
