"""Pages of docs/ in other languages: docs/ja has those of docs with the same path.

    python -m tests.translations              copy changed code from English, and say what differs
    python -m tests.translations --read PAGE  somebody has read PAGE, and the translation says it

A translation has the headings, code, figures, names and links of its page; its sentences are its
own. What nobody can compare is whether they still say the same: for that, `read.json` keeps a hash
of the English page as it was when the translation was made or last looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.kube import ROOT

DOCS = ROOT / "docs"
LANGUAGES = ("ja",)
READ = "read.json"
_BLOCK = re.compile(
    r"^ *```.*?^ *```$|^<!--.*?-->$|(?<=\n\n)(?: {4}[^\n]*\n)+(?:\n+(?: {4}[^\n]*\n)+)*",
    re.DOTALL | re.MULTILINE,
)
"""Code in fences, comments, and code that is indented."""
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Page:
    """A page, taken apart; links are seen from docs/."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        """From its file."""
        return cls(path, path.read_text(encoding="utf-8"))

    @property
    def blocks(self) -> list[str]:
        """Code, and the comments that tests read."""
        return [block.strip("\n") for block in _BLOCK.findall(self.text)]

    @property
    def prose(self) -> str:
        """All else."""
        return _BLOCK.sub("", self.text)

    @property
    def headings(self) -> list[int]:
        """Their levels."""
        return [len(marks) for marks in re.findall(r"^(#+) ", self.prose, re.MULTILINE)]

    @property
    def names(self) -> Counter[str]:
        """What stands in `code` within sentences."""
        return Counter(_CODE.findall(self.prose))

    @property
    def figures(self) -> Counter[str]:
        """Numbers within sentences."""
        without = _LINK.sub("]", _CODE.sub("", self.prose))
        return Counter(_FIGURE.findall(without))

    @property
    def cells(self) -> list[int]:
        """How many cells the rows of its tables have."""
        rows = [line for line in self.prose.splitlines() if line.startswith("|")]
        return [len(re.findall(r"(?<!\\)\|", _CODE.sub("", row))) for row in rows]

    @property
    def links(self) -> Counter[str]:
        """Where its links lead, with the language left out."""
        found: Counter[str] = Counter()
        for link in _LINK.findall(self.prose):
            name, mark, heading = link.partition("#")
            if re.match(r"[a-z]+:", link) or not name:
                found[link] += 1
                continue
            target = os.path.relpath(os.path.normpath(self.path.parent / name), DOCS)
            for language in LANGUAGES:
                target = target.removeprefix(f"{language}/")
            found[target + mark + heading] += 1
        return found

    @property
    def hash(self) -> str:
        """Of what is translated."""
        return hashlib.sha256(self.prose.encode()).hexdigest()[:16]


def translated(language: str) -> list[Path]:
    """The pages of a language, as paths below its folder."""
    folder = DOCS / language
    return sorted(path.relative_to(folder) for path in folder.rglob("*.md"))


def differences(english: Page, other: Page) -> list[str]:
    """What a translation lacks or has too much of."""
    found = []
    for what in ("headings", "blocks", "cells"):
        mine, theirs = getattr(english, what), getattr(other, what)
        if mine != theirs:
            first = next(
                (pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]),
                (len(mine), len(theirs)),
            )
            found.append(f"{what} differ: {first[0]!r} in English, {first[1]!r} here")
    for what in ("names", "figures", "links"):
        mine, theirs = getattr(english, what), getattr(other, what)
        found += [f"{what} lack {each}" for each in (mine - theirs)]
        found += [f"{what} have {each}, and English has not" for each in (theirs - mine)]
    return found


def with_code_of(english: Page, other: Page) -> str:
    """The translation with the code of the English page, if it has as many blocks."""
    blocks = iter(english.blocks)
    if len(english.blocks) != len(other.blocks):
        return other.text

    def block(found: re.Match[str]) -> str:
        end = "\n" if found[0].endswith("\n") else ""
        return next(blocks) + end

    return _BLOCK.sub(block, other.text)


def hashes(language: str) -> dict[str, str]:
    """Page → hash of the English page that the translation says."""
    kept = DOCS / language / READ
    found: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
    return found


def main() -> int:
    """Copy code, note what was read, and say what differs; 1 where something does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--read", nargs="*", default=[], metavar="PAGE")
    read = {Path(os.path.normpath(DOCS / page)) for page in parser.parse_args().read}
    code = 0
    for language in LANGUAGES:
        kept = hashes(language)
        for page in translated(language):
            english, path = Page.read(DOCS / page), DOCS / language / page
            path.write_text(with_code_of(english, Page.read(path)), encoding="utf-8")
            if DOCS / page in read:
                kept[page.as_posix()] = english.hash
            found = differences(english, Page.read(path))
            if kept.get(page.as_posix()) != english.hash:
                found.append(
                    "the English page has changed: read it, then "
                    f"python -m tests.translations --read {page.as_posix()}"
                )
            code |= bool(found)
            for each in found:
                print(f"docs/{language}/{page}: {each}")
        (DOCS / language / READ).write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
