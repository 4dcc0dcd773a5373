"""What DNS and rank 0 see of thousands of pods that wait for rank 0.

    python benchmarks/rank0_wait.py [--pods 5000] [--seconds 20] [--beside FOLDER] [--out FOLDER]

On the cluster of tests/cluster, which it starts if none runs. Every waiting pod is a thread of a
process: it runs the very function of kij_train.pod.rank0, with the resolv.conf of a pod, against
the cluster's CoreDNS. They begin at random moments of START_S. In turn: the name of index 0 has no
address; it has one, and nobody listens; it listens, until all are connected. `--beside` does the
same with the code of another checkout first.

The kernel counts queries and connections, in the namespace of network that CoreDNS and the
waiting pods share (/proc/net/snmp): a datagram that comes in is a query or its answer, so half of
them are queries. What the cluster itself sends is counted before, and taken off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import kept  # noqa: E402 - no package
from benchmarks.launch_overhead import on_the_cluster, output_of  # noqa: E402
from tests.cluster.network import CLUSTER_DOMAIN, IPV4  # noqa: E402

PORT = 29500
PROCESSES = 10
START_S = 10.0
LIMIT_S = 120.0
DOMAINS = (f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN)


def wait_as_pods(count: int, nnodes: int) -> None:
    """Be so many pods; say how many have found rank 0, each time that one has."""
    sys.path.insert(0, os.environ["KIJ_LAUNCHER"])
    from kij_train.pod.rank0 import wait_for_rank0

    def wait() -> None:
        time.sleep(random.uniform(0, START_S))
        wait_for_rank0("job-0.job", PORT, 600, nnodes)
        os.write(1, b"1\n")

    threading.stack_size(256 << 10)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # 5,000 that say that they still wait
    threads = [threading.Thread(target=wait) for _ in range(count)]
    os.write(1, b"0")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def counted() -> dict[str, int]:
    """Datagrams that have come in, and connections that were begun, in this namespace."""
    found: dict[str, int] = {}
    lines = Path("/proc/net/snmp").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        kind, *rest = names.split()
        found.update(
            {kind + name: int(n) for name, n in zip(rest, values.split()[1:], strict=True)}
        )
    return {
        "queries": found["Udp:InDatagrams"] // 2,
        "lost": found["Udp:InErrors"],
        "connections": found["Tcp:ActiveOpens"],
    }


def per_second(seconds: float, idle: dict[str, float] | None = None) -> dict[str, float]:
    """What is counted in a second, on average, less what was when idle; queries also at most."""
    first = before = counted()
    began = time.monotonic()
    most = 0.0
    cpu = dns_cpu_s()
    while time.monotonic() < began + seconds:
        time.sleep(1)
        now = counted()
        most = max(most, now["queries"] - before["queries"])
        before = now
    took = time.monotonic() - began
    off = idle or dict.fromkeys(before, 0.0)
    found = {name: (before[name] - first[name]) / took - off[name] for name in before}
    return {**found, "most_queries": most, "dns_cpu": (dns_cpu_s() - cpu) / took}


def dns_cpu_s() -> float:
    """CPU seconds of the CoreDNS in this namespace of network."""
    here, seconds = Path("/proc/self/ns/net").readlink(), 0.0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_dns = "Corefile" in " ".join(process.cmdline())
            if is_dns and Path(f"/proc/{process.pid}/ns/net").readlink() == here:
                seconds += sum(process.cpu_times()[:2])
    return seconds


def objects(ns: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headless Service, and what says that index 0 has an address."""
    meta = {"name": "job", "namespace": ns}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"clusterIP": "None", "ports": [{"port": PORT}]},
    }
    labels = {"kubernetes.io/service-name": "job"}
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"port": PORT}],
        "endpoints": [{"addresses": [IPV4.addresses()[0]], "hostname": "job-0"}],
    }
    return service, piece


def create(made: dict[str, Any]) -> None:
    """Create an object."""
    done = ["kubectl", "create", "-f", "-"]
    subprocess.run(done, input=json.dumps(made), text=True, check=True, stdout=subprocess.DEVNULL)


