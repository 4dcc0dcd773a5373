"""The report: rows with the keys of nccl-tests, its table as text, and its way through a log."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from .measuring import Run
from .ranks import versions
from .rows import figures_of

VERSION = 1
ENVIRONMENT = ("NCCL_", "TORCH_NCCL_", "GLOO_", "CUDA_VISIBLE_DEVICES")
"""Beginnings of the variables that a report may show: settings, never credentials."""
JSON_PIECE_CHARS = 4000
"""Container runtimes cut lines of logs at 16 KiB."""


class Piece(NamedTuple):
    """A piece of the report as a line among the output, for where no file can be fetched."""

    number: int
    of: int
    text: str

    def line(self) -> str:
        return f"#json {self.number}/{self.of} {self.text}"

    @staticmethod
    def read(line: str) -> Piece | None:
        """From a line of the output; None for another one."""
        found = re.fullmatch(r"#json (\d+)/(\d+) (.*)", line)
        return Piece(int(found[1]), int(found[2]), found[3]) if found else None


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
    for number, piece in enumerate(pieces, start=1):
        print(Piece(number, len(pieces), piece).line(), flush=True)
