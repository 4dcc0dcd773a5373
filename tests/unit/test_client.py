"""Requests against a small server of our own: timeouts, conflicts, and answers of other servers."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import pytest
import urllib3
from kij_train import lines as lines_module
from kij_train import names
from kij_train.cluster import Observation, Submission, await_a_pod, connection, submit, watch
from kij_train.cluster import logs as logs_module
from kij_train.cluster.apierrors import Action, refusal
from kij_train.cluster.client import CONFLICT_ATTEMPTS, Cluster
from kij_train.cluster.connection import Connection
from kij_train.cluster.follow import end_if_decided
from kij_train.commands import Address
from kij_train.diagnosis import JobView
from kij_train.errors import KijError, RefusedError, UnreachableError
from kij_train.pod import gang

Answer = tuple[int, bytes]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `answer` says."""

    wbufsize = -1  # one packet: two would wait for the other side's delayed ACK, 40 ms each

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        status, content = self.server.answer(self.command, self.path, body)  # type: ignore[attr-defined] # ApiServer's
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - names of http.server

    def log_message(self, *_: object) -> None:
        """Quiet."""


class ApiServer(http.server.ThreadingHTTPServer):
    """An API server that says what a test wants."""

    daemon_threads = True
    answer: Callable[[str, str, dict[str, Any]], Answer]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave early are what some tests are about."""

    def cluster(self) -> Cluster:
        host = f"http://127.0.0.1:{self.server_port}"
        return Cluster(Connection(host), "ns")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


def test_a_machine_that_cannot_be_reached_for_a_log_is_asked_once(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads logs knows for how long to wait; other requests go on for a moment."""
    monkeypatch.setattr(urllib3.Retry, "sleep", lambda *_: None)
    asked: list[str] = []

    def broken(_: str, path: str, __: dict[str, Any]) -> Answer:
        asked.append(path)
        return said(500, "InternalError", "dial tcp 10.0.0.1:10250: i/o timeout")

    server.answer = broken
    cluster = server.cluster()
    with pytest.raises(KijError):
        cluster.stream_log("a-0-x")
    assert len(asked) == 1
    with pytest.raises(KijError):
        cluster.get("Job", "a")
    assert len(asked) > 2
    cluster.close()


def test_an_answer_may_take_longer_than_a_connection(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.2)

    def late(*_: object) -> Answer:
        time.sleep(0.6)
        return 200, b'{"kind": "Job"}'

    server.answer = late
    cluster = server.cluster()
    assert cluster.get("Job", "a") == {"kind": "Job"}
    cluster.close()


def test_a_quiet_watch_ends_by_itself_before_it_is_taken_for_dead() -> None:
    assert watch.WATCH_S < connection.READ_TIMEOUT_S


