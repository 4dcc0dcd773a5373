"""What a node is told and what it answers with: variables, flags, folders, exit codes.

`render` and `local` write them, the node's processes read them.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import os
import re
from typing import Dict, NamedTuple

# Variables of the pod's environment.
ENV_COMPLETION_INDEX = "JOB_COMPLETION_INDEX"
"""The pod's completion index, 0 … N-1; the Job controller sets it."""
ENV_NODE_RANK = "NODE_RANK"
"""For the script: rank of its node, 0 … N-1; the completion index, unless a supervisor gives it."""
ENV_NNODES = "NNODES"
"""For the script: number of nodes."""
ENV_NPROC_PER_NODE = "NPROC_PER_NODE"
"""For the script: ranks a node."""
ENV_WORLD_SIZE = "WORLD_SIZE"
"""For the script: ranks in all, nodes times ranks a node."""
ENV_MASTER_ADDR = "MASTER_ADDR"
"""For the script: name or address of rank 0; of pods the DNS name of index 0, JOB-0.JOB."""
ENV_MASTER_PORT = "MASTER_PORT"
"""For the script: port of rank 0, 29500 unless --port says otherwise."""
CONTRACT = (
    ENV_NODE_RANK,
    ENV_NNODES,
    ENV_NPROC_PER_NODE,
    ENV_WORLD_SIZE,
    ENV_MASTER_ADDR,
    ENV_MASTER_PORT,
)
"""Every one of them must be set and not empty."""
ENV_JOB = "KIJ_JOB"
"""For the script: the job's name, the same in every round and attempt."""
ENV_RUN_DIR = "KIJ_RUN_DIR"
"""For the script: a folder of this index alone, which is there when the script starts."""
ENV_ROLES = "KIJ_NODE_ROLES"
"""Names of roles, and how many nodes each has: `prefill=2,decode=2`, in the order of node ranks."""
ENV_ROLE = "KIJ_ROLE"
"""For the script: the role of its node."""
ENV_RENDEZVOUS_TIMEOUT_S = "KIJ_RENDEZVOUS_TIMEOUT_S"
"""How many seconds a node waits for rank 0."""
ENV_CODE_SHA256 = "KIJ_CODE_SHA256"
"""Of the archive with the code: a pod refuses any other one."""
ENV_NODE_NAME = "KIJ_NODE_NAME"
"""The machine that the pod runs on."""
ENV_PARENT_PID = "KIJ_PARENT_PID"
"""On this machine: the launcher's process, with which a node ends."""
ENV_PREFLIGHT = "KIJ_PREFLIGHT_SCRIPT"
"""The file of the preflight, where one is asked for."""
ENV_PREFLIGHT_GPUS = "KIJ_PREFLIGHT_GPUS"
"""How many GPUs the preflight has to find."""
ENV_PREFLIGHT_PORT = "KIJ_PREFLIGHT_PORT"
"""Port of the preflight's own rendezvous."""
ENV_SETTINGS_SCRIPT = "KIJ_SOURCE_SCRIPT"
"""The shell script of --settings-script, which the first process sources."""
ENV_PACKAGES_SHA256 = "KIJ_PACKAGES_SHA256"
"""In a pod: of the request for packages."""
ENV_PACKAGES_DIR = "KIJ_PACKAGES_DIR"
"""On this machine: the folder in which the launcher has installed them."""
ENV_SPREAD = "KIJ_SPREAD"
"""JSON of what a pod has to know of the others to get things from them; not set in a lone pod."""
ENV_SPREAD_KEY = "KIJ_SPREAD_KEY"
"""The job's uid, which its pods know each other by."""
ENV_FETCH = "KIJ_FETCH_PLAN"
"""JSON of what is fetched: sources, folders, hashes."""
ENV_FETCH_LIMITS = "KIJ_FETCH_LIMITS"
"""JSON of how much may be written into their folders."""
ENV_FETCHED = "KIJ_FETCHED"
"""For the script: the folders of --fetch, in their order, with ':' in between."""
ENV_CACHE = "KIJ_CACHE_DIR"
"""The folder that jobs share, where what is fetched and installed is looked for first."""
ORIGINS_DIR = "/kij/origins"
"""Where claims are mounted that something is fetched from."""
CACHE_DIR = "/kij/cache"
"""Where the claim of --cache is mounted."""
ENV_SETUP = "KIJ_SETUP_COMMAND"
"""The user's command that every pod runs before packages and data."""
ENV_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where a rank writes how it failed; torch's `record` writes there too."""
ENV_RANK0_HOST = "KIJ_RANK0_HOST"
"""For the script, where torchrun does not start it: rank 0 as this node reaches it."""
ENV_SCRATCH_DIR = "KIJ_SCRATCH_DIR"
"""On this machine: a folder that the launcher removes, however the nodes ended."""
ENV_RANKS_DIR = "KIJ_RANKS_DIR"
"""Where this node and its ranks meet: pipes for their output, stacks of crashes."""
ENV_STACKS_DIR = "KIJ_STACKS_DIR"
"""On this machine: where ranks that are watched write their stacks, STACKS_DIR of a pod."""
ENV_HEARTBEAT_DIR = "KIJ_HEARTBEAT_DIR"
"""Of a node whose ranks are watched: a file for every rank, named by its number."""
ENV_HEARTBEAT_FILE = "KIJ_HEARTBEAT_FILE"
"""For the script: this rank's, to be touched as long as it makes progress."""
ENV_NAMES = "KIJ_ENV_NAMES"
"""In a pod: which of the variables of a run (KIJ_*, PET_*, RANK, …) its manifest sets."""
OF_A_RUN = re.compile(
    r"(KIJ|PET|TORCHELASTIC|TORCH_ELASTIC)_.*"
    r"|MASTER_(ADDR|PORT)|NODE_RANK|NNODES|NPROC_PER_NODE"
    r"|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
)
"""Ours, torchrun's (PET_X is its --x) and torch's rendezvous: whoever runs one sets them."""
NODE_RANK_REFERENCE = f"$({ENV_NODE_RANK})"
"""What stands for the completion index in arguments and env values; the kubelet expands it."""

