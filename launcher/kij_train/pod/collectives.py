"""Measure a collective of torch.distributed over message sizes; every rank runs this file.

    torchrun --nproc-per-node 2 allreduce.py -b 1K -e 16M -f 4
    kij-train bench allreduce --nodes 2 -b 1K -e 16M -f 4

Flags, formulas, columns and JSON keys are those of nccl-tests, so that its figures compare and its
parsers work (https://github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md and src/util.cu):

    algbw = bytes / seconds / 1e9           busbw = algbw x factor(collective, ranks)

A time is the host's clock around n calls and one synchronisation, by rank; the mean over ranks
makes the bandwidths. What a rank computes is checked in a pass of its own, with fresh data
(#wrong). torch works on one buffer where the collective has one size (all_reduce, broadcast:
in-place) and on two otherwise (out-of-place); the other columns say N/A.

One file. torch is imported when it runs; without it, the file can be read for its formulas.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, NoReturn

VERSION = 1
ENVIRONMENT = ("NCCL_", "TORCH_NCCL_", "GLOO_", "CUDA_VISIBLE_DEVICES")
"""Beginnings of the variables that a report may show: settings, never credentials."""
JSON_LINE = re.compile(r"#json (\d+)/(\d+) (.*)")
"""A piece of the report among the output, for where no file can be fetched."""
JSON_PIECE_CHARS = 4000
"""Container runtimes cut lines of logs at 16 KiB."""

PERIOD = 251
"""Test data repeats after so many elements: a prime, so that no shift by a block goes unseen."""
LARGEST_SIZE = 1 << 44
MOST_SIZES = 1000
MOST_CALLS = 1 << 31
CHECK_ELEMENTS = 1 << 22
"""How many elements are checked at a time, which bounds the memory that takes."""

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


def parse_size(text: str) -> int:
    """Bytes of "8", "64K", "8M" or "1G", binary as in nccl-tests. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(f"{text} is no size. Write it like 8, 64K, 8M or 1G")
    scale: int = 1024 ** " KMGT".index(match[2].upper() or " ")
    size = float(match[1]) * scale
    if size > LARGEST_SIZE:
        shown = text if len(text) < 20 else f"{text[:16]}…"
        raise ValueError(f"{shown} is too large: the largest is {LARGEST_SIZE >> 40}T")
    return int(size)


def message_sizes(first: int, last: int, step_bytes: int, factor: int) -> list[int]:
    """Sizes in bytes from first to last: by a factor where it is more than 1, else by addition."""
    sizes = [first]
    while (following := sizes[-1] * factor if factor > 1 else sizes[-1] + step_bytes) <= last:
        sizes.append(following)
    return sizes


def elements(collective: str, size: int, element_bytes: int, ranks: int) -> tuple[int, int, int]:
    """Elements in the count column, in a rank's send buffer and in its receive buffer.

    As in nccl-tests, `size` is the larger of the two buffers, and the count that of a rank's part.
    """
    send, receive = COLLECTIVES[collective].parts(ranks)
    part = size // element_bytes // max(send, receive)
    return part, send * part, receive * part


class Parser(argparse.ArgumentParser):
    """Raises ValueError where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.replace("argument ", "", 1))


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The flags of nccl-tests that mean something here. Raises ValueError on wrong ones."""
    parser = Parser(prog="allreduce.py", description="Measure a collective of torch.distributed.")

    def size(text: str) -> int:
        try:
            return parse_size(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit()):
            raise argparse.ArgumentTypeError(f"{text} is no whole number")
        if len(text) > 10 or int(text) >= MOST_CALLS:
            raise argparse.ArgumentTypeError("is a number of more than 2147483647")
        return int(text)

    add = parser.add_argument
    add("--collective", choices=COLLECTIVES, default="all_reduce")
    add("-b", "--minbytes", type=size, help="smallest message [32M]")
    add("-e", "--maxbytes", type=size, help="largest message [32M]")
    add("-i", "--stepbytes", type=size, default=0, help="from size to size, bytes to add")
    add("-f", "--stepfactor", type=whole, default=0, help="or factor; 2 without either")
    add("-n", "--iters", type=whole, default=20, help="timed calls a size [20]")
    add("-w", "--warmup_iters", type=whole, default=1, help="calls before them [1]")
    add("-d", "--datatype", choices=DTYPES, default="float")
    add("-o", "--op", choices=REDOPS, default="sum")
    add("-c", "--check", type=whole, default=1, help="0: do not check the results")
    add("-z", "--blocking", type=whole, default=0, help="1: wait for every call")
    add("-J", "--output_file", metavar="FILE", help="report as JSON; - for #json lines")
    add("--min-bw", type=float, help="fail when the mean busbw is less than 0.9 of this, GB/s")
    add("--backend", choices=("auto", "gloo", "nccl"), default="auto")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    fill_in_sizes(args)
    problem = contradiction(args)
    if problem:
        raise ValueError(problem)
    return args


