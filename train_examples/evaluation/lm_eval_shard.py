"""lm-eval (EleutherAI's lm-evaluation-harness) in shards: each runs its own documents of a task.

    cd train_examples/evaluation
    python tiny_model.py tiny
    python lm_eval_shard.py list --tasks carries --include_path tasks > documents.jsonl
    kij-train eval --local --data documents.jsonl --shards 4 --gate 'acc >= 0.3' \\
        lm_eval_shard.py --tasks carries --include_path tasks --model_args pretrained=tiny
    kij-train results NAME > results.jsonl
    python lm_eval_shard.py aggregate results.jsonl --tasks carries --include_path tasks

The harness is called as it is, with the documents of the shard as its `samples`. Metrics that are a
number of each document (acc, exact_match, …) are judged by kij-train. Those of all documents
together (f1, bleu, perplexity, …) are no means: `aggregate` has the harness itself compute them,
and all others, from the values of all shards: the same figures as of one process.

What would make a figure depend on the shards is refused: few-shot examples that are drawn anew for
each document, and the cache of requests, which does not know which documents it is of.
"""

import argparse
import json
import os
import sys
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager


def parsed() -> argparse.Namespace:
    """Options have the names of lm-eval's own."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("what", nargs="?", choices=["run", "list", "aggregate"], default="run")
    parser.add_argument("results", nargs="?", help="of aggregate: what `kij-train results` prints")
    parser.add_argument("--tasks", required=True, help="names, with commas between them")
    parser.add_argument("--include_path", help="folder of tasks of your own")
    parser.add_argument("--model", default="hf")
    parser.add_argument("--model_args", default="")
    parser.add_argument("--num_fewshot", type=int)
    parser.add_argument("--batch_size", default="1", help="more than 1 may change last digits")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    return parser.parse_args()


def tasks_of(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The tasks by name. Exits where their figures would depend on the shards."""
    manager = TaskManager(include_path=options.include_path)
    tasks = manager.load(options.tasks.split(","))["tasks"]
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        shots = own if options.num_fewshot is None or own == 0 else options.num_fewshot
        sampler = getattr(task.get_config("fewshot_config"), "sampler", "default")
        if shots and sampler != "first_n":
            sys.exit(
                f"{name}: its {shots} few-shot examples are drawn anew for each document, so that "
                "they depend on the documents before it. In the task's file: "
                "fewshot_config: {sampler: first_n}, or --num_fewshot 0"
            )
    return manager, tasks


def list_documents(options: argparse.Namespace) -> None:
    """A line for each document: the --data of kij-train eval."""
    for name, task in tasks_of(options)[1].items():
        for number, document in enumerate(task.eval_docs):
            line = {"id": f"{name}/{number}", "task": name, "document": number, "is": document}
            print(json.dumps(line, default=str))


def run(options: argparse.Namespace) -> None:
    """Run this shard's documents, and write a record for each."""
    with open(os.environ["KIJ_ITEMS_FILE"]) as file:
        items = [json.loads(line)["item"] for line in file]
    manager, tasks = tasks_of(options)
    samples: dict[str, list[int]] = {}
    for item in items:
        if item["task"] not in tasks:
            sys.exit(f"--data is of the task {item['task']}, which --tasks {options.tasks} lacks")
        samples.setdefault(item["task"], []).append(item["document"])
        documents = tasks[item["task"]].eval_docs
        there = item["document"] < len(documents)
        document = documents[item["document"]] if there else None
        if json.loads(json.dumps(document, default=str)) != item["is"]:
            sys.exit(f"{item['id']} is another document than when --data was listed: list it anew")
    found = lm_eval.simple_evaluate(
        model=options.model,
        model_args=options.model_args,
        tasks=list(samples),  # none but these: of a task without samples, all would be run
        samples={name: sorted(numbers) for name, numbers in samples.items()},
        num_fewshot=options.num_fewshot,
        batch_size=options.batch_size,
        device=options.device or device(),
        task_manager=manager,
        bootstrap_iters=0,  # errors are kij-train's, over all shards
        cache_requests=False,
    )
    with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
        for name, records in found["samples"].items():
            for record in records:
                print(json.dumps(scored(name, record), default=plain), file=file)


def device() -> str | None:
    """Where a model of torch runs; lm-eval itself takes CUDA for given."""
    try:
        import torch
    except ImportError:
        return None
    return "cuda" if torch.cuda.is_available() else "cpu"


def plain(value: Any) -> Any:
    """NumPy's numbers as those of JSON: as text they would be no metric."""
    return value.item() if hasattr(value, "item") else str(value)


def scored(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record of a document; of several filters, each has metrics of its own."""
    of = "" if record["filter"] == "none" else f",{record['filter']}"
    answer = json.dumps(record["filtered_resps"], default=str)[:500]
    values = {f"{metric}{of}": record[metric] for metric in record["metrics"]}
    return {"id": f"{name}/{record['doc_id']}", "answer": answer, **values}


def aggregate(options: argparse.Namespace) -> None:
    """Print all metrics as the harness computes them, from the values of all documents."""
    _, tasks = tasks_of(options)
    values: dict[str, dict[str, dict[int, Any]]] = {}
    with open(options.results) as file:
        for record in map(json.loads, file):
            name, _, number = record["id"].rpartition("/")
            for metric, value in record.items():
                kept = values.setdefault(name, {}).setdefault(metric, {})
                kept[int(number)] = value
    found: dict[str, dict[str, float]] = {}
    for name, task in tasks.items():
        documents = set(range(len(task.eval_docs)))
        for metric, of_documents in values.get(name, {}).items():
            aggregation = task.aggregation().get(metric.partition(",")[0])
            if aggregation is None:
                continue
            if set(of_documents) != documents:
                sys.exit(f"{name}: {len(documents - set(of_documents))} documents have no {metric}")
            in_order = [of_documents[number] for number in sorted(of_documents)]
            found.setdefault(name, {})[metric] = aggregation(in_order)
    print(json.dumps(found, default=plain))


if __name__ == "__main__":
    given = parsed()
    {"run": run, "list": list_documents, "aggregate": aggregate}[given.what](given)
