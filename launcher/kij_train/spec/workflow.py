"""A workflow: steps that are command lines of kij-train, or programs beside it.

name: nightly
step_image: registry.example/kij-train:1
parameters: [image, shards.items]
defaults: {image: registry.example/train:1, namespace: ml}
steps:
  prepare: {run: launch prepare.py}
  shards: {needs: [prepare], run: "map --items list.txt work.py {item}", retry: 1}
  gate: {needs: [shards], program: python gate.py --min 0.8}
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kij_train import names
from kij_train.spec.types import Model, NotBool, SpecConflict

RUNS = ("launch", "map", "sweep", "eval")
"""Commands of kij-train that a step may run."""
PARAMETERS = ("image", "nodes", "items")
"""Fields of steps that may be parameters of a workflow."""
MOST_RETRIES = 100
MOST_EACH = 1000
"""Jobs of one step: each is a node of Argo's, and all nodes are in one object."""
STEP_CHARS = 40
_STEP = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def _words(value: object) -> object:
    """A command line, as text or as a list of words."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"is not as a shell reads words: {error}") from None


def _listed(value: object) -> object:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else value


def _step_name(name: str) -> str:
    if len(name) > STEP_CHARS or _STEP.fullmatch(name) is None or name == "main":
        raise ValueError(
            f"{name!r} is no name of a step: lower-case letters, digits and '-', a letter first, "
            f"{STEP_CHARS} at most, and not main"
        )
    return name


def _each(value: object) -> object:
    """A number, a list, or the name of a step."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class Step(Model):
    """One step."""

    run: Words | None = None
    """A command line of kij-train, without its name: launch, map, sweep or eval."""
    program: Words | None = None
    """A program beside kij-train, in the step's own pod; instead of run."""
    needs: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Steps that must have succeeded before."""
    form: Literal["container", "resource"] | None = None
    """container: a pod with kij-train waits for the job; resource: Argo holds the Job itself.
    container where there is a step_image."""
    retry: Annotated[int, Field(ge=0, le=MOST_RETRIES), NotBool] = 0
    """How often the step is tried again when it has failed, each time with a new Job."""
    each: Annotated[
        Annotated[int, Field(ge=1, le=MOST_EACH), NotBool]
        | Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_EACH)]
        | str
        | None,
        BeforeValidator(_each),
    ] = None
    """As many jobs as this number, one for each text of this list, or of the list that a step has
    left as its value; which one it is stands in $STEP_ITEM."""

    @property
    def words(self) -> tuple[str, ...]:
        """What is run."""
        return self.run or self.program or ()


class Workflow(Model):
    """What a file with `steps` says."""

    name: Annotated[str, AfterValidator(names.check_job_name)]
    """Of the WorkflowTemplate, and what names of workflows begin with."""
    step_image: Annotated[str, AfterValidator(names.check_image)] | None = None
    """Image with kij-train, in which steps run and wait."""
    parameters: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """What may be said anew for every run: image, nodes or items of all steps that have it, or of
    one step, as in train.nodes."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Keys of spec files that hold for all steps."""
    steps: Annotated[
        dict[Annotated[str, AfterValidator(_step_name)], Step], Field(min_length=1, max_length=200)
    ]

    def form_of(self, name: str) -> str:
        """container or resource."""
        return self.steps[name].form or ("resource" if self.step_image is None else "container")

    def needs_of(self, name: str) -> tuple[str, ...]:
        """The steps that one waits for; that of its list as well."""
        step = self.steps[name]
        more = (step.each,) if isinstance(step.each, str) else ()
        return tuple(dict.fromkeys((*step.needs, *more)))

    @model_validator(mode="after")
    def _holds_together(self) -> Workflow:
        for name, step in self.steps.items():
            self._check_runs(name, step)
            for other in self.needs_of(name):
                if other not in self.steps:
                    field = "needs" if other in step.needs else "each"
                    raise SpecConflict(
                        "steps",
                        f"{other} is no step of {self.name}: there are {', '.join(self.steps)}",
                        *(name, field),
                    )
            self._check_form(name, step)
        circle = _circle({name: self.needs_of(name) for name in self.steps})
        if circle:
            raise SpecConflict(
                "steps", f"steps wait for each other: {' → '.join(circle)}", circle[0], "needs"
            )
        for parameter in self.parameters:
            self._check_parameter(parameter)
        return self

    def _check_runs(self, name: str, step: Step) -> None:
        if step.run and step.program:
            raise SpecConflict("steps", "conflicts with run: give one of them", name, "program")
        if not step.words:
            raise SpecConflict(
                "steps", f"names no job: give run ({', '.join(RUNS)}) or program", name
            )
        if step.run and step.run[0] not in RUNS:
            raise SpecConflict(
                "steps",
                f"{step.run[0]!r} names no job: it must begin with {', '.join(RUNS[:-1])} or "
                f"{RUNS[-1]}, or be a program, under the key program",
                *(name, "run"),
            )

    def _check_form(self, name: str, step: Step) -> None:
        if self.form_of(name) == "container" and self.step_image is None:
            raise SpecConflict(
                "steps",
                "a container step runs kij-train: name an image that has it, step_image",
                *(name, "form"),
            )
        if self.form_of(name) == "resource" and step.program:
            raise SpecConflict(
                "steps",
                "runs beside kij-train, in a container step: name an image that has it, "
                "step_image, and leave form out",
                *(name, "program"),
            )
        other = self.steps.get(step.each) if isinstance(step.each, str) else None
        if other is not None and not other.program:
            raise SpecConflict(
                "steps",
                f"{step.each} leaves no value: only a program does, in $STEP_VALUE_FILE",
                *(name, "each"),
            )

    def _check_parameter(self, parameter: str) -> None:
        step, _, field = parameter.rpartition(".")
        if field not in PARAMETERS or (step and step not in self.steps):
            known = ", ".join(PARAMETERS)
            raise SpecConflict(
                "parameters",
                f"{parameter!r} is nothing that a step takes: {known}, or of one step, as in "
                f"{next(iter(self.steps))}.{PARAMETERS[0]}",
            )


def _circle(needs: dict[str, tuple[str, ...]]) -> list[str]:
    """Steps that wait for each other, the first one again at the end; empty where none do."""
    done: set[str] = set()
    for start in needs:
        path: list[str] = []
        ahead: list[tuple[str, bool]] = [(start, False)]
        while ahead:
            name, leaving = ahead.pop()
            if leaving:
                done.add(path.pop())
            elif name in path:
                return [*path[path.index(name) :], name]
            elif name not in done:
                path.append(name)
                ahead.append((name, True))
                ahead += [(other, False) for other in needs[name]]
    return []
