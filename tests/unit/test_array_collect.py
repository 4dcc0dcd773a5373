"""An array's records collected from its pods, against a small server that has one array."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from kij_train import names
from kij_train.arrays.facts import About, Attempt, Where
from kij_train.arrays.store import ArrayFolder
from kij_train.cli import main
from kij_train.cluster import Cluster
from kij_train.jobs.collect import Collector
from kij_train.pod import contract, itemfigures, itemplan, itemrecords, results

from tests.unit.test_client import Answer, ApiServer, Handler

KEYS = [f"k{number}" for number in range(6)]
PLAN = itemplan.encode(KEYS, indexes=3, chunk=2, seed=0)
SHA256 = itemplan.sha256(PLAN)
STARTED, ENDED = "2026-01-01T00:00:01Z", "2026-01-01T00:00:09Z"
COMPLETE = {"type": "Complete", "status": "True", "lastTransitionTime": ENDED}
FAILED = {"type": "Failed", "status": "True", "reason": "FailedIndexes", "message": "some failed"}


def lines_of(index: int, *failed: str, attempt: int = 0, value: Any = 1) -> list[str]:
    """The records of an index, as its pod writes them."""
    found: list[str] = []
    for key in KEYS[2 * index : 2 * index + 2]:
        error = "ValueError: no" if key in failed else ""
        run = itemrecords.Run(index, attempt, 0.5, 1 if error else 0, f"machine-{index}", error)
        written = b"" if error else json.dumps({"value": value}).encode()
        found += map(itemrecords.dumps, itemrecords.item_records(key, run, written))
    return found


def log_of(lines: list[str]) -> list[str]:
    """What a pod prints that has these records."""
    said = ["kij-train: index, items", "a line of the script"]
    records = (results.encode_line(n, line).decode() for n, line in enumerate(lines))
    return said + [line.rstrip("\n") for line in records]


def message_of(
    index: int, lines: list[str], *, without_lines: bool = False, attempt: int = 0
) -> str:
    places = {key: place for place, key in enumerate(KEYS[2 * index : 2 * index + 2])}
    account = json.loads(
        results.encode_account(results.account_of(index, attempt, places, lines)).decode()
    )
    return json.dumps({**account, "lines": []} if without_lines else account)


class OneArray(ApiServer):
    """Serves an array's Jobs, pods, their logs and the ConfigMaps with its items."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: list[dict[str, Any]] = [job()]
        self.pods: list[dict[str, Any]] = []
        self.logs: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.refuses = ""
        self.page = 2
        """Pods on one page."""
        self.answer = self._answer

    def pod(
        self,
        index: int,
        *,
        code: int | None,
        message: str = "",
        log: list[str],
        name: str = "",
        job: str = "arr",
        **more: Any,
    ) -> None:
        """Add a pod: one that runs has no exit code."""
        name, age = name or f"arr-{index}-{len(self.pods)}", len(self.pods)
        created = f"2026-01-01T{age // 3600:02d}:{age // 60 % 60:02d}:{age % 60:02d}Z"
        times = {"startedAt": STARTED, "finishedAt": ENDED}
        ended = {"exitCode": code, "message": message, "reason": "Error", **times, **more}
        state = {"running": {"startedAt": STARTED}} if code is None else {"terminated": ended}
        phase = "Running" if code is None else "Failed" if code else "Succeeded"
        self.logs[name] = log
        self.pods.append(
            {
                "metadata": {
                    "name": name,
                    "uid": f"uid-{len(self.pods)}",
                    "creationTimestamp": created,
                    "labels": {names.COMPLETION_INDEX: str(index), names.LABEL_JOB_NAME: job},
                },
                "spec": {"nodeName": f"machine-{index}"},
                "status": {
                    "phase": phase,
                    "containerStatuses": [{"name": names.CONTAINER, "state": state}],
                },
            }
        )

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        del method, body
        split = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        if query.get("watch"):
            return 200, b""
        self.asked.append(split.path.rpartition("/")[2])
        *_, kind, name = split.path.split("/")
        if kind == "configmaps" and self.refuses:
            return 403, json.dumps({"reason": "Forbidden", "message": self.refuses}).encode()
        if name == "log":
            pod = split.path.split("/")[-2]
            stamp = "2026-01-01T00:00:02.000000000Z"
            return 200, "".join(f"{stamp} {line}\n" for line in self.logs[pod]).encode()
        if name == "jobs":
            chosen = query.get("fieldSelector", "").partition("metadata.name=")[2]
            return listed([one for one in self.jobs if chosen in ("", one["metadata"]["name"])])
        if name == "events":
            return listed([])
        if kind == "jobs":
            found = [one for one in self.jobs if one["metadata"]["name"] == name]
            return 200, json.dumps(found[0] if found else self.jobs[0]).encode()
        if name == "pods":
            wanted = query["labelSelector"].partition("=")[2]
            at = int(query.get("continue") or 0)
            phase = query.get("fieldSelector", "").partition("status.phase=")[2]
            found = [
                p
                for p in self.pods
                if p["metadata"]["labels"][names.LABEL_JOB_NAME] == wanted
                and phase in ("", p["status"]["phase"])
            ]
            if query.get("includeObject") == "None":
                return 200, json.dumps(as_table(found)).encode()
            more = str(at + self.page) if len(found) > at + self.page else ""
            return listed(found[at : at + self.page], more)
        if kind == "configmaps":
            packed = itemplan.compress(PLAN)
            half = len(packed) // 2
            chunk = packed[:half] if name == "items-0" else packed[half:]
            data = {f"{itemplan.ITEMS_PREFIX}00{name[-1]}": base64.b64encode(chunk).decode()}
            return 200, json.dumps({"kind": "ConfigMap", "binaryData": data}).encode()
        return 404, json.dumps({"reason": "NotFound", "message": f"{name} not found"}).encode()

    def ends(self, *, failed: str = "") -> None:
        """The Job ends, with these indexes failed."""
        status = {"conditions": [FAILED if failed else COMPLETE], "failedIndexes": failed}
        self.jobs[0]["status"] = {"startTime": STARTED, **status}

    def kubeconfig(self, folder: Path) -> str:
        server = {"server": f"http://127.0.0.1:{self.server_port}"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "here",
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return str(path)


def as_table(pods: list[dict[str, Any]]) -> dict[str, Any]:
    """Pods as the API server prints them."""
    rows = []
    for pod in pods:
        phase, machine = pod["status"]["phase"], pod["spec"].get("nodeName", "<none>")
        said = {"Succeeded": "Completed", "Failed": "Error"}.get(phase, phase)
        if "deletionTimestamp" in pod["metadata"]:
            said = "Terminating"
        cells = [pod["metadata"]["name"], "1/1", said, 0, "5m", "<none>", machine]
        rows.append({"cells": cells, "object": None})
    columns = ("Name", "Ready", "Status", "Restarts", "Age", "IP", "Node")
    found = {"columnDefinitions": [{"name": name} for name in columns], "rows": rows}
    return {"kind": "Table", "metadata": {}, **found}


def listed(items: list[dict[str, Any]], more: str = "") -> Answer:
    meta = {"resourceVersion": "1", "continue": more}
    return 200, json.dumps({"kind": "List", "metadata": meta, "items": items}).encode()


def job(
    number: int = 0, plan_sha256: str = SHA256, uid: str = "uid", nodes: int = 1
) -> dict[str, Any]:
    settings = itemplan.ArraySettings(
        name="arr", plan_sha256=plan_sha256, attempt=number, nodes=nodes
    )
    env = [
        {"name": itemplan.ENV_ARRAY, "value": settings.to_json()},
        {"name": contract.ENV_CODE_SHA256, "value": "c0de"},
    ]
    container = {"name": names.CONTAINER, "env": env}
    sources = [{"configMap": {"name": f"items-{at}"}} for at in (0, 1)]
    volume = {"name": names.CODE_VOLUME, "projected": {"sources": sources}}
    return {
        "kind": "Job",
        "metadata": {
            "name": "arr" if not number else f"arr-r{number}",
            "namespace": "ns",
            "uid": uid,
            "creationTimestamp": STARTED,
            "labels": {
                names.ARRAY: "arr",
                names.ATTEMPT: str(number),
                names.LABEL_MANAGED_BY: names.MANAGER,
            },
            "annotations": {names.REQUEST: json.dumps({"script": "f.py"})},
        },
        "spec": {
            "completions": 3,
            "template": {"spec": {"containers": [container], "volumes": [volume]}},
        },
        "status": {"startTime": STARTED, "ready": 1},
    }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneArray]:
    with OneArray() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        monkeypatch.chdir(tmp_path)
        yield made
        made.shutdown()


