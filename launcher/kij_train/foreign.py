"""Command lines of other launchers, in words of ours: `torchrun --nproc-per-node 2 train.py`.

Users put in front of a script what they are used to. What has a counterpart here is translated,
what kij-train sets itself goes, and the rest is named as left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

_PYTHON = re.compile(r"(python|pypy)[\d.]*w?")
_PYTHON_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_USUAL = ("-u", "-B")
"""Options of python that change nothing here."""
SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ksh", "fish"})
_SCRIPT = re.compile(r".*\.pyw?$")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_VARIABLE = re.compile(r"[A-Za-z_]\w*=")
_COUNT = re.compile(r"[1-9]\d{0,5}(:[1-9]\d{0,5})?|gpu|cpu|auto")

OURS = ""
"""What kij-train sets itself."""
_RENDEZVOUS = {
    "--node-rank": OURS,
    "--machine-rank": OURS,
    "--master-addr": OURS,
    "--master-port": OURS,
    "--local-addr": OURS,
    "--rdzv-backend": OURS,
    "--rdzv-endpoint": OURS,
    "--rdzv-id": OURS,
    "--rdzv-conf": OURS,
}


@dataclass(frozen=True)
class _Launcher:
    """How a launcher's options are read."""

    takes: Mapping[str, str]
    """Options with a value → our flag, or OURS."""
    switches: frozenset[str] = frozenset()
    """Options without a value that mean nothing here."""
    subcommand: str = ""
    """The word between the launcher and its options."""


_TORCHRUN = _Launcher(
    {
        "--nnodes": "--nodes",
        "--nproc-per-node": "--nproc-per-node",
        "--max-restarts": "--max-restarts",
        **_RENDEZVOUS,
    },
    frozenset({"--standalone", "--use-env"}),
)
_OF_ALL_RANKS = "all ranks"
_MPI = _Launcher({"-n": _OF_ALL_RANKS, "-np": _OF_ALL_RANKS, "--np": _OF_ALL_RANKS})
_LAUNCHERS = {
    "torchrun": _TORCHRUN,
    "accelerate": _Launcher(
        {
            "--num-processes": _OF_ALL_RANKS,
            "--num-machines": "--nodes",
            "--main-process-ip": OURS,
            "--main-process-port": OURS,
            **_RENDEZVOUS,
        },
        frozenset({"--multi-gpu"}),
        "launch",
    ),
    "deepspeed": _Launcher(
        {
            "--num-gpus": "--nproc-per-node",
            "--num-nodes": "--nodes",
            "--hostfile": OURS,
            **_RENDEZVOUS,
        }
    ),
    "colossalai": _Launcher(
        {"--nproc-per-node": "--nproc-per-node", "--hostfile": OURS, **_RENDEZVOUS},
        subcommand="run",
    ),
    "composer": _Launcher({"-n": "--nproc-per-node", "--nproc": "--nproc-per-node", **_RENDEZVOUS}),
    "mpirun": _MPI,
    "mpiexec": _MPI,
    "orterun": _MPI,
    "horovodrun": _MPI,
    "srun": _Launcher(
        {
            "-n": _OF_ALL_RANKS,
            "--ntasks": _OF_ALL_RANKS,
            "-N": "--nodes",
            "--nodes": "--nodes",
            "--ntasks-per-node": "--nproc-per-node",
        }
    ),
}
_MODULES = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate",
    "deepspeed.launcher.runner": "deepspeed",
}
_WRAPPERS = frozenset(
    {"uv", "poetry", "pipenv", "pdm", "hatch", "rye", "pixi", "conda", "mamba", "micromamba"}
    | {"env", "nohup", "time", "nice", "exec", "sudo", "stdbuf", "numactl", "taskset", "xvfb-run"}
    | {"timeout", "setsid", "ionice", "chrt", "unbuffer", "flock", "strace", "perf", "gdb"}
    | {"valgrind", "tini", "dumb-init", "doas", "chroot", "docker", "podman", "apptainer"}
    | {"singularity", "nsys", "ncu", "py-spy", "ipython", "jupyter", "coverage", "memray"}
    | {"scalene", "viztracer", "pyinstrument", "kernprof", "debugpy", "pdb"}
)
"""Programs that run the command behind their own options."""
_PROGRAMS = frozenset({"pytest", "py.test", "tox", "nox", "make"})
"""Programs that have no script behind them."""


@dataclass(frozen=True)
class Command:
    """What to give to kij-train."""

    words: tuple[str, ...]
    """The script or -m, --no-python and so on, with the arguments."""
    flags: tuple[str, ...] = ()
    """Of kij-train, with their values."""
    left_out: tuple[str, ...] = ()
    """Options that have no counterpart."""
    refused: tuple[str, ...] = ()
    """Options whose value is none that their counterpart takes."""
    starts_ranks: bool = False
    """Whether the launcher starts ranks by itself, and so could be kept with --no-torchrun."""


def translated(words: Sequence[str]) -> Command | None:
    """What to write instead; None where the first word is no launcher that is known.

    A command without words has nothing that could be run.
    """
    name = PurePath(words[0]).name.removesuffix(".exe")
    rest = list(words[1:])
    if _PYTHON.fullmatch(name):
        return _python(words[0], rest)
    if name in SHELLS:
        return Command(("--no-python", *words)) if rest else Command(())
    if name in _PROGRAMS:
        return Command(("--no-python", *words))
    if name in _LAUNCHERS:
        return _launcher(_LAUNCHERS[name], rest)
    if _VARIABLE.match(words[0]):
        return _wrapped(list(words))
    if name in _WRAPPERS:
        return _wrapped(rest)
    return None


