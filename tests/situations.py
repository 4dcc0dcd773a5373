"""Situations of real jobs, recorded for the tests of `why`: job, pods, events and nodes as JSON.

    make cluster
    python -m tests.cluster exec -- python -m tests.situations [NAME...]

Those of Kueue take it built: python -m tests.cluster build --part kueue

Each is made on the test cluster by the command that its file quotes, in a namespace of its own, and
written to tests/unit/situations/NAME.json once it is what it should be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from kij_train import diagnosis, jobs
from kij_train.cli.app import app
from kij_train.cluster import Cluster
from kij_train.cluster.submit import submit
from kij_train.diagnosis import JobState, JobView
from kij_train.jobs import change
from kubernetes import client

from tests import kueue, operators
from tests.cluster.paths import StatePaths
from tests.cluster.state import State
from tests.kube import Namespace, eventually, namespace

FOLDER = Path(__file__).parent / "unit/situations"
NAME = "job"
TIMEOUT_S = 150.0
MACHINES = ("node-1", "node-2", "simulated-1")
GPU = "nvidia.com/gpu"
INIT = "import os, sys, time, signal, torch, torch.distributed as dist\n"
JOIN = INIT + "dist.init_process_group('gloo')\ndist.barrier()\nrank = dist.get_rank()\n"
SLEEP = "import time\nprint('step 1', flush=True)\ntime.sleep(600)\n"

Prepare = Callable[[Namespace], None]


@dataclass
class Situation:
    """How to make it: a script and the arguments of launch, and what happens around."""

    script: str = SLEEP
    argv: str = ""
    until: str = "failed"
    """A state of the job; or a word of an event or of a pod's waiting reason."""
    prepare: Prepare | None = None
    during: Prepare | None = None
    """Once a pod runs."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of the namespace."""
    change: Callable[[dict[str, Any]], None] | None = None
    """Of the rendered Job: what no flag can do."""
    quota: kueue.Quota | None = None
    """Of a queue team-a of the real Kueue, which the job waits in."""


def env_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job["spec"]["template"]["spec"]["containers"][0]["env"])


def without_nnodes(job: dict[str, Any]) -> None:
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [one for one in container["env"] if one["name"] != "NNODES"]


def other_hash(job: dict[str, Any]) -> None:
    next(one for one in env_of(job) if one["name"] == "KIJ_CODE_SHA256")["value"] = "0" * 64


def rank0_sleeps(job: dict[str, Any]) -> None:
    container = job["spec"]["template"]["spec"]["containers"][0]
    line = 'if [ "$NODE_RANK" = 0 ]; then exec sleep 600; fi; exec "$@"'
    container["command"] = ["sh", "-c", line, "sh", *container["command"]]


def small_disk(job: dict[str, Any]) -> None:
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": {"ephemeral-storage": "20Mi"}}


def queued(job: dict[str, Any]) -> None:
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"


def first_pod(ns: Namespace) -> str:
    return str(ns.core.list_namespaced_pod(ns.name).items[0].metadata.name)


def delete_pod(ns: Namespace) -> None:
    ns.core.delete_namespaced_pod(first_pod(ns), ns.name, grace_period_seconds=0)


def evict_pod(ns: Namespace) -> None:
    name = first_pod(ns)
    ns.core.create_namespaced_pod_eviction(
        name, ns.name, {"metadata": {"name": name}, "deleteOptions": {"gracePeriodSeconds": 5}}
    )


def give_gpus(count: int) -> Prepare:
    """Let node-1 and node-2 say that they have GPUs."""

    def prepare(ns: Namespace) -> None:
        body = {"status": {"capacity": {GPU: str(count)}, "allocatable": {GPU: str(count)}}}
        for node in ("node-1", "node-2"):
            ns.core.patch_node_status(node, body)

    return prepare


def priority_classes(ns: Namespace) -> None:
    give_gpus(8)(ns)
    scheduling = client.SchedulingV1Api(ns.api)
    for name, value in (("kij-low", 1), ("kij-high", 1000)):
        try:
            scheduling.create_priority_class({"metadata": {"name": name}, "value": value})
        except client.ApiException as error:
            assert error.status == 409


def preempt(ns: Namespace) -> None:
    resources = {"limits": {GPU: "8"}}
    container = {"name": "c", "image": small(), "command": ["sleep", "60"], "resources": resources}
    for node in ("node-1", "node-2"):
        spec = {
            "priorityClassName": "kij-high",
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": node},
        }
        ns.core.create_namespaced_pod(ns.name, {"metadata": {"name": f"vip-{node}"}, "spec": spec})


