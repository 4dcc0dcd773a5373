"""Cancelling, resuming and scaling jobs on real pods."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import V1Job

from tests.kube import ROOT, Namespace, eventually

STAYS = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("not yet", flush=True))
print("ready", flush=True)
while True:
    time.sleep(1)
"""
COUNTS = """
import os, time
import torch.distributed as dist
dist.init_process_group("gloo")
print("trains on", dist.get_world_size(), flush=True)
time.sleep(600)
"""
INDEX = "batch.kubernetes.io/job-completion-index"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "stays.py").write_text(STAYS)
    (folder / "counts.py").write_text(COUNTS)
    return folder


def launch(ns: Namespace, cwd: Path, image: str, *argv: str) -> None:
    line = ["launch", "--detach", "--name", "a", "--image", image, *argv]
    result = ns.kij_train(*line, cwd=cwd)
    assert result.returncode == 0, result.stderr


def done(ns: Namespace, *words: str, kubeconfig: str | None = None) -> str:
    result = ns.kij_train(*words, cwd=ROOT, kubeconfig=kubeconfig)
    assert result.returncode == 0, (words, result.stderr)
    return result.stdout


def state(ns: Namespace) -> str:
    return str(json.loads(done(ns, "status", "a", "-o", "json"))["state"])


def says(ns: Namespace, words: str, index: int = 0) -> list[str]:
    """The lines of an index that have these words, once there is one."""
    found: list[str] = []

    def look() -> bool:
        out = ns.kij_train("logs", "a", "--index", str(index), cwd=ROOT).stdout
        found[:] = [line for line in out.splitlines() if words in line]
        return bool(found)

    assert eventually(look, 90), words
    return found


def pods(ns: Namespace) -> list[Any]:
    found: list[Any] = ns.core.list_namespaced_pod(ns.name).items
    return found


@pytest.mark.parametrize("restart", [pytest.param("never", marks=pytest.mark.slow), "gang"])
def test_a_job_that_saves_when_it_is_cancelled_goes_on_from_there_when_it_is_resumed(
    ns: Namespace, image: str, shared_folder: str, restart: str
) -> None:
    script = ["sigterm_checkpoint.py", "--out", f"/out/{ns.name}"]
    script += ["--steps", "100000", "--step-seconds", "0.05"]
    mount = ["--mount", f"hostpath:{shared_folder}:/out", "--restart", restart]
    launch(ns, ROOT / "train_examples", image, "--nodes", "2", *mount, *script)
    says(ns, "starts at step 0")
    time.sleep(1)
    done(ns, "cancel", "a")
    assert state(ns) == "cancelled"
    # At once: the old pods may be saving still.
    done(ns, "resume", "a")
    again = ns.kij_train("resume", "a", cwd=ROOT)
    assert (again.returncode, "is not suspended" in again.stderr) == (2, True)
    first = says(ns, "starts at step")[-1]
    if first.startswith("starts at step 0 "):  # the log of the pod that ends
        assert eventually(lambda: "starts at step 0 " not in says(ns, "starts at step")[-1], 90)
        first = says(ns, "starts at step")[-1]
    assert int(first.split("starts at step ")[1].split()[0]) > 0
    job: V1Job = ns.batch.read_namespaced_job("a", ns.name)
    assert "kij-train/cancelled" not in job.metadata.annotations
    assert not job.status.failed


