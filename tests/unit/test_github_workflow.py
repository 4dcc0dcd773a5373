"""The reusable workflow and the action, as far as they need no cluster: run as GitHub runs them."""

from __future__ import annotations

import base64
import http.server
import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from kij_train.cli import main
from kij_train.github import identity

from tests.githubapi import GitHub, github
from tests.kube import ROOT
from tests.workflows import JOB, REPORT, Runner

EXAMPLE = ROOT / "train_examples/evaluation"
FORK_HINT = "pull requests from forks get no secrets"


@pytest.fixture
def hub() -> Iterator[GitHub]:
    with github() as hub:
        yield hub


@pytest.fixture
def runner(tmp_path: Path, hub: GitHub) -> Runner:
    """A run for pull request 7 of a repository with an evaluation in a folder."""
    folder = tmp_path / "repo/eval"
    folder.mkdir(parents=True)
    for name in ("sums.jsonl", "score_sums.py"):
        shutil.copy(EXAMPLE / name, folder)
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7, "head": {"sha": "a" * 40}}}))
    env = {"GITHUB_RUN_NUMBER": "57", "GITHUB_EVENT_PATH": str(event), **hub.env}
    runner = Runner(tmp_path / "repo", tmp_path / "temp", env)
    runner.context["github.event.pull_request.number"] = "7"
    runner.context["needs.image.outputs.image"] = ""
    return runner


def called(runner: Runner, **inputs: str) -> Callable[[str], tuple[int, str]]:
    given = {"name": "sums", "command": "eval", "args": "x", "working_directory": "eval"} | inputs
    runner.use(JOB, **given)
    return lambda name: runner.run(JOB, name, "run")


# --- the workflow ---------------------------------------------------------------------------------


def test_a_job_is_named_by_its_pull_request_or_else_by_its_run(runner: Runner) -> None:
    step = called(runner)
    assert step("Name the job")[0] == 0
    assert runner.outputs() == {"name": "sums-pr7"}
    runner.context["github.event.pull_request.number"] = ""
    step("Name the job")
    assert runner.outputs() == {"name": "sums-57"}


def test_another_command_is_refused_before_anything_runs(runner: Runner) -> None:
    code, said = called(runner, command="delete --all")("Name the job")
    assert (code, "and not launch, map, sweep or eval" in said) == (2, True)


def test_without_a_way_to_the_cluster_a_fork_is_told_why(runner: Runner) -> None:
    code, said = called(runner)("Find the cluster")
    assert (code, FORK_HINT in said) == (2, True)


def test_a_kubeconfig_is_for_its_user_alone_and_is_not_printed(runner: Runner) -> None:
    runner.context["secrets.kubeconfig"] = "apiVersion: v1\nusers: $HOME `id`"
    code, said = called(runner)("Find the cluster")
    path = runner.temp / "kubeconfig"
    assert (code, said) == (0, "")
    assert path.read_text() == "apiVersion: v1\nusers: $HOME `id`\n"
    assert path.stat().st_mode & 0o077 == 0


def test_arguments_reach_the_command_as_they_are_quoted_and_nothing_is_expanded(
    runner: Runner, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kij-train").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > "$RUNNER_TEMP/argv"\nexit 6\n'
    )
    (programs / "kij-train").chmod(0o755)
    runner.env["PATH"] = f"{programs}:{runner.env['PATH']}"
    words = ["--gate", "accuracy >= 0.8", "--env", "A=$(id) `id` $HOME *", "score.py", "", "--x"]
    args = " ".join(map(shlex.quote, words[:2])) + "\n  " + " ".join(map(shlex.quote, words[2:]))
    runner.context |= {
        "steps.name.outputs.name": "sums-pr7",
        "needs.image.outputs.image": "ghcr.example/team/model@sha256:0",
    }
    code, _ = called(runner, args=args, namespace="ml")("Run the job")
    assert (code, runner.outputs()) == (6, {"code": "6"})
    given = (runner.temp / "argv").read_text().splitlines()
    fixed = ["eval", "--name", "sums-pr7", "--replace", "--namespace", "ml", "--image"]
    assert given == [*fixed, "ghcr.example/team/model@sha256:0", *words]


def test_a_request_that_is_wrong_is_told_in_the_report_that_the_comment_gets(
    runner: Runner, hub: GitHub
) -> None:
    runner.context["secrets.kubeconfig"] = "{}"
    step = called(runner, args="--data none.jsonl --image x score_sums.py")
    step("Name the job")
    assert step("Run the job")[0] == 2
    code, said = step("Report")
    assert code == 0
    assert "::error title=sums-pr7::error: --data none.jsonl: cannot be read" in said
    report = (runner.temp / "report/report.md").read_text(encoding="utf-8")
    assert report.startswith("## ❌ sums-pr7: exit code 2\n")
    assert report in runner.summary()
    assert runner.outputs()["artifact"] == "kij-train-sums-pr7"
    shutil.copy(runner.temp / "report/report.md", runner.temp.parent / "repo")
    assert runner.run(JOB, "Comment", "comment")[0] == 0
    assert "sums-pr7: exit code 2" in hub.bodies()[0]


