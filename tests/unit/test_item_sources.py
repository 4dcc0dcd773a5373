"""Where the items of an array come from, what their keys are, and which lists are refused."""

from __future__ import annotations

import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays import items, keys, plan
from kij_train.arrays.texts import Texts
from kij_train.errors import RequestError
from kij_train.pod import itemplan


def listed(content: bytes | str, source: str = "list.txt") -> items.Items:
    return items.from_list(content.encode() if isinstance(content, str) else content, source)


def refusal(content: bytes | str, source: str = "list.txt") -> str:
    with pytest.raises(RequestError) as caught:
        listed(content, source)
    return f"{caught.value.message}\n" + "\n".join(caught.value.hints)


# --- lists ----------------------------------------------------------------------------------------


def test_a_line_is_an_item_and_its_own_key() -> None:
    found = listed("b.csv\n\na b.csv\r\n  c\n")
    assert list(found) == ["b.csv", "a b.csv\r", "  c"]
    assert [found.place(position) for position in range(3)] == [
        "list.txt:1",
        "list.txt:3",
        "list.txt:4",
    ]


def test_lines_that_end_as_on_windows_and_a_byte_order_mark_are_taken_for_what_they_are() -> None:
    assert list(listed(b"\xef\xbb\xbfa\r\nb\r\n")) == ["a", "b"]


@pytest.mark.parametrize(
    "name", ["a 'b' \"c\"", "$(NODE_RANK) $HOME `x`", "{braces} {{x}}", "-rf", "tab\there", "naïve"]
)
def test_names_are_kept_as_they_are(name: str) -> None:
    assert list(listed(f"{name}\n")) == [name]


def test_lines_of_json_are_told_by_the_name_or_by_the_first_line() -> None:
    rows = '{"key": "a", "url": "x"}\n{"id": 7}\n{"z": 1, "b": [null]}\n'
    expected: list[Any] = [
        ("a", {"key": "a", "url": "x"}),
        ("7", {"id": 7}),
        ('{"b":[null],"z":1}', {"z": 1, "b": [None]}),
    ]
    assert list(listed(rows, "todo.txt")) == expected
    assert list(listed(rows, "todo.jsonl")) == expected
    assert list(listed('"a"\n3\n', "todo.jsonl")) == ["a", ("3", 3)]
    assert list(listed('"a"\n3\n', "todo.txt")) == ['"a"', "3"]
    assert list(listed("{a}\n{b}\n")) == ["{a}", "{b}"]


def test_a_line_that_is_no_json_is_named_with_line_and_column() -> None:
    said = refusal('{"a": 1}\n{"key" 2}\n', "todo.jsonl")
    assert "todo.jsonl:2:8: no JSON: Expecting ':' delimiter" in said
    assert "list.txt:3:1: no JSON" in refusal('{"a": 1}\n\nrest\n')
    said = refusal('{"a": "NaN"}\n{"a": "NaN", "b": NaN}\n')
    assert "list.txt:2:19: no JSON: it has no NaN" in said
    assert "nested too deeply" in refusal("[" * 100_000 + "\n", "todo.jsonl")


def test_a_name_that_is_twice_in_an_object_is_refused_and_no_value_is_lost() -> None:
    said = refusal('{"a": 1}\n{"b": 1, "a": 1, "a": 2}\n')
    assert 'list.txt:2: "a" is there twice' in said
    assert 'list.txt:1: "c" is there twice' in refusal('{"a": {"c": 1, "c": 1}}\n')


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_number_that_no_float_can_be_is_refused_with_its_line(number: str) -> None:
    said = refusal(f'{{"a": 1}}\n{{"a": [{number}]}}\n')
    assert f"list.txt:2: {number} is beyond what a float can be" in said


def test_an_array_of_json_is_told_how_to_become_lines() -> None:
    assert "jq -c '.[]' todo.json" in refusal('[\n{"a": 1}\n]\n', "todo.json")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_list_is_refused(content: str) -> None:
    assert "list.txt lists no items" in refusal(content)


def test_bytes_that_no_argument_can_carry_are_named_with_their_line() -> None:
    assert "list.txt:2: holds a NUL byte" in refusal(b"a\nb\0c\n")
    assert "list.txt:2: is no UTF-8, from byte 2 of the line on" in refusal(b"a\nb\xff\n")
    assert "todo.jsonl:1: holds a NUL byte" in refusal('{"a": ["\\u0000"]}\n', "todo.jsonl")
    assert "todo.jsonl:1: is no UTF-8" in refusal('{"a": "\\ud800"}\n', "todo.jsonl")


