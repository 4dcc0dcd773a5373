"""`kij-train sweep --local --sampler tpe`: batches, ends before their time, and early stops."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commandline import run as kij

TRIAL = """
import argparse, json, os, pathlib, time
parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float)
parser.add_argument("--kind")
a = parser.parse_args()
if a.kind == "bad":
    raise ValueError("bad")
if pathlib.Path("slow").exists():
    pathlib.Path("running").touch()
    time.sleep(60)
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"loss": (a.x - 0.3) ** 2}), file=file)
"""
PRUNED = """
import argparse, json, os
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float)
x = parser.parse_args().x
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.load_study(
    study_name=None,
    storage=JournalStorage(JournalFileBackend(os.environ["KIJ_STUDY_FILE"])),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
)
trial = optuna.Trial(study, int(os.environ["KIJ_TRIAL"]))
for step in range(3):
    loss = x / (step + 1)
    trial.report(loss, step)
    if trial.should_prune():
        raise optuna.TrialPruned
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"loss": loss}), file=file)
"""
SEARCH = ("sweep", "--local", "--name", "s", "--sampler", "tpe", "--min", "loss")
X = ("-p", "x=uniform(0,1)")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "trial.py").write_text(TRIAL)
    (tmp_path / "pruned.py").write_text(PRUNED)
    return tmp_path


def points(folder: Path) -> dict[str, dict[str, object]]:
    found = json.loads(kij(folder, "report", "s", "--format", "json").stdout)
    return {one["key"]: one for one in found["sweep"]["points"]}


def test_a_search_runs_in_batches_and_a_larger_one_goes_on_with_it(project: Path) -> None:
    few = kij(project, *SEARCH, *X, "--sample", "3", "--parallelism", "2", "trial.py")
    assert few.returncode == 0, few.stderr
    assert "s  2 of 3 points; best so far: x=" in few.stderr
    assert "s-r1  1 item in 1 index" in few.stderr
    first = points(project)
    done = kij(project, *SEARCH, *X, "--sample", "5", "--parallelism", "2", "trial.py")
    assert done.returncode == 0, done.stderr
    assert "s  3 of 5 points; best so far: x=" in done.stderr
    assert "s-r2  2 items in 2 indexes" in done.stderr
    both = points(project)
    assert len(both) == 5
    assert first.keys() < both.keys()
    nothing = kij(project, *SEARCH, *X, "--sample", "5", "trial.py")
    assert nothing.returncode == 0, nothing.stderr
    assert "best: x=" in nothing.stderr
    assert len(kij(project, "results", "s").stdout.splitlines()) == 5
    other = kij(project, *SEARCH, "-p", "x=1..9", "--sample", "5", "trial.py")
    assert other.returncode == 2
    assert "it has another parameter x" in other.stderr
    script = kij(project, *SEARCH, *X, "--sample", "9", "pruned.py")
    assert "was begun with another value of script: 'trial.py', not 'pruned.py'" in script.stderr


def test_a_search_that_was_interrupted_goes_on_by_the_command_that_is_printed(
    project: Path,
) -> None:
    plain = kij(project, *SEARCH, *X, "--sample", "4", "--parallelism", "2", "trial.py")
    assert plain.returncode == 0, plain.stderr
    expected = list(points(project))
    (project / "slow").touch()
    argv = [*SEARCH[:2], "--replace", *SEARCH[2:], *X, "--sample", "4", "--parallelism", "2"]
    command = [sys.executable, "-m", "kij_train", *argv, "trial.py"]
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as going:
        until = time.monotonic() + 60
        while not (project / "running").exists() and time.monotonic() < until:
            time.sleep(0.05)
        another = kij(project, *SEARCH, *X, "--sample", "4", "trial.py")
        assert "another process goes on with the search s" in another.stderr
        going.send_signal(signal.SIGINT)
        _, said = going.communicate(timeout=240)
    assert going.returncode == 130, said
    [line] = [line for line in said.splitlines() if "go on with it: " in line]
    words = shlex.split(line.partition("go on with it: ")[2])
    assert "--replace" not in words
    (project / "slow").unlink()
    done = kij(project, *words[1:])
    assert done.returncode == 0, done.stderr
    assert list(points(project)) == expected


def test_trials_that_fail_are_told_and_a_batch_of_failures_ends_the_search(project: Path) -> None:
    argv = ("--sample", "9", "--parallelism", "3", "trial.py")
    done = kij(project, *SEARCH, *X, "-p", "kind=bad", *argv)
    assert done.returncode == 1
    assert "no trial of this batch has a loss: the search ends" in done.stderr
    assert len(points(project)) == 3
    again = kij(project, *SEARCH, "--replace", *X, "-p", "kind=bad,good", *argv)
    assert again.returncode == 1
    assert "best: kind=good,x=" in again.stderr
    assert {one["failed"] for one in points(project).values()} == {0, 1}


def test_a_metric_that_no_trial_has_ends_the_search_after_a_batch(project: Path) -> None:
    argv = ("--sampler", "tpe", "--min", "los", "--sample", "9", "--parallelism", "2")
    done = kij(project, "sweep", "--local", "--name", "s", *X, *argv, "trial.py")
    assert done.returncode == 1
    assert "no result has the metric los; did you mean loss?" in done.stderr
    assert "s-r1" not in done.stderr


def test_optuna_ends_hopeless_trials_in_their_own_process(project: Path) -> None:
    done = kij(project, *SEARCH, *X, "--sample", "12", "--parallelism", "4", "pruned.py")
    assert done.returncode == 0, done.stderr
    found = points(project)
    pruned = [one for one in found.values() if one["pruned"]]
    assert pruned
    assert not next(iter(found.values()))["pruned"]
    records = [json.loads(line) for line in kij(project, "results", "s").stdout.splitlines()]
    whole = [one for one in records if not one.get("pruned")]
    assert all(len(one["intermediate"]) == 3 for one in whole)
    assert "pruned" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--sampler", "tpe", *X, "--min", "loss"), "--sampler tpe needs --sample N"),
        (("--sampler", "tpe", *X, "--sample", "4"), "it needs to know which one"),
        (
            ("--sampler", "tpe", "-p", "x=1..4", "--min", "loss", "--sample", "4"),
            "there are only 4 points",
        ),
        (
            ("--sampler", "tpe", *X, "--min", "loss", "--sample", "4", "--indexes", "2"),
            "a search has no end of indexes",
        ),
        (("--sampler", "tpe", *X, "--min", "loss", "--sample", "4", "-d"), "--detach does not go"),
    ],
)
def test_what_no_search_can_be_is_one_error_and_leaves_nothing(
    project: Path, argv: tuple[str, ...], said: str
) -> None:
    done = kij(project, "sweep", "--local", *argv, "trial.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / ".kij-train").exists()


def test_a_dry_run_shows_the_first_points_and_makes_nothing(project: Path) -> None:
    done = kij(project, *SEARCH, *X, "--sample", "20", "--dry-run", "plan", "trial.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x=0.") == 8
    assert "the first 8 of 20 points" in done.stderr
    assert not (project / ".kij-train").exists()
    shown = kij(
        project,
        *SEARCH[:1],
        *SEARCH[2:],
        *X,
        "--sample",
        "20",
        "--dry-run",
        "client",
        "-o",
        "yaml",
        "trial.py",
    )
    assert shown.returncode == 0, shown.stderr
    assert "study.xz.000" in shown.stdout
    assert not (project / ".kij-train").exists()
