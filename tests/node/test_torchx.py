"""TorchX's stock components on real pods, by its own command line and runner."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

pytest.importorskip("torchx")

from torchx.runner import Runner, get_runner
from torchx.specs import AppDef, AppState, Role
from torchx.specs.finder import ComponentValidationException

from tests.kube import ROOT, Namespace, eventually

TORCHX = Path(sys.executable).parent / "torchx"


@pytest.fixture
def runner(
    ns: Namespace, image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Runner]:
    """With the namespace of the test as its kubeconfig and KIJ_* variables say."""
    monkeypatch.setenv("KUBECONFIG", ns.kubeconfig)
    monkeypatch.setenv("KIJ_NAMESPACE", ns.name)
    monkeypatch.setenv("KIJ_IMAGE", image)
    monkeypatch.chdir(tmp_path)
    with get_runner() as made:
        yield made


def torchx(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Its command line, in the examples' folder."""
    return subprocess.run(
        [str(TORCHX), *arguments],
        cwd=ROOT / "train_examples",
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=240,
    )


def state_of(runner: Runner, handle: str) -> AppState:
    """At the end of the app."""
    status = runner.wait(handle, wait_interval=0.5)
    assert status is not None
    return status.state


@pytest.mark.usefixtures("runner")
def test_dist_ddp_runs_unchanged_by_the_command_line(ns: Namespace) -> None:
    started = torchx(
        "run", "-s", "kij_train", "dist.ddp", "-j", "2x1", "--script", "hello_ranks.py"
    )
    assert started.returncode == 0, started.stderr
    handle = started.stdout.strip()
    assert handle.startswith(f"kij_train://torchx/{ns.name}:hello-ranks-")
    followed = torchx("log", "--tail", handle)
    for rank in (0, 1):
        assert f"rank {rank} of 2: the ranks add up to 1" in followed.stdout
    plain = re.sub(r"\x1b\[\d+m", "", followed.stdout)
    assert {line.split()[0] for line in plain.splitlines()} == {"hello_ranks/0", "hello_ranks/1"}
    deadline = time.monotonic() + 120
    while "SUCCEEDED" not in (status := torchx("status", handle).stdout):
        assert time.monotonic() < deadline, status
    assert "hello_ranks[1]:SUCCEEDED" in status
    listed = torchx("list", "-s", "kij_train").stdout
    assert re.search(rf"{re.escape(handle)}\s.*SUCCEEDED", listed)
    described = torchx("describe", handle).stdout
    assert "'entrypoint': 'bash'" in described and "torchrun --rdzv_backend" in described


def test_a_failure_is_told_with_its_last_words(runner: Runner) -> None:
    words = "echo about to fail; exit 3"
    handle = runner.run_component(
        "utils.sh", ["--num_replicas", "2", "sh", "-c", words], "kij_train"
    )
    status = runner.wait(handle, wait_interval=0.5)
    assert status is not None and status.state == AppState.FAILED
    assert "exit code 3" in status.msg and "about to fail" in status.msg
    assert "about to fail" in status.format()


def test_a_rank_that_raises_is_named(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise ValueError('bad batch')\n")
    handle = runner.run_component(
        "dist.ddp", ["-j", "1x1", "--script", "train.py"], "kij_train", workspace=_url(tmp_path)
    )
    status = runner.wait(handle, wait_interval=0.5)
    assert status is not None and status.state == AppState.FAILED
    assert "ValueError: bad batch" in status.msg


def _url(folder: Path) -> str:
    return str(folder) if "workspace" in Role.__dataclass_fields__ else f"file://{folder}"


def test_logs_follow_filter_and_know_their_time(runner: Runner) -> None:
    script = "for i in 1 2 3 4 5 6; do echo line $i of $NODE_RANK; sleep 1; done"
    handle = runner.run_component(
        "utils.sh", ["--num_replicas", "2", "sh", "-c", script], "kij_train"
    )
    followed = list(runner.log_lines(handle, "sh", 1, regex="line", should_tail=True))
    assert followed == [f"line {i} of 1\n" for i in range(1, 7)]
    assert state_of(runner, handle) == AppState.SUCCEEDED
    none = runner.log_lines(handle, "sh", 1, regex="line", until=datetime.fromtimestamp(0))
    assert list(none) == []
    late = datetime.fromtimestamp(time.time() + 3600)
    all_of_it = runner.log_lines(handle, "sh", 0, regex="line", until=late)
    assert list(all_of_it) == [f"line {i} of 0\n" for i in range(1, 7)]
    with pytest.raises(ComponentValidationException, match="has no index 2"):
        list(runner.log_lines(handle, "sh", 2))


def test_a_cancelled_app_stays_readable_until_it_is_deleted(runner: Runner, ns: Namespace) -> None:
    handle = runner.run_component("utils.sh", ["sleep", "600"], "kij_train")
    deadline = time.monotonic() + 120
    while (status := runner.status(handle)) and status.state != AppState.RUNNING:
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    runner.cancel(handle)
    assert state_of(runner, handle) == AppState.CANCELLED
    scheduler = runner._scheduler("kij_train")
    scheduler._delete_existing(handle.rpartition("/")[2])
    assert ns.empties()
    assert runner.status(handle) is None


def test_roles_are_jobs_that_are_made_and_told_together(
    runner: Runner, ns: Namespace, image: str
) -> None:
    def role(name: str, words: str, replicas: int) -> Role:
        return Role(name, image, entrypoint="sh", args=["-c", words], num_replicas=replicas)

    app = AppDef("pair", roles=[role("one", "echo 1", 1), role("two", "echo ${rank0_env}", 2)])
    handle = runner.run(app, "kij_train")
    assert state_of(runner, handle) == AppState.SUCCEEDED
    described = runner.status(handle)
    assert described is not None
    counts = {each.role: len(each.replicas) for each in described.roles}
    assert counts == {"one": 1, "two": 2}
    assert list(runner.log_lines(handle, "two", 1, regex="KIJ")) == ["KIJ_RANK0_HOST\n"]
    (listed,) = runner.list("kij_train")
    assert listed.app_handle == handle
    bad = AppDef("pair", roles=[role("one", "true", 1), role("two", "true", 1)])
    info = runner.dryrun(bad, "kij_train")
    info.request.jobs[1].objects[-1]["spec"]["template"]["spec"]["priorityClassName"] = 7
    before = ns.left()
    with pytest.raises(ComponentValidationException):
        runner.schedule(info)
    assert eventually(lambda: ns.left() == before, within_s=30)
