"""The versions that a job has installed: read from its log, kept with it, and used again."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kij_train import render
from kij_train.cli import main
from kij_train.diagnosis import JobView
from kij_train.jobs import packages
from kij_train.pod import contract
from kij_train.pod.packages import Request
from kij_train.pod.status import PREFIX, Installed
from kij_train.spec import JobSpec

from tests.unit.test_client import Answer, said
from tests.unit.test_job_commands import LABELS, OneJob

LOCK = ("datasets==4.8", "transformers==5.17")
SPEC = JobSpec(script="train.py", packages=("datasets", "transformers==5.17"), image="x/train:1")
REQUEST = Request("datasets\ntransformers==5.17\n", "--with datasets --with transformers==5.17")
JOB = "job"


class Installing(OneJob):
    """A job whose log says what it has installed; keeps ConfigMaps."""

    def __init__(self) -> None:
        super().__init__("running")
        made = render.render(SPEC, name=JOB, code=render.Code("print()", packages=REQUEST))
        rendered = next(body for body in made if body["kind"] == "Job")
        self.job["spec"]["template"] = rendered["spec"]["template"]
        metadata = rendered["metadata"]
        self.job["metadata"] |= {"annotations": metadata["annotations"], "labels": LABELS}
        self.log = PREFIX + Installed(12, LOCK).text()
        self.kept: dict[str, dict[str, Any]] = {}
        self.refuses = False

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        where, _, _ = path.partition("?")
        *_, kind, name = where.split("/")
        if name == "log":
            self.asked.append(path)
            return 200, f"2026-01-01T00:00:00.000000001Z {self.log}\n".encode()
        if name == "configmaps":
            if self.refuses:
                return said(403, "Forbidden", 'User "bob" cannot create resource "configmaps"')
            self.kept[body["metadata"]["name"]] = body
            return 201, json.dumps(body).encode()
        if kind == "configmaps" and name in self.kept:
            return 200, json.dumps(self.kept[name]).encode()
        return super()._answer(method, path, body)

    @property
    def logs_read(self) -> int:
        return sum("/log" in path for path in self.asked)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installing]:
    with Installing() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "train.py").write_text("print()")
        yield made
        made.shutdown()


def the_kept(server: Installing) -> dict[str, Any]:
    (body,) = server.kept.values()
    assert body["metadata"]["ownerReferences"][0]["uid"] == server.job["metadata"]["uid"]
    assert body["metadata"]["name"] == packages.lock_of(JobView(server.job))
    return dict(body["data"])


def test_what_the_log_says_is_printed_and_kept_and_read_from_there_then(
    server: Installing, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["packages", JOB]) == 0
        assert capsys.readouterr().out == "datasets==4.8\ntransformers==5.17\n"
    assert the_kept(server) == {contract.PACKAGES_LOCK: "datasets==4.8\ntransformers==5.17\n"}
    assert server.logs_read == 1


def test_where_it_may_not_be_kept_it_is_printed_all_the_same(
    server: Installing, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuses = True
    assert main(["packages", JOB]) == 0
    captured = capsys.readouterr()
    assert captured.out == "datasets==4.8\ntransformers==5.17\n"
    assert "could not be kept with it" in captured.err and "bob may not create" in captured.err


def test_it_is_kept_before_the_pods_are_cancelled(server: Installing) -> None:
    assert main(["cancel", JOB]) == 0
    assert the_kept(server) and server.changes == ["PATCH"]


def test_a_job_whose_request_has_all_versions_keeps_none(server: Installing) -> None:
    code = render.Code("print()", packages=REQUEST._replace(locked=True))
    made = render.render(SPEC, name=JOB, code=code)
    assert packages.lock_of(JobView(made[-1])) is None
    server.job["spec"]["template"] = made[-1]["spec"]["template"]
    assert main(["cancel", JOB]) == 0
    assert server.kept == {} and server.logs_read == 0


def test_a_line_of_the_log_that_is_followed_keeps_it_once(
    server: Installing, tmp_path: Path
) -> None:
    notes: list[str] = []
    keeper = packages.Keeper(server.cluster(), JOB, notes.append)
    for text in ("installed packages in 1 s: of=the.script", server.log, server.log):
        keeper.saw(text)
    assert "datasets==4.8" in the_kept(server)[contract.PACKAGES_LOCK] and notes == []
    assert sum("configmaps" in path for path in server.asked) <= 1
    server.kept, server.refuses = {}, True
    packages.Keeper(server.cluster(), JOB, notes.append).saw(server.log)
    assert ["could not be kept" in note for note in notes] == [True]


def again(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[list[dict[str, Any]], str]:
    line = ["launch", "--again", JOB, "--dry-run=client", "-o", "yaml", *flags]
    assert main(line) == 0
    captured = capsys.readouterr()
    bodies = list(yaml.safe_load_all(captured.out))
    found = [body for body in bodies if contract.PACKAGES_LOCK in (body.get("data") or {})]
    return found, captured.err


def test_a_job_launched_again_has_the_same_versions_unless_it_asks_for_others(
    server: Installing, capsys: pytest.CaptureFixture[str]
) -> None:
    (kept,), err = again(capsys)
    assert kept["data"][contract.PACKAGES_LOCK].splitlines() == list(LOCK)
    assert "anew" not in err
    for flags in (("--image", "x/train:2"), ("--with", "more")):
        found, err = again(capsys, *flags)
        assert found == [] and "the versions of packages are looked up anew" in err
    server.kept, server.log = {}, "nothing"
    found, err = again(capsys)
    assert found == [] and "anew" in err


def test_pods_mount_what_is_kept_where_it_is_there_and_all_attempts_of_an_array_the_same() -> None:
    code = render.Code("print()", packages=REQUEST)
    jobs = [render.render(SPEC, name=name, code=code)[-1] for name in ("a", "b")]
    found = [packages.lock_of(JobView(copy.deepcopy(job))) for job in jobs]
    assert None not in found and found[0] != found[1]
