"""train_examples/streaming.py: shards of a folder, and of an object store that runs here.

`nox -s streaming` installs what it needs; elsewhere it is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

MISSING = [
    name for name in ("webdataset", "s3fs", "moto") if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {', '.join(MISSING)}: nox -s streaming"
)
EXAMPLE = Path(__file__).parents[2] / "train_examples/streaming.py"
SHARDS = [f"train-{number:04d}.tar" for number in range(4)]
PATTERN = "train-{0000..0003}.tar"


class Store:
    """S3, as WSGI, and how often each object was read."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._answer = DomainDispatcherApplication(create_backend_app)
        self.reads: Counter[str] = Counter()
        self.server = make_server("127.0.0.1", 0, self, threaded=True)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".tar"):
            self.reads[environ["PATH_INFO"].rpartition("/")[2]] += 1
        answer: Iterable[bytes] = self._answer(environ, start_response)
        return answer

    @property
    def environment(self) -> dict[str, str]:
        keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
        url = f"http://127.0.0.1:{self.server.server_port}"
        return {**keys, "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def train(folder: Path, shards: str, **environment: str) -> list[set[str]]:
    """Two epochs on two nodes; the shards that each rank has read."""
    shutil.copy(EXAMPLE, folder)
    line = [sys.executable, "-m", "kij_train", "launch", "--local", "--nodes", "2", EXAMPLE.name]
    done = subprocess.run(
        [*line, "--shards", shards, "--make", "4"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 0: 256 samples" in done.stdout and "epoch 1: 256 samples" in done.stdout
    lines = sorted(line for line in done.stdout.splitlines() if " has read " in line)
    assert len(lines) == 2, done.stdout
    return [{Path(path).name for path in line.partition(" has read ")[2].split()} for line in lines]


def test_of_a_folder_each_rank_reads_shards_of_its_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    first, second = train(tmp_path, f"{data}/{PATTERN}")
    assert first | second == set(SHARDS) and len(first) == len(second) == 2


def test_of_an_object_store_each_shard_is_read_once_a_job(tmp_path: Path, store: Store) -> None:
    made = {**os.environ, **store.environment}
    make_bucket = "import s3fs; s3fs.S3FileSystem().mkdir('data')"
    subprocess.run([sys.executable, "-c", make_bucket], env=made, check=True)
    first, second = train(tmp_path, f"s3://data/{PATTERN}", **store.environment)
    assert first | second == set(SHARDS) and not first & second
    assert store.reads == Counter(SHARDS)
