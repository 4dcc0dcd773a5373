"""Whether training may get GPUs that are shared or cut into slices, and are called whole ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from kij_train import diagnosis, gpus
from kij_train.errors import RefusedError, UnreachableError
from kij_train.runs.plan import Note

if TYPE_CHECKING:
    from kij_train.cluster import Cluster
    from kij_train.spec import JobSpec


def doubts(spec: JobSpec, connect: Callable[[], Cluster]) -> Iterator[Note]:
    """What speaks against training on the GPUs that it asks for; nothing where nobody may know."""
    if not spec.gpus:
        return
    if spec.gpu_kind == gpus.SHARED:
        yield Note(
            "training on a shared GPU: it waits for whoever else has the GPU, and so does every "
            "other rank; without MPS, nothing keeps them from taking each other's memory",
            ("train on whole GPUs: --gpu-kind whole; shares are for evaluations",),
        )
    if spec.gpu_kind == gpus.WHOLE:
        try:
            yield from _not_whole(spec, connect())
        except (RefusedError, UnreachableError):
            return


def _not_whole(spec: JobSpec, cluster: Cluster) -> Iterator[Note]:
    shared = _machines(spec, cluster, f"{diagnosis.SHARING} in ({','.join(diagnosis.SHARED_BY)})")
    shared = shared or _machines(spec, cluster, diagnosis.GKE_SHARING)
    if shared:
        yield Note(
            f"on {_some(shared)}, several pods share each GPU, and a share is called "
            f"{gpus.WHOLE_RESOURCE}: ranks wait for whoever else has the GPU, and NCCL refuses two "
            "of them on one",
            (f"whole GPUs alone: --node-selector {diagnosis.SHARING}=none",),
        )
    slices = _machines(spec, cluster, diagnosis.SLICES) if (spec.gpus or 0) > 1 else []
    if slices:
        yield Note(
            f"on {_some(slices)}, {gpus.WHOLE_RESOURCE} is a MIG slice (strategy single): CUDA "
            "gives a process one of them, and NCCL, before 2.32 at least, has no path between "
            "slices of one GPU",
            (f"whole GPUs alone: --node-selector '{diagnosis.PRODUCT}=NAME', or --gpus 1",),
        )


def _machines(spec: JobSpec, cluster: Cluster, selector: str) -> list[dict[str, Any]]:
    """Machines with such labels that the job may get, of those that a page has."""
    own = [f"{key}={value}" for key, value in spec.node_selector.items()]
    page = next(cluster.pages("Node", labelSelector=",".join([*own, selector])))
    return [machine for machine in page.get("items") or [] if diagnosis.has_whole(machine)]


def _some(machines: list[dict[str, Any]]) -> str:
    """The first of them by name, and how many there are."""
    name = machines[0]["metadata"]["name"]
    more = len(machines) - 1
    return f"machine {name}" + (f" and {more} more" if more else "")
