"""forward and cp against one real pod: its ports, its files, and the pod that replaces it."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kube import Namespace, eventually

SERVES = """
import http.server, os, pathlib
assert os.environ["KIJ_RUN_DIR"] == "/kij/work/run/0" and os.path.isdir("/kij/work/run/0")
out = pathlib.Path("/tmp/out/sub dir")
out.mkdir(parents=True)
(out / "a.bin").write_bytes(os.urandom(3_000_000))
(out / "link").symlink_to("a.bin")
os.chdir("/tmp/out")
http.server.HTTPServer(("127.0.0.1", 8000), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@contextmanager
def forwarding(ns: Namespace, log: Path) -> Iterator[list[int]]:
    """The ports of this machine that lead to 8000, where the script serves, and 9, to nobody."""
    line = [sys.executable, "-m", "kij_train", "forward", "--kubeconfig", ns.kubeconfig]
    line += ["-n", ns.name, "a", "0:8000", "0:9"]
    with log.open("w") as said, subprocess.Popen(line, stderr=said) as ours:
        try:
            assert eventually(lambda: "to index 0: pod" in log.read_text(), 60), log.read_text()
            yield [int(each.split(":")[1].split()[0]) for each in log.read_text().splitlines()[:2]]
            ours.send_signal(signal.SIGINT)
            assert ours.wait(30) == 130, log.read_text()
        finally:
            ours.kill()


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://localhost:{port}/{path}", timeout=40) as answer:
        return bytes(answer.read())


def test_ports_and_files_of_a_pod_and_of_the_one_that_replaces_it(
    ns: Namespace, image: str, tmp_path: Path
) -> None:
    (tmp_path / "serve.py").write_text(SERVES)
    how = ["-d", "--name", "a", "--image", image, "--backoff", "2", "--no-torchrun", "serve.py"]
    started = ns.kij_train("launch", *how, cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    log = tmp_path / "log"
    with forwarding(ns, log) as (port, nobody):
        assert eventually(lambda: answers(port), 60), log.read_text()
        with pytest.raises(OSError):
            get(nobody, "")
        assert eventually(lambda: "nothing listens on port 9 of pod" in log.read_text(), 10)

        # Down: a folder, and again, which copies nothing.
        down = ["cp", "a:0:/tmp/out", "out"]
        for words in ("copied 1 file, 2.9 MiB", "copied 0 files, 0 B; 1 more were there already"):
            done = ns.kij_train(*down, cwd=tmp_path)
            assert (done.returncode, words in done.stderr) == (0, True), done.stderr
        content = get(port, "sub%20dir/a.bin")
        assert (tmp_path / "out/sub dir/a.bin").read_bytes() == content
        assert (tmp_path / "out/sub dir/link").readlink() == Path("a.bin")

        # Up: a file that the pod's own server then shows.
        (tmp_path / "in put").write_bytes(content[:1_000_000])
        done = ns.kij_train("cp", "in put", "a:0:/tmp/out/new/", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert get(port, "new/in%20put") == content[:1_000_000]
        none = ns.kij_train("cp", "a:0:/no/such", "x", cwd=tmp_path)
        assert (none.returncode, "No such file" in none.stderr) == (2, True), none.stderr
        refused = ns.kij_train("cp", "in put", "a:0:/proc/no/such", cwd=tmp_path)
        assert refused.returncode == 2, refused.stderr

        first = log.read_text().count("to index 0: pod")
        kill = "import os, signal; os.kill(1, signal.SIGTERM)"
        ns.kij_train("exec", "a", "--", "python3", "-c", kill, cwd=tmp_path)
        assert eventually(lambda: log.read_text().count("to index 0: pod") > first, 90), (
            log.read_text()
        )
        assert eventually(lambda: answers(port), 60), log.read_text()
        assert get(port, "sub%20dir/a.bin") != content
    assert ns.kij_train("delete", "a", cwd=tmp_path).returncode == 0


def answers(port: int) -> bool:
    try:
        return b"sub dir" in get(port, "")
    except OSError:
        return False
