"""Planted secrets (tests/planted.py) and local runs: output, records, files, processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import planted


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (("launch", "--local", "--nodes", "2", "fails.py"), 1),
        (("map", "--local", "--name", "b", "--range", "0:2", "train.py"), 0),
    ],
    ids=["launch", "map"],
)
def test_a_local_run_shows_and_leaves_nothing_of_its_users_secrets(
    tmp_path: Path, line: tuple[str, ...], code: int
) -> None:
    with planted.machine(tmp_path) as machine:
        ended, said = machine.run_alone(*line)
        assert ended == code, said
        if code:
            assert "bad batch" in said
        assert machine.look_at_files()
        assert machine.leaks == []
