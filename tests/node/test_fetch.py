"""What pods need, read once from an origin that counts, and handed on from pod to pod."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kube import Namespace, eventually
from tests.origin import Origin, running

pytestmark = pytest.mark.own_cluster
HOST = "10.77.1.1"
"""Where pods reach this process."""
MIB = 1 << 20
SCRIPT = """
import hashlib, os, pathlib, sys, time
data = pathlib.Path(os.environ["KIJ_FETCHED"].split(":")[0], "model.bin").read_bytes()
print("has", hashlib.sha256(data).hexdigest(), flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with running(os.urandom(48 * MIB), "0.0.0.0") as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "check.py").write_text(SCRIPT)
    return folder


def command(ns: Namespace, origin: Origin, *words: str) -> list[str]:
    sha256 = hashlib.sha256(origin.data).hexdigest()
    fetch = f"http://{HOST}:{origin.port}/model.bin#sha256={sha256}:/data"
    line = [sys.executable, "-m", "kij_train", words[0], "-n", ns.name]
    return [*line, "--kubeconfig", ns.kubeconfig, "--fetch", fetch, *words[1:]]


def logs(ns: Namespace, name: str) -> str:
    return str(ns.kij_train("logs", name, "--all", cwd=Path()).stdout)


def pods(ns: Namespace, index: int) -> list[Any]:
    selector = f"batch.kubernetes.io/job-completion-index={index}"
    return list(ns.core.list_namespaced_pod(ns.name, label_selector=selector).items)


def test_four_pods_have_what_one_of_them_has_read(
    ns: Namespace, project: Path, small_image: str, origin: Origin
) -> None:
    origin.bytes_s = 3e6  # so that all of them run when the first one has it, and ends at once
    line = command(
        ns, origin, "launch", "--name", "four", "--nodes", "4", "--image", small_image,
        "--run-as-user", "1234", "--read-only-root", "--no-torchrun", "check.py", "0",
    )  # fmt: skip
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    has = f"has {hashlib.sha256(origin.data).hexdigest()}"
    assert logs(ns, "four").count(has) == 4
    assert len(origin.readers) == 1 and origin.sent == len(origin.data)


@pytest.mark.parametrize("lost", [0, 1], ids=["the reader", "a parent"])
def test_a_pod_that_is_lost_in_the_middle_costs_the_origin_next_to_nothing(
    ns: Namespace, project: Path, small_image: str, origin: Origin, lost: int
) -> None:
    origin.bytes_s = 3e6
    line = command(
        ns, origin, "launch", "--name", "lost", "--nodes", "5", "--image", small_image,
        "--backoff", "3", "--detach", "--no-torchrun", "check.py", "5",
    )  # fmt: skip
    subprocess.run(line, cwd=project, check=True, timeout=120)
    assert eventually(lambda: origin.sent > len(origin.data) // 3, 120)
    for pod in pods(ns, lost):
        ns.core.delete_namespaced_pod(pod.metadata.name, ns.name, grace_period_seconds=0)
    ended = ns.kij_train("wait", "lost", "--timeout", "180", cwd=project, timeout_s=200)
    said = logs(ns, "lost")
    assert ended.returncode == 0, said
    assert said.count(f"has {hashlib.sha256(origin.data).hexdigest()}") == 5
    assert origin.sent <= 1.2 * len(origin.data) and len(origin.readers) <= 2, said


def test_indexes_of_an_array_that_come_later_get_it_from_those_before(
    ns: Namespace, project: Path, small_image: str, origin: Origin
) -> None:
    origin.bytes_s = 10e6
    (project / "seconds.txt").write_text("0\n0.0\n0.00\n0.000\n")  # nobody waits for the others
    line = command(
        ns, origin, "map", "--name", "later", "--items", "seconds.txt", "--parallelism", "2",
        "--image", small_image, "check.py", "{item}",
    )  # fmt: skip
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    # Four would read it four times; a machine that stands still may cost a second reading.
    assert origin.sent <= 2 * len(origin.data), logs(ns, "later")


def test_a_file_that_is_not_there_ends_the_job_with_one_cause(
    ns: Namespace, project: Path, small_image: str, origin: Origin
) -> None:
    from tests.origin import Answer

    origin.answers = [Answer(404)] * 9
    line = command(
        ns, origin, "launch", "--name", "none", "--nodes", "3", "--image", small_image,
        "--no-torchrun", "check.py", "0",
    )  # fmt: skip
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "cannot fetch, there is no such file: http://10.77.1.1" in done.stderr
    assert len(origin.requests) == 1