def test_a_server_that_takes_the_connection_and_is_silent_is_given_up(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READ_TIMEOUT_S", 0.2)

    def silent(*_: object) -> Answer:
        time.sleep(1.5)
        return 200, b"{}"

    server.answer = silent
    cluster = server.cluster()
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"does not answer: .*timed out"):
        cluster.create({"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "a"}})
    assert time.monotonic() - started < 1.2
    cluster.close()


@pytest.mark.parametrize("content", [b"<html>Log in</html>", b"", b"[]", b"\xff"])
def test_a_page_of_a_login_proxy_is_said_to_be_no_kubernetes(
    server: ApiServer, content: bytes
) -> None:
    server.answer = lambda *_: (200, content)
    cluster = server.cluster()
    with pytest.raises(UnreachableError, match="does not answer like a Kubernetes API server"):
        cluster.get("Job", "a")
    if content:
        with pytest.raises(UnreachableError, match="like a Kubernetes"):
            dict(next(cluster.watch("Job")))
    cluster.close()


# --- refusals -------------------------------------------------------------------------------------

JOB: dict[str, Any] = {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "a"}}
JOB["spec"] = {"template": {"spec": {}}}
QUOTA_CONFLICT = (
    'Operation cannot be fulfilled on resourcequotas "team": the object has been modified; please '
    "apply your changes to the latest version and try again"
)


def said(status: int, reason: str, message: str) -> Answer:
    body = {"kind": "Status", "status": "Failure", "code": status}
    return status, json.dumps({**body, "reason": reason, "message": message}).encode()


def test_a_quota_that_others_draw_on_is_asked_again(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    answers = [said(409, "Conflict", QUOTA_CONFLICT)] * 2 + [(201, b'{"kind": "Job"}')]
    server.answer = lambda *_: answers.pop(0)
    cluster = server.cluster()
    assert cluster.create(JOB) == {"kind": "Job"}
    cluster.close()


def test_a_quota_that_stays_in_conflict_is_quoted_and_no_taken_name(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    server.answer = lambda method, *_: (
        said(409, "Conflict", QUOTA_CONFLICT) if method == "POST" else said(404, "NotFound", "")
    )
    cluster = server.cluster()
    with pytest.raises(RefusedError, match="cannot be fulfilled on resourcequotas") as caught:
        submit.submit(cluster, [JOB])
    assert "already" not in str(caught.value)
    assert cluster.requests == CONFLICT_ATTEMPTS
    cluster.close()


def test_a_taken_name_is_not_asked_for_again(server: ApiServer) -> None:
    server.answer = lambda *_: said(409, "AlreadyExists", 'jobs.batch "a" already exists')
    cluster = server.cluster()
    with pytest.raises(RefusedError, match="has a job a already"):
        submit.submit(cluster, [JOB])
    assert cluster.requests == 1
    cluster.close()


def test_a_taken_name_of_an_attempt_is_not_one_that_a_user_can_choose(server: ApiServer) -> None:
    server.answer = lambda *_: said(409, "AlreadyExists", 'jobs.batch "a" already exists')
    cluster = server.cluster()
    rerun = {**JOB, "metadata": {**JOB["metadata"], "labels": {"kij-train/attempt": "1"}}}
    with pytest.raises(RefusedError) as caught:
        submit.submit(cluster, [rerun])
    assert caught.value.hints == (f"remove it: {cluster.address.on_job('delete', 'a')}",)
    cluster.close()


ACTION = Action("create", "jobs.batch", "a", Address("ml"))
WEBHOOK = 'admission webhook "rules.example.com" denied the request: '


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (400, "", "must specify a cost center"),
        (400, "BadRequest", "exceeded quota: of the team"),
        (403, "Forbidden", "exceeded quota: of the team"),
        (403, "Forbidden", 'User "bob" cannot train on Fridays'),
        (409, "Conflict", "one job a user"),
        (422, "Invalid", "jobs need a label team"),
    ],
)
def test_a_webhook_is_quoted_whatever_it_says(status: int, reason: str, words: str) -> None:
    error = refusal(status, said(status, reason, WEBHOOK + words)[1], ACTION)
    assert type(error) is RefusedError
    assert str(error) == f"namespace ml refuses this jobs.batch: {WEBHOOK}{words}"
    assert "rule of this cluster's admins" in error.hints[0]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            'pods "a-0" is forbidden: exceeded quota: team, requested: cpu=8, used: cpu=0',
            "namespace ml has no quota left: exceeded quota: team, requested: cpu=8, used: cpu=0",
            "kij-train doctor -n ml",
        ),
        (
            'pods "a-0" is forbidden: failed quota: team: must specify cpu for: train',
            "asks for numbers: failed quota: team: must specify cpu for: train",
            "--cpu 4",
        ),
        (
            'jobs.batch "a" is forbidden: our plugin wants you to: you must specify an owner',
            "namespace ml refuses: jobs.batch",
            "",
        ),
        (
            'jobs.batch is forbidden: User "bob" cannot create resource "jobs" in API group',
            "bob may not create jobs.batch",
            "create role kij-train-create-jobs-batch --verb=create --resource=jobs.batch -n ml",
        ),
        (
            'jobs.batch is forbidden: User "system:serviceaccount:ml:w" cannot create resource',
            "system:serviceaccount:ml:w may not create jobs.batch",
            "--role=kij-train-create-jobs-batch --serviceaccount=ml:w",
        ),
    ],
)
def test_a_403_is_told_apart_by_its_words(words: str, message: str, hint: str) -> None:
    error = refusal(403, said(403, "Forbidden", words)[1], ACTION)
    assert message in str(error)
    assert hint in "\n".join(error.hints)


