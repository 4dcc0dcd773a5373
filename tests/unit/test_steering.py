"""cancel, resume and scale, against a small server that has one job and keeps what is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kij_train import names
from kij_train.cli import logs, main
from kij_train.cluster import LogLine
from kij_train.pod import gang

from tests.unit.test_client import Answer, said
from tests.unit.test_job_commands import LABELS, OneJob, run

QUEUED = {**LABELS, names.QUEUE: "team-a"}


class OnePatched(OneJob):
    """Keeps the body of every change."""

    def __init__(self, situation: str) -> None:
        super().__init__(situation)
        self.bodies: list[tuple[str, str, dict[str, Any]]] = []
        self.refuses: tuple[str, str] | None = None

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        if method != "GET":
            self.bodies.append((method, path.partition("?")[0].rpartition("/")[2], body))
        if self.refuses is not None and method == self.refuses[0]:
            return said(403, "Forbidden", self.refuses[1])
        if method == "DELETE" and "/pods/" in path:
            return 200, b"{}"
        return super()._answer(method, path, body)

    @property
    def patch(self) -> dict[str, Any]:
        ((method, name, body),) = self.bodies
        assert (method, name) == ("PATCH", "job")
        return body

    def elastic(self, low: int, high: int, spares: int = 0) -> None:
        settings = gang.Settings(low, high, spares, ["a:1"], 3, 3)
        container = self.job["spec"]["template"]["spec"]["containers"][0]
        setting = {"name": gang.ENV_GANG, "value": json.dumps(settings._asdict())}
        container["env"] = [*container["env"], setting]


@pytest.fixture
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OnePatched]:
    with OnePatched(request.param) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield made
        made.shutdown()


# --- cancel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_cancel_keeps_the_queue_and_names_the_way_back(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    server.job["metadata"]["labels"] = QUEUED
    assert main(["cancel", "job"]) == 0
    assert "kij-train resume job -n " in capsys.readouterr().err
    metadata = server.patch["metadata"]
    assert metadata["annotations"] == {names.CANCELLED: "true", names.CANCELLED_QUEUE: "team-a"}
    assert metadata["labels"] == {names.QUEUE: None}
    assert server.patch["spec"] == {"suspend": True}


def ending(server: OnePatched, grace_s: int | None) -> None:
    """The pod as the Job controller leaves it; None: it has not come to it."""
    metadata = server.items["pods"][0]["metadata"]
    if grace_s is not None:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        metadata["deletionGracePeriodSeconds"] = grace_s


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_shorter_grace_period_goes_to_the_pods_that_are_being_ended(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(server, 30)
    assert main(["cancel", "job", "--grace", "5s"]) == 0, capsys.readouterr().err
    (patch, _, _), (delete, pod, body) = server.bodies
    metadata = server.items["pods"][0]["metadata"]
    assert (patch, delete, pod) == ("PATCH", "DELETE", metadata["name"])
    assert body["gracePeriodSeconds"] == 5
    assert body["preconditions"] == {"uid": metadata["uid"]}


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_pod_that_is_not_being_ended_yet_is_not_deleted(
    server: OnePatched, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kij_train.cluster.submit.SUSPENDED_S", 0.3)
    assert main(["cancel", "job", "--grace", "5s"]) == 5
    assert [method for method, _, _ in server.bodies] == ["PATCH"]
    assert "is cancelled, with its own grace period of 30" in capsys.readouterr().err


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_longer_grace_period_is_refused_and_nothing_is_done(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", "job", "--grace", "2m"]) == 2
    err = capsys.readouterr().err
    assert "shorten only; nothing was done" in err
    assert "kij-train cancel job -n " in err
    assert server.bodies == []
    assert main(["cancel", "job", "--grace", "soon"]) == 2
    assert "--grace soon is no duration" in capsys.readouterr().err


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_without_the_right_to_delete_pods_the_job_is_cancelled_and_that_is_said(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(server, 30)
    words = 'pods "x" is forbidden: User "bob" cannot delete resource "pods" in API group ""'
    server.refuses = ("DELETE", words)
    assert main(["cancel", "job", "--grace", "5s"]) == 3
    err = capsys.readouterr().err
    assert "job is cancelled, with its own grace period of 30" in err
    assert "bob may not delete pods" in err
    assert server.bodies[0][0] == "PATCH"


@pytest.mark.parametrize("server", ["cancelled"], indirect=True)
def test_the_pods_of_a_cancelled_job_can_be_hastened(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", "job", "--grace", "5s"]) == 0
    assert "is cancelled" in capsys.readouterr().err
    assert server.bodies == []  # it has no pods any more


# --- resume ---------------------------------------------------------------------------------------

UNMARKED = {names.CANCELLED: None, names.CANCELLED_QUEUE: None}


@pytest.mark.parametrize("server", ["cancelled", "suspended"], indirect=True)
def test_resume_takes_the_mark_away_and_lets_the_job_go_on(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = server.job["metadata"].get("annotations") or {}
    before = "cancelled" if names.CANCELLED in notes else "suspended"
    code, told, err = run(capsys, "resume", "job", "-o", "json")
    assert (code, err) == (0, "")
    uid = server.job["metadata"]["uid"]
    assert server.patch == {
        "metadata": {"uid": uid, "annotations": UNMARKED},
        "spec": {"suspend": False},
    }
    assert told == {
        "name": "job",
        "namespace": server.job["metadata"]["namespace"],
        "uid": uid,
        "state": "pending",
        "stateBefore": before,
        "queue": None,
    }


@pytest.mark.parametrize("server", ["cancelled"], indirect=True)
def test_a_job_that_was_in_a_queue_goes_back_to_it_and_stays_suspended(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    server.job["metadata"]["annotations"][names.CANCELLED_QUEUE] = "team-a"
    assert main(["resume", "job"]) == 0
    assert "job waits in queue team-a again" in capsys.readouterr().err
    assert "spec" not in server.patch
    assert server.patch["metadata"]["labels"] == {names.QUEUE: "team-a"}
    assert server.patch["metadata"]["annotations"] == UNMARKED


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("running", "job is not suspended: it is running"),
        ("succeeded", "job has ended (succeeded)"),
        ("exception-on-one-rank", "job has ended (failed)"),
        ("queued", "job waits in queue team-a, which starts it"),
    ],
    indirect=["server"],
)
def test_what_is_not_suspended_is_not_resumed(
    server: OnePatched, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    if "queue" in words:
        server.job["metadata"]["labels"] = QUEUED
    assert main(["resume", "job"]) == 2
    assert words in capsys.readouterr().err
    assert server.bodies == []


@pytest.mark.parametrize("server", ["suspended"], indirect=True)
@pytest.mark.parametrize("line", [("resume",), ("cancel",), ("scale", "3")])
def test_a_job_of_somebody_else_is_left_alone(
    server: OnePatched, capsys: pytest.CaptureFixture[str], line: tuple[str, ...]
) -> None:
    server.job["metadata"]["labels"] = {}
    assert main([line[0], "job", *line[1:]]) == 3
    err = capsys.readouterr().err
    assert "was not made by kij-train" in err
    if line == ("resume",):
        assert """kubectl patch job job -p '{"spec":{"suspend":false}}' -n""" in err
    assert server.bodies == []


# --- scale ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_scale_changes_completions_and_parallelism_at_once(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    server.elastic(3, 5)
    code, told, err = run(capsys, "scale", "job", "4", "-o", "json")
    assert (code, err) == (0, "")
    assert server.patch == {
        "metadata": {"uid": server.job["metadata"]["uid"]},
        "spec": {"completions": 4, "parallelism": 4},
    }
    assert (told["nodes"], told["nodesBefore"]) == (4, 1)


@pytest.mark.parametrize("server", ["running"], indirect=True)
@pytest.mark.parametrize("nodes", [2, 6])
def test_a_number_of_nodes_out_of_range_is_refused_with_the_range(
    server: OnePatched, capsys: pytest.CaptureFixture[str], nodes: int
) -> None:
    server.elastic(3, 5)
    assert main(["scale", "job", str(nodes)]) == 2
    assert f"job takes 3 to 5 nodes, as it was launched: {nodes} is" in capsys.readouterr().err
    assert server.bodies == []


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_where_ranks_move_no_log_is_chosen_by_rank(
    server: OnePatched, capsys: pytest.CaptureFixture[str]
) -> None:
    server.elastic(1, 2)
    assert main(["logs", "job", "--rank", "1"]) == 2
    said = capsys.readouterr().err
    assert "--rank 1: ranks of job move" in said
    assert "kij-train stacks job -n default --rank 1" in said


def test_a_line_of_a_node_has_its_ranks_where_they_do_not_move() -> None:
    line = LogLine(2, "pod", "2026-11-26T00:00:00.000000000Z", "text")
    assert json.loads(logs._json(line, 2))["ranks"] == [4, 5]
    assert json.loads(logs._json(line, None))["ranks"] is None


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_only_an_elastic_job_scales(server: OnePatched, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "job", "2"]) == 2
    assert "was not launched with a range of nodes" in capsys.readouterr().err
    server.elastic(4, 4, spares=1)
    assert main(["scale", "job", "4"]) == 2
    assert "it always trains on 4 nodes" in capsys.readouterr().err
    assert server.bodies == []


@pytest.mark.parametrize("server", ["running", "succeeded"], indirect=True)
def test_there_is_nothing_to_scale(server: OnePatched, capsys: pytest.CaptureFixture[str]) -> None:
    server.elastic(1, 2)
    ended = "completionTime" in server.job["status"]
    assert main(["scale", "job", "1"]) == (2 if ended else 0)
    words = "job has ended: succeeded" if ended else "job has 1 nodes already"
    assert words in capsys.readouterr().err
    assert server.bodies == []
