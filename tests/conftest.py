"""Markers by folder, and what all tests share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIERS = ("unit", "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's tier is its folder; the local tier needs torch."""
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        assert tier in TIERS, f"{item.path} is in no tier's folder"
        item.add_marker(tier)
        if tier == "local" and importlib.util.find_spec("torch") is None:
            item.add_marker(pytest.mark.skip(reason="torch is missing: pip install -e '.[local]'"))


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No KIJ_* variable and no kubeconfig of the user's reaches a test."""
    import os

    for name in list(os.environ):
        if name.startswith("KIJ_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("COLUMNS", "100")
