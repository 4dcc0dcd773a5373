"""An array on real pods, from items that fail and a pod that is killed to a report that is well."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.kube import ROOT, Namespace, eventually

SCRIPT = """
import json, os, sys, time
key = os.environ["KIJ_KEY"]
print("works on", key)
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"seed": os.environ["KIJ_SEED"], "large": "é" * 1500}), file=file)
if key == "3" and not os.environ.get("FIXED"):
    raise ValueError("three is broken")
if key == "5" and not os.environ.get("FIXED"):
    time.sleep(600)
"""


def records(text: str) -> dict[str, dict[str, Any]]:
    return {record["key"]: record for record in map(json.loads, text.splitlines())}


def test_what_failed_or_was_lost_is_reported_read_and_run_again(
    ns: Namespace, small_image: str, tmp_path: Path
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    user = ns.user("worker", rules, tmp_path)
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    (project / "work.py").write_text(SCRIPT)

    def run(*argv: str, cwd: Path = project) -> tuple[int, str, str]:
        done = ns.kij_train(*argv, kubeconfig=user, cwd=cwd)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    array = ["map", "--image", small_image, "--name", "a", "--range", "0:6", "--chunk", "2"]
    assert run(*array, "--detach", "work.py")[0] == 0

    # While it runs: index 2 hangs in its second item.
    def so_far() -> bool:
        return set(records(run("results", "a", "--partial")[1])) == {"0", "1", "2", "3", "4"}

    assert eventually(so_far, 120)
    assert run("results", "a")[0] == 2
    code, out, _ = run("logs", "a", "--key", "3")
    assert (code, "1/3 | works on 3\n" in out, "works on 2" in out) == (0, True, False)
    code, _, err = run("rerun", "a", "--key", "5")
    assert (code, "1 of these items run at this moment, or will: 5" in err) == (2, True)

    # Its pod is killed, and the Job has no retries: what it had done is kept.
    (pod,) = ns.core.list_namespaced_pod(
        ns.name, label_selector="batch.kubernetes.io/job-completion-index=2"
    ).items
    ns.core.delete_namespaced_pod(pod.metadata.name, ns.name, grace_period_seconds=1)
    assert run("cancel", "a")[0] == 0
    report = json.loads(run("report", "a", "--format", "json")[1])
    assert report["counts"]["done"] == 4
    # The killed pod may still say how its item ended.
    assert report["failedIndexes"] in ("1", "1-2")
    assert "ValueError: three is broken" in [cause["error"] for cause in report["causes"]]
    assert "every item, with its cause" in run("why", "a")[1]
    status = json.loads(run("status", "a", "-o", "json")[1])
    assert status["items"]["failed"] >= 1

    # Run again with the code of now, by the same user; the same from another folder.
    before = records(run("results", "a", "--partial")[1])
    code, _, err = run("rerun", "a", "--failed", "--env", "FIXED=1")
    assert code == 0, err
    code, merged, err = run("results", "a")
    assert code == 0, err
    after = records(merged)
    assert set(after) == {"0", "1", "2", "3", "4", "5"}
    assert [after[key] for key in "0124"] == [before[key] for key in "0124"]
    assert after["3"]["attempt"] == 1
    assert after["3"]["seed"] == before["3"]["seed"]
    # Who did not look before the pod was killed misses what only its log had.
    code, out, err = run("results", "a", cwd=elsewhere)
    there = records(out)
    assert (code, set(there)) == (1, {"0", "1", "2", "3", "5"}), err
    assert all(there[key] == after[key] for key in there)
    assert re.search(r"\b4\b", err)
    (project / "work.py").write_text(SCRIPT.replace("is broken", "is still broken"))
    code, out, err = run("replay", "a", "--key", "3")
    assert (code, records(out.splitlines()[-1])["3"]["seed"]) == (0, before["3"]["seed"]), err
    assert "the code of this folder is not what ran" in err
    ns.delete_job("a")
    assert run("report", "a")[0] == 0


def test_a_cancel_keeps_what_nobody_had_collected(
    ns: Namespace, small_image: str, tmp_path: Path
) -> None:
    (tmp_path / "work.py").write_text(SCRIPT)
    array = ["map", "--image", small_image, "--name", "a", "--range", "4:7", "--chunk", "3"]
    assert ns.kij_train(*array, "--detach", "work.py", cwd=tmp_path).returncode == 0
    # It hangs in its second item.
    assert eventually(lambda: "works on 5" in ns.kij_train("logs", "a", cwd=tmp_path).stdout, 120)
    assert ns.kij_train("cancel", "a", cwd=tmp_path).returncode == 0
    assert eventually(lambda: not any(one.startswith("pods/") for one in ns.left()), 30)
    report = json.loads(ns.kij_train("report", "a", "--format", "json", cwd=tmp_path).stdout)
    assert {one["key"]: one["error"] for one in report["notDone"]} == {
        "5": "ended by SIGTERM",
        "6": "attempt 0 has been cancelled before it",
    }
    assert ns.kij_train("rerun", "a", "--failed", "--env", "FIXED=1", cwd=tmp_path).returncode == 0
    assert set(records(ns.kij_train("results", "a", cwd=tmp_path).stdout)) == {"4", "5", "6"}