def test_of_several_verbs_that_a_request_takes_the_missing_one_is_named() -> None:
    words = 'pods "a" is forbidden: User "bob" cannot get resource "pods/exec" in API group ""'
    error = refusal(403, said(403, "", words)[1], Action("create", "pods/exec", "a", Address("ml")))
    assert str(error) == "namespace ml refuses: bob may not get pods/exec"


def test_without_a_namespace_the_right_is_one_on_the_whole_cluster() -> None:
    words = 'jobs.batch is forbidden: User "bob" cannot list resource "jobs" at the cluster scope'
    error = refusal(403, said(403, "", words)[1], Action("list", "jobs.batch", "", Address()))
    assert str(error) == "the cluster refuses: bob may not list jobs.batch"
    assert error.hints[0] == "check: kubectl auth can-i list jobs.batch -A"
    assert "kubectl create clusterrole kij-train-list-jobs-batch --verb=list" in error.hints[1]


# --- submitting -----------------------------------------------------------------------------------

SERVICE = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}}
CREATED = {"kind": "Job", "metadata": {"name": "a", "uid": "1", "annotations": {}}, "spec": {}}


def a_server_with_a_service(gone_after: int) -> Callable[[str, str, dict[str, Any]], Answer]:
    """A Job can be made; its Service is in the way, until it has been asked for so often."""
    asked = 0

    def answer(method: str, path: str, body: dict[str, Any]) -> Answer:
        nonlocal asked
        if method == "POST" and "services" in path:
            asked += 1
            if asked <= gone_after:
                return said(409, "AlreadyExists", 'services "a" already exists')
            return 201, json.dumps(body).encode()
        return 200, json.dumps(CREATED).encode()

    return answer


def test_the_service_of_a_job_that_is_gone_is_waited_for(server: ApiServer) -> None:
    server.answer = a_server_with_a_service(gone_after=2)
    cluster = server.cluster()
    assert submit.submit(cluster, [SERVICE, JOB]).uid == "1"
    assert cluster.requests == 5
    cluster.close()


def test_a_service_that_stays_is_somebody_elses(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "COLLECTOR_S", 0.3)
    server.answer = a_server_with_a_service(gone_after=1000)
    cluster = server.cluster()
    with pytest.raises(RefusedError, match="has a service a already"):
        submit.submit(cluster, [SERVICE, JOB])
    cluster.close()


@pytest.mark.parametrize("body", [b"[" * 100_000, b"9" * 10_000, b'{"a":' * 100_000])
def test_json_that_cannot_be_read_is_no_answer_of_kubernetes(
    server: ApiServer, body: bytes
) -> None:
    for status, words in ((200, "does not answer like a Kubernetes"), (400, "refuses to list")):
        server.answer = lambda *_, status=status: (status, body)
        with pytest.raises(KijError, match=words):
            server.cluster().list("Job")


def test_a_name_stays_one_part_of_the_path(server: ApiServer) -> None:
    server.answer = lambda _, path, __: (200, json.dumps({"asked": path}).encode())
    asked = server.cluster().get("Job", "a/../b?c")["asked"]
    assert asked == "/apis/batch/v1/namespaces/ns/jobs/a%2F..%2Fb%3Fc"
    for name in ("", ".", ".."):
        with pytest.raises(AssertionError, match="no name of a Job"):
            server.cluster().get("Job", name)


