"""The process outside the namespaces that owns a cluster from `up` to `down`.

It holds the lock, prepares what needs the machine and its network (packages, builds, images),
starts inside.py in new namespaces, and waits. When it ends, for whatever reason, the kernel ends
everything in the namespaces: each process down to the first one inside asks to die with its
parent. What that leaves (cgroups, files) is removed here, or by the next one after a kill -9.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from . import build, cache, leftovers, requirements, store
from .errors import ClusterError
from .network import NODE_COUNT
from .paths import PACKAGE, StatePaths
from .phases import say
from .plan import Plan
from .processes import child_of, namespace, start_time, wait_until, without_proxies
from .state import State, locked

LOCK_ATTEMPTS = 20


class AlreadyRunningError(Exception):
    """Another supervisor has this clone's lock."""


def supervise(
    paths: StatePaths, control_plane_only: bool, ipv6: bool, ready: Callable[[State], None]
) -> None:
    """Bring a cluster up, call `ready`, and keep it until SIGINT or SIGTERM; then clean up."""
    for _ in range(LOCK_ATTEMPTS):
        with locked(paths.lock, wait=False) as had:
            if had:
                _own_the_cluster(paths, control_plane_only, ipv6, ready)
                return
        time.sleep(0.05)  # `status` holds the lock too, for a moment
    raise AlreadyRunningError


def _own_the_cluster(
    paths: StatePaths, control_plane_only: bool, ipv6: bool, ready: Callable[[State], None]
) -> None:
    crashed = State.load(paths)
    state = State(
        phase="starting",
        supervisor_pid=os.getpid(),
        supervisor_start_time=start_time(os.getpid()) or "",
        control_plane_only=control_plane_only,
        ipv6=ipv6,
        rootless=os.getuid() != 0,
    )
    leftovers.remove(paths, crashed)
    state.save(paths)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        begin = time.monotonic()
        plan = _prepare(paths, control_plane_only, ipv6)
        in_use = [Path(path) for path in (plan.programs, plan.image_store) if path]
        with cache.in_use(in_use):
            inside = _start_inside(paths, state, plan)
            say(f"{time.monotonic() - begin:8.1f} s in all")
            ready(state)
            inside.wait()
            raise ClusterError("the cluster ended by itself", hint=f"logs: {paths.logs}")
    except KeyboardInterrupt:
        state.phase = "stopped"
    except BaseException as error:
        state.phase = "failed"
        state.error = str(error)
        raise
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # nothing may interrupt the cleaning
        left = leftovers.remove(paths, state)
        state.save(paths)
    say(f"down: {left} left")


def _prepare(paths: StatePaths, control_plane_only: bool, ipv6: bool) -> Plan:
    """Everything that needs the outside world."""
    requirements.require(control_plane_only=control_plane_only)
    paths.run.mkdir(mode=0o700)
    paths.shared.mkdir()
    paths.shared.chmod(0o1777)
    paths.logs.mkdir(exist_ok=True)
    for log in paths.logs.glob("*.log"):
        log.unlink()
    programs = build.daemons()
    build.kwok()  # `simulate` may be called from inside, where there is no way to the network
    image_store = None if control_plane_only else store.image_store(programs)
    plan = Plan(
        programs=str(programs),
        image_store=str(image_store) if image_store else None,
        cgroup=paths.cgroup,
        ipv6=ipv6,
    )
    plan.save(paths.plan)
    cache.prune()
    return plan


def _start_inside(paths: StatePaths, state: State, plan: Plan) -> subprocess.Popen[bytes]:
    """Start inside.py in new namespaces and wait until it reports; fills in `state`."""
    report, report_handle = os.pipe()
    module = f"{__package__}.inside"
    root = PACKAGE.parents[str(__package__).count(".")]
    inside = subprocess.Popen(
        [
            *_new_namespaces(state.rootless),
            *(sys.executable, "-m", module, str(paths.root), str(report_handle)),
        ],
        pass_fds=[report_handle],
        start_new_session=True,  # Ctrl-C is for the supervisor alone
        stdin=subprocess.DEVNULL,
        env={**without_proxies(os.environ), "PYTHONPATH": str(root)},
        cwd="/",
    )
    os.close(report_handle)
    wait_until("namespaces", lambda: child_of(inside.pid) is not None, timeout_s=10)
    state.namespace_pid = child_of(inside.pid) or 0
    state.pid_namespace = namespace(state.namespace_pid, "pid") or 0
    state.network_namespace = namespace(state.namespace_pid, "net") or 0
    state.save(paths)
    with os.fdopen(report) as pipe:
        said = pipe.readline()
    error = json.loads(said)["error"] if said else "it ended without a word"
    if error:
        raise ClusterError(f"the cluster did not come up: {error}", hint=f"logs: {paths.logs}")
    state.phase = "ready"
    state.kubeconfig = str(paths.kubeconfig)
    state.kubectl = str(Path(plan.programs) / "kubectl")
    state.shared_dir = str(paths.shared)
    if not state.control_plane_only:
        state.nodes = [f"node-{number}" for number in range(1, NODE_COUNT + 1)]
        state.images = {key: image.name for key, image in store.IMAGES.items()}
    state.save(paths)
    return inside


def _new_namespaces(rootless: bool) -> list[str]:
    """The prefix that runs a command as the first process of new namespaces.

    `setpriv` has unshare die with the supervisor, `--kill-child` the command with unshare.
    """
    as_root = ["--user", "--map-root-user"] if rootless else []
    return [
        *("setpriv", "--pdeathsig", "KILL", "--", "unshare", *as_root),
        *("--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"),
    ]


def _end(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)
