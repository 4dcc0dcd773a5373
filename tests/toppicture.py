"""The picture of `kij-train top` in docs/gpus.md, taken of a real job on the test cluster.

make cluster
python -m tests.cluster exec -- python -m tests.toppicture
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

from kij_train.cli.top import live_table
from kij_train.errors import KijError
from kij_train.jobs.top import Top
from rich.console import Console

from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.kube import ROOT, namespace
from tests.picture import drawn

FILE = ROOT / "docs/top.svg"
WIDTH = 100
PATIENCE_S = 300.0
"""For the pods to run, and for the slow rank to be named."""
SCRIPT = """\
import os, pathlib, time
import torch, torch.distributed as dist

dist.init_process_group("gloo")
rank, beat = dist.get_rank(), pathlib.Path(os.environ["KIJ_HEARTBEAT_FILE"])
for step in range(1, 10_000):
    time.sleep(0.75 if rank == 2 else 0.5)
    beat.write_text(str(step))
    dist.all_reduce(torch.ones(1))
"""


def main() -> None:
    """Launch, look until the slow rank is named, draw what a terminal shows then."""
    state = State.of_running(StatePaths.of_this_clone())
    assert state is not None, "first: make cluster"
    until = time.monotonic() + PATIENCE_S
    with namespace(state.kubeconfig) as ns, tempfile.TemporaryDirectory() as folder:
        from kij_train.cluster import Cluster

        (Path(folder) / "train.py").write_text(SCRIPT)
        words = ["launch", "--detach", "--name", "train", "--nodes", "4", "--cpu", "0.4"]
        words += ["--memory", "1Gi", "--image", state.images["torch"], "train.py"]
        launched = ns.kij_train(*words, cwd=Path(folder))
        assert launched.returncode == 0, launched.stderr
        cluster = Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)
        console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
        while not _drawn(cluster, console, until):
            assert time.monotonic() < until, "no rank was named as slow"
            time.sleep(2)
    FILE.write_text(drawn(console, "kij-train top train"))
    print(FILE.relative_to(ROOT))


def _drawn(cluster: object, console: Console, until: float) -> bool:
    """Whether all ranks were looked at, and one was slow; the table is on the console then."""
    try:
        with Top(cluster, "train") as top:  # type: ignore[arg-type] # the client is imported late
            if top.running < 4:
                return False
            top.first()
            while time.monotonic() < until and top.look(2):
                slow = any(
                    one.startswith("slow: rank 2 ") for one in top.board.findings(time.monotonic())
                )
                if slow and all(row[4] for row in top.board.rows()):
                    console.print(live_table("train", top.board, top.running, 30, console.options))
                    return True
    except KijError:  # its pods do not run yet
        return False
    return False


if __name__ == "__main__":
    main()
