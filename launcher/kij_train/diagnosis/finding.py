"""What is found out about a job, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that explains the state of a job."""

    kind: str
    """Stable, for scripts: `unschedulable`, `image-pull`, `exception`."""
    summary: str
    evidence: tuple[str, ...] = ()
    """What the objects say, quoted."""
    hint: str | None = None
    """What to do about it. A command in it is a mark (commands.py), which `why` fills."""
