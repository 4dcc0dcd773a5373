"""Exit codes: of kij-train itself, and of the first process of a pod."""

from __future__ import annotations

from kij_train.errors import EXIT_CODES
from kij_train.pod import contract, itemindex, itemplan, itemrun, mainprogram
from kij_train.reference import About, Topic
from kij_train.reference.constants import documented

MODULES = (contract, itemindex, itemplan, itemrun, mainprogram)
"""With exit codes of processes in pods."""


def topics() -> list[Topic]:
    """Those of kij-train, then those of pods."""
    own = [Topic(About.EXIT_CODE, str(code), text) for code, text in EXIT_CODES.items()]
    found = [one for each in MODULES for one in documented(each, "EXIT_")]
    found.sort(key=lambda one: int(one.value))
    return own + [Topic(About.POD_EXIT_CODE, str(one.value), one.text) for one in found]
