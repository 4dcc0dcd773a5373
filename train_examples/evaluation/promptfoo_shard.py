"""promptfoo in shards: each runs its own tests, with your configuration as it is.

    cd train_examples/evaluation
    kij-train eval --local --data tests.jsonl --shards 2 --gate 'success >= 0.5' \\
        promptfoo_shard.py -c promptfoo.yaml

--data has a test of promptfoo a line, with an "id": {"id": "t1", "vars": {…}, "assert": […]}. All
arguments are those of `promptfoo eval`. Records: `success`, `score`, and the named scores.
promptfoo keeps a database and a cache; each index has its own: they are not made to be shared.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

FAILED_TESTS = 100
"""promptfoo's exit code where a test has failed: a result like any other."""
OURS = ("-t", "--tests", "-o", "--output", "--repeat", "--share")

program = shutil.which("promptfoo")
if program is None:
    sys.exit("there is no promptfoo: npm install --global promptfoo")
taken = [word for word in sys.argv[1:] if word.startswith(OURS)]
if taken:
    sys.exit(f"{taken[0]}: tests come from --data of kij-train eval, and results go to it")
with open(os.environ["KIJ_ITEMS_FILE"]) as file:
    tests = [json.loads(line)["item"] for line in file]
folder = Path(os.environ["KIJ_RUN_DIR"], "promptfoo").absolute()
folder.mkdir(exist_ok=True)
results = folder / "results.json"
results.unlink(missing_ok=True)
for test in tests:
    test["metadata"] = {**test.get("metadata", {}), "kij_id": test.pop("id")}
(folder / "tests.json").write_text(json.dumps(tests))
done = subprocess.run(
    [
        *(program, "eval", *sys.argv[1:], "--no-cache", "--no-table", "--no-share"),
        *("--tests", str(folder / "tests.json"), "--output", str(results)),
    ],
    env={
        **os.environ,
        "PROMPTFOO_CONFIG_DIR": str(folder),
        "PROMPTFOO_DISABLE_TELEMETRY": "1",
        "PROMPTFOO_DISABLE_UPDATE": "1",
    },
    check=False,
)
if done.returncode not in (0, FAILED_TESTS) or not results.exists():
    sys.exit(done.returncode or 1)
found = json.loads(results.read_text())["results"]["results"]
errors = []
if len({(one["promptIdx"], one["provider"]["id"]) for one in found}) > 1:
    sys.exit("several prompts or providers: a configuration for each of them")
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    for one in found:
        name = one["testCase"]["metadata"]["kij_id"]
        said = (one.get("response") or {}).get("output")
        if said is None:  # the provider has failed: no answer is no wrong answer
            errors.append(f"{name}: {one.get('error') or 'no output'}")
            continue
        record = {"id": name, "success": one["success"], "score": one["score"]}
        scores = {key: value for key, value in one["namedScores"].items() if key not in record}
        print(json.dumps({**record, **scores, "output": str(said)[:500]}), file=file)
if errors:
    sys.exit(f"{len(errors)} tests have no result; {errors[0]}")
