"""Commands in pods: what starts them, and what is said where none can be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kij_train.cli import main
from kij_train.jobs.inside import become

from tests.proxies import running
from tests.unit.test_job_commands import OneJob


def ran(folder: Path | str, *choices: list[str]) -> subprocess.CompletedProcess[str]:
    """As a pod would run it."""
    _, *rest = become(str(folder), choices)
    return subprocess.run([sys.executable, *rest], capture_output=True, text=True, check=False)


def test_it_starts_in_the_folder_of_the_code_and_where_it_is_without_one(tmp_path: Path) -> None:
    assert ran(tmp_path, ["pwd"]).stdout == f"{tmp_path}\n"
    assert ran(tmp_path / "none", ["pwd"]).stdout == f"{Path.cwd()}\n"


def test_words_and_signals_arrive_as_they_are(tmp_path: Path) -> None:
    words = ["a b", "", "it's", '"', "é", "$HOME", "\n"]
    shown = ran(tmp_path, [sys.executable, "-c", "import sys; print(sys.argv[1:])", *words])
    assert shown.stdout == f"{words!r}\n"
    # Python ignores SIGPIPE, and so would what it becomes: yes would complain.
    piped = ran(tmp_path, ["sh", "-c", "yes | head -n 1; kill -PIPE $$"])
    assert (piped.stdout, piped.stderr, piped.returncode) == ("y\n", "", -13)


def test_a_program_that_the_image_lacks_is_one_sentence(tmp_path: Path) -> None:
    none = ran(tmp_path, ["nvidia-smi", "-L"])
    assert (none.returncode, none.stderr) == (
        127,
        "kij-train: nvidia-smi: not found in the image\n",
    )
    assert ran(tmp_path, ["no-bash"], ["no-sh"]).stderr == (
        "kij-train: no-bash and no-sh: not found in the image\n"
    )
    assert ran(tmp_path, ["no-bash"], ["sh"]).returncode == 0


def test_a_program_that_cannot_be_run_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "no-x").write_text("#!/bin/sh\n")
    (tmp_path / "no-interpreter").write_text("#!/no/where\n")
    (tmp_path / "no-interpreter").chmod(0o755)
    may_not = ran(tmp_path, ["./no-x"])
    assert (may_not.returncode, "Permission denied" in may_not.stderr) == (126, True)
    lacks = ran(tmp_path, ["./no-interpreter"])
    assert (lacks.returncode, "names an interpreter" in lacks.stderr) == (127, True)
    assert ran(tmp_path, [str(tmp_path)]).returncode == 126


@pytest.mark.parametrize(
    ("situation", "flags", "words", "hint"),
    [
        ("succeeded", [], "does not run: it is done", "kij-train logs"),
        ("cancelled", [], "does not run: it is failed", "kij-train logs"),
        ("running", ["--index", "99"], "has no index 99: it has ", ""),
        ("asks-for-9-gpus", [], "does not run: it is pending", "kij-train why"),
    ],
)
def test_a_pod_that_does_not_run_is_said_with_the_way_to_why(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    situation: str,
    flags: list[str],
    words: str,
    hint: str,
) -> None:
    with running(OneJob(situation)) as server:
        name = server.job["metadata"]["name"]
        config = server.kubeconfig(tmp_path)
        code = main(["exec", name, *flags, "--kubeconfig", config, "--", "true"])
    err = capsys.readouterr().err
    assert (code, words in err, hint in err) == (2, True, True), err
    assert os.linesep in err
