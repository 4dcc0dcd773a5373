"""The command line: args → spec → one call → print. Commands are imported when they are run."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command and give its exit code; never raises for a user's mistake."""
    from kij_train.cli.app import run

    return run(sys.argv[1:] if argv is None else argv)
