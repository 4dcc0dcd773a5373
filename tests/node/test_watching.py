"""Watching jobs on real pods: logs, status, wait, cancel, exec, and faults of the API server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from jsonschema import validate

from tests.kube import ROOT, Namespace, eventually
from tests.proxies import HttpProxy, running

COUNT = """
import os, sys, time
for number in range(int(sys.argv[1])):
    print("rank", os.environ["RANK"], "line", number, flush=True)
    time.sleep(float(sys.argv[2]))
"""
SAVES = """
import signal, sys, time
def save(signum, frame):
    print("saved at", signal.Signals(signum).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""
LIVES = """
import os, signal, sys, threading, time
life, ended = os.environ["TORCHELASTIC_RUN_ID"] + os.urandom(4).hex(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
for number in range(80):
    print("life", life, "line", number, flush=True)
    if ended.wait(0.1):
        print("life", life, "ended", number, flush=True)
        sys.exit(1)
"""
UNTIL_TOLD = """
import itertools, os, time
for number in itertools.count():
    print("rank 0 line", number, flush=True)
    if os.path.exists("/tmp/told"):
        break
    time.sleep(0.2)
"""
STATUS_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        *("name", "namespace", "uid", "state", "created", "started", "ended", "nodes", "gpus"),
        *("spares", "ready", "restarts", "ranksPerNode", "phases", "indexes", "verdict"),
    ],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "uid": {"type": "string"},
        "state": {"enum": ["pending", "running", "succeeded", "failed", "suspended", "cancelled"]},
        "created": {"type": "string"},
        "started": {"type": ["string", "null"]},
        "ended": {"type": ["string", "null"]},
        "nodes": {"type": "integer"},
        "gpus": {"type": "integer"},
        "spares": {"type": "integer"},
        "reserve": {"type": "integer"},
        "reserveLeft": {"type": "integer"},
        "ready": {"type": "integer"},
        "restarts": {"type": "integer"},
        "ranksPerNode": {"type": "integer"},
        "phases": {"type": "object", "additionalProperties": {"type": "integer"}},
        "indexes": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    *("index", "phase", "pod", "node", "reason", "exitCode", "created", "since"),
                    "restarts",
                ],
                "properties": {
                    "index": {"type": "integer"},
                    "phase": {"type": "string"},
                    "pod": {"type": ["string", "null"]},
                    "node": {"type": ["string", "null"]},
                    "reason": {"type": ["string", "null"]},
                    "exitCode": {"type": ["integer", "null"]},
                    "created": {"type": ["string", "null"], "format": "date-time"},
                    "since": {"type": ["string", "null"], "format": "date-time"},
                    "restarts": {"type": "integer"},
                },
            },
        },
        "verdict": {
            "type": "object",
            "additionalProperties": False,
            "required": ["state", "headline", "findings", "accounts"],
            "properties": {
                "state": {"type": "string"},
                "headline": {"type": "string"},
                "findings": {"type": "array"},
                "accounts": {"type": ["object", "null"]},
            },
        },
    },
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "count.py").write_text(COUNT)
    (folder / "saves.py").write_text(SAVES)
    (folder / "lives.py").write_text(LIVES)
    (folder / "until_told.py").write_text(UNTIL_TOLD)
    return folder


def submit(ns: Namespace, project: Path, image: str, *argv: str) -> None:
    line = ["launch", "--detach", "--name", "a", "--image", image, *argv]
    result = ns.kij_train(*line, cwd=project)
    assert result.returncode == 0, result.stderr


def stays(ns: Namespace, *words: str, kubeconfig: str | None = None) -> subprocess.Popen[str]:
    """Start a command that stays with the job until it ends."""
    line = [sys.executable, "-m", "kij_train", *words, "-n", ns.name]
    line += ["--kubeconfig", kubeconfig or ns.kubeconfig]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Its lines up to one that has these words."""
    assert process.stdout is not None
    seen = []
    for text in process.stdout:
        seen.append(text)
        if words in text:
            return seen
    raise AssertionError(f"no {words!r} in {seen}: {process.communicate()}")


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it still says until it ends.

    `communicate` would lose the lines that were read ahead while iterating over stdout.
    """
    assert process.stdout is not None
    out = process.stdout.read()
    err = process.stderr.read() if process.stderr else ""
    process.wait(timeout=180)
    return out, err


