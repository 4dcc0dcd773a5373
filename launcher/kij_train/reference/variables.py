"""Variables of the environment of pods, and of nodes of this machine."""

from __future__ import annotations

from kij_train.pod import contract, itemcall, itemplan, itemstudy, preflight
from kij_train.pod.gang import settings
from kij_train.reference import About, Topic
from kij_train.reference.constants import documented

MODULES = (contract, settings, itemplan, itemstudy, itemcall, preflight)
FOR_THE_SCRIPT = "For the script"
"""How the docstring of a variable begins that scripts may read."""


def topics() -> list[Topic]:
    """Those for scripts first."""
    found = [_topic(one.value, one.text) for each in MODULES for one in documented(each, "ENV_")]
    return sorted(found, key=lambda topic: not is_for_scripts(topic))


def is_for_scripts(topic: Topic) -> bool:
    """Whether a script may read it; the others are between kij-train's own processes."""
    return ("for", "scripts") in topic.facts


def _topic(name: str, text: str) -> Topic:
    theirs = text.startswith(FOR_THE_SCRIPT)
    said = text.removeprefix(FOR_THE_SCRIPT).lstrip(":, ")
    whose = "scripts" if theirs else "kij-train's own processes"
    return Topic(About.VARIABLE, name, said[:1].upper() + said[1:], (("for", whose),))
