"""The picture of a report, light and dark, of a real array on this machine.

python -m tests.pictures report
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests import browser, pictures
from tests.kube import ROOT

SCRIPT = """
import json, os, random, sys, time
number, rng = int(sys.argv[1]), random.Random(int(os.environ["KIJ_SEED"]))
time.sleep(rng.gammavariate(2, 0.02))
if rng.random() < 0.03:
    raise ValueError(f"document {number} has no text")
with open(os.environ["KIJ_RESULT_FILE"], "a") as file:
    words = rng.randrange(200, 900)
    print(json.dumps({"words": words, "score": round(rng.random(), 3)}), file=file)
"""


def main() -> int:
    """Map, report, and draw."""
    program = browser.found()
    if program is None:
        print("no Chromium here: apt install chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "score.py").write_text(SCRIPT)
        kij_train = [sys.executable, "-m", "kij_train"]
        array = ["map", "--local", "--name", "scores", "--range", "0:200", "--chunk", "20"]
        subprocess.run([*kij_train, *array, "score.py", "{item}"], cwd=folder, check=False)
        report = ["report", "scores", "--format", "html", "--output", "report.html"]
        subprocess.run([*kij_train, *report], cwd=folder, check=False)
        (folder / "browser").mkdir()
        with browser.page(program, folder / "browser") as page:
            page.open(folder / "report.html")
            for scheme in pictures.SCHEMES:
                page.prefers(scheme)
                page.picture(pictures.file("report", scheme, ".png"), 1000, 1000)
                print(pictures.file("report", scheme, ".png").relative_to(ROOT))
    return 0
