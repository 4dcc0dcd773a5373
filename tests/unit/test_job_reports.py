"""Reports of jobs of nodes that train as one, from situations of real jobs."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from kij_train import diagnosis
from kij_train.arrays import junit
from kij_train.commands import Address
from kij_train.diagnosis import JobView
from kij_train.github.annotations import lines, of_nodes
from kij_train.jobs.report import JobReport, as_json, as_markdown, as_text, checks
from kij_train.jobs.status import JobStatus

FOLDER = Path(__file__).parent / "situations"
ALL = sorted(path.stem for path in FOLDER.glob("*.json"))


def report(name: str) -> JobReport:
    found = json.loads((FOLDER / f"{name}.json").read_text())
    at, job, pods = Address("ml"), JobView(found["job"]), found["pods"]
    events = diagnosis.sorted_events(found["events"])
    verdict = diagnosis.why(job, pods, events, now=found["now"], machines=found["machines"], at=at)
    nodes = diagnosis.nodes_of_job(job, map(diagnosis.node_of, pods))
    failures = {one.index: one for one in diagnosis.failures_of_pods(pods)}
    return JobReport(JobStatus(job, nodes, {}, verdict), failures, at)


def test_a_failed_job_is_told_by_its_first_failure_its_line_and_what_to_do() -> None:
    found = report("exception-on-one-rank")
    assert found.place == "train.py:5"
    text = as_markdown(found)
    assert text.startswith("## ❌ job failed after")
    assert "rank 1" in text.splitlines()[0]
    assert "at `train.py:5`" in text
    assert "ValueError: bad batch" in text
    assert "kij-train logs job -n ml --index 1 --tail 100" in text
    assert "kij-train launch --again job --replace -n ml" in text
    assert as_json(found)["at"] == "train.py:5"
    (line,) = lines(of_nodes(found), str)
    assert line.startswith("::error file=train.py,line=5,title=job failed after")


def test_in_junit_the_node_that_ended_the_job_is_the_failure() -> None:
    found = report("exception-on-one-rank")
    (suite,) = ElementTree.fromstring("".join(junit.of_checks("job", checks(found))))
    results = {case.get("name"): [child.tag for child in case] for case in suite}
    assert results == {"job": ["failure"], "index 0": ["error"], "index 1": ["failure"]}
    assert (suite.get("failures"), suite.get("errors")) == ("2", "1")


def test_a_job_that_succeeded_has_nothing_to_do() -> None:
    found = report("succeeded")
    assert found.exit_code == 0
    assert as_markdown(found).startswith("## ✅ job succeeded")
    assert "```" not in as_markdown(found)
    assert not of_nodes(found)
    assert not any(check.word for check in checks(found))


@pytest.mark.parametrize("name", ALL)
def test_every_form_tells_of_every_situation(name: str) -> None:
    found = report(name)
    ended = found.status.state.ended
    first = as_markdown(found).splitlines()[0]
    assert first.split()[1] == ("⏳" if not ended else "❌" if found.exit_code else "✅")
    assert as_text(found).strip()
    json.dumps(as_json(found))
    ElementTree.fromstring("".join(junit.of_checks("job", checks(found))))
    told = list(lines(of_nodes(found), str))
    assert len(told) == (1 if ended and found.exit_code else 0)
    assert not any("\x02" in text for text in (as_markdown(found), *told))
