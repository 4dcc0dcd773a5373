"""What sweeps and evaluations take, and how often a gate is right.

    python benchmarks/eval.py [--records 1000000] [--points 100000] [--out FOLDER]

Aggregation and planning run in processes of their own; their peak resident memory is what the
kernel counted. The power of gates is found by simulation, with the gates themselves: a baseline
that answers 80 % rightly, and a model that answers 10 % of the examples anew and has lost some
points. The table of docs/evaluations.md is this one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from kij_train.arrays import gates, plan, statistics
from kij_train.arrays.facts import About, Attempt, Where
from kij_train.arrays.gates import Verdict
from kij_train.arrays.items import Items
from kij_train.arrays.store import ArrayFolder

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - the repository is no package

LIMITS = {
    "aggregate": {"processor_seconds": 10.0, "peak_mib": 500.0},
    "grid": {"processor_seconds": 2.0},
}
"""Of one processor, so that a busy machine changes nothing."""
SHARDS = 100
SHARE, ANEW = 0.8, 0.1
DROPS = (0.0, 0.01, 0.03, 0.05)
EXAMPLES = (200, 1_000, 5_000)
GATES = ("accuracy drop <= 0", "accuracy drop <= 0.01")
RUNS = 2_000
"""Of the simulation."""

AGGREGATE = """\
import json, resource, sys, time
from pathlib import Path
from kij_train.arrays import gates, judged
from kij_train.arrays.store import ArrayFolder
folder = ArrayFolder.open(Path(sys.argv[1]), "big")
started, used = time.perf_counter(), time.process_time()
found = judged.evaluation_in(folder)
assert found.verdict is gates.Verdict.PASS, found.judged
print(json.dumps({"seconds": time.perf_counter() - started,
                  "processor_seconds": time.process_time() - used,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
GRID = """\
import json, resource, sys, time
from kij_train.arrays import plan
from kij_train.cli.sweep import trials_of
count = int(sys.argv[1])
started, used = time.perf_counter(), time.process_time()
items = trials_of(("lr=range(0,1,0.01)", f"batch=1..{count // 1000}", "opt=0..9"), None, None,
                  "random", 1, 0)
pinned = plan.pin(items, chunk=None, indexes=1000, seed=0)
assert pinned.items.total == count and pinned.packed
print(json.dumps({"seconds": time.perf_counter() - started,
                  "processor_seconds": time.process_time() - used,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measured(code: str, *argv: str) -> dict[str, float]:
    """What a program says of itself."""
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], check=True, capture_output=True, text=True, timeout=560
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def keep_evaluation(cwd: Path, count: int) -> None:
    """An evaluation of which every shard is done, in the folder of its results."""
    ids = [f"q{at:07d}" for at in range(count)]
    texts = [json.dumps({"id": name}) for name in ids]
    pinned = plan.pin(Items("data", ids, texts), chunk=None, indexes=SHARDS, seed=0)
    request = {"evaluate": True, "gates": ["accuracy >= 0.5", "f1 >= 0.4"]}
    about = About("big", Where(), request, str(cwd), "", pinned.sha256, "2026-01-01T00:00:00Z")
    folder = ArrayFolder.create(cwd, about, pinned.packed)
    folder.begin_attempt(Attempt(0, "big"))
    write_parts(folder.results_dir(0), count, SHARDS)


def write_parts(folder: Path, count: int, parts: int) -> None:
    """Records of an evaluation, as its pods leave them."""
    rng = np.random.default_rng(1)
    right, f1 = rng.random(count) < SHARE, rng.random(count)
    for part in range(parts):
        with (folder / f"part-{part:05d}.jsonl").open("w") as file:
            for at in range(part * count // parts, (part + 1) * count // parts):
                name = f"q{at:07d}"
                record = {"key": name, "index": part, "attempt": 0, "seconds": 0.01}
                record |= {"exit_code": 0, "machine": "m", "id": name}
                record |= {"accuracy": bool(right[at]), "f1": round(float(f1[at]), 4)}
                file.write(json.dumps(record, separators=(",", ":")) + "\n")


def power(drop: float, examples: int, texts: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """How often each gate says what, of a model that has lost so much."""
    rng = np.random.default_rng([int(drop * 1000), examples])
    wanted = [gates.parse_gate(text) for text in texts]
    found: dict[str, dict[str, float]] = {
        text: dict.fromkeys((verdict.value for verdict in Verdict), 0.0) for text in texts
    }
    ids = list(range(examples))
    for _ in range(RUNS):
        before = rng.random(examples) < SHARE
        anew = rng.random(examples) < ANEW
        now = np.where(anew, rng.random(examples) < SHARE, before)
        now &= rng.random(examples) >= drop / SHARE
        fell = statistics.difference(
            statistics.units_of(ids, before.tolist(), examples),
            statistics.units_of(ids, now.tolist(), examples),
        )
        for gate, text in zip(wanted, texts, strict=True):
            found[text][gates.verdict_of(gate, fell).value] += 1 / RUNS
    return found


def power_table(rows: list[dict[str, Any]]) -> str:
    """As it stands in the docs."""
    lines = ["| gate | true drop | " + " | ".join(f"{n:,} examples" for n in EXAMPLES) + " |"]
    lines.append("|---|---|" + "---|" * len(EXAMPLES))
    for text in GATES:
        for drop in DROPS:
            cells = []
            for count in EXAMPLES:
                row = next(r for r in rows if (r["drop"], r["examples"]) == (drop, count))
                said = row["gates"][text]
                cells.append(
                    " · ".join(f"{share:.0%} {verdict}" for verdict, share in said.items())
                )
            points = f"{drop * 100:g} point{'s' * (drop != 0.01)}" if drop else "none"
            lines.append(f"| `{text}` | {points} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print what was measured and keep it; 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keep_evaluation(Path(folder), arguments.records)
        aggregate = measured(AGGREGATE, folder)
    grid = measured(GRID, str(arguments.points))
    for name, one in (("aggregate", aggregate), ("grid", grid)):
        seconds, used = one["seconds"], one["processor_seconds"]
        print(
            f"{name:10} {seconds:6.2f} s, {used:.2f} s of a processor, {one['peak_mib']:.0f} MiB",
            flush=True,
        )
    rows = [
        {"drop": drop, "examples": count, "gates": power(drop, count, GATES)}
        for drop in DROPS
        for count in EXAMPLES
    ]
    table = power_table(rows)
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": "python benchmarks/eval.py",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "records": arguments.records,
        "points": arguments.points,
        "aggregate": aggregate,
        "grid": grid,
        "power": {"share": SHARE, "anew": ANEW, "runs": RUNS, "rows": rows},
    }
    kept.keep(report, table, arguments.out, "eval")
    measurements = {"aggregate": aggregate, "grid": grid}
    return int(
        any(
            measurements[name][what] > most
            for name, limits in LIMITS.items()
            for what, most in limits.items()
        )
    )


if __name__ == "__main__":
    sys.exit(main())
