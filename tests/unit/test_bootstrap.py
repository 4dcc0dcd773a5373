"""The pod's first process: contract, the wait for rank 0, failure records, a rank."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train import pod
from kij_train.code import bundle
from kij_train.diagnosis import parse_record
from kij_train.pod import bootstrap, contract, environment, gang, rank0, records, spread, status
from kij_train.spec import JobSpec

CONTRACT = {
    "JOB_COMPLETION_INDEX": "1",
    "NODE_RANK": "1",
    "NNODES": "4",
    "NPROC_PER_NODE": "2",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "job-0.job",
    "MASTER_PORT": "29500",
}


def run_bootstrap(
    *argv: str, env: dict[str, str], python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-I", "-S", bootstrap.__file__, *argv],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_whole_contract_is_taken() -> None:
    node = contract.read_contract(CONTRACT)
    assert node == contract.Node(1, 4, 2, "job-0.job", 29500, 600, 1)


OUTSIDE = ("PET_MAX_RESTARTS", "TORCHELASTIC_RUN_ID", "RANK", "LOCAL_WORLD_SIZE", "KIJ_NODES")


def test_variables_of_a_run_that_an_image_brings_do_not_reach_it() -> None:
    known = " ".join([*CONTRACT, "PET_LOG_LEVEL"])
    env = {
        **CONTRACT,
        "KIJ_ENV_NAMES": known,
        "PET_LOG_LEVEL": "meant",
        "OMP_NUM_THREADS": "2",
        **dict.fromkeys(OUTSIDE, "7"),
    }
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    done = run_bootstrap("--no-torchrun", "--no-python", sys.executable, "-c", code, env=env)
    found = json.loads(done.stdout)
    assert found.keys() & set(OUTSIDE) == set()
    assert (found["PET_LOG_LEVEL"], found["OMP_NUM_THREADS"]) == ("meant", "2")
    assert CONTRACT.items() <= found.items()


@pytest.mark.parametrize("ignored", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(ignored: signal.Signals) -> None:
    code = "import signal; print([signal.getsignal(n) == signal.SIG_IGN for n in (1, 2, 3, 15)])"
    done = subprocess.run(
        [
            *("sh", "-c", f'trap "" {ignored.value}; exec "$@"', "sh"),
            *(sys.executable, bootstrap.__file__, "--no-torchrun", "--no-python"),
            *(sys.executable, "-c", code),
        ],
        env={**os.environ, **CONTRACT},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{[number == ignored for number in (1, 2, 3, 15)]}\n"


@pytest.mark.parametrize("name", contract.CONTRACT)
@pytest.mark.parametrize("value", ["", None])
def test_a_missing_or_empty_variable_is_named(name: str, value: str | None) -> None:
    env = {**CONTRACT, name: value}
    with pytest.raises(contract.Failure, match=f"not set or empty: {name}") as caught:
        contract.read_contract({k: v for k, v in env.items() if v is not None})
    assert caught.value.exit_code == contract.EXIT_CONTRACT


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NODE_RANK", "4", "NODE_RANK='4' is no number from 0 to 3"),
        ("NODE_RANK", "x", "NODE_RANK='x' is no number"),
        ("NNODES", "0", "NNODES='0'"),
        ("MASTER_PORT", "99999", "MASTER_PORT"),
        ("WORLD_SIZE", "4", "NNODES x NPROC_PER_NODE is 4 x 2"),
        ("JOB_COMPLETION_INDEX", "2", "but JOB_COMPLETION_INDEX=2"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(contract.Failure, match=message):
        contract.read_contract({**CONTRACT, name: value})


def test_it_runs_alone_and_leaves_a_record(tmp_path: Path) -> None:
    record = tmp_path / "record"
    result = run_bootstrap("a.py", env={"TORCHELASTIC_ERROR_FILE": str(record)})
    assert result.returncode == contract.EXIT_CONTRACT
    assert "error: not set or empty: NODE_RANK, NNODES" in result.stderr
    failure = parse_record(record.read_text(), index=0)
    assert failure is not None
    assert failure.exit_code == contract.EXIT_CONTRACT
    assert "NODE_RANK" in failure.message


FILES = (Path(bootstrap.__file__), *pod.BESIDE)


@pytest.mark.parametrize(
    "file", sorted(Path(pod.__file__).parent.rglob("*.py")), ids=lambda file: file.stem
)
def test_its_syntax_is_that_of_python_3_8(file: Path) -> None:
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 8))


def our_imports(file: Path) -> Iterator[str]:
    """The files of ours that a file imports, by their names.

    Those of `spread` are there where something is spread: only then they are imported in functions.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        inside = node not in tree.body
        if inside and str(getattr(node, "module", "")).startswith("kij_train.pod.spread"):
            continue
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kij_train."):
            for alias in node.names:
                words = f"{node.module}.{alias.name}".split(".")
                yield next(word for word in words if word not in ("kij_train", "pod", *PACKAGES))


