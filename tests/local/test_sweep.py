"""`kij-train sweep --local` and `eval --local`: trials, what was best, and verdicts."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest

from tests.commandline import run as kij
from tests.kube import ROOT

TRIAL = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--batch", type=int)
parser.add_argument("--steps", type=int)
a = parser.parse_args()
if a.batch == 64:
    raise MemoryError("too large")
print("loss of nothing, loss 9.0")
print("loss", float("nan") if a.batch == 32 else a.lr * a.steps + a.batch)
"""
HYDRA = """
import json, os, sys
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    print(json.dumps({"said": sys.argv[1:], "score": int(os.environ["KIJ_SEED"])}), file=file)
"""
SCORE = """
import json, os
with open(os.environ["KIJ_ITEMS_FILE"]) as items, open(os.environ["KIJ_RESULT_FILE"], "a") as out:
    for line in items:
        example = json.loads(line)["item"]
        if example["id"] == os.environ.get("DIES_AT"):
            raise SystemExit(3)
        right = example["n"] % 10 < int(os.environ.get("RIGHT", "9"))
        found = {"id": example["id"], "accuracy": right, "f1": example["n"] / 1000}
        print(json.dumps(found), file=out)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("trial.py", TRIAL), ("hydra.py", HYDRA), ("score.py", SCORE)):
        (tmp_path / name).write_text(text)
    lines = [json.dumps({"id": f"q{n}", "n": n}) for n in range(300)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def swept(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return kij(folder, "sweep", "--local", "--name", "s", *argv)


METRIC = ("--metric", r"loss=loss (\S+)", "--min", "loss")


def test_a_sweep_tells_its_best_point_and_the_command_of_it(project: Path) -> None:
    done = swept(
        project, "-p", "lr=1e-3,0.5", "-p", "batch=8,16", *METRIC, "trial.py", "--steps", "2"
    )
    assert done.returncode == 0, done.stderr
    assert "best: batch=8,lr=0.001  loss 8.002" in done.stderr
    assert "its command: python trial.py --steps 2 --lr 0.001 --batch 8\n" in done.stderr
    rows = list(csv.DictReader(io.StringIO(kij(project, "results", "s", "--format", "csv").stdout)))
    assert [(row["lr"], row["batch"], row["loss"]) for row in rows] == [
        ("0.001", "8", "8.002"),
        ("0.001", "16", "16.002"),
        ("0.5", "8", "9.0"),
        ("0.5", "16", "17.0"),
    ]
    assert all(int(row["seed"]) for row in rows)
    told = json.loads(kij(project, "report", "s", "--format", "json").stdout)["sweep"]
    assert told["best"]["parameters"] == {"lr": 0.001, "batch": 8}
    assert [effect["parameter"] for effect in told["effects"]] == ["batch", "lr"]
    page = kij(project, "report", "s", "--format", "html").stdout
    assert "data:image/svg+xml;base64," in page
    assert kij(project, "report", "s", "--plot", "p.png").returncode == 0
    assert (project / "p.svg").exists()


def test_trials_that_fail_or_have_no_number_are_told_and_never_the_best(project: Path) -> None:
    done = swept(project, "-p", "batch=64,32,8", *METRIC, "trial.py", "--lr", "1", "--steps", "1")
    assert done.returncode == 1
    assert "best: batch=8  loss 9" in done.stderr
    told = json.loads(kij(project, "report", "s", "--format", "json").stdout)["sweep"]
    lacks = {one["key"]: (one["nan"], one["failed"]) for one in told["points"]}
    assert lacks == {"batch=8": (0, 0), "batch=32": (1, 0), "batch=64": (0, 1)}


def test_a_metric_that_no_trial_has_names_those_that_there_are(project: Path) -> None:
    done = swept(project, "-p", "x=1,2", "--style", "hydra", "--max", "scor", "hydra.py")
    assert done.returncode == 1
    assert "--max scor: no result has the metric scor; did you mean score?" in done.stderr
    assert kij(project, "report", "s", "--max", "score").returncode == 0
    both = kij(project, "report", "s", "--max", "score", "--min", "score")
    assert (both.returncode, "--min and --max conflict" in both.stderr) == (2, True)


def test_hydra_gets_overrides_and_more_repeats_change_no_seed(project: Path) -> None:
    seeds = []
    for repeat in (1, 2):
        argv = ("--repeat", str(repeat), "-p", "opt.lr=1e-3", "-p", "+name=a b", "--style", "hydra")
        done = swept(project, *argv, "--max", "score", "--replace", "hydra.py", "debug=true")
        assert done.returncode == 0, done.stderr
        lines = kij(project, "results", "s").stdout.splitlines()
        records = {one["key"]: one for one in map(json.loads, lines)}
        assert len(records) == repeat
        [first, *_] = records.values()
        assert first["said"] == ["debug=true", "opt.lr=0.001", "+name='a b'"]
        seeds.append(first["score"])
        assert len({one["seed"] for one in records.values()}) == repeat
    assert seeds[0] == seeds[1]


@pytest.mark.parametrize("size", [["--nproc-per-node", "2"], ["--nodes", "2"]])
def test_a_trial_may_have_several_ranks_and_the_example_gives_its_loss(
    tmp_path: Path, size: list[str]
) -> None:
    script = str(ROOT / "train_examples/char_gpt_ddp.py")
    axis = ("-p", "lr=1e-3,1e-9", "--min", "loss")
    where = (*axis, "--code-dir", str(ROOT), *size)
    done = swept(tmp_path, *where, script, "--steps", "2", "--width", "16", "--sample", "0")
    assert done.returncode == 0, done.stderr
    assert "best: lr=0.001  loss 4." in done.stderr


NODES = """
import json, os, sys
import torch.distributed as dist
dist.init_process_group("gloo")
where = (os.environ["NODE_RANK"], dist.get_rank(), dist.get_world_size())
if os.environ["NODE_RANK"] == "1" and "9" in sys.argv:
    raise ValueError("nine is out")
