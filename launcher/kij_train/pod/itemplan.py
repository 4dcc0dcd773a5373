"""The plan of an array: its items in their order, and which of them each index runs.

The launcher writes the plan, the pods and local runners read it: this file is all that both know
of its format. A plan is text, the same bytes for the same items: a line of JSON with its numbers,
then a line for each item, a string where the item is its own key, else `[key, value]`. The items of
a range are not listed. A plan travels compressed, cut into chunks, beside the code.

A list that lies on a volume of the pods does not travel: of its plan, only the first line does,
with the path and the SHA-256 of the list.

A rerun travels with the same plan and a *selection*: which positions each of its indexes runs.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import hashlib
import io
import json
import lzma
import os
import re
from array import array
from itertools import accumulate
from typing import (
    TYPE_CHECKING,
    Any,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from kij_train.pod import itemlist
from kij_train.pod.contract import EXIT_CODE, EXIT_CONTRACT, Failure
from kij_train.pod.itemlist import Listed

if TYPE_CHECKING:
    from typing import Protocol, Union

    class Listing(Protocol):
        """Items of which it is known how many they are."""

        def __len__(self) -> int: ...
        def __iter__(self) -> "Iterator[Union[str, Tuple[str, Any]]]": ...


FORMAT = 1
ITEMS_PREFIX = "items.xz."
SELECTION_PREFIX = "selection.xz."
STUDY_PREFIX = "study.xz."
"""Of the chunks' names: `items.xz.000`, `items.xz.001`, ..."""
EXIT_ITEMS = 120
"""Of a runner: items of its index have failed for good, so that a new pod would not help."""
MOST_ITEM_BYTES = 100_000
"""Of an item as JSON, and of a key: Linux takes no more than 128 KiB in a variable or argument."""

TOGETHER = 4096
"""Lines of a plan that are read at once: in a third of the time, and in little memory."""

ENV_ARRAY = "KIJ_ARRAY"
"""Of a runner: ArraySettings as JSON."""
ENV_JOB_UID = "KIJ_JOB_UID"
"""Of a runner in a pod: its Job's, which is in the name of the folder of its results."""
ENV_INDEX = "KIJ_INDEX"
"""For the script: its index, from 0 on; in reruns that of the first run."""
ENV_COUNT = "KIJ_COUNT"
"""For the script: how many indexes the array has."""
ENV_KEY = "KIJ_KEY"
"""For the script: the key of its item, which stays the same in every run."""
ENV_ITEM = "KIJ_ITEM"
"""For the script: its item, as JSON."""
ENV_SEED = "KIJ_SEED"
"""For the script: a number made from --seed and the key, the same whenever the item runs."""
ENV_ATTEMPT = "KIJ_ATTEMPT"
"""For the script: which Job of the array this is: 0 the first, 1 the first rerun."""
ENV_RESULT_FILE = "KIJ_RESULT_FILE"
"""For the script: the file that it appends its results to, a line of JSON each."""
ENV_ITEMS_FILE = "KIJ_ITEMS_FILE"
"""For the script, with --slice: the items of its index, a line of JSON each."""

_dumps = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
"""ASCII alone, so that a lone surrogate needs no rule of its own."""


