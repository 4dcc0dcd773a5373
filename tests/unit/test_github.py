"""Annotations, summary and outputs of a job of GitHub Actions, and the comment, against its API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kij_train.arrays.gates import Verdict
from kij_train.arrays.junit import Check
from kij_train.arrays.outcomes import Outcome, State
from kij_train.arrays.report import Report
from kij_train.arrays.summary import summary_of
from kij_train.cli import main
from kij_train.errors import RequestError
from kij_train.github import comment
from kij_train.github.annotations import MOST, Annotation, lines, of_array
from kij_train.github.api import Repository
from kij_train.github.job import SUMMARY_BYTES, Job, event_of

from tests.githubapi import GitHub, github

REPORT = "## ❌ sums: fail\n\nfailed in index 3 · `kij-train rerun sums --failed`\n"
OLDER = "<!-- kij-train: sums 99.1 -->\n## ✅ sums: pass\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GitHub]:
    """The API, and a job of a pull request in this process, whose folder has report.md."""
    with github() as hub:
        for name, value in hub.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        Path("report.md").write_text(REPORT, encoding="utf-8")
        event(monkeypatch, {"pull_request": {"number": 7, "head": {"sha": "a" * 40}}})
        yield hub


def event(monkeypatch: pytest.MonkeyPatch, told: object) -> None:
    path = Path("event.json").absolute()
    path.write_text(json.dumps(told))
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(path))


def say(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main(["comment", "report.md", "--name", "sums", *argv])
    return code, capsys.readouterr().err


# --- the comment ----------------------------------------------------------------------------------


def test_a_comment_is_made_once_and_then_brought_up_to_date(
    hub: GitHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("Looks good to me.", {"login": "ann", "type": "User"}, "MEMBER")
    code, said = say(capsys)
    assert (code, "made https://github.example/team/model/pull/7" in said) == (0, True)
    body = hub.bodies()[-1]
    assert body.splitlines()[1] == REPORT.splitlines()[0]
    assert "[Run 100](https://github.example/team/model/actions/runs/100)" in body
    assert "commit aaaaaaaaaaaa" in body

    Path("report.md").write_text("## ✅ sums: pass\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_RUN_ID", "101")
    code, said = say(capsys)
    assert (code, "updated" in said, len(hub.comments)) == (0, True, 2)
    assert "✅ sums: pass" in hub.bodies()[-1]


def test_a_comment_is_found_behind_hundreds_of_others(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(230):
        hub.add(f"remark {number}")
    hub.add(OLDER)
    assert say(capsys)[0] == 0
    assert len(hub.comments) == 231
    assert "❌ sums" in hub.bodies()[-1]


def test_reports_of_two_names_are_two_comments(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sums", "words", "sums"):
        assert main(["comment", "report.md", "--name", name]) == 0
    assert [body.split()[2] for body in hub.bodies()] == ["sums", "words"]


def test_the_report_of_an_older_run_leaves_that_of_a_newer_one(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = OLDER.replace("99.1", "100.2")
    hub.add(newer)
    code, said = say(capsys)
    assert (code, "a newer run, 100, has reported" in said) == (0, True)
    assert hub.bodies() == [newer]


def test_a_comment_of_a_stranger_with_our_marker_is_not_ours(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(OLDER, {"login": "mallory", "type": "User"}, "CONTRIBUTOR")
    assert say(capsys)[0] == 0
    assert hub.bodies()[0] == OLDER
    assert len(hub.comments) == 2


@pytest.mark.parametrize("first", [90, 110], ids=["the-older", "the-newer"])
def test_of_two_reports_at_once_one_comment_is_left_that_of_the_newer_run(
    hub: GitHub, capsys: pytest.CaptureFixture[str], first: int
) -> None:
    """Both look before either has written."""
    other = f"<!-- kij-train: sums {first}.1 -->\nthat of the other"

    def race(what: str) -> None:
        if what.startswith("POST") and not hub.comments:
            hub.add(other)

    hub.before = race
    assert say(capsys)[0] == 0
    assert len(hub.comments) == 1
    assert ("that of the other" in hub.bodies()[0]) is (first > 100)


def test_two_reports_at_once_leave_one_comment(hub: GitHub) -> None:
    both_have_looked = threading.Barrier(2, timeout=60)
    looks = iter([True, True])

    def race(what: str) -> None:
        if what.startswith("GET") and next(looks, False):
            both_have_looked.wait()

    hub.before = race
    source = comment.Source.of(hub.env, {})
    marker = comment.Marker("sums", (source.number, source.attempt))
    body = comment.body_of(marker, REPORT, source)
    repository = Repository(hub.env)
    threads = [
        threading.Thread(target=comment.put, args=(repository, 7, marker, body)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hub.comments) == 1


def test_a_comment_that_is_deleted_meanwhile_is_made_again(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(OLDER)

    def deleted(what: str) -> None:
        if what.startswith("PATCH"):
            hub.comments.clear()

    hub.before = deleted
    assert say(capsys)[0] == 0
    assert len(hub.comments) == 1
    assert "❌ sums" in hub.bodies()[0]


def test_a_server_that_is_busy_is_asked_again(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = iter([(503, None), (429, {"message": "slow down"})])
    hub.before = lambda what: next(busy, None)
    assert say(capsys)[0] == 0
    assert len(hub.comments) == 1


def test_a_token_that_may_only_read_is_told_what_a_fork_needs(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.writable = False
    code, said = say(capsys)
    assert (code, hub.bodies()) == (3, [])
    assert "403 Resource not accessible by integration" in said
    assert "pull-requests: write" in said
    assert "workflow_run" in said


def test_without_a_token_nothing_is_asked(
    hub: GitHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "")
    code, said = say(capsys)
    assert (code, hub.asked) == (2, [])
    assert "GITHUB_TOKEN: ${{ github.token }}" in said


def test_a_token_that_is_none_is_refused_and_never_shown(
    hub: GitHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_somebody_elses")
    code, said = say(capsys)
    assert (code, "401 Bad credentials" in said, "ghp_" in said) == (3, True, False)


def test_a_report_that_is_too_long_ends_at_a_line_and_leaves_nothing_open(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for rest in ("x" * 70_000, "<details><summary>more</summary>\n\n```sh\n" + "a line\n" * 20_000):
        Path("report.md").write_text(REPORT + rest, encoding="utf-8")
        assert say(capsys)[0] == 0
        (body,) = hub.bodies()
        assert len(body) <= 65_536
        assert body.splitlines()[1] == REPORT.splitlines()[0]
        assert "too long for a comment" in body
        assert body.count("\n```") % 2 == 0
        assert body.count("<details>") == body.count("</details>")


def test_a_job_of_no_pull_request_has_nothing_to_comment_on(
    hub: GitHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    event(monkeypatch, {"ref": "refs/heads/main"})
    code, said = say(capsys)
    assert (code, "no pull request" in said, hub.asked) == (0, True, [])
    monkeypatch.delenv("GITHUB_EVENT_PATH")
    code, said = say(capsys)
    assert (code, "--pull-request N" in said) == (2, True)
    assert say(capsys, "--pull-request", "7")[0] == 0
    assert len(hub.comments) == 1


def test_the_pull_request_of_a_fork_is_that_of_the_commit_that_ran(
    hub: GitHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {
        "id": 55,
        "run_attempt": 2,
        "html_url": "https://github.example/team/model/actions/runs/55",
        "head_sha": "b" * 40,
        "head_branch": "fix",
        "head_repository": {"owner": {"login": "ann"}},
    }
    event(monkeypatch, {"workflow_run": run})
    hub.pull_requests = [{"number": 7, "head": {"sha": "c" * 40}}]
    code, said = say(capsys)
    assert (code, "no open pull request" in said, hub.comments) == (0, True, {})
    hub.pull_requests = [{"number": 7, "head": {"sha": "b" * 40}}]
    assert say(capsys)[0] == 0
    (body,) = hub.bodies()
    assert body.startswith("<!-- kij-train: sums 55.2 -->\n")
    assert "[Run 55](https://github.example/team/model/actions/runs/55)" in body


@pytest.mark.parametrize("name", ["", "a b", "x-->", "-x", "é", "a" * 64])
def test_a_name_that_a_marker_cannot_hold_is_refused(
    hub: GitHub, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["comment", "report.md", "--name", name]) == 2
    assert not hub.asked
    with pytest.raises(RequestError):
        comment.check_name(name)


def test_a_report_that_is_not_there_or_empty_is_refused(
    hub: GitHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["comment", "none.md"]) == 2
    assert "none.md cannot be read" in capsys.readouterr().err
    Path("report.md").write_text("\n")
    assert say(capsys) == (2, "error: report.md is empty\n")


# --- annotations ----------------------------------------------------------------------------------


def read(line: str) -> tuple[str, dict[str, str], str]:
    """As the runner reads it (ActionCommand.cs of actions/runner)."""
    assert "\n" not in line
    _, head, message = line.split("::", 2)
    level, _, told = head.partition(" ")
    facts = dict(each.split("=", 1) for each in told.split(","))
    for code, text in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        facts = {name: value.replace(code, text) for name, value in facts.items()}
        message = message if code in ("%2C", "%3A") else message.replace(code, text)
    return level, facts, message


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_annotation_carries_any_text(title: str, message: str) -> None:
    found = Annotation("error", title or "x", message, "a,b:c.py:12")
    line = found.line(lambda file: f"src/{file}")
    assert not {"\n", "\r"} & set(line)
    level, facts, said = read(line)
    assert (level, facts["file"], facts["line"]) == ("error", "src/a,b:c.py", "12")
    assert (facts["title"], said) == (title or "x", message)


def outcome(at: int, error: str, place: str = "") -> Outcome:
    record = {"key": str(at), "error": error, "error_at": place}
    return Outcome(at, f"k{at}", at, State.FAILED, error, 1, "host", 0, 1.0, (record,))


def array(outcomes: list[Outcome]) -> Report:
    return Report("sums", "namespace ml", 99, 1, "ended", summary_of(outcomes), " -n ml")


def test_a_cause_is_one_annotation_at_its_line() -> None:
    found = of_array(array([outcome(n, "ValueError: bad", "score.py:12") for n in (3, 7, 8)]))
    (line,) = lines(found, lambda file: f"eval/{file}")
    level, facts, message = read(line)
    assert (level, facts["file"], facts["line"]) == ("error", "eval/score.py", "12")
    assert facts["title"] == "sums: 3 items failed"
    assert "index 3,7-8" in message
    assert "kij-train replay sums --key k3 -n ml" in message


def test_more_causes_than_github_shows_are_counted_in_the_last_one() -> None:
    words = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
        "nu",
    ]
    found = of_array(
        array([outcome(n, f"{word} is bad", f"{word}.py:1") for n, word in enumerate(words)]),
        [Check("acc >= 0.9", "failure", "fail", "acc is 0.5")],
    )
    told = [read(line) for line in lines(found, str)]
    assert len(told) == MOST
    assert told[0][2] == "acc >= 0.9: acc is 0.5"
    assert told[-1][2] == "5 more items, of 5 more causes"


def test_a_gate_that_cannot_tell_is_a_warning_and_one_that_passes_is_none() -> None:
    found = of_array(
        array([]),
        [
            Check("acc >= 0.5", "", Verdict.PASS.value, "acc is 0.8"),
            Check("acc >= 0.8", "error", Verdict.UNDECIDED.value, "acc is 0.8"),
        ],
    )
    assert [(one.level, one.message) for one in found] == [("warning", "acc >= 0.8: acc is 0.8")]


def test_a_file_that_the_repository_has_not_is_told_in_the_text(tmp_path: Path) -> None:
    (tmp_path / "repo/src").mkdir(parents=True)
    (tmp_path / "repo/src/score.py").touch()
    (tmp_path / "outside.py").touch()
    job = Job({"GITHUB_WORKSPACE": str(tmp_path / "repo")})
    src = tmp_path / "repo/src"
    assert job.locate(src, "score.py") == "src/score.py"
    assert job.locate(src, "gone.py") == ""
    assert job.locate(src, "../../outside.py") == ""
    line = Annotation("error", "t", "bad", "gone.py:3").line(lambda file: job.locate(src, file))
    assert line == "::error title=t::bad%0Aat gone.py:3"


# --- summary and outputs --------------------------------------------------------------------------


def test_a_summary_that_is_full_gets_the_first_line_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    job = Job({"GITHUB_STEP_SUMMARY": str(path)})
    assert job.summarize(REPORT)
    assert path.read_text(encoding="utf-8") == REPORT + "\n"
    path.write_bytes(b"x" * (SUMMARY_BYTES - 40))
    assert not job.summarize(REPORT)
    assert path.read_text(encoding="utf-8").endswith("## ❌ sums: fail\n")
    assert not job.summarize(REPORT)
    assert path.stat().st_size <= SUMMARY_BYTES


def test_no_value_of_an_output_can_make_another_one(tmp_path: Path) -> None:
    path = tmp_path / "output"
    Job({"GITHUB_OUTPUT": str(path)}).put_out({"a": "1\nend\nb=2", "c": ""})
    written = path.read_text().splitlines()
    end = written[0].removeprefix("a<<")
    assert written[1:5] == ["1", "end", "b=2", end]


def test_outside_of_github_the_flag_names_the_way_for_other_systems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "sums", "--github"]) == 2
    assert "--format markdown -o report.md" in capsys.readouterr().err


def test_an_event_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "event").write_text("{")
    with pytest.raises(RequestError, match="GITHUB_EVENT_PATH"):
        event_of({"GITHUB_EVENT_PATH": str(tmp_path / "event")})
    assert event_of({}) == {}
