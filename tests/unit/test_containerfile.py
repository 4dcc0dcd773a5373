"""The Containerfile: its parts are there, and are all that a wheel is built of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.containerfile import FILE, Build, Step, steps


def test_what_it_copies_is_enough_to_build_the_package(tmp_path: Path) -> None:
    hatchling = pytest.importorskip("hatchling", reason="builds the wheel")
    build = Build(tmp_path, {})
    for step in steps(FILE.read_text()):
        if step.name != "RUN":
            build.run(step)
    assert (tmp_path / "work" / "hello_ranks.py").exists()
    subprocess.run(
        [sys.executable, "-m", hatchling.__name__, "build", "-t", "wheel"],
        cwd=tmp_path / "src",
        check=True,
        capture_output=True,
    )
    assert list((tmp_path / "src" / "dist").glob("kij_train-*.whl"))


def test_it_needs_no_user_of_a_name_and_no_root() -> None:
    read = steps(FILE.read_text())
    assert Step("USER", "1000") in read
    assert all(step.name != "USER" or step.text.isdigit() for step in read)


def test_a_line_that_goes_on_is_one_step() -> None:
    assert steps("# x\nRUN a \\\n    b\n") == [Step("RUN", "a b")]
    with pytest.raises(AssertionError, match="ONBUILD"):
        Build(Path(), {}).run(Step("ONBUILD", "x"))
