"""The site of docs/, built into build/site: `make docs`, or python -m tests.docsite.

Zensical builds it, strictly: a link to a page or a heading that is not there ends the build. It
knows docs/ alone, so what pages link to elsewhere in the repository becomes a page of the site,
with the file as it is. Other languages have a configuration of their own, mkdocs.LANGUAGE.yml,
for docs/LANGUAGE.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.kube import ROOT

DOCS = ROOT / "docs"
BUILD = ROOT / "build"
SOURCE = "source"
"""The folder of the site with the repository's own files."""
PICTURES = {".png", ".svg"}
LEXERS = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".json": "json", ".toml": "toml"}
UNSEARCHED = "---\nsearch: {exclude: true}\n---\n\n"
_FENCE = re.compile(r"(^ *```.*?^ *```|^    .*?$)", re.DOTALL | re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TABLE = re.compile(r"^\[Table\]\((\S+\.md)\)$", re.MULTILINE)
"""A line of its own: a table that a benchmark has left, which is always the newest one."""
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


class BrokenLinkError(Exception):
    """A page links to a file that the repository has not."""


def links(text: str) -> list[str]:
    """The targets of a page's links, without those in its code."""
    return [link for part in _FENCE.split(text)[::2] for link in _LINK.findall(part)]


def with_links(text: str, change: Callable[[str], str]) -> str:
    """The page with each link changed; its code stays."""
    parts = _FENCE.split(text)
    parts[::2] = [_LINK.sub(lambda link: change(link[1]), part) for part in parts[::2]]
    return "".join(parts)


def is_elsewhere(link: str) -> bool:
    """Whether it leads to another site."""
    return re.match(r"[a-z]+:", link) is not None


@dataclass
class Site:
    """The pages of one language, as they are handed to Zensical.

    `pages` is the folder of docs/ that they come from, `out` where the changed copies go.
    """

    pages: Path
    out: Path
    others: set[Path]
    """The folders of the other languages."""
    shown: set[Path] = field(default_factory=set)
    """The repository's files that have their page already."""

    def prepare(self) -> None:
        """Copy all pages.

        Raises BrokenLinkError for a link to what the repository has not.
        """
        shutil.rmtree(self.out, ignore_errors=True)
        for path in sorted(self.pages.rglob("*")):
            if path.is_dir() or any(other in path.parents for other in self.others):
                continue
            to = self.out / path.relative_to(self.pages)
            to.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                to.write_text(self.page(path, to), encoding="utf-8")
            else:
                shutil.copy(path, to)

    def page(self, path: Path, to: Path) -> str:
        """A page whose links work at its place in the site, with the tables that it links to."""
        text = _TABLE.sub(
            lambda found: (path.parent / found[1]).read_text(encoding="utf-8"),
            path.read_text(encoding="utf-8"),
        )
        return with_links(text, lambda link: self.link(link, path, to))

    def link(self, link: str, path: Path, to: Path) -> str:
        """What a link of a page becomes."""
        name, mark, heading = link.partition("#")
        if not name or is_elsewhere(link):
            return link
        target = Path(os.path.normpath(path.parent / name))
        if not target.exists() or ROOT not in target.parents:
            raise BrokenLinkError(f"{path.relative_to(ROOT)} links to {link}, which is not there")
        if self.pages in target.parents and not any(o in target.parents for o in self.others):
            at = self.out / target.relative_to(self.pages)
        elif DOCS in target.parents and target.suffix == ".md":
            return self.in_other_language(target, to) + mark + heading
        else:
            at = self.source(target)
        return os.path.relpath(at, to.parent) + mark + heading

    def in_other_language(self, target: Path, to: Path) -> str:
        """The address of a page that another build of the site makes, from the page `to`."""
        page = target.relative_to(DOCS).with_suffix("")
        here = to.relative_to(self.out).with_suffix("")
        depth = len(here.parts) - (here.name == "index") + (self.pages != DOCS)
        return "../" * depth + page.as_posix().removesuffix("index").rstrip("/") + "/"

    def source(self, target: Path) -> Path:
        """The page of a file or folder of the repository, made unless it is there."""
        parts = (part.lstrip(".") for part in target.relative_to(ROOT).parts)
        place = self.out.joinpath(SOURCE, *parts)  # Zensical takes no hidden files
        if target.suffix in PICTURES:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, place)
            return place
        at = place / "index.md" if target.is_dir() else place.with_name(place.name + ".md")
        if target.suffix == ".md":
            at = place
        if target in self.shown:
            return at
        self.shown.add(target)
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(self.source_page(target, at), encoding="utf-8")
        return at

    def source_page(self, target: Path, at: Path) -> str:
        """A file as a page, or a folder as the list of its files."""
        title = f"{UNSEARCHED}# {target.relative_to(ROOT)}\n\n"
        if target.is_dir():
            tracked = [each for each in sorted(target.rglob("*")) if each.is_file()]
            rows = [
                f"- [{each.relative_to(target)}]({os.path.relpath(self.source(each), at.parent)})\n"
                for each in tracked
                if "__pycache__" not in each.parts
            ]
            return title + "".join(rows)
        text = target.read_text(encoding="utf-8")
        if target.suffix == ".md":
            return UNSEARCHED + with_links(text, lambda link: self.link(link, target, at))
        return f"{title}````{LEXERS.get(target.suffix, 'text')}\n{text}````\n"


def languages() -> list[Path]:
    """The configurations: English, then those of other languages."""
    return [ROOT / "mkdocs.yml", *sorted(ROOT.glob("mkdocs.*.yml"))]


def main() -> int:
    """Build every language; 0 where no link is broken."""
    shutil.rmtree(BUILD / "site", ignore_errors=True)
    folders = {each: DOCS / each.stem.removeprefix("mkdocs").lstrip(".") for each in languages()}
    for config, pages in folders.items():
        others = {each for each in folders.values() if each not in (DOCS, pages)}
        try:
            Site(pages, BUILD / config.stem.replace("mkdocs", "docs"), others).prepare()
        except BrokenLinkError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        zensical = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        done = subprocess.run(
            [*zensical, "--config-file", str(config)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            # Each of its messages shows the line, coloured letter by letter.
            print(_COLOUR.sub("", done.stdout).partition("Traceback")[0], file=sys.stderr)
            return done.returncode
    print(BUILD / "site")
    return 0


if __name__ == "__main__":
    sys.exit(main())
