"""The Python API: what it loads, what it refuses, and local runs of programs without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kij_train
import pytest
from kij_train.errors import RequestError, UnreachableError


@pytest.mark.parametrize("names", ["", "; kij_train.launch; kij_train.job; kij_train.Run"])
def test_importing_loads_neither_kubernetes_nor_torch(names: str) -> None:
    probe = f"import sys, kij_train{names}; print([m for m in ('kubernetes', 'torch') if m in "
    result = subprocess.run(
        [sys.executable, "-c", probe + "sys.modules])"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_and_sorted() -> None:
    assert kij_train.__all__ == sorted(kij_train.__all__)
    assert all(getattr(kij_train, name) is not None for name in kij_train.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        kij_train.lunch  # noqa: B018


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(RequestError, match="nodes"):
        kij_train.job("train.py", nodes=0)
    with pytest.raises(RequestError, match="gpus"):
        kij_train.job("train.py", gpu=1)


def test_a_missing_script_and_a_missing_cluster_are_errors_of_launch(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        kij_train.launch(kij_train.job("train.py"), local=True, cwd=tmp_path)
    with pytest.raises(UnreachableError):
        kij_train.attach("train-x3k9")


def test_launch_takes_a_job_and_says_how_to_make_one() -> None:
    with pytest.raises(RequestError, match=r"launch takes a job, not str 'train\.py'") as caught:
        kij_train.launch("train.py", local=True)  # type: ignore[arg-type]
    assert 'kij_train.job("train.py"' in caught.value.hints[0]


@pytest.mark.parametrize("name", ["", ".", "one/status"])
def test_what_is_no_job_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(RequestError, match="is no job name"):
        kij_train.attach(name)