dist.barrier()
if dist.get_rank() == 0:
    with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
        print(json.dumps({"loss": 1, "where": where}), file=file)
dist.destroy_process_group()
"""


def test_trials_of_several_nodes_are_one_record_each_with_the_cause_of_the_node_that_failed(
    project: Path,
) -> None:
    (project / "nodes.py").write_text(NODES)
    done = swept(project, "-p", "x=1,9", "--nodes", "2", "--min", "loss", "nodes.py")
    assert done.returncode == 1
    assert "2 nodes a trial" in done.stderr
    lines = kij(project, "results", "s").stdout.splitlines()
    well, bad = map(json.loads, lines)
    assert (well["x"], well["where"]) == (1, ["0", 0, 2])
    assert bad["error"] == "ValueError: nine is out"
    gpus = swept(project, "-p", "x=1", "--nodes", "2", "--gpus", "1", "--replace", "nodes.py")
    assert gpus.returncode == 2
    assert "the nodes would share those of this machine" in gpus.stderr


def evaluated(folder: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = (
        "eval",
        "--local",
        "--name",
        "e",
        "--replace",
        "--data",
        "data.jsonl",
        *argv,
        "score.py",
    )
    return kij(folder, *argv, **env)


def evaluation(folder: Path) -> dict[str, object]:
    text = kij(folder, "report", "e", "--format", "json").stdout
    found: dict[str, object] = json.loads(text)["evaluation"]
    return found


def test_any_number_of_shards_gives_the_same_figures(project: Path) -> None:
    found = []
    for shards in ("1", "3", "7"):
        done = evaluated(project, "--shards", shards, "--gate", "accuracy >= 0.8")
        assert done.returncode == 0, done.stderr
        found.append(evaluation(project))
    assert found[0] == found[1] == found[2]
    assert found[0]["verdict"] == "pass"


@pytest.mark.parametrize(
    ("gate", "code", "verdict"),
    [("accuracy >= 0.95", 1, "fail"), ("accuracy >= 0.9", 6, "undecided"), ("acc >= 0", 1, "fail")],
)
def test_gates_fail_or_cannot_tell(project: Path, gate: str, code: int, verdict: str) -> None:
    done = evaluated(project, "--shards", "2", "--gate", gate)
    assert (done.returncode, evaluation(project)["verdict"]) == (code, verdict)


def test_the_example_passes_against_its_baseline_and_fails_where_it_forgets_more(
    tmp_path: Path,
) -> None:
    folder = ROOT / "train_examples/evaluation"
    data = ("--data", str(folder / "sums.jsonl"), "--baseline", str(folder / "baseline.jsonl"))
    where = ("--name", "sums", "--replace", "--code-dir", str(folder))
    gate = ("--shards", "4", "--gate", "accuracy drop <= 0.02")
    argv = ("eval", "--local", *where, *data, *gate, "score_sums.py")
    done = kij(tmp_path, *argv)
    assert (done.returncode, "pass: 1 gate on 400 ids" in done.stderr) == (0, True), done.stderr
    fell = kij(tmp_path, *argv, "--forget", "5")
    assert fell.returncode == 1
    assert "drop of accuracy is 0.08" in fell.stderr


def test_a_shard_that_died_fails_the_gate_until_it_is_run_again(project: Path) -> None:
    argv = ("--shards", "3", "--gate", "accuracy >= 0.1")
    done = evaluated(project, *argv, DIES_AT="q150")
    assert done.returncode == 1
    assert "not every id was evaluated: 250 done, 50 failed of 300" in done.stderr
    text = kij(project, "report", "e", "--format", "markdown").stdout
    first, _, third, *_ = text.splitlines()
    assert first.startswith("## ❌ e: fail: not every id was evaluated")
    assert third == "failed in index 1 · `kij-train rerun e --failed`"
    assert "kij-train replay e --key q150" in text
    tests = kij(project, "report", "e", "--format", "junit").stdout
    assert 'testcase classname="e.gates" name="every id is evaluated"><failure type="fail"' in tests
    again = kij(project, "rerun", "e", "--failed")
    assert again.returncode == 0, again.stderr
    assert "pass: 1 gate on 300 ids" in again.stderr


def test_a_baseline_is_compared_id_by_id(project: Path) -> None:
    assert evaluated(project).returncode == 0
    (project / "main.jsonl").write_text(kij(project, "results", "e").stdout)
    argv = ("--baseline", "main.jsonl", "--gate", "accuracy drop <= 0.05")
    assert evaluated(project, *argv, "--shards", "2").returncode == 0
    fell = evaluated(project, *argv, RIGHT="7")
    assert fell.returncode == 1
    assert "drop of accuracy is 0.2" in fell.stderr
    (project / "main.jsonl").write_text('{"id": "q0", "accuracy": 1}\n')
    other = evaluated(project, *argv)
    assert other.returncode == 2
    assert "--baseline main.jsonl is of other data: it lacks 299 of the data's" in other.stderr


def test_a_self_check_tells_the_noise(project: Path) -> None:
    done = evaluated(project, "--self-check")
    assert done.returncode == 0, done.stderr
    assert "the two runs have the same values for every id" in done.stderr
