"""The comment of an evaluation that failed, in docs/comment.md, and its picture, docs/comment.png.

python -m tests.commentpicture

The evaluation runs on this machine, and the comment is what a stub of GitHub's API was given. The
picture is of GitHub's dialect of Markdown, without GitHub's own page around it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

from tests import browser
from tests.commandline import run
from tests.githubapi import github
from tests.kube import ROOT

EXAMPLE = ROOT / "train_examples" / "evaluation"
SCRIPT = """\
import json, os, runpy

with open(os.environ["KIJ_ITEMS_FILE"]) as items:
    longest = max((json.loads(line)["item"] for line in items), key=lambda one: one["a"])
if longest["a"] > 992:
    raise ValueError(f"prompt of {longest['id']} is longer than the context")
runpy.run_path("score_sums.py")
"""
TEXT, PICTURE = ROOT / "docs" / "comment.md", ROOT / "docs" / "comment.png"
CROSS = """<svg width="20" height="20" viewBox="0 0 20 20"><path d="M3 3 17 17 M17 3 3 17"
stroke="#dd2e44" stroke-width="5" stroke-linecap="round"/></svg>"""
"""For fonts without that sign."""
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ font: 14px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif;
  color: #1f2328; margin: 16px; }}
main {{ border: 1px solid #d1d9e0; border-radius: 6px; max-width: 900px; }}
header {{ background: #f6f8fa; border-bottom: 1px solid #d1d9e0; padding: 8px 16px;
  color: #59636e; border-radius: 6px 6px 0 0; }}
article {{ padding: 4px 16px 8px; }}
h2 {{ font-size: 1.5em; border-bottom: 1px solid #d1d9e0b3; padding-bottom: .3em; }}
h3 {{ font-size: 1.25em; margin-bottom: 8px; }}
table {{ border-collapse: collapse; margin-bottom: 16px; font-size: 13px; }}
td, th {{ border: 1px solid #d1d9e0; padding: 4px 10px; }}
tr:nth-child(even) td {{ background: #f6f8fa; }}
code {{ background: #818b981f; border-radius: 6px; padding: .2em .4em;
  font: 85% ui-monospace, "Liberation Mono", monospace; }}
pre {{ background: #f6f8fa; border-radius: 6px; padding: 12px; }}
pre code {{ background: none; padding: 0; }}
</style><main><header><b>github-actions</b> commented</header><article>{}</article></main>
"""


def main() -> int:
    """Evaluate, report, comment, and draw."""
    program = browser.found()
    if program is None:
        print("no Chromium here: apt install chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        body = _comment(folder)
        TEXT.write_text(body, encoding="utf-8")
        page = folder / "page.html"
        markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
        drawn = markdown.render(body).replace("❌", CROSS)
        page.write_text(PAGE.format(drawn), encoding="utf-8")
        (folder / "browser").mkdir()
        with browser.page(program, folder / "browser") as shown:
            shown.open(page)
            shown.prefers("light")
            shown.picture(PICTURE, 940, 100)  # as wide as it is to be, so that it breaks lines so
            height = int(shown.run("document.documentElement.scrollHeight"))
            shown.picture(PICTURE, 940, height)
    print(f"{TEXT}\n{PICTURE}")
    return 0


def _comment(folder: Path) -> str:
    """What a pull request gets."""
    for name in ("sums.jsonl", "baseline.jsonl", "score_sums.py"):
        shutil.copy(EXAMPLE / name, folder)
    (folder / "score.py").write_text(SCRIPT)
    data = ("--data", "sums.jsonl", "--shards", "4", "--baseline", "baseline.jsonl")
    gates = ("--gate", "accuracy >= 0.8", "--gate", "accuracy drop <= 0.02")
    run(folder, "eval", "--local", "--name", "sums-pr12", *data, *gates, "score.py")
    run(folder, "report", "sums-pr12", "--format", "markdown", "-o", "report.md")
    with github() as hub:
        env = {**hub.env, "GITHUB_EVENT_PATH": ""}
        said = run(folder, "comment", "report.md", "--name", "sums", "--pull-request", "7", **env)
        assert said.returncode == 0, said.stderr
        return hub.bodies()[0]


if __name__ == "__main__":
    sys.exit(main())
