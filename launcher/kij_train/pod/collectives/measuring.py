"""Measuring: buffers, calls, times, and a check of the results on data of its own."""

from __future__ import annotations

import argparse
import os
import socket
import time
from typing import Any

from .rows import make_row
from .table import COLLECTIVES, DTYPES, REDOPS, elements

PERIOD = 251
"""Test data repeats after so many elements: a prime, so that no shift by a block goes unseen."""
CHECK_ELEMENTS = 1 << 22
"""How many elements are checked at a time, which bounds the memory that takes."""


def value(op: str, rank: int, ranks: int, residue: int) -> int:
    """What a rank puts at the elements whose index is `residue` modulo PERIOD.

    Small whole numbers, so that sums are exact in every type. Of a product, one rank's factor is 2.
    """
    if op == "prod":
        return 2 if (residue + rank) % max(ranks, 2) == 0 else 1
    # A walk over the residues of a prime with a stride of its own for every rank.
    return (31 * (rank + 1) * residue + 17 * rank + residue) % PERIOD % 7


def reduced(op: str, ranks: int, residue: int) -> float:
    """The result of the operation over all ranks at these elements."""
    values = [value(op, rank, ranks, residue) for rank in range(ranks)]
    if op == "prod":
        result = 1
        for factor in values:
            result *= factor
        return result
    if op in ("min", "max"):
        return min(values) if op == "min" else max(values)
    return sum(values) / ranks if op == "avg" else sum(values)


