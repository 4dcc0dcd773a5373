"""What launching through TorchX costs, against its own Kubernetes scheduler and `kij-train launch`.

    python benchmarks/torchx.py [--runs 7] [--nodes 2] [--out FILE]

Dry runs of one component by both schedulers of the newest TorchX; and, on the cluster of
tests/cluster, which it starts if none runs, the time from the command until all ranks are
initialised. Both in turn (A B A B …) after one warm-up each; the median of the ratios pair by pair
counts. The dry runs have an environment of their own, with what TorchX's scheduler needs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)

from benchmarks import launch_overhead, startup  # noqa: E402 - the repository is no package

DRYRUN_LIMIT = 1.0
LAUNCH_LIMIT = 1.1


def with_torchx(folder: Path) -> Path:
    """An environment with kij-train, the newest TorchX and what its own scheduler needs."""
    home = folder / "torchx"
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
    packages = ["torchx-nightly", "docker", "-e", str(ROOT)]
    install = [uv, "pip", "install", "--quiet", "--python", str(home / "bin/python"), *packages]
    subprocess.run(install, check=True)
    return home / "bin/torchx"


def dry_runs(runs: int, folder: Path) -> startup.Result:
    """`torchx run --dryrun` with either scheduler; the workspace is no part of theirs."""
    torchx = str(with_torchx(folder))
    env = {**os.environ, "KUBECONFIG": startup.stub_kubeconfig(folder)}

    def dry_run(scheduler: str, *cfg: str) -> float:
        command = [torchx, "run", "--dryrun", "--workspace=", "-s", scheduler, *cfg]
        component = ["dist.torchrun", "-j", "2x1", "--script", "hello_ranks.py"]
        return startup.timed([*command, *component], env=env, cwd=str(folder))

    return startup.compare(
        "torchx run --dryrun, kij_train / kubernetes",
        DRYRUN_LIMIT,
        lambda: dry_run("kij_train"),
        # Without asking the server to validate it, which takes it longer still.
        lambda: dry_run("kubernetes", "-cfg", "queue=default,validate_spec=false"),
        runs,
    )


def launches(runs: int, nodes: int, image: str, folder: Path) -> startup.Result:
    """Until all ranks are initialised: through TorchX, and by `kij-train launch`."""
    ns = f"torchx-{uuid.uuid4().hex[:5]}"
    launch_overhead.output_of(["kubectl", "create", "namespace", ns], ROOT)
    code = folder / "code"
    code.mkdir()
    (code / "train.py").write_text(launch_overhead.SCRIPT)
    torchx = str(Path(sys.executable).parent / "torchx")

    def ours() -> float:
        cfg = f"namespace={ns},image={image}"
        line = [torchx, "run", "-s", "kij_train", "-cfg", cfg, "dist.torchrun"]
        started = time.time()
        handle = launch_overhead.output_of(
            [*line, "-j", f"{nodes}x1", "--script", "train.py"], code
        )
        # Read when it is over: a log that is followed would be paid for by the pods.
        name = handle.strip().rpartition(":")[2]
        wait = ["kubectl", "wait", "-n", ns, "--for=condition=complete", "--timeout=300s"]
        launch_overhead.output_of([*wait, f"job/{name}"], code)
        log = ["kubectl", "logs", "-n", ns, "--tail=-1", "--prefix", "-l"]
        lines = launch_overhead.output_of([*log, f"batch.kubernetes.io/job-name={name}"], code)
        return launch_overhead.initialised(lines) - started

    def other() -> float:
        return launch_overhead.kij_train(code, ns, image, nodes).initialised_s

    try:
        return startup.compare(
            "until all ranks are initialised, torchx / kij-train launch",
            LAUNCH_LIMIT,
            ours,
            other,
            runs,
        )
    finally:
        launch_overhead.output_of(["kubectl", "delete", "namespace", ns, "--wait=false"], ROOT)


def main() -> int:
    """Print both comparisons and keep a report; 1 when a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/torchx.json")
    parser.add_argument("--dry-runs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.argv[0] = str(Path(sys.argv[0]).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.dry_runs is None:
            # Outside of the cluster's network, where packages can be had.
            results = [dry_runs(arguments.runs, folder)]
            kept = Path(tempfile.mkdtemp()) / "dry-runs.json"
            kept.write_text(json.dumps([asdict(result) for result in results]))
            sys.argv += ["--dry-runs", str(kept)]
            arguments.dry_runs = kept
        state = launch_overhead.on_the_cluster()
        results = [startup.Result(**each) for each in json.loads(arguments.dry_runs.read_text())]
        results.append(launches(arguments.runs, arguments.nodes, state.images["torch"], folder))
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": f"python benchmarks/torchx.py --runs {arguments.runs} --nodes {arguments.nodes}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "load_average": os.getloadavg()[0],
        "results": [asdict(result) for result in results],
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(result.value > result.limit for result in results))


if __name__ == "__main__":
    sys.exit(main())
