"""What a shell offers for a word that is begun; nothing where it cannot know."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from kij_train import gpus, names
from kij_train.cli.where import connect
from kij_train.errors import KijError
from kij_train.specfile import all_profiles

if TYPE_CHECKING:
    from kij_train.cluster import Cluster

COMPLETION_S = 2.0
"""How long a shell waits for what the cluster says: somebody has pressed a key."""
Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _of_cluster(ask: Callable[[Cluster, click.Context], Iterable[str]]) -> Completer:
    """Offers names that begin so, as far as the cluster says them in COMPLETION_S."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        del param
        found: list[str] = []

        def asked() -> None:
            with contextlib.suppress(KijError):  # completion has no place for an error
                found.extend(ask(connect(ctx.params), ctx))

        # In a thread that nobody waits for: what may hang is a login, a name server, a proxy, a
        # server.
        asking = threading.Thread(target=asked, daemon=True)
        asking.start()
        asking.join(COMPLETION_S)
        return [name for name in found if name.startswith(incomplete)]

    return complete


def _of_here(known: Callable[[], Iterable[str]]) -> Completer:
    """Offers names that this machine knows."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        del ctx, param
        with contextlib.suppress(KijError):
            return [name for name in known() if name.startswith(incomplete)]
        return []

    return complete


def _jobs(cluster: Cluster, ctx: click.Context) -> Iterable[str]:
    from kij_train.jobs import list_jobs

    del ctx
    return (job.name for job in list_jobs(cluster))


def _queues(cluster: Cluster, ctx: click.Context) -> Iterable[str]:
    """Kueue's LocalQueues, or Volcano's with --scheduler volcano."""
    if ctx.params.get("spec_scheduler") == "volcano":
        found = cluster.custom("scheduling.volcano.sh", "queues", everywhere=True)
    else:
        found = cluster.custom(names.KUEUE_GROUP, "localqueues")
    return (str(one["metadata"]["name"]) for one in found or ())


def _queue_priorities(cluster: Cluster, ctx: click.Context) -> Iterable[str]:
    del ctx
    found = cluster.custom(names.KUEUE_GROUP, "workloadpriorityclasses", everywhere=True)
    return (str(one["metadata"]["name"]) for one in found or ())


jobs = _of_cluster(_jobs)


def places(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files of this machine, and index 0 of jobs."""
    found = [CompletionItem(f"{name}:0:") for name in jobs(ctx, param, incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]


profiles = _of_here(lambda: (profile.name for profile in all_profiles(Path.cwd())))
OF_FIELDS = {
    "gpu_kind": _of_here(gpus.names),
    "namespace": _of_cluster(
        lambda cluster, _: (str(one["metadata"]["name"]) for one in cluster.list("Namespace"))
    ),
    "queue": _of_cluster(_queues),
    "queue_priority": _of_cluster(_queue_priorities),
}
"""By the field of a spec that a flag sets."""
