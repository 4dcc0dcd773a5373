"""From a resolved request to one that is fit to be launched: its script, its code, its name."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kij_train import names, render, scripts, units
from kij_train.code import bundle, leftout
from kij_train.code.listing import list_files
from kij_train.errors import RequestError
from kij_train.paths import shown
from kij_train.pod import bootstrap, contract, preflight
from kij_train.spec import JobSpec
from kij_train.specfile import Resolved

SUFFIX_CHARS = 5


@dataclass(frozen=True)
class Note:
    """Something that the user may not want."""

    text: str
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A request that is fit to be launched."""

    spec: JobSpec
    """With the script relative to the code folder."""
    name: str
    code_dir: Path
    """Working directory of a local run, and what is shipped to pods."""
    archive: bundle.Archive | None
    """None with --no-code, and for local runs unless they are to run what ships."""
    notes: tuple[Note, ...] = ()
    """What is allowed and probably not meant."""

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
    resolved: Resolved,
    *,
    cwd: Path,
    for_cluster: bool = True,
    as_shipped: bool = False,
    random_name: bool = False,
) -> Plan:
    """Find the script, pack the code, fix the name. Raises RequestError.

    `as_shipped` packs the code for a local run as well. Without `random_name` the end of a
    generated name is a hash of the request, so that the same request renders the same bytes.
    """
    spec = resolved.spec
    code_dir = cwd / spec.code_dir
    script = scripts.locate(resolved, cwd, code_dir, for_cluster=for_cluster)
    spec = with_ranks(resolved, for_cluster=for_cluster).model_copy(update={"script": script})
    packs = (for_cluster or as_shipped) and spec.code
    archive = bundle.pack(code_dir) if packs else None
    _check_shipped(spec, archive, code_dir)
    name = spec.name or _generated_name(spec, archive, code_dir, random_name)
    where = code_dir if spec.code else cwd
    notes = tuple(_notes(spec, where, archive, for_cluster))
    return Plan(spec, name, where, archive, notes)


def with_ranks(resolved: Resolved, *, for_cluster: bool) -> JobSpec:
    """The spec with a number of processes a node: gpu, cpu and auto are counted.

    Raises RequestError.
    """
    spec, kind = resolved.spec, resolved.spec.nproc_per_node
    if not isinstance(kind, str):
        return spec
    if not for_cluster:
        from kij_train import local

        return local.with_counted_ranks(spec, os.environ)
    if kind != "cpu" and spec.gpus:
        count = spec.gpus
    elif kind != "gpu" and spec.cpu is not None:
        count = max(1, int(units.quantity_value(spec.cpu)))
    else:
        counted = {"gpu": "GPUs", "cpu": "cores"}.get(kind, "GPUs, or else cores,")
        flags = {"gpu": "--gpus 8", "cpu": "--cpu 8"}.get(kind, "--gpus 8, or --cpu 8")
        raise RequestError(
            f"{resolved.origin(('nproc_per_node',))} {kind} stands for the {counted} of a pod, and "
            "it asks for none",
            hints=(f"say how many a node: {flags}",),
        )
    return spec.model_copy(update={"nproc_per_node": count})


def _notes(
    spec: JobSpec, code_dir: Path, archive: bundle.Archive | None, for_cluster: bool
) -> Iterator[Note]:
    if archive is not None and spec.script and scripts.is_compiled(code_dir / spec.script):
        yield Note(
            f"{spec.script} runs under the version of Python alone that compiled it, and the image "
            "may have another one",
            ("give the source, which runs under any",),
        )
    if for_cluster and spec.supervised and not spec.shared_paths:
        yield Note(
            f"--restart {spec.restart} without a volume that all pods share: what a lost pod has "
            "saved is lost with it, and so is the training, unless the script saves elsewhere",
            ("mount one, and save there: --mount pvc:NAME:/checkpoints",),
        )
    if spec.hang_timeout is not None and spec.heartbeat == "file":
        files = archive.files if archive is not None else _local_files(spec, code_dir, for_cluster)
        if files and not any(_names_heartbeat(code_dir / file) for file in files):
            yield Note(
                f"--hang-timeout waits for {contract.ENV_HEARTBEAT_FILE} to be touched, which no "
                f"file of the code in {code_dir} names: without that no hang is noticed",
                (
                    "in the script, at every step: "
                    f'pathlib.Path(os.environ["{contract.ENV_HEARTBEAT_FILE}"]).touch()',
                    "or count what it prints: --heartbeat output",
                ),
            )


def _local_files(spec: JobSpec, code_dir: Path, for_cluster: bool) -> Sequence[str]:
    """The code of a run on this machine, as far as it would be shipped; none where that fails."""
    if for_cluster or not spec.code:
        return ()
    try:
        return tuple(list_files(code_dir).names)
    except RequestError:
        return ()


NO_CODE = (".md", ".rst", ".txt")
MOST_READ = 1 << 20


def _names_heartbeat(path: Path) -> bool:
    """Whether a file could touch the heartbeat's file; what cannot be read says that it could."""
    if path.suffix in NO_CODE or path.is_dir():
        return False
    try:
        with path.open("rb") as file:
            return contract.ENV_HEARTBEAT_FILE.encode() in file.read(MOST_READ)
    except OSError:
        return True


def _check_shipped(spec: JobSpec, archive: bundle.Archive | None, code_dir: Path) -> None:
    """Script and program must not be among the ignored files."""
    path = spec.script
    if path is not None and (code_dir / path).is_dir():
        path = str(PurePosixPath(path) / scripts.MAIN)
    if spec.program is not None and "/" in spec.program:
        inside = os.path.normpath(spec.program)
        path = None if inside.startswith(("/", "..")) else inside
    if archive is None or path is None or path in archive.files:
        return
    kind = "program" if spec.program is not None else "script"
    left = next((left for left in archive.left_out if left.covers(path)), None)
    back = f"bring it back: {leftout.bring_back(code_dir, path)}"
    if left is not None and left.holds is not None:
        raise RequestError(
            f"{kind} {shown(path)} holds {left.holds}, which everybody could read who may read the "
            "ConfigMaps of the namespace",
            hints=("keep it in a Secret: --env-from-secret NAME", f"or ship it so: {back}"),
        )
    why = ""
    if left is not None:
        by_file = left.why in (leftout.Why.KIJIGNORE, leftout.Why.GITIGNORE)
        why = f" by {left.why.value}" if by_file else f": {left.why.value}"
    raise RequestError(f"{kind} {shown(path)} is left out of the code{why}", hints=(back,))


def _generated_name(
    spec: JobSpec, archive: bundle.Archive | None, code_dir: Path, random_name: bool
) -> str:
    if spec.script is not None:
        stem = Path(spec.script).stem or code_dir.resolve().name
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
