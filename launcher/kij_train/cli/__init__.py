"""The command line: args → spec → one call → print. Commands are imported when they are run."""

from __future__ import annotations

import sys

try:
    import signal
    from collections.abc import Iterator
    from contextlib import contextmanager
except KeyboardInterrupt:
    sys.exit(130)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """While modules are imported, Ctrl-C ends the process at once: there is nothing to undo.

    As an exception it could come up anywhere in other people's modules, in any guise.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main(argv: list[str] | None = None) -> int:
    """Run one command and give its exit code; never raises for a user's mistake."""
    argv = sys.argv[1:] if argv is None else argv
    with ended_by_ctrl_c():
        from kij_train.cli.app import load, run

        load(argv)
    return run(argv)
