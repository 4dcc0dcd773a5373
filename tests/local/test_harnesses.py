"""lm-eval, promptfoo, DeepEval and RAGAS under `kij-train eval --local`, offline, on CPU.

`nox -s harnesses` installs them and runs this; elsewhere it is skipped, harness by harness. It says
in KIJ_HARNESSES which ones have to be there, whose tests are not skipped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.harnesses, pytest.mark.timeout(1800)]
EXAMPLES = Path(__file__).parents[2] / "train_examples/evaluation"
OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
LM_EVAL = ("lm_eval_shard.py", "--tasks", "carries", "--include_path", "tasks")
MODEL = ("--model_args", "pretrained=tiny")


REQUIRED = os.environ.get("KIJ_HARNESSES", "").split(",")


def needs(harness: str) -> pytest.MarkDecorator:
    there = shutil.which(harness) or importlib.util.find_spec(harness)
    skipped = not there and harness not in REQUIRED
    return pytest.mark.skipif(skipped, reason=f"needs {harness}: nox -s harnesses")


def python(folder: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env={**os.environ, **OFFLINE, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def evaluated(
    folder: Path, data: str, *argv: str, shards: int = 2
) -> subprocess.CompletedProcess[str]:
    name = f"e{shards}"
    where = ("--local", "--name", name, "--replace", "--data", data, "--shards", str(shards))
    return python(folder, "-m", "kij_train", "eval", *where, *argv)


def results(folder: Path, shards: int = 2) -> str:
    return python(folder, "-m", "kij_train", "results", f"e{shards}").stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness") / "project"
    shutil.copytree(EXAMPLES, folder)
    return folder


@pytest.fixture(scope="module")
def documents(project: Path) -> Path:
    """The folder of the examples, with a model, and the documents of the task listed."""
    made = python(project, "tiny_model.py", "tiny")
    assert made.returncode == 0, made.stderr
    listed = python(project, *LM_EVAL[:1], "list", *LM_EVAL[1:])
    assert listed.returncode == 0, listed.stderr
    (project / "documents.jsonl").write_text(listed.stdout)
    return project


ONE_PROCESS = """
import json, lm_eval
from lm_eval.tasks import TaskManager
found = lm_eval.simple_evaluate(model="hf", model_args="pretrained=tiny", tasks=["carries"],
    batch_size="1", device="cpu", task_manager=TaskManager(include_path="tasks"), bootstrap_iters=0)
