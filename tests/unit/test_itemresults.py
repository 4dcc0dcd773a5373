"""Records of items: what a script writes, part files, the way through the log, the account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.pod import records, results
from kij_train.pod.itemrecords import Run, dumps, failed, item_records, slice_records
from kij_train.pod.results import Account, LogReader

RUN = Run(index=3, attempt=0, seconds=1.23456, exit_code=0, machine="node-1")
BAD = Run(index=3, attempt=1, seconds=2, exit_code=1, machine="node-1", error="ValueError: x")
OURS = {"key": "k", "index": 3, "attempt": 0, "seconds": 1.235, "exit_code": 0, "machine": "node-1"}


def test_an_item_that_wrote_nothing_has_one_record() -> None:
    assert item_records("k", RUN, b"") == [OURS]
    assert item_records("k", RUN, b"\n \n") == [OURS]


def test_fields_of_the_script_lie_beside_ours() -> None:
    assert item_records("k", RUN, b'{"loss": 0.5, "tags": ["a"]}') == [
        {**OURS, "loss": 0.5, "tags": ["a"]}
    ]


def test_a_field_with_a_name_of_ours_is_kept_under_another() -> None:
    (record,) = item_records("k", RUN, b'{"key": 1, "error": "x", "nan": 2, "line": 3}')
    assert record == {**OURS, "result_key": 1, "result_error": "x", "result_nan": 2} | {
        "result_line": 3
    }
    assert not failed(record)


def test_several_lines_are_several_records_with_their_numbers() -> None:
    records = item_records("k", RUN, b'{"a": 1}\n5\n[1, 2]\n')
    assert [record["line"] for record in records] == [0, 1, 2]
    assert [record.get("value") for record in records] == [None, 5, [1, 2]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1', 'result line 2 is no JSON: {"a": 1'),
        (b"\xff\xfe", "result line 2 is no JSON"),
        (b"loss 3", "result line 2 is no JSON: loss 3"),
        (b"[" * 100_000, "result line 2 is"),
        (b"x" * 5000, "characters ..."),
    ],
)
def test_a_line_that_is_no_json_makes_the_item_a_failed_one(line: bytes, said: str) -> None:
    records = item_records("k", RUN, b'{"a": 1}\n' + line)
    assert [record["a"] for record in records] == [1]
    assert said in records[0]["error"]
    assert len(records[0]["error"]) <= 300
    assert all(failed(record) for record in records)


def test_numbers_without_a_word_in_json_become_null_and_are_named() -> None:
    (record,) = item_records("k", RUN, b'{"a": NaN, "b": [1, {"c": -Infinity}], "d": 1e999}')
    assert (record["a"], record["b"], record["d"]) == (None, [1, {"c": None}], None)
    assert record["nan"] == ["a", "b.1.c", "d"]
    assert item_records("k", RUN, b"NaN")[0]["nan"] == ["value"]


def test_an_item_that_failed_says_how_on_one_line() -> None:
    (record,) = item_records("k", BAD, b"")
    assert record["error"] == "ValueError: x"
    assert failed(record)
    long = Run(3, 0, 1, 1, "m", "begin\n" + "x" * 1000 + " end")
    said = item_records("k", long, b"")[0]["error"]
    assert said.startswith("begin x") and said.endswith("x end") and len(said) <= 300
    assert item_records("k", Run(3, 0, 1, 7, "m"), b"")[0]["error"] == "exit code 7"


# --- slices ---------------------------------------------------------------------------------------


def test_lines_of_a_slice_find_their_items_by_key_or_id() -> None:
    written = b'{"key": "b", "x": 1}\n{"id": 5, "x": 2}\n{"id": "b", "x": 3}\n'
    records, error = slice_records(["a", "b", "5"], RUN, written)
    assert error == ""
    found = [(record["key"], record.get("x"), record.get("line")) for record in records]
    assert found == [("a", None, None), ("b", 1, 0), ("b", 3, 1), ("5", 2, None)]
    assert records[0]["seconds"] == round(1.23456 / 3, 3)
    assert "result_key" not in records[1]


def test_when_the_process_of_a_slice_failed_items_without_a_line_have_failed() -> None:
    records, error = slice_records(["a", "b"], BAD, b'{"key": "a"}\n{"key": "b"')
    assert error == "ValueError: x"
    assert [failed(record) for record in records] == [False, True]
    assert [record["exit_code"] for record in records] == [0, 1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"key": "c"}', "result line 1 is of no item of this index: c"),
        (b'{"x": 1}', "result line 1 has neither key nor id"),
        (b"7", "result line 1 has neither key nor id"),
        (b"half a li", "result line 1 is no JSON: half a li"),
    ],
)
def test_a_line_of_a_slice_that_is_in_doubt_is_never_taken_for_a_good_item(
    line: bytes, said: str
) -> None:
    records, error = slice_records(["a", "b"], RUN, line + b'\n{"key": "a"}')
    assert error == said
    assert [failed(record) for record in records] == [False, True]
    assert records[1]["error"] == said


# --- any record -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SCRIPTS = st.lists(JSON | st.dictionaries(st.text(), JSON), max_size=4)


def lines_of(values: list[Any], key: str = "k") -> list[str]:
    written = "\n".join(json.dumps(value) for value in values).encode()
    return [dumps(record) for record in item_records(key, RUN, written)]


@given(SCRIPTS, st.text())
def test_whatever_a_script_writes_both_ways_give_the_same_bytes(
    values: list[Any], key: str
) -> None:
    lines = lines_of(values, key)
    assert all(len(line.splitlines()) == 1 for line in lines)
    account = results.account_of(3, 0, {key: 0}, lines)
    part = "".join(line + "\n" for line in lines).encode()
    reader = LogReader()
    for number, line in enumerate(lines):
        reader.feed("output of the script")
        assert reader.feed(results.encode_line(number, line).decode()) is not None
    logged = reader.part(account)
    filed = results.read_part(part, account)
    assert logged.data == filed.data == part
    assert logged.records == filed.records == [json.loads(line) for line in lines]
    assert not logged.damage and not filed.damage
    back = results.decode_account(results.encode_account(account).decode())
    assert back is not None
    short = back.part()
    assert short is None or (short.data, short.damage) == (part, [])


# --- part files -----------------------------------------------------------------------------------


def test_a_part_is_named_by_its_index() -> None:
    assert results.part_name(3) == "part-00003.jsonl"
    assert results.part_name(123_456) == "part-123456.jsonl"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    results.write_whole(str(tmp_path / "a"), b"one")
    results.write_whole(str(tmp_path / "a"), b"two")
    (tmp_path / "folder/inner").mkdir(parents=True)
    with pytest.raises(OSError):
        results.write_whole(str(tmp_path / "folder"), b"three")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"two"


GOOD = [f'{{"key":"{n}","index":3}}' for n in range(12)]
PART = "".join(line + "\n" for line in GOOD).encode()


@pytest.mark.parametrize(
    "half",
    [
        b'{"key": "a"',
        b"[]",
        b'{"index": 1}',
        b"\xff",
        b"{" * 10**5,
        b'{"key": "a", "index": 3, "seconds": "x"}',
        b'{"key": "a", "index": 3, "attempt": null}',
        b'{"key": "a", "index": 3, "exit_code": [1]}',
    ],
)
def test_a_line_of_a_part_that_is_no_record_is_named(half: bytes) -> None:
    part = results.read_part(PART + half)
    assert len(part.records) == 12
    assert [damage.kind for damage in part.damage] == ["garbled"]
    assert "line 13" in part.damage[0].text


def test_lines_that_are_records_only_together_are_named() -> None:
    for lines in (b'{"key":"a"\n"index":3}\n', b'{"key":"a","index":3},{"key":"b","index":3}\n'):
        part = results.read_part(PART + lines)
        assert len(part.records) == 12
        assert {damage.kind for damage in part.damage} == {"garbled"}
        assert part.data == PART


def test_a_part_that_is_not_what_was_accounted_for_is_named() -> None:
    account = results.account_of(3, 0, {}, GOOD)
    assert not results.read_part(PART, account).damage
    half = "".join(line + "\n" for line in GOOD[:7]).encode()
    (damage,) = results.read_part(half, account).damage
    assert damage.kind == "short"
    (damage,) = results.read_part(PART.replace(b'"5"', b'"6"'), account).damage
    assert damage.kind == "other"
    (damage,) = results.read_part(PART + PART, account).damage
    assert damage.kind == "other"


# --- the log --------------------------------------------------------------------------------------

LOG = [results.encode_line(number, line).decode() for number, line in enumerate(GOOD)]


def read_log(lines: list[str], account: Account | None = None) -> results.Part:
    reader = LogReader()
    for line in lines:
        reader.feed(line)
    return reader.part(account)


def test_a_log_that_is_read_twice_gives_its_records_once() -> None:
    part = read_log([*LOG[:7], *LOG[3:]], results.account_of(3, 0, {}, GOOD))
    assert part.data == PART
    assert part.damage == []


def test_lines_that_are_missing_are_named() -> None:
    part = read_log([*LOG[:2], LOG[4], *LOG[6:]])
    assert [damage.kind for damage in part.damage] == ["gap"]
    assert "records 2-3,5 of this pod" in part.damage[0].text
    part = read_log(LOG[:5], results.account_of(3, 0, {}, GOOD))
    assert [damage.text for damage in part.damage] == ["7 of 12 records are missing"]


@given(st.integers(0, 11), st.data())
def test_a_changed_character_is_noticed(number: int, data: st.DataObject) -> None:
    line = LOG[number].rstrip("\n")
    at = data.draw(st.integers(len(results.LINE_PREFIX), len(line) - 1))
    other = data.draw(st.characters(exclude_characters=line[at]))
    garbled = line[:at] + other + line[at + 1 :]
    part = read_log(
        [*LOG[:number], garbled, *LOG[number + 1 :]], results.account_of(3, 0, {}, GOOD)
    )
    assert len(part.records) == 11
    assert part.damage


@given(st.integers(len(results.LINE_PREFIX), len(LOG[0]) - 2))
def test_half_a_line_is_noticed(size: int) -> None:
    part = read_log([LOG[0][:size]])
    assert not part.records
    assert [damage.kind for damage in part.damage] == ["garbled"]


def test_output_that_is_no_record_is_left_alone() -> None:
    assert not results.is_record_line("kij-train: index 3, item 1 of 5")
    assert results.is_record_line(LOG[0])
    assert read_log(["", "record", "kij-train: record"]) == results.Part([], [], b"")


# --- the account ----------------------------------------------------------------------------------


def account_of(count: int, text: str = "") -> Account:
    keys = [f"{text}{n}" for n in range(count)]
    lines = []
    for n, key in enumerate(keys):
        run = RUN if n % 2 == 0 else Run(3, 0, 1, 9, "m", f"died {text}")
        lines += [dumps(record) for record in item_records(key, run, b'{"a": 1}\n{"a": 2}')]
    return results.account_of(3, 0, {key: n for n, key in enumerate(keys)}, lines)


def test_an_account_counts_items_not_lines() -> None:
    account = account_of(5)
    assert (account.done, account.failed, account.records) == (3, 2, 10)
    assert account.failed_items == "1,3"
    assert account.error == {"key": "1", "message": "died", "exit_code": 9}


@pytest.mark.parametrize(("count", "text"), [(1, ""), (300, ""), (5000, ""), (3, "\u00e9\n" * 900)])
def test_an_account_fits_a_termination_message_however_many_records(count: int, text: str) -> None:
    account = account_of(count, text)
    message = results.encode_account(account)
    assert len(message) <= results.MESSAGE_BYTES
    found = results.decode_account(message.decode())
    assert found is not None
    for name in ("index", "attempt", "done", "failed", "records", "crc"):
        assert getattr(found, name) == getattr(account, name)
    assert (found.part() is not None) == (count == 1)
    if count == 5000:
        assert found.failed_items.endswith(",...")


@given(st.integers(0, 10**9), st.text())
def test_what_is_no_account_is_none(size: int, text: str) -> None:
    message = results.encode_account(account_of(3)).decode()
    assert results.decode_account(message[: size % len(message)]) is None
    assert results.decode_account(text) is None


@pytest.mark.parametrize(
    "message", ["{}", '{"kij_array": 2}', '{"kij_array": 1}', "[1]", '{"message": {}}', "1"]
)
def test_the_words_of_others_are_no_account(message: str) -> None:
    assert results.decode_account(message) is None


# --- where it failed ------------------------------------------------------------------------------

TRACE = """Traceback (most recent call last):
  File "score.py", line 9, in <module>
    main()
  File "/code/pkg/model.py", line 31, in main
    torch.cat(parts)
  File "/code/.venv/lib/python3.13/site-packages/torch/x.py", line 7, in cat
  File "/usr/lib/python3.13/json/decoder.py", line 355, in decode
  File "<string>", line 1, in <module>
