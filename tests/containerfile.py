"""The Containerfile, read step by step, and its steps as a shell runs them, without containers.

What a build tool does and this does not: the base image, the user, and the isolation. The paths
that files are copied to are below a folder; the commands run in an environment of their own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.kube import ROOT

FILE = ROOT / "Containerfile"


@dataclass(frozen=True)
class Step:
    """An instruction and what stands behind it."""

    name: str
    text: str


def steps(text: str) -> list[Step]:
    """The instructions of a Containerfile; a backslash joins lines."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [Step(*line.split(maxsplit=1)) for line in lines]


@dataclass
class Build:
    """A build below a folder; `env` has the PATH of the environment that RUN sees."""

    folder: Path
    env: dict[str, str]
    args: Mapping[str, str] = field(default_factory=dict)
    """Values of ARG, as with --build-arg."""
    workdir: str = "/"

    def at(self, path: str) -> Path:
        """Where an absolute path of the image is."""
        return self.folder / path.strip("/")

    def run(self, step: Step) -> None:
        """Do a step. Raises CalledProcessError, and FileNotFoundError for what is not copied."""
        match step.name:
            case "ARG":
                name, _, default = step.text.partition("=")
                self.env[name] = self.args.get(name, default)
            case "ENV":
                pairs = (each.partition("=") for each in step.text.split())
                self.env |= {name: value for name, _, value in pairs}
            case "COPY":
                *sources, target = step.text.split()
                for source in sources:
                    self._copy(ROOT / source, self.at(target), whole=len(sources) == 1)
            case "WORKDIR":
                self.workdir = step.text
                self.at(step.text).mkdir(parents=True, exist_ok=True)
            case "RUN":
                command = re.sub(r"(?<=[\s\"])/src", str(self.at("/src")), step.text)
                self.shell(command)
            case "FROM" | "USER" | "CMD":
                pass
            case _:
                raise AssertionError(f"{step.name} is not known here")

    def shell(self, command: str) -> None:
        """Run a command in the folder that is the image's working directory."""
        at = self.at(self.workdir)
        subprocess.run(["sh", "-ec", command], cwd=at, env={**os.environ, **self.env}, check=True)

    def _copy(self, source: Path, target: Path, *, whole: bool) -> None:
        if source.is_dir():
            skipped = shutil.ignore_patterns("__pycache__", ".kij-train", "out")
            shutil.copytree(source, target, ignore=skipped, dirs_exist_ok=True)
        else:
            into = target if not whole else target.parent
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into)


def main(folder: str, index: str) -> None:
    """Build, and run what its head says: the smallest example, and the version."""
    shutil.rmtree(folder, ignore_errors=True)
    build = Build(Path(folder).resolve() / "root", {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    build.args = {"TORCH_INDEX": index}
    build.folder.mkdir(parents=True)
    for step in steps(FILE.read_text(encoding="utf-8")):
        print(step.name, step.text, flush=True)
        build.run(step)
    build.shell("kij-train --version")
    build.shell("kij-train launch --local --nodes 2 hello_ranks.py")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the steps of the Containerfile")
    parser.add_argument("folder")
    parser.add_argument("--torch-index", default="https://download.pytorch.org/whl/cpu")
    given = parser.parse_args()
    main(given.folder, given.torch_index)
