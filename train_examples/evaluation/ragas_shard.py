"""RAGAS in shards: one of its metrics, with a judge that runs offline.

    kij-train eval --local --data train_examples/evaluation/sums.jsonl --shards 4 \\
        --gate 'correct >= 0.5' train_examples/evaluation/ragas_shard.py

The judge is a stub, of three lines: put your own model there.
"""

import json
import os
from typing import Any

os.environ["RAGAS_DO_NOT_TRACK"] = "true"

from ragas.llms.base import InstructorBaseRagasLLM
from ragas.metrics import DiscreteMetric


class Judge(InstructorBaseRagasLLM):
    """Finds an answer right that is the expected one."""

    def generate(self, prompt: str, response_model: Any) -> Any:
        """The three lines."""
        said, expected = prompt.split("\n")[-2:]
        value = "pass" if said.split()[-1] == expected.split()[-1] else "fail"
        return response_model(value=value, reason="compared")

    async def agenerate(self, prompt: str, response_model: Any) -> Any:
        """The same."""
        return self.generate(prompt, response_model)


metric = DiscreteMetric(
    name="correct",
    allowed_values=["pass", "fail"],
    prompt="Is the answer the expected one?\nanswer: {response}\nexpected: {reference}",
)
judge = Judge()
with open(os.environ["KIJ_ITEMS_FILE"]) as items, open(os.environ["KIJ_RESULT_FILE"], "a") as out:
    for line in items:
        example = json.loads(line)["item"]
        a, b = example["a"], example["b"]
        answer = a + b - 10 * (min(a % 10, b % 10) >= 6)  # the model that is judged
        found = metric.score(llm=judge, response=str(answer), reference=str(example["sum"]))
        record = {"id": example["id"], "correct": found.value == "pass", "said": str(answer)}
        print(json.dumps({**record, "reason": found.reason}), file=out)
