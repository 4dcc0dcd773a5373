"""What users put in front of a script."""

from __future__ import annotations

import pytest
from kij_train.cli.app import run as run_app
from kij_train.foreign import of_module, translated
from pytest import CaptureFixture

TRANSLATED = [
    ("python train.py --lr 3", "train.py --lr 3", ""),
    ("/usr/bin/python3.11 -u -X dev -m pkg.train a", "-m pkg.train a", "-X dev"),
    ("python -c x", "--no-python python -c x", ""),
    ("torchrun train.py", "train.py", ""),
    ("torchrun --nproc-per-node 2 train.py", "--nproc-per-node 2 train.py", ""),
    ("torchrun --nproc_per_node=gpu -m pkg -m", "--nproc-per-node gpu -m pkg -m", ""),
    ("torchrun --nproc 2 --standalone -t 3 train.py", "--nproc-per-node 2 train.py", "-t 3"),
    (
        "torchrun --nnodes=2 --node-rank 0 --rdzv-backend c10d --rdzv_endpoint h:1 a.py --nnodes 4",
        "--nodes 2 a.py --nnodes 4",
        "",
    ),
    ("torchrun --nnodes 1:4 a.py", "--nodes 3:4 --restart elastic a.py", ""),
    ("torchrun --max-restarts 2 a.py", "--max-restarts 2 --restart gang a.py", ""),
    ("torchrun --max-restarts 0 --no-python ./x.sh y", "--no-python ./x.sh y", ""),
    ("torchrun --nproc-per-node= a.py", "a.py", ""),
    (
        "python -m torch.distributed.launch --use_env --nproc_per_node 2 a.py",
        "--nproc-per-node 2 a.py",
        "",
    ),
    (
        "accelerate launch --multi_gpu --num_processes 8 --num_machines 2 --mixed_precision no a",
        "--nodes 2 --nproc-per-node 4 a",
        "--mixed_precision no",
    ),
    ("accelerate launch -m pkg", "-m pkg", ""),
    (
        "deepspeed --num_gpus=8 --hostfile h a.py --deepspeed c",
        "--nproc-per-node 8 a.py --deepspeed c",
        "",
    ),
    ("mpirun -np 4 -H a,b python -u a.py", "--nproc-per-node 4 a.py", "-H a,b"),
    ("srun -N2 -n 8 python a.py", "--nodes 2 --nproc-per-node 4 a.py", ""),
    ("bash run.sh x", "--no-python bash run.sh x", ""),
    ("uv run --with torch a.py", "a.py", "--with torch"),
    ("A=1 python a.py", "--env A=1 a.py", ""),
    ("timeout 3 python a.py", "a.py", "3"),
    ("coverage run a.py x", "a.py x", ""),
    ("coverage run -m pkg.train x", "-m pkg.train x", ""),
    ("numactl -m 0 python a.py", "a.py", "-m 0"),
    ("timeout 3 ./run.sh x", "--no-python ./run.sh x", "3"),
    ("uv run --with pytest a.py", "a.py", "--with pytest"),
    ("poetry run pytest x", "--no-python pytest x", ""),
    ("pytest x", "--no-python pytest x", ""),
    ("env A=1 B=2 torchrun a.py", "--env A=1 --env B=2 a.py", ""),
]


@pytest.mark.parametrize(("line", "ours", "left_out"), TRANSLATED)
def test_another_launchers_words_become_ours(line: str, ours: str, left_out: str) -> None:
    found = translated(line.split())
    assert found is not None
    assert " ".join([*found.flags, *found.words]) == ours
    assert " ".join(found.left_out) == left_out


@pytest.mark.parametrize("flag", ["--nnodes=x", "--nproc_per_node -2", "--max-restarts 1.5"])
def test_a_value_that_is_no_number_is_named(flag: str) -> None:
    found = translated(f"torchrun {flag} a.py".split())
    assert found is not None
    assert (found.words, found.flags, found.refused) == (("a.py",), (), (flag,))


@pytest.mark.parametrize("line", ["train.py", "./run.sh", "torchrunner", "mypython/train.py", "x"])
def test_a_script_is_no_launcher(line: str) -> None:
    assert translated(line.split()) is None
    assert of_module(line, ()) is None


@pytest.mark.parametrize(
    "line", ["python", "torchrun", "accelerate config", "env A=1", "mpirun -n 2"]
)
def test_a_launcher_without_a_script_has_nothing_to_run(line: str) -> None:
    found = translated(line.split())
    assert found is not None
    assert found.words == ()


def test_a_launcher_as_a_command_is_told_too(capsys: CaptureFixture[str]) -> None:
    assert run_app(["torchrun", "--nproc-per-node", "2", "train.py"]) == 2
    said = "Did you mean: kij-train launch --nproc-per-node 2 train.py"
    assert said in capsys.readouterr().err