def one(which: str, launcher: Path, pods: int, seconds: float) -> dict[str, Any]:
    """All of it, with the code of one checkout."""
    ns = f"rank0-{which}-{os.getpid()}"
    output_of(["kubectl", "create", "namespace", ns], ROOT)
    service, piece = objects(ns)
    create(service)
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "resolv.conf"
        search = " ".join((f"{ns}.{DOMAINS[0]}", *DOMAINS))
        conf.write_text(f"search {search}\nnameserver {IPV4.addresses()[0]}\noptions ndots:5\n")
        script = f'mount --bind {conf} "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        argv = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, str(Path(__file__))]
        argv += ["--as-pods", str(pods // PROCESSES), "--pods", str(pods)]
        found: dict[str, Any] = {}
        idle = per_second(5)
        read, write = os.pipe()
        waiting = [
            subprocess.Popen(argv, stdout=write, env={**os.environ, "KIJ_LAUNCHER": str(launcher)})
            for _ in range(PROCESSES)
        ]
        os.close(write)
        try:
            for _ in waiting:
                os.read(read, 1)
            found["while they start"] = per_second(START_S, idle)
            time.sleep(2 * START_S)  # each pauses as long as it ever does
            found["without an address"] = per_second(seconds, idle)
            create(piece)
            time.sleep(2 * START_S)  # all have heard of it
            found["nobody listens"] = per_second(seconds, idle)
            with socket.create_server(("", PORT), backlog=4096) as listener:
                threading.Thread(target=accept, args=(listener,), daemon=True).start()
                began = time.monotonic()
                at = [time.monotonic() - began for _ in os.fdopen(read)]
            found["connected"] = {"of": len(at), "median_s": at[len(at) // 2], "last_s": at[-1]}
        finally:
            for process in waiting:
                process.kill()
                process.wait()
            output_of(["kubectl", "delete", "namespace", ns, "--wait=false"], ROOT)
    print(json.dumps(found), flush=True)
    return found


def accept(listener: socket.socket) -> None:
    """Let all in."""
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def table(report: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        f"`{report['command']}`, {report['date']}; {report['machine']}, load average "
        f"{report['load_average_before'][0]} before. {report['pods']} pods wait, beside CoreDNS on "
        "the same cores: a rate that its answers limit would be higher elsewhere.",
        "",
        "| | " + " | ".join(report["runs"]) + " |",
        "|---|" + "---:|" * len(report["runs"]),
    ]
    runs = report["runs"].values()
    for phase in ("while they start", "without an address", "nobody listens"):
        for name, what in (
            ("queries", "DNS queries a second"),
            ("most_queries", "most of them in one second"),
            ("dns_cpu", "cores that CoreDNS takes"),
            ("connections", "connections a second"),
        ):
            numbers = [run[phase][name] for run in runs]
            cells = [f"{n:.2f}" if name == "dns_cpu" else f"{max(n, 0):,.0f}" for n in numbers]
            lines.append(f"| {phase}: {what} | " + " | ".join(cells) + " |")
    for name, what in (("median_s", "half of them"), ("last_s", "all")):
        cells = [f"{run['connected'][name]:.1f}" for run in runs]
        lines.append(
            f"| it listens: seconds until {what} have reached it | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print a table and keep a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--beside", type=Path, help="a checkout with other code")
    parser.add_argument("--as-pods", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    if arguments.as_pods:
        wait_as_pods(arguments.as_pods, arguments.pods)
        return 0
    assert shutil.which("unshare"), "it takes unshare, of util-linux"
    on_the_cluster()
    report: dict[str, Any] = {**kept.circumstances(), "pods": arguments.pods, "runs": {}}
    codes = {"before": arguments.beside, "now": ROOT} if arguments.beside else {"now": ROOT}
    for which, code in codes.items():
        launcher = code / "launcher"
        report["runs"][which] = one(which, launcher, arguments.pods, arguments.seconds)
    kept.keep(report, table(report), arguments.out, "rank0_wait")
    return 0


if __name__ == "__main__":
    sys.exit(main())