@pytest.mark.parametrize(
    ("status", "decided"), [(200, True), (404, True), (403, True), (401, False), (503, False)]
)
def test_of_a_job_that_is_gone_no_end_is_asked_for_again(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, status: int, decided: bool
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    said_403 = said(403, "Forbidden", 'User "ada" cannot patch resource "jobs"')
    server.answer = lambda *_: said_403 if status == 403 else (status, b"{}")
    record = {"message": {"message": "x"}, "kij": {"rank": 0, "final": True}}
    ended = {"exitCode": 1, "message": json.dumps(record)}
    pod = {
        "metadata": {"name": "j-0", "labels": {names.COMPLETION_INDEX: "0"}},
        "status": {
            "containerStatuses": [{"name": names.CONTAINER, "state": {"terminated": ended}}]
        },
    }
    ours = {"name": names.CONTAINER, "env": [{"name": gang.ENV_GANG, "value": "{}"}]}
    template = {"spec": {"containers": [ours]}}
    job = {"metadata": {"name": "j", "uid": "1"}, "spec": {"template": template}}
    assert end_if_decided(server.cluster(), JobView(job), [pod]) is decided


# --- detaching ------------------------------------------------------------------------------------


def watched(*objects: dict[str, Any]) -> bytes:
    events = ({"type": "MODIFIED", "object": body} for body in objects)
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def a_detached_job(
    server: ApiServer, *seen: dict[str, Any], message: str = ""
) -> tuple[Submission, list[str]]:
    """A submission, and the requests that are made from here on."""
    asked: list[str] = []

    def answer(method: str, path: str, body: dict[str, Any]) -> Answer:
        del body
        resource = path.partition("?")[0].rpartition("/namespaces/ns/")[2]
        asked.append(f"{method} {resource}")
        if "events" in path:
            items = [{"message": message}] if message else []
            return 200, json.dumps({"metadata": {}, "items": items}).encode()
        return 200, watched(*seen) if method == "GET" else b"{}"

    server.answer = answer
    return Submission(server.cluster(), CREATED), asked


WAITING: dict[str, Any] = {"spec": {}, "status": {}}


@pytest.mark.parametrize(
    "last",
    [
        {"spec": {}, "status": {"active": 1}},
        {"spec": {}, "status": {"succeeded": 1}},
        {"spec": {"suspend": True}, "status": {}},
    ],
)
def test_with_a_pod_or_in_a_queue_detaching_takes_one_request(
    server: ApiServer, last: dict[str, Any]
) -> None:
    submission, asked = a_detached_job(server, WAITING, last, message="never read")
    await_a_pod(submission)
    assert asked == ["GET jobs"]
    submission.cluster.close()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('pods "a-0" is forbidden: exceeded quota: team', "no quota left: exceeded quota: team"),
        ("violates PodSecurity: runAsNonRoot != true", "Pod Security level: violates PodSecurity"),
        (WEBHOOK + "no owner", f"refuses the pods of a: Error creating: {WEBHOOK}no owner"),
        ("pods are full", "refuses the pods of a: Error creating: pods are full"),
    ],
)
def test_refused_pods_are_said_before_detaching_and_the_job_removed(
    server: ApiServer, message: str, said: str
) -> None:
    submission, asked = a_detached_job(server, WAITING, message=f"Error creating: {message}")
    with pytest.raises(RefusedError) as caught:
        await_a_pod(submission)
    assert said in str(caught.value)
    assert asked == ["GET jobs", "GET events", "DELETE jobs/a"]
    submission.cluster.close()


def test_a_job_whose_pods_only_take_their_time_is_left_alone(server: ApiServer) -> None:
    submission, asked = a_detached_job(server, WAITING)
    await_a_pod(submission)
    assert asked == ["GET jobs", "GET events"]
    submission.cluster.close()


def test_whoever_may_not_watch_detaches_nevertheless(server: ApiServer) -> None:
    words = 'jobs.batch is forbidden: User "bob" cannot watch resource "jobs" in API group "batch"'
    asked: list[int] = []

    def forbidden(*_: object) -> Answer:
        asked.append(1)
        return said(403, "Forbidden", words)

    server.answer = forbidden
    submission = Submission(server.cluster(), CREATED)
    await_a_pod(submission)
    submission.cluster.close()
    assert len(asked) == 1


class Chunks:
    """A streamed response: its chunks, then perhaps the end of the connection."""

    def __init__(self, *chunks: bytes, breaks: bool = False) -> None:
        self._chunks, self._breaks = chunks, breaks

    def stream(self, _size: int) -> Iterator[bytes]:
        yield from self._chunks
        if self._breaks:
            raise urllib3.exceptions.ProtocolError("connection reset")

    def close(self) -> None:
        """As urllib3's."""


class Logs:
    """What a cluster answers to requests for a log, one after the other."""

    def __init__(self, *answers: Chunks) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    def stream_log(self, _pod: str, **query: str) -> Chunks:
        self.asked.append(query)
        return self.answers.pop(0)


