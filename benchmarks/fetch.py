"""What `--fetch` saves: bytes read from the origin, and time, with a slow origin and many pods.

    python benchmarks/fetch.py [--size 1Gi] [--pods 8] [--rate 50] [--runs 3] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs. The origin is a server in this
process, which sends `--rate` MB/s to all its readers together and counts what it sends. In turn,
and the next time in the opposite order: `kij-train launch --fetch` with one pod, the same with all
pods, and a Job written by hand whose pods read the origin with urllib. Time is from the origin's
first request until the last pod has the file, by the one clock that pods and origin have. At the
end, all pods get ten packages, whose index counts who asks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - the repository is no package
from benchmarks.launch_overhead import on_the_cluster  # noqa: E402 - the repository is no package
from tests.kube import Namespace, eventually, namespace  # noqa: E402
from tests.origin import running  # noqa: E402
from tests.wheels import index, make_wheel, pip_in_a_zip  # noqa: E402

MOST_BYTES = 1.1
MOST_TIME = 1.3
PACKAGES = 10
HOST = "10.77.1.1"
"""Where pods reach this process."""
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}
ONE, ALL, PLAIN = "one pod, --fetch", "all pods, --fetch", "all pods, urllib"
CHECK = """\
import os, sys, time
at = time.time()
assert os.path.getsize("/data/model.bin") == int(sys.argv[1])
print("has it at", at, flush=True)
time.sleep(5)
"""
"""It stays, as training does: a pod that ends at once takes with it what others still want."""
URLLIB = """\
import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[2]) as answer, open("/data/model.bin", "wb") as file:
    shutil.copyfileobj(answer, file, 1 << 20)
"""
IMPORTS = "import time, {}\nprint('has them', flush=True)\ntime.sleep(5)\n"


@dataclass
class Run:
    """Of one way to get the file."""

    seconds: float
    """From the origin's first request, until the last pod has it."""
    of_the_file: float
    """Bytes that the origin has sent, as parts of the file's."""
    readers: int
    """Addresses that asked the origin."""
    command_s: float
    """From the command, until the job is complete."""


def size_of(text: str) -> int:
    """Bytes of 256Mi or 1Gi."""
    return int(text[:-2]) * UNITS[text[-2:]]