def state_of(ns: Namespace, project: Path) -> str:
    status = json.loads(ns.kij_train("status", "a", "-o", "json", cwd=project).stdout)
    return str(status["state"])


def started(ns: Namespace, pods: int = 1) -> bool:
    phases = [pod.status.phase for pod in ns.core.list_namespaced_pod(ns.name).items]
    return phases.count("Running") >= pods


@pytest.fixture
def api_server() -> Iterator[None]:
    """Put the cluster's API server back on its feet, whatever the test did to it."""
    yield
    harness("apiserver", "start")


def harness(*words: str) -> None:
    line = [sys.executable, "-m", "tests.cluster", *words]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=240)


@pytest.mark.own_cluster
@pytest.mark.alone
def test_following_all_logs_through_an_api_server_restart_shows_each_line_once(
    ns: Namespace, project: Path, image: str, api_server: None
) -> None:
    submit(ns, project, image, "--nodes", "3", "count.py", "120", "0.2")
    line = [sys.executable, "-m", "kij_train", "logs", "-f", "--all", "a", "-n", ns.name]
    line += ["--kubeconfig", ns.kubeconfig]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as logs:
        assert logs.stdout is not None
        before = []
        for text in logs.stdout:
            before.append(text)
            if "line 30" in text:
                break
        comes_late = stays(ns, "logs", "-f", "--all", "--timestamps", "a")
        assert comes_late.stdout is not None
        past = [comes_late.stdout.readline().split()[2] for _ in range(90)]
        comes_late.kill()
        comes_late.communicate()
        assert past == sorted(past)
        harness("apiserver", "stop")
        time.sleep(4)
        harness("apiserver", "start")
        out, err = rest_of(logs)
    assert logs.returncode == 0, err
    found = re.findall(r"^(\d)/(\d) \| rank (\d) line (\d+)$", "".join(before) + out, re.MULTILINE)
    for rank in "012":
        numbers = [int(number) for *who, number in found if who == [rank, rank, rank]]
        assert numbers == list(range(120)), rank
    assert "does not answer; the job goes on" in err
    assert "is back" in err


@pytest.mark.own_cluster
@pytest.mark.alone
def test_waiting_goes_on_through_an_api_server_restart(
    ns: Namespace, project: Path, image: str, api_server: None
) -> None:
    submit(ns, project, image, "count.py", "40", "0.2")
    line = [sys.executable, "-m", "kij_train", "wait", "a", "-n", ns.name]
    line += ["--kubeconfig", ns.kubeconfig, "--timeout", "2m"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as waiting:
        # A wait that begins without a server ends at once.
        process = psutil.Process(waiting.pid)
        assert eventually(lambda: bool(process.net_connections()), 30)
        assert eventually(lambda: started(ns), 30)
        time.sleep(1)
        harness("apiserver", "stop")
        time.sleep(3)
        harness("apiserver", "start")
        _, err = waiting.communicate(timeout=240)
    assert waiting.returncode == 0, err
    assert "a succeeded in" in err


def test_the_log_of_a_pod_that_is_replaced_goes_on_with_the_new_one(
    ns: Namespace, project: Path, image: str
) -> None:
    submit(ns, project, image, "--backoff", "1", "lives.py")
    with stays(ns, "logs", "-f", "a") as logs:
        before = until(logs, "line 20")
        (pod,) = ns.core.list_namespaced_pod(ns.name).items
        ns.core.delete_namespaced_pod(pod.metadata.name, ns.name)
        out, err = rest_of(logs)
    assert logs.returncode == 0, err
    said = re.findall(r"^life (\S+) (line|ended) (\d+)$", "".join(before) + out, re.MULTILINE)
    first, second = dict.fromkeys(life for life, *_ in said)
    lines = {
        life: [int(n) for who, what, n in said if (who, what) == (life, "line")]
        for life in (first, second)
    }
    ended = [(who, int(number)) for who, what, number in said if what == "ended"]
    # Each line once and in order, up to the last word of the first pod and of the second.
    assert ended == [(first, len(lines[first]) - 1)]
    assert lines == {first: list(range(len(lines[first]))), second: list(range(80))}
    assert [who for who, *_ in said] == sorted((who for who, *_ in said), key=[first, second].index)
    status = json.loads(ns.kij_train("status", "a", "-o", "json", cwd=project).stdout)
    assert (status["state"], status["restarts"]) == ("succeeded", 1)


LOUD = """
import sys, time
for number in range(80):
    print(f"{number:06d}", "x" * 100_000, "end", f"{number:06d}", flush=True)
    time.sleep(0.1)
"""


@pytest.mark.own_cluster  # whose kubelets rotate logs at 1 MiB
def test_a_log_that_is_rotated_is_followed_whole_and_read_later_with_a_word(
    ns: Namespace, project: Path, small_image: str
) -> None:
    (project / "loud.py").write_text(LOUD)
    line = ["launch", "--name", "a", "--image", small_image, "--no-torchrun", "loud.py"]
    result = ns.kij_train(*line, cwd=project)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if not line.startswith("kij-train: ")]
    assert lines == [f"{number:06d} {'x' * 100_000} end {number:06d}" for number in range(80)]
    later = ns.kij_train("logs", "a", cwd=project)
    assert len(later.stdout) < len(result.stdout)
    assert re.search("its log begins at .* rotated away|nothing is left of its log", later.stderr)