class ArraySettings(NamedTuple):
    """What all runners of one attempt of an array are told, in KIJ_ARRAY."""

    name: str
    plan_sha256: str
    """Of the plan's text, not compressed."""
    attempt: int = 0
    items_file: str = ""
    """A file with the plan, compressed or not; empty: it is beside the code."""
    slice: bool = False
    """One process an index, instead of one an item."""
    retries: int = 0
    """How often a runner tries items that failed again."""
    item_timeout_s: float = 0
    """0: none."""
    grace_s: float = 30
    """Between SIGTERM and SIGKILL of an item."""
    preload: Tuple[str, ...] = ()
    """Modules that the process imports which items are forked from."""
    nproc_per_node: int = 1
    """Ranks of an item, on each of its nodes; with more than one it runs under torchrun."""
    nodes: int = 1
    """Pods of an item, which are then a Job of their own: rank 0's node has the records."""
    results_dir: str = ""
    """Where the parts of this attempt go, and of no other one; empty: through the log."""
    aggregate: bool = False
    """Whether the pod that ends last sends the numbers of all parts through its log."""
    earlier: Tuple[Tuple[int, str], ...] = ()
    """For that: earlier attempts, and the folders of their parts."""
    jitter_s: float = 0
    """Runners wait up to so long before their first item, each another time."""
    selection: bool = False
    """Whether this attempt runs a selection of the plan."""
    selection_file: str = ""
    """A file with it, compressed or not; empty: it is beside the code."""
    run_dir: str = ""
    """Each index has a folder of its own in it, named by its number."""
    seed: int = 0
    style: str = ""
    """How the fields of an item become arguments, one of trials.STYLES; empty: they do not."""
    metrics: Tuple[Tuple[str, str], ...] = ()
    """Names, and regular expressions that find them in the output of an item."""
    study: bool = False
    """Whether trials get the study that has chosen them; see itemstudy.py."""
    study_file: str = ""
    """A file with it, compressed or not; empty: it is beside the code."""

    def to_json(self) -> str:
        """For the environment of a runner."""
        return json.dumps(self._asdict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "ArraySettings":
        """Raises Failure where it is not what to_json gives."""
        try:
            values = json.loads(text)
            values["preload"] = tuple(values.get("preload", ()))
            values["earlier"] = tuple(map(tuple, values.get("earlier", ())))
            values["metrics"] = tuple(map(tuple, values.get("metrics", ())))
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise Failure(EXIT_CONTRACT, f"{ENV_ARRAY} cannot be read: {error}") from error


# --- the plan -------------------------------------------------------------------------------------


class ItemPlan:
    """The items of an array. They stay text until they are asked for: there may be a million."""

    def __init__(self, text: bytes) -> None:
        """`text` is what encode gives. Raises ValueError where it is not."""
        first, _, _ = text.partition(b"\n")
        header = json.loads(first)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        self.total = int(header["total"])
        self.indexes = int(header["indexes"])
        self.chunk: Optional[int] = header["chunk"]
        """Items of an index; None: all indexes get as many as the others, or one more."""
        self.seed = int(header["seed"])
        self.listed = Listed(*header["list"]) if "list" in header else None
        """Where pods read the items; the launcher has them in the text as well."""
        self._range: Optional[range] = range(*header["range"]) if "range" in header else None
        self._text = text
        self._starts = array("Q")
        if self._range is None:
            self._starts.extend(accumulate(len(line) for line in io.BytesIO(text)))
        listed = len(self._starts) - 1 if self._range is None else len(self._range)
        self.has_items = listed == self.total
        """Not where they are on a volume alone."""
        if not self.has_items and (listed or self.listed is None):
            raise ValueError(f"it lists {listed} items and says {self.total}")

    def item(self, position: int) -> Tuple[str, Any]:
        """Key and value of one item. Raises IndexError beyond the last."""
        if not 0 <= position < self.total:
            raise IndexError(f"no item {position} of {self.total}")
        if self._range is not None:
            return str(self._range[position]), self._range[position]
        start, end = self._starts[position], self._starts[position + 1]
        found = json.loads(self._text[start:end].decode("ascii"))
        return (found, found) if isinstance(found, str) else (found[0], found[1])

    def items(self, positions: Iterable[int]) -> List[Tuple[str, Any]]:
        """Keys and values, in that order. Raises Failure for a list that has changed."""
        if self.listed is not None and not self.has_items:
            return itemlist.read(self.listed, list(positions))
        return [self.item(position) for position in positions]

    def keys(self, positions: Optional[range] = None) -> Iterator[str]:
        """In order: all of them, or those of neighbours, as `positions` gives them."""
        chosen = range(self.total) if positions is None else positions
        if self._range is not None:
            yield from map(str, self._range[chosen.start : chosen.stop])
            return
        for start in range(chosen.start, chosen.stop, TOGETHER):
            end = min(start + TOGETHER, chosen.stop)
            text = self._text[self._starts[start] : self._starts[end]]
            # No value of JSON has an end of line in it, so the lines are a list.
            for one in json.loads(b"[" + text.rstrip(b"\n").replace(b"\n", b",") + b"]"):
                yield one if isinstance(one, str) else one[0]

    def positions(self, index: int) -> range:
        """What an index of the first attempt runs."""
        return positions_of(self.total, self.chunk, self.indexes, index)


def encode(
    items: "Listing",
    *,
    indexes: int,
    chunk: Optional[int],
    seed: int,
    listed: Optional[Listed] = None,
) -> bytes:
    """The text of a plan; an item that is its own key is a string. Raises ValueError for NaN.

    `listed` is where the pods read the items.
    """
    header = _header(len(items), indexes, chunk, seed)
    if listed is not None:
        header["list"] = listed
    text = io.BytesIO()  # which takes less memory than a list of a million lines
    text.write((_dumps(header) + "\n").encode("ascii"))
    for item in items:
        text.write(_dumps(item).encode("ascii") + b"\n")
    return text.getvalue()


def encode_range(start: int, end: int, *, indexes: int, chunk: Optional[int], seed: int) -> bytes:
    """The text of a plan of the whole numbers from `start` to before `end`."""
    header = dict(_header(end - start, indexes, chunk, seed), range=[start, end])
    return (_dumps(header) + "\n").encode("ascii")


def _header(total: int, indexes: int, chunk: Optional[int], seed: int) -> Any:
    return {"format": FORMAT, "total": total, "indexes": indexes, "chunk": chunk, "seed": seed}


def has_more(text: bytes, before: bytes) -> bool:
    """Whether a plan begins with all items of another one."""
    _, _, items = text.partition(b"\n")
    _, _, first = before.partition(b"\n")
    return bool(first) and items.startswith(first)


def decode(text: bytes) -> ItemPlan:
    """What encode has made. Raises ValueError where it cannot be read."""
    try:
        return ItemPlan(text)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no sound first line: {error!r}") from error


def travelling(text: bytes) -> bytes:
    """What of a plan travels to the pods: its first line alone, where that pins a list."""
    first = text[: text.find(b"\n") + 1]
    return first if b'"list":' in first else text


def sha256(text: bytes) -> str:
    """What a plan is known by."""
    return hashlib.sha256(travelling(text)).hexdigest()


def compress(text: bytes) -> bytes:
    """As plans and selections travel. The launcher cuts it into chunks."""
    return lzma.compress(text, preset=1)


def read(place: str, wanted_sha256: str) -> ItemPlan:
    """The plan in a folder of chunks, or in one file. Raises Failure where it is another one."""
    text = unpacked(place, ITEMS_PREFIX)
    try:
        if sha256(text) == wanted_sha256:
            return decode(text)
    except ValueError as error:
        raise Failure(EXIT_CODE, f"the list of items in {place}: {error}") from error
    raise Failure(
        EXIT_CODE,
        f"the list of items in {place} is not what was launched: its SHA-256 is not "
        f"{wanted_sha256}",
    )


def unpacked(place: str, prefix: str) -> bytes:
    """The content of a file, or of a folder's chunks of that prefix. Raises Failure."""
    try:
        paths = [place]
        if os.path.isdir(place):
            names = sorted(name for name in os.listdir(place) if name.startswith(prefix))
            paths = [os.path.join(place, name) for name in names]
            if not paths:
                raise Failure(EXIT_CODE, f"{place} has no {prefix}*")
        data = b"".join(map(_content, paths))
        return lzma.decompress(data) if data[:6] == b"\xfd7zXZ\0" else data
    except (OSError, lzma.LZMAError) as error:
        raise Failure(EXIT_CODE, f"cannot read the list of items in {place}: {error}") from error


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def positions_of(total: int, chunk: Optional[int], indexes: int, index: int) -> range:
    """Which items an index runs; without a chunk they are split evenly."""
    if chunk is None:
        return range(index * total // indexes, (index + 1) * total // indexes)
    return range(min(index * chunk, total), min((index + 1) * chunk, total))


def compress_numbers(numbers: Iterable[int]) -> str:
    """Ascending numbers as "3,7-9"."""
    runs: List[List[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def seed_of(seed: int, key: str) -> int:
    """32 bits for an item: a list that is made longer seeds none of its items anew."""
    text = f"{seed}:{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")


# --- a rerun --------------------------------------------------------------------------------------


class Selection(NamedTuple):
    """What a rerun runs: its own index j is the j-th entry."""

    attempt: int
    indexes: List[Tuple[int, List[int]]]
    """The index of the first attempt, and positions in the plan."""


def encode_selection(attempt: int, indexes: Sequence[Tuple[int, Sequence[int]]]) -> bytes:
    """The text of a selection."""
    chosen = [[index, list(positions)] for index, positions in indexes]
    return (_dumps({"attempt": attempt, "indexes": chosen}) + "\n").encode("ascii")


def decode_selection(text: bytes) -> Selection:
    """Raises ValueError where it is not what encode_selection gives."""
    try:
        found = json.loads(text)
        chosen = [(int(index), [int(at) for at in where]) for index, where in found["indexes"]]
        return Selection(int(found["attempt"]), chosen)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is no selection: {error!r}") from error


def read_selection(place: str) -> Selection:
    """The selection in a folder of chunks, or in one file. Raises Failure."""
    try:
        return decode_selection(unpacked(place, SELECTION_PREFIX))
    except ValueError as error:
        raise Failure(EXIT_CODE, f"the selection in {place}: {error}") from error


# --- an item's place in a command -----------------------------------------------------------------


class Item(NamedTuple):
    """One item, as it is run."""

    key: str
    value: Any
    index: int  # type: ignore[assignment] # nobody calls tuple.index
    """Of the first attempt."""
    seed: int


PLACEHOLDER = re.compile(r"(\{+)([^\W\d][\w.-]*)(\}+)")
OUR_NAMES = ("item", "key", "index", "seed")


class UnknownNameError(ValueError):
    """A placeholder that an item has nothing for."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, list(known)
        names = ", ".join(f"{{{each}}}" for each in known)
        super().__init__(f"{{{name}}} is none of {names}")


def fill(argument: str, item: Item) -> str:
    """An argument of the command with the item's own values in it. Raises UnknownNameError.

    `{item}`, `{key}`, `{index}` and `{seed}` are ours, any other `{name}` is a field of an item
    that is an object. `{{name}}` stands for `{name}` itself. All other braces stay as they are, so
    that JSON in an argument needs no escapes.
    """

    def filled(match: "re.Match[str]") -> str:
        opened, name, closed = match.groups()
        pairs = min(len(opened), len(closed))
        kept = pairs // 2
        before, behind = len(opened) - pairs + kept, len(closed) - pairs + kept
        value = name if pairs % 2 == 0 else _value(name, item)
        return "{" * before + value + "}" * behind

    return PLACEHOLDER.sub(filled, argument)


def placeholders(argument: str) -> List[str]:
    """The names that fill would look up."""
    found = PLACEHOLDER.findall(argument)
    return [name for opened, name, closed in found if min(len(opened), len(closed)) % 2]


def _value(name: str, item: Item) -> str:
    if name in OUR_NAMES:
        value = {"item": item.value, "key": item.key, "index": item.index, "seed": item.seed}[name]
    elif isinstance(item.value, dict) and name in item.value:
        value = item.value[name]
    else:
        fields = list(item.value) if isinstance(item.value, dict) else []
        raise UnknownNameError(name, [*OUR_NAMES, *(each for each in fields if each)])
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