PACKAGES = ("gang", "spread")


@pytest.mark.parametrize(
    "files",
    [
        FILES,
        (*FILES, *gang.FILES),
        (*FILES, *spread.FILES),
        (*FILES, *gang.FILES, *spread.FILES),
        (*FILES, *pod.ITEMS, *pod.FIGURES, *spread.FILES),
    ],
    ids=["alone", "with gang", "with spread", "with both", "with items and spread"],
)
def test_the_files_of_a_pod_need_no_others_and_share_no_name(files: tuple[Path, ...]) -> None:
    """In a pod they lie in one folder, whichever package they are of here."""
    names = [file.stem for file in set(files)]  # two packages may both need one
    assert len(names) == len(set(names))
    assert {name for file in files for name in our_imports(file)} <= set(names)


PYTHON_3_8 = shutil.which("python3.8") or ""
if not PYTHON_3_8 or "shims" in PYTHON_3_8:  # pyenv's shims stand for versions that are not chosen
    versions = Path("~/.pyenv/versions").expanduser().glob("3.8.*/bin/python3.8")
    PYTHON_3_8 = next(map(str, versions), "")


@pytest.mark.skipif(not PYTHON_3_8, reason="no python3.8 on this machine")
def test_it_runs_under_python_3_8(tmp_path: Path) -> None:
    env = {**CONTRACT, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "r"), "NODE_RANK": "9"}
    result = run_bootstrap("a.py", env=env, python=PYTHON_3_8)
    assert result.returncode == contract.EXIT_CONTRACT
    assert "NODE_RANK='9' is no number from 0 to 3" in result.stderr


AS_IN_A_POD = """
import sys, types
for name in ("kij_train", "kij_train.pod"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [sys.argv[1]]
"""
"""Before a line that imports files of a folder as those of a pod import each other."""

UNPACK_AND_WAIT = f"""{AS_IN_A_POD}
import pathlib
from kij_train.pod import rank0, unpack
folder = pathlib.Path(sys.argv[2])
unpack.unpack_code(str(folder / "mnt"), str(folder / "out"), sys.argv[3])
rank0.wait_for_rank0("127.0.0.1", int(sys.argv[4]), 30, nnodes=2)
print((folder / "out/link").read_text())
"""


