"""What the ranks of a pod do now: cores, memory, steps, and their GPUs; one line of JSON a look.

`kij-train top` hands the text of this file, devices.py and contract.py to a Python in the pod,
through its stdin: nothing is installed, and pods of any release can be looked at. The launcher then
sends a line for each look that it wants. The program ends with its stdin, and when it has not been
asked for a minute: it never outlives who asked.

Standard library only, Python 3.8 or later.
"""

import contextlib
import json
import os
import select
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from kij_train.pod import contract
from kij_train.pod.devices import Gpu, open_devices

LEASE_S = 60.0
MOST_OF_A_CORE = 0.005
"""What looking may take, of one core: who asks more often than that allows gets no answer."""
YOUNG_S = 10.0
"""How old a process is before it is taken for something else than a rank once and for all."""
FIRST_S = 1.0
"""Between the first two looks: what is counted needs two."""
LONGEST_STEP = 18
"""The most digits that the number of a step may have."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
READY = "ready"


class Rank(NamedTuple):
    """A rank of this pod."""

    rank: int
    node: Optional[int]
    """The completion index of its node; None where its environment does not say it."""
    pid: int
    cores: Optional[float]
    """How many it has kept busy since the last look, with its children; None at the first one."""
    memory_bytes: int
    """Resident, with its children; what they share is counted for each."""
    gpu: Optional[str]
    """`id` of its GPU."""
    step: Optional[int]
    """The last that it has written into its heartbeat file."""
    beat_age_s: Optional[float]
    """How long ago it has touched that file."""


class Look(NamedTuple):
    """A pod now."""

    at: float
    """By the pod's own clock (time.monotonic)."""
    cores: Optional[float]
    """How many the container has kept busy; None where no cgroup tells."""
    cores_limit: Optional[float]
    held_back: Optional[float]
    """The share of the time, from 0 to 1, in which its CPU limit has held it back."""
    memory_bytes: Optional[int]
    memory_limit_bytes: Optional[int]
    ranks: Sequence[Rank]
    gpus: Sequence[Gpu]
    slow: Sequence[Any]
    """Of a job that restarts: the slow ranks that its leader knows, as it has written them."""
    note: str
    """What cannot be known here, and why."""
    cost: float
    """The share of a core that looking takes."""

    def line(self) -> str:
        said = self._asdict()
        said["ranks"] = [each._asdict() for each in self.ranks]
        said["gpus"] = [each._asdict() for each in self.gpus]
        return json.dumps(said, separators=(",", ":"))

    @staticmethod
    def read(line: str) -> "Optional[Look]":
        """From what `line` gave; None for anything else."""
        try:
            said = json.loads(line)
            said["ranks"] = [Rank(**each) for each in said["ranks"]]
            said["gpus"] = [Gpu(**each) for each in said["gpus"]]
            return Look(**said)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


# --- processes ------------------------------------------------------------------------------------


class Process(NamedTuple):
    """What /proc says of one."""

    parent: int
    started: int
    ticks: int
    """Of CPU, with those of its children that have ended."""
    pages: int


