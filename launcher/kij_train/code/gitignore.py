"""The patterns of .gitignore files, matched as git matches them. No I/O.

A pattern is tried on one path at a time, never on the folders above it: whoever walks a tree does
not go into a folder that is ignored, and that is why git cannot bring back what lies in one.

Everything is bytes, as in git: a "?" is one byte, not one letter. What git cannot make sense of (an
empty line with "!", a backslash at the end, a class without its end) matches nothing.

Source: https://git-scm.com/docs/gitignore, and the behaviour of git 2.39, which the tests compare.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kij_train.paths import steers

_BOM = b"\xef\xbb\xbf"
_WILD = b"*?[\\"
_SLASH = ord("/")


def _class(test: Callable[[str], bool]) -> frozenset[int]:
    return frozenset(code for code in range(128) if test(chr(code)))


_CLASSES = {
    b"alnum": _class(str.isalnum),
    b"alpha": _class(str.isalpha),
    b"blank": _class(lambda char: char in " \t"),
    b"cntrl": _class(lambda char: char < " " or char == "\x7f"),
    b"digit": _class(str.isdigit),
    b"graph": _class(lambda char: "!" <= char <= "~"),
    b"lower": _class(str.islower),
    b"print": _class(lambda char: " " <= char <= "~"),
    b"punct": _class(lambda char: "!" <= char <= "~" and not char.isalnum()),
    b"space": _class(lambda char: char in " \t\n\r"),
    b"upper": _class(str.isupper),
    b"xdigit": _class(lambda char: char in "0123456789abcdefABCDEF"),
}


@dataclass(frozen=True)
class Pattern:
    """One line."""

    brings_back: bool
    """It begins with "!"."""
    only_folders: bool
    """It ends with "/"."""
    whole_path: bool
    """It is matched against the path from its file's folder, not against the name alone."""
    regex: re.Pattern[bytes]
    name: bytes
    """Its last part, for which a name is written."""
    inside: bytes
    """The folders that it begins with, as far as they have no wildcards: b"" or b"a/b/"."""

    @property
    def spells_a_name(self) -> bool:
        """Whether its last part is a name, without wildcards."""
        return _plain(self.name) is not None

    @property
    def is_for_everything(self) -> bool:
        """Whether its last part says nothing of the name."""
        return not self.name.strip(b"*?")

    def matches(self, path: bytes, is_folder: bool) -> bool:
        """Whether it speaks of `path`, which is relative to its file's folder."""
        if self.only_folders and not is_folder:
            return False
        tried = path if self.whole_path else path.rpartition(b"/")[2]
        return self.regex.fullmatch(tried) is not None


def parse(content: bytes, *, ignore_case: bool = False) -> list[Pattern]:
    """The patterns of a file, those that come last first: that is the order to try them in."""
    lines = content.removeprefix(_BOM).split(b"\n")
    found = (_pattern(line, ignore_case) for line in reversed(lines))
    return [pattern for pattern in found if pattern is not None]


def verdict(patterns: Iterable[Pattern], path: bytes, is_folder: bool) -> Pattern | None:
    """The pattern that decides about a path."""
    return next((each for each in patterns if each.matches(path, is_folder)), None)


def _pattern(line: bytes, ignore_case: bool) -> Pattern | None:
    text = _without_trailing_spaces(line.removesuffix(b"\r").partition(b"\0")[0])
    if not text or text.startswith(b"#"):
        return None
    brings_back = text.startswith(b"!")
    text = text.removeprefix(b"!")
    only_folders = text.endswith(b"/")
    text = text[:-1] if only_folders else text
    whole_path = b"/" in text
    text = text.removeprefix(b"/") if whole_path else text
    regex = _regex(text)
    if regex is None or not text:
        return None
    *folders, name = text.split(b"/")
    plain = itertools.takewhile(lambda part: part is not None, map(_plain, folders))
    return Pattern(
        brings_back,
        only_folders,
        whole_path,
        re.compile(regex, re.DOTALL | (re.IGNORECASE if ignore_case else re.DOTALL)),
        name,
        b"".join(part + b"/" for part in plain if part),
    )


def literal(path: str) -> str:
    """The pattern of a file's folder that means this path.

    And no other, unless it holds what a line cannot: any byte will do in its place.
    """
    plain = re.sub(r"([*?\[\\])", r"\\\1", path)
    escaped = "".join("?" * len(os.fsencode(char)) if steers(char) else char for char in plain)
    return "/" + (escaped[:-1] + "\\ " if escaped.endswith(" ") else escaped)