def fill_in_sizes(args: argparse.Namespace) -> None:
    """Defaults that depend on other flags: 32M, and a factor of 2."""
    default = 32 << 20
    if args.minbytes is None:
        args.minbytes = min(default, args.maxbytes or default)
    if args.maxbytes is None:
        args.maxbytes = max(default, args.minbytes)
    if not args.stepbytes and not args.stepfactor:
        args.stepfactor = 2


def contradiction(args: argparse.Namespace) -> str | None:
    """What is wrong with the arguments taken together."""
    element_bytes = DTYPES[args.datatype][1]
    if args.minbytes > args.maxbytes:
        return f"-b {args.minbytes} is more than -e {args.maxbytes} (bytes)"
    if args.minbytes < element_bytes:
        return f"-b {args.minbytes} is less than one element of {args.datatype}"
    if args.stepbytes and args.stepfactor:
        return "-i and -f conflict: give one of them"
    sizes = (args.maxbytes - args.minbytes) // args.stepbytes + 1 if args.stepbytes else 1
    if sizes > MOST_SIZES:
        return f"-i {args.stepbytes} makes {sizes} sizes, {MOST_SIZES} at most. Give more, or -f 2"
    if args.stepfactor == 1:
        return "-f 1 makes no step. Give 2 or more"
    if args.iters < 1:
        return "-n must be at least 1"
    if args.op == "avg" and "int" in args.datatype:
        return f"-o avg does not go with -d {args.datatype}: means are no whole numbers"
    if args.backend == "nccl" and args.device == "cpu":
        return "--backend nccl needs GPUs: --device cuda"
    return None


# --- test data ------------------------------------------------------------------------------------


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


# --- the run --------------------------------------------------------------------------------------


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


def make_row(
    args: argparse.Namespace, size: int, count: int, seconds: list[float], wrong: int | None
) -> dict[str, Any]:
    """A result with the keys of nccl-tests, and the ranks' times in microseconds."""
    collective = COLLECTIVES[args.collective]
    mean = sum(seconds) / len(seconds)
    algbw = size / mean / 1e9
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    figures = {
        "time": mean * 1e6,
        "alg_bw": algbw,
        "bus_bw": algbw * collective.factor(len(seconds)),
        "nwrong": wrong,
    }
    return {
        "size": size,
        "count": count,
        "type": args.datatype,
        "redop": args.op if collective.reduces else "none",
        "root": str(collective.root),
        "out_of_place": None if collective.in_place else figures,
        "in_place": figures if collective.in_place else None,
        "actual_iterations": args.iters,
        "ranks": {
            "times_us": [round(one * 1e6, 3) for one in seconds],
            "slowest": slowest,
            "spread": (seconds[slowest] - min(seconds)) / mean,
        },
    }


# --- what is known about the ranks ----------------------------------------------------------------


def describe_rank(run: Run) -> dict[str, Any]:
    """This rank in the words of nccl-tests."""
    found: dict[str, Any] = {
        "rank": run.rank,
        "group": 0,
        "pid": os.getpid(),
        "hostname": socket.gethostname(),
        "device": run.device.index if run.gpu else -1,
        "device_hex": "",
        "device_info": f"CPU {platform.machine()}",
    }
    if run.gpu:
        properties = run.torch.cuda.get_device_properties(run.device)
        found["device_info"] = properties.name
        bus = getattr(properties, "pci_bus_id", None)
        if bus is not None:
            domain, slot = properties.pci_domain_id, properties.pci_device_id
            found["device_hex"] = f"{domain:04x}:{bus:02x}:{slot:02x}"
        if run.local_rank == 0:
            found["node"] = describe_gpus()
    return found


def describe_gpus() -> dict[str, Any]:
    """Driver, PCIe and NVLink of this node's GPUs, where nvidia-ml-py is in the image."""
    try:
        import pynvml
    except ImportError:
        return {"nvml": "no nvidia-ml-py in the image"}
    try:
        pynvml.nvmlInit()
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            links = 0
            for link in range(getattr(pynvml, "NVML_NVLINK_MAX_LINKS", 18)):
                try:
                    links += pynvml.nvmlDeviceGetNvLinkState(handle, link)
                except pynvml.NVMLError:
                    break
            gpus.append(
                {
                    "name": str(pynvml.nvmlDeviceGetName(handle)),
                    "pcie_generation": pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
                    "pcie_lanes": pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
                    "nvlinks": links,
                }
            )
        return {"driver": str(pynvml.nvmlSystemGetDriverVersion()), "gpus": gpus}
    except pynvml.NVMLError as error:  # MIG slices and some virtual GPUs answer only in part
        return {"nvml": str(error)}


