"""Which lines of a job that was written by hand are which lines of ours; see migrations.py."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = "registry.example/train:1.2"


@dataclass(frozen=True)
class Row:
    """Paths of what is by hand, of what is rendered instead, and the flag that does it."""

    hand: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    by: str = ""
    note: str = ""


@dataclass(frozen=True)
class Example:
    """A page of docs/examples."""

    name: str
    title: str
    file: str
    command: str
    about: str
    rows: tuple[Row, ...]
    more: str = ""


BESIDES = {
    "Job:metadata.labels": "By these, `list`, `logs` and all other commands find the job.",
    "Job:metadata.annotations": "The request, for `kij-train launch --again NAME`.",
    "Job:spec.completionMode": "Every pod has an index, 0 … N-1.",
    "Job:spec.podFailurePolicy": "With these exit codes, another pod would fail in the same way: "
    "the Job fails at once.",
    "Job:spec.podReplacementPolicy": "A pod is replaced when it has ended, not while it ends.",
    "Job:spec.backoffLimit": "How many pods may fail: --backoff.",
    "Job:spec.template.metadata": "The same labels for the pods.",
    "Job:spec.template.spec.subdomain": "With the Service, it gives each pod its name in DNS.",
    "Job:spec.template.spec.restartPolicy": "After a failure comes another pod: logs and exit code "
    "of the first one stay.",
    "Job:spec.template.spec.automountServiceAccountToken": "Training asks no API server.",
    "Job:spec.template.spec.enableServiceLinks": "No variables of other Services in the pods.",
    "Job:spec.template.spec.securityContext": "Pod Security restricted asks for it; the user is "
    "--run-as-user.",
    "Job:spec.template.spec.containers[train].name": "The container that all commands mean.",
    "Job:spec.template.spec.containers[train].env": "What the script and the first process are "
    "told: see the reference, Environment.",
    "Job:spec.template.spec.containers[train].ports": "MASTER_PORT, and the supervisor's with "
    "--restart.",
    "Job:spec.template.spec.containers[train].securityContext": "As above: no more rights.",
    "Job:spec.template.spec.containers[train].terminationMessagePath": "A failing rank writes who "
    "it was and why: `why` reads it without the log.",
    "Job:spec.template.spec.containers[train].terminationMessagePolicy": "Where nothing was "
    "written there: the last lines of the log.",
    "Job:spec.template.spec.containers[train].readinessProbe": "A pod is ready while it trains; a "
    "spare is not.",
    "Job:spec.template.spec.containers[train].volumeMounts": "Where the volumes below are.",
    "Job:spec.template.spec.volumes": "The code, a folder to work in, and /dev/shm, whose default "
    "of 64 MiB is too small for NCCL and data loaders.",
    "Job:spec.template.spec.tolerations": "Machines with GPUs often have this taint; with "
    "--restart, a dead machine's pods are given up after 5 s.",
    "Service:": "Headless: it gives every pod its name in DNS, also before it is ready.",
    "NetworkPolicy:": "Only the job's own pods may connect to them: --no-network-policy leaves it "
    "out, --allow-from names others.",
}
"""What is rendered and nobody has asked for: path → what for."""

_POD = "Job:spec.template.spec"
_TRAIN = f"{_POD}.containers[train]"
_ENV = f"{_TRAIN}.env"
_RANKS = (
    f"{_ENV}[NODE_RANK]",
    f"{_ENV}[NNODES]",
    f"{_ENV}[NPROC_PER_NODE]",
    f"{_ENV}[WORLD_SIZE]",
    f"{_ENV}[MASTER_ADDR]",
    f"{_ENV}[MASTER_PORT]",
)
_SIZE = "--nodes 4 --gpus 8"

TORCHRUN = Example(
    "torchrun",
    "From torchrun in a Job by hand",
    "torchrun.yaml",
    f"kij-train render --name train --nodes 4 --gpus 8 --cpu 32 --memory 256Gi --image {IMAGE} "
    "--no-code --mount pvc:ckpt:/ckpt --env NCCL_DEBUG=INFO --timeout 24h --ttl 1d /app/train.py "
    "--lr 3e-4",
    "An Indexed Job and a headless Service that somebody wrote for `torchrun`. kij-train renders "
    "the same two objects, and a NetworkPolicy.",
    (
        Row(
            ("Job:metadata.name", "Service:metadata.name"),
            ("Job:metadata.name", "Service:metadata.name"),
            "--name train",
        ),
        Row(
            ("Service:spec.clusterIP", "Service:spec.selector"),
            ("Service:spec.clusterIP", "Service:spec.selector"),
            "",
            "The label is the newer name of the same one.",
        ),
        Row(
            ("Job:spec.completionMode", "Job:spec.completions", "Job:spec.parallelism"),
            ("Job:spec.completionMode", "Job:spec.completions", "Job:spec.parallelism"),
            "--nodes 4",
        ),
        Row(("Job:spec.backoffLimit",), ("Job:spec.backoffLimit",), "", "--backoff, or --restart."),
        Row(
            ("Job:spec.activeDeadlineSeconds",),
            ("Job:spec.activeDeadlineSeconds",),
            "--timeout 24h",
        ),
        Row(
            ("Job:spec.ttlSecondsAfterFinished",),
            ("Job:spec.ttlSecondsAfterFinished",),
            "--ttl 1d",
        ),
        Row(
            (f"{_POD}.subdomain", f"{_POD}.restartPolicy"),
            (f"{_POD}.subdomain", f"{_POD}.restartPolicy"),
        ),
        Row(
            (f"{_TRAIN}.name", f"{_TRAIN}.image"),
            (f"{_TRAIN}.name", f"{_TRAIN}.image"),
            f"--image {IMAGE}",
        ),
        Row(
            (f"{_TRAIN}.command",),
            (f"{_TRAIN}.command",),
            "",
            "It checks the environment, waits for rank 0, and becomes torchrun.",
        ),
        Row(
            tuple(f"{_TRAIN}.args[{place}]" for place in range(5)),
            _RANKS,
            _SIZE,
            "torchrun's flags are made of these variables.",
        ),
        Row(
            tuple(f"{_TRAIN}.args[{place}]" for place in (5, 6, 7)),
            (f"{_TRAIN}.args",),
            "--no-code /app/train.py --lr 3e-4",
            "Without --no-code, the folder you are in is shipped, and the path is one in it.",
        ),
        Row((f"{_ENV}[NCCL_DEBUG]",), (f"{_ENV}[NCCL_DEBUG]",), "--env NCCL_DEBUG=INFO"),
        Row(
            (f"{_TRAIN}.resources",),
            (f"{_TRAIN}.resources",),
            "--gpus 8 --cpu 32 --memory 256Gi",
        ),
        Row(
            (f"{_TRAIN}.volumeMounts[ckpt]", f"{_POD}.volumes[ckpt]"),
            (f"{_TRAIN}.volumeMounts[mount-0]", f"{_POD}.volumes[mount-0]"),
            "--mount pvc:ckpt:/ckpt",
        ),
        Row(
            (f"{_TRAIN}.volumeMounts[shm]", f"{_POD}.volumes[shm]"),
            (f"{_TRAIN}.volumeMounts[shm]", f"{_POD}.volumes[shm]"),
            "",
            "Always there; --shm sets its size.",
        ),
        Row((f"{_POD}.tolerations",), (f"{_POD}.tolerations",), "--gpus 8"),
    ),
)

_MASTER = "PyTorchJob:spec.pytorchReplicaSpecs.Master"
_WORKER = "PyTorchJob:spec.pytorchReplicaSpecs.Worker"
_OF_BOTH = "template.spec.containers[pytorch]"
PYTORCHJOB = Example(
    "pytorchjob",
    "From a PyTorchJob of Kubeflow",
    "pytorchjob.yaml",
    f"kij-train render --name train --nodes 4 --gpus 8 --image {IMAGE} --no-code --timeout 24h "
    "--ttl 1d /app/train.py --lr 3e-4",
    "A PyTorchJob of the Training Operator (v1). The operator makes pods, a Service and the "
    "variables of it; kij-train renders a plain Job, so that no operator is needed. Master and "
    "Worker are one: the Master is index 0.",
    (
        Row(("PyTorchJob:metadata.name",), ("Job:metadata.name",), "--name train"),
        Row(
            (f"{_MASTER}.replicas", f"{_WORKER}.replicas"),
            ("Job:spec.completions", "Job:spec.parallelism"),
            "--nodes 4",
            "1 + 3 of one kind.",
        ),
        Row(
            ("PyTorchJob:spec.nprocPerNode",),
            _RANKS,
            "--gpus 8",
            "The operator sets PET_NNODES, PET_NPROC_PER_NODE and the others.",
        ),
        Row(
            ("PyTorchJob:spec.runPolicy.backoffLimit",),
            ("Job:spec.backoffLimit",),
            "",
            "--backoff; or --restart gang, which keeps the pods that were not lost.",
        ),
        Row(
            ("PyTorchJob:spec.runPolicy.activeDeadlineSeconds",),
            ("Job:spec.activeDeadlineSeconds",),
            "--timeout 24h",
        ),
        Row(
            (
                "PyTorchJob:spec.runPolicy.ttlSecondsAfterFinished",
                "PyTorchJob:spec.runPolicy.cleanPodPolicy",
            ),
            ("Job:spec.ttlSecondsAfterFinished",),
            "--ttl 1d",
            "Pods stay, with their logs, as long as the Job.",
        ),
        Row(
            (f"{_MASTER}.restartPolicy", f"{_WORKER}.restartPolicy"),
            (f"{_POD}.restartPolicy",),
        ),
        Row(
            (
                f"{_MASTER}.{_OF_BOTH}.name",
                f"{_MASTER}.{_OF_BOTH}.image",
                f"{_WORKER}.{_OF_BOTH}.name",
                f"{_WORKER}.{_OF_BOTH}.image",
            ),
            (f"{_TRAIN}.name", f"{_TRAIN}.image"),
            f"--image {IMAGE}",
            "`logs` and `top` find the container of either.",
        ),
        Row(
            (f"{_MASTER}.{_OF_BOTH}.command", f"{_WORKER}.{_OF_BOTH}.command"),
            (f"{_TRAIN}.command", f"{_TRAIN}.args"),
            "--no-code /app/train.py --lr 3e-4",
        ),
        Row(
            (f"{_MASTER}.{_OF_BOTH}.resources", f"{_WORKER}.{_OF_BOTH}.resources"),
            (f"{_TRAIN}.resources",),
            "--gpus 8",
        ),
    ),
)

_TRAINER = "TrainJob:spec.trainer"
TRAINJOB = Example(
    "trainjob",
    "From a TrainJob of Kubeflow Trainer",
    "trainjob.yaml",
    f"kij-train render --name train --nodes 4 --gpus 8 --cpu 32 --memory 256Gi --image {IMAGE} "
    "--no-code --env NCCL_DEBUG=INFO /app/train.py --lr 3e-4",
    "A TrainJob of Kubeflow Trainer (v2), which takes the rest from its runtime.",
    (
        Row(("TrainJob:metadata.name",), ("Job:metadata.name",), "--name train"),
        Row(
            ("TrainJob:spec.runtimeRef",),
            (),
            "",
            "No runtime: all that a pod gets is in the Job. What a runtime sets for a whole team "
            "goes into kij-train.toml.",
        ),
        Row((f"{_TRAINER}.image",), (f"{_TRAIN}.image",), f"--image {IMAGE}"),
        Row(
            (f"{_TRAINER}.command", f"{_TRAINER}.args"),
            (f"{_TRAIN}.command", f"{_TRAIN}.args"),
            "--no-code /app/train.py --lr 3e-4",
        ),
        Row(
            (f"{_TRAINER}.numNodes",),
            ("Job:spec.completions", "Job:spec.parallelism"),
            "--nodes 4",
        ),
        Row((f"{_TRAINER}.numProcPerNode",), _RANKS, "--gpus 8"),
        Row(
            (f"{_TRAINER}.resourcesPerNode",),
            (f"{_TRAIN}.resources",),
            "--gpus 8 --cpu 32 --memory 256Gi",
        ),
        Row((f"{_TRAINER}.env",), (f"{_ENV}[NCCL_DEBUG]",), "--env NCCL_DEBUG=INFO"),
    ),
    "Where all training has to go through Trainer, add `--format trainjob` to the same command: it "
    "prints a TrainJob ([operators](../operators.md)).",
)

_SET = "JobSet:spec.replicatedJobs[node]"
_SET_POD = f"{_SET}.template.spec.template.spec"
_SET_MAIN = f"{_SET_POD}.containers[pytorch]"
JOBSET = Example(
    "jobset",
    "From a JobSet",
    "jobset.yaml",
    f"kij-train render --name train --nodes 4 --gpus 8 --image {IMAGE} --no-code --queue team-a "
    "--restart gang --max-restarts 3 /app/train.py",
    "A JobSet that starts all of its pods again when one is lost. With `--restart gang`, the pods "
    "that were not lost stay, with torch imported, and only the ranks start again.",
    (
        Row(("JobSet:metadata.name",), ("Job:metadata.name",), "--name train"),
        Row(
            ("JobSet:metadata.labels",),
            ("Job:metadata.labels[kueue.x-k8s.io/queue-name]", "Job:spec.suspend"),
            "--queue team-a",
            "Kueue starts a Job that is created suspended.",
        ),
        Row(
            ("JobSet:spec.network",),
            ("Service:spec.clusterIP", "Service:spec.publishNotReadyAddresses"),
            "",
            "JobSet makes the same headless Service.",
        ),
        Row(
            ("JobSet:spec.failurePolicy",),
            (
                "Job:spec.backoffLimitPerIndex",
                "Job:spec.maxFailedIndexes",
                "Job:spec.successPolicy",
                f"{_ENV}[KIJ_GANG]",
            ),
            "--restart gang --max-restarts 3",
            "Three indexes are a reserve without pods, which take the place of lost ones.",
        ),
        Row(
            (f"{_SET}.name", f"{_SET}.replicas"),
            (),
            "",
            "One Job needs no list of Jobs.",
        ),
        Row(
            (
                f"{_SET}.template.spec.completions",
                f"{_SET}.template.spec.parallelism",
                f"{_SET}.template.spec.backoffLimit",
            ),
            ("Job:spec.completions", "Job:spec.parallelism"),
            "--nodes 4",
            "4 and the reserve of 3; 4 at once.",
        ),
        Row((f"{_SET_POD}.restartPolicy",), (f"{_POD}.restartPolicy",)),
        Row(
            (f"{_SET_MAIN}.name", f"{_SET_MAIN}.image"),
            (f"{_TRAIN}.name", f"{_TRAIN}.image"),
            f"--image {IMAGE}",
        ),
        Row(
            (f"{_SET_MAIN}.command",),
            (f"{_TRAIN}.command", f"{_TRAIN}.args", *_RANKS),
            "--gpus 8 --no-code /app/train.py",
            "A supervisor is the first process; torchrun's flags are these variables.",
        ),
        Row((f"{_SET_MAIN}.resources",), (f"{_TRAIN}.resources",), "--gpus 8"),
    ),
    "Where jobs have to be JobSets, add `--format jobset` to the same command "
    "([operators](../operators.md)).",
)

SLURM = Example(
    "slurm",
    "From sbatch --array of Slurm",
    "slurm.sh",
    "kij-train map --name squares --range 0:100 --parallelism 10 --cpu 4 --memory 16Gi --gpus 1 "
    f"--item-timeout 2h --retries 1 --node-selector pool=a100 --env LANG=C --image {IMAGE} "
    "square.py {item}",
    "An array of Slurm is one Indexed Job: each number is an index, `%10` is `--parallelism`. "
    "`map` needs no number: it also takes the lines of a file, and files "
    "([arrays](../arrays.md)). The command submits; add `--dry-run client -o yaml` to see what "
    "follows.",
    (
        Row(("--job-name=squares",), ("Job:metadata.name",), "--name squares"),
        Row(
            ("--array=0-99%10",),
            ("Job:spec.completions", "Job:spec.parallelism"),
            "--range 0:100 --parallelism 10",
            "To B, without B.",
        ),
        Row(
            ("--cpus-per-task=4",),
            (f"{_TRAIN}.resources.requests.cpu", f"{_TRAIN}.resources.limits.cpu"),
            "--cpu 4",
        ),
        Row(
            ("--mem=16G",),
            (f"{_TRAIN}.resources.requests.memory", f"{_TRAIN}.resources.limits.memory"),
            "--memory 16Gi",
        ),
        Row(
            ("--gres=gpu:1",),
            (
                f"{_TRAIN}.resources.requests[nvidia.com/gpu]",
                f"{_TRAIN}.resources.limits[nvidia.com/gpu]",
                f"{_POD}.tolerations",
            ),
            "--gpus 1",
        ),
        Row(
            ("--time=02:00:00",),
            (f"{_ENV}[KIJ_ARRAY]",),
            "--item-timeout 2h",
            "Each item's own time; --timeout is that of the whole array.",
        ),
        Row(
            ("--requeue",),
            ("Job:spec.backoffLimitPerIndex", "Job:spec.podFailurePolicy"),
            "--retries 1",
            "An eviction is tried again in any case.",
        ),
        Row(("--partition=a100",), (f"{_POD}.nodeSelector",), "--node-selector pool=a100"),
        Row(
            ("--output=logs",),
            (),
            "kij-train logs squares --index 7",
            "The cluster keeps the logs; results are what scripts write to $KIJ_RESULT_FILE.",
        ),
        Row(("--export=ALL,LANG=C",), (f"{_ENV}[LANG]",), "--env LANG=C", "Nothing else comes."),
        Row(
            ("module load", "source ~/venv"),
            (f"{_TRAIN}.image",),
            f"--image {IMAGE}",
            "Python is the image's; packages that it lacks: --with NAME.",
        ),
        Row(
            ("cd $SLURM_SUBMIT_DIR",),
            (f"{_POD}.volumes[bundle]",),
            "",
            "The folder that you are in is shipped, and is the working directory.",
        ),
        Row(
            ("srun python",),
            (f"{_TRAIN}.command", f"{_TRAIN}.args"),
            "square.py {item}",
            "{item} is the number; $KIJ_ITEM has it too.",
        ),
    ),
)

_TASK = "Job:spec.tasks[train-0]"
_TASK_MAIN = f"{_TASK}.template.spec.containers[train-0]"
TORCHX = Example(
    "torchx",
    "From TorchX on Kubernetes",
    "torchx.yaml",
    f"kij-train render --name train --nodes 4 --gpus 8 --cpu 32 --memory 250Gi --image {IMAGE} "
    "--no-code --env LOGLEVEL=WARNING --scheduler volcano --queue team-a /app/train.py",
    "What `torchx run -s kubernetes --dryrun dist.ddp -j 4x8 --script /app/train.py` prints, in "
    "short: a Job of Volcano with a task for each replica, of which one is shown.",
    (
        Row(("Job:metadata.name",), ("Job:metadata.name",), "--name train"),
        Row(
            ("Job:spec.schedulerName", "Job:spec.queue"),
            (
                f"{_POD}.schedulerName",
                "Job:spec.template.metadata.annotations",
            ),
            "--scheduler volcano --queue team-a",
            "Volcano makes a PodGroup of these annotations.",
        ),
        Row(
            ("Job:spec.plugins",),
            ("Service:spec.clusterIP", "Service:spec.publishNotReadyAddresses"),
            "",
            "Volcano's plugins make a Service and variables; here they are rendered.",
        ),
        Row(
            (f"{_TASK}.name", f"{_TASK}.replicas"),
            ("Job:spec.completions", "Job:spec.parallelism"),
            "--nodes 4",
            "Four tasks of one replica each: here four indexes of one Job.",
        ),
        Row(
            ("Job:spec.maxRetry", f"{_TASK}.maxRetry", f"{_TASK}.policies"),
            ("Job:spec.backoffLimit",),
            "",
            "--backoff; or --restart gang, which keeps the pods that were not lost.",
        ),
        Row((f"{_TASK}.template.spec.restartPolicy",), (f"{_POD}.restartPolicy",)),
        Row(
            (f"{_TASK_MAIN}.name", f"{_TASK_MAIN}.image"),
            (f"{_TRAIN}.name", f"{_TRAIN}.image"),
            f"--image {IMAGE}",
        ),
        Row(
            (f"{_TASK_MAIN}.command",),
            (f"{_TRAIN}.command", f"{_TRAIN}.args", *_RANKS),
            "--gpus 8 --no-code /app/train.py",
            "A fixed rank 0 instead of a c10d rendezvous.",
        ),
        Row((f"{_TASK_MAIN}.env",), (f"{_ENV}[LOGLEVEL]",), "--env LOGLEVEL=WARNING"),
        Row(
            (f"{_TASK_MAIN}.resources",),
            (f"{_TRAIN}.resources",),
            "--gpus 8 --cpu 32 --memory 250Gi",
        ),
        Row(
            (f"{_TASK_MAIN}.volumeMounts", f"{_TASK}.template.spec.volumes"),
            (f"{_TRAIN}.volumeMounts[shm]", f"{_POD}.volumes[shm]"),
            "",
            "Always there.",
        ),
    ),
    "TorchX itself can go on: `torchx run -s kij_train dist.ddp …` renders this Job from the same "
    "component.",
)

EXAMPLES = (TORCHRUN, PYTORCHJOB, TRAINJOB, JOBSET, SLURM, TORCHX)
