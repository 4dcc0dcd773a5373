"""Packages that an image lacks, in real pods, from an index in a pod: no network out is needed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.kube import Namespace, eventually
from tests.origin import running
from tests.wheels import PodIndex, make_wheel, pip_in_a_zip

HOST = "10.77.1.1"
"""Where pods reach this process."""
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
import hashlib, os, pathlib, time, kijlib
import torch.distributed as dist
dist.init_process_group("gloo")
data = pathlib.Path("/data/model.bin").read_bytes()
print("round", os.environ["KIJ_RESTARTS"], "of index", os.environ["JOB_COMPLETION_INDEX"], "has",
      kijlib.__version__, hashlib.sha256(data).hexdigest(), flush=True)
while int(os.environ["KIJ_RESTARTS"]) == 0 or not pathlib.Path("/kij/work/end").exists():
    time.sleep(1)
dist.barrier()
"""
HAS_AND_STAYS = """
import time, kijlib
print("has", kijlib.__version__, flush=True)
time.sleep(600)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "some.py").write_text(SCRIPT)
    (folder / "lasting.py").write_text(LASTING)
    (folder / "stays.py").write_text(HAS_AND_STAYS)
    pip_in_a_zip(folder / "pip.zip")
    return folder


@pytest.fixture
def index(ns: Namespace, small_image: str, tmp_path: Path) -> PodIndex:
    wheels = tmp_path / "wheels"
    app = make_wheel(wheels, "kijapp", "1.0", needs=["kijlib"])
    return PodIndex(ns, small_image, [app, make_wheel(wheels, "kijlib", "1.5")])


def host_of(index: PodIndex) -> str:
    return index.url.split("/")[2].rpartition(":")[0].strip("[]")


def secret(ns: Namespace, index: PodIndex) -> list[str]:
    """Flags that give pods the index, by a Secret, and a pip."""
    data = {"PIP_INDEX_URL": index.url, "PIP_TRUSTED_HOST": host_of(index)}
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
    assert sorted(files) == [
        "/files/kijapp-1.0-py3-none-any.whl",
        "/files/kijlib-1.5-py3-none-any.whl",
    ], "each is read once"


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


@pytest.mark.own_cluster
def test_a_spare_and_a_pod_that_replaces_a_lost_one_have_packages_and_files_before_they_train(
    ns: Namespace, project: Path, image: str, index: PodIndex
) -> None:
    with running(os.urandom(8 << 20), "0.0.0.0") as origin:
        started = ns.kij_train(
            *("launch", "--name", "again", "--detach", "--image", image, "--restart", "gang"),
            *("--nodes", "2", "--spares", "1", "--max-restarts", "2"),
            *("--fetch", f"http://{HOST}:{origin.port}/model.bin:/data"),
            *("--with", "kijlib", *secret(ns, index), "lasting.py"),
            cwd=project,
        )
        assert started.returncode == 0, started.stderr

        def log_of(index: int | None = None) -> str:
            which = ("--all",) if index is None else ("--index", str(index))
            return ns.kij_train("logs", "again", *which, cwd=project).stdout

        def pods_of(index: int) -> list[Any]:
            selector = f"batch.kubernetes.io/job-completion-index={index}"
            return list(ns.core.list_namespaced_pod(ns.name, label_selector=selector).items)

        assert eventually(lambda: log_of().count("round 0 of index") == 2, 200), ns.report()
        assert eventually(lambda: "fetched 8.0 MiB" in log_of(2), 60), "the spare has not got it"
        (lost,) = pods_of(0)
        ns.core.delete_namespaced_pod(lost.metadata.name, ns.name, grace_period_seconds=0)
        assert eventually(lambda: "round 1 of index 2 has" in log_of(2), 120), log_of()
        # The next one comes from the reserve, and stands by.
        assert eventually(lambda: bool(pods_of(3)) and "fetched" in log_of(3), 120), log_of()
        assert "received packages in" in log_of(3) and "kijlib==1.5" in log_of(3)
        for each in (1, 2):
            ended = ns.kij_train(
                "exec", "again", "--index", str(each), "--", "touch", "/kij/work/end", cwd=project
            )
            assert ended.returncode == 0, ended.stderr
        done = ns.kij_train("wait", "again", "--timeout", "200s", cwd=project, timeout_s=220)
        assert done.returncode == 0, done.stderr + ns.report()
        has = f"has 1.5 {hashlib.sha256(origin.data).hexdigest()}"
        assert log_of().count(has) >= 3
        assert len(origin.readers) == 1 and origin.sent == len(origin.data)
    files = [path for _, path in index.asked if path.startswith("/files/")]
    assert files == ["/files/kijlib-1.5-py3-none-any.whl"], files


def test_a_job_whose_pods_are_all_gone_installs_the_same_versions_again(
    ns: Namespace, project: Path, small_image: str, index: PodIndex, tmp_path: Path
) -> None:
    started = ns.kij_train(
        *("launch", "--name", "kept", "--detach", "--no-torchrun", "--image", small_image),
        *("--with", "kijlib", *secret(ns, index), "stays.py"),
        cwd=project,
    )
    assert started.returncode == 0, started.stderr

    def log() -> str:
        return ns.kij_train("logs", "kept", cwd=project).stdout

    assert eventually(lambda: "has 1.5" in log(), 120), ns.report()
    cancelled = ns.kij_train("cancel", "kept", "--grace", "1s", cwd=project)
    assert cancelled.returncode == 0, cancelled.stderr
    selector = "job-name=kept"
    assert eventually(
        lambda: not ns.core.list_namespaced_pod(ns.name, label_selector=selector).items, 60
    )
    both = [make_wheel(tmp_path / "later", "kijlib", version) for version in ("1.5", "1.6")]
    later = PodIndex(ns, small_image, both, "later")
    data = {"PIP_INDEX_URL": later.url, "PIP_TRUSTED_HOST": host_of(later)}
    ns.core.patch_namespaced_secret("index", ns.name, {"stringData": data})
    assert ns.kij_train("resume", "kept", cwd=project).returncode == 0
    assert eventually(lambda: "has 1." in log(), 120), ns.report()
    assert "has 1.5" in log() and later.asked, log()