def claim(ns: Namespace) -> None:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    body = {"metadata": {"name": "data"}, "spec": {**spec, "storageClassName": "none"}}
    ns.core.create_namespaced_persistent_volume_claim(ns.name, body)


def quota(**hard: str) -> Prepare:
    def prepare(ns: Namespace) -> None:
        spec = {"hard": {name.replace("_", "."): value for name, value in hard.items()}}
        ns.core.create_namespaced_resource_quota(
            ns.name, {"metadata": {"name": "team"}, "spec": spec}
        )
        time.sleep(1)

    return prepare


def cancel(ns: Namespace) -> None:
    change.cancel(connect(ns), NAME)


TWO = "--nodes 2 "
RACK, WAITS = "kij-train.test/rack", "unadmitted"
KUEUE = {
    "kueue-short-of-quota": Situation(
        argv="--queue team-a --nodes 2 --cpu 0.4",
        until=WAITS,
        quota=kueue.Quota("1"),
        prepare=lambda ns: kueue.hold(ns, small(), "0.5"),
    ),
    "kueue-more-than-all": Situation(
        argv="--queue team-a --cpu 2", until=WAITS, quota=kueue.Quota("1")
    ),
    "kueue-other-resource": Situation(
        argv="--queue team-a --cpu 0.1 --memory 1Gi", until=WAITS, quota=kueue.Quota("1")
    ),
    "kueue-no-such-queue": Situation(
        argv="--queue team-b --cpu 0.1", until=WAITS, quota=kueue.Quota("1")
    ),
    "kueue-stopped": Situation(
        argv="--queue team-a --cpu 0.1",
        until=WAITS,
        quota=kueue.Quota("1", more={"stopPolicy": "Hold"}),
    ),
    "kueue-taint": Situation(
        argv="--queue team-a --cpu 0.1",
        until=WAITS,
        quota=kueue.Quota(
            "1", flavor={"nodeTaints": [{"key": "spot", "value": "yes", "effect": "NoSchedule"}]}
        ),
    ),
    "kueue-affinity": Situation(
        argv="--queue team-a --cpu 0.1 --node-selector pool=a100",
        until=WAITS,
        quota=kueue.Quota("1", flavor={"nodeLabels": {"pool": "h100"}}),
    ),
    "kueue-no-place": Situation(
        argv=f"--queue team-a --nodes 2 --cpu 1.5 --topology {RACK}:required",
        until=WAITS,
        quota=kueue.Quota("8", racks=RACK),
    ),
    "kueue-no-level": Situation(
        argv="--queue team-a --nodes 2 --cpu 0.1 --topology zone:required",
        until=WAITS,
        quota=kueue.Quota("8", racks=RACK),
    ),
    "kueue-preempted": Situation(
        argv="--queue team-a --cpu 0.6 --no-torchrun --image SMALL",
        until="suspended",
        quota=kueue.Quota("1"),
        during=lambda ns: kueue.hold(ns, small(), "0.6", urgent=True),
    ),
}
SITUATIONS: dict[str, Situation] = {
    "exception-on-one-rank": Situation(
        JOIN + "if rank == 1: raise ValueError('bad batch')\ndist.all_reduce(torch.ones(1))\n", TWO
    ),
    "exception-on-all-ranks": Situation("raise ValueError('wrong learning rate')\n", TWO),
    "exception-in-one-of-four": Situation(
        JOIN + "if rank == 2: {}['loss']\ndist.all_reduce(torch.ones(1))\n",
        TWO + "--nproc-per-node 2",
    ),
    "exit-code-3": Situation("raise SystemExit(3)\n"),
    "out-of-memory": Situation(
        "x = []\nwhile True: x.append(bytearray(10**7))\n", "--memory 400Mi"
    ),
    "killed-by-itself": Situation(INIT + "os.kill(os.getpid(), signal.SIGKILL)\n"),
    "segmentation-fault": Situation(INIT + "os.kill(os.getpid(), signal.SIGSEGV)\n"),
    "bus-error": Situation(
        "import mmap\nf = open('/dev/shm/x', 'wb+')\nf.truncate(10**8)\n"
        "m = mmap.mmap(f.fileno(), 10**8)\nfor i in range(0, 10**8, 4096): m[i] = 1\n",
        "--shm 2Mi",
    ),
    "shm-full": Situation("open('/dev/shm/x', 'wb').write(bytes(10**8))\n", "--shm 2Mi"),
    "missing-module": Situation("import no_such_module\n"),
    "no-gpu-driver": Situation(INIT + "torch.zeros(1).cuda()\n"),
    "cuda-out-of-memory": Situation(
        INIT + "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. "
        "GPU 0 has a total capacity of 79.11 GiB of which 1.02 GiB is free.')\n"
    ),
    "nccl-error": Situation(
        INIT + "raise dist.DistBackendError('NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled "
        "system error, ncclSystemError: System call failed')\n"
    ),
    "nccl-timeout": Situation(
        INIT + "raise dist.DistBackendError('[Rank 0] Watchdog caught collective operation "
        "timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 600000 milliseconds')\n"
    ),
    "missing-program": Situation(argv="--no-python no-such-program"),
    "image-without-python": Situation(argv="--image kij-train.test/pause:1"),
    "image-without-torch": Situation(argv="--image SMALL"),
    "rank-0-never-came": Situation(argv=TWO + "--rendezvous-timeout 10s", change=rank0_sleeps),
    "contract-broken": Situation(change=without_nnodes),
    "code-changed": Situation(change=other_hash),
    "deadline-while-running": Situation(argv="--timeout 15s"),
    "deadline-while-pending": Situation(argv="--timeout 8s --node-selector disk=ssd"),
    "evicted-for-its-disk": Situation(
        "open('/tmp/x', 'wb').write(bytes(10**8))\nimport time; time.sleep(600)\n",
        change=small_disk,
    ),
    "evicted-by-a-drain": Situation(during=evict_pod),
    "pod-deleted": Situation(during=delete_pod),
    "preempted": Situation(
        argv="--gpus 1 --nproc-per-node 1 --priority-class kij-low",
        prepare=priority_classes,
        during=preempt,
    ),
    "asks-for-9-gpus": Situation(argv="--gpus 9", until="FailedScheduling", prepare=give_gpus(8)),
    "asks-for-too-much-memory": Situation(argv="--memory 4Ti", until="FailedScheduling"),
    "asks-for-too-many-cores": Situation(argv="--cpu 500", until="FailedScheduling"),
    "no-such-node": Situation(argv="--node-selector disk=ssd", until="FailedScheduling"),
    "half-a-gang": Situation(
        argv="--nodes 3 --gpus 8",
        until="FailedScheduling",
        prepare=give_gpus(8),
    ),
    "missing-claim": Situation(argv="--mount pvc:data:/data", until="FailedScheduling"),
    "unbound-claim": Situation(
        argv="--mount pvc:data:/data", until="FailedScheduling", prepare=claim
    ),
    "image-does-not-exist": Situation(argv="--image example.test/no/image:1", until="ErrImagePull"),
    "image-never-pulled": Situation(
        argv="--image example.test/no/image:1 --image-pull-policy Never", until="ErrImageNeverPull"
    ),
    "image-name-wrong": Situation(argv="--image UPPER:case", until="InvalidImageName"),
    "missing-secret": Situation(argv="--env-from-secret wandb", until="CreateContainerConfigError"),
    "missing-secret-mount": Situation(argv="--mount secret:keys:/keys", until="FailedMount"),
    "missing-configmap-mount": Situation(
        argv="--mount configmap:settings:/settings", until="FailedMount"
    ),
    "root-image-as-non-root": Situation(
        until="CreateContainerConfigError",
        change=lambda job: job["spec"]["template"]["spec"]["securityContext"].update(
            runAsNonRoot=True
        ),
    ),
    "quota-used-up": Situation(argv=TWO, until="FailedCreate", prepare=quota(pods="0")),
    "quota-wants-numbers": Situation(until="FailedCreate", prepare=quota(requests_cpu="4")),
    "pod-security": Situation(
        until="FailedCreate", labels={"pod-security.kubernetes.io/enforce": "restricted"}
    ),
    "missing-service-account": Situation(argv="--service-account robot", until="FailedCreate"),
    "missing-priority-class": Situation(argv="--priority-class none-such", until="FailedCreate"),
    "queued": Situation(until="suspended", change=queued),
    **KUEUE,
    "suspended": Situation(until="suspended"),
    "cancelled": Situation(until="cancelled", during=cancel),
    "running": Situation(until="running"),
    "succeeded": Situation("print('done')\n", TWO, until="succeeded"),
}