def stamped(*numbers: int) -> bytes:
    return b"".join(b"2026-01-01T00:00:0%d.000000000Z line %d\n" % (n, n) for n in numbers)


def read_all(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Lines and notes of a plain `logs`."""
    monkeypatch.setattr(logs_module, "PAUSE_S", 0.0)
    notes: list[str] = []
    found = logs_module.merged(
        cast(Cluster, logs),
        [(0, "pod-0")],
        logs_module.LogChoice(),
        notes.append,
        {"pod-0": {}},
    )
    return [line.text for line in found], notes


def test_a_log_that_breaks_is_read_on_from_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs(Chunks(stamped(1, 2) + b"2026-01-", breaks=True), Chunks(stamped(2, 3)))
    assert read_all(logs, monkeypatch) == (["line 1", "line 2", "line 3"], [])
    assert logs.asked[1]["sinceTime"] == "2026-01-01T00:00:02Z"


def test_a_log_that_breaks_again_and_again_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = Logs(*(Chunks(stamped(1), breaks=True) for _ in range(logs_module.ATTEMPTS)))
    with pytest.raises(UnreachableError, match="the connection broke"):
        read_all(logs, monkeypatch)


def test_the_kubelets_own_words_are_no_line_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    words = b"failed to create fsnotify watcher: too many open files"
    logs = Logs(Chunks(stamped(1) + words, breaks=True), Chunks(stamped(1, 2) + words))
    lines, notes = read_all(logs, monkeypatch)
    assert lines == ["line 1", "line 2"]
    assert notes == [f"index 0: the kubelet says of its log: {words.decode()}"]
    assert logs.asked[1]["sinceTime"] == "2026-01-01T00:00:01Z"


BAR_BEGINS = b"2026-01-01T00:00:02.000000000Z \r 1%\r 38%\r 3"


def test_of_a_bar_the_last_state_is_shown_and_one_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = Chunks(stamped(1) + BAR_BEGINS, b"9%\r100%\n" + stamped(3))
    assert read_all(Logs(ended), monkeypatch)[0] == ["line 1", "100%", "line 3"]
    monkeypatch.setattr(lines_module, "BAR_EVERY_S", 0.0)
    goes_on = Chunks(stamped(1), BAR_BEGINS, b"9%\r100%\n" + stamped(3))
    # The part of 16 KiB that a runtime writes ends anywhere: not with a state cut in two.
    assert read_all(Logs(goes_on), monkeypatch)[0] == ["line 1", " 38%", "100%", "line 3"]


def test_the_end_of_a_bar_that_began_before_the_time_asked_for_is_no_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kubelet then gives its last part alone, without a stamp."""
    broken = Chunks(stamped(1) + BAR_BEGINS + b"\r100%\n" + stamped(3), breaks=True)
    logs = Logs(broken, Chunks(b"9%\r100%\n" + stamped(3, 4)))
    assert read_all(logs, monkeypatch)[0] == ["line 1", "100%", "line 3", "line 4"]


def test_the_last_round_of_a_followed_log_is_read_again_when_it_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs_module, "PAUSE_S", 0.0)
    logs = Logs(Chunks(stamped(1), breaks=True), Chunks(stamped(1, 2)))
    reader = logs_module.Reader(cast(Cluster, logs), "pod-0", 0, logs_module.LogChoice())
    lines: list[str] = []
    stream = logs_module.Stream(
        reader,
        emit=lambda line: lines.append(line.text),
        note=lines.append,
        done=lambda: None,
        last_words=lambda: None,
    )
    stream.pod_has_ended()
    stream.run()
    assert lines == ["line 1", "line 2"]


def line_at(second: int, pod: str) -> logs_module.LogLine:
    stamp = f"2026-01-01T00:00:{second:02}.000000000Z"
    return logs_module.LogLine(0, pod, stamp, f"{pod} {second}")


def texts(lines: Iterable[logs_module.LogLine]) -> list[str]:
    return [line.text for line in lines]


