"""Objects as YAML that every parser reads the same way.

kubectl's parser takes 3e-4, 0o17, 1_000, yes and 2026-01-01 for something else than text where
PyYAML's writer leaves them without quotes. So text is quoted unless it is plainly a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml
from yaml.emitter import ScalarAnalysis

LONGEST_WORD = 1000
_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_./\[\]'()-]*")
_NOT_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


class _Dumper(yaml.SafeDumper):
    """Block style, keys in the order given, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True

    # PyYAML looks at every character several times, at a second for every 2 MB. Of text that needs
    # no escapes, these two write the same.
    def analyze_scalar(self, scalar: str) -> ScalarAnalysis:
        if getattr(self.event, "style", None) != '"' or not _is_plain(scalar):
            return super().analyze_scalar(scalar)
        return ScalarAnalysis(scalar, not scalar, False, False, False, True, True, False)

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        if _is_plain(text):
            self.write_indicator(f'"{text}"', True)
        else:
            super().write_double_quoted(text, split)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _is_plain(text: str) -> bool:
    """Whether it stands between double quotes as it is."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style: str | None = '"'
    if len(text) <= LONGEST_WORD and _WORD.fullmatch(text) and text.lower() not in _NOT_TEXT:
        style = None
    elif "\n" in text and _fits_a_block(text):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _fits_a_block(text: str) -> bool:
    """Whether a literal block keeps it: printable lines, none that starts or ends in a space."""
    lines = text.split("\n")
    return (
        all(line.isprintable() and line == line.rstrip() for line in lines)
        and not text[0].isspace()
    )


_Dumper.add_representer(str, _text)


def to_yaml(objects: Iterable[dict[str, Any]]) -> str:
    """The objects as one stream of YAML documents."""
    return yaml.dump_all(
        objects,
        Dumper=_Dumper,
        explicit_start=True,
        sort_keys=False,
        allow_unicode=True,
        width=2**31,
    )
