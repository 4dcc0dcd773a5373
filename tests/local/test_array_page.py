"""The report as a page, in a real browser: it sorts and filters, and loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kij_train.arrays import page as pages

from tests import browser
from tests.unit.test_array_reports import NASTY, made

COLUMN = """Array.from(document.querySelectorAll("#items tbody tr"))
    .filter((row) => !row.hidden).map((row) => row.cells[%d].textContent)"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[browser.Page]:
    program = browser.found()
    if program is None:
        pytest.skip("no Chromium here: apt install chromium")
    path = tmp_path / "report.html"
    path.write_text(pages.as_html(made(damage=(NASTY,))), encoding="utf-8")
    (tmp_path / "browser").mkdir()
    with browser.page(program, tmp_path / "browser") as shown:
        shown.open(path)
        yield shown


def column(page: browser.Page, number: int) -> list[str]:
    cells: list[str] = page.run(COLUMN % number)
    return cells


def click(page: browser.Page, number: int) -> None:
    page.run(f'document.querySelectorAll("#items th button")[{number}].click()')


def test_the_page_of_a_report_works_in_a_browser(page: browser.Page) -> None:
    # Numbers sort as numbers, cells without one stay at the end, whichever way.
    click(page, 4)
    assert column(page, 4) == ["0.000", "0.500", "1.000", "2.500", "", ""]
    click(page, 4)
    assert column(page, 4) == ["2.500", "1.000", "0.500", "0.000", "", ""]
    click(page, 1)
    assert column(page, 1) == ["done", "done", "failed", "failed", "missing", "pending"]
    # The filters.
    page.run("""{const state = document.getElementById("state"); state.value = "failed";
        state.dispatchEvent(new Event("change"))}""")
    assert sorted(column(page, 0)) == sorted([NASTY, "--key"])
    page.run("""{const filter = document.getElementById("filter"); filter.value = "NO SUCH";
        filter.dispatchEvent(new Event("input"))}""")
    assert column(page, 0) == ["--key"]
    assert page.run('document.getElementById("shown").textContent') == "1 of 6 rows"
    # Both schemes, each readable: the text is lighter than the ground, or darker.
    grounds = {}
    for scheme in ("light", "dark"):
        page.prefers(scheme)
        grounds[scheme] = page.run("getComputedStyle(document.body).backgroundColor")
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}
    assert page.run('document.querySelectorAll("svg.histogram rect").length') > 1
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    # Keys and errors are text: what looks like markup has made nothing.
    assert page.run("document.scripts.length") == 1
    asked = [each["request"]["url"] for each in page.said("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.said("Runtime.exceptionThrown", "Log.entryAdded") == []
    assert page.said("Page.javascriptDialogOpening") == []
