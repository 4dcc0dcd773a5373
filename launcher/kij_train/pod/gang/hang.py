"""Ranks that make no progress: their signs of life, and who holds up the others.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import os
import re
import threading
import time
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from kij_train.pod.gang.messages import RankStack
from kij_train.pod.gang.pace import Beat
from kij_train.pod.stacks import DUMP_FRAME, STARTS, RankNow

FILE, OUTPUT = "file", "output"
"""What counts as a sign of life: only that a rank touches its file, or that it prints as well."""
MOST_FRAMES = 40
CHUNK = 1 << 16
LONGEST_STEP = 18
"""The most digits that the number of a step may have."""

_HEAD = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+(?: \[(.*)\])? \(most recent call first\):")
_LIBRARY = re.compile(r"/(site|dist)-packages/|/lib/python3\.|^<")
_COLLECTIVE = re.compile(r"/torch/(distributed|nn/parallel)/")


# --- signs of life --------------------------------------------------------------------------------


class Signs:
    """When the ranks of a node last gave a sign of life."""

    def __init__(self, folder: str, output: "Optional[Output]" = None) -> None:
        """`folder` has a file for every rank. `output` is given if output counts as well."""
        os.makedirs(folder, exist_ok=True)
        self._folder, self._output = folder, output
        self._seen: Dict[str, int] = {}
        self._began = self._last = time.monotonic()
        self.step: Optional[int] = None
        """The highest number that a rank has written into its file."""
        self._beats: Dict[int, Beat] = {}

    @property
    def ever(self) -> bool:
        """Whether any rank has given a sign of life since the beginning."""
        return self._latest() > self._began

    def _latest(self) -> float:
        return max(self._last, self._output.last) if self._output else self._last

    def silence_s(self) -> float:
        """How long no rank has given a sign of life."""
        now = time.monotonic()
        with contextlib.suppress(OSError):
            # Look for times that have changed: the clock of the files may differ from ours.
            seen = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(self._folder)}
            if seen != self._seen:
                changed = [name for name, at in seen.items() if self._seen.get(name) != at]
                self._seen, self._last = seen, now
                self._read_steps(changed)
        return now - self._latest()

    def beats(self) -> List[Beat]:
        """The newest heartbeat of each rank that says its step, by the monotonic clock."""
        self.silence_s()
        return list(self._beats.values())

    def _read_steps(self, names: List[str]) -> None:
        for name in names:
            with open(os.path.join(self._folder, name), "rb") as file:
                text = file.read(LONGEST_STEP + 1).strip()
                age_s = max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
            if text.isdigit() and len(text) <= LONGEST_STEP:
                self.step = max(int(text), self.step or 0)
                if name.isdigit():
                    at = time.monotonic() - age_s
                    self._beats[int(name)] = Beat(int(name), int(text), at)


class Output:
    """Passes the output of the ranks on, and remembers when they last printed something."""

    def __init__(self) -> None:
        self.last = 0.0
        """When a rank last printed something (time.monotonic)."""
        self._pipes = [(os.pipe(), stream) for stream in (1, 2)]
        self._threads: List[threading.Thread] = []
        self._in_a_line = {1: False, 2: False}

    def start(self) -> None:
        """Begin to pass output on. Threads do that, so fork the process of the ranks before."""
        for (end, _), stream in self._pipes:
            thread = threading.Thread(target=self._pass_on, args=(end, stream), daemon=True)
            thread.start()
            self._threads.append(thread)

    def take(self) -> None:
        """Make this process, which is one of the ranks' own, write to the pipes from now on."""
        for (_, end), stream in self._pipes:
            os.dup2(end, stream)

    def end_lines(self) -> None:
        """End a line that earlier ranks have begun, so that the next ranks begin a new line."""
        for stream, unended in self._in_a_line.items():
            if unended:
                self._in_a_line[stream] = False
                os.write(stream, b"\n")

    def close(self, timeout_s: float) -> None:
        """Pass on the rest of the output. Call this when all ranks have ended."""
        for (_, end), _ in self._pipes:
            os.close(end)
        for thread in self._threads:
            thread.join(timeout_s)

    def _pass_on(self, end: int, stream: int) -> None:
        while True:
            data = os.read(end, CHUNK)
            if not data:
                return
            self.last = time.monotonic()
            self._in_a_line[stream] = not data.endswith(b"\n")
            while data:
                data = data[os.write(stream, data) :]


# --- stacks ---------------------------------------------------------------------------------------


class Thread(NamedTuple):
    """A thread of a rank."""

    frames: Tuple[str, ...]
    """The most recent call first, as faulthandler writes it."""
    current: bool = False
    """Whether this thread handled the signal, as the main thread does."""
    name: Optional[str] = None
    """The thread's name; Python writes it into dumps since 3.14."""


