"""Translations have headings, code, figures, names and links of the English page, and are new."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import translations
from tests.translations import DOCS, LANGUAGES, Page

PAGES = [(language, page) for language in LANGUAGES for page in translations.translated(language)]
each_page = pytest.mark.parametrize(("language", "page"), PAGES, ids=str)


@each_page
def test_a_translation_has_what_its_page_has(language: str, page: Path) -> None:
    """Changed code comes by itself: python -m tests.translations."""
    english, other = Page.read(DOCS / page), Page.read(DOCS / language / page)
    assert translations.differences(english, other) == []


@each_page
def test_the_english_page_is_as_it_was_when_it_was_translated(language: str, page: Path) -> None:
    read = translations.hashes(language).get(page.as_posix())
    assert read == Page.read(DOCS / page).hash, (
        f"docs/{page} has changed: say the same in docs/{language}/{page}, "
        f"then: python -m tests.translations --read {page}"
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_level_and_how_to_page_is_translated(language: str) -> None:
    pages = [*DOCS.glob("level-*.md"), *(DOCS / "how-to").glob("*.md"), DOCS / "index.md"]
    expected = {page.relative_to(DOCS) for page in pages}
    assert len(expected) > 10
    assert expected <= set(translations.translated(language))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_is_in_its_language(language: str) -> None:
    for page in translations.translated(language):
        prose = translations.Page.read(DOCS / language / page).prose
        kana = sum("\u3040" <= one <= "\u30ff" for one in prose)
        assert kana > 100, page


ENGLISH = """\
# One

Take `--nodes 4` of 8, see [two](two.md#b).

    kij-train launch

<!-- runs: on a cluster -->
```console
$ echo 1

$ echo 2
```

| a | b |
|---|---|
| `x|y` | 3 |
"""
JAPANESE = (
    ENGLISH.replace("# One", "# 一")
    .replace("Take", "使うのは")
    .replace("of 8, see", "、全部で 8 、")
)


def _pages(text: str) -> tuple[Page, Page]:
    return Page(DOCS / "one.md", ENGLISH), Page(DOCS / "ja" / "one.md", text)


def test_a_page_is_taken_apart() -> None:
    page = Page(DOCS / "one.md", ENGLISH)
    assert page.blocks[0] == "    kij-train launch"
    assert page.blocks[1:] == [
        "<!-- runs: on a cluster -->",
        "```console\n$ echo 1\n\n$ echo 2\n```",
    ]
    assert (page.headings, page.cells) == ([1], [3, 3, 3])
    assert set(page.names) == {"--nodes 4", "x|y"}
    assert dict(page.figures) == {"8": 1, "3": 1}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# 一", "## 一", "headings differ"),
        ("$ echo 2", "$ echo 3", "blocks differ"),
        (" 8 ", " 9 ", "figures lack 8"),
        ("--nodes 4", "--nodes 5", "names lack --nodes 4"),
        ("two.md#b", "two.md#c", "links lack two.md#b"),
        ("| `x|y` | 3 |\n", "", "cells differ"),
        ("    kij-train launch\n", "", "blocks differ"),
    ],
)
def test_what_differs_is_named(old: str, new: str, said: str) -> None:
    assert translations.differences(*_pages(JAPANESE)) == []
    found = translations.differences(*_pages(JAPANESE.replace(old, new)))
    assert any(each.startswith(said) for each in found), found


def test_code_is_copied_and_the_sentences_stay() -> None:
    english, old = _pages(JAPANESE.replace("echo 2", "echo 1234"))
    text = translations.with_code_of(english, old)
    assert text == JAPANESE
    assert translations.with_code_of(*_pages("no code")) == "no code"
