"""A glance at the pods of an array of thousands, against a small server that has one."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kij_train import names
from kij_train.cli import main
from kij_train.jobs import overview
from kij_train.pod import itemplan, itemrecords, results

from tests.unit.test_array_collect import STARTED, OneArray, job
from tests.unit.test_client import Answer

INDEXES = overview.MANY + 200
PLAN = itemplan.encode_range(0, INDEXES, indexes=INDEXES, chunk=1, seed=0)


class Large(OneArray):
    """An array of thousands. It says what it was asked for as phase/form."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs = [job(plan_sha256=itemplan.sha256(PLAN))]
        self.jobs[0]["spec"]["completions"] = INDEXES
        self.page = 500
        self.pages: Counter[str] = Counter()
        self.answer = self._answer_of_many

    def add(self, indexes: range, phase: str, **more: Any) -> None:
        """Pods of these indexes."""
        for index in indexes:
            code = {"Succeeded": 0, "Failed": 1}.get(phase)
            lines = [record(index)] if code == 0 else []
            account = results.account_of(index, 0, {str(index): 0}, lines)
            message = results.encode_account(account).decode() if code == 0 else ""
            self.pod(index, code=code, message=message, log=[])
            pod = self.pods[-1]
            pod["status"]["phase"] = phase
            pod["metadata"]["name"] = f"arr-{index}-x{len(self.pods)}y"
            if phase == "Pending":
                pod["status"] = {"phase": phase, **more.get("status", {})}
                pod["spec"] = {}

    def _answer_of_many(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        split = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        *_, kind, name = split.path.split("/")
        if kind == "pods":
            self.pages["one"] += 1
            return 200, json.dumps(self._named(name)).encode()
        if name != "pods" or query.get("watch"):
            return self._answer(method, path, body)
        phase = query.get("fieldSelector", "").partition("status.phase=")[2]
        form = "table" if "includeObject" in query else "whole"
        self.pages[f"{phase} {form}"] += 1
        return self._answer(method, path, body)

    def _named(self, name: str) -> dict[str, Any]:
        return next(pod for pod in self.pods if pod["metadata"]["name"] == name)


def record(index: int) -> str:
    """What an index leaves that went well."""
    run = itemrecords.Run(index, 0, 0.5, 0, "machine")
    (found,) = itemrecords.item_records(str(index), run, b'{"loss": 0.25}')
    return itemrecords.dumps(found)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Large]:
    with Large() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        packed = itemplan.compress(PLAN)
        monkeypatch.setattr("kij_train.jobs.array_found.data_of", lambda *_: packed)
        yield made
        made.shutdown()


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    main(list(argv))
    said = capsys.readouterr()
    return said.out + said.err


def test_the_state_of_thousands_is_told_by_tables(
    server: Large, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add(range(300), "Succeeded")
    server.add(range(300, 1000), "Running")
    server.pods[-1]["metadata"]["deletionTimestamp"] = STARTED
    server.jobs[0]["status"]["completedIndexes"] = "0-299"
    said = shown(capsys, "status", "arr")
    assert "pending 200  running 699  ending 1  done 300" in said
    assert "every item: kij-train report arr -n default" in said
    assert not server.pages["Running whole"] and not server.pages["Succeeded whole"]
    assert sum(server.pages.values()) <= 4 + 8  # one for each phase, and the logs of some


def test_those_in_trouble_are_shown_as_they_are(
    server: Large, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add(range(1), "Failed")
    server.add(range(1), "Running")
    server.add(range(1, 30), "Failed")
    waits = {"reason": "Unschedulable", "type": "PodScheduled", "status": "False"}
    server.add(range(700, 703), "Pending", status={"conditions": [waits]})
    server.add(range(30, 700), "Pending")
    said = shown(capsys, "status", "arr")
    # Index 0 has another pod, which counts.
    assert "running 1  failed 29" in said
    assert "Unschedulable" in said and "index 0-29: Error, exit code" in said
    assert "hold what they have" not in said  # no index waits for another
    assert server.pages["Failed whole"] == server.pages["Pending whole"] == 1
    assert "without a word" not in said


def test_as_json_every_pod_is_whole(server: Large, capsys: pytest.CaptureFixture[str]) -> None:
    server.add(range(INDEXES), "Succeeded")
    found = json.loads(shown(capsys, "status", "arr", "-o", "json"))
    assert found["items"] == {"done": INDEXES, "failed": 0}
    assert found["indexes"][7]["exitCode"] == 0


def test_a_report_reads_the_pods_whose_records_are_not_here_yet(
    server: Large, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add(range(600), "Succeeded")
    server.add(range(600, 900), "Running")
    assert f"done 600, running 300, pending {INDEXES - 900}" in shown(capsys, "report", "arr")
    assert server.pages["Succeeded whole"] == 2
    server.pages.clear()
    server.pods = server.pods[:600]
    server.add(range(600, 600 + overview.MOST_GOT), "Succeeded")
    assert f"done {600 + overview.MOST_GOT}, " in shown(capsys, "report", "arr")
    assert server.pages["one"] == overview.MOST_GOT
    assert not server.pages["Succeeded whole"]
    server.pages.clear()
    assert f"done {600 + overview.MOST_GOT}, " in shown(capsys, "report", "arr")
    assert not server.pages["one"]


@pytest.mark.parametrize("name", ["arr", "arr-7", "arr-7-", "arr-x-abcde", ""])
def test_a_pod_of_another_name_is_none_of_its_indexes(name: str, server: Large) -> None:
    from kij_train.cluster import Cluster

    server.add(range(2), "Running")
    server.pods[0]["metadata"]["name"] = name
    cluster = Cluster.connect(kubeconfig=None, context=None, namespace=None)
    (row,) = overview.rows_of(cluster, "arr", overview.RUNNING)
    assert (row.index, row.machine) == (1, "machine-1")
    assert row.as_pod()["metadata"]["labels"] == {names.COMPLETION_INDEX: "1"}


def test_a_server_that_knows_no_tables_is_said(
    server: Large, capsys: pytest.CaptureFixture[str]
) -> None:
    def lists_alone(method: str, path: str, body: dict[str, Any]) -> Answer:
        return server._answer_of_many(method, path.replace("includeObject", "other"), body)

    server.answer = lists_alone
    said = shown(capsys, "status", "arr")
    assert "does not answer like a Kubernetes API server" in said
