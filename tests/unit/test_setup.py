"""What --setup does: one command in every pod, before the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from kij_train.pod import contract
from kij_train.pod.contract import Failure
from kij_train.pod.prepare import run_setup
from kij_train.spec import JobSpec
from pydantic import ValidationError


def test_a_shell_runs_it_with_all_its_lines_and_it_reads_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    run_setup("cat > got\necho $((1 + 1)) '{x}' >> got", said.append)
    assert (tmp_path / "got").read_text() == "2 {x}\n"
    assert said == ["setup: cat > got\necho $((1 + 1)) '{x}' >> got"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("exit 3", "--setup: 'exit 3' ended with exit code 3"),
        ("nosuch-program", "--setup: 'nosuch-program' ended with exit code 127"),
        ("false; echo well", ""),
        ("kill -KILL $$", "--setup: 'kill -KILL $$' was killed by signal 9"),
        ("echo 'half", "ended with exit code 2"),
    ],
)
def test_how_it_has_failed_ends_the_pod_with_its_words(command: str, says: str) -> None:
    if not says:
        run_setup(command, print)
        return
    with pytest.raises(Failure) as caught:
        run_setup(command, print)
    assert says in str(caught.value)
    assert caught.value.exit_code == contract.EXIT_PREPARE


def test_an_image_without_a_shell_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match="--setup needs a shell, sh, in the image: No such file"):
        run_setup("true", print)


@pytest.mark.parametrize("command", ["", "echo \0"])
def test_what_is_no_command_is_refused(command: str) -> None:
    with pytest.raises(ValidationError, match="setup"):
        JobSpec(script="a.py", setup=command)
