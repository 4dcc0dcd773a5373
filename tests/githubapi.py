"""GitHub's API of comments and pull requests, as far as kij-train asks it, on a port of this host.

What it answers is that of https://docs.github.com/rest/issues/comments; a test can have it refuse,
be late, or change what is there between two requests.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghs_of_the_tests"
BOT = {"login": "github-actions[bot]", "type": "Bot"}
MOST_CHARS = 65_536
Answer = tuple[int, Any]


class GitHub:
    """One repository, `team/model`, with one pull request of number 7."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.comments: dict[int, dict[str, Any]] = {}
        self.pull_requests: list[dict[str, Any]] = []
        self.asked: list[str] = []
        """Every request, `POST issues/7/comments`."""
        self.before: Callable[[str], Answer | None] = lambda what: None
        """Called before a request is answered; what it gives is the answer."""
        self.writable = True
        self._lock = threading.Lock()
        self._number = 0

    @property
    def env(self) -> dict[str, str]:
        """The variables of a job."""
        return {
            "GITHUB_API_URL": self.url,
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "team/model",
            "GITHUB_TOKEN": TOKEN,
            "GITHUB_RUN_ID": "100",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_SHA": "f" * 40,
        }

    def add(self, body: str, user: dict[str, str] = BOT, association: str = "NONE") -> int:
        """A comment that is there."""
        with self._lock:
            self._number += 1
            self.comments[self._number] = {
                "id": self._number,
                "body": body,
                "user": user,
                "author_association": association,
                "html_url": f"https://github.example/team/model/pull/7#issuecomment-{self._number}",
            }
            return self._number

    def bodies(self) -> list[str]:
        """The comments, the oldest first."""
        return [comment["body"] for comment in self.comments.values()]

    def answer(self, method: str, path: str, token: str, sent: Any) -> Answer:
        """Status and document."""
        where, query = urlsplit(path).path, parse_qs(urlsplit(path).query)
        what = f"{method} {where.removeprefix('/repos/team/model/')}"
        self.asked.append(what)
        said = self.before(what)
        if said is not None:
            return said
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Bad credentials"}
        if method != "GET" and not self.writable:
            return 403, {"message": "Resource not accessible by integration"}
        if what == "GET issues/7/comments":
            size, page = int(query["per_page"][0]), int(query["page"][0])
            return 200, list(self.comments.values())[size * (page - 1) : size * page]
        if what == "POST issues/7/comments":
            if len(sent["body"]) > MOST_CHARS:
                return 422, {"message": "Validation Failed"}
            return 201, self.comments[self.add(sent["body"])]
        if what == "GET pulls":
            return 200, self.pull_requests
        number = re.fullmatch(r"(PATCH|DELETE) issues/comments/(\d+)", what)
        if number is not None and int(number[2]) in self.comments:
            if method == "DELETE":
                del self.comments[int(number[2])]
                return 204, None
            if len(sent["body"]) > MOST_CHARS:
                return 422, {"message": "Validation Failed"}
            self.comments[int(number[2])]["body"] = sent["body"]
            return 200, self.comments[int(number[2])]
        return 404, {"message": "Not Found"}


@contextmanager
def github() -> Iterator[GitHub]:
    """It answers until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            sent = json.loads(self.rfile.read(size)) if size else None
            token = self.headers.get("Authorization", "")
            status, document = here.answer(self.command, self.path, token, sent)
            data = b"" if document is None else json.dumps(document).encode()
            self.send_response(status)
            if status in (429, 503):
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = GitHub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