# Flags of bootstrap.py and worker.py.
NO_TORCHRUN = "--no-torchrun"
AWAIT_RANK0 = "--await-rank0"
STACKS = "--stacks"
FUNCTION = "--function"
"""In place of -m or --no-python in the command of an item, in front of a function's name."""
WORKER = "--worker"
"""What tells a rank from other processes."""

# Where render mounts things.
BUNDLE_DIR = "/kij/bundle"
CODE_PREFIX = "code.tar.xz."
PACKAGES_PREFIX = "packages.json.xz."
WORK_DIR = "/kij/work"
PACKAGES_LOCK = "packages.lock"
"""In BUNDLE_DIR, once a pod of the job has installed packages: their versions, a line each."""
PACKAGES_DIR = WORK_DIR + "/packages"
RUN_DIR = WORK_DIR + "/run"
"""In a pod: with a folder for its index, ENV_RUN_DIR."""
STACKS_DIR = WORK_DIR + "/stacks"
"""In a pod: a file for every rank, named by its process, which SIGUSR2 makes it write to."""
ACCOUNTS_FILE = WORK_DIR + "/accounts.json"
"""In a pod of a job that restarts: what the time was spent on."""
TERMINATION_LOG = "/dev/termination-log"

OUR_FILES = (
    r"(^|/)(kij/bundle/(\.\.[^/]+/)?|kij_train/pod/)"
    r"(bootstrap|itemcall|items|mainprogram|worker|zygote)\.py$"
    r"|^(sys|<sys>|<frozen runpy>)$|/runpy\.py$"
)
"""Whose frames are above those of a script, as a regular expression. The kubelet mounts files
through a folder named by the time."""

# Exit codes. 1 is torchrun's: a rank failed. The others are out of the way of sysexits (64 to 78)
# and of shells (126 and above).
EXIT_FAILED = 1
"""A rank or a program failed: how, the log and `why` say."""
EXIT_ORIGIN = 118
"""An origin did not give what it has, or there is no room: another pod may do better."""
EXIT_PREPARE = 119
"""--setup failed, or packages or data cannot be had: another pod would fail in the same way."""
EXIT_CONTRACT = 121
"""A variable of the contract is missing or wrong: the pod was not made by kij-train."""
EXIT_CODE = 122
"""The code, script or program that was to run is not there, or is not what was shipped."""
EXIT_RENDEZVOUS = 123
"""Rank 0 did not come in time, --rendezvous-timeout."""

