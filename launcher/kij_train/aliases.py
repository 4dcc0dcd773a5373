"""How long a document of YAML is once every alias stands for a copy, as its readers take it.

Eight lines of aliases of aliases can stand for a billion values ("billion laughs").
"""

from __future__ import annotations

import yaml

MOST_VALUES = 100_000
"""That aliases may make of a document. What is written out in full may be longer."""


class TooManyError(ValueError):
    """A document has more than that."""


def check(root: yaml.Node | None) -> None:
    """Raise TooManyError for a document that its aliases make too long."""
    lengths: dict[int, int] = {}
    total = _length(root, lengths) if root is not None else 0
    if total > max(MOST_VALUES, len(lengths)):
        raise TooManyError(f"its aliases (*) stand for more than {MOST_VALUES:,} values")


def _length(node: yaml.Node, lengths: dict[int, int]) -> int:
    """Of a node with all that is in it; `lengths` has those of nodes that were seen before."""
    if id(node) not in lengths:
        lengths[id(node)] = 0  # within itself: its readers say so
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = [each for pair in parts for each in (pair if isinstance(pair, tuple) else (pair,))]
        lengths[id(node)] = 1 + sum(_length(each, lengths) for each in inner)
    return lengths[id(node)]
