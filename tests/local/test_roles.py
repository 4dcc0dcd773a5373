"""Roles of nodes, and the example that splits prefill and decode."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commandline import run

pytest.importorskip("torch")
EXAMPLES = Path(__file__).parents[2] / "train_examples"


def test_answers_of_split_prefill_and_decode_are_those_of_one_process() -> None:
    line = ["launch", "--local", "--roles", "prefill=1,decode=1", "pd_disaggregation.py"]
    small = ["--requests", "3", "--tokens", "5", "--prompt", "20", "--layers", "2", "--dim", "32"]
    result = run(EXAMPLES, *line, *small)
    assert result.returncode == 0, result.stderr
    assert "2 ranks (prefill, decode), gloo, 3 requests" in result.stdout
    assert "all answers are those of one process" in result.stdout
    assert "K and V: 512 bytes a token of the prompt, 10,240 a request" in result.stdout
    assert re.search(r"split is slower here in: \w", result.stdout)
