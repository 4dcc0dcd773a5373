"""A rank of one of two jobs that run at once and measure all_reduce in turn (A B B A …).

    torchrun … turns.py FOLDER SIDE ROUNDS

The jobs pass a number on in FOLDER: whoever's turn it is measures every size once, while the ranks
of the other one sleep. Turns are a second long, so that both see the same machine. Rank 0 leaves
what it measured in FOLDER/side-SIDE: a line of JSON a turn, busbw in GB/s by size in bytes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __name__ != "__main__":
    from kij_train.pod.collectives import arguments, measuring, table
else:
    # It lies beside this file, in a job without kij-train.
    from collectives import arguments, measuring, table

SIZES = ["-b", "1M", "-e", "64M", "-f", "4"]
ITERATIONS = ["-n", "5", "-w", "2"]
ORDER = (0, 1, 1, 0)
MEASUREMENTS = {2**20: 15, 2**22: 9, 2**24: 3, 2**26: 1}
"""Measurements of a size in a turn: the small ones vary most, and take little."""
POLL_S = 0.005


def turns_of(side: int, rounds: int) -> list[int]:
    """Numbers of the turns of a side."""
    return [turn for turn in range(2 * rounds) if ORDER[turn % 4] == side]


def main() -> None:
    """Measure in every turn of ours."""
    folder, side, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    args = arguments.parse_args([*SIZES, *ITERATIONS, "--device", "cpu"])
    run = measuring.Run(args)
    sizes = arguments.message_sizes(args.minbytes, args.maxbytes, 0, args.stepfactor)
    factor = table.COLLECTIVES["all_reduce"].factor(run.ranks)
    run.dist.barrier()
    if run.rank == 0:
        (folder / f"ready-{side}").touch()
    for turn in turns_of(side, rounds):
        if run.rank == 0:
            await_turn(folder, turn)
        run.dist.barrier()
        found = {}
        for size in sizes:
            count = size // run.element_bytes
            seconds = [max(run.measure(count, count)) for _ in range(MEASUREMENTS[size])]
            found[size] = size / statistics.median(seconds) / 1e9 * factor
        if run.rank == 0:
            with (folder / f"side-{side}").open("a") as file:
                print(json.dumps(found), file=file)
            pass_on(folder, turn + 1)
    run.dist.destroy_process_group()


def await_turn(folder: Path, turn: int) -> None:
    """Until a turn has begun."""
    while not (folder / f"turn-{turn}").exists():
        time.sleep(POLL_S)


def pass_on(folder: Path, turn: int) -> None:
    """Begin a turn."""
    (folder / f"turn-{turn}").touch()


if __name__ == "__main__":
    main()
