"""What a benchmark leaves behind: its report, a table and a plot, with what was run where."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def circumstances() -> dict[str, Any]:
    """Date, command, machine and load, before anything is measured; --out is left out."""
    words = sys.argv[1:]
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": shlex.join(["python", script, *words]),
        "machine": f"{os.cpu_count()} cores for everything, {platform.machine()}",
        "load_average_before": [round(one, 2) for one in os.getloadavg()],
    }


def keep(
    report: object,
    table: str,
    folder: Path,
    name: str,
    plot: Callable[[Path], None] | None = None,
) -> None:
    """Print the table, and write NAME.json, NAME.md and NAME.png into the folder, which is made."""
    print(f"\n{table}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table)
    if plot is not None:
        plot(folder / f"{name}.png")
