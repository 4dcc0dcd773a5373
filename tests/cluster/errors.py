"""The one exception that the harness reports to its user."""

from __future__ import annotations


class ClusterError(Exception):
    """What could not be done, with the reason; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.args[0]}\n  {self.hint}" if self.hint else str(self.args[0])