def test_an_image_is_run_by_the_digest_that_was_pushed(runner: Runner, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text(
        '#!/bin/sh\nprintf "%s " "$@" >> "$RUNNER_TEMP/said"; echo >> "$RUNNER_TEMP/said"\n'
        'case $1 in login) cat > "$RUNNER_TEMP/password" ;;\n'
        'inspect) echo "ghcr.io/team/model@sha256:12" ;; esac\n'
    )
    (programs / "docker").chmod(0o755)
    runner.env |= {"PATH": f"{programs}:{runner.env['PATH']}", "GITHUB_REPOSITORY": "Team/Model"}
    runner.context["github.actor"] = "ann"
    runner.use(JOB, name="sums", args="x", dockerfile="Dockerfile")
    assert runner.run(JOB, "Build the image and push it", "image")[0] == 0
    assert runner.outputs() == {"image": "ghcr.io/team/model@sha256:12"}
    said = (runner.temp / "said").read_text()
    tag = f"ghcr.io/team/model:{'f' * 40}"
    assert f"build --tag {tag} --file Dockerfile . \npush {tag} \n" in said
    assert (runner.temp / "password").read_text() == runner.context["github.token"]
    assert runner.context["github.token"] not in said


def test_each_job_of_the_workflow_has_the_least_rights() -> None:
    document = yaml.safe_load(JOB.read_text())
    assert document["permissions"] == {}
    assert {name: job["permissions"] for name, job in document["jobs"].items()} == {
        "image": {"contents": "read", "packages": "write"},
        "run": {"contents": "read", "id-token": "write"},
        "comment": {"pull-requests": "write"},
    }


def test_what_others_wrote_is_pinned_by_its_commit_and_no_script_is_made_of_expressions() -> None:
    for path in (ROOT / ".github").rglob("*.yml"):
        text = path.read_text()
        for uses in re.findall(r"uses: (\S+)", text):
            assert uses.startswith(("./", "OWNER/")) or re.search(r"@[0-9a-f]{40}$", uses), uses
        assert "secrets: inherit" not in text


# --- the action -----------------------------------------------------------------------------------


def test_the_action_reports_an_array_that_failed_on_this_machine(
    runner: Runner, hub: GitHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runner.temp.parent / "repo/eval"
    monkeypatch.chdir(folder)
    (folder / "third.py").write_text("import sys\nassert int(sys.argv[1]) % 3\n")
    assert main(["map", "--local", "--name", "thirds", "--range", "1:5", "third.py", "{item}"]) == 1
    capsys.readouterr()
    runner.use(REPORT, name="thirds", working_directory="eval")
    code, said = runner.run(REPORT, "Report")
    assert code == 0
    assert "::error file=eval/third.py,line=2,title=thirds%3A 1 item failed::AssertionError" in said
    assert runner.summary().startswith("## ❌ thirds: done 3, failed 1\n")
    facts = {"verdict": "fail", "exit-code": "1", "failed-indexes": "2", "missing-indexes": ""}
    assert runner.outputs() == facts
    junit = (runner.temp / "kij-train-report/junit.xml").read_text()
    assert '<testsuite name="thirds" tests="4" failures="1" errors="0"' in junit
    for _ in range(2):
        assert runner.run(REPORT, "Comment")[0] == 0
    (body,) = hub.bodies()
    assert body.splitlines()[1] == "## ❌ thirds: done 3, failed 1"
    assert "failed in index 2 · `kij-train rerun thirds --failed`" in body
    assert "kij-train replay thirds --key 3" in body

    hub.writable = False
    hub.comments.clear()
    code, said = runner.run(REPORT, "Comment")
    assert (code, "workflow_run" in said) == (3, True)


# --- GitHub's token as a credential ---------------------------------------------------------------


class Issuer(http.server.BaseHTTPRequestHandler):
    """Gives tokens that have ended already, and is an API server that takes each of them once."""

    issued: ClassVar[list[str]] = []
    used: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.path.startswith("/token"):
            assert (bearer, "audience=my%20cluster" in self.path) == ("of-the-job", True)
            claims = json.dumps({"exp": int(time.time()) - 60, "n": len(self.issued)}).encode()
            self.issued.append(f"head.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.sig")
            self._answer(200, {"value": self.issued[-1]})
        elif bearer == self.issued[-1] and bearer not in self.used:
            self.used.append(bearer)
            self._answer(200, {"metadata": {"resourceVersion": "1"}, "items": []})
        else:
            self._answer(401, {"kind": "Status", "message": "Unauthorized"})

    def _answer(self, status: int, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def test_a_cluster_is_reached_by_tokens_of_github_each_taken_anew_when_it_has_ended(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        code, said = called(runner, server=url, audience="my cluster")("Find the cluster")
        assert (code, said) == (0, "")
        monkeypatch.setenv("KUBECONFIG", str(runner.temp / "kubeconfig"))
        for name, value in (("URL", f"{url}/token?v=1"), ("TOKEN", "of-the-job")):
            monkeypatch.setenv(f"ACTIONS_ID_TOKEN_REQUEST_{name}", value)
        for _ in range(2):
            assert main(["list", "-n", "ml"]) == 0, capsys.readouterr().err
        assert len(set(Issuer.used)) == len(Issuer.used) >= 2
    finally:
        server.shutdown()
        server.server_close()


def test_without_the_permission_the_plugin_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL", raising=False)
    assert identity.main(["kubernetes"]) == 1
    assert "id-token: write" in capsys.readouterr().err
    assert identity.main([]) == 2