named = {name.partition(",")[0]: value for name, value in found["results"]["carries"].items()}
print(json.dumps({name: named[name] for name in ("acc", "f1")}))
"""


@needs("lm_eval")
def test_lm_eval_has_the_figures_of_one_process_from_any_number_of_shards(documents: Path) -> None:
    alone = python(documents, "-c", ONE_PROCESS)
    assert alone.returncode == 0, alone.stderr
    wanted = json.loads(alone.stdout.splitlines()[-1])
    # In any order, though lm-eval takes its samples in theirs; and of a task without samples in
    # the shard, none, though lm-eval takes none for all.
    lines = (documents / "documents.jsonl").read_text().splitlines(keepends=True)
    (documents / "turned.jsonl").write_text("".join(reversed(lines)))
    task = (documents / "tasks/carries.yaml").read_text()
    (documents / "tasks/unused.yaml").write_text(task.replace("task: carries", "task: unused"))
    for shards, data, tasks in (
        (1, "documents.jsonl", "carries"),
        (3, "turned.jsonl", "carries"),
        (7, "documents.jsonl", "carries,unused"),
    ):
        argv = ("--gate", "acc >= 0.1", *LM_EVAL, *MODEL, "--tasks", tasks)
        done = evaluated(documents, data, *argv, shards=shards)
        assert done.returncode == 0, done.stderr
        (documents / "results.jsonl").write_text(results(documents, shards))
        joined = python(documents, LM_EVAL[0], "aggregate", "results.jsonl", *LM_EVAL[1:])
        assert joined.returncode == 0, joined.stderr
        assert json.loads(joined.stdout) == {"carries": wanted}


@needs("lm_eval")
def test_a_metric_of_all_documents_together_is_no_mean_and_fails_a_gate(documents: Path) -> None:
    done = evaluated(documents, "documents.jsonl", "--gate", "f1 >= 0.1", *LM_EVAL, *MODEL)
    assert done.returncode == 1
    assert "no result has the metric f1" in done.stderr


@needs("lm_eval")
def test_few_shot_examples_that_depend_on_the_shard_are_refused(documents: Path) -> None:
    task = (documents / "tasks/carries.yaml").read_text()
    for sampler, refused in (("default", True), ("first_n", False)):
        few = documents / "few"
        few.mkdir(exist_ok=True)
        config = f"fewshot_split: train\nfewshot_config:\n  sampler: {sampler}\n"
        (few / "few.yaml").write_text(task.replace("task: carries", "task: few") + config)
        argv = ("lm_eval_shard.py", "list", "--tasks", "few", "--include_path", "few")
        done = python(documents, *argv, "--num_fewshot", "2")
        assert (done.returncode != 0) is refused, done.stderr
        assert ("few-shot examples are drawn anew for each document" in done.stderr) is refused


@needs("lm_eval")
def test_what_would_break_shards_is_no_option(project: Path) -> None:
    flags = ("--cache_requests", "--use_cache", "--limit", "--samples")
    done = python(project, *LM_EVAL, *flags)
    assert done.returncode == 2
    assert f"unrecognized arguments: {' '.join(flags)}" in done.stderr


@needs("lm_eval")
def test_documents_that_have_changed_since_they_were_listed_are_refused(documents: Path) -> None:
    changed = (documents / "documents.jsonl").read_text().replace("carries?", "carry?")
    (documents / "changed.jsonl").write_text(changed)
    done = evaluated(documents, "changed.jsonl", *LM_EVAL, *MODEL)
    assert done.returncode == 1
    assert "is another document than when --data was listed" in done.stdout + done.stderr


@needs("promptfoo")
def test_promptfoo_runs_each_test_in_one_shard(project: Path) -> None:
    found = []
    for shards in (1, 3):
        argv = ("--gate", "success >= 0.5", "promptfoo_shard.py", "-c", "promptfoo.yaml")
        done = evaluated(project, "tests.jsonl", *argv, shards=shards)
        assert done.returncode == 0, done.stdout + done.stderr
        records = [json.loads(line) for line in results(project, shards).splitlines()]
        found.append([(one["id"], one["success"], one["output"]) for one in records])
    assert found[0] == found[1]
    assert len(found[0]) == 40
    assert {success for _, success, _ in found[0]} == {True, False}


@needs("promptfoo")
def test_a_test_whose_provider_fails_is_no_wrong_answer_but_a_missing_one(project: Path) -> None:
    (project / "bad.yaml").write_text('prompts: ["{{a}}"]\nproviders: ["file://bad.js"]\n')
    (project / "bad.js").write_text(
        "module.exports = class { id() { return 'bad'; } "
        "async callApi() { return { error: 'no such model' }; } };"
    )
    argv = ("--gate", "success >= 0", "promptfoo_shard.py", "-c", "bad.yaml")
    done = evaluated(project, "tests.jsonl", *argv)
    assert done.returncode == 1
    assert "not every id was evaluated: 40 failed of 40" in done.stderr


@pytest.mark.parametrize(
    "harness", [pytest.param(n, marks=needs(n)) for n in ("deepeval", "ragas")]
)
def test_a_judge_scores_every_example(project: Path, harness: str) -> None:
    done = evaluated(project, "sums.jsonl", "--gate", "correct >= 0.5", f"{harness}_shard.py")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in results(project).splitlines()]
    assert sum(bool(one["correct"]) for one in records) == 339
    assert len(records) == 400