def versions(run: Run) -> dict[str, str]:
    """Versions that change results."""
    torch = run.torch
    found = {"torch": torch.__version__, "python": platform.python_version()}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if run.backend == "nccl":
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


# --- the report -----------------------------------------------------------------------------------


def header(report: dict[str, Any]) -> list[str]:
    """Every setting, the ranks, and the head of the table, as nccl-tests prints them."""
    config, own = report["config"], report["kij"]
    by_factor = "step_factor" in config
    step = f"{config['step_factor']}(factor)" if by_factor else f"{config['step_bytes']}(bytes)"
    lines = [
        "# " + " ".join(f"{name} {version}" for name, version in own["versions"].items()),
        f"# Collective test starting: {own['collective']}",
        f"# nThread 1 nGpus 1 minBytes {config['minimum_bytes']} maxBytes "
        f"{config['maximum_bytes']} step: {step} warmup iters: {config['warmup_iters']} iters: "
        f"{config['iterations']} agg iters: 1 validation: {config['validation']} graph: 0",
        f"# backend {own['backend']} device {own['device']} ranks {own['ranks']} nodes "
        f"{own['nodes']} blocking {config['blocking_collectives']}",
        f"# compare with: {own['nccl_tests']}",
        *(f"# {setting}" for setting in report["env"]),
        "#",
        "# Using devices",
    ]
    for one in config["devices"]:
        lines.append(
            f"#  Rank {one['rank']:2} Group {one['group']:2} Pid {one['pid']:6} on "
            f"{one['hostname']:>10} device {one['device']:2} [{one['device_hex']}] "
            f"{one['device_info']}"
        )
    for line in topology(config["devices"]):
        lines.append(f"# {line}")
    names = ("size", "count", "type", "redop", "root", *("time", "algbw", "busbw", "#wrong") * 2)
    units = ("(B)", "(elements)", "", "", "", *("(us)", "(GB/s)", "(GB/s)", "") * 2)
    lines += ["#", "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}".format(*[""] * 5)]
    lines[-1] += f"{'out-of-place':>23}{'in-place':>31}"
    widths = "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}" + "  {:>7}  {:>6}  {:>6}  {:>6}" * 2
    return [*lines, widths.format(*names), widths.format(*units)]


def topology(devices: list[dict[str, Any]]) -> list[str]:
    """What NVML said, a line a node."""
    lines = []
    for one in devices:
        node = one.get("node")
        if node and "gpus" in node:
            gpus = ", ".join(
                f"{gpu['name']} (PCIe {gpu['pcie_generation']} x{gpu['pcie_lanes']}, "
                f"{gpu['nvlinks']} NVLinks)"
                for gpu in node["gpus"]
            )
            lines.append(f"{one['hostname']}: driver {node['driver']}, {gpus}")
        elif node:
            lines.append(f"{one['hostname']}: topology unknown: {node['nvml']}")
    return lines


def number(figure: float, width: int) -> str:
    """A figure with as many decimals as fit, two at most."""
    digits = len(str(int(figure)))
    decimals = 2 if digits < width - 2 else 1 if digits < width - 1 else 0
    text = f"{figure:{width}.{decimals}f}"
    return text if len(text) <= width else f"{figure:{width}.1e}"


def row_text(row: dict[str, Any]) -> str:
    """A line of the table, in the widths of nccl-tests."""
    text = (
        f"{row['size']:>12}  {row['count']:>12}  {row['type']:>8}  {row['redop']:>6}  "
        f"{row['root']:>6}"
    )
    for figures in (row["out_of_place"], row["in_place"]):
        if figures is None:
            text += "  {:>7}  {:>6}  {:>6}  {:>6}".format(*["N/A"] * 4)
            continue
        wrong = "N/A" if figures["nwrong"] is None else f"{figures['nwrong']:g}"
        text += (
            f"  {number(figures['time'], 7)}  {number(figures['alg_bw'], 6)}"
            f"  {number(figures['bus_bw'], 6)}  {wrong:>6}"
        )
    return text


def figures_of(row: dict[str, Any]) -> dict[str, Any]:
    """The half of a row that was measured."""
    found: dict[str, Any] = row["in_place"] or row["out_of_place"]
    return found


