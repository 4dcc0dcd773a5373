"""Which kind of file it is, and the whole request of a job."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kij_train.errors import RequestError
from kij_train.pod.packages import Request
from kij_train.requirements import locks
from kij_train.requirements.lines import Lines, text_of
from kij_train.spec import Common

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OTHERS = {
    "poetry.lock": "poetry export -o requirements.txt",
    "pdm.lock": "pdm export -o requirements.txt",
    "pipfile.lock": "pipenv requirements > requirements.txt",
    "pipfile": "pipenv requirements > requirements.txt",
    "environment.yml": "pip list --format freeze > requirements.txt",
    "environment.yaml": "pip list --format freeze > requirements.txt",
    "setup.py": "uv pip compile setup.py -o requirements.txt",
    "setup.cfg": "uv pip compile setup.cfg -o requirements.txt",
}
"""Files of other tools, and what makes requirements of them."""


@dataclass(frozen=True)
class _Read:
    """What a file says."""

    lines: Lines
    python: str = ""


def read(spec: Common, code_dir: Path, cwd: Path, *, ships: bool) -> Request | None:
    """The packages of a job, None for none. Raises RequestError.

    Folders of wheels in the code are there in the pods where it `ships`; else where they lie here.
    """
    if not spec.installs:
        return None
    found, sources = _Read(Lines(code_dir, ships=ships)), []
    if spec.requirements is not None:
        found = _file(cwd / spec.requirements, spec.requirements, Lines(code_dir, ships=ships))
        sources.append(Path(spec.requirements).name)
    lines = found.lines
    locked = lines.locked and not spec.packages
    named = list(spec.packages)
    if named:
        sources.append("--with " + " --with ".join(named))
    # Of a lock with more packages, only the versions count: pip takes hashes for all or for none.
    text = lines.text(hashes=locked) + "".join(f"{package}\n" for package in named)
    return Request(
        text=text,
        source=", ".join(sources),
        constraints="".join(f"{line}\n" for line in lines.constraints),
        locked=locked,
        python=found.python,
        replaces_torch=spec.replaces_torch,
    )


def _file(path: Path, shown: str, lines: Lines) -> _Read:
    name = path.name.lower()
    if name in OTHERS:
        raise RequestError(
            f"--requirements {shown}: takes requirements.txt, uv.lock, pylock.toml or "
            "pyproject.toml",
            hints=(f"make one of it: {OTHERS[name]}",),
        )
    if not name.endswith(".toml") and name != "uv.lock":
        lines.read_file(path, shown)
        return _Read(lines)
    table = _toml(path, shown)
    if name == "pyproject.toml":
        _project(table, shown, lines)
    elif name == "uv.lock":
        locks.read_uv(table, path, shown, lines)
    elif "packages" in table and "lock-version" in table:
        locks.read_pylock(table, shown, lines)
    else:
        raise RequestError(
            f"--requirements {shown}: is no lock: it has no lock-version",
            hints=("a lock of a project: uv export --format pylock.toml -o pylock.toml",),
        )
    project = table.get("project")
    where = project if isinstance(project, dict) else table
    return _Read(lines, _python(where.get("requires-python"), shown))


def _toml(path: Path, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text_of(path, shown))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"--requirements {shown}: no valid TOML: {error}") from None


def _python(value: object, shown: str) -> str:
    """`requires-python`, checked."""
    if value is None:
        return ""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # takes long to import

    try:
        return str(SpecifierSet(str(value)))
    except InvalidSpecifier as error:
        raise RequestError(f"--requirements {shown}: requires-python: {error}") from None


def _project(table: dict[str, Any], shown: str, lines: Lines) -> None:
    project = table.get("project")
    if not isinstance(project, dict):
        raise RequestError(
            f"--requirements {shown}: has no table [project]",
            hints=("of a project of Poetry: poetry export -o requirements.txt",),
        )
    if "dependencies" in (project.get("dynamic") or ()):
        raise RequestError(
            f"--requirements {shown}: its dependencies are dynamic: building it would tell them",
            hints=(f"write them down: uv pip compile {shown} -o requirements.txt",),
        )
    for number, line in enumerate(project.get("dependencies") or (), start=1):
        lines.add(str(line), f"{shown}: dependency {number}")
