"""Who may open a connection to the pods: --allow-from and --no-network-policy."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, model_validator

from kij_train import names
from kij_train.spec.settings import Fact, Group, Merge, Setting, Switch
from kij_train.spec.types import Key, LabelValue, Model, SpecConflict

FORMS = "namespace:NAME, pods:LABEL=VALUE of the job's namespace, or addresses such as 10.0.0.0/8"


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{error}. It must be one of: {FORMS}") from None


class Peers(Model):
    """Some pods or addresses: one of the fields."""

    namespace: Annotated[str, AfterValidator(names.check_namespace)] | None = None
    """All pods of a namespace."""
    pods: dict[Key, LabelValue] | None = None
    """Pods of the job's namespace that have these labels."""
    addresses: Annotated[str, AfterValidator(_network)] | None = None
    """IP addresses, as CIDR."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Peers:
        if sum(bool(each) for each in (self.namespace, self.pods, self.addresses)) != 1:
            raise ValueError(f"must be one of: {FORMS}")
        return self

    def __str__(self) -> str:
        """As --allow-from has it."""
        if self.namespace:
            return f"namespace:{self.namespace}"
        labels = ",".join(f"{key}={value}" for key, value in (self.pods or {}).items())
        return f"pods:{labels}" if labels else str(self.addresses)


def parse_peers(value: object) -> object:
    """One of FORMS to the keys of Peers. Raises ValueError."""
    if not isinstance(value, str):
        return value
    kind, _, rest = value.partition(":")
    if kind == "namespace":
        try:
            return {"namespace": names.check_namespace(rest)}
        except ValueError as error:
            raise ValueError(f"{rest!r} {error}") from None
    if kind == "pods":
        labels = [label.partition("=") for label in rest.split(",")]
        if not all(equals for _, equals, _ in labels):
            raise ValueError(f"{value!r} must look like pods:LABEL=VALUE")
        return {"pods": {key: label for key, _, label in labels}}
    return {"addresses": value}


ParsedPeers = Annotated[Peers, BeforeValidator(parse_peers, json_schema_input_type=str | Peers)]


class Network(Model):
    """Who may reach the pods."""

    network_policy: Annotated[
        bool,
        Setting(
            Group.SECURITY,
            facts=Fact.CLUSTER_ONLY | Fact.TORCHX,
            switches={
                "--no-network-policy": Switch(
                    False, "Let every pod of the cluster open connections to the job's pods."
                )
            },
        ),
    ] = True
    """Make a NetworkPolicy, by which only the job's own pods may open connections to them; false to
    let every pod of the cluster do so."""
    allow_from: Annotated[
        tuple[ParsedPeers, ...],
        Setting(
            Group.SECURITY,
            "--allow-from WHO",
            Fact.CLUSTER_ONLY | Fact.TORCHX,
            merge=Merge.JOIN,
        ),
    ] = ()
    """Who else may open connections to the job's pods, such as a scraper of metrics:
    namespace:NAME, pods:LABEL=VALUE, or addresses such as 10.0.0.0/8."""

    @model_validator(mode="after")
    def _allows_by_a_policy(self) -> Network:
        if self.allow_from and not self.network_policy:
            raise SpecConflict(
                "allow_from", "means nothing without a network policy, which lets everybody in"
            )
        return self
