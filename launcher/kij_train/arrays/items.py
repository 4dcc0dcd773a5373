"""The items of an array: where they come from, and the key of each.

A list is lines, or JSON lines: those of a file called .jsonl or .ndjson, and of any other one, or
of standard input, whose first line is an object of JSON. Empty lines are left out. The key of a
line is the line; of a file its path; of a number its digits; of an object its field `key`, else
`id`, else all of it as JSON. A key that is longer than MOST_KEY_BYTES is replaced by its SHA-256.

Items stay text (texts.py): there may be a million of them. Messages name the place that an item
came from, "todo.jsonl:7".
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kij_train.arrays.jsonlines import check_text, key_of, key_of_line
from kij_train.arrays.keys import check_distinct
from kij_train.arrays.texts import Texts
from kij_train.errors import RequestError
from kij_train.paths import shown
from kij_train.pod import itemlist
from kij_train.pod.itemlist import MOST_KEY_BYTES
from kij_train.pod.itemplan import MOST_ITEM_BYTES

STDIN = "-"
STDIN_SHOWN = "standard input"
JSON_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Items:
    """A list of items, each with a key that no other one has."""

    source: str
    """Where they came from, for messages."""
    keys: Sequence[str]
    texts: Sequence[str] | None = None
    """The items as JSON, where they are not their keys."""
    bounds: tuple[int, int] | None = None
    """Of a range: its first number, and the one behind its last; it has no keys then."""
    lines: Sequence[int] | None = None
    """The line of each item in `source`."""
    sha256: str = ""
    """Of the list, as it was read; empty where there is none."""
    is_json: bool = False
    """It has lines of JSON."""

    def __len__(self) -> int:
        return len(self.keys) if self.bounds is None else self.bounds[1] - self.bounds[0]

    def __iter__(self) -> Iterator[str | tuple[str, Any]]:
        """As `itemplan.encode` takes them."""
        if self.bounds is not None:
            yield from ((str(number), number) for number in range(*self.bounds))
        if self.texts is None:
            yield from self.keys
            return
        for key, text in zip(self.keys, self.texts, strict=True):
            value = json.loads(text)
            yield key if value == key else (key, value)

    def place(self, position: int) -> str:
        """Where an item stands."""
        if self.lines is None:
            return f"{self.source}[{position}]"
        return f"{self.source}:{self.lines[position]}"


def read(
    *, items: str | None, glob: str | None, bounds: tuple[int, int] | None, root: Path
) -> Items:
    """The items of a request that has one of the three. Raises RequestError.

    `root` is where patterns begin.
    """
    if bounds is not None:
        return Items(f"--range {bounds[0]}:{bounds[1]}", (), bounds=bounds)
    if glob is not None:
        return from_url(glob) if is_url(glob) else from_glob(glob, root)
    if items is None:
        raise RequestError(
            "nothing to map over: no list of items is given",
            hints=(
                "a line an item: --items FILE, or - for standard input",
                "files: --glob 'data/*.parquet'; numbers: --range 0:1000",
            ),
        )
    if is_url(items) and (items.endswith("/") or _has_magic(items)):
        return from_url(items)
    return from_list(_read_list(items), STDIN_SHOWN if items == STDIN else items)


def is_url(text: str) -> bool:
    """Whether fsspec is to read it: s3://bucket/folder/."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text) is not None


def _has_magic(text: str) -> bool:
    return glob.has_magic(text)


def _read_list(name: str) -> bytes:
    try:
        if name == STDIN:
            return sys.stdin.buffer.read()
        if is_url(name):
            system, path = _file_system(name)
            with _saying(name):
                return bytes(system.cat_file(path))
        return Path(name).read_bytes()
    except OSError as error:
        raise RequestError(
            f"--items {shown(name)}: {error.strerror}",
            hints=("files by a pattern: --glob 'data/*.parquet'",) if _has_magic(name) else (),
        ) from None
    except ValueError:
        raise RequestError(f"--items {name!r}: holds a NUL byte, which no path can") from None


# --- lists ----------------------------------------------------------------------------------------


def from_list(content: bytes, source: str) -> Items:
    """Lines, or JSON lines. Raises RequestError."""
    sha256 = hashlib.sha256(content).hexdigest()
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise RequestError(
            f"{source}:{line}: holds a NUL byte, which no argument or variable can carry",
            hints=("names that NUL bytes end, as of find -print0: tr '\\0' '\\n' < LIST",),
        )
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise RequestError(
            f"{source}:{line}: is no UTF-8, from byte {column} of the line on",
            hints=("a list of Latin-1: iconv -f LATIN1 -t UTF-8 LIST",),
        ) from None
    content = content.removeprefix(codecs.BOM_UTF8)
    ends_as_windows = b"\r" in content.partition(b"\n")[0]
    rows, numbers = Texts.lines(content, b"\r" if ends_as_windows else b"")
    if not rows:
        raise RequestError(
            f"{source} lists no items", hints=("a line an item: seq 10 > items.txt",)
        )
    if source.endswith(".json") and rows[0].startswith("["):
        raise RequestError(
            f"{source} is one array of JSON, and a list has a line an item",
            hints=(f"make lines of it: jq -c '.[]' {source} > items.jsonl",),
        )
    if source.endswith(JSON_ENDINGS) or _begins_json_lines(rows[0]):
        places = (f"{source}:{line}" for line in numbers)
        keys = Texts.of(map(key_of_line, rows, places))
        return _checked(Items(source, keys, rows, lines=numbers, sha256=sha256, is_json=True))
    return _checked(_of_texts(source, rows, numbers, sha256))


