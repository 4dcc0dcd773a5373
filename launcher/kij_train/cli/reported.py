"""What `report` tells of: an array, or a job of nodes that train as one; each in every form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kij_train.arrays import report as reports
from kij_train.arrays.findings import Findings, findings_in
from kij_train.arrays.gates import Verdict
from kij_train.arrays.gates import exit_code as code_of_gates
from kij_train.arrays.objective import Objective
from kij_train.arrays.report import Report
from kij_train.arrays.store import ArrayFolder
from kij_train.arrays.view import Live, outcomes_of
from kij_train.cli.array_end import report_of
from kij_train.cli.findings import exit_code_of, print_findings
from kij_train.cli.onarray import opened, up_to_date
from kij_train.cli.where import connect
from kij_train.errors import RequestError, UnreachableError
from kij_train.pod.itemplan import compress_numbers

if TYPE_CHECKING:
    from kij_train.github.annotations import Annotation
    from kij_train.jobs.report import JobReport

FORMATS = ("text", "markdown", "json", "junit", "html")
_WORDS = {code_of_gates(verdict): verdict.value for verdict in Verdict}
RUNNING = "running"


class Reported(Protocol):
    """Something that has become of a job."""

    @property
    def exit_code(self) -> int:
        """0 where all is well, 6 where a gate could not decide."""

    @property
    def code_dir(self) -> Path:
        """The folder of the code, as far as it is known."""

    def pieces(self, form: str) -> Iterable[str]:
        """The report in one of FORMATS."""

    def print_more(self) -> None:
        """On a terminal, what is behind the text."""

    def annotations(self) -> list[Annotation]:
        """For GitHub."""

    def outputs(self) -> dict[str, str]:
        """For later steps of a job of GitHub Actions."""


def reported(
    name: str, params: dict[str, Any], objective: Objective | None, *, with_picture: bool
) -> Reported:
    """What has the name. Raises UnreachableError where nothing has it."""
    try:
        folder, cluster = opened(name, params)
    except UnreachableError:
        job = _of_nodes(name, params)
        if job is None:
            raise
        return job
    live = up_to_date(folder, cluster)
    report = report_of(folder, live)
    findings = findings_in(folder, report, live, objective, with_picture=with_picture)
    return OfArray(folder, live, report, findings)


def _of_nodes(name: str, params: dict[str, Any]) -> OfNodes | None:
    from kij_train import jobs
    from kij_train.jobs.report import report_of as report_of_job

    try:
        cluster = connect(params)
        job = jobs.get(cluster, name)
    except UnreachableError:
        return None
    return None if job.array is not None else OfNodes(report_of_job(cluster, job))


@dataclass(frozen=True)
class OfArray:
    """An array, and what it has found."""

    folder: ArrayFolder
    live: Live
    report: Report
    findings: Findings | None = field(default=None)

    @property
    def exit_code(self) -> int:
        return exit_code_of(self.report, self.findings)

    @property
    def code_dir(self) -> Path:
        return Path.cwd() / str(self.folder.about.request.get("code_dir") or ".")

    def pieces(self, form: str) -> Iterable[str]:
        report, findings = self.report, self.findings
        if form == "junit":
            from kij_train.arrays import junit

            checks = () if findings is None else findings.checks
            return junit.pieces(report, outcomes_of(self.folder, self.live), checks)
        if form == "html":
            from kij_train.arrays import page

            return [page.as_html(report, findings)]
        if form == "json":
            told = reports.as_json(report)
            if findings is not None:
                told[findings.kind] = findings.json
            return [_json(told)]
        if form == "markdown":
            return [reports.as_markdown(report) if findings is None else findings.markdown]
        return [reports.as_text(report)]

    def print_more(self) -> None:
        if self.findings is not None:
            print_findings(self.findings)

    def annotations(self) -> list[Annotation]:
        from kij_train.github import annotations

        checks = () if self.findings is None else self.findings.checks
        return annotations.of_array(self.report, checks)

    def outputs(self) -> dict[str, str]:
        summary = self.report.summary
        goes_on = self.report.state == RUNNING
        return {
            "verdict": RUNNING if goes_on else _WORDS.get(self.exit_code, Verdict.FAIL.value),
            "exit-code": str(self.exit_code),
            "failed-indexes": compress_numbers(sorted(summary.failed_indexes)),
            "missing-indexes": compress_numbers(sorted(summary.missing_indexes)),
        }


@dataclass(frozen=True)
class OfNodes:
    """A job of nodes that train as one, which is on a cluster."""

    report: JobReport

    @property
    def exit_code(self) -> int:
        return self.report.exit_code

    @property
    def code_dir(self) -> Path:
        from kij_train.spec import values_of

        request = values_of(self.report.status.job.raw) or {}
        return Path.cwd() / str(request.get("code_dir") or ".")

    def pieces(self, form: str) -> Iterable[str]:
        from kij_train.jobs import report as reports_of_jobs

        if form == "html":
            raise RequestError(
                f"{self.report.name} is no array: its report has no page",
                hints=(self.report.at.on_job("report", self.report.name, "--format", "markdown"),),
            )
        if form == "junit":
            from kij_train.arrays import junit

            return junit.of_checks(self.report.name, reports_of_jobs.checks(self.report))
        if form == "json":
            return [_json(reports_of_jobs.as_json(self.report))]
        if form == "markdown":
            return [reports_of_jobs.as_markdown(self.report)]
        return [reports_of_jobs.as_text(self.report)]

    def print_more(self) -> None:
        """There is no more."""

    def annotations(self) -> list[Annotation]:
        from kij_train.github import annotations

        return annotations.of_nodes(self.report)

    def outputs(self) -> dict[str, str]:
        ended = self.report.status.state.ended
        verdict = Verdict.FAIL if self.exit_code else Verdict.PASS
        return {
            "verdict": verdict.value if ended else RUNNING,
            "exit-code": str(self.exit_code),
            "failed-indexes": compress_numbers(sorted(self.report.failed)),
            "missing-indexes": "",
        }


def _json(told: dict[str, Any]) -> str:
    text = json.dumps(told, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"
