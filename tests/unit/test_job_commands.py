"""The commands about a job, against a small server that has one job of the recorded situations."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.shell_completion import ShellComplete
from kij_train.cli import main, onjob
from kij_train.cli.app import app

from tests.unit.test_client import Answer, ApiServer, Handler

SITUATIONS = Path(__file__).parent / "situations"
LABELS = {"app.kubernetes.io/managed-by": "kij-train"}


class OneJob(ApiServer):
    """Serves the job, the pods and the events of a situation, and remembers what is changed."""

    def __init__(self, situation: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        found = json.loads((SITUATIONS / f"{situation}.json").read_text())
        self.job: dict[str, Any] = found["job"]
        self.job["metadata"]["labels"] = LABELS
        self.job["metadata"].setdefault("resourceVersion", "1")
        self.items = {"jobs": [self.job], "pods": found["pods"], "events": found["events"]}
        self.changes: list[str] = []
        self.answer = self._answer

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        path, _, query = path.partition("?")
        if "watch=true" in query:
            return 200, b""
        *_, kind, name = path.split("/")
        if name in self.items:
            listed = {"metadata": {"resourceVersion": "1"}, "items": self.items[name]}
            return 200, json.dumps(listed).encode()
        if kind != "jobs" or name != self.job["metadata"]["name"]:
            return 404, json.dumps({"reason": "NotFound", "message": f"{name} not found"}).encode()
        if method != "GET":
            self.changes.append(method)
        return 200, json.dumps(self.job).encode()

    def kubeconfig(self, folder: Path) -> str:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}
            ],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "here",
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return str(path)


@pytest.fixture
def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OneJob]:
    """With the situation that the test is parametrized with, as the cluster of KUBECONFIG."""
    with OneJob(request.param) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield made
        made.shutdown()


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any, str]:
    """Exit code, what stdout has as JSON, and stderr."""
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


@pytest.mark.parametrize(
    ("server", "code", "state"),
    [("succeeded", 0, "succeeded"), ("exception-on-one-rank", 1, "failed"), ("cancelled", 1, "")],
    indirect=["server"],
)
def test_the_json_of_wait_says_what_that_of_status_does(
    server: OneJob, capsys: pytest.CaptureFixture[str], code: int, state: str
) -> None:
    status = run(capsys, "status", "job", "-o", "json")[1]
    ended, said, err = run(capsys, "wait", "job", "-o", "json")
    assert (ended, err) == (code, "")
    assert said["state"] == (state or "cancelled")
    for key in ("ranksPerNode", "phases", "indexes"):
        del status[key]
    assert said == status


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_wait_that_times_out_has_no_json(
    server: OneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, err = run(capsys, "wait", "job", "--timeout", "1s", "-o", "json")
    assert (code, said) == (5, None)
    assert "has not ended within 1 s" in err


@pytest.mark.parametrize(
    ("server", "state", "before", "changes"),
    [
        ("running", "cancelled", "running", ["PATCH"]),
        ("succeeded", "succeeded", "succeeded", []),
        ("cancelled", "cancelled", "cancelled", []),
    ],
    indirect=["server"],
)
def test_the_json_of_cancel_says_the_state_and_the_one_before(
    server: OneJob,
    capsys: pytest.CaptureFixture[str],
    state: str,
    before: str,
    changes: list[str],
) -> None:
    code, said, err = run(capsys, "cancel", "job", "-o", "json")
    assert (code, err) == (0, "")
    metadata = server.job["metadata"]
    assert said == {
        "name": "job",
        "namespace": metadata["namespace"],
        "uid": metadata["uid"],
        "state": state,
        "stateBefore": before,
    }
    assert server.changes == changes


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_the_json_of_delete_names_what_is_gone_though_another_is_not_there(
    server: OneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = server.job["metadata"]
    gone = {key: metadata[key] for key in ("name", "namespace", "uid")} | {"state": "running"}
    assert run(capsys, "delete", "job", "-o", "json") == (0, [gone], "")
    code, said, err = run(capsys, "delete", "job", "other", "-o", "json")
    assert (code, said) == (4, [gone])
    assert "has no job other" in err
    assert server.changes == ["DELETE", "DELETE"]


@pytest.mark.parametrize("server", ["half-a-gang"], indirect=True)
def test_the_table_of_status_has_the_age_of_every_pod(
    server: OneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 4000))
    for pod in server.items["pods"]:
        pod["metadata"]["creationTimestamp"] = made
    assert main(["status", "job"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    at = header.index("AGE")
    assert header.index("FOR") < at < header.index("RESTARTS")
    assert [row[at:].split()[0] for row in rows[:3]] == ["1h06m"] * 3
    assert {row["created"] for row in run(capsys, "status", "job", "-o", "json")[1]["indexes"]} == {
        made
    }


# --- completion -----------------------------------------------------------------------------------


def completed(command: str, begun: str) -> list[str]:
    """What a shell offers behind `kij-train COMMAND`, for a word that is begun."""
    shell = ShellComplete(app, {}, "kij-train", "_KIJ_TRAIN_COMPLETE")
    return [item.value for item in shell.get_completions([command], begun)]


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_shell_completes_the_names_of_jobs(server: OneJob) -> None:
    about = "status logs why wait cancel resume scale stacks delete exec shell events"
    for command in about.split():
        assert completed(command, "jo") == ["job"], command
    assert completed("status", "x") == []


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_server_that_is_silent_keeps_no_shell_waiting(
    server: OneJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert onjob.COMPLETION_S == 2.0
    monkeypatch.setattr(onjob, "COMPLETION_S", 0.3)
    # It takes the connection, and never says a word: the request itself would wait for a minute.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = Path(server.kubeconfig(tmp_path))
        text = re.sub(
            r"127\.0\.0\.1:\d+", f"127.0.0.1:{silent.getsockname()[1]}", config.read_text()
        )
        config.write_text(text)
        began = time.monotonic()
        assert completed("status", "jo") == []
        assert time.monotonic() - began < 10


def test_without_a_cluster_nothing_is_completed_nor_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert completed("status", "jo") == []
    assert capsys.readouterr() == ("", "")
