"""From a request and its items to an array that is fit to be started, or to a rerun of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from kij_train import names, render, requirements, units
from kij_train.arrays import plan as plans
from kij_train.arrays.facts import About, Attempt, Where
from kij_train.arrays.items import Items, is_url
from kij_train.arrays.store import ArrayFolder
from kij_train.code import bundle, known, leftout
from kij_train.errors import RequestError
from kij_train.paths import shown
from kij_train.pod import itemplan
from kij_train.pod.packages import Request
from kij_train.render.formats import Rendered
from kij_train.runs.plan import (
    Note,
    Place,
    check_shipped,
    code_of,
    generated_name,
    note_of_compiled,
)
from kij_train.spec import ArraySpec, request_of
from kij_train.spec.array import MOST_RERUNS
from kij_train.specfile import Resolved

Positions = Sequence[int]
"""Of items in the plan."""
Selection = Sequence[tuple[int, Positions]]
"""What a rerun runs: an index of the first attempt, and positions in the plan, for each of its own
indexes."""
OF_ONE_ITEM = ("item", "key", "seed")
"""Placeholders that mean nothing to a process of a whole index."""


@dataclass(frozen=True)
class ArrayPlan:
    """One Job of an array, or one run of it on this machine."""

    spec: ArraySpec
    """With the script relative to the code folder."""
    array: str
    """The array's name."""
    code_dir: Path
    """Working directory of a run on this machine, and what is shipped to pods."""
    archive: bundle.Archive | None
    pinned: plans.Pinned
    number: int = 0
    """Of the attempt."""
    selection: Selection | None = None
    """Of a rerun, or of a batch of a search."""
    study: bytes = b""
    """Of a search: the journal that its trials get."""
    earlier: tuple[tuple[int, str], ...] = ()
    """Of a rerun: numbers and uids of the Jobs before it."""
    notes: tuple[Note, ...] = ()
    """What is allowed and probably not meant."""
    packages: Request | None = None
    """What is to be installed."""
    lock: tuple[str, ...] = ()
    """The versions that an attempt has installed of that."""

    @property
    def name(self) -> str:
        """Of the Job."""
        return names.attempt_name(self.array, self.number)

    @property
    def indexes(self) -> int:
        """Of this attempt."""
        return self.pinned.items.indexes if self.selection is None else len(self.selection)

    @property
    def code_sha256(self) -> str:
        """Of what ships; empty where nothing does."""
        return "" if self.archive is None else self.archive.sha256

    @cached_property
    def known_code(self) -> known.Known | None:
        """The files of the code, as they are when this is first asked for."""
        if self.archive is not None:
            return known.look(self.code_dir, self.archive.files)
        return known.look(self.code_dir) if self.spec.code else None

    @property
    def packed_selection(self) -> bytes:
        """As it travels; empty where all is run."""
        if self.selection is None:
            return b""
        chosen = [(index, list(positions)) for index, positions in self.selection]
        return itemplan.compress(itemplan.encode_selection(self.number, chosen))

    @property
    def facts(self) -> dict[str, str]:
        """Annotations of the Job that are facts of this machine, and no part of the request."""
        left_out = None if self.archive is None else leftout.record(self.archive.left_out)
        return {} if left_out is None else {names.LEFT_OUT: left_out}

    @cached_property
    def attempt(self) -> render.Attempt:
        """What its Job is made for."""
        return render.Attempt(
            array=self.array,
            indexes=self.indexes,
            plan_sha256=self.pinned.sha256,
            plan=self.pinned.travels,
            number=self.number,
            selection=self.packed_selection,
            study=itemplan.compress(self.study) if self.study else b"",
            earlier=self.earlier,
        )

    @property
    def rendered(self) -> Rendered:
        """For other formats than Kubernetes' own."""
        return Rendered(self.spec, self.name, render.shape_of(self.spec, self.name, self.attempt))

    def objects(self) -> list[dict[str, Any]]:
        """Every Kubernetes object of the attempt."""
        shape = render.shape_of(self.spec, self.name, self.attempt)
        code = code_of(self.archive, shape.sources, packages=self.packages)
        code = replace(code, lock=self.lock)
        return render.render(self.spec, name=self.name, code=code, attempt=self.attempt)