class Processes:
    """The processes of this pod or machine, and which of them are ranks."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._known: Dict[Tuple[int, int], Dict[str, str]] = {}
        """(pid, start) → the environment of a rank; empty for another process."""

    def read(self) -> Dict[int, Process]:
        found = {}
        for name in os.listdir(self._proc):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    with open(f"{self._proc}/{name}/stat", "rb") as file:
                        words = file.read().rpartition(b")")[2].split()
                    if words[0] == b"Z":
                        continue
                    ticks = sum(int(word) for word in words[11:15])
                    found[int(name)] = Process(int(words[1]), int(words[19]), ticks, int(words[21]))
        return found

    def ranks(self, processes: Dict[int, Process]) -> Dict[int, Dict[str, str]]:
        """pid → environment of each rank.

        A child of a rank has its environment, so the uppermost counts; of two with one number, such
        as a data loader that has outlived its rank, the newer one.
        """
        keys = {(pid, process.started) for pid, process in processes.items()}
        # A process has its parent's environment until it begins its own program: look again.
        old = (time.clock_gettime(time.CLOCK_BOOTTIME) - YOUNG_S) * os.sysconf("SC_CLK_TCK")
        self._known = {
            key: env for key, env in self._known.items() if key in keys and (env or key[1] < old)
        }
        for key in keys:
            if key not in self._known:
                self._known[key] = self._environment(key[0])
        of = {pid: self._known[pid, process.started] for pid, process in processes.items()}
        found: Dict[Tuple[str, str], int] = {}

        def newer(pid: int) -> Tuple[int, int]:
            return processes[pid].started, pid

        for pid, env in of.items():
            above = of.get(processes[pid].parent, {})
            if not env or above.get("RANK") == env["RANK"]:
                continue
            who = (env.get("KIJ_RUN_ID", ""), env["RANK"])
            # The start is in hundredths of a second: of two in one, the higher id is the newer.
            if who not in found or newer(pid) > newer(found[who]):
                found[who] = pid
        return {pid: of[pid] for pid in found.values()}

    def _environment(self, pid: int) -> Dict[str, str]:
        """Of a rank, as torchrun started it; empty for another process."""
        try:
            with open(f"{self._proc}/{pid}/environ", "rb") as file:
                pairs = (entry.partition(b"=") for entry in file.read().split(b"\0"))
                env = {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
        except OSError:
            return {}
        is_rank = env.get("RANK", "").isdigit() and env.get("LOCAL_RANK", "").isdigit()
        return env if is_rank else {}


def descendants(processes: Dict[int, Process]) -> Dict[int, List[int]]:
    """pid → its children's."""
    children: Dict[int, List[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    return children


def with_children(pid: int, children: Dict[int, List[int]]) -> List[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def read_beat(env: Dict[str, str]) -> Tuple[Optional[int], Optional[float]]:
    """The step of a rank's heartbeat file, and how old it is."""
    folder = env.get(contract.ENV_HEARTBEAT_DIR)
    if not folder:
        return None, None
    try:
        with open(os.path.join(folder, env["RANK"]), "rb") as file:
            text = file.read(LONGEST_STEP + 1).strip()
            age_s = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
    except OSError:
        return None, None
    return (int(text) if text.isdigit() and len(text) <= LONGEST_STEP else None), age_s


def gpu_of(env: Dict[str, str], gpus: Sequence[Gpu]) -> Optional[str]:
    """The GPU of a rank that takes the one of its local rank, as torch's examples do."""
    local_rank = int(env["LOCAL_RANK"])
    listed = next((env[name] for name in VISIBLE if env.get(name)), None)
    if listed is None:
        return gpus[local_rank].id if local_rank < len(gpus) else None
    wanted = [one.strip() for one in listed.split(",")]
    mine = wanted[local_rank] if local_rank < len(wanted) else wanted[0]
    known = (gpu for gpu in gpus if mine == gpu.id or (gpu.uuid and gpu.uuid.startswith(mine)))
    return next((gpu.id for gpu in known), None)


# --- the container --------------------------------------------------------------------------------


class Cgroup:
    """What the container's cgroup counts (docs.kernel.org/admin-guide/cgroup-v2.html, and v1)."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        self._root = root

    def _read(self, *paths: str) -> str:
        for path in paths:
            with contextlib.suppress(OSError), open(os.path.join(self._root, path)) as file:
                return file.read().strip()
        return ""

    def _number(self, *paths: str) -> Optional[int]:
        text = self._read(*paths)
        return int(text) if text.isdigit() else None

    def cpu_seconds(self) -> Tuple[Optional[float], Optional[float]]:
        """Used, and held back by the limit."""
        pairs = [line.split() for line in self._read("cpu.stat").splitlines()]
        stat = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
        if "usage_usec" in stat:
            return stat["usage_usec"] / 1e6, stat.get("throttled_usec", 0) / 1e6
        nanoseconds = self._number("cpuacct/cpuacct.usage", "cpu,cpuacct/cpuacct.usage")
        return (None if nanoseconds is None else nanoseconds / 1e9), None

    def cores_limit(self) -> Optional[float]:
        words = self._read("cpu.max").split()
        if not words:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [self._read(f"cpu/{name}", f"cpu,cpuacct/{name}") for name in names]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            return int(words[0]) / int(words[1])
        return None

    def memory(self) -> Tuple[Optional[int], Optional[int]]:
        """Bytes in use without the cache that would be given back, and the limit."""
        used = self._number("memory.current", "memory/memory.usage_in_bytes")
        limit = self._number("memory.max", "memory/memory.limit_in_bytes")
        stat = self._read("memory.stat", "memory/memory.stat").splitlines()
        cache = [line.split()[1] for line in stat if "inactive_file " in line]
        if used is not None and cache:
            used = max(0, used - int(cache[-1]))
        return used, None if limit is None or limit >= 1 << 60 else limit


# --- looking --------------------------------------------------------------------------------------


class Vitals:
    """Looks at the ranks of this pod, or of one run of this machine."""

    def __init__(
        self,
        is_meant: Callable[[Dict[str, str]], bool] = bool,
        proc: str = "/proc",
        cgroup: Optional[Cgroup] = None,
        devices: Optional[Tuple[Any, str]] = None,
    ) -> None:
        """`is_meant` says by its environment which rank counts."""
        self._is_meant = is_meant
        self._processes, self._cgroup = Processes(proc), cgroup
        self._devices, self._note = open_devices() if devices is None else devices
        self._before: Dict[Any, Tuple[float, float]] = {}
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._began, self._spent = time.monotonic(), time.process_time()
        self.cost = 0.0

    def look(self) -> Look:
        now = time.monotonic()
        spent = time.process_time()
        gpus = self._devices.look()
        processes = self._processes.read()
        environments = self._processes.ranks(processes)
        children = descendants(processes)
        ranks = [
            self._rank(pid, env, processes, children, gpus, now)
            for pid, env in environments.items()
            if self._is_meant(env)
        ]
        used = held = limit = None
        memory: Tuple[Optional[int], Optional[int]] = (None, None)
        if self._cgroup is not None:
            used, held = self._cgroup.cpu_seconds()
            limit, memory = self._cgroup.cores_limit(), self._cgroup.memory()
        cores = None if used is None else self._rate("cpu", used, now)
        share = None if held is None else self._rate("held", held, now)
        kept = {("rank", rank.pid) for rank in ranks} | {"cpu", "held"}
        self._before = {key: value for key, value in self._before.items() if key in kept}
        self.cost = time.process_time() - spent
        return Look(
            now,
            cores,
            limit,
            None if share is None else min(1.0, share),
            *memory,
            sorted(ranks, key=lambda rank: rank.rank),
            gpus,
            read_slow(),
            self._note,
            self._share(now),
        )

    def close(self) -> None:
        self._devices.close()

    def _share(self, now: float) -> float:
        """Of a core, since the start of this program is over."""
        return (time.process_time() - self._spent) / max(FIRST_S, now - self._began)

    def _rate(self, key: Any, value: float, now: float) -> Optional[float]:
        before, self._before[key] = self._before.get(key), (value, now)
        if before is None or value < before[0] or now <= before[1]:
            return None
        return (value - before[0]) / (now - before[1])

    def _rank(
        self,
        pid: int,
        env: Dict[str, str],
        processes: Dict[int, Process],
        children: Dict[int, List[int]],
        gpus: Sequence[Gpu],
        now: float,
    ) -> Rank:
        family = [processes[one] for one in with_children(pid, children)]
        seconds = sum(each.ticks for each in family) * self._tick_s
        step, age_s = read_beat(env)
        index = env.get(contract.ENV_COMPLETION_INDEX, "")
        return Rank(
            int(env["RANK"]),
            int(index) if index.isdigit() else None,
            pid,
            self._rate(("rank", pid), seconds, now),
            sum(each.pages for each in family) * self._page,
            gpu_of(env, gpus),
            step,
            age_s,
        )


def read_slow() -> List[Any]:
    """The slow ranks that the leader has told this pod."""
    try:
        with open(contract.ACCOUNTS_FILE) as file:
            slow = json.load(file)["history"].get("slow", [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return slow if isinstance(slow, list) else []


def serve() -> int:
    """Answer each line of stdin with a look, as often as the cost allows."""
    vitals = Vitals(cgroup=Cgroup())
    vitals.look()
    time.sleep(FIRST_S)
    next_at = 0.0
    print(READY, flush=True)
    try:
        while select.select([0], [], [], LEASE_S)[0] and os.read(0, 4096):
            if time.monotonic() < next_at:
                continue
            print(vitals.look().line(), flush=True)
            next_at = time.monotonic() + vitals.cost / MOST_OF_A_CORE
    except BrokenPipeError:
        sys.stdout = None  # Python would flush it once more
    finally:
        vitals.close()
    return 0