@pytest.mark.parametrize(
    "python",
    [
        sys.executable,
        pytest.param(
            PYTHON_3_8,
            id="python3.8",
            marks=pytest.mark.skipif(not PYTHON_3_8, reason="no python3.8 on this machine"),
        ),
    ],
)
def test_it_unpacks_the_code_and_finds_rank_0_under_any_python(tmp_path: Path, python: str) -> None:
    for folder in ("code/sub", "mnt"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "code/sub/a.py").write_text("the code")
    (tmp_path / "code/link").symlink_to("sub/a.py")
    archive = bundle.pack(tmp_path / "code")
    (tmp_path / f"mnt/{contract.CODE_PREFIX}000").write_bytes(archive.packed)
    with socket.create_server(("127.0.0.1", 0)) as rank0:
        here, port = str(Path(bootstrap.__file__).parent), str(rank0.getsockname()[1])
        result = subprocess.run(
            [python, "-I", "-S", "-c", UNPACK_AND_WAIT, here, str(tmp_path), archive.sha256, port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (result.returncode, result.stdout) == (0, "the code\n"), result.stderr


def test_without_torch_it_says_which_python_lacks_it(tmp_path: Path) -> None:
    env = {
        **CONTRACT,
        "NODE_RANK": "0",
        "JOB_COMPLETION_INDEX": "0",
        "TORCHELASTIC_ERROR_FILE": str(tmp_path / "r"),
    }
    result = run_bootstrap("a.py", env=env)  # -S hides the installed one
    assert result.returncode == contract.EXIT_CONTRACT
    assert "torch cannot be imported by" in result.stderr
    assert "index 0 of 4, ranks 0-1 of 8" in result.stderr


# --- rank 0 ---------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_late_rank_0_is_waited_for() -> None:
    port = free_port()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def listen() -> None:
        time.sleep(0.5)
        listener.bind(("127.0.0.1", port))
        listener.listen()

    thread = threading.Thread(target=listen)
    thread.start()
    started = time.monotonic()
    rank0.wait_for_rank0("127.0.0.1", port, 30, nnodes=2)
    assert 0.4 < time.monotonic() - started < 10
    thread.join()
    listener.close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1", "runs, but its torchrun does not listen"),
        ("::1", "runs, but its torchrun does not listen"),
        ("no-such-host.invalid", "has no address yet"),
    ],
)
def test_at_the_deadline_it_says_what_was_tried_and_the_likely_cause(
    address: str, message: str
) -> None:
    with pytest.raises(contract.Failure) as caught:
        rank0.wait_for_rank0(address, free_port(), 0.3, nnodes=2)
    assert caught.value.exit_code == contract.EXIT_RENDEZVOUS
    assert message in str(caught.value)
    assert f"tried {address} port" in str(caught.value)


POD = "search a.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
GIVEN = ("job-0.job", socket.AF_UNSPEC)
WHOLE = ("job-0.job.a.svc.cluster.local.", socket.AF_INET)


@pytest.mark.parametrize(
    ("resolv_conf", "address", "expected"),
    [
        (POD, "job-0.job", [WHOLE, GIVEN, *[WHOLE] * 7, GIVEN]),
        (
            POD.replace("10.96.0.10", "fd00::a"),
            "job-0.job",
            [(WHOLE[0], socket.AF_INET6), GIVEN, *[(WHOLE[0], socket.AF_INET6)] * 7, GIVEN],
        ),
        (POD, "10.0.0.7", [("10.0.0.7", socket.AF_UNSPEC)] * 10),
        ("nameserver 192.168.0.1\nsearch corp.example\n", "job-0.job", [GIVEN] * 10),
        ("search\nnameserver\n", "job-0.job", [GIVEN] * 10),
        (None, "job-0.job", [GIVEN] * 10),
    ],
    ids=["a pod", "of IPv6", "an address", "a machine", "an empty file", "no file"],
)
def test_one_query_asks_for_rank_0_in_a_pod_and_its_name_as_given_is_tried_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resolv_conf: str | None,
    address: str,
    expected: list[tuple[str, int]],
) -> None:
    asked: list[tuple[str, int]] = []

    def getaddrinfo(host: str, _: int, family: int = 0, *more: int, **named: int) -> list[int]:
        asked.append((host, family))
        return []

    if resolv_conf is not None:
        (tmp_path / "resolv.conf").write_text(resolv_conf)
    monkeypatch.setattr(rank0, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    name = rank0.Name(address)
    for _ in range(10):
        name.resolve(29500)
    assert asked == expected


@pytest.mark.parametrize(("nnodes", "seconds"), [(1, 0.1), (50, 0.1), (500, 1), (5000, 10)])
def test_of_many_nodes_each_asks_less_often(nnodes: int, seconds: float) -> None:
    assert rank0.longest_pause_s(nnodes, rank0.LOOK_UPS_PER_S) == seconds
    assert rank0.longest_pause_s(10**6, rank0.LOOK_UPS_PER_S) == rank0.LONGEST_PAUSE_S


# --- records --------------------------------------------------------------------------------------


# Long texts are made of short ones: to draw thousands of characters takes a hundred times as long.
LONG = st.builds(lambda text, times: text * times, st.text(max_size=50), st.integers(0, 400))


@given(LONG, LONG)
def test_a_record_always_fits_and_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, message: str, stack: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "record"
    records.write_record(str(path), message, stack, index=3, rank=12, exit_code=1)
    data = path.read_bytes()
    assert len(data) <= records.RECORD_BYTES - 64
    failure = parse_record(data.decode(), index=3)
    assert failure is not None
    assert failure.rank == 12
    assert failure.message[:100] == message.encode("utf-8", "replace").decode()[:100]


words = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=3000)
messages = st.lists(words, min_size=1, max_size=6).map("\n".join)
frames = st.tuples(
    st.sampled_from(["  ", "    | ", ""]), words, st.integers(1, 99_999), st.text("fé", min_size=1)
)


