"""The site of docs/ and the README: every link leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import docsite


def test_the_site_is_built_and_no_link_of_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("zensical", reason="takes the extra `docs`, and Python 3.11")
    assert docsite.main() == 0, capfd.readouterr().err
    pages = list((docsite.BUILD / "site").rglob("*.html"))
    assert len(pages) > len(list(docsite.DOCS.glob("*.md")))
    for page in pages:
        assert '<script src="http' not in page.read_text(encoding="utf-8"), page


def test_a_link_to_what_is_not_there_is_named(tmp_path: Path) -> None:
    page = docsite.DOCS / "index.md"
    site = docsite.Site(docsite.DOCS, tmp_path, set())
    with pytest.raises(docsite.BrokenLinkError, match=r"index.md links to \.\./no.py"):
        site.link("../no.py", page, tmp_path / page.name)
