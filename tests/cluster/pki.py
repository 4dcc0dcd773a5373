"""Certificates and kubeconfigs: one authority, and an identity for each who speaks.

The names matter: RBAC's built-in roles and the Node authorizer go by user (CN) and group (O).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from .network import API_SERVER
from .processes import run

VALID_DAYS = "30"
ADMIN_GROUP = "system:masters"


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in one folder, which also holds what it signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.own = self._pair("ca")
        self.service_account_key = folder / "service-account.key"

    def create(self) -> None:
        """Make the authority's own certificate and the key that signs service accounts' tokens."""
        _new_key(self.own.key)
        _new_key(self.service_account_key)
        run(
            [
                *("openssl", "req", "-x509", "-new", "-days", VALID_DAYS),
                *("-key", self.own.key, "-out", self.own.cert),
                *("-subj", "/CN=kij-train-test-cluster"),
            ]
        )

    def api_server(self, addresses: list[str]) -> KeyPair:
        """The API server's serving certificate, for every address it is reached at."""
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        alternatives = [f"IP:{address}" for address in addresses] + [f"DNS:{n}" for n in names]
        extension = "subjectAltName=" + ",".join(alternatives)
        return self._sign("kube-apiserver", "/CN=kube-apiserver", extension)

    def client(self, user: str, group: str = "") -> KeyPair:
        """A client certificate for a user in a group."""
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        return self._sign(user.replace(":", "-"), subject, "extendedKeyUsage=clientAuth")

    def kubeconfig(self, path: Path, user: str, group: str = "") -> Path:
        """Write a kubeconfig for a user, with everything in it: it can be copied elsewhere."""
        pair = self.client(user, group)
        cluster = {"server": API_SERVER, "certificate-authority-data": _base64(self.own.cert)}
        identity = {
            "client-certificate-data": _base64(pair.cert),
            "client-key-data": _base64(pair.key),
        }
        context = {"cluster": "kij-train-test", "user": user, "namespace": "default"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kij-train-test", "cluster": cluster}],
            "users": [{"name": user, "user": identity}],
            "contexts": [{"name": "kij-train-test", "context": context}],
            "current-context": "kij-train-test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=2))  # JSON is YAML
        return path

    def _pair(self, name: str) -> KeyPair:
        return KeyPair(self._folder / f"{name}.crt", self._folder / f"{name}.key")

    def _sign(self, name: str, subject: str, extension: str) -> KeyPair:
        pair = self._pair(name)
        _new_key(pair.key)
        request = run(["openssl", "req", "-new", "-key", pair.key, "-subj", subject])
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(extension + "\n")
        run(
            [
                *("openssl", "x509", "-req", "-days", VALID_DAYS, "-CAcreateserial"),
                *("-CA", self.own.cert, "-CAkey", self.own.key),
                *("-extfile", extensions, "-out", pair.cert),
            ],
            stdin=request,
        )
        return pair


def _new_key(path: Path) -> None:
    """An elliptic curve key: an RSA key would take a second each."""
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
