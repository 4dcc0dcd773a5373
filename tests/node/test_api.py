"""The Python API on a cluster: the same Run as on this machine."""

from __future__ import annotations

from pathlib import Path

import kij_train
import pytest
from kij_train.diagnosis import JobState
from kij_train.errors import JobFailedError, UnreachableError

from tests.kube import ROOT, Namespace


def test_a_run_is_launched_followed_found_again_and_removed(ns: Namespace, image: str) -> None:
    where = {"namespace": ns.name, "kubeconfig": ns.kubeconfig}
    spec = kij_train.job("hello_ranks.py", nodes=2, image=image, name="hello", **where)
    run = kij_train.launch(spec, cwd=ROOT / "train_examples")
    lines = list(run.logs(follow=True))
    run.wait(timeout_s=60)
    assert {line.index for line in lines} == {0, 1}
    assert run.status() is JobState.SUCCEEDED
    again = kij_train.attach("hello", **where)
    assert "succeeded" in again.why()
    again.delete()
    assert ns.empties()
    with pytest.raises(UnreachableError, match="has no job hello"):
        kij_train.attach("hello", **where)


def test_a_failed_run_raises_with_rank_and_line(ns: Namespace, image: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise ValueError('bad batch')\n")
    spec = kij_train.job(
        "train.py", image=image, namespace=ns.name, kubeconfig=ns.kubeconfig, nodes=1
    )
    run = kij_train.launch(spec, cwd=tmp_path)
    with pytest.raises(JobFailedError, match=r"rank 0 [^$]*bad batch[^$]*line 1"):
        run.wait(timeout_s=120)
    assert run.status() is JobState.FAILED


@pytest.mark.slow  # tests/local has it without pods
def test_the_sigterm_example_saves_when_it_is_cancelled_and_goes_on_from_there(
    ns: Namespace, image: str, shared_folder: str
) -> None:
    def launch(*more: str) -> kij_train.Run:
        spec = kij_train.job(
            "sigterm_checkpoint.py",
            nodes=2,
            image=image,
            namespace=ns.name,
            kubeconfig=ns.kubeconfig,
            mounts=[f"hostpath:{shared_folder}:/out"],
            args=["--out", f"/out/{ns.name}", *more],
        )
        return kij_train.launch(spec, cwd=ROOT / "train_examples")

    first = launch("--steps", "100000", "--step-seconds", "0.05")
    said = []
    for line in first.logs(index=0, follow=True):
        said.append(line.text)
        if line.text.startswith("starts at step 0"):
            first.cancel()
    saved = [text for text in said if text.startswith("saved step ")]
    assert len(saved) == 1, said
    assert first.status() is JobState.CANCELLED
    step = saved[0].split()[2].rstrip(",.:")
    again = launch("--steps", str(int(step) + 5))
    again.wait(timeout_s=120)
    assert f"starts at step {step} of {int(step) + 5}" in [
        line.text for line in again.logs(index=0)
    ]