class Run:
    """One measurement: the process group, the buffers, and what is known about the ranks."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        import torch.distributed as dist

        self.torch, self.dist, self.args = torch, dist, args
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        use_gpu = args.device == "cuda" or (args.device == "auto" and args.backend != "gloo")
        use_gpu = use_gpu and torch.cuda.is_available()
        if not use_gpu and (args.device == "cuda" or args.backend == "nccl"):
            raise SystemExit(f"{socket.gethostname()}: no GPU is visible to torch")
        self.gpu = use_gpu
        self.backend = args.backend
        if args.backend == "auto":
            self.backend = "nccl" if use_gpu else "gloo"
        self.device = torch.device("cpu")
        if use_gpu:
            if self.local_rank >= torch.cuda.device_count() and self.backend == "nccl":
                raise SystemExit(
                    f"{socket.gethostname()}: local rank {self.local_rank} has no GPU of its own "
                    f"({torch.cuda.device_count()} visible), which NCCL needs"
                )
            index = self.local_rank % torch.cuda.device_count()
            self.device = torch.device("cuda", index)
            torch.cuda.set_device(self.device)
        dist.init_process_group(self.backend)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.dtype = getattr(torch, DTYPES[args.datatype][0])
        self.element_bytes = DTYPES[args.datatype][1]
        self.collective = COLLECTIVES[args.collective]
        whole = args.maxbytes // self.element_bytes
        # The largest first: that it does not fit is to be known before anything is measured.
        self.buffer = self.empty(whole)
        self.second = None if self.collective.in_place else self.empty(whole)

    def call(self, send: Any, receive: Any) -> None:
        """One collective; returns when the host may go on, which with NCCL is at once."""
        op = getattr(self.dist.ReduceOp, REDOPS[self.args.op])
        self.collective.call(self.dist, send, receive, op)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.gpu:
            self.torch.cuda.synchronize(self.device)

    def buffers(self, send: int, receive: int) -> tuple[Any, Any]:
        """The buffers, of this many elements.

        Each size has its own, as programs have it: over gloo, the beginning of a larger one is up
        to a tenth slower.
        """
        if self.buffer.numel() != send:
            self.buffer = None
            self.buffer = self.empty(send)
        if self.second is not None and self.second.numel() != receive:
            self.second = None
            self.second = self.empty(receive)
        return self.buffer, self.buffer if self.second is None else self.second

    def empty(self, count: int) -> Any:
        """A tensor of the type and on the device that is measured."""
        return self.torch.empty(count, dtype=self.dtype, device=self.device)

    def measure(self, send: int, receive: int) -> list[float]:
        """Seconds a call, by rank."""
        sending, receiving = self.buffers(send, receive)
        self.fill(sending, 0)
        for _ in range(self.args.warmup_iters):
            self.call(sending, receiving)
        self.synchronize()
        self.dist.barrier()
        self.synchronize()
        started = time.perf_counter()
        for _ in range(self.args.iters):
            self.call(sending, receiving)
            if self.args.blocking:
                self.synchronize()
        self.synchronize()
        mine = (time.perf_counter() - started) / self.args.iters
        everyones = self.torch.empty(self.ranks, dtype=self.torch.float64, device=self.device)
        self.dist.all_gather_into_tensor(
            everyones, self.torch.tensor([mine], dtype=self.torch.float64, device=self.device)
        )
        return [float(seconds) for seconds in everyones.tolist()]

    def residues(self, values: list[float]) -> Any:
        """A table over PERIOD residues on the device; through int64, where whole numbers wrap."""
        kind = self.torch.float64 if self.args.op == "avg" else self.torch.int64
        return self.torch.tensor(values, dtype=kind, device=self.device)

    def fill(self, tensor: Any, first: int) -> None:
        """Put this rank's test data into a tensor whose element 0 has the index `first`."""
        table = [value(self.args.op, self.rank, self.ranks, r) for r in range(PERIOD)]
        self.spread(tensor, first, self.residues([float(v) for v in table]))

    def spread(self, tensor: Any, first: int, table: Any) -> None:
        """Repeat a table over a tensor."""
        for start in range(0, tensor.numel(), CHECK_ELEMENTS):
            part = tensor[start : start + CHECK_ELEMENTS]
            index = self.torch.arange(part.numel(), device=self.device) + (first + start)
            part.copy_(table[index % PERIOD].to(self.dtype))

    def count_wrong(self, count: int, send: int, receive: int) -> int:
        """One call on fresh data; elements that differ from what they must be, over all ranks."""
        sending, receiving = self.buffers(send, receive)
        if self.second is not None:
            receiving.zero_()
        self.fill(sending, 0)
        self.call(sending, receiving)
        self.synchronize()
        op, ranks, wrong = self.args.op, self.ranks, 0
        parts = self.collective.result(self.rank, ranks, count)
        for received, (source, first) in zip(receiving.chunk(len(parts)), parts):
            expected = [
                reduced(op, ranks, r) if source is None else value(op, source, ranks, r)
                for r in range(PERIOD)
            ]
            wrong += self.differences(received, first, self.residues(expected))
        total = self.torch.tensor([wrong], dtype=self.torch.int64, device=self.device)
        self.dist.all_reduce(total)
        return int(total.item())

    def differences(self, tensor: Any, first: int, table: Any) -> int:
        """Elements that are not as the table has them; as exactly as the type allows."""
        wrong = 0
        expected = self.torch.empty_like(tensor[:CHECK_ELEMENTS])
        exact = not self.dtype.is_floating_point or self.args.op in ("prod", "min", "max")
        slack = 0.0
        if not exact:
            epsilon = self.torch.finfo(self.dtype).eps
            # Sums up to 2 / epsilon are whole numbers that the type holds.
            if self.args.op == "avg" or 6 * self.ranks > 2 / epsilon:
                slack = 4 * epsilon * self.ranks**0.5
        for start in range(0, tensor.numel(), CHECK_ELEMENTS):
            part = tensor[start : start + CHECK_ELEMENTS]
            wanted = expected[: part.numel()]
            self.spread(wanted, first + start, table)
            if slack:
                off = (part.double() - wanted.double()).abs() > slack * wanted.double().abs()
                wrong += int(off.sum().item()) + int(part.isnan().sum().item())
            else:
                wrong += int((part != wanted).sum().item())
        return wrong

    def row(self, size: int) -> dict[str, Any] | None:
        """Measure and check one size; None where it is less than an element a rank."""
        count, send, receive = elements(self.args.collective, size, self.element_bytes, self.ranks)
        if count == 0:
            return None
        seconds = self.measure(send, receive)
        wrong = self.count_wrong(count, send, receive) if self.args.check else None
        return make_row(self.args, max(send, receive) * self.element_bytes, count, seconds, wrong)