def small() -> str:
    return images()["python"]


def images() -> dict[str, str]:
    state = State.of_running(StatePaths.of_this_clone())
    assert state is not None, "first: make cluster"
    return state.images


def connect(ns: Namespace) -> Cluster:
    return Cluster.connect(kubeconfig=ns.kubeconfig, context=None, namespace=ns.name)


def record(name: str, situation: Situation, kubeconfig: str, launch: click.Command) -> None:
    """Make it, wait until it is there, write it down."""
    from kij_train import runs
    from kij_train.cli.options import flags_layer
    from kij_train.specfile import resolve

    with namespace(kubeconfig, situation.labels) as ns, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "train.py").write_text(situation.script)
        words = shlex.split(situation.argv.replace("SMALL", small()))
        if "--image" not in words:
            words = ["--image", images()["torch"], *words]
        if "--no-python" not in words:
            words.append("train.py")
        words = ["--name", NAME, *words]
        params = launch.make_context("launch", list(words)).params
        resolved = resolve(flags_layer(params), environ={}, cwd=folder)
        plan = runs.plan(resolved, cwd=folder, place=runs.OnCluster())
        if situation.quota:
            kueue.make(ns, situation.quota)
        if situation.prepare:
            situation.prepare(ns)
        objects = plan.objects()
        job = next(body for body in objects if body["kind"] == "Job")
        if situation.change:
            situation.change(job)
        cluster = connect(ns)
        if situation.until == "suspended" and not situation.quota:
            job["spec"]["suspend"] = True
            cluster.create(job)
        else:
            submit(cluster, objects)
        if situation.during:
            assert eventually(lambda: state_of(cluster) is JobState.RUNNING, 60), name
            time.sleep(2)
            situation.during(ns)
        if not eventually(lambda: is_there(cluster, situation.until), TIMEOUT_S):
            print(f"MISSED {name}: {jobs.why(cluster, NAME).text()}", flush=True)
            return
        time.sleep(3)
        write(name, cluster, f"kij-train launch {shlex.join(words)}", situation)
        if situation.quota:
            kueue.remove(ns)


