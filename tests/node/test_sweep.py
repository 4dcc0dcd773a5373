"""Sweeps on real pods: a search that goes on, and trials of several pods."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kube import Namespace, eventually

TRIAL = """
import argparse, json, os, time
parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float)
x = parser.parse_args().x
study = [json.loads(line) for line in open(os.environ["KIJ_STUDY_FILE"])]
values = [line["values"] for line in study if line.get("values")]
with open(os.environ["KIJ_STUDY_FILE"], "a") as file:
    step = {"trial_id": int(os.environ["KIJ_TRIAL"]), "step": 1, "intermediate_value": x}
    print(json.dumps(step), file=file)
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"loss": (x - 0.3) ** 2, "known": len(values)}), file=file)
time.sleep(float(os.environ.get("EACH_S", "0")))
"""
"""What Optuna's Trial.report writes, without Optuna."""
NODES = """
import argparse, json, os
import torch.distributed as dist
parser = argparse.ArgumentParser()
parser.add_argument("--x", type=int)
x = parser.parse_args().x
dist.init_process_group("gloo")
if dist.get_rank() == 1 and x == 9 and not os.environ.get("FIXED"):
    raise ValueError("nine is out")
dist.barrier()
if dist.get_rank() == 0:
    with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
        print(json.dumps({"loss": x, "world": dist.get_world_size()}), file=file)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "trial.py").write_text(TRIAL)
    (tmp_path / "nodes.py").write_text(NODES)
    return tmp_path


def report(ns: Namespace, project: Path) -> dict[str, Any]:
    done = ns.kij_train("report", "s", "--format", "json", cwd=project)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_search_that_was_left_goes_on_with_the_job_that_went_on(
    ns: Namespace, project: Path, small_image: str
) -> None:
    argv = ["sweep", "--image", small_image, "--name", "s", "-p", "x=uniform(0,1)"]
    argv += ["--sample", "3", "--sampler", "tpe", "--parallelism", "2", "--min", "loss"]
    argv += ["--env", "EACH_S=4", "trial.py"]
    line = [sys.executable, "-m", "kij_train", argv[0], "-n", ns.name]
    line += ["--kubeconfig", ns.kubeconfig, *argv[1:]]
    with subprocess.Popen(line, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert eventually((project / ".kij-train/arrays/s/attempt-0").exists, 60)
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert "go on with it: kij-train sweep" in said
    done = ns.kij_train(*argv, cwd=project)
    assert done.returncode == 0, done.stderr
    found = report(ns, project)
    assert (found["attempts"], len(found["sweep"]["points"])) == (2, 3)
    lines = ns.kij_train("results", "s", cwd=project).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [one["known"] for one in records] == [0, 0, 2]
    assert all(one["intermediate"] == [[1, one["x"]]] for one in records)


def test_trials_of_two_pods_are_jobs_and_one_that_failed_runs_again(
    ns: Namespace, project: Path, image: str
) -> None:
    argv = ["sweep", "--image", image, "--name", "s", "-p", "x=1,9", "--nodes", "2"]
    done = ns.kij_train(*argv, "--parallelism", "2", "--min", "loss", "nodes.py", cwd=project)
    assert done.returncode == 1, done.stderr
    points = {one["key"]: one for one in report(ns, project)["sweep"]["points"]}
    assert (points["x=1"]["mean"], points["x=9"]["failed"]) == (1, 1)
    assert "node 1: ValueError: nine is out" in done.stderr
    assert "trials: succeeded 1  failed 1" in ns.kij_train("status", "s", cwd=project).stdout
    status = json.loads(ns.kij_train("status", "s", "-o", "json", cwd=project).stdout)
    trials = [(one["name"], one["state"]) for one in status["trials"]]
    assert trials == [("s", "succeeded"), ("s-r1", "failed")]
    again = ns.kij_train("rerun", "s", "--failed", "--env", "FIXED=1", cwd=project)
    assert again.returncode == 0, again.stderr
    lines = ns.kij_train("results", "s", cwd=project).stdout.splitlines()
    assert [json.loads(line)["world"] for line in lines] == [2, 2]
    deleted = ns.kij_train("delete", "s", cwd=project)
    assert deleted.stderr.count("deleted s") == 3
