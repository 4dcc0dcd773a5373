"""`make test`: every tier of the tests that this machine can run, and why it cannot run the others.

The unit and local tiers always run. The api and node tiers run on the cluster of tests/cluster
where the machine has all that it takes; with CI=true on Linux, as root and with Go, they are
required, and what apt has is installed for them.

Tests run side by side, for most of their time is waiting; those marked `alone` run afterwards.
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

CLUSTER = [sys.executable, "-m", "tests.cluster"]
PYTEST = [sys.executable, "-m", "pytest"]
PROCESSES = 3
"""Of the unit and local tiers: two that use the processors while one waits."""
CLUSTER_PROCESSES = 3
"""Of the api and node tiers, which mostly wait for pods."""
NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)


def main() -> int:
    """Run the tiers; the exit status is the first that is not zero."""
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
        return on_cluster("controllers", pytest_args, share_out="loadfile")
    if not chosen.only_cluster:
        with phase("tests: unit and local"):
            status = run_tests(f"(unit or local) and {which}", PROCESSES, [], pytest_args)
        if status:
            return status
        if lacking := reasons_against_a_cluster():
            say("not run: the api and node tiers. This machine lacks\n  " + "\n  ".join(lacking))
            return 0
    return on_cluster(which, pytest_args)


def run_tests(
    chosen: str,
    processes: int,
    prefix: list[str],
    pytest_args: list[str],
    share_out: str = "worksteal",
) -> int:
    """Run tests, side by side and then alone; the exit status is the first that is not zero.

    `share_out` is how pytest-xdist gives them to processes.
    """
    several = [
        *prefix,
        *PYTEST,
        "-m",
        f"{chosen} and not alone",
        "-n",
        str(processes),
        "--dist",
        share_out,
    ]
    alone = [*prefix, *PYTEST, "-m", f"{chosen} and alone"]
    status = subprocess.call([*several, *pytest_args])
    if status in (0, NO_TESTS):
        status = subprocess.call([*alone, *pytest_args]) or status
    return 0 if status == NO_TESTS else status


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


def on_cluster(which: str, pytest_args: list[str], share_out: str = "worksteal") -> int:
    """Run the api and node tiers; a cluster that was not up before is taken down."""
    was_up = State.of_running(StatePaths.of_this_clone()) is not None
    with phase("cluster up"):
        status = subprocess.call([*CLUSTER, "up", "--detach"])
    if status:
        return status
    try:
        with phase("tests: api and node"):
            prefix = [*CLUSTER, "exec", "--"]
            args = ["--cluster", "own", *pytest_args]
            chosen = f"(api or node) and {which}"
            return run_tests(chosen, CLUSTER_PROCESSES, prefix, args, share_out)
    finally:
        if not was_up:
            with phase("cluster down"):
                subprocess.call([*CLUSTER, "down"])


if __name__ == "__main__":
    sys.exit(main())
