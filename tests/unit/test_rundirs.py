"""KIJ_RUN_DIR of a local run: there when the script starts, kept where something is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kij_train.cli import main
from kij_train.local.rundirs import run_dirs
from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.prepare import prepare

SCRIPT = """
import os, pathlib
own = pathlib.Path(os.environ["KIJ_RUN_DIR"])
assert own.is_dir() and own.name == os.environ["NODE_RANK"], own
if own.name == "1":
    (own / "kept").write_text("x")
"""


def test_each_index_has_a_folder_and_those_with_something_in_them_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    line = ["launch", "--local", "--nodes", "2", "--name", "a", "--no-torchrun", "s.py"]
    assert main(line) == 0, capfd.readouterr().err
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == [".kij-train/.gitignore", ".kij-train/runs/a/1/kept", "s.py"]
    assert not (tmp_path / ".kij-train/runs/a/0").exists()


def test_a_run_of_what_ships_keeps_them_beside_the_code_and_not_in_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    line = ["launch", "--local", "--nodes", "2", "--name", "a", "--as-shipped", "--no-torchrun"]
    assert main([*line, "s.py"]) == 0, capfd.readouterr().err
    assert (tmp_path / ".kij-train/runs/a/1/kept").read_text() == "x"


def test_nothing_is_left_of_a_run_that_writes_nothing(tmp_path: Path) -> None:
    with run_dirs(tmp_path, "a", tmp_path) as own:
        (own / "0").mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []


def test_what_others_keep_beside_it_stays(tmp_path: Path) -> None:
    (tmp_path / ".kij-train/arrays/b").mkdir(parents=True)
    with run_dirs(tmp_path, "a", tmp_path) as own:
        (own / "0").mkdir(parents=True)
    assert not (tmp_path / ".kij-train/runs").exists()
    assert (tmp_path / ".kij-train/arrays/b").is_dir()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = {contract.ENV_PARENT_PID: "1", contract.ENV_RUN_DIR: str(tmp_path / "file" / "0")}
    with pytest.raises(Failure, match=r"cannot make the folder .*file/0: Not a directory"):
        prepare(env, print)
    prepare({**env, contract.ENV_RUN_DIR: str(tmp_path / "a" / "0")}, print)
    assert (tmp_path / "a" / "0").is_dir()