ValueError: bad"""


@pytest.mark.parametrize(
    ("callstack", "place"),
    [
        (TRACE, "pkg/model.py:31"),
        ('  File "score.py", line 9, in <module>', "score.py:9"),
        ('  |   File "/code/a b.py", line 2, in f', "a b.py:2"),
        ('  File "/usr/lib/python3.13/x.py", line 1, in f', ""),
        ('  File "../outside.py", line 1, in f', ""),
        ('  File "broken.py", line 3\n    def f(:\n', "broken.py:3"),
        ("ValueError: bad", ""),
        ("", ""),
    ],
)
def test_the_place_of_a_failure_is_the_last_line_of_the_users_own_code(
    callstack: str, place: str
) -> None:
    assert records.place_of(callstack, "/code") == place


def test_a_record_of_a_failure_names_its_place_and_one_of_success_none() -> None:
    bad = BAD._replace(error_at="score.py:9")
    assert item_records("k", bad, b"")[0]["error_at"] == "score.py:9"
    assert "error_at" not in item_records("k", RUN, b"")[0]
    found, _ = slice_records(["a", "b"], bad, b'{"id": "a"}')
    assert [record.get("error_at") for record in found] == [None, "score.py:9"]


def test_of_a_record_without_a_traceback_nothing_is_made_up() -> None:
    for record in ({}, {"message": "text"}, {"message": {"message": "x", "extraInfo": None}}):
        assert records.place_of(records.callstack_of(record), "/code") == ""