def plan_array(
    resolved: Resolved[ArraySpec],
    items: Items,
    *,
    cwd: Path,
    place: Place,
    random_name: bool = False,
) -> ArrayPlan:
    """Pin the items, find the script, pack the code, fix the name. Raises RequestError.

    Without `random_name` a generated name is made of the request and the items.
    """
    spec = resolved.spec
    check_placeholders(spec, items)
    pinned, path = _pinned(spec, items, cwd)
    if path is not None:
        resolved = replace(resolved, spec=spec.model_copy(update={"items_on": path}))
    found = _prepared(resolved, pinned, cwd, place)
    spec, most = found.spec, found.indexes
    if spec.name is None:
        content = f"{pinned.sha256} {found.archive.sha256 if found.archive else ''}"
        if found.packages is not None:
            content += f" {found.packages.sha256}"
        name = generated_name(
            spec, content, found.code_dir, most, random_name=random_name, room=room_of(spec, most)
        )
    else:
        name = spec.name
        _check_name(name, most, resolved)
    data = tuple(_not_in_pods(spec, found.archive, items))
    return replace(found, array=name, notes=(*found.notes, *data))


def _pinned(spec: ArraySpec, items: Items, cwd: Path) -> tuple[plans.Pinned, str | None]:
    """The plan, and where pods read its list, if it does not travel. Raises RequestError.

    One that is too large is read where it is, if that is on a volume of the pods.
    """

    chunk = 1 if spec.trial_nodes > 1 else spec.chunk

    def pin(path: str | None) -> plans.Pinned:
        return plans.pin(items, chunk=chunk, indexes=spec.indexes, seed=spec.seed, path=path)

    if spec.items_on is not None and not items.sha256:
        raise RequestError(
            f"--items-on {spec.items_on}: is a copy of a list, and {items.source} lists files",
            hints=("write the list into a file, and name that: --items LIST",),
        )
    pinned, path = pin(spec.items_on), spec.items_on
    if path is None and spec.items is not None and items.sha256:
        here = os.path.abspath(cwd / spec.items)  # noqa: PTH100 - links stay as they are
        if _is_below(here, tuple(mount.path for mount in spec.mounts)):
            is_large = len(pinned.packed) > plans.MOST_PACKED_BYTES
            return (pin(here), here) if is_large else (pinned, None)
    return pinned, path


def plan_rerun(
    resolved: Resolved[ArraySpec],
    pinned: plans.Pinned,
    *,
    array: str,
    number: int,
    selection: Selection,
    cwd: Path,
    place: Place,
    study: bytes = b"",
    earlier: tuple[tuple[int, str], ...] = (),
) -> ArrayPlan:
    """A rerun of an array whose plan is there, or a batch of a search. Raises RequestError."""
    found = _prepared(resolved, pinned, cwd, place)
    return replace(
        found, array=array, number=number, selection=selection, study=study, earlier=earlier
    )


def _prepared(
    resolved: Resolved[ArraySpec], pinned: plans.Pinned, cwd: Path, place: Place
) -> ArrayPlan:
    code_dir = cwd / resolved.spec.code_dir
    script = place.locate(resolved, cwd, code_dir)
    spec = resolved.spec.model_copy(update={"script": script})
    archive = bundle.pack(code_dir) if place.ships(spec) else None
    check_shipped(spec, archive, code_dir)
    where = code_dir if spec.code else cwd
    notes = tuple(note_of_compiled(spec, where, archive))
    packages = requirements.read(spec, code_dir, cwd, ships=archive is not None)
    return ArrayPlan(spec, "", where, archive, pinned, notes=notes, packages=packages)


def room_of(spec: ArraySpec, indexes: int) -> int:
    """Characters that the names of attempts take more than the array's."""
    return len(names.attempt_name("", _most_attempts(spec, indexes)))


def _most_attempts(spec: ArraySpec, indexes: int) -> int:
    """For which a name leaves room. An item of several pods is an attempt of its own."""
    return max(MOST_RERUNS, 2 * indexes if spec.trial_nodes > 1 else 0)


def _check_name(name: str, indexes: int, resolved: Resolved[ArraySpec]) -> None:
    most = _most_attempts(resolved.spec, indexes)
    try:
        names.check_job_name(names.attempt_name(name, most), indexes)
    except ValueError as error:
        raise RequestError(
            f"{resolved.origin(('name',))} {name} leaves no room for reruns: the name of the last "
            f"one {error}"
        ) from None


def check_placeholders(spec: ArraySpec, items: Items) -> None:
    """Raise RequestError for a placeholder in the arguments that an item has nothing for."""
    wanted = {name: argument for argument in spec.args for name in itemplan.placeholders(argument)}
    for name in OF_ONE_ITEM if spec.slice else ():
        if name in wanted:
            raise RequestError(
                f"{wanted[name]}: {{{name}}} is one item's, and with --slice a process has all "
                "items of its index",
                hints=(f"they are in ${itemplan.ENV_ITEMS_FILE}: a line of JSON each",),
            )
    _check_style(spec, items)
    fields = {name: text for name, text in wanted.items() if name not in itemplan.OUR_NAMES}
    if not fields:
        return
    name = next(iter(fields))
    if spec.slice:
        raise RequestError(
            f"{fields[name]}: {{{name}}} would be a field of an item, and with --slice a process "
            "has all items of its index",
            hints=(f"text in braces: {{{{{name}}}}}",),
        )
    for position, item in enumerate(items):
        value = item if isinstance(item, str) else item[1]
        for name, argument in fields.items():
            if not isinstance(value, dict) or name not in value:
                raise _unknown_name(name, argument, items.place(position), value)


