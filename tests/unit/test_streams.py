"""Streams that are closed, full, or know few characters: exit codes and messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ME = f"{sys.executable} -m kij_train"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text('print("é")\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False
    )


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@FULL
@pytest.mark.parametrize("command", ["render train.py", "profiles", "--help"])
def test_data_that_cannot_be_written_is_an_error(folder: Path, command: str) -> None:
    done = shell(f"{ME} {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@FULL
@pytest.mark.parametrize("stderr", ["2> /dev/full", "2>&-"])
def test_status_that_cannot_be_written_takes_no_exit_code(folder: Path, stderr: str) -> None:
    assert shell(f"{ME} render train.py {stderr} > /dev/null").returncode == 0
    assert shell(f"{ME} render nope.py {stderr}").returncode == 2


def test_closed_streams_are_no_error(folder: Path) -> None:
    done = shell(f"{ME} render train.py <&- >&-")
    assert (done.returncode, done.stderr) == (0, "")


NARROW = "PYTHONIOENCODING=latin-1"


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_data_is_the_same_where_the_locale_knows_few_characters(folder: Path, form: str) -> None:
    line = f"{ME} render -o {form} train.py ä€🙂"
    done = shell(line), shell(f"{NARROW} {line}")
    assert done[0].stdout == done[1].stdout
    load = json.loads if form == "json" else lambda text: list(yaml.safe_load_all(text))
    assert "ä€🙂" in str(load(done[1].stdout))


def test_messages_are_readable_where_the_locale_knows_few_characters(folder: Path) -> None:
    done = shell(f"{NARROW} {ME} render €.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: script \\u20ac.py: no such file")
    table = shell(f"{NARROW} {ME} config train.py €")
    assert table.returncode == 0, table.stderr
    assert '["\\u20ac"]' in table.stdout


@pytest.mark.parametrize("command", ["render train.py", "schema"])
def test_a_reader_that_leaves_ends_a_command_that_reads_well(folder: Path, command: str) -> None:
    done = shell(f"{ME} {command} | true")
    assert (done.returncode, done.stderr) == (0, "")
