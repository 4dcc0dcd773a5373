"""Scores a data set: adds numbers, and is wrong where it forgets a carry.

    kij-train eval --local --data train_examples/evaluation/sums.jsonl --shards 4 \\
        --gate 'accuracy >= 0.5' --baseline train_examples/evaluation/baseline.jsonl \\
        train_examples/evaluation/score_sums.py

It passes: exit code 0. With --gate 'accuracy >= 0.9' it fails (1), and with 'accuracy >= 0.83' 400
examples are too few to tell (6). The baseline is this script's, as it is. With --forget 5 it
forgets more, which 'accuracy drop <= 0.02' notices.
"""

import argparse
import json
import os

parser = argparse.ArgumentParser()
parser.add_argument("--forget", type=int, default=6, help="carries of two digits from this one on")
forget = parser.parse_args().forget


def add(a: int, b: int) -> int:
    """The model: of two large last digits, the carry is forgotten."""
    return a + b - 10 * (min(a % 10, b % 10) >= forget)


with (
    open(os.environ["KIJ_ITEMS_FILE"]) as items,
    open(os.environ["KIJ_RESULT_FILE"], "a") as results,
):
    for line in items:
        example = json.loads(line)["item"]
        answer = add(example["a"], example["b"])
        scored = {
            "id": example["id"],
            "accuracy": answer == example["sum"],
            "off_by": abs(answer - example["sum"]),
            "said": f"{example['a']} + {example['b']} = {answer}",
        }
        print(json.dumps(scored), file=results)
