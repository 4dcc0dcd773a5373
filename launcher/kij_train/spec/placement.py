"""Which machines take the pods of a job, and when."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kij_train import names
from kij_train.spec.settings import Fact, Group, Merge, Setting, Switch
from kij_train.spec.types import Key, LabelValue, Model, ObjectName, ParsedToleration, SpecConflict

TOPOLOGIES = {
    "host": "kubernetes.io/hostname",
    "zone": "topology.kubernetes.io/zone",
    "rack": "cloud.provider.com/topology-rack",
    "block": "cloud.provider.com/topology-block",
    "nvlink": "nvidia.com/gpu.clique",
}
"""Short names of node labels. Rack and block are as in Kueue's documentation, there is no standard;
nvlink is what NVIDIA's DRA driver writes where NVLink connects machines, as of GB200 (NVL72):
https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/dra-cds.html."""


def parse_topology(value: object) -> object:
    """`LABEL[:required|preferred]`, or a short name for the label. Raises ValueError."""
    if not isinstance(value, str):
        return value
    label, colon, mode = value.partition(":")
    if colon and mode not in ("required", "preferred"):
        raise ValueError(f"{value!r} must end with :required or :preferred, or neither")
    close = difflib.get_close_matches(label, TOPOLOGIES, n=1, cutoff=0.85)
    if close and label not in TOPOLOGIES:
        raise ValueError(f"{label!r} is no short name. Did you mean {close[0]}?")
    return f"{names.check_key(TOPOLOGIES.get(label, label))}:{mode or 'preferred'}"


class Placement(Model):
    """Which machines take the pods, and when."""

    node_selector: Annotated[
        dict[Key, LabelValue],
        Setting(
            Group.PLACEMENT,
            "--node-selector KEY=VALUE",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
            merge=Merge.BY_KEY,
        ),
    ] = Field(default_factory=dict)
    """Labels a node must have."""
    tolerations: Annotated[
        tuple[ParsedToleration, ...],
        Setting(
            Group.PLACEMENT,
            "--toleration KEY[=VALUE][:EFFECT]",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
            merge=Merge.JOIN,
        ),
    ] = ()
    """Taints that are tolerated, written as for kubectl taint."""
    affinity: Annotated[
        dict[str, Any] | None,
        AfterValidator(names.check_texts),
        Setting(Group.PLACEMENT, facts=Fact.CLUSTER_ONLY | Fact.WITHOUT_VARIABLE),
    ] = None
    """Affinity of the pods, exactly as Kubernetes spells it; in files alone."""
    queue: Annotated[
        LabelValue | None, Setting(Group.PLACEMENT, "--queue NAME", Fact.CLUSTER_ONLY | Fact.TORCHX)
    ] = None
    """Queue that admits the job: Kueue's LocalQueue, or Volcano's with --scheduler volcano."""
    scheduler: Annotated[
        Literal["volcano", "coscheduling", "native", "default"] | None,
        Setting(
            Group.PLACEMENT,
            "--scheduler volcano|coscheduling|native|default",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
        ),
    ] = None
    """Gang scheduler, which places all pods or none; default: none, and no warning of that."""
    topology: Annotated[
        Annotated[str, BeforeValidator(parse_topology)] | None,
        Setting(Group.PLACEMENT, "--topology LABEL[:required]", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = None
    """Keep the pods together: host, nvlink, rack, block, zone or a node label; :required, or
    :preferred, which is the default."""
    placement: Annotated[
        Literal["spread", "pack"] | None,
        Setting(
            Group.PLACEMENT,
            facts=Fact.CLUSTER_ONLY | Fact.TORCHX,
            switches={
                "--spread": Switch("spread", "No two pods on one machine."),
                "--pack": Switch("pack", "As few machines as possible."),
            },
        ),
    ] = None
    """spread: no two pods on one machine; pack: as few machines as possible."""
    priority_class: Annotated[
        ObjectName | None,
        Setting(Group.PLACEMENT, "--priority-class NAME", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = None
    """PriorityClass of the pods."""
    queue_priority: Annotated[
        ObjectName | None,
        Setting(Group.PLACEMENT, "--queue-priority NAME", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = None
    """Kueue's WorkloadPriorityClass: who is admitted first, and who gives way to whom; without it
    the pods' priority counts."""
    dns_policy: Annotated[
        Literal["ClusterFirst", "ClusterFirstWithHostNet", "Default"] | None,
        Setting(
            Group.PLACEMENT,
            "--dns-policy ClusterFirst|ClusterFirstWithHostNet|Default",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
        ),
    ] = None
    """DNS policy of the pods; on their machines' network (hostNetwork) they need
    ClusterFirstWithHostNet."""

    @property
    def kueue(self) -> str | None:
        """The LocalQueue that admits the job, where Kueue does."""
        return None if self.scheduler == "volcano" else self.queue

    @model_validator(mode="after")
    def _can_be_placed(self) -> Placement:
        if self.affinity is not None:
            for field in ("topology", "placement"):
                if getattr(self, field) is not None:
                    raise SpecConflict(field, "conflicts with affinity: put all of it there")
        label = (self.topology or "").partition(":")[0]
        if self.placement == "spread" and label == TOPOLOGIES["host"]:
            raise SpecConflict(
                "topology", "conflicts with --spread: one host cannot hold them apart"
            )
        if self.queue is not None and self.scheduler in ("coscheduling", "native"):
            raise SpecConflict(
                "scheduler", f"conflicts with --queue {self.queue}: Kueue admits the job as a whole"
            )
        if self.queue_priority is not None and self.kueue is None:
            instead = "use --priority-class" if self.scheduler == "volcano" else "add --queue NAME"
            raise SpecConflict("queue_priority", f"is read by Kueue, in a queue: {instead}")
        if self.kueue is not None:
            try:
                names.check_object_name(self.kueue)
            except ValueError:
                raise SpecConflict(
                    "queue",
                    "can be no LocalQueue: its name has lower-case letters, digits, '-' and '.'",
                ) from None
        return self
