"""A network that is cut between two machines, with spares on both sides.

Both sides still reach DNS and the API server, so neither takes itself for cut off.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.network import IPV4, NodeNetwork
from tests.faults import Lasting
from tests.kube import eventually
from tests.node.conftest import Start

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.own_cluster,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]
NODES, SPARES = 3, 2
ONE, OTHER = NodeNetwork(1, IPV4), NodeNetwork(2, IPV4)
BEATS = """\
with (folder / f"beats-{os.uname().nodename}").open("a") as file:
    print(time.time(), step, os.environ.get("KIJ_RESTARTS", 0), file=file)
"""
"""Every rank notes every step that all of them have done together."""
CUT_S = 40.0


@contextlib.contextmanager
def cut() -> Iterator[None]:
    """No packet goes from a pod of one machine to a pod of the other."""
    rules = [
        ["iif", one.bridge, "to", other.pod_subnet, "blackhole"]
        for one, other in ((ONE, OTHER), (OTHER, ONE))
    ]
    for rule in rules:
        subprocess.run(["ip", "rule", "add", *rule], check=True)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["ip", "rule", "del", *rule], check=True)


class Beat(NamedTuple):
    """A step that a rank of a pod has done; `pod` is its host name."""

    time: float
    step: int
    restarts: int
    pod: str


def beats(job: Lasting) -> list[Beat]:
    """Of all pods, in the order of time."""
    found = []
    for file in Path(job.folder).glob("beats-*"):
        for line in file.read_text().splitlines():
            when, step, restarts = line.split()
            pod = file.name.partition("-")[2]
            found.append(Beat(float(when), int(step), int(restarts), pod))
    return sorted(found)


def test_of_two_sides_of_a_cut_network_one_trains_and_never_both(start: Start) -> None:
    flags = ["--restart", "gang", "--nodes", str(NODES), "--spares", str(SPARES)]
    job = start(*flags, "--max-restarts", "20")
    job.await_whole(NODES + SPARES)
    pods = job.machines()
    machines = {pod.rpartition("-")[0]: machine for pod, machine in pods.items()}
    (larger, many), (smaller, few) = Counter(machines.values()).most_common()
    assert (many, few) == (NODES, SPARES), machines
    for rank in range(NODES):
        job.order(rank, BEATS, again=True)
    assert eventually(lambda: len({beat.pod for beat in beats(job)}) == NODES, 60)
    trained = {beat.pod for beat in beats(job)}
    assert {machines[pod] for pod in trained} == {larger, smaller}, "both sides have a spare"
    with cut():
        began = time.time()
        goes_on = job.await_step(began + 1, 1, 120)
        time.sleep(CUT_S - (time.time() - began))
        healed = time.time()
    found = beats(job)
    late = [beat for beat in found if began + 1 < beat.time < healed]
    assert {machines[beat.pod] for beat in late} == {larger}
    assert late[-1].time > healed - 5, "it trains until the network is whole again"
    # No step of a round after the first step of the next one, on either side.
    restarts = [beat.restarts for beat in found]
    assert restarts == sorted(restarts)
    done = [step.step for step in job.steps]
    assert sorted(set(done)) == list(range(done[-1] + 1))
    assert len(done) - len(set(done)) <= restarts[-1], "a step again in each new round at most"
    assert job.machines() == pods, "no pod was deleted or has ended"
    assert goes_on.world == NODES
    job.await_whole(NODES + SPARES)  # those of the smaller side are spares again
    assert eventually(lambda: all(job.stands_by(pod) for pod in pods if pods[pod] == smaller), 60)
    assert job.finish() == 0, job.log.read_text()
