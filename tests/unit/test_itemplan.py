"""The plan of an array's items: one text for launcher and pods."""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import items, keys
from kij_train.errors import RequestError
from kij_train.pod import itemlist, itemplan
from kij_train.pod.contract import EXIT_CODE, EXIT_CONTRACT, Failure
from kij_train.pod.itemplan import ArraySettings, Item, UnknownNameError, fill

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False).map(abs),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
).filter(lambda value: "inf" not in repr(value))
ITEMS = st.lists(st.text() | st.tuples(st.text(), VALUES), max_size=30)


def write(folder: Path, text: bytes, prefix: str, chunk_bytes: int = 10**6) -> None:
    packed = itemplan.compress(text)
    for number, start in enumerate(range(0, len(packed), chunk_bytes)):
        (folder / f"{prefix}{number:03d}").write_bytes(packed[start : start + chunk_bytes])


@given(ITEMS)
def test_a_plan_gives_back_its_items(items: list[Any]) -> None:
    text = itemplan.encode(items, indexes=3, chunk=None, seed=7)
    plan = itemplan.decode(text)
    expected = [(item, item) if isinstance(item, str) else item for item in items]
    assert plan.items(range(plan.total)) == expected
    assert list(plan.keys()) == [key for key, _ in expected]
    assert (plan.total, plan.indexes, plan.chunk, plan.seed) == (len(items), 3, None, 7)
    assert itemplan.encode(items, indexes=3, chunk=None, seed=7) == text
    for index in range(3):
        some = plan.positions(index)
        assert list(plan.keys(some)) == [expected[at][0] for at in some]


def test_the_text_of_a_plan_is_what_its_format_says() -> None:
    text = itemplan.encode(["a b", ("k", {"x": 1}), "\xe9\n"], indexes=2, chunk=2, seed=0)
    assert text.decode().split("\n") == [
        '{"format":1,"total":3,"indexes":2,"chunk":2,"seed":0}',
        '"a b"',
        '["k",{"x":1}]',
        '"\\u00e9\\n"',
        "",
    ]


LINES = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=9)


@given(
    st.lists(LINES, min_size=1, max_size=20, unique_by=keys.folded),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
    st.integers(1, 40),
)
def test_pods_take_a_list_for_what_the_launcher_takes_it_for(
    rows: list[str], end: str, mark: str, block_bytes: int
) -> None:
    content = (mark + end.join(rows)).encode()
    try:
        found = items.from_list(content, "list.txt")
    except RequestError:
        return  # a list that no pod gets to see
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(itemlist, "BLOCK_BYTES", block_bytes),
    ):
        path = Path(folder, "list.txt")
        path.write_bytes(content)
        listed = itemlist.Listed(str(path), found.sha256, found.is_json)
        expected = [(one, one) if isinstance(one, str) else one for one in found]
        assert itemlist.read(listed, range(len(found))) == expected
        assert itemlist.read(listed, [len(found) - 1]) == expected[-1:]


def test_a_range_is_not_listed() -> None:
    text = itemplan.encode_range(5, 10**6, indexes=10, chunk=None, seed=1)
    assert len(text) < 120
    plan = itemplan.decode(text)
    assert plan.total == 10**6 - 5
    assert plan.items([0, 7, plan.total - 1]) == [("5", 5), ("12", 12), ("999999", 999_999)]
    assert list(plan.keys(range(1, 4))) == ["6", "7", "8"]
    with pytest.raises(IndexError):
        plan.item(plan.total)


@given(st.integers(0, 300), st.integers(1, 40))
def test_every_item_is_of_one_index_when_split_evenly(total: int, indexes: int) -> None:
    shares = [itemplan.positions_of(total, None, indexes, index) for index in range(indexes)]
    assert [at for share in shares for at in share] == list(range(total))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 300), st.integers(1, 40))
def test_every_item_is_of_one_index_when_chunked(total: int, chunk: int) -> None:
    indexes = -(-total // chunk)
    shares = [itemplan.positions_of(total, chunk, indexes, index) for index in range(indexes)]
    assert [at for share in shares for at in share] == list(range(total))
    assert all(len(share) == chunk for share in shares[:-1])
    assert len(itemplan.positions_of(total, chunk, indexes, indexes)) == 0


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]\n",
        b'{"format":2}\n',
        b'{"format":1,"total":2}\n',
        b'{"format":1,"total":2,"indexes":1,"chunk":1,"seed":0}\n"a"\n',
        b'{"format":1,"total":"x","indexes":1,"chunk":1,"seed":0}\n"a"\n',
    ],
)
def test_what_is_no_plan_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        itemplan.decode(text)


def test_numbers_that_json_has_no_word_for_make_no_plan() -> None:
    with pytest.raises(ValueError):
        itemplan.encode([("k", float("nan"))], indexes=1, chunk=1, seed=0)


@pytest.mark.parametrize("chunk_bytes", [50, 10**6])
def test_a_plan_is_read_from_its_chunks_or_from_one_file(tmp_path: Path, chunk_bytes: int) -> None:
    text = itemplan.encode([f"item {n}" for n in range(500)], indexes=5, chunk=100, seed=0)
    write(tmp_path, text, itemplan.ITEMS_PREFIX, chunk_bytes)
    digest = itemplan.sha256(text)
    assert itemplan.read(str(tmp_path), digest).item(499) == ("item 499", "item 499")
    for name, data in (("plan", text), ("plan.xz", itemplan.compress(text))):
        (tmp_path / name).write_bytes(data)
        assert itemplan.read(str(tmp_path / name), digest).total == 500


