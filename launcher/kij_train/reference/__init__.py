"""What `explain` prints and the reference pages hold, from where each thing is defined.

A `Topic` is a field of a spec, an exit code, a variable of the pods or a kind of finding. Its text
is the docstring of the field or constant, the entry of the table of exit codes, or of the table of
kinds: nothing is written here a second time. All of it is pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from kij_train.errors import RequestError


class About(Enum):
    """What a topic is, in the order in which they are listed."""

    FIELD = "field of a spec"
    OPTION = "option"
    EXIT_CODE = "exit code"
    POD_EXIT_CODE = "exit code of a pod"
    VARIABLE = "variable in the pods"
    CAUSE = "cause that why names"


@dataclass(frozen=True)
class Topic:
    """One thing that can be asked about."""

    about: About
    name: str
    text: str
    facts: tuple[tuple[str, str], ...] = ()
    """Label and value, such as flag and --nodes."""
    words: tuple[str, ...] = ()
    """Other names that it is found by."""

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "about": self.about.value,
            "name": self.name,
            "text": self.text,
            **dict(self.facts),
        }


def all_topics() -> list[Topic]:
    """All that is known here, sorted by what it is about; the commands add their options."""
    from kij_train.reference import causes, codes, fields, variables

    return [*fields.topics(), *codes.topics(), *variables.topics(), *causes.topics()]


def find(word: str, topics: Sequence[Topic]) -> list[Topic]:
    """The topics of that name, then those that it is another name of. Raises RequestError."""
    asked = plain(word)
    named = [topic for topic in topics if plain(topic.name) == asked]
    called = [topic for topic in topics if asked in map(plain, topic.words)]
    if named or called:
        return list(dict.fromkeys([*named, *called]))
    hints = tuple(f"kij-train explain {name}" for name in _nearest(asked, topics))
    shown = f'nothing is known of "{word}"' if word.strip() else "the word is empty"
    raise RequestError(shown, hints=(*hints, "all that is: kij-train explain"))


def plain(word: str) -> str:
    """A name as it is compared: `spec.nodes`, `--nodes` and `nodes` are the same."""
    word = word.strip().strip(":").removeprefix("spec.").lstrip("-$").strip("{}").lower()
    return word.replace("-", "_").replace(" ", "_")


def _nearest(asked: str, topics: Iterable[Topic]) -> list[str]:
    names = {plain(topic.name): topic.name for topic in topics}
    for topic in topics:
        for word in topic.words:
            names.setdefault(plain(word), topic.name)
    close = difflib.get_close_matches(asked, names, n=5, cutoff=0.6)
    within = [name for name in names if asked and asked in name]
    return list(dict.fromkeys(names[name] for name in (*close, *within)))[:3]