def _check_style(spec: ArraySpec, items: Items) -> None:
    if spec.style is None:
        return
    for position, item in enumerate(items):
        if isinstance(item, str) or not isinstance(item[1], dict):
            raise RequestError(
                f"--style {spec.style} gives an item's fields, and the item at "
                f"{items.place(position)} is no object with fields",
                hints=(
                    'a line an item, of JSON: {"lr": 0.001, "batch": 16}',
                    "an item that is one value: kij-train map ... SCRIPT --name {item}",
                ),
            )


def _unknown_name(name: str, argument: str, place: str, value: Any) -> RequestError:
    known = [f"{{{one}}}" for one in itemplan.OUR_NAMES]
    has = "is no object with fields"
    if isinstance(value, dict):
        known += [f"{{{one}}}" for one in value]
        has = f"has no field {name}"
    within = "" if argument == f"{{{name}}}" else f"{argument}: "
    return RequestError(
        f"{within}{{{name}}} is unknown: the item at {place} {has}",
        hints=(f"known are {', '.join(known)}", f"text in braces: {{{{{name}}}}}"),
    )


def _not_in_pods(spec: ArraySpec, archive: bundle.Archive | None, items: Items) -> Iterator[Note]:
    """Say that files which a pattern finds here are not there in the pods."""
    if archive is None or spec.glob is None or is_url(spec.glob):
        return
    shipped, mounts = set(archive.files), tuple(mount.path for mount in spec.mounts)
    missing = [
        path
        for path in items.keys
        if path.removeprefix("./") not in shipped and not _is_below(path, mounts)
    ]
    if missing:
        yield Note(
            f"{len(missing):,} of the {len(items):,} files that --glob finds do not ship: pods "
            f"have no {shown(missing[0])}",
            (
                "put data onto a volume that is mounted at the same path here and there: --mount "
                "pvc:NAME:/data --glob '/data/*'",
            ),
        )


def _is_below(path: str, mounts: tuple[str, ...]) -> bool:
    return any(path == mount or path.startswith(mount.rstrip("/") + "/") for mount in mounts)


def keep_array(
    plan: ArrayPlan, cwd: Path, where: Where, *, replace: bool, study: bytes = b""
) -> ArrayFolder:
    """Make the folder of a new array, below `cwd`. Raises RequestError where its name is taken."""
    about = About(
        name=plan.array,
        where=where,
        request=request_of(plan.spec),
        code_dir=str(plan.code_dir.resolve()),
        code_sha256=plan.code_sha256,
        plan_sha256=plan.pinned.sha256,
        created=_now(),
    )
    return ArrayFolder.create(cwd, about, plan.pinned.packed, replace=replace, study=study)


def attempt_of(plan: ArrayPlan, uid: str = "") -> Attempt:
    """What the array's folder keeps of an attempt; `uid` is that of its Job."""
    chosen = plan.selection
    return Attempt(
        number=plan.number,
        job=plan.name,
        uid=uid,
        request=request_of(plan.spec),
        selection=None if chosen is None else [(index, list(at)) for index, at in chosen],
        code_sha256=plan.code_sha256,
        created=_now(),
        code=plan.known_code,
    )


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def array_summary(plan: ArrayPlan, *, where: str, at_once: int) -> str:
    """The one line that says what is about to run, and where."""
    total = plan.pinned.items.total
    if plan.selection is not None:
        total = sum(len(positions) for _, positions in plan.selection)

    def count(number: int, thing: str, plural: str = "s") -> str:
        return f"{number:,} {thing}{'' if number == 1 else plural}"

    parts = [f"{count(total, 'item')} in {count(plan.indexes, 'index', 'es')}"]
    if at_once < plan.indexes:
        parts.append(f"{at_once:,} at once")
    if plan.spec.trial_nodes > 1:
        parts.append(f"{plan.spec.trial_nodes} nodes a trial")
    if plan.spec.ranks_per_item > 1:
        whose = "an item" if plan.spec.trial_nodes == 1 else "a node"
        parts.append(f"{plan.spec.ranks_per_item} ranks {whose}")
    parts.append(where)
    if plan.archive is not None:
        size = units.format_bytes(len(plan.archive.packed))
        parts.append(f"code {count(len(plan.archive.files), 'file')}, {size}")
    return f"{plan.name}  " + " · ".join(parts)
