"""Results and reports of an array in all their forms, from a folder as runs leave one."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas
from junitparser import JUnitXml
from kij_train.arrays import formats, junit, page, report
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.report import Report
from kij_train.arrays.summary import summary_of

NASTY = "a b'\"<script>alert(1)</script>\n$(rm x)`y`\x1b[31m|&é{}\u2028\x85"


def outcome(at: int, key: str, state: State, error: str = "", **own: Any) -> Outcome:
    if state in (State.PENDING, State.RUNNING, State.MISSING):
        return Outcome(at, key, at // 2, state, error)
    code = 1 if state is State.FAILED else 0
    record = {"key": key, "index": at // 2, "attempt": 0, "seconds": 0.5 * at, "exit_code": code}
    record |= {"machine": "host-1", **({"error": error} if error else {}), **own}
    return Outcome(at, key, at // 2, state, error, code, "host-1", 0, 0.5 * at, (record,))


OUTCOMES = [
    outcome(0, "plain", State.DONE, loss=0.25, tags=["a", "b"], note='one, two\n"three"'),
    outcome(1, NASTY, State.FAILED, f"ValueError: {NASTY}"),
    outcome(2, "--key", State.FAILED, "ValueError: no such item"),
    outcome(3, "gone", State.MISSING, "OOMKilled"),
    outcome(4, "soon", State.PENDING),
    outcome(5, "well", State.DONE, loss=None, nan=["loss"], ok=True),
]


def made(outcomes: list[Outcome] = OUTCOMES, **more: Any) -> Report:
    summary = summary_of(outcomes, lambda error, code: "more memory" if "OOM" in error else None)
    return Report("sweep", "namespace ml", 3, 1, "ended", summary, " -n ml", **more)


# --- reports --------------------------------------------------------------------------------------


def test_a_text_report_says_what_failed_why_and_what_to_do() -> None:
    text = report.as_text(made(damage=("index 1: 2 of 4 records are missing",)))
    assert "sweep  6 items in 3 indexes · namespace ml\n" in text
    assert "  done 2, failed 2, missing 1, pending 1\n" in text
    assert "  damaged: index 1: 2 of 4 records are missing\n" in text
    assert "failed items in index 0,1\n" in text.replace("0-1", "0,1")
    assert "missing items in index 1\n" in text
    assert "      try: more memory\n" in text
    assert "      here: kij-train replay sweep --key gone -n ml\n" in text
    assert text.endswith("again, what is not done: kij-train rerun sweep --failed -n ml\n")


def test_a_report_of_an_array_that_is_well_names_no_commands() -> None:
    found = made([outcome(0, "a", State.DONE), outcome(1, "b", State.DONE)])
    assert "rerun" not in report.as_text(found)
    assert (found.exit_code, made().exit_code) == (0, 1)
    assert report.as_json(found)["rerun"] is None


def test_nothing_in_a_key_or_an_error_steers_the_terminal() -> None:
    text = report.as_text(made())
    assert not set(text) & {"\x1b", "\r", "\x85", "\u2028"}
    assert all("rm x" not in line or "$(rm x)" in line for line in text.splitlines())


def test_a_key_in_a_command_reaches_the_program_as_it_is() -> None:
    for key in (NASTY, "--key", "-n", "two words", "it's", "$HOME", "\\", ""):
        line = made().replay(key)
        ran = ["bash", "-c", f"kij-train() {{ printf '%s\\0' \"$@\"; }}; {line}"]
        words = subprocess.run(ran, capture_output=True, check=True, text=True).stdout.split("\0")
        given = words[2:-3]
        assert words[:2] == ["replay", "sweep"]
        assert given == ([f"--key={key}"] if key.startswith("-") else ["--key", key])


def test_a_markdown_report_is_text_alone_in_its_tables() -> None:
    text = report.as_markdown(made())
    assert "<script>" not in text.partition("```sh")[0]
    rows = [line for line in text.splitlines() if line.startswith("| 1 |")]
    assert len(rows) == 3
    assert all(row.count(" | ") == 4 for row in rows)


def test_a_json_report_has_what_scripts_need() -> None:
    found = json.loads(json.dumps(report.as_json(made())))
    assert found["counts"] == {"done": 2, "failed": 2, "missing": 1, "running": 0, "pending": 1}
    assert (found["failedIndexes"], found["missingIndexes"]) == ("0-1", "1")
    assert [each["key"] for each in found["notDone"]] == [NASTY, "--key", "gone"]
    assert shlex.split(found["notDone"][1]["replay"])[3] == "--key=--key"
    assert sum(bar["items"] for bar in found["seconds"]["histogram"]) == 4


def test_a_junit_report_is_a_case_an_item_whatever_its_key() -> None:
    root = ElementTree.fromstring("".join(junit.pieces(made(), OUTCOMES)))
    (suite,) = root
    cases = {str(case.get("name")): case for case in suite}
    assert suite.attrib == {
        "name": "sweep",
        "tests": "6",
        "failures": "2",
        "errors": "1",
        "skipped": "1",
        "time": "4.000",
    }
    assert [child.tag for child in cases["--key"]] == ["failure"]
    assert cases["gone"][0].tag == "error"
    assert "kij-train replay sweep --key gone -n ml" in str(cases["gone"][0].text)
    assert cases["soon"][0].tag == "skipped"
    assert not list(cases["plain"])
    assert len(cases) == 6


def test_readers_of_junit_count_what_we_count(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text("".join(junit.pieces(made(), OUTCOMES)), "utf-8")
    read = JUnitXml.fromfile(str(path))
    assert (read.tests, read.failures, read.errors) == (6, 2, 1)
    (suite,) = read
    named = NASTY.replace("\x1b", "\\x1b")  # which XML cannot hold
    lost = [case.name for case in suite if not case.is_passed]
    assert lost == [named, "--key", "gone", "soon"]


class Found(HTMLParser):
    """Tags with their attributes, and all text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_shows_every_text_as_text_and_loads_nothing() -> None:
    html = page.as_html(made(damage=(NASTY,)))
    found = Found()
    found.feed(html)
    tags = [tag for tag, _ in found.tags]
    assert (tags.count("script"), tags.count("style"), tags.count("tr")) == (1, 1, 7)
    assert "img" not in tags
    assert any("<script>alert(1)</script>" in text for text in found.text)
    links = [v for _, attrs in found.tags for n, v in attrs.items() if n in ("src", "href")]
    assert links == ["data:,"]
    assert "kij-train replay sweep --key gone -n ml" in found.text


