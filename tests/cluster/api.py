"""The few calls to the API server that the harness itself makes."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from .errors import ClusterError
from .network import API_PORT
from .pki import KeyPair

TIMEOUT_S = 10.0
Object = dict[str, Any]


class Api:
    """A client with a certificate. A new connection a call: the server may have been restarted."""

    def __init__(self, authority_cert: str, identity: KeyPair) -> None:
        self._tls = ssl.create_default_context(cafile=authority_cert)
        self._tls.load_cert_chain(identity.cert, identity.key)

    def call(
        self, method: str, path: str, body: Object | None = None, *, kind: str = "json"
    ) -> Object:
        """One request. `kind` is the body's media subtype, such as `merge-patch+json`."""
        status, text = self._request(method, path, body, kind)
        if status >= 300:
            raise ClusterError(f"{method} {path}: {status} {text.strip()}")
        parsed = json.loads(text)
        assert isinstance(parsed, dict)
        return parsed

    def ready(self) -> bool:
        """Whether the server is up and has finished its start."""
        try:
            return self._request("GET", "/readyz", None, "json")[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def _request(self, method: str, path: str, body: Object | None, kind: str) -> tuple[int, str]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", API_PORT, context=self._tls, timeout=TIMEOUT_S
        )
        try:
            content = None if body is None else json.dumps(body)
            headers = {"Content-Type": f"application/{kind}"} if body is not None else {}
            connection.request(method, path, body=content, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()
