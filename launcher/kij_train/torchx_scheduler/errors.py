"""kij-train's errors as those of TorchX."""

from __future__ import annotations

import difflib
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from torchx.specs import InvalidRunConfigException
from torchx.specs.finder import ComponentValidationException

from kij_train.errors import KijError

P = ParamSpec("P")
T = TypeVar("T")


class SchedulerError(ComponentValidationException, SystemExit):
    """What kij-train has to say against a request, with its hints.

    `torchx run` prints a ComponentValidationException and exits. Other commands let every exception
    pass, with a traceback: this one is a SystemExit too, so that Python prints its text alone.
    """

    def __init__(self, error: KijError) -> None:
        text = "\n  ".join([error.message, *error.hints])
        super().__init__(text)
        self.code = text
        self.error = error


def say_without_traceback(hook: Callable[[threading.ExceptHookArgs], Any]) -> Callable[..., None]:
    """A threading.excepthook that prints the text of a SchedulerError once; others go to `hook`.

    `torchx log` reads each replica in a thread, raises what came of it there, and then in the main
    thread.
    """

    def say(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        if not isinstance(error, SchedulerError):
            hook(args)
        elif isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
            error.code = 1

    return say


class UnknownOptionError(InvalidRunConfigException, SystemExit):
    """A run option that there is not. TorchX 0.7 would drop it without a word."""

    def __init__(self, key: str, known: Iterable[str], cfg: Mapping[str, Any]) -> None:
        close = difflib.get_close_matches(key, list(known), n=1)
        text = f"no run option {key!r}." + (f" Did you mean {close[0]!r}?" if close else "")
        super().__init__(f"{text} See: torchx runopts kij_train", key, dict(cfg))
        self.code = str(self)


def refuses_as_torchx(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except KijError as error:
            raise SchedulerError(error) from None

    return wrapped


def refusing(lines: Iterator[str]) -> Iterator[str]:
    """The same lines, with kij-train's errors as TorchX's."""
    try:
        yield from lines
    except KijError as error:
        raise SchedulerError(error) from None
