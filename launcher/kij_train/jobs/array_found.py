"""An array that was launched from elsewhere: its folder, made again from what the cluster has.

The Jobs have the request and name the ConfigMaps with the list of items; the results are collected
from the pods as always.
"""

from __future__ import annotations

import base64
import binascii
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis, names
from kij_train.arrays.facts import About, Attempt, Where
from kij_train.arrays.store import ArrayFolder
from kij_train.diagnosis import JobView, Object
from kij_train.errors import RefusedError, RequestError, UnreachableError
from kij_train.jobs.asking import get
from kij_train.pod import contract, itemplan
from kij_train.pod.contract import Failure
from kij_train.spec import values_of

if TYPE_CHECKING:
    from kij_train.cluster import Cluster


def attempts_of(cluster: Cluster, name: str) -> dict[int, Object]:
    """The Jobs of an array that are there, by attempt."""
    found = {}
    for job in cluster.list("Job", labelSelector=f"{names.ARRAY}={name}"):
        number = (job["metadata"].get("labels") or {}).get(names.ATTEMPT, "")
        if number.isdigit():
            found[int(number)] = job
    return dict(sorted(found.items()))


def trials_of(cluster: Cluster, name: str) -> list[JobView]:
    """The Jobs of an array whose items are a Job each; none where it is no such array."""
    found = [JobView(job) for job in attempts_of(cluster, name).values()]
    return found if any(is_trial(job) for job in found) else []


def is_trial(job: JobView) -> bool:
    """Whether it is one item of an array, of several pods."""
    settings = settings_of(job.raw)
    return settings is not None and settings.nodes > 1


def named(cluster: Cluster, name: str) -> list[str]:
    """The Jobs that a name means: all trials of a sweep, or that Job. Raises UnreachableError."""
    try:
        job = get(cluster, name)
    except UnreachableError:
        trials = trials_of(cluster, name)  # its first Job may be gone
        if not trials:
            raise
    else:
        trials = trials_of(cluster, name) if job.array == name and is_trial(job) else []
    return [job.name for job in trials] or [name]


def delete_all(cluster: Cluster, name: str, *, but: str | None = None) -> None:
    """Remove all Jobs of an array, reruns too, `but` the one that has just been made."""
    for job in attempts_of(cluster, name).values():
        if job["metadata"]["name"] == but:
            continue
        cluster.delete("Job", str(job["metadata"]["name"]), uid=str(job["metadata"]["uid"]))


def found(cluster: Cluster, cwd: Path, name: str, where: Where) -> ArrayFolder:
    """Make the folder of an array of a cluster. Raises UnreachableError where it has none."""
    attempts = attempts_of(cluster, name)
    if not attempts:
        raise UnreachableError(
            f"namespace {cluster.namespace} has no array {name}",
            hints=(f"see what there is: kij-train list{where.flags}",),
        )
    # Of a search the last one has the items of all.
    first, last = next(iter(attempts.values())), list(attempts.values())[-1]
    settings = settings_of(last)
    if settings is None or settings.items_file:
        raise RequestError(
            f"job {last['metadata']['name']} does not say where its list of items is",
            hints=("read it in the folder that it was launched from",),
        )
    packed = data_of(cluster, last, itemplan.ITEMS_PREFIX)
    _check_items(last, packed)
    about = About(
        name=name,
        where=where,
        request=values_of(first) or {},
        code_dir="",
        code_sha256=_variable(first, contract.ENV_CODE_SHA256),
        plan_sha256=settings.plan_sha256,
        created=str(first["metadata"]["creationTimestamp"]),
    )
    folder = ArrayFolder.create(cwd, about, packed)
    folder.plan()
    add_attempts(cluster, folder, attempts)
    return folder


def _check_items(job: Object, packed: bytes) -> None:
    """Raise RequestError where the cluster has no list of the items."""
    name = job["metadata"]["name"]
    try:
        plan = itemplan.decode(lzma.decompress(packed))
    except (ValueError, lzma.LZMAError) as error:
        raise RequestError(f"the list of items of job {name} is damaged: {error}") from None
    if not plan.has_items and plan.listed is not None:
        raise RequestError(
            f"the list of items of job {name} is on a volume of its pods, in {plan.listed.path}",
            hints=("read it in the folder that it was launched from",),
        )


