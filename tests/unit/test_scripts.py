"""What is no script, and what cannot be run as a program."""

from __future__ import annotations

import json
import py_compile
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from kij_train.cli.app import run as run_app
from kij_train.errors import RequestError
from kij_train.local import with_counted_ranks
from kij_train.pod import contract, programs, torchrun
from kij_train.spec import JobSpec

FILES = {
    "train.py": b"import sys\r\n",
    "train": b"#!/usr/bin/env python3\nprint(1)\n",
    "plain": b"print(1)\n",
    "polyglot": b"#!/bin/sh\n'''exec' python3 \"$0\" \"$@\"\n' '''\n",
    "new.py": b"a syntax of the day after tomorrow\n",
    "nb.ipynb": b'{"cells": []}',
    "sub/nb.ipynb": b'{"cells": []}',
    "job.yaml": b"nodes: 2\n",
    "run.sh": b"echo hi\n",
    "run": b"#!/bin/bash\necho hi\n",
    "sub/run": b"#! /usr/bin/env bash\necho hi\n",
    "words": b"this is no Python\n",
    "elf": b"\x7fELF\0\0\0",
    "crlf.sh": b"#!/bin/bash -e\r\necho hi\r\n",
    "env-crlf.sh": b"#!/usr/bin/env python3\r\n",
    "bom.sh": b"\xef\xbb\xbf#!/bin/sh\n",
    "no-interpreter.sh": b"#!/no/such/bash\n",
    "no-env.sh": b"#!/usr/bin/env -S A=1 no-such-program -x\n",
    "empty.sh": b"#!\n",
    "app/__main__.py": b"print(1)\n",
    "folder/a.py": b"",
    "pkg/mod.py": b"",
    "both/py/py.py": b"",
    "both/py.py": b"",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "no-x").write_bytes(b"#!/bin/sh\n")
    for name, member in (("app.zip", "__main__.py"), ("model.pt", "data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, "print(1)")
    py_compile.compile(str(tmp_path / "train.py"), str(tmp_path / "train.pyc"))
    (tmp_path / "old.pyc").write_bytes(b"\x55\x0d\r\n" + bytes(12))
    (tmp_path / ".kijignore").write_text("!*.pyc\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


REFUSED = [
    ("nb.ipynb -x", "nb.ipynb is a notebook", "kij-train render --nodes 2 nb.py -x"),
    ("sub/nb.ipynb", "is a notebook", "jupyter nbconvert --to script sub/nb.ipynb"),
    ("--no-code /x/nb.ipynb", "is a notebook", "kij-train render --nodes 2 --no-code /x/nb.py"),
    ("job.yaml -x", "spec file is given with -f", "kij-train render --nodes 2 -f job.yaml -x"),
    ("run.sh a", "a script of a shell", "kij-train render --nodes 2 --no-python ./run.sh a"),
    ("--no-code /x/run.sh", "a script of a shell", "--no-code --no-python /x/run.sh"),
    ("run", "its first line is #!/bin/bash", "render --nodes 2 --no-torchrun --no-python ./run"),
    ("./sub/run", "its first line is #! /usr/bin/env bash", "--no-python sub/run"),
    ("no-x", "its first line is #!/bin/sh", "--no-python bash no-x"),
    ("words", "words is no Python: line 1: invalid syntax", "--no-python ./words"),
    ("elf", "elf is no Python: it holds no text", "--no-python ./elf"),
    ("model.pt", "model.pt is no Python: it is an archive without __main__.py", ""),
    ("folder", "script folder: is a folder without __main__.py", ""),
    ("python train.py", "Leave it out", "  kij-train render --nodes 2 train.py\n"),
    ("torchrun --nnodes 4 --nproc-per-node 8 a.py", "", "render --nodes 2 --nproc-per-node 8 a.py"),
    ("torchrun --nproc-per-node 8 a.py", "the ranks itself", "on GPUs: --gpus 8 in its place"),
    ("torchrun --tee 3 a.py", "torchrun is no script", "without a counterpart: --tee 3"),
    ("torchrun --nnodes=x a.py", "torchrun is no script", "no number: --nnodes=x"),
    (f"{sys.executable} train.py", "no script of Python. Leave it out", " --nodes 2 train.py\n"),
    ("timeout 3 python train.py", "timeout is no script", " --nodes 2 train.py\n"),
    ("-m train.py -x", "-m train.py is a file", "render --nodes 2 -m train -x\n"),
    (
        "-m pkg.mod.py",
        "-m pkg.mod.py is a file",
        "as a script: kij-train render --nodes 2 pkg/mod.py",
    ),
    ("--no-python .", "is a folder, which cannot be run", ""),
    ("/dev/null", "script /dev/null: is no regular file", ""),
    ("~/x.py", "script ~/x.py: no such file", 'write "$HOME/x.py"'),
    ("--code-dir ~/x train.py", "--code-dir: ", 'write "$HOME/x"'),
    ("--no-python ~/x", "program ~/x: no such file", 'write "$HOME/x"'),
    ("-f ~/x.yaml", "cannot read ~/x.yaml", 'write "$HOME/x.yaml"'),
    (f"--image a {'x' * 5000}", f"script {'x' * 80}… is too long: a path", ""),
    (f"--code-dir={'x' * 5000} train.py", f"--code-dir {'x' * 80}… is too long: a path", ""),
    (f"--no-python bash {'x' * 5000}", f"the argument {'x' * 80}…: File name too long", ""),
    (f"{'x/' * 2040}x.py", f"script {'x/' * 40}…: File name too long", ""),
    ("torchrun a.py", "", "--no-torchrun --no-python torchrun a.py"),
    ("-m torch.distributed.run a.py", "-m torch.distributed.run is no", "render --nodes 2 a.py\n"),
    ("--no-code accelerate launch a.py", "accelerate is no", "render --nodes 2 --no-code a.py\n"),
    ("bash run.sh", "A program is run", "render --nodes 2 --no-python bash run.sh\n"),
    ("torchrun", "none is named behind it", "kij-train render --nodes 2 train.py"),
    ("--no-python ./crlf.sh", r"asks for '/bin/bash -e\r'", r"perl -pi -e 's/\r$//'"),
    ("--no-python ./env-crlf.sh", r"'/usr/bin/env python3\r' to run it", "perl"),
    ("--no-python bash crlf.sh", "crlf.sh: its lines end as on Windows", "perl"),
    ("--no-torchrun --no-python ./crlf.sh", "lines end as on Windows", "perl"),
    ("--no-python ./bom.sh", "a byte order mark", "perl"),
    ("--no-python ./run.sh", "it has no first line that says what runs it", "--no-python bash"),
    ("--no-python ./no-x", "program ./no-x: may not be run", "chmod +x"),
    ("--no-python ./nope", "program ./nope: no such file", "one of the image"),
    ("--nproc-per-node gpu train.py", "stands for the GPUs of a pod", "--gpus 8"),
    ("--nproc-per-node cpu train.py", "stands for the cores of a pod", "--cpu 8"),
    ("--nproc-per-node auto train.py", "for the GPUs, or else cores, of", "--gpus 8, or --cpu 8"),
    ("--nproc-per-node cpu --gpus 2 train.py", "conflicts with 2 GPUs a node", ""),
    ("--nproc-per-node 0 train.py", "at least 1, or gpu, cpu or auto", ""),
    ("--nproc-per-node all train.py", "at least 1, or gpu, cpu or auto", ""),
]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("line", "message", "hint"), REFUSED)
def test_what_cannot_be_run_is_refused_with_what_to_write(
    capsys: pytest.CaptureFixture[str], line: str, message: str, hint: str
) -> None:
    assert run_app(["render", "--nodes", "2", *line.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert hint in said.err


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("flag", ["-f", "--profile", "--code-dir", "--name", "--image", "--cpu"])
def test_a_flag_without_its_value_is_no_default(
    capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run_app(["render", flag, "", "train.py"]) == 2
    assert " is empty: is a variable unset?" in capsys.readouterr().err


TAKEN = [
    *("train.py", "train", "plain", "polyglot", "new.py", "app", "app.zip", "train.pyc"),
    *("--code-dir app .", "--code-dir app app", "--no-code /x/train", "--no-code ."),
    *("--no-python ./run", "--no-python ./elf", "--no-python ./no-env.sh", "--no-python python x"),
    "--code-dir both -m py.py",
    *("--no-python torchrun a.py", "--no-torchrun -m torch.distributed.run a.py"),
]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("line", TAKEN)
def test_what_can_be_run_is_taken(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """No interpreter is looked for: that of a pod is in its image."""
    code = run_app(["render", *line.split()])
    assert code == 0, capsys.readouterr().err


def test_a_compiled_script_is_said_to_hang_on_the_version(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    assert run_app(["render", "train.pyc"]) == 0
    assert "runs under the version of Python alone that compiled it" in capsys.readouterr().err
    assert run_app(["launch", "--local", "old.pyc"]) == 2
    assert "compiled by another version of Python" in capsys.readouterr().err
    (project / ".kijignore").unlink()
    assert run_app(["render", "train.pyc"]) == 2
    assert "bring it back: echo '!/train.pyc' >> .kijignore" in capsys.readouterr().err


def test_a_program_that_is_not_shipped_is_told(
    capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    (project / ".kijignore").write_text("run\n")
    assert run_app(["render", "--no-python", "./run"]) == 2
    assert "program run is left out of the code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("crlf.sh", "its lines end as on Windows"),
        (
            "no-interpreter.sh",
            "its first line asks for /no/such/bash to run it, which is not there",
        ),
        ("no-env.sh", "its first line asks for no-such-program to run it"),
        ("empty.sh", "its first line asks for nothing to run it"),
        ("run.sh", "it has no first line that says what runs it"),
        ("run", ""),
        ("elf", ""),
        ("no-such-file", ""),
    ],
)
def test_in_a_pod_a_missing_interpreter_is_named(project: Path, name: str, fault: str) -> None:
    assert programs.fault_of_program(str(project / name)).startswith(fault)
    assert bool(programs.fault_of_program(str(project / name))) == bool(fault)
    node = contract.Node(0, 1, 1, "localhost", 1, 1, 0)
    if fault:
        with pytest.raises(contract.Failure, match=r"cannot be run: it") as caught:
            torchrun.torchrun_args(node, ["--no-python", str(project / name)], "/logs")
        assert caught.value.exit_code == contract.EXIT_CODE


def environment(rendered: str) -> dict[str, str]:
    (job,) = (body for body in yaml.safe_load_all(rendered) if body["kind"] == "Job")
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return {each["name"]: each.get("value") for each in variables}


# --- how many ranks -------------------------------------------------------------------------------


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ("--nproc-per-node gpu --gpus 4", 4),
        ("--nproc-per-node auto --gpus 4 --cpu 9", 4),
        ("--nproc-per-node auto --cpu 3500m", 3),
        ("--nproc-per-node cpu --cpu 500m", 1),
        ("--nproc-per-node 7", 7),
    ],
)
def test_gpu_cpu_and_auto_count_what_a_pod_asks_for(
    capsys: pytest.CaptureFixture[str], flags: str, count: int
) -> None:
    assert run_app(["render", "--nodes", "2", *flags.split(), "train.py"]) == 0
    env = environment(capsys.readouterr().out)
    assert env["NPROC_PER_NODE"] == str(count)
    assert env["WORLD_SIZE"] == str(2 * count)


def test_on_this_machine_gpu_cpu_and_auto_count_what_it_has() -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4"}
    two = JobSpec(script="a", nodes=2, nproc_per_node="gpu")
    found = with_counted_ranks(two, gpus)
    assert (found.nproc_per_node, found.gpus, found.world_size) == (2, 2, 4)
    auto = two.model_copy(update={"nproc_per_node": "auto", "nodes": 1})
    assert with_counted_ranks(auto, gpus).ranks_per_node == 5
    none = {"CUDA_VISIBLE_DEVICES": ""}
    assert with_counted_ranks(auto, none).gpus is None
    assert with_counted_ranks(auto, none).ranks_per_node >= 1
    with pytest.raises(RequestError, match="gpu: this machine has 0 GPUs for 2 nodes"):
        with_counted_ranks(two, none)


def test_the_schema_knows_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["schema"]) == 0
    field = json.loads(capsys.readouterr().out)["properties"]["nproc_per_node"]
    assert {"enum": ["gpu", "cpu", "auto"], "type": "string"} in field["anyOf"]


# --- jobs that restart ----------------------------------------------------------------------------

GANG = "render --restart gang --nodes 2"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("flags", "is_warned"),
    [
        ("", True),
        ("--mount emptydir:/out", True),
        ("--mount pvc:data:/data:ro", True),
        ("--mount secret:s:/s --mount configmap:c:/c", True),
        ("--mount pvc:data:/data:ro --mount pvc:out:/out", False),
        ("--mount hostpath:/mnt/nfs:/out", False),
    ],
)
def test_a_job_that_restarts_without_a_shared_volume_is_warned_about_once(
    capsys: pytest.CaptureFixture[str], flags: str, is_warned: bool
) -> None:
    assert run_app([*GANG.split(), *flags.split(), "train.py"]) == 0
    said = capsys.readouterr()
    assert said.err.count("without a volume that all pods share") == is_warned
    assert said.err.count("--mount pvc:NAME:/checkpoints") == is_warned
    assert bool(json.loads(environment(said.out)["KIJ_GANG"])["shared"]) != is_warned


@pytest.mark.usefixtures("project")
def test_a_job_that_does_not_restart_is_not_warned_of_a_missing_volume(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_app(["render", "--nodes", "2", "train.py"]) == 0
    assert "volume" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text", "flags", "is_warned"),
    [
        ("a.md", "touch $KIJ_HEARTBEAT_FILE", "", True),
        ("a.py", 'os.environ["KIJ_HEARTBEAT_FILE"]', "", False),
        ("a.sh", "touch $KIJ_HEARTBEAT_FILE", "", False),
        ("a.py", "", "--heartbeat output", False),
        ("a.py", "", "--no-code", False),
    ],
)
def test_code_that_cannot_give_the_sign_of_life_is_warned_about(
    capsys: pytest.CaptureFixture[str],
    project: Path,
    file: str,
    text: str,
    flags: str,
    is_warned: bool,
) -> None:
    (project / file).write_text(text)
    line = f"{GANG} --hang-timeout 10m {flags} --mount pvc:out:/out train.py"
    assert run_app(line.split()) == 0
    err = capsys.readouterr().err
    assert ("which no file of the code in" in err) == is_warned
    assert ("--heartbeat output" in err) == is_warned