def of_module(module: str, args: Sequence[str]) -> Command | None:
    """The same for `-m MODULE`, where that is a launcher."""
    name = _MODULES.get(module)
    if name is None:
        return None
    launcher = replace(_LAUNCHERS[name], subcommand="")
    return _launcher(launcher, list(args))


def _python(python: str, words: list[str]) -> Command:
    left_out: list[str] = []
    while words and words[0].startswith("-") and words[0] != "-":
        option = words.pop(0)
        if option == "-c":
            return Command(("--no-python", python, *left_out, "-c", *words))
        if option == "-m" and words:
            module = words[0]
            found = of_module(module, words[1:]) or Command(("-m", *words))
            return replace(found, left_out=(*left_out, *found.left_out))
        if option in _PYTHON_WITH_VALUE and words:
            option += f" {words.pop(0)}"
        if option not in _USUAL:
            left_out.append(option)
    return Command(tuple(words), left_out=tuple(left_out))


def _wrapped(words: list[str]) -> Command:
    """Of `env A=1 python train.py` or `uv run train.py`: what begins at the first that is known."""
    env: list[str] = []
    before: list[str] = []
    for at, word in enumerate(words):
        if _VARIABLE.match(word):
            env += ["--env", word]
            continue
        found = _begins(words[at:], of_option=at > 0 and words[at - 1].startswith("-"))
        if found is not None:
            return replace(found, flags=(*env, *found.flags), left_out=(*before, *found.left_out))
        if word != "run":
            before.append(word)
    return Command(())


def _begins(words: list[str], *, of_option: bool) -> Command | None:
    """What a wrapper runs, where the first word is that; or may be the value `of_option`."""
    first, second = words[0], words[1] if len(words) > 1 else ""
    if _SCRIPT.match(first) or (first == "-m" and _MODULE.fullmatch(second)):
        return Command(tuple(words))
    if of_option and first in _PROGRAMS:  # uv run --with pytest a.py
        return None
    if not of_option and first.startswith(("./", "../")):
        return translated(words) or Command(("--no-python", *words))
    return translated(words)


def _launcher(launcher: _Launcher, words: list[str]) -> Command:
    if launcher.subcommand:
        if words[:1] != [launcher.subcommand]:
            return Command(())
        words.pop(0)
    flags: dict[str, str] = {}
    left_out: list[str] = []
    refused: list[str] = []
    while words and words[0].startswith("-"):
        given = words.pop(0)
        option, equals, value = given.partition("=")
        if given[:2] in launcher.takes and given[2:].isdigit():  # srun -N2
            option, equals, value = given[:2], "=", given[2:]
        option = _full_name(option, launcher)
        if option == "--":
            break
        if option in ("-m", "--module", "--no-python"):
            words.insert(0, "--no-python" if option == "--no-python" else "-m")
            break
        if option in launcher.switches:
            continue
        if not equals and _has_value(option, launcher, words):
            value = words.pop(0)
            given += f" {value}"
        flag = launcher.takes.get(option)
        if flag is None:
            left_out.append(given)
        elif flag != OURS and _COUNT.fullmatch(value):
            flags[flag] = value
        elif flag != OURS and value not in ("", "0"):
            refused.append(given)
    found = _what_is_launched(words)
    return replace(
        found,
        flags=(*_in_our_words(flags), *found.flags),
        left_out=(*left_out, *found.left_out),
        refused=(*refused, *found.refused),
        starts_ranks=True,
    )


def _full_name(option: str, launcher: _Launcher) -> str:
    """`--nproc` and `--nproc_per_node` are `--nproc-per-node`."""
    option = option[:2] + option[2:].replace("_", "-")
    known = [*launcher.takes, *launcher.switches, "--module", "--no-python"]
    like = [name for name in known if name.startswith(option) and len(option) > 3]
    return like[0] if len(like) == 1 and option not in known else option


def _has_value(option: str, launcher: _Launcher, words: Sequence[str]) -> bool:
    """Of an option that is not known, a guess: the next word, unless it can be what is launched."""
    if not words or option in launcher.takes:
        return bool(words)
    word = words[0]
    is_next = word.startswith("-") or _SCRIPT.match(word) or translated(words) is not None
    return not is_next and len(words) > 1


def _what_is_launched(words: list[str]) -> Command:
    """Behind `mpirun -n 4` comes `python train.py`; behind torchrun the script."""
    return (translated(words) if words else None) or Command(tuple(words))


def _in_our_words(flags: dict[str, str]) -> list[str]:
    """The flags as they go together: all ranks by nodes, a range and restarts with --restart."""
    found = dict(flags)
    ranks, nodes = found.pop(_OF_ALL_RANKS, ""), found.get("--nodes", "1")
    if ranks.isdigit() and nodes.isdigit() and int(ranks) % int(nodes) == 0:
        found.setdefault("--nproc-per-node", str(int(ranks) // int(nodes)))
    low, colon, high = nodes.partition(":")
    if colon and low.isdigit() and high.isdigit():
        # No more than half of the nodes would be refused.
        low = str(max(int(low), int(high) // 2 + 1))
        found["--nodes"] = high if int(low) >= int(high) else f"{low}:{high}"
    if ":" in found.get("--nodes", ""):
        found["--restart"] = "elastic"
    elif "--max-restarts" in found:
        found["--restart"] = "gang"
    pairs = [pair for pair in found.items() if pair != ("--nodes", "1")]
    return [word for pair in pairs for word in pair]
