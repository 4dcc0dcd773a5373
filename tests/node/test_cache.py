"""A volume that jobs share: what one of them has fetched, the next one finds there."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.kube import Namespace
from tests.node.test_fetch import MIB, SCRIPT, command, logs
from tests.origin import running

pytestmark = pytest.mark.own_cluster


def test_of_two_jobs_with_one_cache_the_origin_sees_one_reader(
    ns: Namespace, tmp_path: Path, small_image: str, shared_folder: str
) -> None:
    (tmp_path / "check.py").write_text(SCRIPT)
    kept = Path(shared_folder, ns.name)
    kept.mkdir()
    kept.chmod(0o2777)
    with running(os.urandom(24 * MIB), "0.0.0.0") as origin:
        for name, user in (("first", "1234"), ("second", "4321")):
            line = command(
                ns, origin, "launch", "--name", name, "--nodes", "3", "--image", small_image,
                "--run-as-user", user, "--read-only-root", "--cache", "/shared/cache",
                "--mount", f"hostpath:{kept}:/shared", "--no-torchrun", "check.py", "10",
            )  # fmt: skip
            done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stdout + done.stderr
            said = logs(ns, name)
            has = f"has {hashlib.sha256(origin.data).hexdigest()}"
            assert said.count(has) == 3
            what = "put 24.0 MiB into the cache" if name == "first" else "is in the cache"
            assert what in said
        assert len(origin.requests) == 1 and origin.sent == len(origin.data)
