"""The collectives, in a table, and the types and operations that nccl-tests has names for."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

DTYPES = {
    "int8": ("int8", 1),
    "uint8": ("uint8", 1),
    "int32": ("int32", 4),
    "int64": ("int64", 8),
    "half": ("float16", 2),
    "bfloat16": ("bfloat16", 2),
    "float": ("float32", 4),
    "double": ("float64", 8),
}
"""Names of nccl-tests: torch's name, and bytes an element."""
REDOPS = {"sum": "SUM", "prod": "PRODUCT", "min": "MIN", "max": "MAX", "avg": "AVG"}


class Collective(NamedTuple):
    """Everything in which collectives differ."""

    program: str
    """The program of nccl-tests to compare with."""
    reduces: bool
    in_place: bool
    """One buffer; else one to send and one to receive."""
    factor: Callable[[int], float]
    """busbw / algbw by the number of ranks: what of the message crosses the slowest link
    (nccl-tests, doc/PERFORMANCE.md)."""
    parts: Callable[[int], tuple[int, int]]
    """By the number of ranks, how many parts the send and the receive buffer have. A message is the
    larger of the two; where both are one part, that is the whole message."""
    call: Callable[[Any, Any, Any, Any], object]
    """With torch.distributed, the two buffers and the operation."""
    result: Callable[[int, int, int], list[tuple[int | None, int]]]
    """By rank, ranks and the elements of a part: of each part received, the rank whose data it is
    (None: all ranks' reduced), and the index there of its first element."""
    root: int = -1
    """Of a broadcast; -1 for none."""


def _ring(ranks: int) -> float:
    return (ranks - 1) / ranks


COLLECTIVES = {
    "all_reduce": Collective(
        program="all_reduce_perf",
        reduces=True,
        in_place=True,
        factor=lambda ranks: 2 * _ring(ranks),
        parts=lambda _: (1, 1),
        call=lambda dist, send, _, op: dist.all_reduce(send, op=op),
        result=lambda *_: [(None, 0)],
    ),
    "all_gather": Collective(
        program="all_gather_perf",
        reduces=False,
        in_place=False,
        factor=_ring,
        parts=lambda ranks: (1, ranks),
        call=lambda dist, send, receive, _: dist.all_gather_into_tensor(receive, send),
        result=lambda _, ranks, __: [(source, 0) for source in range(ranks)],
    ),
    "reduce_scatter": Collective(
        program="reduce_scatter_perf",
        reduces=True,
        in_place=False,
        factor=_ring,
        parts=lambda ranks: (ranks, 1),
        call=lambda dist, send, receive, op: dist.reduce_scatter_tensor(receive, send, op=op),
        result=lambda rank, _, part: [(None, rank * part)],
    ),
    "broadcast": Collective(
        program="broadcast_perf",
        reduces=False,
        in_place=True,
        factor=lambda _: 1.0,
        parts=lambda _: (1, 1),
        call=lambda dist, send, *_: dist.broadcast(send, src=0),
        result=lambda *_: [(0, 0)],
        root=0,
    ),
    "alltoall": Collective(
        program="alltoall_perf",
        reduces=False,
        in_place=False,
        factor=_ring,
        parts=lambda ranks: (ranks, ranks),
        call=lambda dist, send, receive, _: dist.all_to_all_single(receive, send),
        result=lambda rank, ranks, part: [(source, rank * part) for source in range(ranks)],
    ),
}
"""By the names that torch gives them. `kij-train bench` leaves out their underscores."""


def elements(collective: str, size: int, element_bytes: int, ranks: int) -> tuple[int, int, int]:
    """Elements in the count column, in a rank's send buffer and in its receive buffer.

    As in nccl-tests, `size` is the larger of the two buffers, and the count that of a rank's part.
    """
    send, receive = COLLECTIVES[collective].parts(ranks)
    part = size // element_bytes // max(send, receive)
    return part, send * part, receive * part
