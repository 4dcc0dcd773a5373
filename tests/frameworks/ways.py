"""Run a case under torchrun, and by kij-train on this machine and in pods."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kij_train.local.machine import free_port

from tests.frameworks.cases import SCRIPTS, Case
from tests.frameworks.results import Result, files_of, lines_of, without_ours
from tests.kube import Namespace, eventually

RANKS = 2
SHAPES = {"local": (1, 2), "local gang": (1, 2), "pods": (2, 1), "pods gang": (2, 1)}
"""Nodes, and ranks a node, of every way."""
LOCAL, PODS = ("local", "local gang"), ("pods", "pods gang")
RUN_S = 900
"""Far more than a run takes, also on a slow machine."""
ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
CODE_IN_PODS, OUT_IN_PODS, PACKAGES_IN_PODS = "/kij/work/code", "/frameworks-out", "/frameworks"


def project(case: Case, folder: Path) -> Path:
    """A folder with the script, as a user has it."""
    folder.mkdir(parents=True)
    shutil.copy(SCRIPTS / case.script, folder)
    return folder


class Commands:
    """Processes that run beside each other, their output in files."""

    def __init__(self, folder: Path, cwd: Path, *lines: list[str]) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.started = []
        for number, line in enumerate(lines):
            paths = [folder / f"{number}.{stream}" for stream in ("out", "err")]
            with paths[0].open("wb") as out, paths[1].open("wb") as err:
                process = subprocess.Popen(
                    line,
                    cwd=cwd,
                    env={**os.environ, **ENV},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
                self.started.append(process)

    def send(self, signum: signal.Signals) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signum)

    def end(self, within_s: float = RUN_S) -> int:
        """Wait for all; the code of the first that failed, or that of SIGKILL.

        The first ends the others, as a cluster's scheduler does.
        """
        failed: list[int] = []

        def over() -> bool:
            codes = [process.poll() for process in self.started]
            if not failed and any(codes):
                failed.extend(code for code in codes if code)
                self.send(signal.SIGTERM)
            return None not in codes

        try:
            if not eventually(over, within_s):
                failed.append(-signal.SIGKILL)
        finally:
            for process in self.started:
                process.kill()
                process.wait()
        return failed[0] if failed else 0

    def texts(self, stream: str) -> list[str]:
        return [
            (self.folder / f"{number}.{stream}").read_text(errors="replace")
            for number in range(len(self.started))
        ]


def stopped(case: Case, out: Path, stop: Callable[[], object]) -> None:
    """Once all ranks wait for it."""
    if case.stop is not None:
        ready = [out / f"waiting-{rank}" for rank in range(RANKS)]
        assert eventually(lambda: all(path.exists() for path in ready), RUN_S)
        stop()


def by_torchrun(case: Case, shape: tuple[int, int], folder: Path) -> Result:
    """A torchrun a node, all of them on this machine.

    Every rank has files for its output: torchrun's ranks write a line and its end apart, and the
    lines of two ranks would mix.
    """
    code = project(case, folder / "code")
    (nodes, nproc), port = shape, free_port()
    line = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={nproc}"]
    line += [f"--nnodes={nodes}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    line += [f"--max-restarts={case.max_restarts}", "--redirects=3"]
    if case.max_restarts and nodes > 1:  # nodes restart together by this rendezvous alone
        line += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    logs = folder / "ranks"
    script = script_of(case, str(code / "out"))
    lines = [[*line, f"--node-rank={n}", f"--log-dir={logs}/{n}", *script] for n in range(nodes)]
    run = Commands(folder / "log", code, *lines)
    stopped(case, code / "out", lambda: run.send(case.stop or signal.SIGTERM))
    status = run.end()
    roots = {str(code): "<code>"}
    out, err = (
        lines_of("".join(_whole(path) for path in sorted(logs.rglob(f"{name}.log"))), roots)
        for name in ("stdout", "stderr")
    )
    return Result(status, out, err, files_of(code, roots))


def _whole(path: Path) -> str:
    """With the end of its last line, if there is a line."""
    text = path.read_text(errors="replace")
    return text if text.endswith("\n") or not text else text + "\n"


def by_local_launch(case: Case, way: str, folder: Path) -> Result:
    """`kij-train launch --local`."""
    code, name = project(case, folder / "code"), name_of(case, way)
    line = [sys.executable, "-m", "kij_train", "launch", "--local", *flags(case, way)]
    run = Commands(folder / "log", code, [*line, *script_of(case, str(code / "out"))])
    stopped(case, code / "out", lambda: run.send(case.stop or signal.SIGTERM))
    status = run.end()
    roots = {str(code): "<code>"}
    out = lines_of("".join(run.texts("out")), roots)
    err = lines_of(without_ours("".join(run.texts("err")), name), roots)
    return Result(status, out, err, files_of(code, roots))


def name_of(case: Case, way: str) -> str:
    """Of the job."""
    return f"{case.script.partition('.')[0]}-{way}".replace("_", "-").replace(" ", "-")


def script_of(case: Case, out: str) -> list[str]:
    """The script and its arguments."""
    return [case.script, *(word.replace("{out}", out) for word in case.argv)]


def flags(case: Case, way: str) -> list[str]:
    nodes, nproc = SHAPES[way]
    given = ["--name", name_of(case, way), "--nodes", str(nodes), "--nproc-per-node", str(nproc)]
    if way.endswith("gang"):
        given += ["--restart", "gang", "--max-restarts", str(case.max_restarts)]
    return given


def in_pods(
    case: Case, way: str, folder: Path, ns: Namespace, image: str, shared: Path, packages: Path
) -> Result:
    """`kij-train launch`, attached, and `kij-train logs -f --all` beside it.

    What the script writes elsewhere than to --out is gone with its pod, and not compared.
    """
    code, name = project(case, folder / "code"), name_of(case, way)
    out = shared / f"{ns.name}-frameworks"
    out.mkdir()
    out.chmod(0o777)

    def command(verb: str, *argv: str) -> list[str]:
        own = ["--namespace", ns.name, "--kubeconfig", ns.kubeconfig]
        return [sys.executable, "-m", "kij_train", verb, *own, *argv]

    env = {**ENV, "PYTHONPATH": PACKAGES_IN_PODS}
    given = [*flags(case, way), "--image", image, "--timeout", "14m"]
    given += ["--mount", f"hostpath:{packages}:{PACKAGES_IN_PODS}"]
    given += ["--mount", f"hostpath:{out}:{OUT_IN_PODS}"]
    given += [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
    launch = Commands(
        folder / "launch", code, command("launch", *given, *script_of(case, OUT_IN_PODS))
    )
    try:
        assert eventually(
            lambda: "jobs/" + name in ns.left() or launch.started[0].poll() is not None, 60
        ), "".join(launch.texts("err"))
        logs = Commands(folder / "log", code, command("logs", name, "-f", "--all"))
        stopped(case, out, lambda: subprocess.run(command("cancel", name), check=True, timeout=60))
        status = launch.end()
        logs.end(20 if case.stop else RUN_S)  # a cancelled job may be resumed, and is followed
        roots = {CODE_IN_PODS: "<code>", OUT_IN_PODS: "<code>/out"}
        files = {f"out/{path}": content for path, content in files_of(out, roots).items()}
        return Result(status, lines_of("".join(logs.texts("out")), roots), None, files)
    finally:
        shutil.rmtree(out)
