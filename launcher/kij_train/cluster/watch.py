"""Follow a collection: list it once, watch it, and go on after everything that breaks a watch.

A watch ends for many reasons: its own time limit, a restarted API server, a connection that died
without a word, a version too old to go on from (410). Each is answered by going on from the last
version, or by listing again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from kij_train.cluster.apierrors import ExpiredError, NotAcceptedError
from kij_train.cluster.client import Cluster
from kij_train.errors import UnreachableError

WATCH_S = 50
"""Below the client's read timeout, so that a half-open connection is noticed within a minute. One
request in that time is what a quiet watch costs."""
PAUSE_S = 1.0
OUTAGE_S = 300.0
"""How long the API server may be away before this gives up; jobs go on without us."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Synced:
    """All objects that there are now; what was known before and is not among them is gone."""

    objects: list[Object]


@dataclass(frozen=True)
class Changed:
    """One object is new, different or, as it was last, deleted."""

    object: Object
    deleted: bool


@dataclass(frozen=True)
class Lost:
    """The API server does not answer, or not to these credentials; this goes on trying."""

    error: UnreachableError | NotAcceptedError


@dataclass(frozen=True)
class Back:
    """It answers again."""


Event = Synced | Changed | Lost | Back


def changes(
    cluster: Cluster,
    kind: str,
    *,
    stop: threading.Event,
    keep: Callable[[Object], Object] = lambda whole: whole,
    **query: str,
) -> Generator[Event, None, None]:
    """Events until `stop` is set; `keep` cuts every object to what is needed, one by one.

    Raises RefusedError (permission), UnreachableError after an outage of OUTAGE_S. Credentials that
    were accepted and are not any more are an outage, too: whoever renews them may be late.
    """
    version = ""
    lost_at: float | None = None
    was_there = False
    while not stop.is_set():
        began = time.monotonic()
        try:
            if not version:
                objects, version = _listed(cluster, kind, keep, query)
                was_there = True
                yield Synced(objects)
            watched = _watched(cluster, kind, version, query)
            if lost_at is not None:
                lost_at = None
                yield Back()
            for event in watched:
                version = str(event["object"]["metadata"]["resourceVersion"])
                if event["type"] != "BOOKMARK":
                    yield Changed(keep(event["object"]), event["type"] == "DELETED")
                if stop.is_set():
                    return
            if time.monotonic() - began < PAUSE_S:
                stop.wait(PAUSE_S)
        except ExpiredError:
            version = ""
            stop.wait(PAUSE_S)
        except (UnreachableError, NotAcceptedError) as error:
            now = time.monotonic()
            if _is_final(error, was_there, now - (lost_at or now)):
                raise
            if lost_at is None:
                lost_at = now
                yield Lost(error)
            stop.wait(PAUSE_S)


def _is_final(error: Exception, was_there: bool, away_s: float) -> bool:
    """Whether an outage is none that ends by itself."""
    return away_s > OUTAGE_S or (isinstance(error, NotAcceptedError) and not was_there)


def _listed(
    cluster: Cluster, kind: str, keep: Callable[[Object], Object], query: dict[str, str]
) -> tuple[list[Object], str]:
    """All objects, and the version that the list is of."""
    objects: list[Object] = []
    version = ""
    for page in cluster.pages(kind, everywhere=False, **query):
        objects += map(keep, page.get("items") or [])
        version = str(page["metadata"]["resourceVersion"])
    return objects, version


def _watched(cluster: Cluster, kind: str, version: str, query: dict[str, str]) -> Iterator[Object]:
    """The events of one watch, which is open when this returns.

    Raises ExpiredError for a version that is too old.
    """
    limits = {"allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
    events = cluster.watch(kind, **query, **limits, resourceVersion=version)

    def checked() -> Iterator[Object]:
        for event in events:
            if event["type"] == "ERROR":
                # 410 as a rule; whatever it is, a new list is the answer.
                raise ExpiredError(str(event["object"].get("message", "the watch failed")))
            yield event

    return checked()