def test_a_job_that_is_deleted_ends_those_who_wait_for_it_and_follow_it(
    ns: Namespace, project: Path, image: str
) -> None:
    submit(ns, project, image, "saves.py")
    with stays(ns, "wait", "a") as waiting, stays(ns, "logs", "-f", "a") as logs:
        until(logs, "ready")
        time.sleep(2)  # both watch by now
        deleted = ns.kij_train("delete", "a", "-o", "json", cwd=project)
        assert deleted.returncode == 0, deleted.stderr
        assert [job["state"] for job in json.loads(deleted.stdout)] == ["running"]
        for process in (waiting, logs):
            _, err = process.communicate(timeout=180)
            assert process.returncode == 4, err
            assert err.startswith("error: job a was deleted while we watched\n"), err
            assert f"kij-train list -n {ns.name}" in err


def test_logs_of_some_with_grep_tail_and_json(ns: Namespace, project: Path, image: str) -> None:
    submit(ns, project, image, "--nodes", "2", "--nproc-per-node", "2", "count.py", "12", "0")
    # Before the pods run: it waits for them.
    followed = ns.kij_train("logs", "-f", "a", "--rank", "3", "--grep", "line 1", cwd=project)
    assert followed.returncode == 0, followed.stderr
    ours = sorted(re.findall(r"rank (\d) line (\d+)", followed.stdout))
    assert ours == [(rank, number) for rank in "23" for number in ("1", "10", "11")]
    attached = ns.kij_train("attach", "a", "--tail", "1", cwd=project)
    assert (attached.returncode, attached.stdout.count("line")) == (0, 1), attached.stderr
    assert "a succeeded in" in attached.stderr
    tail = ns.kij_train("logs", "a", "--index", "1", "--tail", "1", "-o", "json", cwd=project)
    (line,) = map(json.loads, tail.stdout.splitlines())
    assert (line["index"], line["ranks"]) == (1, [2, 3])
    assert set(line) == {"index", "ranks", "pod", "time", "text"}
    both = ns.kij_train("logs", "a", "--all", "--grep", "line", cwd=project)
    assert len(re.findall(r"^[01]/(0-1|2-3) \| rank \d line \d+$", both.stdout, re.MULTILINE)) == 48
    wrong = ns.kij_train("logs", "a", "--rank", "4", cwd=project)
    assert (wrong.returncode, "the job has 4 ranks" in wrong.stderr) == (2, True)
    older = ns.kij_train("logs", "a", "--previous", cwd=project)
    assert "index 0 has no earlier pod" in older.stderr