def test_a_plan_that_is_not_the_one_launched_is_refused(tmp_path: Path) -> None:
    text = itemplan.encode(["a"], indexes=1, chunk=1, seed=0)
    digest = itemplan.sha256(text)
    with pytest.raises(Failure, match=r"has no items\.xz"):
        itemplan.read(str(tmp_path), digest)
    write(tmp_path, text, itemplan.ITEMS_PREFIX)
    with pytest.raises(Failure, match="not what was launched") as caught:
        itemplan.read(str(tmp_path), itemplan.sha256(b"another"))
    assert caught.value.exit_code == EXIT_CODE
    chunk = tmp_path / (itemplan.ITEMS_PREFIX + "000")
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(Failure, match="cannot read the list of items"):
        itemplan.read(str(tmp_path), digest)


@given(st.lists(st.tuples(st.integers(0, 9999), st.lists(st.integers(0, 10**6), max_size=5))))
def test_a_selection_gives_back_what_a_rerun_runs(chosen: list[tuple[int, list[int]]]) -> None:
    found = itemplan.decode_selection(itemplan.encode_selection(2, chosen))
    assert (found.attempt, found.indexes) == (2, chosen)


def test_a_selection_is_read_from_beside_the_plan(tmp_path: Path) -> None:
    text = itemplan.encode_selection(1, [(3, [7, 8])])
    write(tmp_path, text, itemplan.SELECTION_PREFIX, 20)
    assert itemplan.read_selection(str(tmp_path)).indexes == [(3, [7, 8])]
    (tmp_path / "other").write_text('{"attempt": 1}')
    with pytest.raises(Failure, match="selection"):
        itemplan.read_selection(str(tmp_path / "other"))


def test_a_seed_depends_on_the_key_alone_and_on_the_seed_of_the_array() -> None:
    # Fixed: a result that is to be repeated years later depends on it.
    assert itemplan.seed_of(0, "a.parquet") == 3_646_887_342
    seeds = {itemplan.seed_of(seed, key) for seed in (0, 1) for key in ("a", "b", "\udc80")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**32 for seed in seeds)


@given(st.sets(st.integers(0, 200)))
def test_numbers_are_compressed(numbers: set[int]) -> None:
    runs = [run.split("-") for run in itemplan.compress_numbers(sorted(numbers)).split(",") if run]
    spans = [range(int(run[0]), int(run[-1]) + 1) for run in runs]
    assert [number for span in spans for number in span] == sorted(numbers)
    assert all(before.stop < after.start for before, after in pairwise(spans))


def test_compressed_numbers_are_short() -> None:
    assert itemplan.compress_numbers([3, 7, 8, 9]) == "3,7-9"


# --- settings -------------------------------------------------------------------------------------


def test_settings_survive_the_environment() -> None:
    settings = ArraySettings("a", "0" * 64, preload=("torch", "numpy"), slice=True, seed=3)
    assert ArraySettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a", "plan_sha256": "", "new": 1}'])
def test_settings_of_another_version_are_a_failure(text: str) -> None:
    with pytest.raises(Failure, match="KIJ_ARRAY") as caught:
        ArraySettings.from_json(text)
    assert caught.value.exit_code == EXIT_CONTRACT


# --- placeholders ---------------------------------------------------------------------------------

OBJECT = {"url": "http://x/{key}", "n": 3, "on": True, "more": {"a": [1]}, "learning-rate": 0.1}


@pytest.mark.parametrize(
    ("argument", "filled"),
    [
        ("{item}", '{"url":"http://x/{key}","n":3,"on":true,"more":{"a":[1]},"learning-rate":0.1}'),
        ("--key={key}", "--key=a b"),
        ("{index}/{seed}", "3/42"),
        ("{url}", "http://x/{key}"),  # values are not looked into
        ("{n}-{on}-{more}", '3-true-{"a":[1]}'),
        ("{learning-rate}", "0.1"),
        ("{{key}}", "{key}"),
        ("{{{key}}}", "{a b}"),
        ("{{{{key}}}}", "{{key}}"),
        ('{"a":{"b":{n}}}', '{"a":{"b":3}}'),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("{}{0}{ key }{", "{}{0}{ key }{"),
        ("$(X) `x` $X", "$(X) `x` $X"),
        ("", ""),
    ],
)
def test_placeholders_are_filled_and_other_braces_left(argument: str, filled: str) -> None:
    assert fill(argument, Item("a b", OBJECT, 3, 42)) == filled


@pytest.mark.parametrize("value", ["a b", "$(X) {key}", "\n'\"", ""])
def test_a_string_is_filled_in_as_it_is(value: str) -> None:
    assert fill("<{item}>", Item("k", value, 0, 0)) == f"<{value}>"


def test_a_name_that_an_item_has_not_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(UnknownNameError, match=r"\{nn\} is none of .*\{seed\}, \{url\}, \{n\}"):
        fill("{nn}", Item("k", OBJECT, 0, 0))
    with pytest.raises(UnknownNameError, match=r"\{url\} is none of \{item\}, \{key\}"):
        fill("--url={url}", Item("k", "a string", 0, 0))


@given(st.text(alphabet="{}key.-\"' ", max_size=20))
def test_placeholders_names_what_fill_looks_up(argument: str) -> None:
    names = itemplan.placeholders(argument)
    unknown = [name for name in names if name not in itemplan.OUR_NAMES]
    if unknown:
        with pytest.raises(UnknownNameError) as caught:
            fill(argument, Item("k", "v", 0, 0))
        assert caught.value.name == unknown[0]
    value = dict.fromkeys(names, "<>")
    assert fill(argument, Item("<>", value, 0, 0)).count("<>") == len(names)


def test_an_argument_with_json_of_its_own_is_left_alone() -> None:
    argument = json.dumps({"a": {"b": {"c": 1}}, "d": {}})
    assert fill(argument, Item("k", "v", 0, 0)) == argument
