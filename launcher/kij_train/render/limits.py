"""How much a pod may write where something is fetched to, as far as the request says it."""

from __future__ import annotations

from kij_train.pod.spread.limits import Limit
from kij_train.spec import Common
from kij_train.units import quantity_value


def fetch_limits(spec: Common) -> list[Limit]:
    """Limits of the folders that something is fetched into."""
    folders = list(spec.fetch_folders)
    sizes = {m.path.rstrip("/"): m.source for m in spec.mounts if m.type == "emptydir" and m.source}
    found = [
        Limit(f"--mount emptydir:{sizes[at]}:{at}", int(quantity_value(sizes[at])), [at])
        for at in folders
        if at in sizes
    ]
    if spec.disk is not None and folders:
        found.append(Limit(f"--disk {spec.disk}", int(quantity_value(spec.disk)), folders))
    return found
