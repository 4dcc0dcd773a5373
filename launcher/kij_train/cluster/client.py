"""Requests to one namespace of an API server: JSON in, JSON out, errors with a way out."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from kij_train import lines, names
from kij_train.cluster.apierrors import (
    Action,
    BrokenStreamError,
    ConflictError,
    GoneError,
    TakenError,
    json_of,
    refusal,
    unlike_kubernetes,
)
from kij_train.cluster.connection import Connection, open_connection

if TYPE_CHECKING:
    from kij_train.cluster.proxies import Proxy

log = logging.getLogger(__name__)

CONFLICT_ATTEMPTS = 5
OPENING_S = 10.0
"""How long a WebSocket may take to open."""
CHANNELS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
"""Protocols of its streams, the best first; v5 can end one of them alone."""
# Kind → path of its resource, and its name as RBAC spells it.
PATHS = {
    "ConfigMap": ("/api/v1", "configmaps", "configmaps"),
    "Event": ("/api/v1", "events", "events"),
    "Job": ("/apis/batch/v1", "jobs", "jobs.batch"),
    "Pod": ("/api/v1", "pods", "pods"),
    "ResourceQuota": ("/api/v1", "resourcequotas", "resourcequotas"),
    "Service": ("/api/v1", "services", "services"),
    "NetworkPolicy": (
        "/apis/networking.k8s.io/v1",
        "networkpolicies",
        "networkpolicies.networking.k8s.io",
    ),
    "ResourceClaimTemplate": (
        "/apis/resource.k8s.io/v1",
        "resourceclaimtemplates",
        "resourceclaimtemplates.resource.k8s.io",
    ),
    names.COSCHEDULING_KIND: (
        "/apis/scheduling.x-k8s.io/v1alpha1",
        "podgroups",
        "podgroups.scheduling.x-k8s.io",
    ),
    names.NATIVE_KIND: (
        f"/apis/{names.NATIVE_GROUP}/{names.NATIVE_VERSIONS[0]}",
        "podgroups",
        f"podgroups.{names.NATIVE_GROUP}",
    ),
    "WorkflowTemplate": (
        "/apis/argoproj.io/v1alpha1",
        "workflowtemplates",
        "workflowtemplates.argoproj.io",
    ),
    "Node": ("/api/v1", "nodes", "nodes"),
    "Namespace": ("/api/v1", "namespaces", "namespaces"),
    "SelfSubjectAccessReview": (
        "/apis/authorization.k8s.io/v1",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreviews.authorization.k8s.io",
    ),
}
WITHOUT_NAMESPACE = ("Node", "Namespace", "SelfSubjectAccessReview")
PAGE = 500
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
"""The form in which kubectl gets what it prints (API concepts, "Receiving resources as Tables")."""
FIELD_MANAGER = "kij-train"
_WARNING = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')


class Cluster:
    """One namespace of an API server."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self.namespace = namespace
        self.address = replace(connection.address, namespace=namespace)
        """How commands name it."""
        self.requests = 0
        """Requests made so far."""
        self.warnings: list[str] = []
        """What the server said in Warning headers, once each."""

    @classmethod
    def connect(
        cls,
        *,
        kubeconfig: str | None,
        context: str | None,
        namespace: str | None,
        implied: frozenset[str] = frozenset(),
    ) -> Cluster:
        """Read the kubeconfig; the first request speaks to the server. Raises UnreachableError.

        `implied`: see Address.of.
        """
        connection = open_connection(kubeconfig, context, implied)
        return cls(connection, namespace or connection.namespace)

    @property
    def host(self) -> str:
        """URL of the API server."""
        return self._connection.host

    @property
    def proxy(self) -> Proxy | None:
        """What leads there."""
        return self._connection.proxy

    def close(self) -> None:
        """Close idle connections; the next request opens a new one."""
        self._connection.close()

    def websocket(self, kind: str, name: str, sub: str, query: list[tuple[str, str]]) -> Any:
        """An open WebSocket of a subresource that is a stream: exec or portforward of a Pod.

        Raises RefusedError, GoneError, UnreachableError.
        """
        import websocket

        path = f"{self._path(kind, name)}/{sub}?{urlencode(query)}"
        action = Action("create", f"{PATHS[kind][2]}/{sub}", name, self.address)
        self.requests += 1
        try:
            return self._connection.websocket(path, protocols=list(CHANNELS), timeout_s=OPENING_S)
        except websocket.WebSocketBadStatusException as error:
            raise refusal(int(error.status_code), error.resp_body or b"", action) from None

    def create(self, body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """POST an object with strict field validation. Raises TakenError, ConflictError.

        A quota that others draw on at the same moment answers with a conflict: nothing was done,
        and it is asked again.
        """
        query = {"fieldValidation": "Strict", "fieldManager": FIELD_MANAGER}
        if dry_run:
            query["dryRun"] = "All"
        # By the object's own words: PodGroups of two schedulers differ in their group alone.
        kind, version = str(body["kind"]), str(body["apiVersion"])
        group, resource = version.rpartition("/")[0], f"{kind.lower()}s"
        path = self._path(kind) if kind in PATHS else ""
        path = path or f"/apis/{version}{self._within}/{resource}"
        rbac = PATHS[kind][2] if kind in PATHS else f"{resource}.{group}"
        name = str(body.get("metadata", {}).get("name", ""))
        action = Action("create", rbac, name, self.address)
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                return self._json("POST", path, action, query=query, body=body)
            except TakenError:
                raise
            except ConflictError:
                if attempt + 1 == CONFLICT_ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """GET an object. Raises GoneError when there is none."""
        action = Action("get", PATHS[kind][2], name, self.address)
        return self._json("GET", self._path(kind, name), action)

    def pages(
        self, kind: str, *, everywhere: bool = False, **query: str
    ) -> Iterator[dict[str, Any]]:
        """A collection, PAGE objects at a time; labelSelector and fieldSelector narrow it.

        `everywhere` is all namespaces.
        """
        at = replace(self.address, namespace="") if everywhere else self.address
        action = Action("list", PATHS[kind][2], "", at)
        query = {**query, "limit": str(PAGE)}
        while True:
            page = self._json("GET", self._path(kind, everywhere=everywhere), action, query=query)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def table(self, kind: str, **query: str) -> list[dict[str, str]]:
        """A collection as kubectl prints it, a row an object, by the names of the columns.

        It is one request, and a small part of the bytes: the objects themselves are left out.
        Raises UnreachableError where something answers that knows no tables.
        """
        action = Action("list", PATHS[kind][2], "", self.address)
        query = {**query, "includeObject": "None"}
        found = self._json("GET", self._path(kind), action, query=query, accept=TABLE)
        if found.get("kind") != "Table":
            raise unlike_kubernetes(self.host, json.dumps(found).encode(), self.address)
        columns = [str(one["name"]) for one in found["columnDefinitions"]]
        rows = (row["cells"] for row in found.get("rows") or [])
        return [dict(zip(columns, map(str, cells), strict=False)) for cells in rows]

    def custom(
        self, group: str, resource: str, *, everywhere: bool = False, selector: str = ""
    ) -> list[dict[str, Any]] | None:
        """Objects of a kind that not every cluster has, in any version of it; None without it.

        `everywhere`: they are in no namespace. `selector` is one of labels.
        """
        within = "" if everywhere else self._within
        at = replace(self.address, namespace="") if everywhere else self.address
        action = Action("list", f"{resource}.{group}", "", at)
        query = {"labelSelector": selector} if selector else {}
        for version in sorted(self.versions(group), reverse=True):
            path = f"/apis/{group}/{version}{within}/{resource}"
            with contextlib.suppress(GoneError):  # a version may lack it
                found: list[dict[str, Any]] = self._json("GET", path, action, query=query)["items"]
                return found
        return None

    def patch_custom(
        self, obj: Mapping[str, Any], resource: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge patch of an object that `custom` has given."""
        version, name = str(obj["apiVersion"]), str(obj["metadata"]["name"])
        group = version.rpartition("/")[0]
        action = Action("patch", f"{resource}.{group}", name, self.address)
        path = f"/apis/{version}{self._within}/{resource}/{quote(name, safe='')}"
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return self._json("PATCH", path, action, query=query, body=body, patch="merge-patch")

    def list(self, kind: str, *, everywhere: bool = False, **query: str) -> list[dict[str, Any]]:
        """The items of a collection."""
        pages = self.pages(kind, everywhere=everywhere, **query)
        return [item for page in pages for item in page.get("items") or []]

    def watch(self, kind: str, **query: str) -> Iterator[dict[str, Any]]:
        """Events of a collection until the server, timeoutSeconds or the connection ends it.

        The watch is open when this returns.
        """
        action = Action("watch", PATHS[kind][2], "", self.address)
        query = {**query, "watch": "true"}
        response = self._request("GET", self._path(kind), action, query=query, stream=True)

        def events() -> Iterator[dict[str, Any]]:
            try:
                for line in lines_of(response):
                    yield self._object(line.encode())
            except BrokenStreamError:
                return  # a watch ends for many reasons, and is answered by another one
            finally:
                response.close()

        return events()

    def patch(self, kind: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Strategic merge patch."""
        action = Action("patch", PATHS[kind][2], name, self.address)
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return self._json("PATCH", self._path(kind, name), action, query=query, body=body)

    def delete(
        self,
        kind: str,
        name: str,
        *,
        uid: str,
        foreground: bool = False,
        grace_s: int | None = None,
    ) -> None:
        """DELETE the object with this uid, and what it owns. Raises GoneError, ConflictError.

        `grace_s` is a pod's grace period, None for its own.
        """
        action = Action("delete", PATHS[kind][2], name, self.address)
        body: dict[str, Any] = {
            "propagationPolicy": "Foreground" if foreground else "Background",
            "preconditions": {"uid": uid},
        }
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        self._json("DELETE", self._path(kind, name), action, body=body)

    def stream_log(self, pod: str, **query: str) -> Any:
        """The log of a pod as a urllib3 response that is not read yet."""
        action = Action("get", "pods/log", pod, self.address)
        return self._request(
            "GET", self._path("Pod", pod) + "/log", action, query=query, stream=True
        )

    def version(self) -> dict[str, Any]:
        """What /version says: gitVersion, major, minor."""
        action = Action("get", "/version", "", self.address)
        return self._json("GET", "/version", action)

    def groups(self) -> set[str]:
        """The names of the API groups that the server has."""
        action = Action("get", "/apis", "", self.address)
        return {str(one["name"]) for one in self._json("GET", "/apis", action)["groups"]}

    def versions(self, group: str) -> set[str]:
        """The versions of an API group that the server has; none without the group."""
        path = f"/apis/{group}"
        action = Action("get", path, "", self.address)
        try:
            found = self._json("GET", path, action)["versions"]
        except GoneError:
            return set()
        return {str(one["version"]) for one in found}

    def _path(self, kind: str, name: str | None = None, *, everywhere: bool = False) -> str:
        """Of an object, or of the collection where no name is given."""
        api, resource, _ = PATHS[kind]
        within = "" if everywhere or kind in WITHOUT_NAMESPACE else self._within
        path = f"{api}{within}/{resource}"
        if name is None:
            return path
        # An empty name, or one of dots, would be the path of something else.
        assert name.strip("."), f"{name!r} is no name of a {kind}"
        return f"{path}/{quote(name, safe='')}"

    @property
    def _within(self) -> str:
        return f"/namespaces/{quote(self.namespace, safe='')}"

    def _json(self, method: str, path: str, action: Action, **how: Any) -> dict[str, Any]:
        return self._object(self._request(method, path, action, **how).data)

    def _object(self, content: bytes) -> dict[str, Any]:
        answer = json_of(content)
        if not isinstance(answer, dict):
            raise unlike_kubernetes(self.host, content, self.address)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        action: Action,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        stream: bool = False,
        patch: str = "strategic-merge-patch",
        accept: str = "application/json",
    ) -> Any:
        import urllib3

        headers = {"Accept": accept}
        if body is not None:
            kind = f"{patch}+json" if method == "PATCH" else "json"
            headers["Content-Type"] = f"application/{kind}"
        path += f"?{urlencode(query)}" if query else ""
        # A create whose answer is lost may have been carried out: only a 429, which was not, and a
        # connection that never stood are tried again. A 500 for a log is of a machine that cannot
        # be reached; who reads logs knows better for how long to wait.
        busy = [429] if method == "POST" else [429, 502, 503, 504] + [500] * (not stream)
        retries = urllib3.Retry(
            connect=2,
            read=0 if method == "POST" or stream else 2,
            status=3,
            other=0,
            redirect=0,
            backoff_factor=0.3,
            status_forcelist=busy,
            allowed_methods=None,
            raise_on_status=False,
        )
        self.requests += 1
        log.debug("%s %s%s", method, self.host, path)
        response = self._connection.request(
            method,
            path,
            headers=headers,
            body=json.dumps(body).encode() if body is not None else None,
            retries=retries,
            stream=stream,
        )
        for quoted in _WARNING.findall(", ".join(response.headers.getlist("Warning"))):
            text = quoted.replace('\\"', '"')
            if text not in self.warnings:
                self.warnings.append(text)
        if response.status >= 300:
            content = b"".join(chunks_of(response)) if stream else response.data
            raise refusal(response.status, content, action)
        return response


def lines_of(response: Any) -> Iterator[str]:
    """Whole lines of a streamed response; one without an end comes when the stream does.

    Raises BrokenStreamError where the connection breaks: an unfinished line is to be asked for
    again.
    """
    return (line for line, ended in lines_and_bars_of(response) if ended)


def lines_and_bars_of(response: Any) -> Iterator[tuple[str, bool]]:
    """The same with whether a line has ended; now and then one that is a progress bar has not.

    A container runtime writes lines, and parts of 16 KiB of one that does not end.
    """
    rest, shown_at = b"", time.monotonic()
    for chunk in chunks_of(response):
        *ended, rest = (rest + chunk).split(b"\n")
        for line in ended:
            yield line.decode("utf-8", "replace"), True
        now = time.monotonic()
        if ended:
            shown_at = now
        elif b"\r" in rest and now - shown_at >= lines.BAR_EVERY_S:
            shown_at = now
            yield rest.decode("utf-8", "replace"), False
    if rest:
        yield rest.decode("utf-8", "replace"), True


def chunks_of(response: Any) -> Iterator[bytes]:
    """What a streamed response holds. Raises BrokenStreamError."""
    chunks = response.stream(2**16)
    while True:
        try:
            chunk = next(chunks, None)
        except Exception as error:  # of urllib3, http.client, ssl
            raise BrokenStreamError(f"the connection broke: {error}") from None
        if chunk is None:
            return
        yield chunk
