"""Markers by folder, the cluster that the api and node tiers use, and what all tests share."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kij_train import redaction

from tests.cluster.paths import StatePaths
from tests.cluster.processes import namespace
from tests.cluster.state import State

if TYPE_CHECKING:
    from tests.kube import Namespace

HERE = Path(__file__).parent
TIERS = ("unit", "local", "api", "node")
with contextlib.suppress(ImportError):  # in an environment for TorchX alone
    import hypothesis

    # An example that takes long says more of the machine than of the code.
    hypothesis.settings.register_profile("kij-train", deadline=None)
    hypothesis.settings.load_profile("kij-train")
REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the tiers that need a cluster run against."""
    parser.addoption(
        "--cluster",
        choices=["none", "current", "own"],
        default="none",
        help="cluster of the api and node tiers: none, the current context of KUBECONFIG, or the "
        "one that `python -m tests.cluster up` started",
    )
    parser.addoption("--image", help="image with python3 and torch, for the node tier")
    parser.addoption("--small-image", help="image with python3 alone; --image when not given")
    parser.addoption("--shared-folder", help="a path on the nodes that all of them share")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the kubeconfig, which no test sees by itself; fill in what our own cluster has."""
    # Without bytecode, what tests start compiles all that it imports: of torch, two seconds more.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A shell's background job ignores some; what tests start would inherit it, and never hear them.
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            is_ctrl_c = signum == signal.SIGINT
            signal.signal(signum, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)
    kubeconfig = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    if config.getoption("--cluster") == "own":
        state = State.of_running(StatePaths.of_this_clone())
        if state is None or namespace(os.getpid(), "net") != state.network_namespace:
            raise pytest.UsageError(
                "--cluster own: not in the network of a running cluster. Run it by\n"
                "  python -m tests.cluster up --detach\n"
                "  python -m tests.cluster exec -- python -m pytest --cluster own"
            )
        kubeconfig = state.kubeconfig
        config.option.image = state.images.get("torch")
        config.option.small_image = state.images.get("python")
        config.option.shared_folder = state.shared_dir
    config.stash[KUBECONFIG] = kubeconfig
    config.stash[REPORT_LINES] = []


KUBECONFIG = pytest.StashKey[str]()
REPORT_LINES = pytest.StashKey[list[str]]()
"""What tests have measured, for the end of the run."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test's tier is its folder; the local tier needs torch, others a cluster. What those of
    harnesses need, they say themselves."""
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        assert tier in TIERS, f"{item.path} is in no tier's folder"
        item.add_marker(tier)
        needs_torch = tier == "local" and item.get_closest_marker("harnesses") is None
        if needs_torch and importlib.util.find_spec("torch") is None:
            item.add_marker(pytest.mark.skip(reason="torch is missing: pip install -e '.[local]'"))
    missing = set()
    cluster = config.getoption("--cluster")
    if cluster == "none":
        missing = {"api", "node"}
    elif not config.getoption("--image"):
        missing = {"node"}
    without = [
        item
        for item in items
        if item.path.relative_to(HERE).parts[0] in missing
        or (item.get_closest_marker("own_cluster") and cluster != "own")
    ]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]
    config.stash[NOT_RUN] = sorted(missing)


NOT_RUN = pytest.StashKey[list[str]]()
NEEDS = {
    "api": "a cluster: make cluster-test, or --cluster current with KUBECONFIG",
    "node": "a cluster with nodes: make cluster-test, or --cluster current --image IMAGE",
}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was measured, which tiers did not run, and what they need."""
    for line in config.stash[REPORT_LINES]:
        terminalreporter.write_line(line)
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
    """No KIJ_* variable and no kubeconfig of the user's reaches a test.

    But for KIJ_TEST_*, which say where the cluster is.
    """
    for name in list(os.environ):
        if name.startswith("KIJ_") and not name.startswith("KIJ_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("COLUMNS", "100")
    # What one test has for a secret is a word in another.
    monkeypatch.setattr(redaction, "_known", set())


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
    folder = pytestconfig.getoption("--shared-folder")
    if folder is None:
        pytest.skip("needs a folder that all nodes share: --shared-folder PATH")
    return str(folder)


@pytest.fixture
def ns(request: pytest.FixtureRequest, kubeconfig: str) -> Iterator[Namespace]:
    """A namespace of its own; `@pytest.mark.labels({...})` gives it labels."""
    from tests import kube

    marker = request.node.get_closest_marker("labels")
    with kube.namespace(kubeconfig, marker.args[0] if marker else None) as made:
        yield made
        report = request.node.stash.get(REPORTS, {}).get("call")
        if report is not None and report.failed:
            print(made.report())