def test_a_page_of_many_items_shows_those_that_are_not_done_first() -> None:
    many = [outcome(at, f"k{at}", State.DONE) for at in range(page.MOST_ROWS + 50)]
    html = page.as_html(made([*many, outcome(len(many), "broken", State.FAILED, "no")]))
    assert html.count("<tr data-state") == page.MOST_ROWS
    assert html.index("<td>broken</td>") < html.index("<td>k0</td>")
    assert "2,000 of 2,051" in html


# --- results --------------------------------------------------------------------------------------


def test_json_lines_are_the_records_as_they_were_written() -> None:
    lines = list(formats.jsonl(OUTCOMES))
    assert [json.loads(line) for line in lines] == [r for one in OUTCOMES for r in one.records]
    assert all(line.count("\n") == 1 for line in lines)


def test_csv_has_a_column_for_every_field_and_pandas_types() -> None:
    fields = formats.fields_of(OUTCOMES)
    assert fields[:6] == ["key", "index", "attempt", "seconds", "exit_code", "machine"]
    assert fields[6:] == ["error", "nan", "loss", "tags", "note", "ok"]
    text = "".join(formats.csv_text(OUTCOMES, fields))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["key"] for row in rows] == ["plain", NASTY, "--key", "well"]
    assert (rows[0]["loss"], rows[0]["tags"], rows[0]["note"]) == (
        "0.25",
        '["a", "b"]',
        'one, two\n"three"',
    )
    assert (rows[3]["loss"], rows[3]["ok"]) == ("", "true")


def test_pandas_opens_the_csv_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("".join(formats.csv_text(OUTCOMES, formats.fields_of(OUTCOMES))), "utf-8")
    frame = pandas.read_csv(path)
    assert list(frame["key"]) == ["plain", NASTY, "--key", "well"]
    assert frame["loss"].dtype == "float64"
    assert frame["loss"].sum() == 0.25


def test_a_table_has_a_row_for_an_item_without_a_record() -> None:
    columns = formats.header(formats.fields_of(OUTCOMES))
    assert columns == ["key", "state", "index", "seconds", "loss", "tags", "note", "ok", "error"]
    rows = list(formats.rows(OUTCOMES, columns))
    assert [row[1] for row in rows] == ["done", "failed", "failed", "missing", "pending", "done"]
    assert not any(set("".join(row)) & {"\n", "\x1b"} for row in rows)
