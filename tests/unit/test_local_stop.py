"""A local run that is told to end, from the main thread's signal handler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

RUNS = """
import os, signal, sys, time
from pathlib import Path
from kij_train.local import Stop, Streams, run_nodes
from kij_train.spec import JobSpec

stop = Stop()

def slow(signum, frame):
    time.sleep(0.5)  # as on a busy machine: longer than the run waits for its nodes at a time
    stop(signum)

signal.signal(signal.SIGTERM, slow)

def emit(index, stream, line):
    if line == "up":
        os.kill(os.getpid(), signal.SIGTERM)

spec = JobSpec(program="sh", args=["-c", "echo up; exec sleep 600"], torchrun=False)
outcome = run_nodes(spec, cwd=Path.cwd(), environ=os.environ, streams=Streams(emit), stop=stop)
sys.exit(0 if outcome.stopped_by == signal.SIGTERM else 1)
"""


def test_a_run_hears_a_signal_whose_handler_takes_longer_than_it_waits(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNS], cwd=tmp_path, start_new_session=True
    ) as run:
        try:
            assert run.wait(timeout=60) == 0
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
