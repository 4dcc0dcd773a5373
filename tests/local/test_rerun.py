"""An array on this machine, from its first failure to a report in which all is well."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from kij_train.arrays.store import ArrayFolder

from tests.commandline import KIJ_TRAIN, run
from tests.kube import eventually

SCRIPT = """
import json, os, sys, time
key, attempt = os.environ["KIJ_KEY"], int(os.environ["KIJ_ATTEMPT"])
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"seed": os.environ["KIJ_SEED"], "argv": sys.argv[1:]}), file=file)
if key == "b" and not os.path.exists("fixed"):
    raise ValueError("b is broken")
if key == "slow":
    open("began", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.05)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "work.py").write_text(SCRIPT)
    return folder


def mapped(folder: Path, *items: str) -> list[str]:
    (folder / "items").write_text("".join(item + "\n" for item in items))
    return [
        "map",
        "--local",
        "--name",
        "a",
        "--items",
        "items",
        "--chunk",
        "2",
        "work.py",
        "{item}",
    ]


def results(folder: Path) -> dict[str, dict[str, object]]:
    found = run(folder, "results", "a", "--partial")
    assert found.returncode == 0, found.stderr
    return {record["key"]: record for record in map(json.loads, found.stdout.splitlines())}


def test_what_failed_is_reported_replayed_and_run_again(project: Path) -> None:
    first = run(project, *mapped(project, "a", "b", "c"))
    assert first.returncode == 1
    report = run(project, "report", "a")
    assert report.returncode == 1
    assert "1 × ValueError: b is broken" in report.stdout
    assert "here: kij-train replay a --key b\n" in report.stdout
    before = results(project)

    # What is written beside the code is no change of it.
    page = run(project, "report", "a", "--format", "html", "--output", "page.html")
    assert page.returncode == 1, page.stderr
    replay = run(project, "replay", "a", "--key", "b")
    assert replay.returncode == 1, replay.stderr
    again = json.loads(replay.stdout)
    assert {**again, "seconds": 0} == {**before["b"], "seconds": 0}
    assert "the code of this folder" not in replay.stderr
    assert results(project) == before, "a replay is no result"

    script = project / "work.py"
    script.write_text(SCRIPT.replace("b is broken", "b is still broken"))
    (project / "fixed").touch()
    replay = run(project, "replay", "a", "--key", "b")
    assert replay.returncode == 0, replay.stderr
    assert "not what ran; changed since then: work.py\n" in replay.stderr

    rerun = run(project, "rerun", "a", "--failed")
    assert rerun.returncode == 0, rerun.stderr
    after = results(project)
    assert (after["b"]["attempt"], after["b"]["exit_code"]) == (1, 0)
    assert (after["b"]["seed"], after["b"]["argv"]) == (before["b"]["seed"], ["b"])
    assert [after["a"], after["c"]] == [before["a"], before["c"]]
    assert run(project, "report", "a").returncode == 0
    nothing = run(project, "rerun", "a", "--failed")
    assert (nothing.returncode, len(list(project.glob(".kij-train/arrays/a/attempt-*")))) == (0, 2)
    assert "every item is done" in nothing.stderr
    suite = ElementTree.fromstring(run(project, "report", "a", "--format", "junit").stdout)[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "0")
    page = run(project, "report", "a", "--format", "html", "--output", "page.html")
    assert "<title>a: done 3</title>" in (project / "page.html").read_text(), page.stderr


def test_a_rerun_leaves_alone_what_runs_and_two_are_told_apart(project: Path) -> None:
    with subprocess.Popen(
        [*KIJ_TRAIN, *mapped(project, "b", "a", "slow", "d")],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            whole = project / ".kij-train/arrays/a/attempt-0/part-00000.jsonl"
            assert eventually((project / "began").exists, 60)
            assert eventually(whole.exists, 60)
            assert run(project, "results", "a").returncode == 2
            report = json.loads(run(project, "report", "a", "--format", "json").stdout)
            assert report["state"] == "running"
            assert report["counts"]["running"] + report["counts"]["done"] == 3
            busy = run(project, "rerun", "a", "--key", "slow")
            assert busy.returncode == 2
            assert "1 of these items run at this moment, or will: slow" in busy.stderr
            (project / "fixed").touch()
            assert run(project, "rerun", "a", "--failed").returncode == 1, "slow is not done yet"
            (project / "go").touch()
            assert process.wait(180) in (0, 1)
        finally:
            process.kill()
    assert run(project, "report", "a").returncode == 0
    assert results(project)["b"]["attempt"] == 1
    racing = [
        subprocess.Popen(
            [*KIJ_TRAIN, "rerun", "a", "--index", "0"],
            cwd=project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [(each.communicate(timeout=180)[1], each.returncode) for each in racing]
    # The second one takes the same number, or sees the first one run, or comes when it is over.
    told = ("another rerun", "run at this moment")
    assert all(code == 2 for text, code in said if any(words in text for words in told)), said
    ran = [code for text, code in said if not any(words in text for words in told)]
    assert ran in ([0], [0, 0]), said
    numbers = [attempt.number for attempt in ArrayFolder.open(project, "a").attempts()]
    assert numbers in ([0, 1, 2], [0, 1, 2, 3])
    assert len(results(project)) == 4


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an array of which one item has failed."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "work.py").write_text(SCRIPT)
    run(folder, *mapped(folder, "a", "b", "c"))
    return folder


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["rerun", "a"], "which items are to be run again?"),
        (["rerun", "a", "--index", "0,x"], "--index 0,x: 'x' is no number and no range"),
        (["rerun", "a", "--index", "7"], "--index 7: there is no 7: they go from 0 to 1"),
        (["rerun", "a", "--key", "aa"], "a has no item aa"),
        (["rerun", "a", "--failed", "--detach"], "--detach is of no use"),
        (["replay", "a", "--key", "\x1bz"], 'a has no item "\\033z"'),
        (["results", "a", "-n", "ml"], "--namespace is of no use"),
        (["report", "a", "--output", "no/such/file"], "no/such/file: No such file or directory"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_made(
    argv: list[str], said: str, failed: Path
) -> None:
    found = run(failed, *argv)
    assert (found.returncode, found.stdout) == (2, "")
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert [path.name for path in failed.glob(".kij-train/arrays/a/attempt-*")] == ["attempt-0"]
