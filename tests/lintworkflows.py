"""Workflows and actions, and those in docs/, by zizmor and actionlint: `make lint` runs it.

actionlint is built by Go, from the module proxy. Without Go it is left out, which in CI (`CI=true`)
is a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.kube import ROOT

ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
_OURS = re.compile(r"OWNER/kij-train/(\.github/\S+)@main")


def examples() -> dict[str, str]:
    """The whole workflows in docs/, by a name of a file."""
    found = {}
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for number, text in enumerate(_BLOCK.findall(page.read_text(encoding="utf-8"))):
            if "\njobs:\n" in text:
                found[f"{page.stem}-{number}.yml"] = text
    return found


def main() -> int:
    """Run both; 0 where neither has found anything."""
    code = 0
    zizmor = Path(sys.executable).parent / "zizmor"
    if sys.version_info < (3, 11) and not zizmor.exists():
        print("zizmor is left out: it takes Python 3.11", file=sys.stderr)
    else:
        argv = ("--offline", "--quiet", "--strict-collection", ".github")
        code = subprocess.call([zizmor, *argv], cwd=ROOT)
    if shutil.which("go") is None:
        print("actionlint is left out: it takes Go", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else code
    with tempfile.TemporaryDirectory() as scratch:
        # A repository of its own, in which our workflow and action are the ones that examples use,
        # so that what they are given is checked, too.
        Path(scratch, ".git").mkdir()
        folder = Path(shutil.copytree(ROOT / ".github", Path(scratch, ".github"))) / "workflows"
        for name, text in examples().items():
            yaml.safe_load(text)
            (folder / name).write_text(_OURS.sub(r"./\1", text), encoding="utf-8")
        return max(code, subprocess.call(["go", "run", ACTIONLINT], cwd=scratch))


if __name__ == "__main__":
    sys.exit(main())
