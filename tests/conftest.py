"""Markers by folder, the cluster that the api and node tiers use, and what all tests share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.kube import Namespace

HERE = Path(__file__).parent
TIERS = ("unit", "local", "api")
CLUSTER_TIERS = ("api",)
REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """--cluster current: run the tiers that need a cluster against the one KUBECONFIG names."""
    parser.addoption(
        "--cluster",
        choices=["none", "current"],
        default="none",
        help="cluster of the api tier: none, or the current context of KUBECONFIG",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the kubeconfig that the tests themselves do not see."""
    config.stash[KUBECONFIG] = os.environ.get("KUBECONFIG") or str(
        Path("~/.kube/config").expanduser()
    )


KUBECONFIG = pytest.StashKey[str]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test's tier is its folder; the local tier needs torch, others a cluster."""
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        assert tier in TIERS, f"{item.path} is in no tier's folder"
        item.add_marker(tier)
        if tier == "local" and importlib.util.find_spec("torch") is None:
            item.add_marker(pytest.mark.skip(reason="torch is missing: pip install -e '.[local]'"))
    if config.getoption("--cluster") == "none":
        without = [i for i in items if i.path.relative_to(HERE).parts[0] in CLUSTER_TIERS]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let fixtures know whether their test failed."""
    report: Any = yield
    item.stash.setdefault(REPORTS, {})[report.when] = report
    return report


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No KIJ_* variable and no kubeconfig of the user's reaches a test."""
    for name in list(os.environ):
        if name.startswith("KIJ_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def kubeconfig(pytestconfig: pytest.Config) -> str:
    """Of the cluster under test, with admin's rights."""
    return pytestconfig.stash[KUBECONFIG]


@pytest.fixture
def ns(request: pytest.FixtureRequest, kubeconfig: str) -> Iterator[Namespace]:
    """A namespace of its own; `@pytest.mark.labels({...})` gives it labels."""
    from tests.kube import namespace

    marker = request.node.get_closest_marker("labels")
    with namespace(kubeconfig, marker.args[0] if marker else None) as made:
        yield made
        report = request.node.stash.get(REPORTS, {}).get("call")
        if report is not None and report.failed:
            print(made.report())
