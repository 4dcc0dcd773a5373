"""The commands: arguments in, one call, words out."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from . import build, control, images, leftovers, parts, requirements, store
from .errors import ClusterError
from .paths import StatePaths, cache_dir
from .phases import say
from .processes import without_proxies
from .state import State, is_locked, locked
from .supervisor import AlreadyRunningError, supervise

PROGRAM = "python -m tests.cluster"
POLL_S = 0.2
CLAIM = "ckpt"
"""Of the folder that all nodes share, in the shell's namespace; the README mounts it."""


def main() -> int:
    """Run one command; returns its exit status."""
    arguments = _parser().parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    try:
        return int(arguments.run(arguments))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="A real Kubernetes for the tests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start the cluster, or use the one that runs")
    up.add_argument("--detach", action="store_true", help="leave it running in the background")
    up.add_argument("--control-plane-only", action="store_true", help="no nodes: API tests")
    up.add_argument("--ipv6", action="store_true", help="nodes, pods and Services of IPv6 alone")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="stop it, and count what is left of it")
    down.set_defaults(run=_down)

    shell = commands.add_parser("shell", help="a shell in which kubectl speaks to it")
    shell.set_defaults(run=_shell)

    execute = commands.add_parser("exec", help="run one command that speaks to it")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    execute.set_defaults(run=_exec)

    status = commands.add_parser("status", help="what runs, and where")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)

    check = commands.add_parser("check", help="what this machine lacks for it")
    check.set_defaults(run=_check)

    warm = commands.add_parser("build", help="only fill the caches")
    warm.add_argument("--control-plane-only", action="store_true")
    warm.add_argument(
        "--part", action="append", choices=[*parts.PARTS], help="only this controller of others"
    )
    warm.set_defaults(run=_build)

    server = commands.add_parser("apiserver", help="kill the API server, or start it again")
    server.add_argument("what", choices=["stop", "start"])
    server.set_defaults(run=lambda a: _ask("apiserver", a.what))

    name_server = commands.add_parser("dns", help="have DNS stop answering, or go on")
    name_server.add_argument("what", choices=["stop", "start"])
    name_server.set_defaults(run=lambda a: _ask("dns", a.what))

    node = commands.add_parser("node", help="kill a node as a power cut does, or start it again")
    node.add_argument("what", choices=["kill", "start"])
    node.add_argument("name")
    node.set_defaults(run=lambda a: _ask("node", a.what, a.name))

    simulate = commands.add_parser("simulate", help="have N simulated nodes, by kwok")
    simulate.add_argument("count", type=int, metavar="N")
    simulate.set_defaults(run=_simulate)

    link = commands.add_parser("link", help="cut a pod's network silently, or heal it")
    link.add_argument("what", choices=["down", "up"])
    link.add_argument("pod", metavar="[NAMESPACE/]POD")
    link.set_defaults(run=lambda a: _ask("link", a.what, a.pod))
    return parser


def _up(arguments: argparse.Namespace) -> int:
    paths = StatePaths.of_this_clone()
    control_plane_only, ipv6 = arguments.control_plane_only, arguments.ipv6
    if arguments.detach and not is_locked(paths.lock):
        return _up_detached(paths, control_plane_only, ipv6)
    try:
        supervise(paths, control_plane_only, ipv6, _print_usage)
    except AlreadyRunningError:
        _print_usage(_join(paths, control_plane_only, ipv6))
    return 0


def _up_detached(paths: StatePaths, control_plane_only: bool, ipv6: bool) -> int:
    """Start a supervisor in the background and show what it says until the cluster is ready."""
    command = [sys.executable, "-m", str(__package__), "up"]
    if control_plane_only:
        command.append("--control-plane-only")
    if ipv6:
        command.append("--ipv6")
    with paths.supervisor_log.open("wb") as log:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    with paths.supervisor_log.open() as log:
        while True:
            ended = supervisor.poll() is not None
            state = State.of_running(paths)
            ready = state is not None and state.phase == "ready"
            if ready:
                time.sleep(POLL_S)  # its last words
            sys.stdout.write(log.read())
            sys.stdout.flush()
            if ended or ready:
                return supervisor.returncode or 0
            time.sleep(POLL_S)


def _join(paths: StatePaths, control_plane_only: bool, ipv6: bool) -> State:
    """Wait until the cluster that another `up` started is ready."""
    say("using the cluster that another `up` has started")
    while True:
        state = State.of_running(paths)
        if state is None and not is_locked(paths.lock):
            raise ClusterError("the other `up` has failed", hint=f"see {paths.supervisor_log}")
        if state is not None and state.phase == "ready":
            break
        time.sleep(POLL_S)
    if state.control_plane_only and not control_plane_only:
        raise ClusterError("the running cluster has no nodes", hint=f"first: {PROGRAM} down")
    if state.ipv6 != ipv6:
        has = "IPv6" if state.ipv6 else "IPv4"
        raise ClusterError(f"the running cluster is of {has}", hint=f"first: {PROGRAM} down")
    return state


