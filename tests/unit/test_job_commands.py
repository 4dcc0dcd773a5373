"""The commands about a job, against a small server that has one job of the recorded situations."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.shell_completion import ShellComplete
from kij_train import names
from kij_train.cli import completers, main
from kij_train.cli.app import app
from kij_train.pod import gang

from tests.kube import eventually
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
        self.asked: list[str] = []
        self.answer = self._answer

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        self.asked.append(path)
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
    assert header.index("FOR") < at < header.index("REPLACED")
    assert [row[at:].split()[0] for row in rows[:3]] == ["1h06m"] * 3
    assert {row["created"] for row in run(capsys, "status", "job", "-o", "json")[1]["indexes"]} == {
        made
    }


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_list_asks_the_server_for_labels_and_chooses_states_itself(
    server: OneJob, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "EXAMPLE\\ada@home")
    code, found, _ = run(capsys, "list", "-o", "json", "--mine", "--label", "team=x")
    assert (code, [job["name"] for job in found]) == (0, ["job"])
    assert "kij-train%2Fuser%3DEXAMPLE-ada-home" in server.asked[-1]
    assert "team%3Dx" in server.asked[-1]
    monkeypatch.setenv("KIJ_LABELS", "kij-train/user=vision")
    run(capsys, "list", "-o", "json", "--mine")
    assert "kij-train%2Fuser%3Dvision" in server.asked[-1]
    states = ("running", "pending"), ("failed",)
    for wanted, jobs in zip(states, (["job"], []), strict=True):
        argv = [word for state in wanted for word in ("--state", state)]
        _, found, _ = run(capsys, "list", "-o", "json", *argv)
        assert [job["name"] for job in found or []] == jobs
    assert main(["list", "--label", "a b=c"]) == 2
    assert "'a b' is no key" in capsys.readouterr().err


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_list_and_status_count_alike(server: OneJob, capsys: pytest.CaptureFixture[str]) -> None:
    """One word a state; spares apart; and no count of what the Job alone does not tell."""
    restarts(server.job, high=2, completions=3)
    server.job["status"]["ready"] = 2
    main(["list"])
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "AGE", "NODES", "GPUS", "STATE", "READY", "REPLACED"]
    assert row.split()[-5:] == ["2+1", "-", "running", "2/2", "0"]
    main(["why", "job"])
    assert capsys.readouterr().out.startswith("job is running, ")


@pytest.mark.parametrize("server", ["succeeded"], indirect=True)
def test_a_job_that_is_held_up_is_running_to_list_as_to_status(
    server: OneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a container of somebody else's, which keeps its pods from being ready."""
    runs = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    for pod in server.items["pods"]:
        pod["status"]["phase"] = "Running"
        pod["status"]["containerStatuses"].append({"name": "proxy", "ready": True, "state": runs})
    server.job["status"] = {"active": 1, "ready": 0, "startTime": "2026-01-01T00:00:00Z"}
    _, (listed,), _ = run(capsys, "list", "-o", "json")
    assert "status.phase%3DRunning" in server.asked[-1]
    _, status, _ = run(capsys, "status", "job", "-o", "json")
    assert listed["state"] == status["state"] == status["verdict"]["state"] == "running"
    assert [finding["kind"] for finding in status["verdict"]["findings"]] == ["held-up"]
    server.items["pods"] = []
    _, (listed,), _ = run(capsys, "list", "-o", "json")
    assert listed["state"] == "pending"