@pytest.mark.slow
def test_a_shorter_grace_period_ends_the_pods_sooner_and_the_job_is_cancelled(
    ns: Namespace, project: Path, image: str, tmp_path: Path
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    worker = ns.user("worker", rules, tmp_path)
    less = ns.user("less", [rule for rule in rules if rule["verbs"] != ["delete"]], tmp_path)
    launch(ns, project, image, "--nodes", "2", "--grace", "4m", "stays.py")
    says(ns, "ready", 0)
    says(ns, "ready", 1)
    longer = ns.kij_train("cancel", "a", "--grace", "5m", cwd=ROOT, kubeconfig=worker)
    assert (longer.returncode, "nothing was done" in longer.stderr) == (2, True)
    assert state(ns) == "running"
    refused = ns.kij_train("cancel", "a", "--grace", "3s", cwd=ROOT, kubeconfig=less)
    assert refused.returncode == 3
    assert "a is cancelled, with its own grace period of" in refused.stderr
    assert "may not delete pods" in refused.stderr
    assert state(ns) == "cancelled"
    time.sleep(5)
    assert len(pods(ns)) == 2
    began = time.monotonic()
    done(ns, "cancel", "a", "--grace", "3s", kubeconfig=worker)
    assert eventually(lambda: not pods(ns), 60)
    assert time.monotonic() - began < 60
    assert state(ns) == "cancelled"
    assert not ns.batch.read_namespaced_job("a", ns.name).status.failed


def test_cancel_with_a_grace_period_ends_a_running_job_as_cancelled(
    ns: Namespace, project: Path, image: str
) -> None:
    launch(ns, project, image, "--nodes", "2", "--grace", "4m", "stays.py")
    says(ns, "ready", 0)
    says(ns, "ready", 1)
    done(ns, "cancel", "a", "--grace", "3s")
    assert eventually(lambda: not pods(ns), 60)
    time.sleep(2)
    assert state(ns) == "cancelled"


def test_an_elastic_job_trains_on_with_the_nodes_that_it_is_given_and_late_ones_fetch_from_others(
    ns: Namespace, project: Path, image: str, shared_folder: str
) -> None:
    source = Path(shared_folder) / f"{ns.name}.bin"
    source.write_bytes(os.urandom(1 << 20))
    fetch = ["--mount", f"hostpath:{shared_folder}:/in:ro", "--fetch", f"/in/{source.name}:/data"]
    launch(ns, project, image, "--nodes", "2:3", "--restart", "elastic", *fetch, "counts.py")
    says(ns, "trains on 3")
    source.unlink()  # what comes from now on can have it of a pod alone
    wrong = ns.kij_train("scale", "a", "4", cwd=ROOT)
    assert (wrong.returncode, "takes 2 to 3 nodes" in wrong.stderr) == (2, True)
    done(ns, "scale", "a", "2")
    assert eventually(lambda: len(pods(ns)) == 2, 60)
    left = [int(pod.metadata.labels[INDEX]) for pod in pods(ns)]
    says(ns, "trains on 2", min(left))
    done(ns, "scale", "a", "3")
    assert eventually(lambda: len(pods(ns)) == 3, 60)
    (index,) = {0, 1, 2} - set(left)  # the one that ended was not lost: it comes again
    says(ns, f"taking in index {index}", min(left))
    says(ns, "of 3", index)
    says(ns, "fetched 1.0 MiB", index)
    assert state(ns) == "running"
    assert not ns.batch.read_namespaced_job("a", ns.name).status.failed


def test_a_job_that_has_lost_an_index_is_resumed_without_it(
    ns: Namespace, project: Path, image: str
) -> None:
    launch(ns, project, image, "--nodes", "2", "--restart", "gang", "counts.py")
    says(ns, "trains on 2")
    (first,) = (pod for pod in pods(ns) if pod.metadata.labels[INDEX] == "0")
    ns.core.delete_namespaced_pod(first.metadata.name, ns.name, grace_period_seconds=0)
    says(ns, "index 2 took the place of index 0", 1)
    done(ns, "cancel", "a")
    assert eventually(lambda: not pods(ns), 60)
    done(ns, "resume", "a")
    says(ns, "round 1: indexes 1, 2 train", 1)
    seen: dict[str, Any] = {}

    def both_run() -> bool:  # a pod counts as ready some seconds after it trains
        seen.update(json.loads(done(ns, "status", "a", "-o", "json")))
        phases = {one["index"]: one["phase"] for one in seen["indexes"]}
        return phases == {0: "lost", 1: "running", 2: "running"}

    assert eventually(both_run, 60), seen
    assert (seen["reserve"], seen["reserveLeft"]) == (3, 2)
    assert "in reserve, for pods that may be lost: 2 of 3 indexes" in done(ns, "status", "a")
    assert "1 of 3" in done(ns, "list")
