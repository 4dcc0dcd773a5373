"""The arguments of the script: the flags of nccl-tests."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from .table import COLLECTIVES, DTYPES, REDOPS

LARGEST_SIZE = 1 << 44
MOST_SIZES = 1000
MOST_CALLS = 1 << 31


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
