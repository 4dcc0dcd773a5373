"""A rank that hangs, on real pods: named, begun again, ended; and the accounts of the time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.kube import Namespace, eventually

pytestmark = pytest.mark.chaos

HANGS = """\
import os, sys, time
from pathlib import Path
import torch, torch.distributed as dist

def load(step):
    if step == 5 and dist.get_rank() == 1 and int(os.environ["KIJ_RESTARTS"]) < int(sys.argv[1]):
        time.sleep(600)

dist.init_process_group("gloo")
stop = torch.zeros(1)
for step in range(10**6):
    load(step)
    stop[0] = Path(sys.argv[2], "stop").exists()
    dist.all_reduce(stop)
    if stop.item():
        break
    Path(os.environ["KIJ_HEARTBEAT_FILE"]).touch()
    time.sleep(0.05)
dist.destroy_process_group()
"""
FLAGS = ["--restart", "gang", "--nodes", "2", "--hang-timeout", "20s", "--name", "a"]


def project(folder: Path) -> Path:
    (folder / "code").mkdir()
    (folder / "code/train.py").write_text(HANGS)
    return folder / "code"


def test_a_rank_that_hangs_is_named_and_begins_again(
    ns: Namespace, image: str, tmp_path: Path, shared_folder: str
) -> None:
    code, shared = project(tmp_path), Path(shared_folder, ns.name)
    shared.mkdir()
    script = ["train.py", "1", "/shared"]
    mount = ["--mount", f"hostpath:{shared}:/shared", "--spares", "1", "--detach"]
    done = ns.kij_train("launch", *FLAGS, *mount, "--image", image, *script, cwd=code)
    assert done.returncode == 0, done.stderr

    def lines() -> list[str]:
        said = ns.kij_train("logs", "a", "--all", cwd=code)
        return said.stdout.splitlines() + said.stderr.splitlines()

    assert eventually(lambda: any("round 2: rank 1 of 2" in line for line in lines()), 120)
    (found,) = (line for line in lines() if "rank 1 is in load" in line)
    assert "no sign of life for 20.0 s: rank 1 is in load (train.py:7); rank 0 is in " in found

    def accounts() -> dict[str, object]:
        said = ns.kij_train("status", "a", "-o", "json", cwd=code)
        accounts: dict[str, object] = json.loads(said.stdout)["verdict"]["accounts"] or {}
        return accounts

    assert eventually(lambda: accounts().get("restarts") == 1, 30)
    now = accounts()
    assert float(str(now["trainingSeconds"])) > 20
    (blame,) = now["blame"] if isinstance(now["blame"], list) else []
    assert blame["restarts"] == 1
    time.sleep(1)
    assert float(str(accounts()["trainingSeconds"])) > float(str(now["trainingSeconds"]))
    events = json.loads(ns.kij_train("events", "a", "-o", "json", cwd=code).stdout)
    reasons = {event["reason"]: event["type"] for event in events}
    assert (reasons["Standby"], "Unhealthy" in reasons) == ("Normal", False)
    said = ns.kij_train("why", "a", cwd=code).stdout
    # Between the two it says whose place a spare has taken, if it was not the higher index's.
    assert f"restarted 1 time in {blame['seconds']:.1f} s; " in said
    assert f"; {blame['node']} cost 1 restart" in said

    (shared / "stop").touch()
    assert ns.kij_train("wait", "a", cwd=code).returncode == 0
    assert accounts()["restarts"] == 1  # from the last words of its pods


@pytest.mark.slow
def test_a_hang_too_many_fails_with_the_stack(ns: Namespace, image: str, tmp_path: Path) -> None:
    code = project(tmp_path)
    line = ["launch", *FLAGS, "--max-restarts", "0", "--image", image, "train.py", "1", "/none"]
    result = ns.kij_train(*line, cwd=code)
    assert result.returncode == 1
    for said in (result.stderr, ns.kij_train("why", "a", cwd=code).stdout):
        assert "rank 1 (index 1, pod a-1-" in said
        assert ") hung\n" in said
        assert "no sign of life for 20.0 s: rank 1 is in load (train.py:7)" in said
        assert "line 7, in load" in said
