"""The status lines of a node's processes, on standard error: standard output is the script's.

`diagnosis` finds some of them in logs and in termination messages: those are types here, which
write and read their line. What reads is compiled when it is first used: pods only write.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import re
import sys
from typing import NamedTuple, Optional, Tuple

PREFIX = "kij-train: "


def say(text: str) -> None:
    """One line of status; where nobody takes it, the work goes on."""
    with contextlib.suppress(OSError):
        print(PREFIX + text, file=sys.stderr, flush=True)


class Attempt(NamedTuple):
    """An attempt to reach rank 0 that failed."""

    where: str
    """The name, where it has no address; else address and port."""
    error: str
    resolved: bool
    """Whether the name has an address."""

    @property
    def refused(self) -> bool:
        """Whether the machine is there, and nobody listens at the port."""
        return self.resolved and "refused" in self.error.lower()

    def text(self) -> str:
        if self.resolved:
            return f"{self.where}: {self.error}"
        return f"{self.where} does not resolve ({self.error})"


class WaitingForRank0(NamedTuple):
    """A node waits for rank 0."""

    waited_s: int
    last: Attempt

    def text(self) -> str:
        return f"still waiting for rank 0 after {self.waited_s} s: {self.last.text()}"

    @staticmethod
    def read(line: str) -> "Optional[WaitingForRank0]":
        """From a line of a log; None for another one."""
        found = re.search(_WAITING, line)
        if found is None:
            return None
        if found["name"]:
            last = Attempt(found["name"], found["unresolved"], resolved=False)
        else:
            last = Attempt(found["where"], found["error"], resolved=True)
        return WaitingForRank0(int(found["waited"]), last)


_WAITING = (
    re.escape(PREFIX) + r"still waiting for rank 0 after (?P<waited>\d+) s: "
    r"(?:(?P<name>\S+) does not resolve \((?P<unresolved>.*)\)"
    r"|(?P<where>\S+ port \d+): (?P<error>.*))"
)


ORIGIN = "the origin"


class Fetching(NamedTuple):
    """A pod gets what all pods need."""

    label: str
    """What it is; empty for what --fetch names."""
    percent: int
    total: int
    """Bytes of the whole."""
    bytes_s: float
    whence: str
    """ORIGIN, or the index that they come from."""

    def text(self) -> str:
        label = self.label and f" {self.label}:"
        size, rate = size_text(self.total), size_text(round(self.bytes_s))
        return f"fetching{label} {self.percent} % of {size}, {rate}/s, from {self.whence}"

    @staticmethod
    def read(line: str) -> "Optional[Fetched]":
        """From a line of a log; None for another one."""
        found = re.match(_FETCHING, line)
        if found is None:
            return None
        return Fetched(found["label"] or "", int(found["percent"]), found["whence"])


class Fetched(NamedTuple):
    """How far a pod is, as its line says."""

    label: str
    percent: int
    whence: str


_FETCHING = (
    re.escape(PREFIX) + r"fetching(?: (?P<label>\S+):)? (?P<percent>\d+) % of [^,]*, [^,]*/s, "
    r"from (?P<whence>.*)"
)


class AwaitingCache(NamedTuple):
    """Another job puts into the cache what this one needs."""

    job: str
    what: str
    done: int
    """Bytes that it has put."""

    def text(self) -> str:
        so_far = size_text(self.done)
        return f"waiting for job {self.job}, which puts {self.what} into the cache: {so_far} so far"

    @staticmethod
    def is_said(line: str) -> bool:
        """Whether a line of a log says so."""
        return re.match(_AWAITING_CACHE, line) is not None


_AWAITING_CACHE = (
    re.escape(PREFIX) + r"waiting for job \S+, which puts .* into the cache: .* so far"
)


class FetchFault(NamedTuple):
    """Why something cannot be fetched."""

    kind: str
    """A key of FETCH_FAULTS."""
    about: str

    def text(self) -> str:
        return f"cannot fetch, {FETCH_FAULTS[self.kind]}: {self.about}"


FETCH_FAULTS = {
    "not-found": "there is no such file",
    "refused": "access is refused",
    "throttled": "the origin asks for fewer requests",
    "gone": "the origin is gone",
    "changed": "the origin has changed while it was read",
    "hash": "the file has another hash than was asked for",
    "full": "no room is left",
    "limit": "it is more than the request allows",
    "unwritable": "nothing can be written",
    "path": "a file would leave its folder, or comes twice",
    "no-library": "the image lacks a library",
}


def size_text(size: int) -> str:
    """Bytes, as 1.5 GiB."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


class Exited(NamedTuple):
    """A command without torchrun has ended with an exit code that is not 0, and by no signal."""

    command: str
    code: int

    def text(self) -> str:
        return f"{self.command} ended with exit code {self.code}"

    @staticmethod
    def find(text: str) -> "Optional[Exited]":
        """The last one in some lines of a log."""
        found = re.findall(_EXITED, text)
        return Exited(found[-1][0], int(found[-1][1])) if found else None


_EXITED = "(?m)^" + re.escape(PREFIX) + r"(.*) ended with exit code (\d+)$"


