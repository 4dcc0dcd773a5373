"""The steps of our workflows and actions, run as GitHub runs them: same shell, variables, files.

Expressions are looked up in a context that the test gives; those of `if` and of `concurrency` are
GitHub's alone, and a test says itself which steps run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.kube import ROOT

JOB = ROOT / ".github/workflows/job.yml"
REPORT = ROOT / ".github/actions/report/action.yml"
_EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")
_OUTPUT = re.compile(r"([\w-]+)(?:=(.*)|<<(\S+))")


class Runner:
    """One run of a workflow, in a checkout of the user's repository."""

    def __init__(self, checkout: Path, temp: Path, env: Mapping[str, str]) -> None:
        temp.mkdir(parents=True, exist_ok=True)
        self._checkout = checkout
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, **env}
        self.env |= {"RUNNER_TEMP": str(temp), "GITHUB_WORKSPACE": str(checkout)}
        self.temp = temp
        self.context: dict[str, Any] = {
            "runner.temp": str(temp),
            "github.token": env.get("GITHUB_TOKEN", ""),
        }

    def use(self, workflow: Path, **inputs: str) -> None:
        """Call a workflow or an action with these inputs; `_` stands for `-` in their names."""
        document = yaml.safe_load(workflow.read_text())
        on = document.get("inputs") or document[True]["workflow_call"]["inputs"]
        for name, about in on.items():
            default = self._filled(str(about.get("default", "")))
            self.context[f"inputs.{name}"] = inputs.pop(name.replace("-", "_"), default)
        assert not inputs, f"{workflow.name} has no input {list(inputs)}"

    def step(self, workflow: Path, name: str, job: str = "") -> subprocess.Popen[str]:
        """Begin a step. `end` takes its outputs."""
        step = _steps(workflow, job)[name]
        self.temp.joinpath("output").write_text("")
        env = {key: self._filled(str(value)) for key, value in step.get("env", {}).items()}
        script = self.temp / "step.sh"
        assert "${{" not in step["run"], "what a caller writes must not become part of a script"
        script.write_text(step["run"])
        folder = self._filled(step.get("working-directory", "."))
        return subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self._checkout / folder,
            env={
                **self.env,
                "GITHUB_OUTPUT": str(self.temp / "output"),
                "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(
        self, process: subprocess.Popen[str], workflow: Path, name: str, job: str = ""
    ) -> tuple[int, str]:
        """Wait for a step; its exit code and what it printed. Later steps see its outputs."""
        try:
            said, _ = process.communicate(timeout=540)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        self.context |= {
            f"steps.{_steps(workflow, job)[name].get('id')}.outputs.{key}": value
            for key, value in self.outputs().items()
        }
        return process.returncode, said

    def run(self, workflow: Path, name: str, job: str = "") -> tuple[int, str]:
        """A step from start to end."""
        return self.end(self.step(workflow, name, job), workflow, name, job)

    def outputs(self) -> dict[str, str]:
        """What the newest step has put out."""
        found, lines = {}, iter(self.temp.joinpath("output").read_text().splitlines())
        for line in lines:
            match = _OUTPUT.fullmatch(line)
            assert match is not None, line
            name, value, end = match.groups()
            if end is not None:
                value = "\n".join(iter(lambda end=end: next(lines), end))
            found[name] = value
        return found

    def summary(self) -> str:
        """What all steps have written."""
        return (self.temp / "summary").read_text(encoding="utf-8")

    def _filled(self, text: str) -> str:
        return _EXPRESSION.sub(lambda found: self._value(found[1]), text)

    def _value(self, expression: str) -> str:
        for name in expression.split(" || "):
            value = str(self.context.get(name, ""))
            if value:
                return value
        return ""


def _steps(workflow: Path, job: str) -> dict[str, dict[str, Any]]:
    document = yaml.safe_load(workflow.read_text())
    steps = document["jobs"][job]["steps"] if job else document["runs"]["steps"]
    return {step["name"]: step for step in steps if "name" in step}
