"""From a resolved request to one that is fit to be launched: its script, its code, its name."""

from __future__ import annotations

import base64
import hashlib
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kij_train import names, render, units
from kij_train.errors import RequestError
from kij_train.pod import bootstrap, preflight
from kij_train.runs import bundle
from kij_train.spec import JobSpec
from kij_train.specfile import Resolved

SUFFIX_CHARS = 5
DEFAULT_FROM_FLAGS = "script"
"""Origin of a script that was given on the command line, and is relative to where that runs."""


@dataclass(frozen=True)
class Plan:
    """A request that is fit to be launched."""

    spec: JobSpec
    """With the script relative to the code folder."""
    name: str
    code_dir: Path
    """Working directory of a local run, and what is shipped to pods."""
    archive: bundle.Archive | None
    """None with --no-code and for local runs."""

    def objects(self) -> list[dict[str, Any]]:
        """Every Kubernetes object of the job."""
        source = Path(bootstrap.__file__).read_text(encoding="utf-8")
        check = ""
        if self.spec.preflight:
            check = Path(preflight.__file__).read_text(encoding="utf-8")
        beside = render.shape_of(self.spec, self.name).sources
        more = {file.name: file.read_text(encoding="utf-8") for file in beside}
        code = render.Code(source, preflight=check, more=more)
        if self.archive is not None:
            archive = self.archive
            code = render.Code(source, archive.packed, archive.sha256, check, more)
        return render.render(self.spec, name=self.name, code=code)


def plan(
    resolved: Resolved, *, cwd: Path, for_cluster: bool = True, random_name: bool = False
) -> Plan:
    """Find the script, pack the code, fix the name. Raises RequestError.

    Without `random_name` the end of a generated name is a hash of the request, so that the same
    request renders the same bytes.
    """
    spec = resolved.spec
    code_dir = cwd / spec.code_dir
    script = _locate_script(resolved, cwd, code_dir, for_cluster)
    spec = spec.model_copy(update={"script": script})
    archive = bundle.pack(code_dir) if for_cluster and spec.code else None
    _check_shipped(spec, archive, code_dir)
    name = spec.name or _generated_name(spec, archive, random_name)
    return Plan(spec, name, code_dir if spec.code else cwd, archive)


def _locate_script(resolved: Resolved, cwd: Path, code_dir: Path, for_cluster: bool) -> str | None:
    """The script as a path relative to the code folder."""
    spec = resolved.spec
    if spec.module is not None or spec.program is not None:
        return None
    if spec.script is None:
        file = f"{resolved.spec_file}: " if resolved.spec_file else ""
        raise RequestError(
            f"{file}nothing to run: name a script, or -m MODULE, or --no-python PROGRAM",
            hints=("kij-train launch --nodes 2 train.py",),
        )
    from_here = resolved.origin(("script",)) == DEFAULT_FROM_FLAGS
    named = f"script {spec.script}"
    if not from_here:
        named = f"{resolved.origin(('script',))}: {named}"
    if not spec.code:
        if not for_cluster and not (cwd / spec.script).is_file():
            raise RequestError(f"{named}: no such file")
        return spec.script
    if not code_dir.is_dir():
        raise RequestError(f"{resolved.origin(('code_dir',))}: {code_dir}: no such folder")
    places = [cwd / spec.script, code_dir / spec.script] if from_here else [code_dir / spec.script]
    inside = code_dir.resolve()
    found = [place for place in places if place.is_file()]
    for place in found:
        # Not through links: what they point to may lie elsewhere, and bundle speaks of that.
        absolute = place.parent.resolve() / place.name
        if absolute.is_relative_to(inside):
            return absolute.relative_to(inside).as_posix()
    if found:
        raise RequestError(
            f"{named} is outside of the code folder {inside}, which is what the pods get",
            hints=(f"ship its folder instead: --code-dir {found[0].parent}",),
        )
    folder = places[0]
    kind = "is a folder" if folder.is_dir() else "no such file"
    raise RequestError(
        f"{named}: {kind}"
        + ("" if folder.is_dir() or folder.parent == cwd else f" in {folder.parent}"),
        hints=("run a module with -m, a program with --no-python",),
    )


def _check_shipped(spec: JobSpec, archive: bundle.Archive | None, code_dir: Path) -> None:
    """The script must not be among the ignored files."""
    if archive is None or spec.script is None:
        return
    if spec.script not in archive.files:
        lines = [shlex.quote(line) for line in bundle.lines_that_ship(code_dir, spec.script)]
        write = "echo" if len(lines) == 1 else "printf '%s\\n'"
        file = shlex.quote(str(Path(spec.code_dir) / ".kijignore"))
        raise RequestError(
            f"script {spec.script} is left out of the code by .gitignore or .kijignore",
            hints=(f"bring it back: {write} {' '.join(lines)} >> {file}",),
        )


def _generated_name(spec: JobSpec, archive: bundle.Archive | None, random_name: bool) -> str:
    if spec.script is not None:
        stem = Path(spec.script).stem
    elif spec.module is not None:
        stem = spec.module.rpartition(".")[2]
    else:
        stem = Path(spec.program or "job").stem
    if random_name:
        entropy = secrets.token_bytes(8)
    else:
        # Where things lie on this machine is no part of the request.
        request = spec.model_dump_json(exclude={"code_dir", "kubeconfig", "context"})
        content = archive.sha256 if archive else ""
        entropy = hashlib.sha256(f"{request} {content}".encode()).digest()
    suffix = base64.b32encode(entropy).decode().lower()[:SUFFIX_CHARS]
    return names.generated_job_name(stem, suffix, spec.pods)


def summary(plan: Plan, *, where: str) -> str:
    """The one line that says what is about to run, and where."""
    spec = plan.spec

    def count(number: int, thing: str) -> str:
        return f"{number} {thing}{'' if number == 1 else 'es' if thing[-1] == 's' else 's'}"

    unit = count(spec.gpus, "GPU") if spec.gpus else count(spec.ranks_per_node, "process")
    nodes = count(spec.nodes, "node")
    if spec.min_nodes is not None:
        nodes = f"{spec.min_nodes} to {nodes}"
    parts = [f"{nodes} × {unit} = {count(spec.world_size, 'rank')}", where]
    if spec.spares:
        parts.insert(1, count(spec.spares, "spare"))
    if plan.archive is not None:
        size = units.format_bytes(len(plan.archive.packed))
        parts.append(f"code {count(len(plan.archive.files), 'file')}, {size}")
    return f"{plan.name}  " + " · ".join(parts)
