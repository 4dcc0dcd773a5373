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
TIERS = ("unit", "local", "api", "node")
REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the tiers that need a cluster run against."""
    parser.addoption(
        "--cluster",
        choices=["none", "current"],
        default="none",
        help="cluster of the api and node tiers: none, or the current context of KUBECONFIG",
    )
    parser.addoption("--image", help="image with python3 and torch, for the node tier")
    parser.addoption("--small-image", help="image with python3 alone; --image when not given")
    parser.addoption(
        "--shared-folder", default="/tmp/kij-test-shared", help="a path that all nodes share"
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
    missing = set()
    if config.getoption("--cluster") == "none":
        missing = {"api", "node"}
    elif not config.getoption("--image"):
        missing = {"node"}
    without = [item for item in items if item.path.relative_to(HERE).parts[0] in missing]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]
    config.stash[NOT_RUN] = sorted(missing)


NOT_RUN = pytest.StashKey[list[str]]()
NEEDS = {
    "api": "a cluster: --cluster current, with KUBECONFIG",
    "node": "a cluster with nodes and an image: --cluster current --image IMAGE",
}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which tiers did not run, and what they need."""
    for tier in config.stash.get(NOT_RUN, []):
        terminalreporter.write_line(f"not run: tests/{tier}, which needs {NEEDS[tier]}")


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
def image(pytestconfig: pytest.Config) -> str:
    """An image with python3 and torch."""
    return str(pytestconfig.getoption("--image"))


@pytest.fixture
def small_image(pytestconfig: pytest.Config, image: str) -> str:
    """An image with python3."""
    return str(pytestconfig.getoption("--small-image") or image)


@pytest.fixture
def shared_folder(pytestconfig: pytest.Config) -> str:
    """A path that is the same folder on all nodes, writable by pods."""
    return str(pytestconfig.getoption("--shared-folder"))


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
