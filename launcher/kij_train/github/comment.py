"""The one comment on a pull request that reports of a name have, found again by its first line.

Two reports may come at once, and an older one after a newer: in the end there is one comment, that
of the newest run. API: https://docs.github.com/rest/issues/comments
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kij_train.errors import RequestError
from kij_train.github.api import GoneError, Repository

MOST_CHARS = 65_536
"""Of a comment."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MARKER = re.compile(r"<!-- kij-train: (\S+) (\d+)\.(\d+) -->")
_TRUSTED = ("OWNER", "MEMBER", "COLLABORATOR")
"""Whose comments are ours, beside those of bots. Anybody can write the marker into a comment of
his own, and change it after we have put a report there."""


@dataclass(frozen=True)
class Source:
    """The run of a workflow that a report is of."""

    number: int
    """GitHub's, which grows from run to run; 0 outside of GitHub."""
    attempt: int
    url: str
    commit: str

    @classmethod
    def of(cls, env: Mapping[str, str], event: Mapping[str, Any]) -> Source:
        """This run, or the one that has ended and started this one."""
        run = event.get("workflow_run")
        if run:
            attempt = int(run.get("run_attempt") or 1)
            return cls(int(run["id"]), attempt, str(run["html_url"]), str(run["head_sha"]))
        number = int(env.get("GITHUB_RUN_ID") or 0)
        base = f"{env.get('GITHUB_SERVER_URL', '')}/{env.get('GITHUB_REPOSITORY', '')}"
        # Of a pull request, GITHUB_SHA is the merge that nobody has seen.
        head = (event.get("pull_request") or {}).get("head") or {}
        return cls(
            number,
            int(env.get("GITHUB_RUN_ATTEMPT") or 1),
            f"{base}/actions/runs/{number}" if number else "",
            str(head.get("sha") or env.get("GITHUB_SHA", "")),
        )


@dataclass(frozen=True)
class Marker:
    """The hidden first line of a comment: whose it is, and which run has written it."""

    name: str
    run: tuple[int, int]
    """Number and attempt."""

    @classmethod
    def read(cls, comment: Mapping[str, Any]) -> Marker | None:
        """Of a comment; None where it is somebody else's."""
        found = _MARKER.match(str(comment.get("body") or ""))
        user = comment.get("user") or {}
        ours = user.get("type") == "Bot" or comment.get("author_association") in _TRUSTED
        if found is None or not ours:
            return None
        return cls(found[1], (int(found[2]), int(found[3])))

    def line(self) -> str:
        """As it stands in a comment."""
        return f"<!-- kij-train: {self.name} {self.run[0]}.{self.run[1]} -->"


def check_name(name: str) -> str:
    """The name of a comment. Raises RequestError for one that the marker cannot hold."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"--name {name!r}: a comment's name has letters, digits, '.', '_' and '-', 63 of them "
            "at most, a letter or digit first"
        )
    return name


def body_of(marker: Marker, markdown: str, source: Source) -> str:
    """The comment: marker, text, and the run that it is of. What is too long ends at a line."""
    said = [f"[Run {source.number}]({source.url})"] if source.url else []
    said += [f"commit {source.commit[:12]}"] if source.commit else []
    foot = f"\n\n<sub>{' · '.join(said)}</sub>\n" if said else "\n"
    head = f"{marker.line()}\n"
    text = markdown.rstrip()
    room = MOST_CHARS - len(head) - len(foot)
    if len(text) > room:
        cut = (
            "\n\n*This was too long for a comment: the rest is in the run's summary and artifact.*"
        )
        text = _closed(text[: room - len(cut) - 64].rpartition("\n")[0]) + cut
    return head + text + foot


def _closed(text: str) -> str:
    """Markdown that was cut, without a block that is left open and takes in what follows."""
    if sum(line.startswith("```") for line in text.splitlines()) % 2:
        text += "\n```"
    return text + "\n\n</details>" * (text.count("<details>") - text.count("</details>"))


def put(repository: Repository, number: int, marker: Marker, body: str) -> str:
    """Make the comment of a pull request, or bring it up to date; what was done, in a sentence.

    Raises RefusedError, UnreachableError.
    """
    for _ in range(3):
        there = _ours(repository, number, marker.name)
        try:
            if there:
                return _update(repository, there, marker, body)
            made = repository.create(number, body)
            there = _ours(repository, number, marker.name)
            if len(there) < 2:
                return f"made {made['html_url']}"
            # Another report has made one in the same moment: the older comment is the one.
            return _update(repository, there, marker, body)
        except GoneError:  # somebody has deleted it meanwhile
            continue
    raise RequestError(
        f"the comment of {marker.name} is deleted again and again while it is written"
    )


def _ours(repository: Repository, number: int, name: str) -> list[dict[str, Any]]:
    """The comments of this name, the oldest first."""
    found = []
    for comment in repository.comments(number):
        marker = Marker.read(comment)
        if marker is not None and marker.name == name:
            found.append(comment)
    return sorted(found, key=lambda one: int(one["id"]))


def _update(repository: Repository, there: list[dict[str, Any]], marker: Marker, body: str) -> str:
    first, *others = there
    newest = max(seen.run for one in there if (seen := Marker.read(one)) is not None)
    if newest > marker.run:
        said = f"left as it is: a newer run, {newest[0]}, has reported in {first['html_url']}"
        newer = next(one for one in there if (Marker.read(one) or marker).run == newest)
        body = str(newer["body"])
    else:
        said = f"updated {first['html_url']}"
    if body != first["body"]:
        repository.update(int(first["id"]), body)
    for one in others:
        repository.delete(int(one["id"]))
    return said
