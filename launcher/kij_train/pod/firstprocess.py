"""What every first process of a node does: signals before its work begins, failures and records.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import os
from typing import Any, Callable, List

from kij_train.pod import contract, environment, signals
from kij_train.pod.contract import Failure
from kij_train.pod.status import say


def first_process(run: Callable[[List[str]], int], argv: List[str]) -> int:
    """`run`, as the first process of a node: signals, failures and their records. The exit code."""
    environment.forget_outside_env()
    signals.take_signals(signals.on_signal)
    try:
        return run(argv)
    except Failure as failure:
        say(f"error: {failure}")
        _record(str(failure), "", failure.exit_code)
        return failure.exit_code
    except Exception as error:
        import traceback

        traceback.print_exc()
        message = "".join(traceback.format_exception_only(type(error), error)).strip()
        _record(message, traceback.format_exc(), contract.EXIT_FAILED)
        return contract.EXIT_FAILED


def end_of_node(exit_code: int) -> int:
    """The exit code, once no other pod needs this one any more."""
    if signals.companions:
        from kij_train.pod.spread.sharing import stay_for_others  # not in pods that get nothing

        stay_for_others(exit_code)
    return exit_code


def _record(message: str, callstack: str, exit_code: int) -> None:
    from kij_train.pod import records  # only a node that fails needs it

    index = os.environ.get(contract.ENV_NODE_RANK, "")
    who: Any = {"index": int(index)} if index.isascii() and index.isdigit() else {}
    records.write_record(contract.error_file(), message, callstack, exit_code=exit_code, **who)
