"""lm-eval in one process, and in four indexes of this machine: how long, and the same figures.

    nox -s "harnesses(lm-eval)" && .nox/harnesses-lm-eval/bin/python benchmarks/harness.py

Each process has one thread, as a pod with one core. The model is of random numbers, and large
enough that starting does not count for all; where there are fewer cores than indexes, the speed-up
is bound by the cores. The two ways are run in turn, and the figures must be identical.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "train_examples/evaluation"
SHARDS = 4
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
TASKS = ("--tasks", "carries", "--include_path", "tasks")
ONE_PROCESS = """\
import json, lm_eval
from lm_eval.tasks import TaskManager
found = lm_eval.simple_evaluate(model="hf", model_args="pretrained=model", tasks=["carries"],
    batch_size="1", device="cpu", task_manager=TaskManager(include_path="tasks"), bootstrap_iters=0)
named = {name.partition(",")[0]: value for name, value in found["results"]["carries"].items()}
print(json.dumps({"carries": {name: named[name] for name in ("acc", "f1")}}))
"""


def run(folder: Path, *argv: str) -> tuple[float, str]:
    """Seconds of a command, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *argv], cwd=folder, env=ENV, check=True, capture_output=True, text=True
    )
    return time.perf_counter() - started, done.stdout


def main() -> int:
    """Print and keep what was measured; 1 where the figures differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/harness.json")
    arguments = parser.parse_args()
    alone, sharded = [], []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "project"
        shutil.copytree(EXAMPLES, folder)
        numbers = range(arguments.documents)
        lines = [{"question": f"{n}+{n * 7} carries?", "answer": n % 2} for n in numbers]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "tasks/carries.jsonl").write_text(text)
        run(folder, "tiny_model.py", "model", str(arguments.width), str(arguments.layers))
        _, listed = run(folder, "lm_eval_shard.py", "list", *TASKS)
        (folder / "documents.jsonl").write_text(listed)
        where = ("--local", "--name", "e", "--replace", "--parallelism", str(SHARDS))
        data = ("--data", "documents.jsonl", "--shards", str(SHARDS))
        argv = ("-m", "kij_train", "eval", *where, *data, "lm_eval_shard.py", *TASKS)
        for _ in range(arguments.runs):
            seconds, said = run(folder, "-c", ONE_PROCESS)
            alone.append(seconds)
            seconds, _ = run(folder, *argv, "--model_args", "pretrained=model")
            sharded.append(seconds)
            _, results = run(folder, "-m", "kij_train", "results", "e")
            (folder / "results.jsonl").write_text(results)
            _, joined = run(folder, "lm_eval_shard.py", "aggregate", "results.jsonl", *TASKS)
            one, four = json.loads(said.splitlines()[-1]), json.loads(joined)
            print(f"alone {alone[-1]:.1f} s, {SHARDS} indexes {sharded[-1]:.1f} s; {one} {four}")
            if one != four:
                return 1
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": "benchmarks/harness.py",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "documents": arguments.documents,
        "indexes": SHARDS,
        "one_process_s": alone,
        "indexes_s": sharded,
        "speed_up": statistics.median(alone) / statistics.median(sharded),
        "figures_of_both": one,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"speed-up: {report['speed_up']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