def state_of(cluster: Cluster) -> JobState:
    return JobView(cluster.get("Job", NAME)).state


def is_there(cluster: Cluster, until: str) -> bool:
    if until == WAITS:
        workload = jobs.queue_of(cluster, JobView(cluster.get("Job", NAME))).workload or {}
        conditions = workload.get("status", {}).get("conditions", ())
        return any(one["type"] == "QuotaReserved" for one in conditions)
    if until in {state.value for state in JobState}:
        return state_of(cluster).value == until
    reasons = {node.reason for node in map(diagnosis.node_of, jobs.pods_of(cluster, NAME))}
    return until in reasons | {event.get("reason") for event in jobs.events_of(cluster, NAME)}


def write(name: str, cluster: Cluster, command: str, situation: Situation) -> None:
    job = cluster.get("Job", NAME)
    pods = cluster.list("Pod", labelSelector=f"batch.kubernetes.io/job-name={NAME}")
    events = jobs.events_of(cluster, NAME)
    machines = [
        {
            "metadata": {"name": node["metadata"]["name"]},
            "spec": {"taints": node["spec"].get("taints", [])},
            "status": {"allocatable": node["status"]["allocatable"]},
        }
        for node in cluster.list("Node")
        if node["metadata"]["name"] in MACHINES
    ]
    queue = jobs.queue_of(cluster, JobView(job)) if situation.quota else None
    of_kueue = {} if queue is None else {"queue": dataclasses.asdict(queue)}
    in_queue = (
        [] if queue is None else [queue.workload or {}, *queue.jobs, *(queue.local_queues or ())]
    )
    for one in [job, *pods, *events, *in_queue]:
        one.get("metadata", {}).pop("managedFields", None)
    found = {
        "command": command,
        "script": situation.script,
        "now": time.time(),
        "job": job,
        "pods": pods,
        "events": events,
        "machines": machines,
        **of_kueue,
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    verdict = diagnosis.why(
        JobView(job), pods, events, now=time.time(), machines=machines, queue=queue
    )
    kinds = [finding.kind for finding in verdict.findings]
    print(f"--- {name} {kinds}\n{verdict.text()}", flush=True)


def main() -> None:
    state = State.of_running(StatePaths.of_this_clone())
    assert state is not None, "first: make cluster"
    chosen = sys.argv[1:] or list(SITUATIONS)
    # Not in a thread: to import it, signals are heard.
    launch = app.get_command(None, "launch")  # type: ignore[arg-type] # needs no context
    assert launch is not None
    with contextlib.ExitStack() as stack:
        if any(SITUATIONS[name].quota for name in chosen):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(operators.running("kueue", folder))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        for name, done in [
            (name, pool.submit(record, name, SITUATIONS[name], state.kubeconfig, launch))
            for name in chosen
        ]:
            try:
                done.result()
            except Exception as error:
                print(f"MISSED {name}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
