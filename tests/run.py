"""`make test`: every tier of the tests that this machine can run, and why it cannot run the others.

The unit and local tiers always run. The api and node tiers run on the cluster of tests/cluster
where the machine has all that it takes; with CI=true on Linux, as root and with Go, they are
required, and what apt has is installed for them.

Tests run side by side, for most of their time is waiting; those marked `alone` run afterwards. A
few that fail are run once more, one at a time: what fails again fails, and what passes then is
listed at the end. A tier that fails keeps no other from running.

Those marked `slow` are left out; `--slow`, as the nightly workflow has it, runs them alone. So are
those marked `controllers`; `--controllers` builds the controllers of other projects and runs them
alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

import pytest

from tests.cluster import parts, requirements
from tests.cluster.paths import StatePaths
from tests.cluster.phases import phase, say
from tests.cluster.state import State
from tests.retries import Runs

CLUSTER = [sys.executable, "-m", "tests.cluster"]
PYTEST = [sys.executable, "-m", "pytest", "--durations=25"]
PROCESSES = 3
"""Of the unit and local tiers: two that use the processors while one waits."""
CLUSTER_PROCESSES = 3
"""Of the api and node tiers, which mostly wait for pods."""
NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)


def main() -> int:
    """Run the tiers, and say at the end what passed only when it ran again."""
    runs = Runs()
    try:
        return run_tiers(runs)
    finally:
        runs.tell()


def run_tiers(runs: Runs) -> int:
    """Run what the command line asks for; the exit status is the first that is not zero."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("--only-cluster", action="store_true", help="the api and node tiers alone")
    parser.add_argument("--slow", action="store_true", help="the tests marked slow alone")
    parser.add_argument("--controllers", action="store_true", help="those with other projects'")
    chosen, pytest_args = parser.parse_known_args()
    which = "slow and not controllers" if chosen.slow else "not slow and not controllers"
    if chosen.controllers:
        for part in parts.PARTS:
            with phase(f"part {part}"):
                status = subprocess.call([*CLUSTER, "build", "--part", part])
            if status:
                return status
        # By file: a controller runs once on a cluster, for the tests of one process.
        return on_cluster(runs, "controllers", pytest_args, share_out="loadfile")
    if chosen.only_cluster:
        return on_cluster(runs, which, pytest_args)
    with phase("tests: unit and local"):
        tiers = f"(unit or local) and {which}"
        line = [*PYTEST, *only_from("tests/unit", "tests/local")]
        status = run_tests(runs, tiers, PROCESSES, line, pytest_args)
    if lacking := reasons_against_a_cluster():
        say("not run: the api and node tiers. This machine lacks\n  " + "\n  ".join(lacking))
        return status
    return first_not_zero(status, on_cluster(runs, which, pytest_args))


def run_tests(
    runs: Runs,
    chosen: str,
    processes: int,
    pytest_line: list[str],
    pytest_args: list[str],
    share_out: str = "worksteal",
) -> int:
    """Run tests, side by side and then alone; the exit status is the first that is not zero.

    `share_out` is how pytest-xdist gives them to processes.
    """
    several = ["-n", str(processes), "--dist", share_out]
    return first_not_zero(
        runs.run([*pytest_line, "-m", f"{chosen} and not alone", *pytest_args], several),
        runs.run([*pytest_line, "-m", f"{chosen} and alone", *pytest_args], []),
    )


def only_from(*folders: str) -> list[str]:
    """Arguments that keep pytest from importing other folders' tests, where none are named."""
    return ["-o", f"testpaths={' '.join(folders)}"]


def first_not_zero(*statuses: int) -> int:
    """Of exit statuses of pytest; having found no tests is one of success."""
    return next((status for status in statuses if status not in (0, NO_TESTS)), 0)


def reasons_against_a_cluster() -> list[str]:
    """What keeps the cluster's tiers from running here; empty: they run."""
    if os.environ.get("CI") == "true" and is_made_for_it():
        return []
    return [
        f"{each.name}: {each.purpose}"
        + (f" (apt install {each.apt_package})" if each.apt_package else "")
        for each in requirements.missing(control_plane_only=False)
    ]


def is_made_for_it() -> bool:
    """Whether all that may be missing can be installed."""
    return sys.platform == "linux" and os.getuid() == 0 and shutil.which("go") is not None


def on_cluster(runs: Runs, which: str, pytest_args: list[str], share_out: str = "worksteal") -> int:
    """Run the api and node tiers; a cluster that was not up before is taken down."""
    was_up = State.of_running(StatePaths.of_this_clone()) is not None
    with phase("cluster up"):
        status = subprocess.call([*CLUSTER, "up", "--detach"])
    if status:
        return status
    try:
        with phase("tests: api and node"):
            line = [*CLUSTER, "exec", "--", *PYTEST, *only_from("tests/api", "tests/node")]
            line += ["--cluster", "own"]
            chosen = f"(api or node) and {which}"
            return run_tests(runs, chosen, CLUSTER_PROCESSES, line, pytest_args, share_out)
    finally:
        if not was_up:
            with phase("cluster down"):
                subprocess.call([*CLUSTER, "down"])


if __name__ == "__main__":
    sys.exit(main())
