"""The auth provider `oidc` of kubeconfigs, as client-go has it (plugin/pkg/client/auth/oidc).

An ID token that has expired is renewed with the refresh token, and both are written back to the
kubeconfig: a provider may take each refresh token once.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kij_train.cluster.credentials import Credentials, CredentialsError, Shown, basic, bearer
from kij_train.cluster.kubeconfig import Chosen, Section
from kij_train.cluster.proxies import pool_manager, proxy_from_environment
from kij_train.cluster.tls import tls_context
from kij_train.redaction import keep_secret

EARLY_S = 10.0
"""Before its end, a token is renewed."""
TIMEOUT_S = 30.0
REMOVED = {
    "gcp": "use its plugin: gcloud container clusters get-credentials CLUSTER",
    "azure": "use its plugin: kubelogin convert-kubeconfig",
}
"""Providers that Kubernetes 1.26 has removed → what came instead."""


def provider_of(chosen: Chosen, section: Section, stated: Credentials) -> Credentials:
    """The credentials of an auth provider. Raises KubeconfigError for one that is not known."""
    name = section.text("name")
    if name != "oidc":
        raise CredentialsError(
            f"kubeconfig {chosen.path}: auth provider {name} of user {chosen.user} is not known, "
            "as in kubectl since 1.26",
            hints=(REMOVED.get(name, "use a credential plugin, as its maker says"),),
        )
    settings = section.section("config", f"auth provider of user {chosen.user}")
    if settings is None or not settings.text("idp-issuer-url") or not settings.text("client-id"):
        raise section.wrong("config", "lacks idp-issuer-url or client-id")
    return Oidc(chosen, settings, stated)


class Oidc:
    """Shows an ID token, and renews it."""

    def __init__(self, chosen: Chosen, settings: Section, stated: Credentials) -> None:
        self.said = stated.said
        self._chosen = chosen
        self._stated = stated
        self._settings = settings
        keys = ("id-token", "refresh-token", "client-secret")
        self._tokens = {key: settings.text(key) for key in keys}
        keep_secret(*self._tokens.values())
        self._lock = threading.Lock()

    def shown(self) -> Shown:
        with self._lock:
            if time.time() > _expiry(self._tokens["id-token"]) - EARLY_S:
                self._renew()
            header = bearer(self._tokens["id-token"], self._settings, "id-token")
            return Shown(header, self._stated.shown().certificate)

    def renewed(self, refused: Shown) -> bool:
        """Whether there is another token now. As in client-go, only one that expires is renewed."""
        return self.shown() != refused

    def _renew(self) -> None:
        if not self._tokens["refresh-token"]:
            raise self._failure("has expired, and there is no refresh token")
        issuer = self._settings.text("idp-issuer-url").rstrip("/")
        endpoint = str(
            self._asked("GET", f"{issuer}/.well-known/openid-configuration").get("token_endpoint")
        )
        answer = self._asked(
            "POST",
            endpoint,
            {"grant_type": "refresh_token", "refresh_token": self._tokens["refresh-token"]},
        )
        new = {
            "id-token": str(answer.get("id_token") or ""),
            "refresh-token": str(answer.get("refresh_token") or self._tokens["refresh-token"]),
        }
        if not new["id-token"]:
            raise self._failure(f"was not renewed: {issuer} gave no ID token")
        keep_secret(*new.values())
        self._tokens.update(new)
        self._save(new)

    def _asked(
        self, method: str, url: str, fields: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What the identity provider answers, as JSON."""
        named, secret = self._settings.text("client-id"), self._tokens["client-secret"]
        headers = {"Authorization": basic(named, secret)} if fields and secret else {}
        if fields and not secret:
            fields = {**fields, "client_id": named}
        authority = self._settings.content("idp-certificate-authority")
        try:
            context = tls_context(authority=authority) if url.startswith("https:") else None
            with pool_manager(proxy_from_environment(url), context) as pool:
                body = {"fields": dict(fields), "encode_multipart": False} if fields else {}
                response = pool.request(method, url, headers=headers, timeout=TIMEOUT_S, **body)
                answer = json.loads(response.data)
        except Exception as error:  # of urllib3, ssl, json: words that may quote the request
            kind = type(error).__name__
            raise self._failure(f"was not renewed: {url} does not answer ({kind})") from None
        if response.status != 200 or not isinstance(answer, dict):
            said = str(answer.get("error", "")) if isinstance(answer, dict) else ""
            raise self._failure(f"was not renewed: {url} says {response.status} {said}".rstrip())
        return answer

    def _save(self, new: Mapping[str, str]) -> None:
        """Into the file that names the user, in its place, with its rights."""
        file = Path(os.path.realpath(self._settings.file))
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
            for entry in document["users"]:
                if entry["name"] == self._chosen.user:
                    entry["user"]["auth-provider"]["config"].update(new)
            handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                yaml.safe_dump(document, stream, sort_keys=False)
            Path(temporary).chmod(file.stat().st_mode & 0o777)
            Path(temporary).replace(file)
        except (OSError, LookupError, TypeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it has changed meanwhile"
            raise self._failure(f"was renewed and cannot be kept in {file}: {why}") from None

    def _failure(self, what: str) -> CredentialsError:
        chosen = self._chosen
        return CredentialsError(
            f"kubeconfig {chosen.path}: the ID token of user {chosen.user} {what}",
            hints=(
                "log in again, as your cluster's admin says",
                "or name another context: --context NAME",
            ),
        )


def _expiry(token: str) -> float:
    """When a JWT ends, in seconds since 1970; 0 where it does not say so."""
    try:
        payload = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(said["exp"])
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError):
        return 0.0
