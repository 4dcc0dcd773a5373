"""The job of GitHub Actions that this process runs in: its variables, and the files that it reads.

Sources: https://docs.github.com/actions/reference/variables-reference and
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kij_train.errors import KijError, RequestError
from kij_train.paths import shown

SUMMARY_BYTES = 1024 * 1024
"""Of the summary of a step; GitHub drops all of a larger one."""


@dataclass(frozen=True)
class Job:
    """A job that runs."""

    env: Mapping[str, str]

    @classmethod
    def here(cls) -> Job:
        """This one. Raises RequestError where there is none."""
        if not os.environ.get("GITHUB_STEP_SUMMARY"):
            raise RequestError(
                "--github: GITHUB_STEP_SUMMARY is not set, so this is no job of GitHub Actions",
                hints=("the same text for any other system: --format markdown -o report.md",),
            )
        return cls(os.environ)

    def locate(self, code_dir: Path, file: str) -> str:
        """The path in the repository of a file of the code; empty where it is not there."""
        path = (code_dir / file).resolve()
        root = Path(self.env.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
        inside = path.is_file() and path.is_relative_to(root)
        return path.relative_to(root).as_posix() if inside else ""

    def summarize(self, markdown: str) -> bool:
        """Add to the step's summary; False where no more fits, and then nothing is added."""
        path = Path(self.env["GITHUB_STEP_SUMMARY"])
        data = markdown.encode("utf-8", "backslashreplace") + b"\n"
        there = path.stat().st_size if path.exists() else 0
        if there + len(data) > SUMMARY_BYTES:
            first, _, _ = markdown.partition("\n")
            data = first.encode("utf-8", "backslashreplace") + b"\n"
            if there + len(data) > SUMMARY_BYTES:
                return False
            _append(path, data)
            return False
        _append(path, data)
        return True

    def put_out(self, values: Mapping[str, str]) -> None:
        """Give later steps `steps.ID.outputs.NAME`."""
        target = self.env.get("GITHUB_OUTPUT")
        if not target:
            return
        text = ""
        for name, value in values.items():
            end = f"end-{secrets.token_hex(8)}"  # no value can have it, and so none ends early
            text += f"{name}<<{end}\n{value}\n{end}\n"
        _append(Path(target), text.encode("utf-8", "backslashreplace"))


def _append(path: Path, data: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise KijError(f"{shown(str(path))} cannot be written: {error.strerror}") from None


def event_of(env: Mapping[str, str]) -> dict[str, Any]:
    """What has started the job, as GitHub tells it; {} where nothing is told."""
    path = env.get("GITHUB_EVENT_PATH")
    if not path:
        return {}
    try:
        event = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"GITHUB_EVENT_PATH {shown(path)} cannot be read: {error}") from None
    return event if isinstance(event, dict) else {}
