"""What is known before a launch of the size of what is fetched: files of the web that limits name.

A server that only pods reach is not asked for long, and what is not known is not said.
"""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from kij_train.render.limits import fetch_limits
from kij_train.runs.plan import Note
from kij_train.spec import Common
from kij_train.units import format_bytes, quantity_value

PATIENCE_S = 2.0


def size_of(url: str) -> int | None:
    """Of a file, as its server says without credentials; None where it says nothing."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http or https
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            text = answer.headers.get("Content-Length", "")
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return int(text) if text.isdigit() else None


def without_room(spec: Common) -> Iterator[Note]:
    """What is fetched and cannot fit, and folders that together may hold more than a pod may."""
    limits = fetch_limits(spec)
    folders = {folder for limit in limits for folder in limit.folders}
    web = ("http://", "https://")
    asked = [one for one in spec.fetch if one.to in folders and one.source.startswith(web)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        sizes = list(pool.map(size_of, (one.source for one in asked)))
    for limit in limits:
        known = sum(
            size or 0 for one, size in zip(asked, sizes, strict=True) if one.to in limit.folders
        )
        if known > limit.most:
            yield Note(
                f"what --fetch brings takes {format_bytes(known)}, and {limit.flag} allows "
                f"{format_bytes(limit.most)}: the pods will refuse it",
                ("give them more",),
            )
    mounts = [mount.source for mount in spec.mounts if mount.type == "emptydir" and mount.source]
    most = int(sum(map(quantity_value, mounts)))
    if spec.disk is not None and most > quantity_value(spec.disk):
        yield Note(
            f"the folders of --mount emptydir may hold {format_bytes(most)}, and --disk "
            f"{spec.disk} is less: a pod that writes more is evicted",
            (f"--disk {-(-most // 2**30)}Gi, and some more for the rest",),
        )
