"""What became of a job of nodes that train as one, for people and machines that were not there.

`arrays/report.py` does the same for arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis
from kij_train.arrays.evalreport import escaped
from kij_train.arrays.junit import Check
from kij_train.commands import Address
from kij_train.diagnosis import Failure, JobState, Node, Phase
from kij_train.jobs.asking import pods_of
from kij_train.jobs.status import JobStatus, status_of
from kij_train.paths import shown
from kij_train.pod import contract, records

if TYPE_CHECKING:
    from kij_train.cluster import Cluster
    from kij_train.diagnosis import JobView

_CODE = f"{contract.WORK_DIR}/code"


@dataclass(frozen=True)
class JobReport:
    """All that any form of it shows."""

    status: JobStatus
    failures: dict[int, Failure]
    """The newest of each index that has failed."""
    at: Address

    @property
    def name(self) -> str:
        return self.status.job.name

    @property
    def exit_code(self) -> int:
        """As `wait` has it; 1 for a job that has not ended."""
        error = self.status.verdict.error()
        if error is not None:
            return error.exit_code
        return 0 if self.status.state is JobState.SUCCEEDED else 1

    @property
    def cause(self) -> Failure | None:
        """The failure that ended the job."""
        if self.status.state is not JobState.FAILED:
            return None
        return diagnosis.first_failure(self.failures.values())

    @property
    def place(self) -> str:
        """The line of the code that failed, `train.py:118`; empty where that is not known."""
        cause = self.cause
        if cause is None:
            return ""
        return records.place_of(f"{cause.callstack}\n{cause.message}", _CODE)

    @property
    def failed(self) -> set[int]:
        """Indexes whose nodes have failed."""
        return {node.index for node in self.status.nodes if node.phase is Phase.FAILED}

    def commands(self) -> list[str]:
        """What somebody who reads it may want to do."""
        if self.status.state is JobState.SUCCEEDED:
            return []
        tail = () if self.cause is None else ("--index", str(self.cause.index), "--tail", "100")
        found = [self.at.on_job("logs", self.name, *tail), self.at.on_job("why", self.name)]
        if self.status.state.ended:
            found.append(self.at.command("launch", "--again", self.name, "--replace"))
        return found


def report_of(cluster: Cluster, job: JobView) -> JobReport:
    """Of a job that is there."""
    pods = pods_of(cluster, job.name)
    failures = {one.index: one for one in diagnosis.failures_of_pods(pods)}
    return JobReport(status_of(cluster, job, pods), failures, cluster.address)


def as_text(report: JobReport) -> str:
    """For a terminal."""
    place = f"\n  at {shown(report.place)}" if report.place else ""
    return f"{report.status.verdict.text()}{place}\n"


def as_json(report: JobReport) -> dict[str, Any]:
    """For scripts: what `status -o json` has, and the line that failed."""
    return {**report.status.as_json(), "at": report.place or None}


def as_markdown(report: JobReport) -> str:
    """For a pull request or a job's summary."""
    verdict = report.status.verdict
    sign = {JobState.SUCCEEDED: "✅"}.get(verdict.state, "❌" if verdict.state.ended else "⏳")
    lines = [f"## {sign} {escaped(verdict.headline)}", ""]
    if report.place:
        lines += [f"at `{report.place}`", ""]
    for finding in verdict.findings:
        lines += _fenced("\n".join([finding.summary, *finding.evidence]))
        if finding.hint:
            lines += [f"Try: {escaped(finding.hint)}", ""]
    counts = diagnosis.phases(report.status.nodes)
    said = [f"{phase.value} {count}" for phase, count in counts.items() if count]
    if said:
        lines += [f"Nodes: {', '.join(said)}.", ""]
    if verdict.accounts is not None:
        lines += [escaped(str(verdict.accounts)), ""]
    commands = report.commands()
    lines += ["```sh", *commands, "```"] if commands else []
    return "\n".join(lines).rstrip("\n") + "\n"


def _fenced(text: str) -> Iterator[str]:
    """A block that nothing in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (fence, *map(shown, text.splitlines()), fence, "")


def checks(report: JobReport) -> tuple[Check, ...]:
    """The job and each of its nodes as a test case. The node that ended the job is a failure, one
    that has not done its work, because of that say, an error."""
    verdict = report.status.verdict
    word = "" if verdict.state is JobState.SUCCEEDED else "failure"
    said = "\n".join([as_text(report).rstrip("\n"), *report.commands()])
    of_nodes = [_of_node(report, node) for node in report.status.nodes]
    return (Check(report.name, word, verdict.state.value, said), *of_nodes)


def _of_node(report: JobReport, node: Node) -> Check:
    failure, cause = report.failures.get(node.index), report.cause
    well = node.phase is Phase.DONE or report.status.state is JobState.SUCCEEDED
    is_cause = cause is not None and cause.index == node.index
    word = "" if well else "failure" if is_cause else "error"
    said = [node.phase.value]
    if failure is not None and not well:
        said = [failure.message, failure.callstack]
    where = " ".join(filter(None, (node.pod, node.node)))
    return Check(f"index {node.index}", word, node.phase.value, "\n".join([*said, where]).strip())
