"""What an item of a sweep has more than others: arguments of its parameters, metrics in its output.

The launcher shows the same arguments that the pods make: both are made here.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import json
import math
import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from kij_train.pod.itemrecords import OURS, RENAMED

Json = Dict[str, Any]

STYLES = ("flags", "hydra")
INTERMEDIATE, PRUNED = "intermediate", "pruned"
"""Fields of a record: what a trial has reported on its way, as [step, value]; and that it was ended
early, since others were better."""

_HYDRA_BARE = re.compile(r"[\w./:@%+?|*-]+", re.ASCII)
"""Text that Hydra's grammar of overrides takes without quotes
(https://hydra.cc/docs/advanced/override_grammar/basic/)."""
_LONGEST_LINE = 65536
"""Bytes of a line in which a metric is looked for."""
_ENDS = re.compile(rb"[\r\n]")


_REPEAT = re.compile(r"#\d+$", re.ASCII)


def point_key(key: str) -> str:
    """The key of a trial's point. Text with a # is in quotes there, so that this is a repeat."""
    return _REPEAT.sub("", key)


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


def with_parameters(record: Json, point: Mapping[str, Any], seed: int) -> Json:
    """A record with its parameters in front of what the script has reported, and the seed.

    A field of the script that has one of these names gets RENAMED in front; a parameter that has
    one of ours is named "param_…".
    """
    own = {name if name not in OURS else f"param_{name}": value for name, value in point.items()}
    own.setdefault("seed", seed)
    found = {name: value for name, value in record.items() if name in OURS}
    found.update(own)
    for name, value in record.items():
        if name not in OURS:
            found[RENAMED + name if name in own else name] = value
    return found


def with_metrics(record: Json, metrics: Mapping[str, float]) -> Json:
    """A record with what was found in the output, but for what the script has reported itself."""
    found = dict(record)
    nan = list(found.pop("nan", ()))
    for name, value in metrics.items():
        if name in record or name in nan:
            continue
        found[name] = value if math.isfinite(value) else None
        if not math.isfinite(value):
            nan.append(name)
    if nan:
        found["nan"] = nan
    return found


class Metrics:
    """Numbers that a script prints; of each, the last one counts."""

    def __init__(self, patterns: Sequence[Tuple[str, str]]) -> None:
        """Names and regular expressions, whose one group is the number. Raises re.error."""
        self._patterns = [(name, re.compile(pattern)) for name, pattern in patterns]
        self._found: Dict[str, float] = {}
        self._rests: Dict[int, bytes] = {}

    def forget(self) -> None:
        """Begin anew, with the next script."""
        self._found.clear()
        self._rests.clear()

    def feed(self, stream: int, data: bytes) -> None:
        """A piece of the output. A carriage return ends a line as well."""
        *lines, rest = _ENDS.split(self._rests.get(stream, b"") + data)
        self._rests[stream] = rest[-_LONGEST_LINE:]
        for line in lines:
            self._look(line)

    def values(self) -> Dict[str, float]:
        """What was found, by name. The output is over."""
        for rest in self._rests.values():
            self._look(rest)
        self._rests.clear()
        return dict(self._found)

    def _look(self, line: bytes) -> None:
        text = line[:_LONGEST_LINE].decode("utf-8", "replace")
        for name, pattern in self._patterns:
            for match in pattern.finditer(text):
                # "loss of signal" is no loss.
                with contextlib.suppress(TypeError, ValueError):
                    self._found[name] = float(match.group(1))