def conclude(report: dict[str, Any], min_bw: float | None) -> list[str]:
    """Fill in the report's end; the lines that say it."""
    rows = [figures_of(row) for row in report["results"]]
    wrong = sum(row["nwrong"] or 0 for row in rows)
    mean = sum(row["bus_bw"] for row in rows) / len(rows) if rows else 0.0
    okay = "unchecked" if min_bw is None else str(mean >= 0.9 * min_bw).lower()
    report["out_of_bounds"] = {"count": wrong, "okay": str(wrong == 0).lower()}
    report["average_bus_bandwidth"] = {"bandwidth": mean, "okay": okay}
    report["end_time"] = time.strftime("%Y-%m-%d %H:%M:%S")
    verdict = {"unchecked": "", "true": " OK", "false": " FAILED"}[okay]
    lines = [
        f"# {'Out of bounds values':<20} : {wrong} {'FAILED' if wrong else 'OK'}",
        f"# {'Avg bus bandwidth':<20} : {mean:g}{verdict}",
    ]
    if rows and report["kij"]["ranks"] > 1:
        last = report["results"][-1]
        slowest = last["ranks"]["slowest"]
        host = report["config"]["devices"][slowest]["hostname"]
        lines.append(
            f"# {'Slowest rank':<20} : {slowest} on {host}, spread over ranks "
            f"{last['ranks']['spread']:.1%} at {last['size']} B"
        )
    return [*lines, "#", f"# Collective test concluded: {report['kij']['collective']}"]


def new_report(run: Run, devices: list[dict[str, Any]], argv: list[str]) -> dict[str, Any]:
    """The report before any result."""
    args = run.args
    step: dict[str, int] = {"step_bytes": args.stepbytes}
    flags = f"-b {args.minbytes} -e {args.maxbytes} -i {args.stepbytes}"
    if args.stepfactor:
        step = {"step_factor": args.stepfactor}
        flags = f"-b {args.minbytes} -e {args.maxbytes} -f {args.stepfactor}"
    flags += f" -n {args.iters} -w {args.warmup_iters} -d {args.datatype}"
    flags += f" -o {args.op}" * run.collective.reduces + f" -c {args.check} -z {args.blocking}"
    return {
        "version": 2,
        "start_time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "args": ["allreduce.py", *argv],
        "env": sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(ENVIRONMENT)),
        "config": {
            "nthreads": 1,
            "ngpus": 1,
            "minimum_bytes": args.minbytes,
            "maximum_bytes": args.maxbytes,
            **step,
            "warmup_iters": args.warmup_iters,
            "iterations": args.iters,
            "aggregated_iterations": 1,
            "validation": args.check,
            "graph": 0,
            "blocking_collectives": str(bool(args.blocking)).lower(),
            "devices": devices,
        },
        "kij": {
            "version": VERSION,
            "collective": args.collective,
            "backend": run.backend,
            "device": "cuda" if run.gpu else "cpu",
            "ranks": run.ranks,
            "nodes": int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            "versions": versions(run),
            "nccl_tests": f"mpirun -np {run.ranks} {run.collective.program} -g 1 {flags}",
        },
        "results": [],
    }


def write_json(report: dict[str, Any], where: str) -> None:
    """The report to a file, or as lines among the output."""
    text = json.dumps(report, separators=(",", ":"))
    if where != "-":
        Path(where).write_text(text + "\n", encoding="utf-8")
        return
    pieces = [text[at : at + JSON_PIECE_CHARS] for at in range(0, len(text), JSON_PIECE_CHARS)]
    for index, piece in enumerate(pieces, start=1):
        print(f"#json {index}/{len(pieces)} {piece}", flush=True)


def main(argv: list[str]) -> int:
    """Measure every size; rank 0 prints. 1 when results are wrong or too slow, 2 on bad flags."""
    try:
        args = parse_args(argv)
    except ValueError as error:
        print(f"allreduce.py: {error}", file=sys.stderr)
        return 2
    run = Run(args)
    devices: list[Any] = [None] * run.ranks
    run.dist.all_gather_object(devices, describe_rank(run))
    report = new_report(run, devices, argv)

    def show(*lines: str) -> None:
        if run.rank == 0:
            print("\n".join(lines), flush=True)

    show(*header(report))
    done: set[int] = set()
    for size in message_sizes(args.minbytes, args.maxbytes, args.stepbytes, args.stepfactor):
        row = run.row(size)
        if row is None or row["size"] in done:
            continue
        done.add(row["size"])
        report["results"].append(row)
        show(row_text(row))
    show(*conclude(report, args.min_bw))
    if args.output_file and run.rank == 0:
        write_json(report, args.output_file)
    run.dist.barrier()
    run.dist.destroy_process_group()
    failed = report["out_of_bounds"]["count"] or report["average_bus_bandwidth"]["okay"] == "false"
    return int(bool(failed))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code:
        sys.exit(code)
