"""Where the ranks of a job are, on real pods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.kube import ROOT, Namespace, eventually

HANGS = """
import threading, time
import torch.distributed as dist

def forgets_the_others():
    time.sleep(600)

def trains():
    dist.barrier()

dist.init_process_group("gloo")
dist.barrier()
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("rank", dist.get_rank(), "hangs", flush=True)
forgets_the_others() if dist.get_rank() == 3 else trains()
"""


@pytest.mark.parametrize("restart", [pytest.param("never", marks=pytest.mark.slow), "gang"])
def test_the_rank_that_is_elsewhere_stands_out(
    ns: Namespace, image: str, tmp_path: Path, restart: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "hangs.py").write_text(HANGS)
    rules = yaml.safe_load((ROOT / "manifests/role.yaml").read_text())["rules"]
    config = ns.user("worker", rules, tmp_path)

    def ran(*words: str, code: int = 0) -> tuple[str, str]:
        result = ns.kij_train(*words, cwd=project, kubeconfig=config)
        assert result.returncode == code, (words, result.stdout, result.stderr)
        return result.stdout, result.stderr

    flags = ["--nodes", "2", "--nproc-per-node", "2", "--restart", restart]
    ran("launch", "--detach", "--name", "a", "--image", image, *flags, "hangs.py")
    assert eventually(
        lambda: ns.kij_train("logs", "a", "--all", cwd=project).stdout.count("hangs") == 4,
        120,
    )
    out, err = ran("stacks", "a")
    assert err == ""
    heads = [line for line in out.splitlines() if line and not line.startswith(" ")]
    assert heads[0] == "ranks 0-2 (3):"
    assert heads[1].startswith("1/3 (pod a-1-")
    assert len(heads) == 2
    together, odd = out.split("\n\n")
    assert 'hangs.py", line 9 in trains' in together
    assert "in barrier" in together
    assert "in forgets_the_others" in odd.splitlines()[1]
    said = json.loads(ran("stacks", "a", "-o", "json")[0])
    assert [rank["rank"] for rank in said["ranks"]] == [0, 1, 2, 3]
    assert all(len(rank["threads"]) >= 2 for rank in said["ranks"])
    assert [group["ranks"] for group in said["groups"]] == [[0, 1, 2], [3]]
    assert ran("stacks", "a", "--rank", "3")[0] == odd.strip("\n") + "\n"
    assert "ranks 0-1 (2):" in ran("stacks", "a", "--index", "0")[0]
    # They go on undisturbed.
    assert json.loads(ran("status", "a", "-o", "json")[0])["phases"] == {"running": 2}