def _begins_json_lines(row: str) -> bool:
    try:
        return row.startswith("{") and isinstance(json.loads(row), dict)
    except (ValueError, RecursionError):
        return False


def _of_texts(
    source: str, rows: Sequence[str], lines: Sequence[int] | None = None, sha256: str = ""
) -> Items:
    """Items that are their own keys, as far as those are short."""
    if all(len(row) <= MOST_KEY_BYTES // 4 or itemlist.fits(row) for row in rows):
        return Items(source, rows, lines=lines, sha256=sha256)
    keys, texts = list(map(itemlist.short, rows)), list(map(json.dumps, rows))
    return Items(source, keys, texts, lines=lines, sha256=sha256)


# --- files ----------------------------------------------------------------------------------------


def from_glob(pattern: str, root: Path) -> Items:
    """The files below `root` that match, sorted by their bytes. Raises RequestError."""
    source = f"--glob {pattern}"
    if "\0" in pattern:
        raise RequestError(f"--glob {pattern!r}: holds a NUL byte, which no path can")
    matches = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 - paths as written
    folders_are_meant = pattern.endswith("/")
    found = [path for path in matches if folders_are_meant or not (root / path).is_dir()]
    if not found:
        hints = ["in quotes, or the shell reads the pattern: --glob 'data/**/*.parquet'"]
        if pattern.startswith("~"):
            hints = [f'"~" is the shell\'s, outside of quotes: --glob "$HOME{pattern[1:]}"']
        elif matches:
            hints = [f"it matches folders alone; those are meant by: --glob '{pattern}/'"]
        raise RequestError(f"{source} matches no file in {shown(str(root))}", hints=tuple(hints))
    paths = sorted(found, key=os.fsencode)
    for path in paths:
        if not _is_text(path):
            raise RequestError(
                f"{source} finds {os.fsencode(path)!r}, whose name is no UTF-8, the only text that "
                "a list of items can carry",
                hints=("give it another name: convmv -f latin1 -t utf8 --notest FOLDER -r",),
            )
    return _checked(_of_texts(source, paths))


def _is_text(path: str) -> bool:
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def from_url(url: str) -> Items:
    """The files that fsspec lists below a URL, or by a pattern, sorted. Raises RequestError."""
    system, path = _file_system(url)
    with _saying(url):
        listed = system.glob(path) if _has_magic(path) else system.find(path)
        paths = sorted(map(system.unstrip_protocol, listed), key=os.fsencode)
    if not paths:
        raise RequestError(f"{url} has no files")
    return _checked(_of_texts(url, paths))


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Raises RequestError."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise RequestError(
            f"{url}: only fsspec can list it, which {sys.executable} does not have",
            hints=(f"{sys.executable} -m pip install fsspec",),
        ) from None
    with _saying(url):
        system, path = url_to_fs(url)
    return system, str(path)


@contextlib.contextmanager
def _saying(url: str) -> Iterator[None]:
    """What a file system of fsspec raises, as a RequestError: each has exceptions of its own."""
    try:
        yield
    except Exception as error:
        said = str(error) or type(error).__name__
        raise RequestError(f"{url}: {said}") from None


# --- values of Python -----------------------------------------------------------------------------


def from_values(values: Iterable[Any]) -> Items:
    """Texts, numbers, paths, lists and dicts, as JSON has them. Raises RequestError."""
    if isinstance(values, range) and values.step == 1 and values:
        return Items("items", (), bounds=(values.start, values.stop))
    keys, texts = [], []
    for position, value in enumerate(values):
        place = f"items[{position}]"
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            texts.append(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"{place}: cannot be written as JSON: {error}") from None
        check_text(value, place)
        keys.append(key_of(value, place))
    if not keys:
        raise RequestError("items: there are none")
    return _checked(Items("items", keys, texts))


# --- checks ---------------------------------------------------------------------------------------


def _checked(items: Items) -> Items:
    """The items. Raises RequestError for one that is too long, and two that are hard to tell."""
    texts = items.keys if items.texts is None else items.texts
    for position, text in enumerate(texts):
        if len(text) <= MOST_ITEM_BYTES // 6:  # a character is six at most, as JSON has it
            continue
        size = len(json.dumps(text if items.texts is None else json.loads(text)))
        if size > MOST_ITEM_BYTES:
            raise RequestError(
                f"{items.place(position)}: the item has {size:,} bytes as JSON, and "
                f"{MOST_ITEM_BYTES:,} is the most that a program takes in a variable",
                hints=("put what is long into files, and list those",),
            )
    check_distinct(items.keys, items.place)
    return items