def by_hand(name: str, image: str, pods: int, words: list[str]) -> list[dict[str, Any]]:
    """The objects of the Job that one writes by hand."""
    container = {
        "name": "read",
        "image": image,
        "command": ["sh", "-ec", 'python3 /code/read.py "$@"; python3 /code/check.py "$@"', "sh"],
        "args": words,
        "volumeMounts": [
            {"name": "code", "mountPath": "/code"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    volumes = [{"name": "code", "configMap": {"name": name}}, {"name": "data", "emptyDir": {}}]
    template = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    spec = {
        "completions": pods,
        "parallelism": pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": template},
    }
    data = {"read.py": URLLIB, "check.py": CHECK}
    code = {"apiVersion": "v1", "kind": "ConfigMap", "data": data}
    job = {"apiVersion": "batch/v1", "kind": "Job", "spec": spec}
    return [{**body, "metadata": {"name": name}} for body in (code, job)]


def log_of(ns: Namespace, name: str) -> str:
    """What all pods of a job have said."""
    found = ns.core.list_namespaced_pod(ns.name, label_selector=f"job-name={name}").items
    logs = [ns.core.read_namespaced_pod_log(pod.metadata.name, ns.name) for pod in found]
    return "\n".join(map(str, logs))


def launch(ns: Namespace, folder: Path, name: str, *words: str) -> None:
    """By kij-train, until the job is complete."""
    fixed = ("launch", "--name", name, "--no-torchrun")
    done = ns.kij_train(*fixed, *words, cwd=folder, timeout_s=900)
    assert done.returncode == 0, done.stderr + ns.report()


def run_by_hand(ns: Namespace, name: str, image: str, pods: int, words: list[str]) -> None:
    """By hand, until the Job is complete."""
    code, job = by_hand(name, image, pods, words)
    ns.core.create_namespaced_config_map(ns.name, code)
    ns.batch.create_namespaced_job(ns.name, job)

    def ended() -> bool:
        status = ns.batch.read_namespaced_job(name, ns.name).status
        assert not status.failed, ns.report()
        return bool(status.succeeded == pods)

    assert eventually(ended, 900), ns.report()


def one_run(
    way: str, ns: Namespace, folder: Path, image: str, data: bytes, pods: int, rate: float
) -> Run:
    """Of that way, with an origin of its own."""
    name, count = f"fetch-{uuid.uuid4().hex[:5]}", 1 if way == ONE else pods
    with running(data, "0.0.0.0") as origin:
        origin.bytes_s, origin.etags = rate, False  # its ETag is a hash of all, at every request
        url, started = f"http://{HOST}:{origin.port}/model.bin", time.time()
        if way == PLAIN:
            run_by_hand(ns, name, image, count, [str(len(data)), url])
        else:
            words = ("--nodes", str(count), "--image", image, "--fetch", f"{url}:/data")
            launch(ns, folder, name, *words, "check.py", str(len(data)))
        command_s = time.time() - started
        said = log_of(ns, name).splitlines()
        ends = [float(line.split()[-1]) for line in said if line.startswith("has it at")]
        assert len(ends) == count, said
        sent, readers = origin.sent / len(data), len(origin.readers)
        seconds = max(ends) - origin.requests[0].at
    ns.delete_job(name)
    eventually(lambda: not ns.core.list_namespaced_pod(ns.name).items, 120)
    return Run(seconds, sent, readers, command_s)


def packages(ns: Namespace, folder: Path, image: str, pods: int) -> dict[str, int]:
    """Who asks the index for what, when all pods get the packages."""
    names = [f"kijten{number}" for number in range(PACKAGES)]
    wheels = [make_wheel(folder.parent / "wheels", name, "1.0") for name in names]
    pip_in_a_zip(folder / "pip.zip")
    (folder / "ten.py").write_text(IMPORTS.format(", ".join(names)))
    with index(wheels, HOST) as server:
        words = ["--nodes", str(pods), "--image", image]
        settings = {
            "PIP_INDEX_URL": server.url,
            "PIP_TRUSTED_HOST": HOST,
            "PYTHONPATH": "/kij/work/code/pip.zip",
        }
        words += [word for each in settings.items() for word in ("--env", "=".join(each))]
        words += [word for name in names for word in ("--with", f"{name}==1.0")]
        launch(ns, folder, "ten", *words, "ten.py")
        assert log_of(ns, "ten").count("has them") == pods, ns.report()
        files = [path for _, path in server.asked if path.startswith("/files/")]
        return {
            "packages": PACKAGES,
            "pods": pods,
            "pods_that_asked": len({address for address, _ in server.asked}),
            "requests": len(server.asked),
            "of_files": len(files),
            "different_files": len(set(files)),
        }


def measure(
    image: str, kubeconfig: str, size: int, pods: int, rate: float, runs: int
) -> tuple[dict[str, list[Run]], dict[str, int]]:
    """All ways, in turn, in a namespace of their own."""
    data, ways = os.urandom(size), (ONE, ALL, PLAIN)
    found: dict[str, list[Run]] = {way: [] for way in ways}
    with namespace(kubeconfig) as ns, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "code"
        folder.mkdir()
        (folder / "check.py").write_text(CHECK)
        for turn in range(runs):
            for way in ways if turn % 2 == 0 else ways[::-1]:
                found[way].append(one_run(way, ns, folder, image, data, pods, rate))
                print(f"{turn} {way}: {found[way][-1]}", flush=True)
        return found, packages(ns, folder, image, pods)


def summary(found: dict[str, list[Run]]) -> dict[str, float]:
    """Medians of the ratios run by run."""
    triples = list(zip(found[ONE], found[ALL], found[PLAIN], strict=True))
    return {
        "of_the_file": statistics.median(run.of_the_file for run in found[ALL]),
        "time_of_one_pod": statistics.median(a.seconds / one.seconds for one, a, _ in triples),
        "time_of_urllib": statistics.median(a.seconds / hand.seconds for _, a, hand in triples),
    }


def table(report: dict[str, Any]) -> str:
    """As Markdown, with what was run where."""
    ratios, ten = report["ratios"], report["packages"]
    lines = [
        f"`{report['command']}`, {report['date']}, {report['size']} to {report['pods']} pods, an "
        f"origin of {report['rate_mb_s']:g} MB/s, {report['runs']} runs each, in turn. "
        f"{report['machine']}, load average before {report['load_average_before'][0]}.",
        "",
        "| medians | read from the origin, of the file | readers | s, until the last pod has it "
        "| s, whole command |",
        "|---|---:|---:|---:|---:|",
    ]
    for way, runs in report["found"].items():
        part = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        lines.append(
            f"| {way} | {part['of_the_file']:.2f} | {part['readers']:g} | {part['seconds']:.1f} "
            f"| {part['command_s']:.1f} |"
        )
    lines += [
        "",
        f"With `--fetch`, all pods read {ratios['of_the_file']:.2f} of the file (aim: at most "
        f"{MOST_BYTES}), in {ratios['time_of_one_pod']:.2f} of a single pod's time (aim: at most "
        f"{MOST_TIME}) and {ratios['time_of_urllib']:.2f} of the time with urllib; ratios run by "
        f"run, medians.",
        "",
        f"{ten['packages']} packages to {ten['pods']} pods: {ten['pods_that_asked']} pod asked the "
        f"index, in {ten['requests']} requests, {ten['of_files']} of them for "
        f"{ten['different_files']} wheels.",
    ]
    return "\n".join(lines) + "\n"


def plot(found: dict[str, list[Run]], file: Path) -> None:
    """Every run as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    labels = {
        "seconds": "seconds, first request to last pod",
        "of_the_file": "read from the origin, of the file",
    }
    for axes, (field, label) in zip(both, labels.items(), strict=True):
        for at, runs in enumerate(found.values()):
            values = [getattr(run, field) for run in runs]
            axes.plot([at] * len(values), values, "o", color="tab:blue", alpha=0.5)
            axes.hlines(statistics.median(values), at - 0.15, at + 0.15, color="tab:blue")
        axes.set_xticks(range(len(found)), [way.replace(", ", "\n") for way in found])
        axes.set_xlim(-0.6, len(found) - 0.4)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    figure.savefig(file, dpi=120)


def main() -> int:
    """Print a table, keep a report and a plot; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="1Gi", help="of the file, in Mi or Gi")
    parser.add_argument("--pods", type=int, default=8)
    parser.add_argument("--rate", type=float, default=50, help="of the origin, in MB/s")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    circumstances = kept.circumstances()
    size, pods, rate = size_of(arguments.size), arguments.pods, arguments.rate * 1e6
    state = on_the_cluster()
    found, ten = measure(state.images["python"], state.kubeconfig, size, pods, rate, arguments.runs)
    ratios = summary(found)
    report = {
        **circumstances,
        "load_average_after": [round(one, 2) for one in os.getloadavg()],
        "size": arguments.size,
        "pods": pods,
        "rate_mb_s": arguments.rate,
        "runs": arguments.runs,
        "ratios": ratios,
        "found": {way: [asdict(run) for run in runs] for way, runs in found.items()},
        "packages": ten,
    }
    kept.keep(report, table(report), arguments.out, "fetch", partial(plot, found))
    missed = ratios["of_the_file"] > MOST_BYTES or ratios["time_of_one_pod"] > MOST_TIME
    return int(missed or ten["pods_that_asked"] > 1)


if __name__ == "__main__":
    sys.exit(main())
