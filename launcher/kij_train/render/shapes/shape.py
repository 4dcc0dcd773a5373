"""What a kind of job adds to what all jobs have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Pieces of the Job, its pods and their container."""

    policy: dict[str, Any]
    """Fields of the Job's spec: completions, parallelism, and what follows when a pod fails."""
    first_process: str
    """File in the pods' folder of the code, which is run first."""
    sources: tuple[Path, ...] = ()
    """Files that lie beside the bootstrap there."""
    component: str = "training"
    """app.kubernetes.io/component of every object."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of the Job and its pods."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Of the Job."""
    environment: dict[str, str] = field(default_factory=dict)
    """As the kubelet reads it: $(NAME) is the value of a variable that stands in front."""
    field_references: dict[str, str] = field(default_factory=dict)
    """Environment variables, and the fields of the pod that they have their values from."""
    ports: dict[str, int] = field(default_factory=dict)
    """Of the container, by name."""
    service_port: int | None = None
    """Port of the headless Service that gives the pods their names; None for no Service."""
    at_once: int = 1
    """Pods that a gang scheduler is to place together."""
    gang_timeout_s: int = 600
    """How long the first of them may wait for the last."""
    probes: dict[str, Any] = field(default_factory=dict)
    """Of the container."""
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    """Added where the user tolerates nothing of the same key."""
