"""What `kubectl apply` adds to an object: all of it again, in one of its annotations.

It writes the object as JSON into `kubectl.kubernetes.io/last-applied-configuration`, and the API
server takes 256 KiB of annotations of an object, keys and values together (ValidateAnnotationsSize
in k8s.io/apimachinery). `kubectl apply --server-side` and `kubectl create` do without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 256 * 1024
"""Of all annotations of an object."""
OTHER_BYTES = 1024
"""For what kubectl adds: the annotation's own name, a namespace that is not in the object."""


def applied_bytes(body: Mapping[str, Any]) -> int:
    """Bytes of an object's annotations after `kubectl apply`; above MOST_BYTES it is refused."""
    own = body.get("metadata", {}).get("annotations") or {}
    return OTHER_BYTES + text_bytes(body) + sum(len(f"{k}{v}".encode()) for k, v in own.items())


def text_bytes(value: Any) -> int:
    """Bytes of a value as the JSON that Go writes, which has <, > and & as six characters."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    more = 5 * sum(map(text.count, "<>&")) + 3 * sum(map(text.count, "\u2028\u2029"))
    return len(text.encode("utf-8", "surrogatepass")) + more
