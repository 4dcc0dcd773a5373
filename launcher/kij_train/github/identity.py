"""GitHub's token for a job as a credential of Kubernetes, for API servers that trust its issuer.

    python -m kij_train.github.identity SERVER AUDIENCE [CA] > kubeconfig
    python -m kij_train.github.identity AUDIENCE          the plugin that this kubeconfig calls

A token lasts minutes, and a job hours: a credential plugin gets a new one whenever it takes one.
Sources: https://docs.github.com/actions/reference/openid-connect-reference and
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import urllib.request
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from kij_train.redaction import keep_secret, redacted

VERSION = "client.authentication.k8s.io/v1"
TIMEOUT_S = 30.0
NAME = "github"


def kubeconfig(server: str, audience: str, authority: str = "") -> dict[str, Any]:
    """A kubeconfig that logs in by this module; `authority` is base64 of PEM."""
    cluster = {"server": server}
    if authority:
        cluster["certificate-authority-data"] = authority
    plugin = {
        "apiVersion": VERSION,
        "command": sys.executable,
        "args": ["-m", "kij_train.github.identity", audience],
        "interactiveMode": "Never",
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": {"exec": plugin}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }


def credential(audience: str) -> dict[str, Any]:
    """A token of this job. Raises OSError, ValueError, KeyError, HTTPException."""
    url, token = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}") for name in ("URL", "TOKEN"))
    if not url or not token:
        raise OSError("this is no job of GitHub Actions with: permissions: id-token: write")
    keep_secret(token)
    joint = "&" if "?" in url else "?"
    request = urllib.request.Request(  # noqa: S310 - the runner says where
        f"{url}{joint}audience={quote(audience, safe='')}",
        headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        identity = str(json.load(answer)["value"])
    status = {"token": identity, "expirationTimestamp": _expiry(identity)}
    return {"apiVersion": VERSION, "kind": "ExecCredential", "status": status}


def _expiry(identity: str) -> str:
    """When a token ends, RFC 3339; nobody checks its signature here."""
    claims = identity.split(".")[1]
    told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return datetime.fromtimestamp(told["exp"], timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def main(argv: list[str]) -> int:
    """Print a credential, or a kubeconfig."""
    if not 1 <= len(argv) <= 3:
        print(__doc__, file=sys.stderr)  # noqa: T201 - a plugin has no other way to speak
        return 2
    try:
        document = credential(argv[0]) if len(argv) == 1 else kubeconfig(*argv)
    except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
        print(redacted(f"GitHub gives no token: {error}"), file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps(document))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
