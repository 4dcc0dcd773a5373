"""An origin that is a URL of http or https.

Credentials are a variable of the environment, which comes from a Secret: for files of
`hub.example.com`, FETCH_AUTHORIZATION_HUB_EXAMPLE_COM is the value of the header Authorization. It
is sent to that host alone, not to where it redirects.

Standard library only, Python 3.8 or later: it runs in the pods, beside bootstrap.py.
"""

import contextlib
import email.utils
import functools
import http.client
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional

from kij_train.pod.spread.faults import has_changed, origin_fault, request_fault
from kij_train.pod.spread.urls import authorization_name, shown

READ_BYTES = 1 << 20
TIMEOUT_S = 60.0
PATIENCE_S = 300.0
"""How long an origin may give nothing, or ask for patience, until it counts as gone."""
LONGEST_PAUSE_S = 30.0
LONGEST_ASKED_S = 600.0
"""Of what Retry-After may ask for."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)

Say = Callable[[str], None]


class Seen(NamedTuple):
    """What an answer says of a file."""

    size: Optional[int]
    mark: str
    """ETag, or else when it was changed; empty where it says neither."""


class _Again(Exception):  # noqa: N818 - a wish
    def __init__(self, why: str, after_s: Optional[float] = None) -> None:
        super().__init__(why)
        self.after_s = after_s


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, to: str
    ) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, to)
        if new is not None and req.type == "https" and new.type != "https":
            raise request_fault("refused", f"{shown(req.full_url)} leads to a URL without https")
        if new is not None and new.host == req.host and req.has_header("Authorization"):
            new.add_unredirected_header("Authorization", req.get_header("Authorization"))
        return new


class HttpFile:
    """One file. Its methods raise Failure."""

    def __init__(self, url: str, environment: Dict[str, str], say: Say) -> None:
        self._url, self._say, self.shown = url, say, shown(url)
        host = urllib.parse.urlsplit(url).hostname or ""
        self._variable = authorization_name(host)
        self._authorization = environment.get(self._variable, "").strip()
        self._opener = urllib.request.build_opener(_Redirects)
        self._open: Any = None
        """The answer whose bytes nobody has read yet."""
        self.seen = Seen(None, "")
        self._since, self._tries = time.monotonic(), 0

    def look(self) -> Seen:
        """Size and mark. The answer that tells them is the one that is read then."""
        self._since, self._tries = time.monotonic(), 0
        while True:
            try:
                self._open = self._request(0)
                self.seen = _seen(self._open)
                return self.seen
            except (_Again, OSError, http.client.HTTPException) as error:
                self._pause(error)

    def read(self, offset: int) -> Iterator[bytes]:
        """The bytes from there on; where the origin stops, they go on once it is back."""
        at = offset
        self._since, self._tries = time.monotonic(), 0
        while self.seen.size is None or at < self.seen.size:
            try:
                with contextlib.closing(self._answer(at)) as answer:
                    for data in iter(functools.partial(answer.read, READ_BYTES), b""):
                        at += len(data)
                        self._since, self._tries = time.monotonic(), 0
                        yield data
                if self.seen.size is None:
                    return
                if at < self.seen.size:
                    raise _Again(f"it ended after {at:,} of {self.seen.size:,} bytes")
            except (_Again, OSError, http.client.HTTPException) as error:
                if self.seen.size is None and at:
                    raise origin_fault(
                        "gone", f"{self.shown} ended early, and says nothing of its length"
                    ) from error
                self._pause(error)
        if self.seen.size is not None and at > self.seen.size:
            raise has_changed(self.shown)

    def close(self) -> None:
        """Let the answer go that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _answer(self, at: int) -> Any:
        """An answer whose next byte is number `at`."""
        if self._open is not None and not at:
            answer, self._open = self._open, None
            return answer
        self.close()
        answer = self._request(at)
        try:
            if self.seen.size is not None and _seen(answer) != self.seen:
                raise has_changed(self.shown)
            left = at if answer.status == 200 else 0
            while left:  # it knows no ranges
                data = answer.read(min(left, READ_BYTES))
                if not data:
                    raise _Again("it ended early")
                left -= len(data)
        except BaseException:
            answer.close()
            raise
        return answer

    def _request(self, at: int) -> Any:
        request = urllib.request.Request(self._url)  # noqa: S310 - http or https, as the spec says
        request.add_header("Accept-Encoding", "identity")
        request.add_header("User-Agent", "kij-train")
        if at:
            request.add_header("Range", f"bytes={at}-")
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            answer = self._opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error.code, error.reason, error.headers) from None
        except urllib.error.URLError as error:
            raise _Again(str(error.reason)) from None
        if answer.status == 206 and not _content_range(answer).startswith(f"bytes {at}-"):
            answer.close()
            raise _Again("it sent another part than it was asked for")
        return answer

    def _refusal(self, code: int, reason: str, headers: Any) -> Exception:
        said = f"HTTP {code} {reason}"
        if code in AGAIN:
            return _Again(said, _retry_after(headers.get("Retry-After", "")))
        if code in (401, 403, 407):
            had = "was sent, and did not help" if self._authorization else "is not set"
            return request_fault(
                "refused",
                f"{self.shown}: {said}. {self._variable}, the header Authorization for this host, "
                f"{had}",
            )
        if code in (404, 410):
            return request_fault("not-found", f"{self.shown}: {said}")
        if code == 416:
            return has_changed(self.shown)
        return request_fault("not-found", f"{self.shown}: {said}")

    def _pause(self, error: Exception) -> None:
        """Before another try. Raises Failure where there were enough."""
        asked_s = error.after_s if isinstance(error, _Again) else None
        pause_s = min(LONGEST_PAUSE_S, 2.0**self._tries) * random.uniform(0.8, 1.2)  # noqa: S311
        if asked_s is not None:
            pause_s = min(max(asked_s, min(pause_s, 1.0)), LONGEST_ASKED_S)
        waited_s = time.monotonic() - self._since
        why = str(error) or type(error).__name__
        if waited_s + pause_s > PATIENCE_S and self._tries:
            kind = "throttled" if "429" in why else "gone"
            raise origin_fault(kind, f"{self.shown}: {why}, for {waited_s:.0f} s")
        self._tries += 1
        self._say(f"{self.shown}: {why}. Trying again in {pause_s:.0f} s")
        time.sleep(pause_s)


def _content_range(answer: Any) -> str:
    return str(answer.headers.get("Content-Range", ""))


def _seen(answer: Any) -> Seen:
    text = answer.headers.get("Content-Length", "")
    if answer.status == 206:
        text = _content_range(answer).rpartition("/")[2]
    headers = answer.headers
    mark = headers.get("ETag", "") or headers.get("Last-Modified", "")
    return Seen(int(text) if text.isdigit() else None, mark)


def _retry_after(text: str) -> Optional[float]:
    """Seconds, or a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