def test_an_item_that_no_variable_holds_is_refused_and_a_long_one_gets_a_short_key() -> None:
    said = refusal("a\n" + "x" * 2**20 + "\n")
    assert "list.txt:2: the item has 1,048,578 bytes as JSON, and 100,000 is the most" in said
    ((key, value),) = [one for one in listed("x" * 2000 + "\n") if not isinstance(one, str)]
    assert (key[:7], len(key), value) == ("sha256-", 39, "x" * 2000)


def test_a_key_that_is_no_text_is_refused() -> None:
    assert 'todo.jsonl:1: its "key" must be a text' in refusal('{"key": null}\n', "todo.jsonl")
    assert 'todo.jsonl:1: its "id" must be a text' in refusal('{"id": true}\n', "todo.jsonl")


# --- keys that are as good as one -----------------------------------------------------------------


def test_an_item_that_is_there_twice_is_named_with_both_places() -> None:
    said = refusal("a\nb\na\na\n")
    assert 'list.txt:3: "a" is at list.txt:1 already' in said
    assert "(and 1 more)" in said
    assert "sort -u" in said


def test_keys_that_differ_only_by_case_or_form_of_unicode_are_named_with_both_places() -> None:
    assert 'list.txt:2: "A.TXT" and "a.txt" at list.txt:1 differ only by case' in refusal(
        "a.txt\nA.TXT\n"
    )
    said = refusal("café\ncafe\u0301\n")
    assert (
        r'list.txt:2: "cafe\u0301" and "caf\u00e9" at list.txt:1 differ only in their form' in said
    )
    assert "differ only by case" in refusal("Straße\nSTRASSE\n")


def test_numbers_and_texts_that_look_alike_share_a_key() -> None:
    assert '"1" is at todo.jsonl:1 already' in refusal('1\n"1"\n', "todo.jsonl")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1)))
def test_a_list_is_taken_whole_or_refused_for_keys_that_are_alike(rows: list[str]) -> None:
    content = "".join(f"{row}\n" for row in rows)
    alike = len({keys.folded(row) for row in rows}) < len(rows)
    try:
        found = listed(content)
    except RequestError as error:
        assert alike or not rows or rows[0].startswith("\ufeff"), error
    else:
        if not content.startswith(("{", "\ufeff")):
            assert not alike
            assert list(found) == rows


