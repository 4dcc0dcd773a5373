"""Measure every size, and report; every rank runs this."""

from __future__ import annotations

import sys
from typing import Any

from .arguments import message_sizes, parse_args
from .measuring import Run
from .ranks import describe_rank
from .report import conclude, header, new_report, row_text, write_json


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
