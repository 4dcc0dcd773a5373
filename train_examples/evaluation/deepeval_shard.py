"""DeepEval in shards: its GEval metric, with a judge that runs offline.

    kij-train eval --local --data train_examples/evaluation/sums.jsonl --shards 4 \\
        --gate 'correct >= 0.5' train_examples/evaluation/deepeval_shard.py

The judge is a stub, of three lines: put your own model there.
"""

import json
import os
from pathlib import Path
from typing import Any

os.environ["DEEPEVAL_TELEMETRY_OPT_OUT"] = "YES"
os.environ["DEEPEVAL_CACHE_FOLDER"] = str(Path(os.environ["KIJ_RUN_DIR"], "deepeval"))

from deepeval.metrics import GEval
from deepeval.models import DeepEvalBaseLLM
from deepeval.test_case import LLMTestCase, SingleTurnParams


class Judge(DeepEvalBaseLLM):
    """Gives 10 points for an answer that is the expected one, and 0 for any other."""

    def generate(self, prompt: str, schema: Any) -> Any:
        """The three lines."""
        _, _, answers = prompt.rpartition("Actual Output:")
        said, _, expected = answers.partition("Expected Output:")
        return schema(score=10 * (said.split()[0] == expected.split()[0]), reason="compared")

    async def a_generate(self, prompt: str, schema: Any) -> Any:
        """The same."""
        return self.generate(prompt, schema)

    def load_model(self) -> "Judge":
        """There is none to load."""
        return self

    def get_model_name(self) -> str:
        """For DeepEval's own messages."""
        return "stub"


metric = GEval(
    name="correct",
    evaluation_steps=["Is the actual output the expected one?"],
    evaluation_params=[SingleTurnParams.ACTUAL_OUTPUT, SingleTurnParams.EXPECTED_OUTPUT],
    model=Judge(),
    async_mode=False,
)
with open(os.environ["KIJ_ITEMS_FILE"]) as items, open(os.environ["KIJ_RESULT_FILE"], "a") as out:
    for line in items:
        example = json.loads(line)["item"]
        a, b = example["a"], example["b"]
        answer = a + b - 10 * (min(a % 10, b % 10) >= 6)  # the model that is judged
        case = LLMTestCase(
            input=f"{a} + {b}", actual_output=str(answer), expected_output=str(example["sum"])
        )
        score = metric.measure(case, _show_indicator=False)
        record = {"id": example["id"], "correct": score, "said": str(answer)}
        print(json.dumps({**record, "reason": metric.reason}), file=out)
