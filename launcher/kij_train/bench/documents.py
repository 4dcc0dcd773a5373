"""The document of a sweep, which is also its JSON file: runs, settings and a summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kij_train.bench.rows import Document
from kij_train.bench.scaling import summarize
from kij_train.errors import RequestError
from kij_train.pod.collectives import table

FORMAT = 1


class _Part(BaseModel):
    """A part of a document, with the keys that are read here; there may be others."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


_Whole = Annotated[int, Field(ge=0, lt=2**63)]


_Positive = Annotated[int, Field(ge=1, lt=2**63)]


class _Figures(_Part):
    time: Annotated[float, Field(gt=0)]
    alg_bw: Annotated[float, Field(ge=0)]
    bus_bw: Annotated[float, Field(ge=0)]
    nwrong: _Whole | None


class _OfRanks(_Part):
    slowest: _Whole
    spread: float


class _Result(_Part):
    size: _Positive
    type: str
    redop: str
    in_place: _Figures | None
    out_of_place: _Figures | None
    ranks: _OfRanks

    @model_validator(mode="after")
    def _was_measured(self) -> _Result:
        if self.in_place is None and self.out_of_place is None:
            raise ValueError("neither in_place nor out_of_place")
        return self


class _Kij(_Part):
    collective: Literal[tuple(table.COLLECTIVES)]  # type: ignore[valid-type]
    ranks: _Positive
    nodes: _Positive


class _Mean(_Part):
    bandwidth: float
    okay: Literal["unchecked", "true", "false"]


class _Report(_Part):
    kij: _Kij
    results: list[_Result]
    average_bus_bandwidth: _Mean


class _Run(_Part):
    nodes: _Positive
    seconds: float
    report: _Report


class _Document(_Part):
    settings: dict[str, Any]
    runs: list[_Run]


def parse_document(text: str, where: str) -> Document:
    """A document, or a single report of the payload as one, checked whole. Raises RequestError."""
    hints = ("make one: kij-train bench allreduce … --json FILE",)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RequestError(f"{where} is no report of kij-train bench", hints=hints)
    if "results" in document:
        kij = document.get("kij")
        nodes = kij.get("nodes") if isinstance(kij, dict) else None
        run = {"nodes": nodes, "seconds": 0.0, "report": document}
        document = {"kij_train_bench": FORMAT, "settings": {}, "runs": [run]}
    version = document.get("kij_train_bench")
    if version is not None and version != FORMAT:
        raise RequestError(f"{where} was written by another version of kij-train")
    try:
        _Document.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(map(str, first["loc"])) or "document"
        raise RequestError(
            f"{where} is no report of kij-train bench: {at}: {first['msg']}", hints=hints
        ) from None
    checked: Document = document
    return checked


def new_document(settings: Mapping[str, Any]) -> Document:
    """A document without runs."""
    return {"kij_train_bench": FORMAT, "settings": dict(settings), "runs": [], "summary": []}


def check_resumable(document: Document, settings: Mapping[str, Any], where: str) -> None:
    """Raise RequestError unless the document measured the same thing."""
    before = document["settings"]
    for name, value in settings.items():
        if before.get(name) != value:
            raise RequestError(
                f"--resume: {where} has {name} {before.get(name)}, this is {name} {value}",
                hints=("take another file, or leave --resume out to write it anew",),
            )


def add_run(document: Document, nodes: int, seconds: float, report: Mapping[str, Any]) -> None:
    """Put a run in, and sum up again."""
    run = {"nodes": nodes, "seconds": round(seconds, 1), "report": dict(report)}
    document["runs"] = sorted([*document["runs"], run], key=lambda one: int(one["nodes"]))
    document["summary"] = [asdict(line) for line in summarize(document)]
