"""Which index runs which items: the plan that is pinned, and what of it is too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kij_train import units
from kij_train.arrays.items import Items
from kij_train.errors import RequestError
from kij_train.pod import itemplan
from kij_train.pod.itemlist import Listed

MOST_WITHOUT_CHUNK = 1000
"""Items that get an index each where nobody says how many an index has."""
MOST_AT_ONCE = 10_000
"""Pods that run at once where nobody says how many."""
MOST_PACKED_BYTES = 8 * 2**20
"""Of a plan, compressed: as much as of code, and in as many ConfigMaps."""
MANY_INDEXES = 100_000
FEW = 10_000
"""Above MANY_INDEXES the API server asks that at most FEW run at once, and that the Job ends after
at most FEW failed ones (validateJobSpec of pkg/apis/batch/validation)."""


@dataclass(frozen=True)
class Pinned:
    """A plan as it travels. `text` is what its SHA-256 is of."""

    text: bytes

    @cached_property
    def items(self) -> itemplan.ItemPlan:
        """Whose positions the indexes run."""
        return itemplan.decode(self.text)

    @cached_property
    def sha256(self) -> str:
        """What the plan is known by."""
        return itemplan.sha256(self.text)

    @cached_property
    def packed(self) -> bytes:
        """The text, compressed."""
        return itemplan.compress(self.text)

    @property
    def travels(self) -> bytes:
        """What of it the pods get, compressed."""
        if self.items.listed is None:
            return self.packed
        return itemplan.compress(itemplan.travelling(self.text))


def pin(
    items: Items, *, chunk: int | None, indexes: int | None, seed: int, path: str | None = None
) -> Pinned:
    """Spread the items over indexes. Raises RequestError.

    With more indexes than items, there are as many as there are items. `path` is where the pods
    read the list, in place of what would travel.
    """
    total = len(items)
    if chunk is None and indexes is None:
        if total > MOST_WITHOUT_CHUNK:
            per_index = -(-total // MOST_WITHOUT_CHUNK)
            raise RequestError(
                f"{items.source} has {total:,} items: more than {MOST_WITHOUT_CHUNK:,} do not get "
                "an index each unless that is said",
                hints=(
                    f"{per_index:,} items an index: --chunk {per_index}",
                    "or as many indexes as there are machines, say: --indexes 100",
                    "or one each: --chunk 1",
                ),
            )
        chunk = 1
    count = min(indexes, total) if indexes is not None else -(-total // (chunk or 1))
    if items.bounds is not None:
        first, end = items.bounds
        return Pinned(itemplan.encode_range(first, end, indexes=count, chunk=chunk, seed=seed))
    listed = None if path is None else Listed(path, items.sha256, items.is_json)
    text = itemplan.encode(items, indexes=count, chunk=chunk, seed=seed, listed=listed)
    return Pinned(text)


def pods_at_once(indexes: int, parallelism: int | None) -> int:
    """Parallelism of the Job."""
    return min(indexes, MOST_AT_ONCE if parallelism is None else parallelism)


def check_limits(pinned: Pinned, *, parallelism: int | None, max_failed: int | None) -> None:
    """Raise RequestError for what a cluster would not take."""
    plan = pinned.items
    if plan.indexes > MANY_INDEXES:
        chunk = -(-plan.total // MANY_INDEXES)
        fewer = f"fewer indexes: --chunk {chunk}"
        at_once = pods_at_once(plan.indexes, parallelism)
        if at_once > FEW or max_failed is None or max_failed > FEW:
            raise RequestError(
                f"{plan.indexes:,} indexes are more than {MANY_INDEXES:,}, with which Kubernetes "
                f"runs at most {FEW:,} at once, and gives up after at most {FEW:,} failed ones",
                hints=(fewer, f"or say so: --parallelism {min(at_once, FEW)} --max-failed {FEW}"),
            )
    if len(pinned.travels) > MOST_PACKED_BYTES:
        size, most = map(units.format_bytes, (len(pinned.travels), MOST_PACKED_BYTES))
        raise RequestError(
            f"the list of {plan.total:,} items is {size}, compressed, and {most} is the most that "
            "travels in ConfigMaps",
            hints=(
                "put a copy of it on a volume, where the pods read it: --items LIST --mount "
                "pvc:NAME:/data --items-on /data/LIST",
                "or several arrays: split -n l/10 LIST",
            ),
        )


class Row(NamedTuple):
    """What an index runs."""

    number: int
    """Of the index."""
    items: int
    """How many."""
    first: str
    """Key of its first item."""
    last: str


def rows(plan: itemplan.ItemPlan) -> Iterator[Row]:
    """Index → items, index by index."""
    for index in range(plan.indexes):
        positions = plan.positions(index)
        first, last = plan.item(positions[0])[0], plan.item(positions[-1])[0]
        yield Row(index, len(positions), first, last)
