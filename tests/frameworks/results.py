"""What a run left: lines, files, exit code; without what two runs of torchrun differ in."""

from __future__ import annotations

import hashlib
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHANGING = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?"), "<time>"),
    (re.compile(r"\[([WE])\d{4} [\d:.]+ "), r"[\1 "),
    (re.compile(r"('\w+_(?:runtime|per_second)': )'?[\d.]+'?"), r"\1<number>"),
    (re.compile(r"0x[0-9a-f]{6,}"), "<address>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (
        re.compile(r"""[^\s"']*/(?:site-packages|dist-packages|python3\.\d+|frameworks)/"""),
        "<lib>/",
    ),
)
CONTROL = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
BAR = re.compile(r"^\s*([^|]*?)\s*(?:\d+%)?\|[^|]*\| *(\d+)/(\d+|\?) \[[^\]]*\](.*)$")
Roots = Mapping[str, str]
"""Folders of a run, and what to call them."""
PREFIX = re.compile(r"^(?:node \d+|\d+(?:/[\d-]+)?) \| ")
NOT_THE_SCRIPTS = re.compile(
    r"kij-train: "
    r"|[WEI]\d{4} [\d:.]+ .*torch/distributed/(?:run|elastic)"  # torchrun's log, in ours
    r"|.*The hostname of the client socket cannot be retrieved"  # a cluster without reverse DNS
)


@dataclass(frozen=True)
class Result:
    """Of all ranks together."""

    exit_code: int
    out: list[str]
    err: list[str] | None
    """None: the logs of pods, which have both streams; their files are those of --out."""
    files: dict[str, str]
    """What is in each, by path."""

    @property
    def lines(self) -> list[str]:
        return self.out + (self.err or [])


@dataclass(frozen=True)
class Differences:
    """Between a run and torchrun's."""

    lines: tuple[str, ...]
    files: tuple[str, ...]
    exit_code: str


def differences(ours: Result, torchruns: Result, ranks: int) -> Differences:
    """`+` is ours alone, `-` is torchrun's alone."""
    lines = []
    if ours.err is None:
        lines += _unlike(ours.lines, torchruns.lines)
    else:
        lines += _unlike(ours.out, torchruns.out)
        lines += [f"{line} (stderr)" for line in _unlike(ours.err, torchruns.err or [])]
    for rank in range(ranks) if not lines else ():
        own = f"rank {rank} "
        if [x for x in ours.out if x.startswith(own)] != [
            x for x in torchruns.out if x.startswith(own)
        ]:
            lines.append(f"another order of rank {rank}")
    files = []
    for path in sorted(ours.files.keys() | torchruns.files.keys()):
        if ours.err is None and not path.startswith("out/"):
            continue
        mine, theirs = ours.files.get(path), torchruns.files.get(path)
        if mine != theirs:
            sign = "-" if mine is None else "+" if theirs is None else "another"
            files.append(f"{sign} {path}")
    codes = f"{ours.exit_code}, torchrun {torchruns.exit_code}"
    same = ours.exit_code == torchruns.exit_code
    return Differences(tuple(lines), tuple(files), "" if same else codes)


def _unlike(ours: list[str], torchruns: list[str]) -> list[str]:
    mine, theirs = Counter(ours), Counter(torchruns)
    alone = [f"+ {line!r}" for line in (mine - theirs).elements()]
    return alone + [f"- {line!r}" for line in (theirs - mine).elements()]


# --- lines ----------------------------------------------------------------------------------------


def lines_of(text: str, roots: Roots) -> list[str]:
    """The script's lines, without prefixes, times and paths; of a bar only that it was full.

    Empty lines count where there is no bar: those around a bar are its own.
    """
    found, bars, has_bar = list[str](), set[str](), False
    lines = [PREFIX.sub("", line) for line in CONTROL.sub("", text).removesuffix("\n").split("\n")]
    for line in _without_crash(lines):
        states = [state for state in line.split("\r") if state.strip()] if "\r" in line else [line]
        for state in states:
            bar = BAR.match(state)
            has_bar = has_bar or bar is not None
            if bar and bar[2] == bar[3]:
                bars.add(f"{bar[1]} bar is full: {bar[3]}".strip())
            rest = bar[4] if bar else state
            if not (NOT_THE_SCRIPTS.match(rest) or (bar and not rest.strip())):
                found.append(normal(rest, roots))
    if has_bar:
        found = [line for line in found if line.strip()]
    return found + sorted(bars)


def _without_crash(lines: list[str]) -> list[str]:
    """The stack left out that a rank of ours writes when a signal kills it, and torchrun's not."""
    kept, in_stack = list[str](), False
    for line in lines:
        in_stack = in_stack or line.startswith("Fatal Python error: ")
        if not in_stack:
            kept.append(line)
        in_stack = in_stack and not line.startswith("Extension modules: ")
    return kept


def without_ours(text: str, job: str) -> str:
    """The header and the verdict of `kij-train launch` left out."""
    kept = []
    for line in text.split("\n"):
        if re.match(rf"{job}  \d+ nodes? ", line) or line.startswith(("warning: ", "ending all ")):
            continue
        if re.match(rf"(error: )?{job} (succeeded|failed|was stopped)", line):
            break
        kept.append(line)
    return "\n".join(kept)


def normal(text: str, roots: Roots) -> str:
    """Without what differs from run to run."""
    for root, word in roots.items():
        text = text.replace(root, word)
    for pattern, instead in CHANGING:
        text = pattern.sub(instead, text)
    return text


# --- files ----------------------------------------------------------------------------------------


def files_of(folder: Path, roots: Roots) -> dict[str, str]:
    """What a run left in its folder, each file in a form that can be compared."""
    return {
        str(path.relative_to(folder)): _content(path, roots)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
    }


def _content(path: Path, roots: Roots) -> str:
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        return _archive(path, roots)
    if data[:1] == b"\x80":
        return _pickled(data, roots)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return hashlib.sha256(data).hexdigest()
    return "\n".join(sorted(normal(text, roots).splitlines()))  # ranks take turns in a log


def _archive(path: Path, roots: Roots) -> str:
    """What torch.save wrote: tensors by their checksums, objects by what they are made of."""
    said = []
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        for member in archive.infolist():
            name = member.filename.partition("/")[2] or member.filename
            if name.endswith("data.pkl"):
                said.append(_pickled(archive.read(member), roots))
            elif not name.endswith("serialization_id"):
                said.append(f"{name} {member.CRC}")
    return "\n".join([f"broken: {broken}", *said])


def _pickled(data: bytes, roots: Roots) -> str:
    """The names of its classes, and its values."""
    found = pickletools.genops(data)
    values = [str(value) for code, value, _ in found if code.name != "FRAME" and value is not None]
    return normal("\n".join(values), roots)
