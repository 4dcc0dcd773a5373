"""Which pull request a job is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kij_train.github.api import Repository


def number_in(event: Mapping[str, Any]) -> int | None:
    """The number that the event itself tells."""
    pull_request = event.get("pull_request") or {}
    issue = event.get("issue") or {}
    if "number" in pull_request:
        return int(pull_request["number"])
    return int(issue["number"]) if "pull_request" in issue else None


def number_of_run(repository: Repository, event: Mapping[str, Any]) -> int | None:
    """Of `workflow_run`: the open pull request whose head is the commit that the run was of.

    It is looked up by what GitHub itself says of the run: nothing that a fork can write, such as an
    artifact, decides where we comment. None where a newer commit was pushed meanwhile.
    """
    run = event.get("workflow_run") or {}
    head, sha = run.get("head_repository") or {}, run.get("head_sha")
    owner = (head.get("owner") or {}).get("login")
    if not owner or not sha:
        return None
    for found in repository.pull_requests(f"{owner}:{run['head_branch']}"):
        if (found.get("head") or {}).get("sha") == sha:
            return int(found["number"])
    return None