@given(
    messages,
    st.lists(st.one_of(frames, words), max_size=20),
    frames,
    st.booleans(),
    st.lists(st.text("node-ü", min_size=1, max_size=200), max_size=5),
)
def test_a_record_that_is_too_long_keeps_the_last_frame(
    tmp_path_factory: pytest.TempPathFactory,
    message: str,
    above: list[tuple[str, str, int, str] | str],
    last: tuple[str, str, int, str],
    is_ours: bool,
    machines: list[str],
) -> None:
    """The node writes the rank's record anew, with more in it: the frame has to survive that."""

    def line(frame: tuple[str, str, int, str] | str) -> str:
        if isinstance(frame, str):
            return frame.replace("File", "file")
        return f'{frame[0]}File "/work/{frame[1]}/train.py", line {frame[2]}, in {frame[3]}'

    source = "    step()"
    stack = "\n".join(["Traceback (most recent call last):", *map(line, above), line(last), source])
    path = tmp_path_factory.getbasetemp() / "record"
    records.write_record(str(path), message, stack + f"\n{message}" * is_ours, rank=1)
    first = records.read_record(str(path))["message"]
    accounts = {"blame": {machine: [1, 2.0] for machine in machines}}
    records.write_record(
        str(path),
        first["message"],
        first["extraInfo"]["py_callstack"],
        rank=1,
        index=1,
        exit_code=1,
        final=True,
        accounts=accounts,
    )
    assert len(path.read_bytes()) <= records.RECORD_BYTES - 64
    failure = parse_record(path.read_text(), index=1)
    assert failure is not None
    assert f'/train.py", line {last[2]}, in {last[3][:20]}' in failure.callstack
    assert failure.message[:20] == message[:20]


def test_what_a_record_leaves_out_is_said_and_both_ends_stay(tmp_path: Path) -> None:
    keys = ", ".join(f"layer{number}" for number in range(2000))
    stack = (
        'Traceback (most recent call last):\n  File "train.py", line 7, in load\n    model.load()'
    )
    message = f"RuntimeError: missing keys: {keys}."
    records.write_record(str(tmp_path / "r"), message, f"{stack}\n{message}\n")
    failure = parse_record((tmp_path / "r").read_text(), index=0)
    assert failure is not None
    assert failure.callstack == stack
    assert failure.message.startswith("RuntimeError: missing keys: layer0, ")
    assert "characters ...]" in failure.message
    assert failure.message.endswith("layer1999.")


