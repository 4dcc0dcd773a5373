"""What each kind of finding means in general; `why` says what it is of one job.

The kinds are names for scripts, and never change. `words` are what Kubernetes, a kernel or a log
calls it: people know it by them. test_explain.py compares the table with the findings that the
other modules of this package make.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of finding, for people."""

    meaning: str
    words: tuple[str, ...] = ()


KINDS = {
    # How a rank, a program or a container ended.
    "exception": Kind("The script raised an exception: the first one of all ranks is shown."),
    "exit-code": Kind("A program ended with an exit code other than 0, which is its own verdict."),
    "signal": Kind("A signal ended a process, such as SIGSEGV after a wrong access to memory."),
    "killed": Kind(
        "SIGKILL ended a process. As a rule the kernel did it, for memory: that of the pod's limit,"
        " or the machine's.",
        ("SIGKILL", "137"),
    ),
    "oom-killed": Kind(
        "The processes of a pod took more memory than its limit, and the kernel killed one. Files "
        "in /dev/shm and emptyDirs in memory count as well.",
        ("OOMKilled",),
    ),
    "terminated": Kind(
        "SIGTERM told it to end: its Job, its pod or its machine was stopped.", ("SIGTERM", "143")
    ),
    "aborted": Kind(
        "A process called abort(): a failed assertion in C++, or NCCL's watchdog.",
        ("SIGABRT", "134"),
    ),
    "not-executable": Kind("The image has the program, but it may not be run.", ("126",)),
    "not-found": Kind("The image has no such program.", ("127",)),
    "not-started": Kind("The container could not be started at all.", ("128",)),
    "no-python": Kind("The image has no python3 on its PATH, which the first process needs."),
    "preflight": Kind(
        "--preflight found a machine or a GPU that is not fit to train, or too slow."
    ),
    "missing-module": Kind("A Python module is not installed where the script runs."),
    "cuda-out-of-memory": Kind("A GPU's memory is full.", ("CUDA out of memory",)),
    "cuda": Kind("CUDA finds no GPU, or the driver of the machine is too old for the image."),
    "shared-memory": Kind(
        "The shared memory, /dev/shm, is full: DataLoader workers and NCCL exchange data there.",
        ("SIGBUS",),
    ),
    "nccl": Kind("NCCL failed. Often another rank failed first, or the network did."),
    "nccl-timeout": Kind(
        "A rank waited in a collective until NCCL's watchdog gave up: another one never came."
    ),
    "disk-full": Kind("A disk, a volume or a quota of disk space is full."),
    "left-out": Kind("The script misses a file that was not shipped with the code."),
    "items-failed": Kind("Items of an array failed, each cause by itself; the others are done."),
    "more": Kind("Other causes, which `report` has all of."),
    "report": Kind("Where every failed item of an array is listed with its cause."),
    "foreign-container": Kind(
        "A container that a policy of the cluster has added to the pod failed, and the pod with it."
    ),
    "init-container": Kind(
        "A container that the cluster has added, and which runs before the training, does not end."
    ),
    "held-up": Kind(
        "The training has ended, but a container that the cluster has added goes on, and with it "
        "the pod and its GPUs."
    ),
    "deadline": Kind("The job did not end within its --timeout.", ("DeadlineExceeded",)),
    # What the first process could not do.
    "contract": Kind("Variables of the pod are missing or contradict each other."),
    "code": Kind("The code, the script or the program that was to run is not there."),
    "prepare": Kind("--setup failed, or packages or data cannot be had."),
    "origin": Kind("An origin did not give what it has, or there is no room for it."),
    "rendezvous": Kind("Rank 0 did not come within --rendezvous-timeout."),
    "package-not-found": Kind("The index of packages has no package of that name."),
    "package-no-match": Kind("No version of a package fits the Python of the image."),
    "package-conflict": Kind("Two packages want versions of a third that exclude each other."),
    "package-torch": Kind("Packages would replace the torch of the image."),
    "package-hash": Kind("A package is not the one whose hash the lock names."),
    "package-python": Kind("The lock is for another Python than that of the image."),
    "packages": Kind("The installer of packages failed."),
    "index-refused": Kind("The index of packages wants credentials."),
    "index-insecure": Kind("The index of packages has no certificate that is trusted."),
    "index-throttled": Kind("The index of packages was asked too often."),
    "index-unreachable": Kind("The pods do not reach the index of packages."),
    "no-installer": Kind("The image has no pip, and none can be had."),
    "fetch-not-found": Kind("What --fetch names is not there."),
    "fetch-refused": Kind("What --fetch names wants credentials."),
    "fetch-throttled": Kind("The origin of --fetch was asked too often."),
    "fetch-gone": Kind("The origin of --fetch does not answer, or broke off."),
    "fetch-changed": Kind("A source changed while pods were fetching it."),
    "fetch-hash": Kind("What was fetched has another hash than --fetch names."),
    "fetch-limit": Kind("What --fetch names is larger than there is room for."),
    "fetch-unwritable": Kind("The folder of --fetch cannot be written to."),
    "fetch-path": Kind("Two sources have files of the same path."),
    "fetch-library": Kind("A source needs a Python library that the image has not."),
    # Pods that do not run yet.
    "unschedulable": Kind(
        "No machine fits a pod: too little of something is free on each, or a taint, a selector or "
        "a volume excludes it. Ask for less, or wait.",
        ("Unschedulable", "FailedScheduling"),
    ),
    "gated": Kind("The pod has a scheduling gate, which somebody must lift."),
    "volume-unbound": Kind("A PersistentVolumeClaim has no volume yet."),
    "volume-elsewhere": Kind(
        "A volume of one writer (ReadWriteOnce) is in use on another machine.",
        ("FailedAttachVolume", "Multi-Attach"),
    ),
    "image-name": Kind("The image's name cannot be one: see --image.", ("InvalidImageName",)),
    "image-pull": Kind(
        "The image cannot be pulled: a wrong name, a registry that machines do not reach.",
        ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"),
    ),
    "image-auth": Kind(
        "The registry wants credentials, see --image-pull-secret, or there is no such image."
    ),
    "image-not-found": Kind("The registry has no image of that name and tag."),
    "image-rate-limit": Kind("The registry was asked too often: log in with --image-pull-secret."),
    "missing-object": Kind(
        "A Secret, ConfigMap or claim that the pod names is not in its namespace.",
        ("CreateContainerConfigError",),
    ),
    "missing-key": Kind("A Secret or ConfigMap is there, but not the key that is asked for."),
    "missing-code": Kind(
        "The ConfigMap with the code is not there: only some of what `render` prints was applied."
    ),
    "run-as-root": Kind("The image runs as root, which the namespace forbids: --run-as-user."),
    "container-create": Kind(
        "The container cannot be created.", ("CreateContainerError", "RunContainerError")
    ),
    "mount": Kind("A volume cannot be mounted: see --mount.", ("FailedMount", "FailedMapVolume")),
    "sandbox": Kind(
        "The machine cannot make the pod's network or sandbox, which is for an admin to mend.",
        ("FailedCreatePodSandBox", "NetworkNotReady"),
    ),
    "no-pods": Kind("The Job controller has made no pods yet."),
    "quota": Kind(
        "The namespace's quota is used up, or asks for --cpu and --memory.", ("exceeded quota",)
    ),
    "pod-security": Kind(
        "The Pod Security level of the namespace refuses the pods.", ("violates PodSecurity",)
    ),
    "refused": Kind("A webhook or a policy of the cluster refuses the pods.", ("FailedCreate",)),
    "half-gang": Kind("Some nodes hold their machines, and wait for others that have none."),
    "waiting-for-rank-0": Kind("Nodes run, and wait for index 0, which does not run yet."),
    "rank-0-unreachable": Kind(
        "A node cannot reach rank 0, which runs: a NetworkPolicy, or the cluster's DNS."
    ),
    "slow-start": Kind("A pod takes long to start: a large image, a slow volume."),
    "installing": Kind("Nodes install packages; the log shows which."),
    "fetching": Kind("Nodes fetch what --fetch names; the log shows how much."),
    "waiting-for-the-cache": Kind("Nodes wait for another job that fills the cache they share."),
    "silent": Kind("A node has printed nothing for long, and may hang: see `stacks`."),
    # Queues.
    "node-coming": Kind(
        "An autoscaler buys a node for the pods: Karpenter, Cluster Autoscaler, or a cloud's own.",
        ("TriggeredScaleUp", "Nominated"),
    ),
    "no-node-coming": Kind(
        "An autoscaler is there, and buys no node for the pods; it says why.",
        ("NotTriggerScaleUp",),
    ),
    "queue-check": Kind(
        "A check of the queue is not over, such as one that buys nodes (AdmissionCheck of Kueue)."
    ),
    "queued": Kind("A queue of Kueue has no room for the job yet.", ("QuotaReserved",)),
    "queue-missing": Kind("The queue of --queue does not exist, or the cluster has no Kueue."),
    "queue-stopped": Kind("The queue admits nothing: it is stopped, or not configured wholly."),
    "queue-quota": Kind("The job asks for more than the queue has in all, so it waits for ever."),
    "queue-resource": Kind("The queue has no quota of a resource that the job asks for."),
    "queue-topology": Kind("The queue finds no place for all pods within one --topology."),
    "queue-flavor": Kind("Taints or labels of the queue's machines exclude the job."),
    # What a cluster did to it.
    "suspended": Kind("The Job is suspended, so that it has no pods: `resume` starts it."),
    "cancelled": Kind("`cancel` ended the pods; the Job stays, and `resume` starts it again."),
    "preempted": Kind(
        "A pod or job of higher priority took its place: see --priority-class.",
        ("PreemptionByScheduler", "Preempted"),
    ),
    "evicted": Kind(
        "Its machine, a drain or a queue made the pod leave: for its use of disk or memory, or for "
        "maintenance. With --restart, training goes on.",
        ("Evicted", "EvictionByEvictionAPI", "TerminationByKubelet"),
    ),
    "node-lost": Kind(
        "The machine of a pod does not answer, or is gone. With --restart, training goes on.",
        ("NodeNotReady", "DeletionByTaintManager", "TaintManagerEviction", "DeletionByPodGC"),
    ),
    "node-shutdown": Kind(
        "The machine was shut down, as spot machines are. With --restart, training goes on.",
        ("NodeShutdown", "Terminated"),
    ),
    "node-refused": Kind(
        "A machine did not take the pod that was placed on it.",
        ("NodeLost", "NodeAffinity", "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory"),
    ),
    "disrupted": Kind("The cluster ended the pod.", ("DisruptionTarget",)),
    "pods-gone": Kind(
        "Pods failed and are gone, deleted or with their machine: nothing is left to read.",
        ("BackoffLimitExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"),
    ),
    "unknown": Kind("The Job says that it failed, and nothing else is known."),
}

STAYING = frozenset(
    {
        "unschedulable",
        "no-node-coming",
        "gated",
        "volume-unbound",
        "volume-elsewhere",
        "image-name",
        "image-pull",
        "image-auth",
        "image-not-found",
        "image-rate-limit",
        "missing-object",
        "missing-key",
        "missing-code",
        "run-as-root",
        "container-create",
        "mount",
        "sandbox",
        "quota",
        "pod-security",
        "refused",
        "queue-missing",
        "queue-stopped",
        "queue-quota",
        "queue-resource",
        "queue-topology",
        "queue-flavor",
    }
)
"""Those that keep pods from starting, and do not go by themselves as a rule."""