class ItemStarts(NamedTuple):
    """A runner of an array starts an item: the lines of its pod that follow are this item's."""

    index: int  # type: ignore[assignment] # nobody calls tuple.index
    place: int
    """Within the index, from 1."""
    items: int
    """Of the index."""
    about: str
    """Its seed, key and command."""

    def text(self) -> str:
        return f"index {self.index}, item {self.place} of {self.items}, {self.about}"

    @staticmethod
    def read(line: str) -> "Optional[ItemStarts]":
        """From a line of a log; None for another one."""
        found = re.match(_ITEM_STARTS, line)
        if found is None:
            return None
        return ItemStarts(int(found[1]), int(found[2]), int(found[3]), found[4])


_ITEM_STARTS = re.escape(PREFIX) + r"index (\d+), item (\d+) of (\d+), (seed \d+, key .*)"


class Unheard(NamedTuple):
    """The pod that leads a job has not heard of another one for some seconds, and waits for it."""

    index: int  # type: ignore[assignment] # nobody calls tuple.index
    ip: str
    """Of the pod: an index may have had several."""
    machine: str
    may_train: bool = False
    """Whether so many pods are silent that they may train without this side of a cut network."""

    def text(self) -> str:
        where = self.ip + (f" on {self.machine}" if self.machine else "")
        unless = _UNLESS if self.may_train else ""
        return (
            f"nothing is heard of index {self.index} ({where}), and training waits for another "
            f"pod{unless}"
        )

    @staticmethod
    def read(line: str) -> "Optional[Unheard]":
        """From a line of a log; None for another one."""
        found = re.match(_UNHEARD, line)
        if found is None:
            return None
        return Unheard(int(found[1]), found[2], found[3] or "", bool(found[4]))


_UNLESS = ", unless it goes on there"
_UNHEARD = (
    re.escape(PREFIX)
    + r"nothing is heard of index (\d+) \((\S+)(?: on (\S+))?\), and training waits for another pod"
    + f"({_UNLESS})?"
)


class Installing(NamedTuple):
    """A pod begins to install packages."""

    source: str

    def text(self) -> str:
        return f"installing packages: {self.source}"

    @staticmethod
    def read(line: str) -> "Optional[Installing]":
        """From a line of a log; None for another one."""
        found = re.search(_INSTALLING, line)
        return None if found is None else Installing(found[1])


_INSTALLING = re.escape(PREFIX) + r"installing packages: (.*)"


class Installed(NamedTuple):
    """A pod has installed packages, or got them from another pod that has."""

    seconds: int
    lock: Tuple[str, ...]
    """What the image did not have, as requirements of pip."""
    received: bool = False

    def text(self) -> str:
        if not self.lock:
            return f"packages: all of them are there already, which took {self.seconds} s to see"
        how = "received" if self.received else "installed"
        return f"{how} packages in {self.seconds} s: {', '.join(self.lock)}"

    @staticmethod
    def read(line: str) -> "Optional[Installed]":
        """From a line of a log; None for another one."""
        found = re.search(_INSTALLED, line)
        if found is None:
            return None
        lock = tuple(found["lock"].split(", ")) if found["lock"] else ()
        return Installed(int(found["s"] or found["none_s"]), lock, found["how"] == "received")


_INSTALLED = (
    re.escape(PREFIX) + r"(?:(?P<how>installed|received) packages in (?P<s>\d+) s: (?P<lock>.*)"
    r"|packages: all of them are there already, which took (?P<none_s>\d+) s to see)"
)


class PackagesFault(NamedTuple):
    """Why packages cannot be installed."""

    kind: str
    """A key of PACKAGES_FAULTS."""
    about: str

    def text(self) -> str:
        return f"packages cannot be installed, {PACKAGES_FAULTS[self.kind]}: {self.about}"


PACKAGES_FAULTS = {
    "not-found": "no such package, or no such version for this Python",
    "no-match": "not for this Python or machine",
    "conflict": "the requirements contradict each other or the image",
    "torch": "the torch of the image would be replaced",
    "hash": "a file has another hash than the lock says",
    "python": "the lock is for another Python",
    "refused": "the index refuses access",
    "insecure": "the index is not served by https, and nothing says that this is meant",
    "throttled": "the index asks for fewer requests",
    "unreachable": "the index cannot be reached",
    "full": "no room is left",
    "no-installer": "the image has neither uv nor pip",
    "failed": "the installer failed",
}


def step_of(line: str) -> str:
    """What a pod does that is not ready yet, as its line of a log says; empty for another line."""
    line = line[max(0, line.find(PREFIX)) :]  # behind the index, where several logs are shown
    if Installing.read(line) is not None or re.match(_STILL_INSTALLING, line):
        return "installing"
    if AwaitingCache.is_said(line):
        return "waiting for the cache"
    fetched = Fetching.read(line)
    return "" if fetched is None else f"fetching {fetched.percent} %"


def still_installing(seconds: float) -> str:
    """A pod goes on installing packages."""
    return f"still installing packages after {seconds:.0f} s"


_STILL_INSTALLING = re.escape(PREFIX) + r"still installing packages after \d+ s"


def no_torch(python: str, error: ImportError) -> str:
    """Why a node cannot run torchrun; NO_TORCH finds it where no torch is there at all."""
    return f"torch cannot be imported by {python}: {error}"


NO_TORCH = r"torch cannot be imported by .+: No module named"
