"""The process that items are started from: an interpreter that is up, with modules imported.

    python -u zygote.py ORDERS ANSWERS     descriptors of pipes, whose other ends the runner has

The runner forks it (itemfork.py), or starts it as an interpreter of its own.

A Python script is forked from it, so that it costs neither the start of an interpreter nor the
import of what is preloaded. The fork becomes what `python SCRIPT` is: mainprogram.py says how.
Programs are started from it as well, so that one process knows how to end an item: it adopts what
an item leaves behind, and an item that is over has no process left. When the runner is gone, so is
everything below.

It has no threads of its own, so that forking is safe. A module to preload must not compute
anything while it is imported: torch's pools of threads, which do not outlive a fork, come with
their first use, as does CUDA.

Orders and answers are lines of JSON:

    {"argv": [...], "preload": [...]}       first; {"ready": true} or {"broken": "why"}
    {"run": {"kind": "script" | "program" | "ranks", "argv": [...], "env": {...}, "unset": [...],
             "error_file": path}}           {"status": wait status, "error": "why it did not start"}
    {"signal": number}                      to the item
    {"kill": true}                          all that is left of it

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import sys

FRESH = {name: value for name, value in globals().items() if name.startswith("__")}
"""What this Python gives the module of a main program."""
AT_START = frozenset(sys.modules)

if not __package__:
    # Run by its path: the names that our files import each other by lead to its own folder.
    folder = __file__.rpartition("/")[0] or "."
    for name in ("kij_train", "kij_train.pod", "kij_train.pod.gang"):
        sys.modules[name] = type(sys)(name)
        sys.modules[name].__path__ = [folder, folder + "/gang"]

import contextlib
import gc
import json
import os
import select
import signal
import warnings
from typing import Any, Dict, FrozenSet, List

from kij_train.pod import contract, environment, mainprogram
from kij_train.pod.gang.processes import adopt_orphans, kill_descendants
from kij_train.pod.itemend import QuickEnd
from kij_train.pod.itemfork import Channel

Json = Dict[str, Any]
NOT_STARTED = 127
"""The exit code of what cannot be started, as a shell has it."""


class Zygote:
    """Takes orders until the runner is gone; in a process of an item, `serve` returns."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._rest = channel, b""
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._item = 0
        """Its process; 0: there is none."""
        self.quick_end = QuickEnd()

    def serve(self) -> Json:
        """The order that this process is now to carry out, as the item that it asks for."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        while True:
            readable, _, _ = select.select([self._channel.orders, self._wake_r], [], [])
            if self._wake_r in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
            for order in self._orders() if self._channel.orders in readable else ():
                if "argv" in order:
                    self.quick_end.with_libraries = bool(order["preload"])
                    self._answer(preload(order["argv"], order["preload"]))
                    gc.freeze()  # what all items share is not to be touched by their collectors
                elif "run" in order and self._start(order["run"]):
                    return dict(order["run"])
                elif "signal" in order and self._item:
                    os.kill(self._item, order["signal"])  # not reaped yet, so it is there
                elif "kill" in order:
                    kill_descendants()
                    if self._item and sys.platform != "linux":
                        os.kill(self._item, signal.SIGKILL)
            self._reap()

    def _orders(self) -> List[Json]:
        chunk = os.read(self._channel.orders, 1 << 16)
        if not chunk:
            kill_descendants()
            os._exit(0)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def _answer(self, said: Json) -> None:
        left = memoryview(json.dumps(said).encode() + b"\n")
        with contextlib.suppress(BrokenPipeError):  # the runner is gone: there are no more orders
            while left:
                left = left[os.write(self._channel.answers, left) :]

    def _start(self, order: Json) -> bool:
        """Start an item. True in its own process, where it was forked."""
        if order["kind"] == "program":
            try:
                self._item = spawn(order)
            except (OSError, ValueError) as error:
                status = NOT_STARTED << 8
                self._answer({"status": status, "error": fault(order["argv"][0], error)})
            return False
        with warnings.catch_warnings():
            # Of threads that a preloaded library has, and ends and starts around a fork.
            warnings.simplefilter("ignore")
            self._item = os.fork()
        if self._item:
            return False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._channel.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
        os.setsid()
        return True

    def _reap(self) -> None:
        """Take in what has ended; where it is the item, end what it has left, and tell."""
        ended = None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self._item and pid:
                    ended = status
                elif pid == 0 and ended is None:
                    return
                elif pid == 0:
                    kill_descendants()
        if ended is not None:
            if sys.platform != "linux":  # where nobody adopts orphans
                with contextlib.suppress(OSError):
                    os.killpg(self._item, signal.SIGKILL)
            self._item = 0
            self._answer({"status": ended})


def preload(argv: List[str], modules: List[str]) -> Json:
    """Import modules, from where a script with this command would; the answer to the runner."""
    if not modules and argv[0] != contract.FUNCTION:
        return {"ready": True}
    import importlib

    from kij_train.pod import itemcall

    place = mainprogram.folder_of(argv) if modules and argv[0] != "--no-python" else []
    sys.path[:0] = place
    try:
        with itemcall.without_our_modules():
            for name in modules:
                importlib.import_module(name)
            if argv[0] == contract.FUNCTION:
                itemcall.find(argv[1])
    except itemcall.NotThereError as error:
        return {"broken": f"{contract.FUNCTION} {argv[1]}: {error}"}
    except BaseException as error:
        return {"broken": f"cannot import {name}, which is to be preloaded: {error!r}"}
    finally:
        for entry in place:
            with contextlib.suppress(ValueError):
                sys.path.remove(entry)
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        names = ", ".join(modules)
        return {"broken": f"preloading {names} uses CUDA, which does not outlive a fork"}
    return {"ready": True}


def spawn(order: Json) -> int:
    """Start a program; its process. Raises OSError, and ValueError for a NUL in an argument."""
    env = dict(os.environ, **order["env"])
    for name in order["unset"]:
        env.pop(name, None)
    argv = order["argv"]
    # Python ignores these two, and what is ignored stays so in a new program.
    options: Json = {"setsigdef": [signal.SIGPIPE, signal.SIGXFSZ]}
    try:
        return os.posix_spawnp(argv[0], argv, env, setsid=True, **options)
    except NotImplementedError:
        return os.posix_spawnp(argv[0], argv, env, setpgroup=0, **options)


def fault(program: str, error: Exception) -> str:
    """Why a program could not be started."""
    import shutil

    from kij_train.pod import programs

    found = shutil.which(program)
    said = programs.fault_of_program(found) if found is not None else ""
    return f"{program}: cannot be run: {said or getattr(error, 'strerror', None) or error}"


# --- in the process of an item --------------------------------------------------------------------


def become(order: Json, quick_end: QuickEnd) -> None:
    """Be the item. Ends as Python ends the script, or as near to it as `quick_end` may."""
    process = os.getpid()
    os.environ.update(order["env"])
    for name in order["unset"]:
        os.environ.pop(name, None)
    for finder in list(sys.path_importer_cache.values()):
        forget = getattr(finder, "invalidate_caches", None)
        if forget is not None:
            forget()  # an item before may have written a module
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()  # as Python's own is: or all items would draw the same
    if order["kind"] == "ranks":
        from kij_train.pod import itemnodes

        sys.exit(itemnodes.run_ranks(order["argv"]))
    quick_end.begin()
    try:
        if order["argv"][0] == contract.FUNCTION:
            from kij_train.pod import itemcall

            itemcall.call(order["argv"][1])
        else:
            mainprogram.as_main(order["argv"])
        quick_end.is_due(None)
    except BaseException as error:
        quick_end.is_due(error)
        mainprogram.end_badly(error, order["error_file"], process, "the script")
        raise


def run(channel: Channel, fresh: Dict[str, Any], at_start: FrozenSet[str]) -> None:
    """Be a zygote until the runner is gone, or, in the process of an item, until that has ended.

    `fresh` and `at_start` are as for mainprogram.started_as.
    """
    adopt_orphans()
    mainprogram.started_as(fresh, at_start)
    zygote = Zygote(channel)
    become(zygote.serve(), zygote.quick_end)


if __name__ == "__main__":
    environment.hide_own_folder()
    given = Channel(int(sys.argv[1]), int(sys.argv[2]))
    for end in given:
        os.set_inheritable(end, False)
    run(given, FRESH, AT_START)
