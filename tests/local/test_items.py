"""Items of an array with torch: forked from where it was imported, and of several ranks."""

from __future__ import annotations

import json
from pathlib import Path

from tests.itemrunner import Array, keys

STEP = """
import json, os, sys, threading
before = "torch" in sys.modules
import torch
torch.set_num_threads(2)
x = torch.randn(300, 300, requires_grad=True)
loss = (x @ x).relu().sum()  # which takes the threads that a fork does not bring along
loss.backward()
data = torch.utils.data.DataLoader(range(8), batch_size=4, num_workers=2)
seen = sorted(int(n) for batch in data for n in batch)
with open(os.environ["KIJ_RESULT_FILE"], "w") as file:
    json.dump({"before": before, "seen": len(seen), "finite": bool(x.grad.isfinite().all())}, file)
"""


def test_torch_works_in_items_that_are_forked_from_where_it_was_imported(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b", "c"], preload=("torch", "numpy"))
    array.script(STEP)
    result = array.run("a.py")
    assert result.returncode == 0, result.err
    found = [(r["before"], r["seen"], r["finite"]) for r in result.logged.records]
    assert found == [(True, 8, True)] * 3
    assert result.errors == ""


def test_items_draw_other_numbers_of_numpy_than_each_other(tmp_path: Path) -> None:
    array = Array(tmp_path, ["a", "b"], preload=("numpy",))
    array.script("import numpy; print(numpy.random.rand())")
    first, second = array.run("a.py").output.split()
    assert first != second


RANKS = """
import json, os, sys, torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(sys.argv[1])])
dist.all_reduce(total)
if sys.argv[1] == "3" and dist.get_rank() == 1: raise ValueError("rank 1 only")
dist.barrier() if sys.argv[1] != "3" else None
if dist.get_rank() == 0 and sys.argv[1] != "3":
    with open(os.environ["KIJ_RESULT_FILE"], "w") as file:
        json.dump({"total": total.item(), "world": dist.get_world_size()}, file)
dist.destroy_process_group()
"""


def test_an_item_of_several_ranks_runs_under_torchrun(tmp_path: Path) -> None:
    array = Array(tmp_path, ["2", "3"], nproc_per_node=2, preload=("torch.distributed.run",))
    array.script(RANKS)
    result = array.run("a.py", "{item}")
    assert result.returncode == 120, result.err
    two, three = result.logged.records
    assert (two["total"], two["world"]) == (4.0, 2)
    assert three["exit_code"] == 1
    assert three["error"] == "ValueError: rank 1 only"
    assert keys(result.logged.records) == ["2", "3"]
    assert json.loads(result.message)["failed_items"] == "1"
