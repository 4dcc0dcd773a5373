"""An item as a call: a function of the code, `MODULE:NAME`, gets the item as its one argument.

What it returns is the item's result: the fields of a dict, or one value; nothing for None.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import importlib
import json
import os
import sys
from importlib.machinery import PathFinder
from typing import Any, Callable, Dict, Iterator, NoReturn

from kij_train.pod import itemplan

ENV_IMPORTING = "KIJ_IMPORTING"
"""Set while an item's process imports the code, for `kij_train.map` and `launch` to see."""


class NotThereError(Exception):
    """A module that lacks the function which items call."""


def call(name: str) -> None:
    """Call the function with the item of this process, and write down what it returns."""
    sys.path.insert(0, os.getcwd())
    with without_our_modules():
        function = find(name)
    result = function(json.loads(os.environ[itemplan.ENV_ITEM]))
    if result is None:
        return
    line = json.dumps(result)
    with open(os.environ[itemplan.ENV_RESULT_FILE], "a", encoding="utf-8") as file:
        file.write(line + "\n")


def find(name: str) -> Callable[[Any], Any]:
    """Import a function by its name. Raises NotThereError, and what its module raises."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise NotThereError(f"{module} has no {path}")
        found = getattr(found, part)
    if not callable(found):
        raise NotThereError(f"{path} of {module} is no function: {found!r:.80}")
    function: Callable[[Any], Any] = found
    return function


@contextlib.contextmanager
def without_our_modules() -> Iterator[None]:
    """Have imports of kij_train find what is installed, and not these files of its.

    A script that calls `kij_train.map` imports it, and images need not have it: there it is a
    module whose names can be imported, and not be called. Where it has it, no job starts from
    within the import: that one's items would import the module too, and so on without an end.
    """
    os.environ[ENV_IMPORTING] = "1"
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    try:
        if PathFinder.find_spec("kij_train") is None:
            sys.modules["kij_train"] = _absent()
        yield
    finally:
        os.environ.pop(ENV_IMPORTING, None)
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(ours)


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "kij_train"


def _absent() -> Any:
    module = type(sys)("kij_train")

    def refuse(*args: Any, **named: Any) -> NoReturn:
        del args, named
        raise ImportError(
            "kij_train is not installed here: what starts jobs goes under "
            "if __name__ == '__main__':"
        )

    def getattr_of_module(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return refuse

    names: Dict[str, Any] = vars(module)
    names["__getattr__"] = getattr_of_module
    return module
