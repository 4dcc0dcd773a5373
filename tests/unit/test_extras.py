"""Extras: what an error tells to install must bring the package."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from kij_train import extras


@pytest.mark.parametrize(("package", "extra"), extras.EXTRAS.items())
def test_an_extra_that_is_named_brings_its_package(package: str, extra: str) -> None:
    needed = metadata.requires("kij-train") or []
    assert any(re.match(rf"{package}\b.*extra == .{extra}.$", each) for each in needed), needed