def test_cancel_gives_the_ranks_time_to_save(ns: Namespace, project: Path, image: str) -> None:
    submit(ns, project, image, "--nodes", "2", "saves.py")
    line = [sys.executable, "-m", "kij_train", "logs", "-f", "--all", "a", "-n", ns.name]
    line += ["--kubeconfig", ns.kubeconfig]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as logs:
        assert logs.stdout is not None
        ready = (text for text in logs.stdout if "ready" in text)
        assert next(ready) and next(ready)
        cancelled = ns.kij_train("cancel", "a", cwd=project)
        assert cancelled.returncode == 0, cancelled.stderr
        status = json.loads(ns.kij_train("status", "a", "-o", "json", cwd=project).stdout)
        assert set(status["phases"]) <= {"ending", "done", "cancelled"}
        out, _ = rest_of(logs)
    assert out.count("saved at SIGTERM") == 2
    assert state_of(ns, project) == "cancelled"
    attached = ns.kij_train("attach", "a", cwd=project)
    assert (attached.returncode, "a was cancelled" in attached.stderr) == (1, True)
    listed = json.loads(ns.kij_train("list", "-o", "json", cwd=project).stdout)
    assert [(job["name"], job["state"]) for job in listed] == [("a", "cancelled")]
    again = ns.kij_train("cancel", "a", cwd=project)
    assert (again.returncode, "had ended already" in again.stderr) == (0, True)
    assert ns.kij_train("wait", "a", cwd=project).returncode == 1
    assert ns.kij_train("delete", "a", cwd=project).returncode == 0
    assert ns.empties()
    gone = ns.kij_train("why", "a", cwd=project)
    assert (gone.returncode, "has no job a" in gone.stderr) == (4, True)


def test_status_json_and_exec(ns: Namespace, project: Path, image: str) -> None:
    submit(ns, project, image, "--nodes", "2", "saves.py")
    assert eventually(lambda: started(ns, 2), 60)
    status = json.loads(ns.kij_train("status", "a", "-o", "json", cwd=project).stdout)
    validate(status, STATUS_SCHEMA)
    assert status["phases"] == {"running": 2}
    assert [row["index"] for row in status["indexes"]] == [0, 1]
    ran = ns.kij_train(
        "exec", "a", "--index", "1", "--", "sh", "-c", "echo index $NODE_RANK; exit 7", cwd=project
    )
    assert (ran.returncode, ran.stdout) == (7, "index 1\n"), ran.stderr
    none = ns.kij_train("exec", "a", "--index", "5", "--", "true", cwd=project)
    assert (none.returncode, "a has no index 5" in none.stderr) == (2, True)
    timed = ns.kij_train("wait", "a", "--timeout", "1s", cwd=project)
    assert timed.returncode == 5
    events = json.loads(ns.kij_train("events", "a", "-o", "json", cwd=project).stdout)
    assert {"Resumed", "Started"} <= {event["reason"] for event in events}