def folder(**request: Any) -> ArrayFolder:
    """The folder that the launch has left."""
    about = About(
        "arr",
        Where("cluster", None, None, "ns"),
        {"script": "f.py", **request},
        "",
        "c0de",
        SHA256,
        STARTED,
    )
    made = ArrayFolder.create(Path.cwd(), about, itemplan.compress(PLAN))
    made.begin_attempt(Attempt(0, "arr", uid="uid"))
    return made


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main([argv[0], "arr", *argv[1:]])
    said = capsys.readouterr()
    return code, said.out, said.err


def reported(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, "report", "--format", "json", *argv)[1])
    return found


ALL = [line for index in range(3) for line in lines_of(index)]


def test_records_in_termination_messages_take_no_log(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    for index in range(3):
        server.pod(index, code=0, message=message_of(index, lines_of(index)), log=[])
    server.ends()
    assert run(capsys, "results") == (0, "".join(line + "\n" for line in ALL), "")
    assert server.asked == ["jobs", "pods", "pods"]


def test_records_come_to_the_same_bytes_from_a_log(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder()
    for index in range(3):
        lines = lines_of(index, value="é\u2028" * 2000)
        message = message_of(index, lines, without_lines=True)
        server.pod(index, code=0, message=message, log=log_of(lines))
    server.ends()
    code, out, err = run(capsys, "results")
    wanted = "".join(line + "\n" for i in range(3) for line in lines_of(i, value="é\u2028" * 2000))
    assert (code, out, err) == (0, wanted, "")
    assert server.asked.count("log") == 3
    parts = [made.part(0, index).read_bytes() for index in range(3)]
    assert b"".join(parts).decode() == wanted


def test_what_is_whole_here_is_not_asked_for_again(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    for index in range(3):
        server.pod(index, code=0, message=message_of(index, lines_of(index)), log=[])
    server.ends()
    first = run(capsys, "results")
    server.jobs, server.pods, server.asked = [], [], []
    assert run(capsys, "results") == first
    assert server.asked == []


def test_an_array_that_goes_on_gives_what_there_is_only_when_asked(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    server.pod(0, code=0, message=message_of(0, lines_of(0)), log=[])
    server.pod(1, code=None, log=log_of(lines_of(1)[:1]))
    code, out, err = run(capsys, "results")
    assert (code, out) == (2, "")
    assert "arr has not ended" in err
    assert "kij-train results arr --partial -n ns" in err
    code, out, err = run(capsys, "results", "--partial")
    assert (code, out) == (0, "".join(line + "\n" for line in ALL[:3]))
    assert "without a record: 3 items (running 1, pending 2): k3, k4, k5" in err
    assert reported(capsys)["state"] == "running"


def test_a_failed_item_is_reported_with_its_cause_and_exit_code_1(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    for index in range(3):
        lines = lines_of(index, "k3")
        server.pod(index, code=120 if index == 1 else 0, message=message_of(index, lines), log=[])
    server.ends(failed="1")
    code, out, _ = run(capsys, "report")
    assert code == 1
    assert "done 5, failed 1\n" in out
    assert "  1 × ValueError: no\n      index 1 · exit code 1 · on machine-1 · key k3\n" in out
    assert "here: kij-train replay arr --key k3 -n ns\n" in out


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (log_of(lines_of(1))[:1] + log_of(lines_of(1))[3:], "the log has lost the records 0"),
        (log_of(lines_of(1))[:-1], "1 of 2 records are missing"),
        ([line.replace('"value":1', '"value":2') for line in log_of(lines_of(1))], "is garbled"),
        ([], "2 of 2 records are missing"),
    ],
)
def test_what_a_log_has_lost_is_named_and_its_items_are_missing(
    log: list[str], said: str, server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    for index in range(3):
        message = message_of(index, lines_of(index), without_lines=index == 1)
        server.pod(index, code=0, message=message, log=log)
    server.ends()
    found = reported(capsys)
    assert any(text.startswith("index 1, attempt 0: ") and said in text for text in found["damage"])
    assert found["counts"]["missing"] >= 1
    assert {one["index"] for one in found["notDone"]} == {1}
    assert "its record is lost" in found["notDone"][0]["error"]
    code, _, err = run(capsys, "results")
    assert code == 1
    assert "run them again: kij-train rerun arr --failed -n ns" in err


def test_a_pod_that_was_killed_leaves_what_it_had_done_and_its_cause(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder()
    server.pod(0, code=0, message=message_of(0, lines_of(0)), log=[])
    server.pod(1, code=137, reason="OOMKilled", log=[*log_of(lines_of(1)[:1]), "kij-train: reco"])
    server.pod(2, code=0, message=message_of(2, lines_of(2)), log=[])
    server.ends(failed="1")
    found = reported(capsys)
    assert found["counts"]["done"] == 5
    (lost,) = found["notDone"]
    assert (lost["key"], lost["state"], lost["exitCode"]) == ("k3", "missing", 137)
    assert "OOMKilled" in lost["error"]
    assert found["causes"][0]["hint"].endswith("rerun --failed --memory 8Gi")
    assert lost["machine"] == "machine-1"
    assert made.parts(0).begun == {1: [".part-00001.jsonl.seen"]}
    # Its pods are gone with the Job; what was seen stays.
    server.jobs, server.pods = [], []
    again = reported(capsys)
    assert (again["counts"], again["notDone"]) == (found["counts"], found["notDone"])


def test_the_pod_that_replaces_a_killed_one_counts(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    server.pod(
        1, code=143, log=log_of(lines_of(1, "k2")[:1]), message=message_of(1, lines_of(1, "k2"))
    )
    found = reported(capsys)
    assert found["counts"] == {"done": 0, "failed": 0, "missing": 0, "running": 0, "pending": 6}
    for index in range(3):
        server.pod(index, code=0, message=message_of(index, lines_of(index)), log=[])
    server.ends()
    assert run(capsys, "results") == (0, "".join(line + "\n" for line in ALL), "")


def test_what_was_done_before_a_cancel_is_kept(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    server.pod(0, code=None, log=log_of(lines_of(0)[:1]))
    server.pod(1, code=None, log=log_of(lines_of(1)))
    usual = server.answer

    def answer(method: str, path: str, body: dict[str, Any]) -> Answer:
        if method != "PATCH":
            return usual(method, path, body)
        # A pod says how its item has ended; the other one is gone with its log.
        server.jobs[0]["metadata"]["annotations"][names.CANCELLED] = "true"
        server.jobs[0]["spec"]["suspend"] = True
        server.pods = []
        server.pod(0, code=143, message=message_of(0, lines_of(0, "k1")), log=[])
        return 200, json.dumps(server.jobs[0]).encode()

    server.answer = answer
    code, _, err = run(capsys, "cancel", "-n", "ns")
    assert (code, "warning" in err) == (0, False), err
    server.pods = []
    found = reported(capsys)
    assert found["counts"] == {"done": 3, "failed": 1, "missing": 2, "running": 0, "pending": 0}
    assert "attempt 0 has been cancelled before it" in [one["error"] for one in found["notDone"]]
    code, out, _ = run(capsys, "results")
    kept = [*lines_of(0, "k1"), *lines_of(1)]
    assert (code, out) == (1, "".join(line + "\n" for line in kept))


def test_records_of_a_log_that_was_followed_outlive_its_pod(server: OneArray) -> None:
    made = folder()
    cluster = Cluster.connect(kubeconfig=None, context=None, namespace="ns")
    (attempt,) = made.attempts()

    def keys() -> list[str]:
        return [str(record["key"]) for record in made.parts(0).records(1)]

    server.pod(1, code=None, log=[], name="first")
    lines = [line for line in log_of(lines_of(1)) if results.is_record_line(line)]
    with Collector(cluster, made, attempt) as collector:
        collector.take(server.pods[0])
        collector.saw(1, "first", lines[0])
        collector.saw(1, "first", lines[0])  # as where a connection broke
        assert (collector.progress().done, keys()) == (1, [])
        collector.keep_seen()
        assert keys() == ["k2"]
        collector.saw(1, "first", lines[1])
        collector.take(server.pods[0], deleted=True)
        assert collector.progress().running == 0
        collector.drain(unfinished=True)
    assert keys() == ["k2", "k3"]

    # Of the pod that came when the array was resumed, less is seen: what was there stays.
    server.pod(1, code=None, log=log_of(lines_of(1, "k2")[:1]), name="second")
    with Collector(cluster, made, attempt) as collector:
        collector.take(server.pods[1])
        collector.drain(unfinished=True)
    assert keys() == ["k2", "k3", "k2"]


def test_an_index_that_was_given_up_does_not_wait(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    server.pod(1, code=1, message="", log=[])
    server.jobs[0]["status"]["failedIndexes"] = "1"
    assert reported(capsys)["counts"] == {
        "done": 0,
        "failed": 0,
        "missing": 2,
        "running": 0,
        "pending": 4,
    }


def test_a_job_that_is_gone_leaves_its_items_missing(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    server.pod(0, code=0, message=message_of(0, lines_of(0)), log=[])
    assert reported(capsys)["counts"]["done"] == 2
    server.jobs, server.pods = [], []
    code, out, err = run(capsys, "report")
    assert code == 1
    assert "warning: job arr is gone, and with it what was not collected of it" in err
    assert "done 2, missing 4" in out
    assert "attempt 0 has been deleted before it" in out
    assert "warning" not in run(capsys, "report")[2]


def test_a_later_job_of_that_name_is_not_taken_for_it(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    server.jobs = [job(uid="another")]
    for index in range(3):
        server.pod(index, code=0, message=message_of(index, lines_of(index)), log=[])
    assert reported(capsys)["counts"]["done"] == 0


def test_an_api_server_that_is_away_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with OneArray() as made:
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder()
    code, out, err = run(capsys, "report")
    assert (code, out) == (4, "")
    assert "Traceback" not in err


def test_records_on_a_volume_are_counted_and_their_place_is_said(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    mount = {"type": "pvc", "source": "data", "path": "/results"}
    made = folder(results="/results/mine", mounts=[mount], image="img")
    for index in range(3):
        lines = lines_of(index, "k3")
        message = message_of(index, lines, without_lines=True)
        server.pod(index, code=120 if index == 1 else 0, message=message, log=[])
    server.ends(failed="1")
    found = reported(capsys)
    assert found["counts"] == {"done": 5, "failed": 1, "missing": 0, "running": 0, "pending": 0}
    assert [(one["key"], one["error"]) for one in found["notDone"]] == [("k3", "ValueError: no")]
    assert "log" not in server.asked
    code, out, err = run(capsys, "results")
    assert (code, out) == (1, "")
    assert "on a volume, in /results/mine/arr/attempt-N-" in err
    line = err.splitlines()[-1].partition("or all of them: ")[2]
    assert shlex.split(line) == [
        *("kij-train", "launch", "-n", "ns", "--no-code", "--no-torchrun"),
        *("--mount", "pvc:data:/results:ro", "--image", "img", "--no-python", "sh", "-c"),
        "cat /results/mine/arr/attempt-*/part-*.jsonl",
    ]
    # Copied from there, they are the results.
    for index in range(3):
        content = "".join(line + "\n" for line in lines_of(index, "k3"))
        made.part(0, index).write_text(content)
    code, out, err = run(capsys, "results")
    assert (code, len(out.splitlines()), err) == (0, 6, "")


def test_the_numbers_of_a_volume_come_from_the_pod_that_has_ended_last(
    server: OneArray, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder(results="/results", evaluate=True, gates=["value >= 1"])
    lines = {index: lines_of(index, value="text" if index == 1 else 1) for index in range(3)}
    plan = itemplan.decode(PLAN)
    for index, written in lines.items():
        (tmp_path / results.part_name(index)).write_text("\n".join(written) + "\n")
    printed: list[bytes] = []
    last = [itemfigures.Folder(0, str(tmp_path), range(3))]
    said = itemfigures.aggregate(last, plan, 1, printed.append)
    for index, written in lines.items():
        message = json.loads(message_of(index, written, without_lines=True))
        message.update({"figures": said} if index == 1 else {})
        server.pod(index, code=0, message=json.dumps(message), log=[])
    server.ends()

    found = reported(capsys)
    assert found["damage"] == [
        "index 1, attempt 0: the numbers of all indexes: they are not whole in the log of the pod "
        "that sent them"
    ]
    assert found["evaluation"]["verdict"] == "fail"
    code, _, err = run(capsys, "report")
    assert (code, "the numbers of 6 ids have not come" in err) == (1, True)
    assert "have a pod send them again: kij-train rerun arr -n ns --index 0" in err

    server.logs["arr-1-1"] = [line.decode().rstrip() for line in printed]
    found = reported(capsys)
    assert (found["damage"], found["counts"]["done"]) == ([], 6)
    (gate,) = found["evaluation"]["gates"]
    assert gate["because"] == "2 of 6 ids have no value: k2, k3"
    code, out, _ = run(capsys, "results")
    assert (code, [json.loads(line).get("value") for line in out.splitlines()]) == (
        0,
        [1, 1, None, None, 1, 1],
    )


# --- from elsewhere -------------------------------------------------------------------------------


def test_an_array_that_was_launched_from_elsewhere_gets_its_folder(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(3):
        server.pod(index, code=0, message=message_of(index, lines_of(index)), log=[])
    server.ends()
    code, out, err = run(capsys, "results", "-n", "ns")
    assert (code, out, err) == (0, "".join(line + "\n" for line in ALL), "")
    made = ArrayFolder.open(Path.cwd(), "arr")
    assert made.about.code_sha256 == "c0de"
    assert made.about.request["script"] == "f.py"


def test_without_the_right_to_read_its_items_that_is_said(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuses = 'configmaps "items-0" is forbidden: User "bob" cannot get resource'
    code, out, err = run(capsys, "results", "-n", "ns")
    assert (code, out) == (3, "")
    assert "or use the folder that the array was launched from" in err
    assert not Path(".kij-train").exists()


def test_an_array_that_is_nowhere_is_not_found(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    server.jobs = []
    for command in ("results", "report", "rerun", "replay"):
        argv = {"rerun": ["--failed"], "replay": ["--key", "a"]}.get(command, [])
        code, out, err = run(capsys, command, *argv)
        assert (code, out) == (4, "")
        assert "there is no array arr" in err


def test_another_array_of_that_name_on_the_cluster_is_not_mixed_in(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder()
    server.jobs.append(job(1, plan_sha256="0" * 64))
    code, _, err = run(capsys, "report")
    assert code == 2
    assert "job arr-r1 is of another array arr" in err


def test_a_search_that_went_on_elsewhere_brings_its_new_items(
    server: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = itemplan.encode(KEYS[:2], indexes=1, chunk=2, seed=0)
    folder().grow(fewer)
    server.jobs = [job(plan_sha256=itemplan.sha256(fewer)), job(1, uid="uid1")]
    code, _, err = run(capsys, "report")
    assert (code, err) == (1, "")
    made = ArrayFolder.open(Path.cwd(), "arr")
    assert list(made.plan().keys()) == KEYS
    made.grow(fewer)
    assert list(made.plan().keys()) == KEYS[:2]


# --- trials of several pods -----------------------------------------------------------------------

POINTS = [("lr=1", {"lr": 1}), ("lr=2", {"lr": 2})]
TRIALS = itemplan.encode(POINTS, indexes=2, chunk=1, seed=0)
PEER = "RuntimeError: Connection closed by peer [10.0.0.1]:29500"


@pytest.fixture
def trials(server: OneArray) -> OneArray:
    """Two trials of two nodes: one is well, the other's second node has failed first."""
    sha256 = itemplan.sha256(TRIALS)
    request = {"script": "f.py", "trial_nodes": 2, "minimize": "loss", "style": "flags"}
    where = Where("cluster", None, None, "ns")
    about = About("arr", where, request, "", "c0de", sha256, STARTED)
    made = ArrayFolder.create(Path.cwd(), about, itemplan.compress(TRIALS))
    for number, name in ((0, "arr"), (1, "arr-r1")):
        made.begin_attempt(
            Attempt(number, name, uid=f"uid{number}", selection=[(number, [number])])
        )
    server.jobs = [job(number, sha256, f"uid{number}", nodes=2) for number in (0, 1)]
    for one, end in zip(server.jobs, (COMPLETE, FAILED), strict=True):
        one["spec"]["completions"] = 2
        one["status"] = {"startTime": STARTED, "conditions": [end]}
    for node in (0, 1):
        said = trial_message(0, b'{"loss": 0.5}', "")
        server.pod(node, code=0, message=said, log=["well"])
        error = ("ValueError: no", PEER)[1 - node]
        at = {"finishedAt": ENDED if node else "2026-01-01T00:00:08Z"}
        said = trial_message(1, b"", error)
        server.pod(node, code=120, message=said, log=[error], job="arr-r1", **at)
    return server


def trial_message(number: int, written: bytes, error: str) -> str:
    key = POINTS[number][0]
    run = itemrecords.Run(number, number, 3.0, 1 if error else 0, "machine", error)
    lines = list(map(itemrecords.dumps, itemrecords.item_records(key, run, written)))
    return results.encode_account(results.account_of(number, number, {key: 0}, lines)).decode()


def test_the_node_that_failed_first_tells_why_its_trial_has_failed(
    trials: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "results")
    well, bad = map(json.loads, out.splitlines())
    assert (code, well["loss"], "error" in well) == (0, 0.5, False)
    assert bad["error"] == "node 1: ValueError: no"
    assert (bad["machine"], bad["seconds"], bad["lr"]) == ("machine-1", 8.0, 2)
    assert reported(capsys)["sweep"]["best"]["key"] == "lr=1"


def test_a_node_that_was_killed_is_the_cause_and_not_those_that_were_told_to_end(
    trials: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    trials.pods = trials.pods[:0]
    trials.jobs = trials.jobs[1:]
    said = trial_message(1, b"", "ended by SIGTERM")
    trials.pod(0, code=143, message=said, log=[], job="arr-r1")
    trials.pod(1, code=137, message="", log=[], job="arr-r1", reason="OOMKilled")
    lines = [json.loads(line) for line in run(capsys, "results", "--partial")[1].splitlines()]
    assert [one["error"] for one in lines] == [
        "node 1: its pod was ended: OOMKilled: out of memory"
    ]


def test_commands_about_the_sweep_are_about_all_its_trials(
    trials: OneArray, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "status", "-n", "ns")
    assert (code, "trials: succeeded 1  failed 1" in out) == (0, True)
    code, _, err = run(capsys, "wait", "-n", "ns")
    assert (code, "arr-r1 failed" in err) == (1, True), err
    code, out, _ = run(capsys, "logs", "-n", "ns")
    assert [line.partition(" | ")[2] for line in out.splitlines()] == [
        "well",
        "well",
        PEER,
        "ValueError: no",
    ]
    assert "well" not in run(capsys, "logs", "--index", "1", "-n", "ns")[1]
    code, _, err = run(capsys, "logs", "-f", "-n", "ns")
    assert (code, "arr has 2 trials, each a Job of its own" in err) == (2, True)
    code, _, err = run(capsys, "scale", "5", "-n", "ns")
    assert (code, "arr is a trial of 2 pods, which all are needed" in err) == (2, True)
    code, _, err = run(capsys, "cancel", "-n", "ns")
    assert (code, "the 2 trials of arr are cancelled, unless they had ended" in err) == (0, True)


# --- many -----------------------------------------------------------------------------------------

MANY = 10_000
MOST_MIB = 150
MEASURED = """
import pathlib, re, sys
from kij_train.cli import main
code = main(sys.argv[1:])
status = pathlib.Path("/proc/self/status").read_text()
print(code, int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024, file=sys.stderr)
"""
"""Not by ru_maxrss, which begins with the memory of the process that forked this one."""


def measured(server: OneArray, *argv: str) -> tuple[int, int, int]:
    """Exit code, MiB at most, and how many requests it took."""
    server.asked = []
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, *argv], capture_output=True, text=True, check=True
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    code, mib = ran.stderr.splitlines()[-1].split()
    return int(code), int(mib), len(server.asked)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_ten_thousand_indexes_take_few_requests_and_little_memory(
    server: OneArray,
) -> None:
    plan = itemplan.encode_range(0, MANY, indexes=MANY, chunk=1, seed=0)
    about = About(
        "arr",
        Where("cluster", None, None, "ns"),
        {"script": "f.py"},
        "",
        "",
        itemplan.sha256(plan),
        STARTED,
    )
    made = ArrayFolder.create(Path.cwd(), about, itemplan.compress(plan))
    made.begin_attempt(Attempt(0, "arr", uid="uid"))
    server.jobs = [job(plan_sha256=about.plan_sha256)]
    server.jobs[0]["spec"]["completions"] = MANY
    for index in range(MANY):
        error = "ValueError: no" if index % 1000 == 7 else ""
        run = itemrecords.Run(index, 0, 0.5, 1 if error else 0, "machine", error)
        records = itemrecords.item_records(str(index), run, b'{"loss": 0.25}')
        lines = list(map(itemrecords.dumps, records))
        account = results.encode_account(results.account_of(index, 0, {str(index): 0}, lines))
        server.pod(index, code=120 if error else 0, message=account.decode(), log=[])
    server.page = 500
    server.ends(failed="7,1007")
    pages = MANY // server.page
    code, mib, requests = measured(server, "report", "arr")
    # The Jobs, a table for each of three phases, all that have succeeded, and those that failed.
    assert (code, requests) == (1, 1 + 3 + pages + 1)
    assert mib < MOST_MIB
    assert measured(server, "report", "arr")[2] == 0
    for argv in (["status", "arr"], ["attach", "arr"]):
        _, mib, requests = measured(server, *argv)
        assert mib < MOST_MIB, argv
        assert requests < 2 * pages + 5, argv
