"""Text that comes in pieces, as whole lines; of a progress bar, its last state.

A bar writes over its line: each carriage return begins a new state of it. Nothing is lost but
states that others have written over.
"""

from __future__ import annotations

BAR_EVERY_S = 10.0
"""How often a bar is shown that has not ended its line."""
LONGEST_LINE = 1 << 20
"""Characters; what is longer comes in parts."""


def last_state(line: str) -> str:
    """What a line shows in the end; nothing where the bar has wiped itself away."""
    state = _newest(line)
    return state if state.strip() or "\r" not in line else ""


def _newest(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


class Lines:
    """Cuts a stream into lines. Times are those of any clock that goes on evenly, in seconds."""

    def __init__(self, *, prompt_s: float = float("inf")) -> None:
        """Unended text without a bar is held back for `prompt_s`, then passed on as a line."""
        self._prompt_s = prompt_s
        self._rest = ""
        self._shown: str | None = None
        """The state of the unended line that was passed on last."""
        self._since = 0.0
        """When that was; before, when the unended line began."""

    def feed(self, text: str, now: float) -> list[str]:
        """The lines that this ends, and now and then the state of a bar."""
        first, *others = text.split("\n")
        if not self._rest and first:
            self._since = now
        self._rest += first
        found = []
        for begun in others:
            found += self.end()
            self._rest, self._since = begun, now
        if "\r" in self._rest:  # lest a bar of hours is kept in memory
            ends = "\r" * self._rest.endswith("\r")
            self._rest = f"\r{_newest(self._rest)}{ends}"
        while len(self._rest) >= LONGEST_LINE:
            found.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        return found + self.pause(now)

    def pause(self, now: float) -> list[str]:
        """What is to be shown of the unended line, where nothing more comes for the moment."""
        is_bar = "\r" in self._rest
        if now - self._since < (BAR_EVERY_S if is_bar else self._prompt_s):
            return []
        state = last_state(self._rest)
        if not state or state == self._shown:
            return []
        self._since = now
        if is_bar:
            self._shown = state
        else:
            self._rest = ""
        return [state]

    def end(self) -> list[str]:
        """The line ends here, unless all of it was shown."""
        line, shown = last_state(self._rest), self._shown
        self._rest, self._shown = "", None
        return [] if shown is not None and line == shown else [line]

    def close(self) -> list[str]:
        """The stream ends: what is unended is the last line."""
        return self.end() if last_state(self._rest) else []