GRACE_S = 30
"""Between SIGTERM and SIGKILL, where nobody says otherwise: Kubernetes' own default."""


class Failure(Exception):  # noqa: N818 - a verdict, with an exit code
    """The node cannot go on: what to say, and the exit code to say it with."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Node(NamedTuple):
    """The contract, parsed."""

    rank: int
    nnodes: int
    nproc: int
    master_addr: str
    master_port: int
    rendezvous_timeout_s: int
    completion_index: int
    """The rank, but where a supervisor gives ranks out."""


def read_contract(env: Dict[str, str]) -> Node:
    """Parse and check the contract. Raises Failure naming the variable that is wrong."""
    missing = [name for name in CONTRACT if not env.get(name)]
    if missing:
        raise Failure(
            EXIT_CONTRACT,
            "not set or empty: {}. The pod was not made by kij-train, or its spec was "
            "changed".format(", ".join(missing)),
        )

    def number(name: str, low: int, high: int) -> int:
        text = env[name]
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise Failure(EXIT_CONTRACT, f"{name}={text!r} is no number from {low} to {high}")
        return int(text)

    nnodes = number(ENV_NNODES, 1, 1_000_000)
    nproc = number(ENV_NPROC_PER_NODE, 1, 10_000)
    rank = number(ENV_NODE_RANK, 0, nnodes - 1)
    index = env.get(ENV_COMPLETION_INDEX, "")
    if index and index != str(rank):
        raise Failure(EXIT_CONTRACT, f"{ENV_NODE_RANK}={rank}, but {ENV_COMPLETION_INDEX}={index}")
    if env[ENV_WORLD_SIZE] != str(nnodes * nproc):
        raise Failure(
            EXIT_CONTRACT,
            f"{ENV_WORLD_SIZE}={env[ENV_WORLD_SIZE]!r}, but {ENV_NNODES} x "
            f"{ENV_NPROC_PER_NODE} is {nnodes} x {nproc}",
        )
    timeout_s = 600
    if env.get(ENV_RENDEZVOUS_TIMEOUT_S):
        timeout_s = number(ENV_RENDEZVOUS_TIMEOUT_S, 1, 2**31)
    return Node(
        rank,
        nnodes,
        nproc,
        env[ENV_MASTER_ADDR],
        number(ENV_MASTER_PORT, 1, 65535),
        timeout_s,
        rank,
    )


def role_of(rank: int, roles: str) -> str:
    """The role of a node, by its rank and the value of ENV_ROLES; empty where there is none."""
    for one in roles.split(",") if roles else ():
        name, _, count = one.partition("=")
        rank -= int(count)
        if rank < 0:
            return name
    return ""


def take_role(rank: int) -> None:
    """Put the role of this node into the environment, which its ranks inherit."""
    role = role_of(rank, os.environ.get(ENV_ROLES, ""))
    if role:
        os.environ[ENV_ROLE] = role


def describe(node: Node, env: Dict[str, str]) -> str:
    """The one line that names index, ranks, node, pod and rank 0."""
    first, world = node.rank * node.nproc, node.nnodes * node.nproc
    ranks = f"rank {first}" if node.nproc == 1 else f"ranks {first}-{first + node.nproc - 1}"
    where = f"pod {os.uname().nodename}"
    if env.get(ENV_NODE_NAME):
        where += " on " + env[ENV_NODE_NAME]
    if env.get(ENV_PARENT_PID):
        where = f"process {os.getpid()}"
    role = role_of(node.rank, env.get(ENV_ROLES, ""))
    if role:
        ranks = f"{role}, {ranks}"
    rank0 = "rank 0 is here" if node.rank == 0 else f"rank 0 at {node.master_addr}"
    return (
        f"index {node.rank} of {node.nnodes}, {ranks} of {world}, {where}, "
        f"{rank0}, port {node.master_port}"
    )


def error_file() -> str:
    """Where this node's failure record goes."""
    return os.environ.get(ENV_ERROR_FILE) or TERMINATION_LOG
