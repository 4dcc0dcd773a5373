"""forward, against a server whose pods are ports of this machine."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kij_train.cli import main
from kij_train.errors import KijError, RequestError
from kij_train.jobs import Ports, forward

from tests.kube import eventually
from tests.proxies import running
from tests.unit.pods import OnePod
from tests.unit.test_job_commands import restarts


class Echo:
    """Answers each connection with a greeting, and then with what it is sent."""

    def __init__(self, greeting: bytes = b"hello ") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._greeting = greeting
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            here, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(here,), daemon=True).start()

    def _answer(self, here: socket.socket) -> None:
        with here:
            here.sendall(self._greeting)
            while data := here.recv(2**16):
                here.sendall(data)


class Forward:
    """A job's ports in a thread, and what is said of them."""

    def __init__(self, server: OnePod, *ports: str) -> None:
        self.lines: list[str] = []
        self.error: KijError | None = None
        self._server = server
        self._wanted = [Ports.parse(text) for text in ports or ("0:6006",)]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            forward(self._server.cluster(), "job", self._wanted, note=self.lines.append)
        except KijError as error:
            self.error = error

    def says(self, words: str) -> bool:
        return eventually(lambda: any(words in line for line in self.lines), 60)

    def connect(self, number: int = 0) -> socket.socket:
        return connected(self.lines, number)

    def has_ended(self) -> bool:
        """By itself."""
        self._thread.join(60)
        return not self._thread.is_alive()

    def end(self) -> None:
        self._server.end()
        assert self.has_ended()
        assert self.error is None


def connected(lines: list[str], number: int = 0) -> socket.socket:
    """To the port of this machine that one of the lines names."""

    def told() -> list[str]:
        return [line for line in lines if "leads to port" in line]

    assert eventually(lambda: len(told()) > number, 60), lines
    port = int(told()[number].split()[0].partition(":")[2])
    return socket.create_connection(("localhost", port), timeout=60)


def got(here: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := here.recv(2**16)):
        data += more
    return data


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnePod]:
    with running(OnePod()) as made:
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        made.ports["job-0-rbmzm"] = Echo().port
        yield made


def test_bytes_go_both_ways_through_several_ports(server: OnePod) -> None:
    ours = Forward(server, "0:6006", "0:80")
    big = bytes(range(256)) * 4000
    with ours.connect() as one, ours.connect(1) as other:
        assert got(one, 6) == got(other, 6) == b"hello "
        threading.Thread(target=one.sendall, args=(big,), daemon=True).start()
        assert got(one, len(big)) == big
        other.sendall(b"x")
        assert got(other, 1) == b"x"
        assert {path.rpartition("?")[2] for path in server.opened} == {"ports=6006", "ports=80"}
        ours.end()
        assert one.recv(1) == b""
    assert "to index 0: pod job-0-rbmzm" in "\n".join(ours.lines)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_what_is_connected(
    server: OnePod, signum: signal.Signals, code: int
) -> None:
    line = [sys.executable, "-m", "kij_train", "forward", "job", "0:6006"]
    lines = []
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as ours:
        assert ours.stderr is not None
        lines.append(ours.stderr.readline())
        with connected(lines) as here:
            assert got(here, 6) == b"hello "
            ours.send_signal(signum)
            assert here.recv(1) == b""
        lines += ours.stderr.readlines()
    assert ours.returncode == code
    assert "Traceback" not in "".join(lines)
    assert "no port leads to job any more; it goes on" in lines[-1]


def test_a_program_that_sends_its_last_byte_still_gets_the_answer(server: OnePod) -> None:
    ours = Forward(server)
    with ours.connect() as here:
        here.sendall(b"last")
        here.shutdown(socket.SHUT_WR)
        assert got(here, 10) == b"hello last"
    ours.end()


def test_new_connections_go_to_the_pod_that_replaces_one(server: OnePod) -> None:
    server.ports["job-0-next"] = Echo(b"again ").port
    ours = Forward(server)
    with ours.connect() as here:
        assert got(here, 6) == b"hello "
    server.replace_pod("job-0-next")
    # Before the watch has told: the old pod is not found, and the connection is held for the next.
    with ours.connect() as here:
        assert got(here, 6) == b"again "
    assert ours.says("pod job-0-next on")
    ours.end()


def test_it_ends_well_with_the_job(server: OnePod, capsys: pytest.CaptureFixture[str]) -> None:
    threading.Timer(1, server.end).start()
    assert main(["forward", "job", "0:6006"]) == 0
    assert "job needs no ports any more" in capsys.readouterr().err


def test_a_port_that_nothing_listens_on_is_said_once(server: OnePod) -> None:
    server.ports["job-0-rbmzm"] = 0
    ours = Forward(server)
    for _ in range(3):
        with ours.connect() as here:
            assert here.recv(1) == b""
    assert ours.says("nothing listens on port 6006 of pod job-0-rbmzm (index 0)")
    ours.end()
    assert sum("nothing listens" in line for line in ours.lines) == 1


def test_a_refusal_names_the_right_and_ends_it(server: OnePod) -> None:
    text = (
        'pods "x" is forbidden: User "bob" cannot create resource "pods/portforward" in API group'
    )
    refused = {"kind": "Status", "reason": "Forbidden", "message": text}
    server.refuses = (403, json.dumps(refused).encode())
    ours = Forward(server)
    with ours.connect() as here:
        assert here.recv(1) == b""
    assert ours.has_ended()
    assert ours.error is not None
    assert "bob may not create pods/portforward" in ours.error.message
    hints = "\n".join(ours.error.hints)
    assert "--verb=create --resource=pods/portforward" in hints
    assert "manifests/role.yaml" in hints


def test_of_a_job_that_restarts_it_is_the_index_that_trains_first(server: OnePod) -> None:
    restarts(server.job, high=1, completions=2)
    (pod,) = server.items["pods"]
    pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = "1"
    pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = "1"
    ours = Forward(server)
    with ours.connect() as here:
        assert got(here, 6) == b"hello "
    assert ours.says("to index 1: pod job-0-rbmzm")
    ours.end()


def test_a_port_that_is_taken_is_named_and_nothing_listens(
    server: OnePod, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["forward", "job", f"{port}:6006"]) == 2
    err = capsys.readouterr().err
    assert f"port {port} of this machine is taken" in err
    assert "kij-train forward job -n default 0:6006" in err
    assert server.opened == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["job", "web"], 2, "'web' names no ports"),
        (["job", "0"], 2, "'0' names no ports"),
        (["job", "70000"], 2, "'70000' names no ports"),
        (["job", "6006", "--index", "9"], 2, "has no index 9"),
        (["nope", "6006"], 4, "the ports of a run with --local are on this machine"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    server: OnePod,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    assert main(["forward", *words]) == code
    assert message in capsys.readouterr().err


def test_a_job_that_has_ended_has_no_ports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(OnePod("succeeded")) as server:
        assert main(["forward", "job", "6006", "--kubeconfig", server.kubeconfig(tmp_path)]) == 2
    assert "job does not run any more: succeeded" in capsys.readouterr().err


def test_ports_are_one_number_or_two() -> None:
    assert Ports.parse("6006") == Ports(6006, 6006)
    assert Ports.parse("8080:80") == Ports(8080, 80)
    assert Ports.parse("0:80") == Ports.parse(":80") == Ports(0, 80)
    for text in ("", ":", "80:", "1:2:3", "-1", "80:0", "99999:80", "8o"):
        with pytest.raises(RequestError):
            Ports.parse(text)
