"""From a resolved request to one that is fit to be launched: its script, its code, its name."""

from __future__ import annotations

import abc
import base64
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from kij_train import names, render, requirements, scripts, units
from kij_train.code import bundle, leftout
from kij_train.code.listing import list_files
from kij_train.errors import RequestError
from kij_train.paths import shown
from kij_train.pod import bootstrap, contract, itemcall
from kij_train.pod import preflight as checks
from kij_train.pod.packages import Request
from kij_train.render import formats
from kij_train.spec import Common, JobSpec
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
    packages: Request | None = None
    """What is to be installed."""
    lock: tuple[str, ...] = ()
    """The versions that another job has installed of that."""

    @property
    def facts(self) -> dict[str, str]:
        """Annotations of the Job that are facts of this machine, and no part of the request."""
        left_out = None if self.archive is None else leftout.record(self.archive.left_out)
        return {} if left_out is None else {names.LEFT_OUT: left_out}

    @property
    def rendered(self) -> formats.Rendered:
        """What other formats than Kubernetes' own are made of."""
        return formats.Rendered(self.spec, self.name, render.shape_of(self.spec, self.name))

    def objects(self) -> list[dict[str, Any]]:
        """Every Kubernetes object of the job."""
        sources = render.shape_of(self.spec, self.name).sources
        ranks = self.spec.preflight
        code = code_of(self.archive, sources, packages=self.packages, preflight=ranks)
        code = replace(code, lock=self.lock)
        return render.render(self.spec, name=self.name, code=code)

    def in_format(self, form: str) -> list[dict[str, Any]]:
        """The same job in one of `formats.FORMATS`. Raises RequestError for what that lacks."""
        named = replace(self, name=self.name + formats.SUFFIXES.get(form, ""))
        return formats.convert(form, named.objects(), named.rendered)


def check_not_imported(call: str) -> None:
    """That no item imports the module that starts this: its items would do so too, without an end.

    Raises RequestError.
    """
    if itemcall.ENV_IMPORTING in os.environ:
        raise RequestError(
            f"{call} is called as an item imports this module, and would start again in each of "
            "its own items. Call it under if __name__ == '__main__':"
        )


def code_of(
    archive: bundle.Archive | None,
    sources: Iterable[Path],
    *,
    packages: Request | None,
    preflight: bool = False,
) -> render.Code:
    """What pods run: the files of ours that they need, and the user's code."""
    code = render.Code(
        Path(bootstrap.__file__).read_text(encoding="utf-8"),
        preflight=Path(checks.__file__).read_text(encoding="utf-8") if preflight else "",
        more={file.name: file.read_text(encoding="utf-8") for file in sources},
        packages=packages,
    )
    if archive is None:
        return code
    return replace(code, archive=archive.packed, sha256=archive.sha256)


class Place(abc.ABC):
    """What a plan must know of where the job will run. Nothing of it asks a cluster."""

    @abc.abstractmethod
    def locate(self, resolved: Resolved[Common], cwd: Path, code_dir: Path) -> str | None:
        """The script, relative to the code folder; None where a module or a program is run.

        Raises RequestError for what cannot be run there.
        """

    @abc.abstractmethod
    def with_ranks(self, resolved: Resolved) -> JobSpec:
        """The spec with a number of processes a node: gpu, cpu and auto are counted.

        Raises RequestError.
        """

    @abc.abstractmethod
    def ships(self, spec: Common) -> bool:
        """Whether the code is packed, rather than run where it lies."""

    @abc.abstractmethod
    def notes(self, spec: JobSpec) -> Iterator[Note]:
        """What is allowed there and probably not meant, as far as the request tells."""


def plan(resolved: Resolved, *, cwd: Path, place: Place, random_name: bool = False) -> Plan:
    """Find the script, pack the code, fix the name. Raises RequestError.

    Without `random_name` the end of a generated name is a hash of the request, so that the same
    request renders the same bytes.
    """
    spec = resolved.spec
    code_dir = cwd / spec.code_dir
    script = place.locate(resolved, cwd, code_dir)
    spec = place.with_ranks(resolved).model_copy(update={"script": script})
    archive = bundle.pack(code_dir) if place.ships(spec) else None
    check_shipped(spec, archive, code_dir)
    packages = requirements.read(spec, code_dir, cwd, ships=archive is not None)
    content = archive.sha256 if archive else ""
    if packages is not None:
        content += f" {packages.sha256}"
    name = spec.name or generated_name(
        spec, content, code_dir, spec.indexes, random_name=random_name
    )
    where = code_dir if spec.code else cwd
    notes = (*_notes_of_code(spec, where, archive), *place.notes(spec))
    return Plan(spec, name, where, archive, notes, packages)


def note_of_compiled(
    spec: Common, code_dir: Path, archive: bundle.Archive | None
) -> Iterator[Note]:
    """Say that a script which ships was compiled."""
    if archive is not None and spec.script and scripts.is_compiled(code_dir / spec.script):
        yield Note(
            f"{spec.script} runs under the version of Python alone that compiled it, and the image "
            "may have another one",
            ("give the source, which runs under any",),
        )


def _notes_of_code(spec: JobSpec, code_dir: Path, archive: bundle.Archive | None) -> Iterator[Note]:
    yield from note_of_compiled(spec, code_dir, archive)
    if spec.hang_timeout is not None and spec.heartbeat == "file" and spec.code:
        files = archive.files if archive is not None else _files_of(code_dir)
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


def _files_of(code_dir: Path) -> Sequence[str]:
    """Code that is not packed, as far as it would be; none where that fails."""
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


def check_shipped(spec: Common, archive: bundle.Archive | None, code_dir: Path) -> None:
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


def generated_name(
    spec: Common, content: str, code_dir: Path, indexes: int, *, random_name: bool, room: int = 0
) -> str:
    """A name made of the script's, and of a hash of the request and `content`, or of chance.

    `room` is left for more characters behind the name.
    """
    if random_name:
        entropy = secrets.token_bytes(8)
    else:
        # Where things lie on this machine is no part of the request.
        request = spec.model_dump_json(exclude={"code_dir", "kubeconfig", "context"})
        entropy = hashlib.sha256(f"{request} {content}".encode()).digest()
    suffix = base64.b32encode(entropy).decode().lower()[:SUFFIX_CHARS]
    return names.generated_job_name(spec.stem or code_dir.resolve().name, suffix, indexes, room)


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