def threads_of(dump: str) -> Tuple[Thread, ...]:
    """The threads of a dump of faulthandler, in its order."""
    found: List[Tuple[Any, List[str]]] = []
    for line in filter(None, map(str.strip, dump.splitlines())):
        head = _HEAD.fullmatch(line)
        if head is not None:
            found.append((head, []))
        elif found:
            found[-1][1].append(line)
    return tuple(Thread(tuple(f), head.group(1) != "Thread", head.group(2)) for head, f in found)


def main_thread(threads: Iterable[Thread]) -> Optional[Thread]:
    """The main thread of a dump: it handles the signals, and faulthandler writes it last."""
    every = list(threads)
    found = [thread for thread in every if thread.current] or every
    return found[-1] if found else None


def brief(ranks: Iterable[RankNow]) -> List[RankStack]:
    """What the leader needs to know of the ranks of this node: rank, state, frames."""
    found = []
    for rank in ranks:
        main = main_thread(threads_of(rank.stack))
        frames = list(main.frames[:MOST_FRAMES]) if main else []
        found.append(RankStack(rank.rank, rank.state, frames))
    return found


class Finding(NamedTuple):
    """Who holds up the others."""

    rank: Optional[int]
    """The lowest rank that holds up the others; None if no rank differs from the others."""
    text: str
    """A line for each place where ranks are. The place that holds up the others comes first."""
    callstack: str
    """The stack of that rank, or of a rank at the first place; the most recent call last."""


def compare(ranks: List[RankStack]) -> Finding:
    """Find who holds up the others, from the stacks that `brief` has made of all ranks.

    If some ranks answer and others do not, the silent ones hold up the rest. If all answer and only
    some wait in a collective, the ranks that do not wait hold up the rest. Else the place with the
    fewest ranks holds up the rest, if these are less than half of all.
    """
    places: Dict[Tuple[bool, str], List[RankStack]] = {}
    for rank in sorted(ranks, key=lambda each: each.rank):
        places.setdefault(_place(rank), []).append(rank)
    order = sorted(places.items(), key=lambda item: len(item[1]))
    suspects = _suspects(order, len(ranks))
    lines = []
    for (_, place), there in suspects + [item for item in order if item not in suspects]:
        verb = "is" if len(there) == 1 else "are"
        lines.append(f"{name_of(each.rank for each in there)} {verb} {place}")
    if not order:
        return Finding(None, "no rank says where it is", "")
    if not any(rank.frames for rank in ranks):
        lines.append("a script that handles SIGUSR2 itself cannot say where it is")
    first = (suspects or order)[0][1][0]
    return Finding(first.rank if suspects else None, "\n".join(lines), _callstack(first.frames))


_Places = List[Tuple[Tuple[bool, str], List[RankStack]]]


def _suspects(order: _Places, count: int) -> _Places:
    """The places whose ranks hold up the others; the place with the fewest ranks comes first."""
    silent = [item for item in order if not item[1][0].frames]
    busy = [item for item in order if item[1][0].frames and not item[0][0]]
    for found in (silent, busy):
        if 0 < sum(len(there) for _, there in found) < count and (
            found is silent or any(waits for (waits, _), _ in order)
        ):
            return found
    return order[:1] if len(order) > 1 and 2 * len(order[0][1]) < count else []


def _place(rank: RankStack) -> Tuple[bool, str]:
    """Whether a rank waits in a collective, and where it is."""
    if not rank.frames:
        return False, f"silent: {rank.state or 'gone'}"
    frames = [found.groups() for found in map(DUMP_FRAME.match, rank.frames) if found]
    if not frames:
        return False, "at an unknown place"
    own = (n for n, (file, _, _) in enumerate(frames) if not _LIBRARY.search(file))
    at = next((n for n in own if not STARTS.search(frames[n][0])), 0)
    file, line, function = frames[at]
    place = f"in {function} ({os.path.basename(file)}:{line})"
    inner = frames[:at]
    if inner:
        place = f"in {inner[0][2]}, called {place}"
    return any(_COLLECTIVE.search(frame[0]) for frame in inner), place


def _callstack(frames: List[str]) -> str:
    found = [match.groups() for match in map(DUMP_FRAME.match, frames) if match]
    while found and STARTS.search(found[-1][0]):
        found.pop()
    return "\n".join(f'  File "{file}", line {line}, in {name}' for file, line, name in found[::-1])


def name_of(ranks: Iterable[int]) -> str:
    """Ranks as a text, such as "rank 3" or "ranks 0-2, 5"."""
    text = spans(ranks)
    return f"rank {text}" if text.isdigit() else f"ranks {text}"


def spans(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 → "0-2, 5"."""
    found: List[List[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
