"""What the fields of a spec are made of: checked texts and numbers, tolerations, mounts."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from kij_train import names, units
from kij_train.pod import contract

RESERVED_PATHS = (
    contract.BUNDLE_DIR,
    contract.WORK_DIR,
    contract.ORIGINS_DIR,
    contract.CACHE_DIR,
    "/dev/shm",  # noqa: S108 - a check
)


class Model(BaseModel):
    """Base of the models: frozen, unknown keys refused, fields described by their docstrings."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True
    )
    """Models are built when they are first used: a command needs one of several."""

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_carried(cls, value: Any) -> Any:
        return names.check_text(value) if isinstance(value, str) else value


class SpecConflict(ValueError):  # noqa: N818 - never raised past pydantic
    """Fields that do not go together; `field` is the one to name to the user.

    `inside` is where in it: a key, or an index.
    """

    def __init__(self, field: str, message: str, *inside: str | int) -> None:
        super().__init__(message)
        self.location = (field, *inside)


Memory = Annotated[
    str, BeforeValidator(units.check_memory, json_schema_input_type=str), Field(examples=["16Gi"])
]
Cpu = Annotated[
    str, BeforeValidator(units.check_cpu, json_schema_input_type=str | float), Field(examples=["8"])
]
Seconds = Annotated[
    int,
    BeforeValidator(units.parse_duration, json_schema_input_type=str | int),
    Field(examples=["2h"]),
]


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is no whole number")
    return value


NotBool = BeforeValidator(_no_bool)
"""pydantic takes true for 1."""
Count = Annotated[int, Field(ge=1, lt=2**63), NotBool]
"""As far as Kubernetes counts."""
MOST_PROCESSES = 2**22
"""Of a machine: PID_MAX_LIMIT of Linux."""


def _text(value: object) -> object:
    # YAML reads `LR: 0.1` and `DEBUG: true` as a number and a truth value.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return names.check_text(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int | float | bool)]
EnvName = Annotated[str, AfterValidator(names.check_env_name)]
Key = Annotated[str, AfterValidator(names.check_key)]
LabelValue = Annotated[Text, AfterValidator(names.check_label_value)]
ObjectName = Annotated[str, AfterValidator(names.check_object_name)]


class Toleration(Model):
    """A toleration, with the keys and meanings of Kubernetes."""

    key: str | None = None
    """Taint key; none with operator Exists tolerates every taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    value: Text | None = None
    """Taint value, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Which effect is tolerated; none means all."""
    toleration_seconds: Annotated[int | None, Field(alias="tolerationSeconds"), NotBool] = None
    """How long a NoExecute taint is tolerated."""

    @model_validator(mode="after")
    def _as_kubernetes_asks(self) -> Toleration:
        if self.key is None and self.operator == "Equal":
            raise ValueError("operator Equal needs a key")
        if self.value is not None and self.operator == "Exists":
            raise ValueError("operator Exists takes no value. Did you mean operator Equal?")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect NoExecute")
        if self.key is not None:
            names.check_key(self.key)
        return self


def parse_toleration(value: object) -> object:
    """`KEY[=VALUE][:EFFECT]`, as `kubectl taint` writes taints, to the keys of a Toleration."""
    if not isinstance(value, str):
        return value
    taint, colon, effect = value.rpartition(":")
    if not colon:
        taint, effect = value, ""
    key, equals, tainted = taint.partition("=")
    fields: dict[str, object] = {"key": key}
    if equals:
        fields |= {"operator": "Equal", "value": tainted}
    if effect:
        fields["effect"] = effect
    return fields


class Mount(Model):
    """A volume and where it is mounted."""

    type: Literal["pvc", "secret", "configmap", "emptydir", "hostpath"]
    """What is mounted."""
    source: str | None = None
    """Name of the claim, Secret or ConfigMap; path on the node; or size limit of an emptydir."""
    path: str
    """Where in the container, an absolute path."""
    read_only: bool = False
    """Mount without write access. Secrets and ConfigMaps are never writable."""

    @model_validator(mode="after")
    def _is_mountable(self) -> Mount:
        if not self.path.startswith("/") or ".." in PurePosixPath(self.path).parts:
            raise ValueError(f"{self.path!r} must be an absolute path in the container")
        if ":" in self.path:
            raise ValueError(f"{self.path!r} must not contain ':'")
        if PurePosixPath(self.path) == PurePosixPath("/"):
            raise ValueError("cannot mount over /")
        for taken in RESERVED_PATHS:
            if PurePosixPath(self.path).is_relative_to(taken):
                hint = ". Set its size with --shm" if taken == "/dev/shm" else ""  # noqa: S108
                raise ValueError(f"{self.path} is used by kij-train itself{hint}")
        if self.type == "emptydir":
            if self.source is not None:
                units.check_memory(self.source)
        elif not self.source:
            raise ValueError(f"{self.type} needs a source: {MOUNT_FORMS[self.type]}")
        elif self.type == "hostpath":
            if not self.source.startswith("/") or ".." in PurePosixPath(self.source).parts:
                raise ValueError(f"{self.source!r} must be an absolute path on the node")
        else:
            names.check_object_name(self.source)
        return self


MOUNT_FORMS = {
    "pvc": "pvc:NAME:/path[:ro]",
    "secret": "secret:NAME:/path",
    "configmap": "configmap:NAME:/path",
    "hostpath": "hostpath:/on/node:/path[:ro]",
    "emptydir": "emptydir:[SIZE:]/path",
}


def parse_mount(value: object) -> object:
    """`TYPE:SOURCE:/path[:ro]` to the keys of a Mount. Raises ValueError."""
    if not isinstance(value, str):
        return value
    kind, *rest = value.split(":")
    kind = kind.lower()
    if kind not in MOUNT_FORMS:
        raise ValueError(f"{value!r} must be one of: {', '.join(MOUNT_FORMS.values())}")
    read_only = len(rest) > 1 and rest[-1] in ("ro", "rw")
    mode = rest.pop() if read_only else "rw"
    if kind == "emptydir" and len(rest) == 1:
        rest.insert(0, "")
    if len(rest) != 2:
        raise ValueError(f"{value!r} must look like {MOUNT_FORMS[kind]}")
    return {
        "type": kind,
        "source": rest[0] or None,
        "path": rest[1],
        "read_only": mode == "ro",
    }


ParsedToleration = Annotated[
    Toleration, BeforeValidator(parse_toleration, json_schema_input_type=str | Toleration)
]
ParsedMount = Annotated[Mount, BeforeValidator(parse_mount, json_schema_input_type=str | Mount)]