@given(st.lists(st.text("a\xe9\r ", max_size=4)), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_are_what_is_between_their_ends(rows: list[str], end: str, is_ended: bool) -> None:
    content = end.join(rows) + (end if is_ended and rows else "")
    first, *_ = content.split("\n")
    texts, numbers = Texts.lines(content.encode(), b"\r" if "\r" in first else b"")
    lines = content.split("\n")
    if "\r" in first:
        lines = [line.removesuffix("\r") for line in lines]
    assert list(texts) == [line for line in lines if line]
    assert list(numbers) == [number for number, line in enumerate(lines, start=1) if line]
    assert texts[: len(texts)] == list(Texts.of(texts)) == [texts[at] for at in range(len(texts))]


def test_a_list_of_json_takes_little_more_memory_than_its_text() -> None:
    rows = [
        f'{{"key": "item-{n:07d}", "url": "https://example.com/{n:040d}"}}' for n in range(20000)
    ]
    content = "\n".join(rows).encode()
    del rows
    tracemalloc.start()
    try:
        found = listed(content, "todo.jsonl")
        plan.pin(found, chunk=None, indexes=100, seed=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 20000
    assert peak < 3 * len(content)


# --- files ----------------------------------------------------------------------------------------


def test_files_that_match_are_sorted_by_their_bytes(tmp_path: Path) -> None:
    for name in (
        "b.csv",
        "a b.csv",
        "é.csv",
        "B2.csv",
        "sub/deep/c.csv",
        "new\nline.csv",
        ".h.csv",
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data/folder.csv").mkdir()
    found = items.from_glob("data/*.csv", tmp_path)
    assert list(found) == [
        "data/B2.csv",
        "data/a b.csv",
        "data/b.csv",
        "data/new\nline.csv",
        "data/é.csv",
    ]
    assert list(items.from_glob("data/**/c.csv", tmp_path)) == ["data/sub/deep/c.csv"]
    assert list(items.from_glob("data/*/", tmp_path)) == ["data/folder.csv/", "data/sub/"]


def test_a_pattern_that_matches_nothing_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--glob \*\.csv matches no file in ") as caught:
        items.from_glob("*.csv", tmp_path)
    assert str(tmp_path) in caught.value.message
    (tmp_path / "a").mkdir()
    with pytest.raises(RequestError) as caught:
        items.from_glob("*", tmp_path)
    assert "--glob '*/'" in caught.value.hints[0]
    with pytest.raises(RequestError) as caught:
        items.from_glob("~/nothing/*", tmp_path)
    assert '--glob "$HOME/nothing/*"' in caught.value.hints[0]
    with pytest.raises(RequestError, match="NUL"):
        items.from_glob("a\0", tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_a_file_whose_name_is_no_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.csv")).touch()
    with pytest.raises(RequestError, match=r"finds b'a\\xff.csv', whose name is no UTF-8"):
        items.from_glob("*.csv", tmp_path)


def test_a_list_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    def read(name: str) -> None:
        items.read(items=name, glob=None, bounds=None, root=tmp_path)

    with pytest.raises(RequestError, match=r"--items .*nothing: No such file"):
        read(str(tmp_path / "nothing"))
    with pytest.raises(RequestError, match="NUL"):
        read("a\0")
    with pytest.raises(RequestError) as caught:
        read("data/*.csv")
    assert "--glob" in caught.value.hints[0]
    with pytest.raises(RequestError, match="nothing to map over"):
        items.read(items=None, glob=None, bounds=None, root=tmp_path)


def test_files_of_a_file_system_of_fsspec_are_listed_and_lists_read() -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("/b/2.csv", "/b/sub/1.csv", "/b/list.txt"):
        memory.pipe_file(name, b"x\ny\n")
    root = Path()
    below = items.read(items="memory://b/sub/", glob=None, bounds=None, root=root)
    assert list(below) == ["memory:///b/sub/1.csv"]
    matched = items.read(items=None, glob="memory://b/*.csv", bounds=None, root=root)
    assert list(matched) == ["memory:///b/2.csv"]
    assert list(items.read(items="memory://b/list.txt", glob=None, bounds=None, root=root)) == [
        "x",
        "y",
    ]
    with pytest.raises(RequestError, match="memory://none/"):
        items.read(items="memory://none/", glob=None, bounds=None, root=root)
    with pytest.raises(RequestError, match="nosuch://a/: "):
        items.read(items="nosuch://a/", glob=None, bounds=None, root=root)


# --- ranges, and values of Python -----------------------------------------------------------------


def test_a_range_is_kept_as_its_two_numbers(tmp_path: Path) -> None:
    found = items.read(items=None, glob=None, bounds=(-2, 3), root=tmp_path)
    assert (len(found), found.bounds) == (5, (-2, 3))
    assert items.from_values(range(3, 9)).bounds == (3, 9)
    assert list(items.from_values(range(0, 6, 2))) == [("0", 0), ("2", 2), ("4", 4)]


def test_values_of_python_are_items_with_keys() -> None:
    found = items.from_values(["a", Path("b/c"), 3, None, {"key": "k", "x": 1.5}])
    assert list(found) == ["a", "b/c", ("3", 3), ("null", None), ("k", {"key": "k", "x": 1.5})]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "there are none"),
        (range(0), "there are none"),
        (["a", object()], r"items\[1\]: cannot be written as JSON"),
        ([float("nan")], r"items\[0\]: cannot be written as JSON"),
        (["a\0"], r"items\[0\]: holds a NUL byte"),
        (["a", "a"], r'items\[1\]: "a" is at items\[0\] already'),
    ],
)
def test_values_that_are_no_items_are_named(values: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        items.from_values(values)


@given(st.lists(st.one_of(st.text(), st.integers(), st.dictionaries(st.text(), st.integers()))))
def test_what_is_taken_comes_back_from_the_plan(values: list[Any]) -> None:
    try:
        found = items.from_values(values)
    except RequestError:
        return
    read = itemplan.decode(itemplan.encode(found, indexes=1, chunk=None, seed=0))
    assert [value for _, value in read.items(range(len(values)))] == values
    assert [key for key, _ in read.items(range(len(values)))] == list(found.keys)
