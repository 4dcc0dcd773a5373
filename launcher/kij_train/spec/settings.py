"""What a field of a spec is to the rest of kij-train: its flags, how it merges, where it counts.

The facts of a field stand in its `Annotated[…]`, beside its type. Options, KIJ_* variables, layers,
help, TorchX' run options and the list of what --local ignores are derived from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, Flag, auto
from functools import cache

from pydantic import BaseModel


class Group(Enum):
    """Headings of the help, in their order."""

    COMMAND = "What to run"
    ITEMS = "Items"
    SIZE = "Size"
    WHERE = "Where"
    RESOURCES = "Resources of a node"
    PLACEMENT = "Placement"
    DATA = "Environment and data"
    SECURITY = "Security"
    RESTART = "Restart"
    LIFE = "Life of the job"
    METRICS = "Metrics"
    OUTPUT = "Output"


class Merge(Enum):
    """What becomes of the values of several sources."""

    REPLACE = auto()
    """The highest source wins."""
    JOIN = auto()
    """A list to which every source adds."""
    BY_KEY = auto()
    """A mapping; of each key, the highest source wins."""


class Fact(Flag):
    """What is true of a field."""

    NONE = 0
    CLUSTER_ONLY = auto()
    """Means nothing to processes of this machine."""
    TORCHX = auto()
    """A run option of TorchX. What is none is for a component to say."""
    NOT_IN_BENCH = auto()
    """No flag of `kij-train bench`, which sees to it, or does without."""
    PATH = auto()
    """In a file, relative to that file."""
    WITHOUT_VARIABLE = auto()
    """No line of text could hold it, or an item has a variable of that name."""
    COMMAND = auto()
    """Says what to run. A job has one of these fields: to set it replaces the others."""


@dataclass(frozen=True)
class Switch:
    """What a flag without a value sets, and its own help."""

    value: object
    help: str = ""
    """In place of the field's docstring."""


@dataclass(frozen=True, eq=False)
class Setting:
    """The facts of a field."""

    group: Group
    flag: str = ""
    """Names and metavar as the help shows them, "--namespace -n NAME"; empty for none."""
    facts: Fact = Fact.NONE
    merge: Merge = Merge.REPLACE
    switches: Mapping[str, Switch] | None = None
    """Flags without a value, instead of `flag`."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the flag that takes a value."""
        return tuple(word for word in self.flag.split() if word.startswith("-"))

    @property
    def metavar(self) -> str:
        """What stands for that value in the help."""
        return " ".join(word for word in self.flag.split() if not word.startswith("-"))


@cache
def settings_of(model: type[BaseModel]) -> dict[str, Setting]:
    """The setting of every field, in the order of the fields."""
    found: dict[str, Setting] = {}
    for name, field in model.model_fields.items():
        mine = [fact for fact in field.metadata if isinstance(fact, Setting)]
        assert len(mine) == 1, f"{model.__name__}.{name} needs one Setting in its Annotated"
        found[name] = mine[0]
    return found


def fields_with(model: type[BaseModel], fact: Fact) -> tuple[str, ...]:
    """Names of the fields of which a fact is true."""
    return tuple(name for name, one in settings_of(model).items() if fact in one.facts)