def _print_usage(state: State) -> None:
    nodes = ", ".join(state.nodes) or "none"
    images = "".join(f"\n  image     {name}: {image}" for name, image in state.images.items())
    say(
        f"the cluster is ready\n"
        f"  nodes     {nodes}{images}\n"
        f"  shell     {PROGRAM} shell\n"
        f"  command   {PROGRAM} exec -- kubectl get nodes\n"
        f"  stop      {PROGRAM} down"
    )


def _down(_: argparse.Namespace) -> int:
    paths = StatePaths.of_this_clone()
    told = 0
    while is_locked(paths.lock):
        state = State.of_running(paths)
        if state is not None and state.supervisor_pid != told:
            told = state.supervisor_pid
            with suppress(ProcessLookupError):
                os.kill(told, signal.SIGTERM)
        time.sleep(POLL_S)
    with locked(paths.lock, wait=True):
        left = leftovers.remove(paths, State.load(paths))
    say(f"down: {left} left")
    return 0 if left.none else 1


def _running() -> State:
    state = State.of_running(StatePaths.of_this_clone())
    if state is None or state.phase != "ready":
        raise ClusterError("no cluster is running", hint=f"first: {PROGRAM} up --detach")
    return state


def _inside(state: State) -> list[str]:
    """The prefix for a command that runs in the cluster's network."""
    as_root = ["--user", "--preserve-credentials"] if state.rootless else []
    return ["nsenter", "--target", str(state.namespace_pid), "--net", *as_root, "--"]


def _environment(state: State) -> dict[str, str]:
    """What a command in the cluster's network is told; the machine's own kubectl comes first."""
    env = without_proxies(os.environ)
    env["KUBECONFIG"] = state.kubeconfig
    if shutil.which("kubectl") is None:
        env["PATH"] += os.pathsep + str(Path(state.kubectl).parent)
    return env


def _exec(arguments: argparse.Namespace) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise ClusterError("exec: no command", hint=f"{PROGRAM} exec -- kubectl get nodes")
    state = _running()
    command = [*_inside(state), *words]
    sys.stdout.flush()
    os.execvpe(command[0], command, _environment(state))


def _shell(_: argparse.Namespace) -> int:
    state = _running()
    shell = os.environ.get("SHELL", "/bin/sh")
    say(f"a shell in the cluster's network, with KUBECONFIG={state.kubeconfig}; exit leaves it")
    if state.nodes:
        _share_a_claim(state)
        say(
            f"  image     --image {state.images['torch']}\n"
            f"  volume    --mount pvc:{CLAIM}:/out, the folder {state.shared_dir} on all nodes"
        )
    command = [*_inside(state), shell]
    os.execvpe(command[0], command, _environment(state))


def _share_a_claim(state: State) -> None:
    """A claim that pods of all nodes can write to, for checkpoints."""
    both = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    size, meta = {"storage": "10Gi"}, {"name": CLAIM}
    claimed_by = {"name": CLAIM, "namespace": "default"}
    volume = {"capacity": size, "hostPath": {"path": state.shared_dir}, "claimRef": claimed_by}
    claim = {"resources": {"requests": size}, "volumeName": CLAIM}
    items = [
        {"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": {**both, **spec}}
        for kind, spec in (("PersistentVolume", volume), ("PersistentVolumeClaim", claim))
    ]
    subprocess.run(
        [*_inside(state), state.kubectl, "apply", "--namespace", "default", "-f", "-"],
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}),
        env=_environment(state),
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )


def _status(arguments: argparse.Namespace) -> int:
    paths = StatePaths.of_this_clone()
    state = State.of_running(paths)
    daemons = control.ask(paths.control_socket, "status") if state is not None else {}
    if arguments.json:
        shown = {"running": state is not None, "daemons": daemons}
        say(json.dumps({**shown, **(asdict(state) if state else {})}, indent=2))
    elif state is None:
        say("not running")
    else:
        for name, value in asdict(state).items():
            say(f"{name:22} {value}")
        say(f"{'daemons':22} {daemons}")
    return 0 if state is not None else 1


def _check(_: argparse.Namespace) -> int:
    for each in requirements.requirements():
        how = f" (apt package {each.apt_package})" if each.apt_package else ""
        only = "; not for --control-plane-only" if each.nodes_only else ""
        say(f"{'ok     ' if each.met() else 'MISSING'} {each.name}: {each.purpose}{how}{only}")
    kubectl = shutil.which("kubectl") or "none; `exec` and `shell` use the one built here"
    say(f"        kubectl: {kubectl}\n        cache: {cache_dir()}")
    lacking = requirements.missing(control_plane_only=False)
    return 1 if any(not each.apt_package for each in lacking) else 0


def _build(arguments: argparse.Namespace) -> int:
    if arguments.part:
        images.packages()
        for part in arguments.part:
            say(str(parts.obtain(part)))
        return 0
    requirements.require(control_plane_only=arguments.control_plane_only)
    programs = build.daemons()
    build.kwok()
    if not arguments.control_plane_only:
        store.image_store(programs)
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    _running()
    return _ask("simulate", str(build.kwok()), str(arguments.count))


def _ask(command: str, *arguments: str) -> int:
    _running()
    result = control.ask(StatePaths.of_this_clone().control_socket, command, *arguments)
    if result is not None:
        say(str(result))
    return 0
