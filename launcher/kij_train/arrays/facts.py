"""What is kept of an array: where it runs, what it was made from, and its attempts."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

ITEMS, STUDY = "items.xz", "study.journal"
FORMAT = 1
LOCAL = "local"
CLUSTER = "cluster"


@dataclass(frozen=True)
class Where:
    """Where an array runs."""

    kind: str = LOCAL
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is processes of this machine."""
        return self.kind == LOCAL

    @property
    def flags(self) -> str:
        """What a command needs to find it: ` -n ml --context lab`."""
        names = {"-n": self.namespace, "--context": self.context, "--kubeconfig": self.kubeconfig}
        return "".join(f" {flag} {shlex.quote(name)}" for flag, name in names.items() if name)


@dataclass(frozen=True)
class About:
    """What an array was made from."""

    name: str
    where: Where
    request: dict[str, Any]
    """The values that are not defaults, by field."""
    code_dir: str
    """Absolute; of the machine that it was launched from."""
    code_sha256: str
    """Of what ran; empty where that is not known, as with --no-code."""
    plan_sha256: str
    created: str
    """RFC 3339."""
    items: str = ITEMS
    """The file of the plan."""
    format: int = FORMAT


@dataclass(frozen=True)
class Attempt:
    """One Job of an array, or one run on this machine."""

    number: int
    job: str
    """Its name: that of the array, or NAME-r1 of its first rerun."""
    uid: str = ""
    """Of the Job."""
    request: dict[str, Any] = field(default_factory=dict)
    """Values that it was launched with: those of the array, and what was given on top."""
    selection: list[tuple[int, list[int]]] | None = None
    """Of a rerun: indexes of the first attempt, with the positions of their items."""
    code_sha256: str = ""
    created: str = ""
    state: str = ""
    """How it ended; empty until then."""
    code: dict[str, list[int]] | None = None
    """The files of the code, for `code.known`; in a file of its own, see `ArrayFolder.code`."""