def test_what_pods_had_said_before_we_came_is_shown_by_time() -> None:
    lines = logs_module.InOrder()
    lines.begin("a", 0.0)
    lines.begin("b", 0.0)
    for second in (1, 3, 9):
        lines.take(line_at(second, "a"), 0.1)
    assert texts(lines.due(5.0)) == []  # b may have older ones
    for second in (2, 4):
        lines.take(line_at(second, "b"), 6.0)
    assert texts(lines.due(7.0)) == ["a 1", "b 2", "a 3", "b 4"]
    lines.caught_up("b")
    lines.caught_up("a")
    assert texts(lines.due(7.0)) == ["a 9"]


def test_a_line_that_is_followed_waits_half_a_second_for_older_ones() -> None:
    lines = logs_module.InOrder()
    lines.take(line_at(2, "a"), 10.0)
    lines.take(line_at(1, "b"), 10.3)
    assert texts(lines.due(10.5)) == []
    assert texts(lines.due(10.9)) == ["b 1", "a 2"]
    assert not lines.holds


def test_a_pod_that_gives_nothing_holds_the_others_up_for_ten_seconds() -> None:
    lines = logs_module.InOrder()
    lines.begin("stuck", 0.0)
    lines.take(line_at(1, "a"), 1.0)
    assert texts(lines.due(9.0)) == []
    assert texts(lines.due(10.5)) == ["a 1"]
    lines.take(line_at(2, "a"), 11.0)
    assert texts(lines.rest()) == ["a 2"]


def test_a_stream_reads_the_past_before_it_follows() -> None:
    logs = Logs(Chunks(stamped(1, 2)), Chunks(stamped(2, 3)), Chunks(b""))
    reader = logs_module.Reader(cast(Cluster, logs), "pod-0", 0, logs_module.LogChoice(tail=2))
    seen: list[str] = []

    def take(line: logs_module.LogLine) -> None:
        seen.append(line.text)
        if line.text == "line 3":
            stream.pod_has_ended()

    stream = logs_module.Stream(
        reader,
        emit=take,
        note=seen.append,
        done=lambda: None,
        last_words=lambda: None,
        caught_up=lambda: seen.append("caught up"),
    )
    stream.run()
    assert seen == ["line 1", "line 2", "caught up", "line 3"]
    assert [("follow" in query, "tailLines" in query) for query in logs.asked] == [
        (False, True),
        (True, False),
        (False, False),
    ]


def test_a_tail_of_a_log_that_is_empty_is_no_tail_of_what_comes() -> None:
    logs = Logs(Chunks(b""), Chunks(stamped(1, 2, 3)))
    reader = logs_module.Reader(cast(Cluster, logs), "pod-0", 0, logs_module.LogChoice(tail=1))
    assert [line.text for line in reader.read(follow=False)] == []
    assert [line.text for line in reader.read(follow=True)] == ["line 1", "line 2", "line 3"]
    assert "tailLines" not in logs.asked[1]


def test_lines_before_a_tail_do_not_come_with_what_follows() -> None:
    """What follows is asked for by the second: that of the tail has older lines, too."""

    def in_one_second(*numbers: int) -> bytes:
        lines = (f"2026-01-01T00:00:01.{number:09d}Z line {number}\n" for number in numbers)
        return "".join(lines).encode()

    logs = Logs(Chunks(in_one_second(2, 3)), Chunks(in_one_second(1, 2, 3, 4)))
    notes: list[str] = []
    choice = logs_module.LogChoice(tail=1)
    reader = logs_module.Reader(cast(Cluster, logs), "pod-0", 0, choice, note=notes.append)
    assert [line.text for line in reader.read(follow=True)] == ["line 3", "line 4"]
    assert notes == []


def test_a_pod_that_is_gone_leaves_its_last_words() -> None:
    said = logs_module.without_log(3, "job-3-x", "there is no pod job-3-x", "ValueError: bad batch")
    assert said.startswith("index 3: no log of pod job-3-x: ")
    assert said.endswith("; its last words: ValueError: bad batch")


def test_a_job_that_has_ended_has_not_said_all_before_its_pods_are_known() -> None:
    seen = Observation(cast(Cluster, None), "a")
    seen.job = JobView(
        {
            "metadata": {"name": "a"},
            "spec": {"completions": 1},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        }
    )
    assert not seen._all_said()
    seen._synced = True
    assert seen._all_said()
