"""The reusable workflow's own steps on a real cluster, with a stub of GitHub's comments API."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from xml.etree import ElementTree

from tests.githubapi import github
from tests.kube import ROOT, Namespace, eventually
from tests.workflows import JOB, Runner

EXAMPLE = ROOT / "train_examples/evaluation"
DIES = """
import json, os, runpy
items = [json.loads(line) for line in open(os.environ["KIJ_ITEMS_FILE"])]
if "sum-399" in {item["key"] for item in items}:
    raise ValueError("prompt of sum-399 is longer than the context")
runpy.run_path("score_sums.py")
"""


def test_a_pull_request_is_told_of_a_failure_then_of_success_and_a_push_cancels_what_runs(
    ns: Namespace, small_image: str, tmp_path: Path
) -> None:
    folder = tmp_path / "repo/eval"
    folder.mkdir(parents=True)
    for name in ("sums.jsonl", "score_sums.py"):
        shutil.copy(EXAMPLE / name, folder)
    (folder / "score.py").write_text(DIES)
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": "a" * 40}}}))
    data = f"--image {small_image} --data sums.jsonl --shards 2"
    with github() as hub:
        env = {"GITHUB_RUN_NUMBER": "57", "GITHUB_EVENT_PATH": str(event), **hub.env}
        runner = Runner(tmp_path / "repo", tmp_path / "temp", env)
        runner.context["github.event.pull_request.number"] = "7"
        runner.context["secrets.kubeconfig"] = Path(ns.kubeconfig).read_text()

        def pushed(args: str, command: str = "eval") -> None:
            runner.use(
                JOB,
                name="sums",
                command=command,
                args=args,
                namespace=ns.name,
                working_directory="eval",
            )
            for name in ("Name the job", "Find the cluster"):
                assert runner.run(JOB, name, "run") == (0, "")

        pushed(f"{data}\n--gate 'accuracy >= 0.5' score.py")
        code, said = runner.run(JOB, "Run the job", "run")
        assert code == 1, said
        code, said = runner.run(JOB, "Report", "run")
        assert code == 0, said
        place = "::error file=eval/score.py,line=5,"
        assert place in said
        assert "ValueError: prompt of sum-399 is longer" in said
        assert runner.context["steps.report.outputs.verdict"] == "fail"
        assert runner.context["steps.report.outputs.failed-indexes"] == "1"
        assert runner.summary().startswith("## ❌ sums-pr7: fail: not every id was evaluated")
        junit = ElementTree.parse(runner.temp / "report/junit.xml").getroot()
        assert junit.get("tests") == "402"
        _comment(runner)
        (body,) = hub.bodies()
        assert body.splitlines()[1].startswith("## ❌ sums-pr7: fail: not every id was evaluated")
        assert f"failed in index 1 · `kij-train rerun sums-pr7 --failed -n {ns.name}`" in body
        assert f"kij-train replay sums-pr7 --key sum-399 -n {ns.name}" in body

        (folder / "well.py").touch()
        runner.env["GITHUB_RUN_ID"] = "101"
        pushed(f"--image {small_image} --range 0:2 well.py", "map")
        code, said = runner.run(JOB, "Run the job", "run")
        assert code == 0, said
        assert runner.run(JOB, "Report", "run")[0] == 0
        assert runner.context["steps.report.outputs.verdict"] == "pass"
        _comment(runner)
        (body,) = hub.bodies()
        assert body.splitlines()[1].startswith("## ✅ sums-pr7: done 2")

        (folder / "waits.py").write_text("import time\ntime.sleep(600)\n")
        pushed(f"--image {small_image} --range 0:1 --grace 1s waits.py", "map")
        process = runner.step(JOB, "Run the job", "run")
        assert eventually(lambda: _is_running(ns), within_s=240)
        os.killpg(process.pid, signal.SIGINT)  # as the runner does for a newer push
        assert runner.end(process, JOB, "Run the job", "run")[0] == 130
        code, said = runner.run(JOB, "Cancel the job on the cluster", "run")
        assert (code, "sums-pr7 is cancelled" in said) == (0, True)
        assert ns.batch.read_namespaced_job("sums-pr7", ns.name).spec.suspend


def _comment(runner: Runner) -> None:
    shutil.copy(runner.temp / "report/report.md", runner.temp.parent / "repo")
    code, said = runner.run(JOB, "Comment", "comment")
    assert code == 0, said


def _is_running(ns: Namespace) -> bool:
    pods = ns.core.list_namespaced_pod(ns.name).items
    return any(
        pod.status.phase == "Running" and not pod.metadata.deletion_timestamp for pod in pods
    )