def _plain(part: bytes) -> bytes | None:
    """A part of a pattern as the name that it stands for; None for one with wildcards."""
    if re.search(rb"[*?\[]", re.sub(rb"\\.", b"", part, flags=re.DOTALL)):
        return None
    return re.sub(rb"\\(.)", rb"\1", part, flags=re.DOTALL)


def _without_trailing_spaces(text: bytes) -> bytes:
    """Spaces at the end do not count, unless a backslash stands before them."""
    kept = text.rstrip(b" ")
    backslashes = len(kept) - len(kept.rstrip(b"\\"))
    return text[: len(kept) + 1] if backslashes % 2 and len(kept) < len(text) else kept


_STAR = b"*"
_DEEP = b"**"
_DEEP_SLASH = b"**/"


def _regex(glob: bytes) -> bytes | None:
    """The pattern as a regular expression; None for one that matches nothing."""
    parts = _parts(glob)
    if parts is None:
        return None
    out: list[bytes] = []
    stars = [at for at, part in enumerate(parts) if part in (_STAR, _DEEP, _DEEP_SLASH)]
    ends = [*stars[1:], len(parts)][: len(stars)]
    out += parts[: stars[0]] if stars else parts
    for number, (at, end) in enumerate(zip(stars, ends, strict=True)):
        rest = b"".join(parts[at + 1 : end])
        if parts[at] == _DEEP_SLASH:
            out.append(b"(?:.*/)?" + rest)
        elif parts[at] == _DEEP:
            out.append(b".*" + rest)
        elif end == len(parts):
            out.append(b"[^/]*" + rest)
        else:
            # The first place where the rest fits will do, and no other is tried: else a long name
            # costs its length to the power of the number of stars.
            out.append(b"(?=(?P<s%d>[^/]*?%s))(?P=s%d)" % (number, rest, number))
    return b"".join(out)


def _parts(glob: bytes) -> list[bytes] | None:
    """Stars, and a regular expression for every other byte; None for what matches nothing."""
    parts: list[bytes] = []
    # git compares what stands before the first wildcard by itself. What follows is a beginning to
    # it, where ** means what it means after a slash.
    start = next((at for at, char in enumerate(glob) if char in _WILD), len(glob))
    at = 0
    while at < len(glob):
        char = glob[at : at + 1]
        if char == b"*":
            first, at = at, at + len(glob[at:]) - len(glob[at:].lstrip(b"*"))
            folders = at - first > 1 and (first == start or glob[first - 1] == _SLASH)
            if folders and glob[at : at + 1] == b"/":
                at += 1
                if parts[-1:] != [_DEEP_SLASH]:
                    parts.append(_DEEP_SLASH)
            elif folders and glob[at : at + 2] in (b"", b"\\/"):
                parts.append(_DEEP)
            else:
                parts.append(_STAR)
        elif char == b"[":
            found = _bracket(glob, at + 1)
            if found is None:
                return None
            part, at = found
            parts.append(part)
        elif char == b"?":
            parts.append(b"[^/]")
            at += 1
        else:
            at += char == b"\\"
            if at == len(glob):
                return None
            parts.append(re.escape(glob[at : at + 1]))
            at += 1
    return parts


def _bracket(glob: bytes, at: int) -> tuple[bytes, int] | None:
    """A class whose "[" stands before `at`, and where it ends; None for one without an end."""
    negated = glob[at : at + 1] in (b"!", b"^")
    at += negated
    members: set[int] = set()
    before: int | None = None
    """What a range would begin with."""
    first = True
    while first or glob[at : at + 1] != b"]":
        first = False
        if at >= len(glob):
            return None
        named = re.match(rb"\[:([^\]]*):\]", glob[at:])
        if named is not None:
            if named[1] not in _CLASSES:
                return None
            members |= _CLASSES[named[1]]
            before, at = None, at + named.end()
            continue
        is_range = glob[at] == ord("-") and before is not None
        if is_range and glob[at + 1 : at + 2] not in (b"", b"]"):
            at += 1
        else:
            is_range = False
        at += glob[at] == ord("\\")
        if at >= len(glob):
            return None
        members |= set(range(before or 0, glob[at] + 1)) if is_range else {glob[at]}
        before, at = (None if is_range else glob[at]), at + 1
    if negated:
        members = set(range(256)) - members
    members.discard(_SLASH)
    if not members:
        return None
    return b"[" + b"".join(b"\\x%02x" % code for code in sorted(members)) + b"]", at + 1
