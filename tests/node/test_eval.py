"""Evaluations on real pods: what is missing fails, a rerun judges again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.kube import ROOT, Namespace

EXAMPLE = ROOT / "train_examples/evaluation"
DIES = """
import json, os, runpy
items = [json.loads(line) for line in open(os.environ["KIJ_ITEMS_FILE"])]
if os.environ["DIES_AT"] in {item["key"] for item in items}:
    raise SystemExit(3)
runpy.run_path("score_sums.py")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("sums.jsonl", "baseline.jsonl", "score_sums.py"):
        shutil.copy(EXAMPLE / name, folder)
    (folder / "dies.py").write_text(DIES)
    return folder


def test_a_shard_that_died_fails_the_gate_in_pods_until_it_is_run_again(
    ns: Namespace, project: Path, small_image: str
) -> None:
    data = ("--image", small_image, "--name", "sums", "--data", "sums.jsonl", "--shards", "3")
    gate = ("--env", "DIES_AT=sum-399", "--gate", "accuracy drop <= 0.02")
    argv = ("eval", *data, *gate)
    lines = (project / "baseline.jsonl").read_text().replace("sum-000", "other-000")
    (project / "other.jsonl").write_text(lines)
    other = ns.kij_train(*argv, "--baseline", "other.jsonl", "dies.py", cwd=project)
    assert other.returncode == 2
    assert "--baseline other.jsonl is of other data" in other.stderr
    assert not ns.batch.list_namespaced_job(ns.name).items

    died = ns.kij_train(*argv, "--baseline", "baseline.jsonl", "dies.py", cwd=project)
    assert died.returncode == 1, died.stderr
    assert "fail: not every id was evaluated: 266 done, 134 failed of 400" in died.stderr
    report = ns.kij_train("report", "sums", "--format", "markdown", cwd=project)
    assert report.returncode == 1
    assert "failed in index 2 · `kij-train rerun sums --failed" in report.stdout

    again = ns.kij_train("rerun", "sums", "--failed", "--env", "DIES_AT=", cwd=project)
    assert again.returncode == 0, again.stderr
    assert "pass: 1 gate on 400 ids" in again.stderr
    # All of them, judged anew: the same figure as on any machine.
    shown = ns.kij_train("report", "sums", cwd=project)
    assert (shown.returncode, "0.8475" in shown.stdout) == (0, True)


def test_results_on_a_volume_are_judged_by_the_numbers_that_the_last_pod_sends(
    ns: Namespace, project: Path, small_image: str, shared_folder: str
) -> None:
    volume = ("--mount", f"hostpath:{shared_folder}/{ns.name}:/out", "--results", "/out")
    data = ("--image", small_image, "--name", "sums", "--data", "sums.jsonl", "--shards", "3")
    argv = (*data, *volume, "--aggregate-in-cluster", "--gate", "accuracy >= 0.83")
    died = ns.kij_train("eval", *argv, "--env", "DIES_AT=sum-399", "dies.py", cwd=project)
    assert died.returncode == 1, died.stderr
    assert "fail: not every id was evaluated: 266 done, 134 failed of 400" in died.stderr
    assert "have not come" not in died.stderr

    again = ns.kij_train("rerun", "sums", "--failed", "--env", "DIES_AT=", cwd=project)
    assert again.returncode == 6, again.stderr
    assert "undecided: accuracy >= 0.83: accuracy is 0.8475" in again.stderr
    # The text of the answers has stayed there.
    shown = ns.kij_train("results", "sums", cwd=project)
    assert shown.returncode == 0, shown.stderr
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len(records) == 400
    assert sum(one["accuracy"] for one in records) == 339
    assert not any("said" in one for one in records)
