"""Requests to GitHub's REST API, with the standard library: comments and pull requests."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from kij_train.errors import RefusedError, RequestError, UnreachableError
from kij_train.redaction import keep_secret

PAGE = 100
MOST_PAGES = 100
TRIES = 3
PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
TIMEOUT_S = 30.0
_AGAIN = (429, 500, 502, 503, 504)


class GoneError(RefusedError):
    """What was asked for is not there."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect to another host would get the token."""

    def redirect_request(self, *args: Any, **named: Any) -> None:
        del args, named


class Repository:
    """A repository, as a token lets one see it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """From the variables of a job. Raises RequestError where one is missing."""
        self.name = env.get("GITHUB_REPOSITORY", "")
        self._token = env.get("GITHUB_TOKEN") or env.get("GH_TOKEN") or ""
        keep_secret(self._token)  # what answers may quote it
        self._api = (env.get("GITHUB_API_URL") or "https://api.github.com").rstrip("/")
        if self.name.count("/") != 1:
            raise RequestError(
                "GITHUB_REPOSITORY is not OWNER/NAME",
                hints=("a job of GitHub Actions has it; elsewhere: export GITHUB_REPOSITORY=…",),
            )
        if not self._token:
            raise RequestError(
                "no token: GITHUB_TOKEN is not set, or empty",
                hints=("in the step that comments: env: GITHUB_TOKEN: ${{ github.token }}",),
            )
        if not self._api.startswith(("https://", "http://")):
            raise RequestError(f"GITHUB_API_URL {self._api!r} is no URL of HTTP")
        self._opener = urllib.request.build_opener(_NoRedirects)

    def comments(self, number: int) -> Iterator[dict[str, Any]]:
        """All comments of a pull request, the oldest first."""
        yield from self._pages(f"issues/{number}/comments")

    def create(self, number: int, body: str) -> dict[str, Any]:
        """A new comment."""
        made: dict[str, Any] = self._ask("POST", f"issues/{number}/comments", {"body": body})
        return made

    def update(self, comment: int, body: str) -> None:
        """Another text. Raises GoneError where it was deleted."""
        self._ask("PATCH", f"issues/comments/{comment}", {"body": body})

    def delete(self, comment: int) -> None:
        """Remove it, if it is still there."""
        try:
            self._ask("DELETE", f"issues/comments/{comment}")
        except GoneError:
            return

    def pull_requests(self, head: str) -> Iterator[dict[str, Any]]:
        """Those that are open with this head, `OWNER:BRANCH`."""
        yield from self._pages("pulls", {"state": "open", "head": head})

    def _pages(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        for page in range(1, MOST_PAGES + 1):
            asked = urlencode({**(query or {}), "per_page": PAGE, "page": page})
            found = self._ask("GET", f"{path}?{asked}")
            yield from found
            if len(found) < PAGE:
                return

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What GitHub answers. Raises RefusedError, GoneError, UnreachableError."""
        url = f"{self._api}/repos/{quote(self.name)}/{path}"
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            url,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                "User-Agent": "kij-train",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        for left in range(TRIES - 1, -1, -1):
            try:
                with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                pause = _pause(error)
                if not left or pause is None:
                    raise self._refused(error, f"{method} {path.partition('?')[0]}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = getattr(error, "reason", None) or error
                pause = PAUSE_S
                if not left:
                    raise UnreachableError(f"{self._api} does not answer: {reason}") from None
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _refused(self, error: urllib.error.HTTPError, what: str) -> RefusedError:
        try:
            said = str(json.loads(error.read()).get("message") or "")
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            said = ""
        message = f"{self.name}: GitHub refuses {what}: {error.code} {said or error.reason}"
        if error.code == 404:
            return GoneError(message, hints=("without the right to read it, it is not there, too",))
        if error.code == 401:
            return RefusedError(message, hints=("the token has expired, or is no token of GitHub",))
        if error.code == 403:
            return RefusedError(
                message,
                hints=(
                    "the job needs: permissions: pull-requests: write",
                    "the token of a pull request from a fork can only read: comment from a "
                    "workflow that workflow_run starts (docs/ci.md)",
                ),
            )
        return RefusedError(message)


def _pause(error: urllib.error.HTTPError) -> float | None:
    """Seconds until it is worth another try; None where it is not."""
    said = error.headers.get("Retry-After")
    is_limit = error.code == 403 and (said or error.headers.get("X-RateLimit-Remaining") == "0")
    if error.code not in _AGAIN and not is_limit:
        return None
    wait = float(said) if said and said.isdigit() else PAUSE_S
    return wait if wait <= LONGEST_PAUSE_S else None
