"""Locks: uv's own, and that of PEP 751, as pinned requirements with hashes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kij_train.errors import RequestError
from kij_train.requirements.lines import Lines
from kij_train.spec.packages import holds_credentials

PYPI = "https://pypi.org/simple"
NEVER, ALWAYS = 'python_version < "0"', 'python_version >= "0"'
EXPORT_S = 120.0
MOST_SAID = 500
"""Characters of an error of uv."""
_GROUP = re.compile(r"""['"]([^'"]+)['"]\s+(not\s+)?in\s+(dependency_groups|extras)""")


def read_uv(table: Mapping[str, Any], path: Path, shown: str, lines: Lines) -> None:
    """A uv.lock, as uv itself exports it: without the project, and what only develops it.

    Raises RequestError.
    """
    program = [uv] if (uv := shutil.which("uv")) else [sys.executable, "-m", "uv"]
    what = ("export", "--quiet", "--frozen", "--offline", "--no-dev", "--no-emit-workspace")
    form = ("--format", "requirements.txt", "--no-header", "--no-annotate")
    try:
        done = subprocess.run(
            [*program, *what, *form, "--project", str(path.parent)],
            capture_output=True,
            text=True,
            timeout=EXPORT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequestError(f"--requirements {shown}: cannot run uv: {error}") from None
    if done.returncode:
        said = " ".join(done.stderr.split()).removeprefix("error: ")
        if "No module named uv" in done.stderr:
            raise RequestError(
                f"--requirements {shown}: only uv reads its lock, and it is not on this machine",
                hints=(
                    f"{sys.executable} -m pip install uv",
                    "or where uv is: uv export --format pylock.toml -o pylock.toml",
                ),
            )
        raise RequestError(
            f"--requirements {shown}: uv cannot export it: {said[:MOST_SAID] or 'no reason given'}",
            hints=(f"uv export --frozen --project {path.parent}",),
        )
    folded = re.sub(r"\\\n\s*", "", done.stdout)
    for line in filter(None, map(str.strip, folded.splitlines())):
        if not line.startswith("#"):
            lines.add(line, shown)
    sources = (each.get("source", {}) for each in table.get("package", []))
    lines.options += _indexes((source.get("registry") for source in sources), shown)


def read_pylock(table: Mapping[str, Any], shown: str, lines: Lines) -> None:
    """A pylock.toml (PEP 751), with its default groups and no extras. Raises RequestError."""
    if not str(table["lock-version"]).startswith("1."):
        raise RequestError(
            f"--requirements {shown}: its lock-version {table['lock-version']} is new"
        )
    groups = set(table.get("default-groups") or ())
    for number, package in enumerate(table["packages"], start=1):
        place = f"{shown}: package {number}"
        try:
            lines.add(_line(package, groups), place)
        except (KeyError, TypeError, AttributeError):
            raise RequestError(f"{place}: is not as PEP 751 has it") from None
        except ValueError as error:
            raise RequestError(f"{place}: {error}") from None
    lines.options += _indexes((each.get("index") for each in table["packages"]), shown)


def _line(package: Mapping[str, Any], groups: set[str]) -> str:
    """A package as a requirement. Raises ValueError for one that pods cannot get."""
    name, marker = package["name"], package.get("marker")
    if "directory" in package:
        raise ValueError(
            f"{name} is a folder of this machine, which pods do not have. Leave the project itself "
            "out: uv export --no-emit-workspace --format pylock.toml"
        )
    if vcs := package.get("vcs"):
        what = f"{name} @ {vcs['type']}+{vcs['url']}@{vcs['commit-id']}"
    elif archive := package.get("archive"):
        what = f"{name} @ {archive['url']}"
    else:
        what = f"{name}=={package['version']}"
    if marker:
        what += f" ; {_without_groups(str(marker), groups)}"
    return what + "".join(f" --hash={each}" for each in dict.fromkeys(_hashes(package)))


def _without_groups(marker: str, groups: set[str]) -> str:
    """A marker that pip can judge: extras and groups are decided here."""

    def decided(match: re.Match[str]) -> str:
        wanted = match[3] == "dependency_groups" and match[1] in groups
        return ALWAYS if wanted != bool(match[2]) else NEVER

    return re.sub(
        r"""['"]([^'"]+)['"]\s+(not\s+)?in\s+(dependency_groups|extras)""", decided, marker
    )


def _hashes(package: Mapping[str, Any]) -> Iterator[str]:
    files = [*package.get("wheels", ()), package.get("sdist"), package.get("archive")]
    for file in filter(None, files):
        for kind, digest in file.get("hashes", {}).items():
            if kind in ("sha256", "sha384", "sha512"):  # those that pip takes
                yield f"{kind}:{digest}"


def _indexes(urls: Iterator[Any], shown: str) -> list[str]:
    """Options for the indexes that a lock names, but for PyPI alone. Raises RequestError."""
    known = [str(url).rstrip("/") for url in dict.fromkeys(urls) if url and "://" in str(url)]
    if any(map(holds_credentials, known)):
        raise RequestError(
            f"--requirements {shown}: the URL of an index holds credentials",
            hints=("keep them in a Secret: --env-from-secret NAME, with PIP_INDEX_URL in it",),
        )
    others = [url for url in known if url != PYPI]
    if PYPI in known or not others:
        return [f"--extra-index-url {url}" for url in others]
    return [f"--index-url {others[0]}", *(f"--extra-index-url {url}" for url in others[1:])]
