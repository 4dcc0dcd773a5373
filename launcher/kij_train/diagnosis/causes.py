"""Causes of failure: known by an exception's text, an exit code or a signal, with what to try."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from dataclasses import dataclass

from kij_train import commands
from kij_train.pod import contract, status
from kij_train.pod.status import FetchFault, PackagesFault


@dataclass(frozen=True)
class Cause:
    """A kind of failure. `kind` is for scripts and stays as it is."""

    kind: str
    hint: str | None = None
    """What to do about it on a cluster."""
    summary: str | None = None
    """A sentence to say before what was seen; None where that says all."""
    here: str | None = None
    """What to do about it on this machine, with --local."""


ENVIRONMENT = (
    "where an ENTRYPOINT of the image, which pods do not run, puts an environment on the PATH, "
    "name it: --env PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"
)
_NAMES = "see the names and versions: --with PKG, --requirements FILE"
_INDEX = (
    "name the index in a Secret, and give it to the pods: kubectl create secret generic index "
    "--from-literal PIP_INDEX_URL=https://…, then --env-from-secret index"
)
_WHEELS = "install from a folder of wheels on a volume: --mount pvc:NAME:/wheels, --env "
_PACKAGES = {
    "not-found": Cause("package-not-found", _NAMES, here=_NAMES),
    "no-match": Cause("package-no-match", "take an image whose Python fits, or another version"),
    "conflict": Cause("package-conflict", "loosen one of the versions", here="loosen one of them"),
    "torch": Cause(
        "package-torch",
        "take versions that fit the torch of the image, or an image with that torch; to replace it "
        "all the same, name it: --with torch==VERSION",
        here="take versions that fit; to replace torch all the same: --with torch==VERSION",
    ),
    "hash": Cause("package-hash", "lock anew if the file was changed on purpose; else ask why"),
    "python": Cause("package-python", "lock for that Python, or take an image with the other one"),
    "refused": Cause("index-refused", _INDEX),
    "insecure": Cause("index-insecure", "if it is meant, say so: --env PIP_TRUSTED_HOST=HOST"),
    "throttled": Cause("index-throttled", "wait, or ask a mirror of your own: " + _INDEX),
    "unreachable": Cause(
        "index-unreachable",
        f"name an index that pods reach: {_INDEX}. Without any network, {_WHEELS}"
        "PIP_NO_INDEX=1 --env PIP_FIND_LINKS=/wheels",
        here="see whether this machine reaches it; a folder of wheels does without: "
        "PIP_NO_INDEX=1 PIP_FIND_LINKS=/PATH",
    ),
    "full": Cause("disk-full", "machines with more room: --disk SIZE; or fewer packages"),
    "no-installer": Cause("no-installer", "take an image with pip, or install it: --setup"),
    "failed": Cause("packages", "its last words are in the log of index 0"),
}
_ORIGIN = (
    "put what grants access into a Secret as the variable that the message names: kubectl create "
    "secret generic hub --from-literal VARIABLE='Bearer …', then --env-from-secret hub"
)
_FETCH = {
    "not-found": Cause("fetch-not-found", "see the source's name: --fetch SOURCE:/FOLDER"),
    "refused": Cause("fetch-refused", _ORIGIN),
    "throttled": Cause("fetch-throttled", "start again later, or fetch from a mirror of your own"),
    "gone": Cause("fetch-gone", "see whether the pods' network reaches it, and start again"),
    "changed": Cause("fetch-changed", "start again, or name a source that stays as it is"),
    "hash": Cause("fetch-hash", "name the new hash if the file was changed on purpose; else ask"),
    "full": Cause("disk-full", "machines with more room: --disk SIZE, which pods then ask for"),
    "limit": Cause("fetch-limit", "allow more: --disk SIZE, --mount emptydir:SIZE:/FOLDER"),
    "unwritable": Cause("fetch-unwritable", "fetch to a folder of its own, such as /data"),
    "path": Cause("fetch-path", "fetch sources whose names meet to folders of their own"),
    "no-library": Cause("fetch-library", "install it: --with fsspec --with s3fs, or gcsfs, adlfs"),
}
_MESSAGES = [
    *((re.escape(FetchFault(kind, "").text()), cause) for kind, cause in _FETCH.items()),
    *((re.escape(PackagesFault(kind, "").text()), cause) for kind, cause in _PACKAGES.items()),
    (
        # runc and containerd; crun and CRI-O.
        r"exec: \"?python3\"?: executable file not found|executable file [`'\"]python3[`'\"] not",
        Cause("no-python", ENVIRONMENT, "there is no python3 on the PATH of the image"),
    ),
    (
        status.NO_TORCH,
        Cause("missing-module", f"take an image that has torch; {ENVIRONMENT}"),
    ),
    (
        r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError",
        Cause(
            "cuda-out-of-memory",
            "a smaller batch, activation checkpointing, or more GPUs a node",
            here="a smaller batch, or activation checkpointing",
        ),
    ),
    (
        r"Bus error|SIGBUS|unable to (write to|open|mmap) (file|shared memory).*torch_"
        r"|out of shared memory|DataLoader worker .*bus error",
        Cause(
            "shared-memory",
            "more room in /dev/shm: --shm 16Gi (and --memory, which counts it)",
            here="more room in /dev/shm, or fewer DataLoader workers: df -h /dev/shm",
        ),
    ),
    (
        r"Watchdog caught collective operation timeout|collective operation timeout",
        Cause(
            "nccl-timeout",
            f"find the rank that did not come: {commands.on_job('logs', '--all', '--tail', '20')}",
        ),
    ),
    (
        r"ncclUnhandledCudaError|ncclSystemError|ncclInternalError|ncclInvalid|NCCL error",
        Cause(
            "nccl",
            "hear NCCL's own words: --env NCCL_DEBUG=INFO",
            here="hear NCCL's own words: --env NCCL_DEBUG=INFO",
        ),
    ),
    (
        r"no NVIDIA driver|no CUDA-capable device|CUDA driver|invalid device ordinal"
        r"|No CUDA GPUs are available|not compiled with CUDA",
        Cause(
            "cuda",
            "ask for GPUs with --gpus, and take an image whose CUDA the machines' driver knows",
            here="install a torch whose CUDA this machine's driver knows: nvidia-smi",
        ),
    ),
    (
        r"No space left on device|Disk quota exceeded",
        Cause(
            "disk-full", "write to a mount: --mount pvc:NAME:/path", here="see what is full: df -h"
        ),
    ),
    (
        r"ModuleNotFoundError|No module named",
        Cause(
            "missing-module",
            "install it before the script starts: --with NAME; or take an image that has it, or "
            "put it in the code folder",
            here="put it beside the script, or install what has it: --with NAME, or "
            f"{shlex.quote(sys.executable)} -m pip install NAME",
        ),
    ),
    (
        r"PreflightError: preflight: ",
        Cause(
            "preflight",
            "start again on other machines: an admin takes one out with kubectl cordon MACHINE; or "
            "train on it all the same, without --preflight",
            here="to train all the same, leave --preflight out",
        ),
    ),
]
_PATTERNS = [(re.compile(pattern, re.IGNORECASE), cause) for pattern, cause in _MESSAGES]

OOM_KILLED = Cause(
    "oom-killed",
    "more memory: --memory, or less of it a rank (batch size, DataLoader workers)",
    "out of memory: the kernel killed it at the pod's limit",
)
_EXITS = {
    contract.EXIT_ORIGIN: Cause("origin"),
    contract.EXIT_PREPARE: Cause("prepare"),
    contract.EXIT_CONTRACT: Cause("contract"),
    contract.EXIT_CODE: Cause("code"),
    contract.EXIT_RENDEZVOUS: Cause("rendezvous"),
    126: Cause(
        "not-executable", summary="the command is there, but may not be run (exit code 126)"
    ),
    127: Cause("not-found", summary="the image has no such command (exit code 127)"),
    128: Cause("not-started", summary="the container could not be started"),
}


def known_causes() -> list[Cause]:
    """Every cause, with the hints that hang on nothing of a job."""
    of_signals = (cause for number in signal.valid_signals() if (cause := of_exit(-int(number))))
    return [OOM_KILLED, *(cause for _, cause in _MESSAGES), *_EXITS.values(), *of_signals]


def of_message(message: str) -> Cause | None:
    """The cause that an exception's or a program's words name."""
    return next((cause for pattern, cause in _PATTERNS if pattern.search(message)), None)


def hint_here(message: str, exit_code: int | None) -> str | None:
    """What to do on this machine about a rank that ended so; `exit_code` as in of_exit."""
    by_signal = of_exit(exit_code) if exit_code is not None and exit_code < 0 else None
    known = of_message(message) or by_signal
    return None if known is None else known.here


def hint_there(message: str, exit_code: int | None) -> str | None:
    """What to do on a cluster about an item of an array that ended so."""
    if "OOMKilled" in message:
        return "more memory, for those that failed: rerun --failed --memory 8Gi"
    known = of_message(message)
    known = known or (of_exit(128 - exit_code) if exit_code and exit_code > 128 else None)
    hint = None if known is None else known.hint
    return None if hint is None or "NAME" in hint.replace("pvc:NAME", "") else hint


def of_exit(
    code: int | None, *, memory_limit: str | None = None, own: bool = False
) -> Cause | None:
    """The cause that an exit code names; negative for a rank that a signal ended.

    `own`: the process ended with this code itself and by no signal, as a shell whose command was
    killed ends with 128 + N.
    """
    if code is None:
        return None
    if code in _EXITS:
        return _EXITS[code]
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return None
    if own:
        said = f"ended with exit code {code}, as a shell does after {name}"
        return Cause("exit-code", summary=said)
    if number == signal.SIGKILL:
        limit = f" (here {memory_limit})" if memory_limit else ""
        return Cause(
            "killed",
            "more memory: --memory",
            "killed by SIGKILL; the kernel does that to a process that goes over the pod's memory "
            f"limit{limit} or takes what its machine has left",
            here="where the kernel did it for memory, it says so: dmesg | tail",
        )
    if number == signal.SIGTERM:
        return Cause("terminated", summary="told to end by SIGTERM")
    if number == signal.SIGBUS:
        return Cause(
            "shared-memory",
            "more room in /dev/shm: --shm 16Gi (and --memory, which counts it)",
            "ended by SIGBUS, which a full /dev/shm causes",
        )
    if number == signal.SIGABRT:
        return Cause(
            "aborted",
            f"its last words: {commands.on_job('logs', '--all', '--tail', '50')}",
            "ended by SIGABRT, as by a failed assertion in C++ or by NCCL's watchdog, which aborts "
            "ranks whose collective has timed out",
        )
    return Cause("signal", summary=f"ended by {name}")
