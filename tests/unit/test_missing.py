"""A file that a script does not find: whether it was left out of the code."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from kij_train import diagnosis, names
from kij_train.code.leftout import MOST_RECORDED_CHARS, LeftOut, Why, record

SITUATION = Path(__file__).parent / "situations/missing-module.json"
LEFT_OUT = json.dumps(["data/", "model.bin", "pkg/extra.py", "secret stuff/", "vendor/"])
ERRNO = "FileNotFoundError: [Errno 2] No such file or directory: "


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (ERRNO + "'data/train.bin'", "'!/data/train.bin'"),
        (ERRNO + "'./data/sub/../train.bin'", "'!/data/train.bin'"),
        (ERRNO + "'/kij/work/code/data/train.bin'", "'!/data/train.bin'"),
        (ERRNO + "'../data/train.bin'", "'!/data/'"),
        (ERRNO + "'data'", "'!/data/'"),
        (ERRNO + "'model.bin'", "'!/model.bin'"),
        (ERRNO + "'secret stuff/x'", "'!/secret stuff/x'"),
        ("OSError: data/a.h5 not found: 'data/a.h5'", "'!/data/a.h5'"),
        ("ModuleNotFoundError: No module named 'pkg.extra'", "'!/pkg/extra.py'"),
        ("ModuleNotFoundError: No module named 'vendor'", "'!/vendor/__init__.py'"),
    ],
)
def test_what_was_left_out_is_named_with_the_line_that_ships_it(message: str, line: str) -> None:
    hint = diagnosis.missing_file(message, LEFT_OUT)
    assert hint is not None
    assert f"echo {line} >> .kijignore" in hint


@pytest.mark.parametrize(
    "message",
    [
        ERRNO + "'/data/train.bin'",
        ERRNO + "'other/train.bin'",
        ERRNO + "'mydata/x'",
        "ModuleNotFoundError: No module named 'data2'",
        "ValueError: 'data/train.bin' is odd",
        "",
    ],
)
def test_what_was_not_left_out_is_not_blamed_on_it(message: str) -> None:
    assert diagnosis.missing_file(message, LEFT_OUT) is None
    assert diagnosis.missing_file(ERRNO + "'data/x'", None) is None
    assert diagnosis.missing_file(ERRNO + "'data/x'", "no json") is None


def test_why_names_what_was_left_out_of_the_code() -> None:
    situation = json.loads(SITUATION.read_text())
    job = copy.deepcopy(situation["job"])
    annotations = job["metadata"].setdefault("annotations", {})
    annotations[names.LEFT_OUT] = '["no_such_module/"]'
    verdict = diagnosis.why(diagnosis.JobView(job), situation["pods"], (), now=0.0)
    assert verdict.findings[0].kind == "left-out"
    assert "try: no_such_module/ was left out of the code at launch" in verdict.text()


def test_the_record_holds_the_biggest_and_no_secrets() -> None:
    left = [LeftOut(f"{number:03}" + "x" * 60, Why.GITIGNORE, 1, number) for number in range(99)]
    recorded = record([*left, LeftOut("key.pem", Why.SECRET, 1, 10**9)])
    assert recorded is not None
    assert len(recorded) <= MOST_RECORDED_CHARS
    paths = json.loads(recorded)
    assert paths == sorted(paths)
    assert paths[-1].startswith("098")
    assert not any("key" in path for path in paths)
    assert record([]) is None
