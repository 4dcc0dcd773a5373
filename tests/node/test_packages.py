"""Packages that an image lacks, in real pods, from an index in a pod: no network out is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kube import Namespace, eventually
from tests.wheels import PodIndex, make_wheel, pip_in_a_zip

PIP = "/kij/work/code/pip.zip"
"""Images of the test cluster have no pip; users' have one."""
SCRIPT = """
import os, socket, kijapp, kijlib
print("has", kijapp.__version__, kijlib.__version__, kijapp.__file__, os.getuid(), flush=True)
at = (os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0")))
others = int(os.environ.get("NNODES", "1")) - 1
if others and os.environ["NODE_RANK"] == "0":
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    server = socket.create_server(("", at[1]), family=family, dualstack_ipv6=both)
    for _ in range(others):
        server.accept()
while others and os.environ["NODE_RANK"] != "0":
    try:
        socket.create_connection(at, 1)
        break
    except OSError:
        pass
"""
"""All nodes are there when the first one ends, as in training."""
LASTING = """
import os, pathlib, time, kijlib
import torch.distributed as dist
dist.init_process_group("gloo")
print("round", os.environ["KIJ_RESTARTS"], "of index", os.environ["JOB_COMPLETION_INDEX"], "has",
      kijlib.__version__, flush=True)
while int(os.environ["KIJ_RESTARTS"]) == 0:
    time.sleep(1)
dist.barrier()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "some.py").write_text(SCRIPT)
    (folder / "lasting.py").write_text(LASTING)
    pip_in_a_zip(folder / "pip.zip")
    return folder


@pytest.fixture
def index(ns: Namespace, small_image: str, tmp_path: Path) -> PodIndex:
    wheels = tmp_path / "wheels"
    app = make_wheel(wheels, "kijapp", "1.0", needs=["kijlib"])
    return PodIndex(ns, small_image, [app, make_wheel(wheels, "kijlib", "1.5")])


def secret(ns: Namespace, index: PodIndex) -> list[str]:
    """Flags that give pods the index, by a Secret, and a pip."""
    host = index.url.split("/")[2].rpartition(":")[0]
    data = {"PIP_INDEX_URL": index.url, "PIP_TRUSTED_HOST": host.strip("[]")}
    body = {"metadata": {"name": "index"}, "stringData": data}
    ns.core.create_namespaced_secret(ns.name, body)
    return ["--env-from-secret", "index", "--env", f"PYTHONPATH={PIP}"]


def test_what_the_image_lacks_is_installed_as_non_root_on_a_read_only_root(
    ns: Namespace, project: Path, small_image: str, index: PodIndex
) -> None:
    (project / "requirements.txt").write_text("kijapp  # which needs kijlib\n")
    done = ns.kij_train(
        *("launch", "--name", "lacks", "--nodes", "4", "--no-torchrun", "--image", small_image),
        *("--run-as-user", "1000", "--read-only-root", "--setup", "echo ready in $PWD"),
        *("--requirements", "requirements.txt", *secret(ns, index), "some.py"),
        cwd=project,
        timeout_s=240,
    )
    assert done.returncode == 0, done.stderr + ns.report()
    logs = ns.kij_train("logs", "lacks", "--all", cwd=project).stdout
    assert logs.count("has 1.0 1.5 /kij/work/packages/kijapp.py 1000") == 4, logs
    assert logs.count("ready in /kij/work/code") == 4
    assert len({address for address, _ in index.asked}) == 1, "one pod asks, for all"
    assert "installed packages in" in logs and "kijapp==1.0, kijlib==1.5" in logs
    lock = ns.kij_train("packages", "lacks", cwd=project)
    assert lock.stdout == "kijapp==1.0\nkijlib==1.5\n", lock.stderr
    files = [path for _, path in index.asked if path.startswith("/files/")]
    assert set(files) == {
        "/files/kijapp-1.0-py3-none-any.whl",
        "/files/kijlib-1.5-py3-none-any.whl",
    }


def test_a_package_that_there_is_not_fails_the_job_at_once_and_why_names_it(
    ns: Namespace, project: Path, small_image: str, index: PodIndex
) -> None:
    done = ns.kij_train(
        *("launch", "--name", "nosuch", "--no-torchrun", "--backoff", "3", "--image", small_image),
        *("--with", "nosuch-kij==1", *secret(ns, index), "some.py"),
        cwd=project,
        timeout_s=240,
    )
    assert done.returncode == 1, done.stderr + ns.report()
    said = "no such package, or no such version for this Python: nosuch-kij==1"
    why = ns.kij_train("why", "nosuch", cwd=project).stdout
    assert said in done.stderr and said in why and "--requirements" in why
    assert index.url not in done.stderr + why
    assert len(ns.core.list_namespaced_pod(ns.name, label_selector="job-name=nosuch").items) == 1


def test_items_of_an_array_have_the_packages_too(
    ns: Namespace, project: Path, small_image: str, index: PodIndex
) -> None:
    done = ns.kij_train(
        *("map", "--name", "items", "--range", "0:4", "--chunk", "2", "--image", small_image),
        *("--with", "kijapp", *secret(ns, index), "some.py"),
        cwd=project,
        timeout_s=240,
    )
    assert done.returncode == 0, done.stderr + ns.report()
    assert done.stdout.count("has 1.0 1.5") == 4, done.stdout


def test_a_pod_that_replaces_another_has_the_same_packages(
    ns: Namespace, project: Path, image: str, index: PodIndex
) -> None:
    flags = ("--restart", "gang", "--max-restarts", "2", "--nodes", "2", "--image", image)
    started = ns.kij_train(
        *("launch", "--name", "again", "--detach", *flags),
        *("--with", "kijlib", *secret(ns, index), "lasting.py"),
        cwd=project,
    )
    assert started.returncode == 0, started.stderr

    def logs() -> str:
        return ns.kij_train("logs", "again", "--all", cwd=project).stdout

    assert eventually(lambda: logs().count("round 0 of index") == 2, within_s=200), ns.report()
    found = ns.core.list_namespaced_pod(ns.name, label_selector="job-name=again").items
    lost = next(each for each in found if "-again-0-" in f"-{each.metadata.name}")
    ns.core.delete_namespaced_pod(lost.metadata.name, ns.name, grace_period_seconds=0)
    done = ns.kij_train("wait", "again", "--timeout", "200s", cwd=project, timeout_s=220)
    assert done.returncode == 0, done.stderr + ns.report()
    assert logs().count("has 1.5") >= 3