def test_a_place_that_cannot_be_written_is_said_and_does_not_raise(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    records.write_record(str(tmp_path / "no/such/folder"), "m", "")
    assert "cannot write the failure record" in capsys.readouterr().err


def test_of_two_local_ranks_the_one_that_failed_first_is_kept(tmp_path: Path) -> None:
    class ProcessFailure:
        def __init__(self, local_rank: int, exitcode: int, error_file: Path) -> None:
            self.local_rank, self.exitcode, self.error_file = local_rank, exitcode, str(error_file)
            self.timestamp = 1700000001

        def signal_name(self) -> str:
            return "SIGKILL"

    node = contract.Node(1, 2, 2, "a", 1, 1, 1)
    for rank, moment in ((2, 1700000000.9), (3, 1700000000.2)):
        records.write_record(str(tmp_path / str(rank)), f"E{rank}", "", rank=rank, time=moment)
    failures = {
        2: ProcessFailure(0, 1, tmp_path / "2"),
        3: ProcessFailure(1, 1, tmp_path / "3"),
    }
    line = records.record_failures(str(tmp_path / "out"), node, failures, str(tmp_path))
    assert line == "rank 3 failed, exit code 1: E3"
    failure = parse_record((tmp_path / "out").read_text(), index=1)
    assert failure is not None
    assert (failure.rank, failure.message, failure.time) == (3, "E3", 1700000000.2)

    killed = {2: ProcessFailure(0, -9, tmp_path / "none")}
    line = records.record_failures(str(tmp_path / "out"), node, killed, str(tmp_path))
    assert line == "rank 2 was killed by SIGKILL"
    assert json.loads((tmp_path / "out").read_text())["message"]["message"] == (
        "rank 2 was killed by SIGKILL"
    )


def test_sigterm_while_waiting_for_rank_0_ends_at_once(tmp_path: Path) -> None:
    env = {
        **os.environ,
        **CONTRACT,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_ERROR_FILE": str(tmp_path / "r"),
    }
    process = subprocess.Popen(
        [sys.executable, bootstrap.__file__, "a.py"], env=env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "index 1 of 4" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=90) == 128 + signal.SIGTERM
    assert "ended by SIGTERM before the ranks started" in process.stderr.read()
    process.stderr.close()


# --- without torchrun -----------------------------------------------------------------------------


def plain(
    tmp_path: Path, *argv: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = {**CONTRACT, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "record"), **(env or {})}
    return run_bootstrap("--no-torchrun", *argv, env=env)


RANK_0 = {"NODE_RANK": "0", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("env", "host"), [(RANK_0, "localhost"), ({}, "job-0.job"), ({"KIJ_RANK0_HOST": "x"}, "x")]
)
def test_a_plain_command_runs_once_and_knows_the_host_of_rank_0(
    tmp_path: Path, env: dict[str, str], host: str
) -> None:
    result = plain(
        tmp_path, "--no-python", "sh", "-c", 'echo "$KIJ_RANK0_HOST" "$0"', "a b", env=env
    )
    assert (result.returncode, result.stdout) == (0, f"{host} a b\n")


def test_a_plain_script_is_run_by_the_same_python(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import sys; print(sys.executable, sys.argv[1:]); sys.exit(3)")
    result = plain(tmp_path, str(tmp_path / "a.py"), "-x")
    assert (result.returncode, result.stdout) == (3, f"{sys.executable} ['-x']\n")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("exit 7", 7, "ended with exit code 7"),
        ("exit 137", 137, "ended with exit code 137"),
        ("kill -9 $$", 137, "was killed by SIGKILL"),
        ("kill -35 $$", 128 + 35, "was killed by signal 35"),
    ],
)
def test_the_exit_code_of_a_plain_command_is_the_nodes_and_a_signal_is_told(
    tmp_path: Path, line: str, code: int, said: str
) -> None:
    result = plain(tmp_path, "--no-python", "sh", "-c", line)
    assert result.returncode == code
    assert f"kij-train: sh {said}\n" in result.stderr
    own = status.Exited("sh", code) if "ended with" in said else None
    assert status.Exited.find(result.stderr) == own


def test_sigterm_reaches_a_plain_command(tmp_path: Path) -> None:
    line = "trap 'echo saved; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [sys.executable, bootstrap.__file__, "--no-torchrun", "--no-python", "sh", "-c", line],
        env={**os.environ, **CONTRACT, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "r")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=90)[0] == "saved\n"
    assert process.returncode == 5


def test_a_plain_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = plain(tmp_path, "--no-python", "no-such-program")
    assert result.returncode == contract.EXIT_CODE
    assert "error: no-such-program: cannot be run in the code or in the image" in result.stderr
    failure = parse_record((tmp_path / "record").read_text(), index=1)
    assert failure is not None
    assert failure.exit_code == contract.EXIT_CODE