def add_attempts(cluster: Cluster, folder: ArrayFolder, attempts: Mapping[int, Object]) -> None:
    """Take over reruns that were launched from elsewhere."""
    known = {attempt.number for attempt in folder.attempts()}
    for number, job in attempts.items():
        if number in known:
            continue
        settings = settings_of(job)
        if settings is None or not _has_its_items(cluster, folder, job, settings.plan_sha256):
            raise RequestError(
                f"job {job['metadata']['name']} is of another array {folder.name}, with another "
                "list of items",
                hints=(f"read that one in another folder: cd … && kij-train report {folder.name}",),
            )
        selection = None
        if settings.selection:
            packed = data_of(cluster, job, itemplan.SELECTION_PREFIX)
            try:
                selection = itemplan.decode_selection(lzma.decompress(packed)).indexes
            except (ValueError, lzma.LZMAError) as error:
                damaged = f"what job {job['metadata']['name']} runs again is damaged: {error}"
                raise RequestError(damaged) from None
        folder.begin_attempt(
            Attempt(
                number=number,
                job=str(job["metadata"]["name"]),
                uid=str(job["metadata"]["uid"]),
                request=values_of(job) or {},
                selection=selection,
                code_sha256=_variable(job, contract.ENV_CODE_SHA256),
                created=str(job["metadata"]["creationTimestamp"]),
            )
        )


def _has_its_items(cluster: Cluster, folder: ArrayFolder, job: Object, plan_sha256: str) -> bool:
    """Whether a Job is of this array: of a search it may have more items, which are taken over, or
    fewer."""
    if plan_sha256 == folder.about.plan_sha256:
        return True
    mine = folder.plan_text()
    try:
        other = lzma.decompress(data_of(cluster, job, itemplan.ITEMS_PREFIX))
    except lzma.LZMAError:
        return False
    if itemplan.sha256(other) != plan_sha256:
        return False
    if itemplan.has_more(other, mine):
        folder.grow(other)
        return True
    return itemplan.has_more(mine, other)


def settings_of(job: Object) -> itemplan.ArraySettings | None:
    """What the runners of a Job were told; None for a Job that is no array's."""
    text = _variable(job, itemplan.ENV_ARRAY)
    if not text:
        return None
    try:
        return itemplan.ArraySettings.from_json(text.replace("$$", "$"))
    except Failure:
        return None


def data_of(cluster: Cluster, job: Object, prefix: str) -> bytes:
    """The chunks of this prefix in the ConfigMaps that the pods of a Job mount."""
    chunks: dict[str, bytes] = {}
    for name in _config_maps(job):
        try:
            data = cluster.get("ConfigMap", name).get("binaryData") or {}
        except RefusedError as error:
            raise RefusedError(
                f"the list of items is in ConfigMap {name}, and {error.message}",
                hints=(*error.hints, "or use the folder that the array was launched from"),
            ) from None
        for key, text in data.items():
            if key.startswith(prefix):
                try:
                    chunks[key] = base64.b64decode(text, validate=True)
                except (binascii.Error, ValueError):
                    raise RequestError(f"ConfigMap {name} is damaged: {key}") from None
    return b"".join(chunks[key] for key in sorted(chunks))


def _config_maps(job: Object) -> list[str]:
    """Names of the ConfigMaps in the volume of the code."""
    volumes: list[dict[str, Any]] = job["spec"]["template"]["spec"].get("volumes") or []
    sources = [
        source
        for volume in volumes
        if volume.get("name") == names.CODE_VOLUME
        for source in (volume.get("projected") or {}).get("sources") or []
    ]
    config_maps = (source["configMap"] for source in sources if "configMap" in source)
    return [str(each["name"]) for each in config_maps if not each.get("optional")]


def _variable(job: Object, name: str) -> str:
    for variable in diagnosis.JobView(job).container.get("env") or []:
        if variable["name"] == name:
            return str(variable.get("value") or "")
    return ""
