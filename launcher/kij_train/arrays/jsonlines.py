"""Lines of JSON, read as strictly as JSON is, and the key of each item.

Python's reader takes NaN, and drops a value whose name comes twice; a list that anybody else is to
read as well must not have them. Messages name the line, and the column where there is one.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from kij_train import names
from kij_train.errors import RequestError
from kij_train.pod import itemlist
from kij_train.pod.itemlist import KEY_FIELDS, MOST_KEY_BYTES

_STRING = re.compile(r'"(\\.|[^"\\])*"')


class _NoNumberError(ValueError):
    """NaN and the like, which Python reads and JSON has not."""


def _refuse_constant(text: str) -> NoReturn:
    raise _NoNumberError(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond what a float can be")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `object_pairs_hook`: of a name that is there twice, Python would drop
    the first value. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{json.dumps(twice)} is there twice")
    return found


_decode = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=once
).decode


def key_of_line(row: str, place: str) -> str:
    """The key of a line of JSON, which is checked. Raises RequestError."""
    try:
        value = _decode(row)
    except _NoNumberError as error:
        word = str(error)
        column = _STRING.sub(lambda found: " " * len(found[0]), row).find(word) + 1
        raise RequestError(f"{place}:{column}: no JSON: it has no {word}") from None
    except json.JSONDecodeError as error:
        raise RequestError(
            f"{place}:{error.colno}: no JSON: {error.msg}",
            hints=("each line is one value: jq -c . FILE writes them so",),
        ) from None
    except RecursionError:
        raise RequestError(f"{place}: is nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"{place}: {error}") from None
    if "\\" in row:
        check_text(value, place)
    return key_of(value, place)


def key_of(value: Any, place: str) -> str:
    """The key of an item. Raises RequestError."""
    if isinstance(value, dict):
        for field in KEY_FIELDS:
            if field in value:
                key = value[field]
                if not isinstance(key, str | int) or isinstance(key, bool) or key == "":
                    raise RequestError(f'{place}: its "{field}" must be a text or a whole number')
                if not itemlist.fits(str(key)):
                    raise RequestError(
                        f'{place}: its "{field}" is longer than {MOST_KEY_BYTES:,} bytes'
                    )
                break
    return itemlist.key_of(value)


def check_text(value: Any, place: str) -> None:
    """Raise RequestError for a text that nothing can carry."""
    try:
        names.check_texts(value)
    except ValueError as error:
        raise RequestError(f"{place}: {error}") from None
