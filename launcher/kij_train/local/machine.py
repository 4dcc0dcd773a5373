"""What this machine offers a local run: torch, GPUs, cores, a port; and the nodes' environment.

A local node inherits the environment of the command, but for what belongs to another run: variables
of ours, of torchrun and of torch's rendezvous. On top of it come the user's env, the contract, and
defaults that make several nodes on one machine work: loopback for gloo and NCCL, an even share of
cores and GPUs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from kij_train import gpus, scripts
from kij_train.errors import RequestError
from kij_train.pod import contract, gang, preflight
from kij_train.spec import ArraySpec, Common, JobSpec
from kij_train.spec.settings import Fact, fields_with

ENV_RUN_ID = "KIJ_RUN_ID"
"""Marks every process of a run, so that none is left behind."""
MAX_LOCAL_RANKS = 256


def ignores(spec: Common) -> tuple[str, ...]:
    """Fields that mean nothing to a local run."""
    claims = () if spec.cache_claim is None else ("cache",)
    return (*fields_with(type(spec), Fact.CLUSTER_ONLY), *claims)


def check_machine(spec: JobSpec, environ: Mapping[str, str], cwd: Path) -> None:
    """Raise RequestError unless this machine can run the job, in `cwd`."""
    # node_environment puts this Python's folder in front.
    check_command(spec, environ, cwd, with_own_path=not spec.torchrun)
    if spec.torchrun and importlib.util.find_spec("torch") is None and not spec.installs:
        raise RequestError(
            f"--local needs torch, which {sys.executable} does not have",
            hints=(f"{sys.executable} -m pip install 'kij-train[local]'",),
        )
    if spec.world_size > MAX_LOCAL_RANKS:
        raise RequestError(
            f"--local would start {spec.world_size} ranks on this machine; "
            f"{MAX_LOCAL_RANKS} is the most"
        )
    if spec.gpus:
        have = gpus.kind(spec.gpu_kind).on_this_machine(environ)
        if spec.pods * spec.gpus > len(have):
            raise RequestError(
                f"--local --nodes {spec.nodes} --gpus {spec.gpus} needs "
                f"{spec.pods * spec.gpus} GPUs, this machine has {len(have)}",
                hints=(f"on CPUs: --local --nodes {spec.nodes} --nproc-per-node {spec.gpus}",),
            )
    if spec.port is not None and not _can_listen(spec.port):
        raise RequestError(
            f"--port {spec.port}: something listens there already",
            hints=("leave --port out: a free one is found",),
        )


def check_command(
    spec: Common, environ: Mapping[str, str], cwd: Path, *, with_own_path: bool
) -> None:
    """Refuse a program or module that is missing: once, before every process says the same.

    Raises RequestError. `with_own_path`: programs are looked for beside this Python first. Of a job
    that installs packages nobody knows yet what will be there.
    """
    if spec.installs:
        return
    if spec.program is not None:
        named, at = f"program {spec.program}", cwd / spec.program
        found = _find_program(spec, environ, cwd, with_own_path) or (
            str(at) if at.is_file() else None
        )
        if found is None:
            raise RequestError(
                f"{named}: no such program in {cwd} or on the PATH",
                hints=("run a script of Python without --no-python",),
            )
        scripts.check_program(Path(found), named, is_here=True)
    # PYTHONPATH among the job's env makes it a search of other folders than ours.
    function = spec.called
    module = spec.module if function is None else function.partition(":")[0]
    if "PYTHONPATH" in spec.env:
        return
    if isinstance(spec, ArraySpec):
        _check_preloaded(spec, cwd)
    if module is not None:
        missing = _missing_module(module, cwd)
        if missing is not None:
            raise RequestError(
                f"module {module}: {sys.executable} finds no {missing} in {cwd} or among its "
                "packages",
                hints=(
                    ("run a file by its path, without -m",)
                    if function is None
                    else ("start it in the folder of that module, or name it: --code-dir DIR",)
                ),
            )


def _check_preloaded(spec: ArraySpec, cwd: Path) -> None:
    folder = cwd if spec.script is None else (cwd / spec.script).resolve().parent
    for module in spec.preload:
        missing = _missing_module(module, folder)
        if missing is not None:
            raise RequestError(
                f"--preload {module}: {sys.executable} finds no {missing} in {folder} or among its "
                "packages",
                hints=(
                    f"a package of the Python Package Index: {sys.executable} -m pip install "
                    f"{missing}",
                    f"a module of your own: put it into {folder}, beside what imports it",
                ),
            )


def _find_program(
    spec: Common, environ: Mapping[str, str], cwd: Path, with_own_path: bool
) -> str | None:
    assert spec.program is not None
    if os.path.dirname(spec.program):  # noqa: PTH120 - "./a" has one, which Path forgets
        return shutil.which(str(cwd / spec.program))
    path = spec.env.get("PATH", environ.get("PATH", os.defpath))
    if with_own_path:
        path = os.pathsep.join([str(Path(sys.executable).parent), path])
    return shutil.which(spec.program, path=path)


def _missing_module(name: str, cwd: Path) -> str | None:
    """The first part of a dotted name that cannot be found; nothing is imported."""
    path: list[str] | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        places = [[str(cwd)], None] if path is None else [path]
        try:
            specs = (f.find_spec(part, at) for at in places for f in sys.meta_path)
            found = next((spec for spec in specs if spec is not None), None)
            if found is None:
                return part
            path = list(found.submodule_search_locations or ())
        except Exception:
            return None  # an odd finder, or a package without a file: Python itself will tell
    return None


def with_counted_ranks(spec: JobSpec, environ: Mapping[str, str]) -> JobSpec:
    """The spec with as many processes a node as it has GPUs or cores of this machine.

    Nodes share the machine. Raises RequestError.
    """
    kind, have = spec.nproc_per_node, len(gpus.kind(spec.gpu_kind).on_this_machine(environ))
    count = spec.gpus or have // spec.pods
    if kind != "cpu" and count:
        return spec.model_copy(update={"nproc_per_node": count, "gpus": count})
    if kind == "gpu":
        raise RequestError(
            f"--nproc-per-node gpu: this machine has {have} GPU{'' if have == 1 else 's'} for "
            f"{spec.pods} node{'' if spec.pods == 1 else 's'}",
            hints=("on CPUs: --nproc-per-node cpu, or a number",),
        )
    return spec.model_copy(update={"nproc_per_node": max(1, cores() // spec.pods)})


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def for_node(text: str, index: int) -> str:
    """What the kubelet makes of $(NODE_RANK) in a pod."""
    return text.replace(contract.NODE_RANK_REFERENCE, str(index))


def node_environment(
    spec: JobSpec,
    index: int,
    *,
    place: int,
    port: int,
    preflight_port: int,
    supervisor_ports: list[int],
    run_id: str,
    error_file: Path,
    run_dir: Path,
    environ: Mapping[str, str],
    packages: Mapping[str, str],
) -> dict[str, str]:
    """The environment of one node's bootstrap; `place` is its share of this machine's GPUs.

    `packages` are the variables of what is to be installed.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    env = {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "OMP_NUM_THREADS": str(max(1, cores() // spec.world_size)),
        **{k: v for k, v in environ.items() if contract.OF_A_RUN.fullmatch(k) is None},
        "PYTHONUNBUFFERED": "1",
        **{key: for_node(value, index) for key, value in spec.env.items()},
        contract.ENV_JOB: spec.name or "",
        contract.ENV_COMPLETION_INDEX: str(index),
        contract.ENV_NODE_RANK: str(index),
        contract.ENV_NNODES: str(spec.nodes),
        contract.ENV_NPROC_PER_NODE: str(spec.ranks_per_node),
        contract.ENV_WORLD_SIZE: str(spec.world_size),
        contract.ENV_MASTER_ADDR: "127.0.0.1",
        contract.ENV_MASTER_PORT: str(port),
        contract.ENV_RENDEZVOUS_TIMEOUT_S: str(spec.rendezvous_timeout),
        contract.ENV_ERROR_FILE: str(error_file),
        contract.ENV_RUN_DIR: str(run_dir),
        contract.ENV_SCRATCH_DIR: str(error_file.parent),
        contract.ENV_PARENT_PID: str(os.getpid()),
        contract.ENV_NODE_NAME: f"node {index}",
        ENV_RUN_ID: run_id,
        **packages,
    }
    if spec.roles is not None:
        env[contract.ENV_ROLES] = spec.roles
    if spec.setup is not None:
        env[contract.ENV_SETUP] = for_node(spec.setup, index)
    if not spec.torchrun:
        # A torchrun of the command's own: that of this Python, at an address that all nodes know.
        here = str(Path(sys.executable).parent)
        env["PATH"] = os.pathsep.join([here, env["PATH"]]) if env.get("PATH") else here
        env.setdefault("PET_LOCAL_ADDR", "127.0.0.1")
    if spec.supervised:
        peers = [f"127.0.0.1:{each}" for each in supervisor_ports]
        settings = spec.gang_settings(peers, 0)  # the launcher knows a verdict when it sees one
        env |= {
            gang.ENV_GANG: json.dumps(settings._asdict()),
            gang.ENV_GANG_ID: run_id,
            gang.ENV_POD_IP: "127.0.0.1",
        }
    if spec.preflight:
        env |= {
            contract.ENV_PREFLIGHT: preflight.__file__,
            contract.ENV_PREFLIGHT_GPUS: str(spec.gpus or 0),
            contract.ENV_PREFLIGHT_PORT: str(preflight_port),
            preflight.ENV_SHARED: str(int(spec.gpu_kind == gpus.SHARED)),
        }
    if spec.gpus:
        kind = gpus.kind(spec.gpu_kind)
        mine = kind.on_this_machine(environ)[place * spec.gpus : (place + 1) * spec.gpus]
        env[kind.visible] = ",".join(mine)
    return env
