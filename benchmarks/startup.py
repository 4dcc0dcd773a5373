"""What a command costs before anything trains, against the plain alternative, in one run.

    python benchmarks/startup.py [--runs 7] [--torchx PATH] [--out FILE]

Every pair is run in turn (A B A B …) after one warm-up, and the median of the ratios pair by pair
is what counts: the machine's speed drifts, the ratio does not. Needs torch, tar, xz and torchx with
its kubernetes extra. That one pins an old urllib3, so it gets an environment of its own where no
--torchx is named.
"""

from __future__ import annotations

import argparse
import datetime
import http.server
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "train_examples" / "hello_ranks.py"


@dataclass
class Result:
    """One comparison."""

    name: str
    limit: float
    """What the ratio, or the difference in seconds, may be at most."""
    value: float
    """Median ratio, or median difference in seconds."""
    unit: str
    ours_s: float
    """Median."""
    other_s: float
    """Median."""
    runs: int


def timed(command: list[str], **options: object) -> float:
    """Seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, **options)  # type: ignore[call-overload] # options are run's own
    return time.perf_counter() - started


def compare(
    name: str,
    limit: float,
    ours: Callable[[], float],
    other: Callable[[], float],
    runs: int,
    *,
    difference: bool = False,
) -> Result:
    """Run both in turn."""
    ours(), other()
    pairs = [(ours(), other()) for _ in range(runs)]
    values = [a - b if difference else a / b for a, b in pairs]
    result = Result(
        name=name,
        limit=limit,
        value=statistics.median(values),
        unit="s" if difference else "ratio",
        ours_s=statistics.median(a for a, _ in pairs),
        other_s=statistics.median(b for _, b in pairs),
        runs=runs,
    )
    mark = "ok" if result.value <= limit else "MISSED"
    print(
        f"{name:<58} {result.ours_s:6.3f} s  {result.other_s:6.3f} s  "
        f"{result.value:6.3f} {result.unit:<5} (at most {limit})  {mark}",
        flush=True,
    )
    return result


def tool(name: str) -> str:
    """A program of this Python's environment, or of the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise SystemExit(f"{name} is missing; see the head of this file")
    return found


class StubServer(http.server.BaseHTTPRequestHandler):
    """An API server that knows nothing: torchx asks one even for a dry run."""

    def do_GET(self) -> None:
        body = b'{"kind":"Status","status":"Failure","code":404}'
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def stub_kubeconfig(folder: Path) -> str:
    """A kubeconfig for a stub server that runs in a thread of this process."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StubServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(config))
    return str(path)


def install_torchx(folder: Path) -> str:
    """torchx and torch, which it imports, in an environment of their own."""
    venv.create(folder / "torchx", with_pip=True)
    python = str(folder / "torchx/bin/python")
    packages = ["torchx[kubernetes]>=0.7", "torch"]
    uv = Path(sys.executable).parent / "uv"
    install = [str(uv), "pip", "install", "--python", python]
    if not uv.exists():
        install = [python, "-m", "pip", "install"]
    subprocess.run([*install, "--quiet", *packages], check=True)
    return str(folder / "torchx/bin/torchx")


def command_line(runs: int, folder: Path, torchx: str) -> list[Result]:
    """--help and a dry run, against torchx."""
    ours = tool("kij-train")
    env = {**os.environ, "KUBECONFIG": stub_kubeconfig(folder)}
    render = [ours, "render", "--nodes", "2", "--nproc-per-node", "2", SCRIPT.name]
    # No workspace: with one, torchx asks a Docker daemon first, which takes it longer still.
    dryrun = [torchx, "run", "--dryrun", "--workspace=", "-s", "kubernetes"]
    dryrun += ["-cfg", "queue=default"]
    dryrun += ["dist.ddp", "-j", "2x2", "--script", SCRIPT.name]
    here = {"cwd": SCRIPT.parent, "env": env}
    return [
        compare(
            "kij-train --help / torchx --help",
            0.5,
            lambda: timed([ours, "--help"]),
            lambda: timed([torchx, "--help"]),
            runs,
        ),
        compare(
            "kij-train render / torchx run --dryrun -s kubernetes",
            0.3,
            lambda: timed(render, **here),
            lambda: timed(dryrun, **here),
            runs,
        ),
    ]


def bundling(runs: int, folder: Path) -> Result:
    """1,000 files of Python as an archive, against tar piped to xz."""
    from kij_train.code import bundle

    # The standard library's own sources, so that they compress as code does.
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    rng = random.Random(1)
    tree = folder / "tree"
    for number in range(1000):
        path = tree / f"package{number % 20}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = rng.choice(sources).read_bytes()
        start = rng.randrange(max(1, len(text) - 2000))
        path.write_bytes(text[start : start + 2000])

    def ours() -> float:
        started = time.perf_counter()
        bundle.pack(tree)
        return time.perf_counter() - started

    def plain() -> float:
        line = f"tar -cf - -C {tree} . | xz -{bundle.XZ_PRESET} -T1 >/dev/null"
        return timed(["sh", "-c", line])

    return compare("bundling 1,000 files / tar | xz", 2.0, ours, plain, runs)


def bootstrap(runs: int, folder: Path) -> Result:
    """One rank through the bootstrap, against torchrun itself."""
    from kij_train.pod import bootstrap as ours

    script = folder / "empty.py"
    script.touch()
    env = {
        **os.environ,
        "NODE_RANK": "0",
        "NNODES": "1",
        "NPROC_PER_NODE": "1",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29555",
        "TORCHELASTIC_ERROR_FILE": str(folder / "record"),
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=1"]
    torchrun += ["--node-rank=0", "--master-addr=127.0.0.1", "--master-port=29555"]
    return compare(
        "bootstrap - torchrun, one rank",
        0.1,
        lambda: timed([sys.executable, ours.__file__, str(script)], env=env),
        lambda: timed([*torchrun, str(script)]),
        runs,
        difference=True,
    )


def main() -> int:
    """Print the table, keep the report; exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--torchx", metavar="PATH", help="an installed torchx command")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/startup.json")
    args = parser.parse_args()
    print(f"{'':<58} {'ours':>8}  {'other':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torchx = args.torchx or install_torchx(folder)
        results = command_line(args.runs, folder, torchx)
        results += [bundling(args.runs, folder), bootstrap(args.runs, folder)]
        report = {
            "date": datetime.date.today().isoformat(),
            "command": f"python benchmarks/startup.py --runs {args.runs}",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            "python": platform.python_version(),
            "torchx": subprocess.run(
                [torchx, "--version"], check=True, capture_output=True, text=True
            ).stdout.strip(),
            "results": [asdict(result) for result in results],
        }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {args.out}")
    return int(any(result.value > result.limit for result in results))


if __name__ == "__main__":
    sys.exit(main())