def test_a_plain_command_with_the_ends_of_windows_lines_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_bytes(b"#!/bin/sh\r\necho hi\r\n")
    (tmp_path / "a.sh").chmod(0o755)
    result = plain(tmp_path, "--no-python", str(tmp_path / "a.sh"))
    assert result.returncode == contract.EXIT_CODE
    assert (
        r"its lines end as on Windows, so that it asks for '/bin/sh\r' to run it" in result.stderr
    )


def test_a_plain_command_waits_for_rank_0_where_it_is_asked_to(tmp_path: Path) -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env["KIJ_RENDEZVOUS_TIMEOUT_S"] = "1"
    command = ("--await-rank0", "--no-python", "echo", "started")
    late = plain(tmp_path, *command, env=env)
    assert (late.returncode, late.stdout) == (contract.EXIT_RENDEZVOUS, "")
    first = plain(tmp_path, *command, env={**env, **RANK_0})
    assert (first.returncode, first.stdout) == (0, "started\n")


ORPHAN = """
import os, subprocess, time
line = ["sh", "-c", "(sleep 0.2; exit 3) >/dev/null & echo $!"]
orphan = subprocess.run(line, stdout=subprocess.PIPE, text=True).stdout.strip()
deadline = time.monotonic() + 20
while os.path.exists("/proc/" + orphan) and time.monotonic() < deadline:
    time.sleep(0.05)
print("reaped", not os.path.exists("/proc/" + orphan))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_CHILD_SUBREAPER")
def test_orphans_of_a_plain_command_are_reaped_as_a_first_process_must(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(ORPHAN)
    # As in a pod, orphans come to the first process: prctl(2), kept over exec.
    adopt = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
    adopt += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    result = subprocess.run(
        [sys.executable, "-c", adopt, bootstrap.__file__, "--no-torchrun", str(tmp_path / "a.py")],
        env={**os.environ, **CONTRACT, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "r")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "reaped True\n"), result.stderr


# --- images made for root -------------------------------------------------------------------------

HOME_PROBE = f"""{AS_IN_A_POD}
import getpass, os, tempfile
from kij_train.pod import environment
environment.writable_home(sys.argv[2])
open(os.path.expanduser("~/x"), "w").close()
tempfile.NamedTemporaryFile().close()
print(os.environ["HOME"], getpass.getuser())
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root changes its user")
def test_a_user_without_name_or_home_gets_both(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Outside of pytest's own folders, which other users may not enter.
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o777)  # noqa: PTH101 - a volume of a pod is open to its user
        for file in pod.BESIDE:
            shutil.copy(file, scratch)
        result = subprocess.run(
            ["/usr/bin/env", "python3", "-c", HOME_PROBE, scratch, scratch],
            env={"PATH": "/usr/bin:/bin", "HOME": "/root"},
            user=12345,
            group=12345,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{scratch}/home uid-12345\n"


# --- settings of a fabric -------------------------------------------------------------------------


def test_a_settings_script_fills_in_and_never_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "set env.sh"
    script.write_text("echo noise\nexport NCCL_TESTED=a\\ b NCCL_OURS=theirs\nNOT_EXPORTED=1\n")
    monkeypatch.setenv("NCCL_OURS", "ours")
    monkeypatch.delenv("NCCL_TESTED", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    environment.source_settings(str(script))
    assert (os.environ["NCCL_TESTED"], os.environ["NCCL_OURS"]) == ("a b", "ours")
    assert "NOT_EXPORTED" not in os.environ
    out, err = capfd.readouterr()
    assert out == ""
    assert "NCCL_TESTED" in err


def test_a_settings_script_that_fails_ends_the_node(tmp_path: Path) -> None:
    with pytest.raises(contract.Failure, match="cannot source /none"):
        environment.source_settings("/none")


def test_no_variable_of_the_contract_is_also_a_users_setting() -> None:
    ours = {value for name, value in vars(contract).items() if name.startswith("ENV_")}
    assert not ours & {f"KIJ_{field.upper()}" for field in JobSpec.model_fields}