def restarts(job: dict[str, Any], *, high: int, completions: int) -> None:
    settings = gang.Settings(high, high, completions - high, ["a:1"], 3, 3)
    container = job["spec"]["template"]["spec"]["containers"][0]
    said = {"name": gang.ENV_GANG, "value": json.dumps(settings._asdict())}
    container["env"] = [*container["env"], said]
    job["spec"]["completions"] = completions


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_healthy_spare_is_no_warning_among_the_events(
    server: OneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    unhealthy = {
        "involvedObject": {"kind": "Job", "name": "job"},
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "type": "Warning",
        "reason": "Unhealthy",
        "message": "Readiness probe failed: dial tcp 10.0.0.1:29504: connect: connection refused",
    }
    server.items["events"] = [unhealthy]
    _, found, _ = run(capsys, "events", "job", "-o", "json")
    assert [(row["type"], row["reason"]) for row in found] == [("Warning", "Unhealthy")]
    restarts(server.job, high=1, completions=1)
    _, found, _ = run(capsys, "events", "job", "-o", "json")
    assert [(row["type"], row["reason"]) for row in found] == [("Normal", "Standby")]


@pytest.mark.parametrize(
    ("server", "jobs"),
    [
        ("succeeded", ["job"]),
        ("exception-on-one-rank", ["job"]),
        ("running", []),
        ("cancelled", []),
    ],
    indirect=["server"],
)
def test_delete_finished_takes_those_that_have_ended_by_themselves(
    server: OneJob, capsys: pytest.CaptureFixture[str], jobs: list[str]
) -> None:
    code, gone, _ = run(capsys, "delete", "--finished", "--yes", "-o", "json")
    assert (code, [job["name"] for job in gone]) == (0, jobs)
    assert server.changes == ["DELETE"] * len(jobs)


NO_NAMES = [
    "",
    " ",
    ".",
    "..",
    "job/status",
    "../jobs/job",
    "job?a",
    "job#a",
    "job%2Fa",
    "a\nb",
    "-",
]
ON_A_JOB = """status NAME | status -w NAME | logs NAME | logs -f NAME | events NAME | why NAME
    | wait NAME | stacks NAME | exec NAME -- true | shell NAME | attach NAME | cancel NAME
    | resume NAME | scale NAME 2 | delete NAME | delete job NAME | launch --again NAME"""


@pytest.mark.parametrize("server", ["running"], indirect=True)
@pytest.mark.parametrize("line", [line.split() for line in ON_A_JOB.split("|")], ids=" ".join)
def test_what_is_no_job_name_is_refused_before_anything_is_asked(
    server: OneJob, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    for name in NO_NAMES:
        code, _, err = run(capsys, *(name if word == "NAME" else word for word in line))
        assert (code, server.asked) == (2, []), (name, err)
        assert f"{name!r} is no job name" in err
        assert "kij-train list" in err
        assert ("is a variable empty or not set?" in err) == (not name)


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_job_of_others_may_have_dots_in_its_name(
    server: OneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    server.job["metadata"]["name"] = "1.of-others"
    assert run(capsys, "why", "1.of-others", "-o", "json")[0] == 0


@pytest.mark.parametrize("server", ["succeeded"], indirect=True)
@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("", "nothing to delete: name jobs, or --finished", ""),
        ("job --finished", "--finished conflicts with job", ""),
        ("job --mine", "--mine goes with --finished alone", ""),
        ("--finished", "asks before it deletes, and this is no terminal", "--finished --yes"),
    ],
)
def test_delete_refuses_what_is_not_clear(
    server: OneJob, capsys: pytest.CaptureFixture[str], line: str, message: str, hint: str
) -> None:
    code, _, err = run(capsys, "delete", *line.split())
    assert (code, server.changes) == (2, [])
    assert message in err
    assert hint in err


@pytest.mark.parametrize("server", ["running"], indirect=True)
@pytest.mark.parametrize("words", [("logs", "-f", "job"), ("wait", "job"), ("status", "-w", "job")])
def test_ctrl_c_in_a_command_that_follows_is_no_error(
    server: OneJob, words: tuple[str, ...]
) -> None:
    line = [sys.executable, "-m", "kij_train", *words]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ours:
        assert eventually(lambda: any("watch=true" in path for path in server.asked), 30)
        ours.send_signal(signal.SIGINT)
        _, err = ours.communicate(timeout=30)
    assert ours.returncode == 130
    assert "error" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_status_that_stays_has_no_json(server: OneJob, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "status", "-w", "job", "-o", "json")
    assert code == 2
    assert "kij-train wait job -n default -o json" in err


@pytest.mark.parametrize("server", ["exception-on-one-rank"], indirect=True)
@pytest.mark.parametrize(("argv", "name"), [((), None), (("--replace",), "job")])
def test_a_job_is_launched_again_with_flags_on_top(
    server: OneJob,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    argv: tuple[str, ...],
    name: str | None,
) -> None:
    (tmp_path / "t.py").touch()
    request = {"script": "t.py", "args": ["--lr", "1"], "nodes": 2, "image": "i"}
    server.job["metadata"]["annotations"] = {names.REQUEST: json.dumps(request)}
    line = ("launch", "--again", "job", "--nodes", "4", *argv, "--dry-run", "client", "-o", "json")
    code, made, err = run(capsys, *line)
    assert code == 0, err
    job = made["items"][-1]
    assert job["spec"]["completions"] == 4
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["t.py", "--lr", "1"]
    assert job["metadata"]["name"] == name or job["metadata"]["name"].startswith("t-")


@pytest.mark.parametrize("server", ["running"], indirect=True)
@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("--again", "job"), 2, "job does not say how it was launched"),
        (("--again", "nope"), 4, "has no job nope"),
        (("--again", "job", "-f", "job.yaml"), 2, "--file conflicts with --again"),
        (("--again", "job", "--profile", "tcp"), 2, "--profile conflicts with --again"),
    ],
)
def test_what_cannot_be_had_again_is_said(
    server: OneJob,
    capsys: pytest.CaptureFixture[str],
    argv: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    assert main(["launch", *argv]) == code
    assert message in capsys.readouterr().err
    assert server.changes == []


# --- completion -----------------------------------------------------------------------------------


def completed(words: str, begun: str) -> list[str]:
    """What a shell offers behind `kij-train WORDS`, for a word that is begun."""
    shell = ShellComplete(app, {}, "kij-train", "_KIJ_TRAIN_COMPLETE")
    return [item.value for item in shell.get_completions(words.split(), begun)]


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_shell_completes_the_names_of_jobs(server: OneJob) -> None:
    about = (
        "attach status logs why wait cancel resume scale stacks delete exec shell forward events"
    )
    for command in about.split():
        assert completed(command, "jo") == ["job"], command
    assert completed("status", "x") == []
    assert completed("cp", "jo") == ["job:0:", "jo"]  # the last one lets the shell offer files


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_server_that_is_silent_keeps_no_shell_waiting(
    server: OneJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completers.COMPLETION_S == 2.0
    monkeypatch.setattr(completers, "COMPLETION_S", 0.3)
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


@pytest.mark.parametrize("words", ["launch", "render", "config", "bench allreduce"])
def test_a_shell_completes_profiles_and_kinds_of_gpu(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kij-train.toml").write_text("[profiles.team]\nspec = {}\n")
    assert completed(f"{words} --profile", "t") == ["team", "tcp"]
    assert completed(f"{words} --gpu-kind", "") == ["whole", "shared", "amd", "dra"]
    assert completed("profiles show", "ef") == ["efa"]
    (tmp_path / "kij-train.toml").write_text("profiles = 7\n")
    assert completed(f"{words} --profile", "t") == []


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_a_shell_completes_namespaces_and_queues(server: OneJob) -> None:
    def named(*names: str) -> list[dict[str, Any]]:
        return [{"metadata": {"name": name}} for name in names]

    server.items |= {
        "namespaces": named("ml", "team", "web"),
        "localqueues": named("train-a", "train-b"),
        "queues": named("volcano-q"),
    }
    own = server.answer

    def answer(method: str, path: str, body: dict[str, Any]) -> Answer:
        groups = ("kueue.x-k8s.io", "scheduling.volcano.sh")
        if path in [f"/apis/{group}" for group in groups]:
            return 200, b'{"versions": [{"version": "v1beta1"}]}'
        return own(method, path, body)

    server.answer = answer
    assert completed("launch -n", "t") == ["team"]
    assert completed("status --namespace", "") == ["ml", "team", "web"]
    assert completed("launch --namespace ml --queue", "train-") == ["train-a", "train-b"]
    assert server.asked[-1] == "/apis/kueue.x-k8s.io/v1beta1/namespaces/ml/localqueues"
    assert completed("launch --scheduler volcano --queue", "") == ["volcano-q"]
    assert server.asked[-1] == "/apis/scheduling.volcano.sh/v1beta1/queues"


@pytest.mark.parametrize("server", ["running"], indirect=True)
def test_what_a_cluster_lacks_or_refuses_is_not_completed(
    server: OneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no Kueue, and does not let this user see the namespaces."""
    assert completed("launch --queue", "") == []
    refused = {"reason": "Forbidden", "message": 'namespaces is forbidden: User "u" cannot list'}
    server.answer = lambda *_: (403, json.dumps(refused).encode())
    assert completed("launch --namespace", "") == []
    assert completed("launch --queue", "") == []
    assert capsys.readouterr() == ("", "")
