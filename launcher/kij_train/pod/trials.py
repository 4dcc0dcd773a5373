"""What an item of a sweep has more than others: arguments of its parameters, metrics in its output.

The launcher shows the same arguments that the pods make: both are made here.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import json
import math
import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple

STYLES = ("flags", "hydra")

_HYDRA_BARE = re.compile(r"[\w./:@%+?|*-]+", re.ASCII)
"""Text that Hydra's grammar of overrides takes without quotes
(https://hydra.cc/docs/advanced/override_grammar/basic/)."""
_LONGEST_LINE = 65536
"""Characters of a line in which a metric is looked for."""


def text_of(value: Any) -> str:
    """A parameter as an argument of a script."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def arguments(point: Mapping[str, Any], style: str) -> List[str]:
    """What the script gets: "--lr 0.001" or, in Hydra's style, "lr=0.001"."""
    if style == "hydra":
        return [f"{name}={_hydra_text(value)}" for name, value in point.items()]
    found = []
    for name, value in point.items():
        text = text_of(value)
        # argparse takes "-1e-3" behind a flag for a flag.
        found += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
    return found


def _hydra_text(value: Any) -> str:
    text = text_of(value)
    if not isinstance(value, str) or text[:1] in ("[", "{") or _HYDRA_BARE.fullmatch(text):
        return text
    # Within quotes a backslash counts only before a quote
    # (https://hydra.cc/docs/advanced/override_grammar/basic/#quoted-values).
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + (m[2] and "\\'"), text)
    return f"'{escaped}'"


class Metrics:
    """Numbers that a script prints; of each, the last one counts."""

    def __init__(self, patterns: Sequence[Tuple[str, str]]) -> None:
        """Names and regular expressions, whose one group is the number. Raises re.error."""
        self._patterns = [(name, re.compile(pattern)) for name, pattern in patterns]
        self._found: Dict[str, float] = {}

    def feed(self, line: str) -> None:
        """A line of the output. What was found and is no number counts as NaN."""
        for name, pattern in self._patterns:
            for match in pattern.finditer(line[:_LONGEST_LINE]):
                try:
                    self._found[name] = float(match.group(1))
                except (TypeError, ValueError):
                    self._found[name] = math.nan

    def values(self) -> Dict[str, float]:
        """What was found so far, by name; NaN and infinities as they are."""
        return dict(self._found)