def test_the_role_suffices_for_every_command_that_watches(
    ns: Namespace, project: Path, image: str, tmp_path: Path
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    config = ns.user("worker", rules, tmp_path)
    argv = ["launch", "--image", image, "--name", "a", "count.py", "3", "0"]
    result = ns.kij_train(*argv, cwd=project, kubeconfig=config)
    assert result.returncode == 0, result.stderr
    for words in (
        ("status", "a"),
        ("why", "a"),
        ("logs", "a", "--all"),
        ("logs", "-f", "a"),
        ("attach", "a"),
        ("wait", "a"),
        ("list",),
        ("events", "a"),
        ("doctor",),
        ("cancel", "a"),
        ("delete", "a"),
    ):
        done = ns.kij_train(*words, cwd=project, kubeconfig=config)
        assert done.returncode == 0, (words, done.stderr)


def test_the_role_suffices_for_exec_and_bench(
    ns: Namespace, project: Path, image: str, tmp_path: Path
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    config = ns.user("worker", rules, tmp_path)
    submit(ns, project, image, "saves.py")
    assert eventually(lambda: started(ns), 60)
    ran = ns.kij_train("exec", "a", "--", "echo", "inside", cwd=project, kubeconfig=config)
    assert (ran.returncode, ran.stdout) == (0, "inside\n"), ran.stderr
    sizes = ["--nodes", "2", "--image", image, "-b", "1K", "-e", "1K"]
    argv = ["bench", "allreduce", *sizes]
    measured = ns.kij_train(*argv, cwd=tmp_path, kubeconfig=config, timeout_s=280)
    assert measured.returncode == 0, measured.stderr


def test_without_the_right_to_exec_it_is_named(
    ns: Namespace, project: Path, image: str, tmp_path: Path
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    config = ns.user("worker", [r for r in rules if r["resources"] != ["pods/exec"]], tmp_path)
    submit(ns, project, image, "saves.py")
    assert eventually(lambda: started(ns), 60)
    ran = ns.kij_train("exec", "a", "--", "true", cwd=project, kubeconfig=config)
    assert ran.returncode == 3
    assert re.search(r"may not (create|get) pods/exec", ran.stderr)


def test_a_renewed_token_and_a_proxy_lead_to_the_log_the_verdict_exec_and_stacks(
    ns: Namespace, project: Path, image: str, tmp_path: Path
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    ns.user("worker", rules, tmp_path)

    def renew(secret: str) -> None:
        """A token that lives as long as this Secret."""
        ns.core.create_namespaced_secret(ns.name, {"metadata": {"name": secret}})
        bound = {"apiVersion": "v1", "kind": "Secret", "name": secret}
        request = {"spec": {"boundObjectRef": bound, "expirationSeconds": 600}}
        token = ns.core.create_namespaced_service_account_token("worker", ns.name, request)
        (tmp_path / "token").write_text(f"{token.status.token}\n")

    renew("first")
    with running(HttpProxy("ada:password")) as proxy:
        config = Path(ns.with_user({"tokenFile": "token"}, tmp_path / "config"))
        document = yaml.safe_load(config.read_text())
        way = f"http://ada:password@127.0.0.1:{proxy.server_port}"
        document["clusters"][0]["cluster"]["proxy-url"] = way
        config.write_text(yaml.safe_dump(document))
        submit(ns, project, image, "until_told.py")
        with stays(ns, "logs", "-f", "a", kubeconfig=str(config)) as logs:
            seen = until(logs, "line 3")
            renew("second")
            ns.core.delete_namespaced_secret("first", ns.name)
            for words, said in (
                (["stacks", "a"], 'until_told.py", line'),
                (["exec", "a", "--", "pwd"], "/kij/work/code\n"),
                (["exec", "a", "--", "nvidia-smi"], ""),
                (["exec", "a", "--", "touch", "/tmp/told"], ""),
            ):
                ran = ns.kij_train(*words, cwd=project, kubeconfig=str(config))
                assert ran.returncode == (127 if "nvidia-smi" in words else 0), ran.stderr
                assert said in ran.stdout
            out, err = rest_of(logs)
        waited = ns.kij_train("wait", "a", cwd=project, kubeconfig=str(config))
        assert (logs.returncode, waited.returncode) == (0, 0), (err, waited.stderr)
        found = re.findall(r"^rank 0 line (\d+)$", "".join(seen) + out, re.MULTILINE)
        assert found == [str(number) for number in range(len(found))]
        assert len(proxy.led_to) >= 5


def test_a_right_that_is_taken_away_ends_waiting_and_following_with_its_name(
    ns: Namespace, project: Path, image: str, tmp_path: Path
) -> None:
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    config = ns.user("worker", rules, tmp_path)
    submit(ns, project, image, "saves.py")
    with (
        stays(ns, "wait", "a", kubeconfig=config) as waiting,
        stays(ns, "logs", "-f", "a", kubeconfig=config) as logs,
    ):
        until(logs, "ready")
        time.sleep(2)  # both watch by now
        ns.rbac.delete_namespaced_role_binding("worker", ns.name)
        for process, kinds in ((waiting, r"jobs\.batch"), (logs, r"(jobs\.batch|pods)")):
            _, err = process.communicate(timeout=240)
            assert process.returncode == 3, err
            assert err.count("error: ") == 1
            assert re.search(rf"may not (watch|list) {kinds}", err)
            assert re.search(rf"kubectl auth can-i (watch|list) {kinds}", err)
