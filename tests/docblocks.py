"""What the docs show of a terminal: found, run, and compared with what the page says.

A block of the language `console` is a session. Lines with `$ ` are commands, the lines below them
their output; a command that ends with another code than 0 is followed by `$ echo $?`. The blocks of
a page run from top to bottom in one folder, which has train_examples/, manifests/ and the files of
the page. Comments of a page say what the runner has to know of the block below them:

    <!-- runs: on a cluster -->       in the pods of the test cluster, not as processes here
    <!-- not run: it takes a GPU -->  nowhere, and why
    <!-- file: train.py -->           the block is this file of the folder

In an expected output, `…` stands for anything: alone in a line for any number of lines, which then
need not be all that there are. What differs from run to run is masked on both sides. Lines of
different ranks have no order among each other.

`KIJ_TEST_WRITE_DOCS=1 pytest …` writes what was printed into the page.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

from tests.kube import ROOT
from tests.translations import LANGUAGES

DOCS = ROOT / "docs"
CLUSTER = "on a cluster"
MOST_LINES = 40
"""Of an output that is written into a page; the middle of a longer one is left out."""
_COMMENT = re.compile(r"<!-- (runs|not run|file): (.+?) -->")
_NOISE = re.compile(
    r"(node \d+ \| |\d+/\S+ \| )?\[?[EW]\d{4} .*|\S+  \d+ (nodes?: |of \d+ items).*"
)
"""Torch's own log, and how far a job is: which of those lines there are, is a matter of time."""
_RANK = re.compile(r"((?:node )?\d+(?:/\S+)?) \| ")
_MASKS = [
    (re.compile(r"\b(\d+d)?(\d+h)?\d+[hm](\d\ds)?\b"), "# s"),
    (re.compile(r"\b\d+(\.\d+)? (s|ms|min|steps/s|KiB|MiB|GiB|B|files)\b"), r"# \2"),
    (re.compile(r"\b\d+:\d\d:\d\d\b"), "#:##:##"),
    (re.compile(r"^(\w+,\d+,\d+),[\d.]+,"), r"\1,#,"),
    (re.compile(r" · \d+ at once"), ""),
    (re.compile(r"slowest: .*"), "slowest: #"),
    (re.compile(r"\b(process|port|loss) \d[\d.]*"), r"\1 #"),
    (re.compile(r"\b(127\.0\.0\.1|\d+\.\d+\.\d+\.\d+):\d+"), "ADDRESS"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?Z?"), "DATE"),
    (re.compile(r"(-\d+)-[a-z0-9]{5}\b"), r"\1-#####"),
    (re.compile(r"\bnode-\d\b"), "node-#"),
    (re.compile(r" {2,}"), "  "),
]


@dataclass
class Command:
    """A command of a session, and what the page says that it prints."""

    line: str
    output: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: Path
    at: int
    """Its first line in the page, from 0, of a fence the line of the fence."""
    end: int
    language: str
    """Of a fence; empty where it has none, and for indented code."""
    text: str
    is_fence: bool
    runs: str = ""
    not_run: str = ""
    """Why it is not run."""
    file: str = ""

    @property
    def is_session(self) -> bool:
        return self.language == "console"

    @property
    def where(self) -> str:
        """A link that editors follow."""
        return f"{self.page.relative_to(ROOT)}:{self.at + 1}"

    def commands(self) -> list[Command]:
        """Of a session."""
        found: list[Command] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            elif found and found[-1].line.endswith("\\") and not found[-1].output:
                found[-1].line += "\n" + line
            elif found:
                found[-1].output.append(line)
            else:
                raise AssertionError(f"{self.where}: a session begins with a command: $ …")
        return found


def pages() -> list[Path]:
    """The README and all of docs/ in English: translations have the same blocks."""
    others = {DOCS / language for language in LANGUAGES}
    found = (page for page in sorted(DOCS.rglob("*.md")) if not others & set(page.parents))
    return [ROOT / "README.md", *found]


@cache
def blocks(page: Path) -> list[Block]:
    """All blocks of code of a page, as CommonMark has them."""
    found = []
    said: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            said.update(
                (kind.replace(" ", "_"), what) for kind, what in _COMMENT.findall(token.content)
            )
        elif token.type in ("fence", "code_block"):
            at, end = token.map or (0, 0)
            language = token.info.split(" ")[0]
            is_fence = token.type == "fence"
            found.append(Block(page, at, end, language, token.content, is_fence, **said))
            said = {}
    assert not said, f"{page}: a comment has no block below it: {said}"
    return found


def sessions(page: Path, runs: str) -> list[Block]:
    """Those that are run there, in order, and the page's files."""
    return [
        block
        for block in blocks(page)
        if not block.not_run and (block.file or (block.is_session and block.runs == runs))
    ]


def pages_with_sessions(runs: str) -> list[Path]:
    """Those that have something to run there."""
    return [page for page in pages() if any(b.is_session for b in sessions(page, runs))]


def run_page(
    page: Path,
    runs: str,
    folder: Path,
    env: Mapping[str, str],
    shown_as: Mapping[str, str],
) -> list[str]:
    """Run the sessions of a page in a folder; what is not as the page says, or nothing.

    `shown_as` has names of this place, and what stands for them in the pages.
    """
    here = {str(folder): "~", socket.gethostname(): "laptop", **shown_as}
    for name in ("train_examples", "manifests"):
        shutil.copytree(ROOT / name, folder / name)
    wrong, printed = [], {}
    for block in sessions(page, runs):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
            continue
        commands = block.commands()
        code = 0
        for command, following in itertools.zip_longest(commands, commands[1:]):
            if command.line == "echo $?":
                output, code = [str(code)], 0
            else:
                output, code = _run(command.line, folder, env, here)
            asks = following is not None and following.line == "echo $?"
            if code and not asks:
                wrong.append(
                    f"{block.where}: $ {command.line}\nexit code {code}\n" + "\n".join(output)
                )
            elif problem := difference(command.output, output):
                wrong.append(f"{block.where}: $ {command.line}\n{problem}")
            if not any(line.strip() == "…" for line in command.output):
                command.output = output
        printed[block] = commands
    if os.environ.get("KIJ_TEST_WRITE_DOCS"):
        _write(page, printed)
    return wrong


def _run(
    line: str, folder: Path, env: Mapping[str, str], shown_as: Mapping[str, str]
) -> tuple[list[str], int]:
    programs = str(Path(sys.executable).parent)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, **env, "PATH": os.pathsep.join((programs, os.environ["PATH"]))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    text = done.stdout
    for name, instead in shown_as.items():
        text = text.replace(name, instead)
    lines = text.rstrip().splitlines()
    return lines, done.returncode


def masked(line: str) -> str:
    """The line without what is different in every run."""
    for pattern, instead in _MASKS:
        line = pattern.sub(instead, line)
    return line.rstrip()


def difference(expected: list[str], actual: list[str]) -> str:
    """What a page says and a run does not, as text; empty where they agree."""
    partly = any(line.strip() == "…" for line in expected)
    said, did = (_by_rank(lines) for lines in (expected, actual))
    for rank in said if partly else sorted({*said, *did}):
        lines = iter(did.get(rank, []))
        for line in said.get(rank, []):
            if partly:
                if not any(_fits(line, other) for other in lines):
                    return _shown(f"missing, or not in this order: {line}", actual)
            elif not _fits(line, other := next(lines, "")):
                return _shown(f"expected: {line}\nprinted:  {other}", actual)
        if not partly and (more := list(lines)):
            return _shown(f"printed and not expected: {more[0]}", actual)
    return ""


def _shown(problem: str, actual: list[str]) -> str:
    return "\n".join([problem, "it printed:", *("  " + line for line in actual)])


def _by_rank(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        rank = _RANK.match(line)
        if line.strip() != "…" and not _NOISE.fullmatch(line):
            found.setdefault(rank[1] if rank else "", []).append(masked(line))
    return found


def _fits(expected: str, actual: str) -> bool:
    parts = (re.escape(part.strip()) for part in expected.split("…"))
    return re.fullmatch(r"\s*" + r"\s*.*\s*".join(parts) + r"\s*", actual) is not None


def _write(page: Path, printed: Mapping[Block, list[Command]]) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in sorted(printed, key=lambda each: each.at, reverse=True):
        lines[block.at + 1 : block.end - 1] = _as_lines(printed[block])
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    blocks.cache_clear()


def _as_lines(commands: list[Command]) -> Iterator[str]:
    for command in commands:
        yield from f"$ {command.line}".splitlines()
        output = [line for line in command.output if not _NOISE.fullmatch(line)]
        if len(output) > MOST_LINES:
            output = [*output[: MOST_LINES // 2], "…", *output[-MOST_LINES // 2 :]]
        yield from (line.rstrip() for line in output)
