"""kij-train profiles"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kij_train.cli import completers, output
from kij_train.specfile import Profile, all_profiles


@click.group("profiles", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the profiles: named settings of fabrics and machines, for --profile."""
    if context.invoked_subcommand is None:
        output.table(
            ("name", "from", "what for"),
            ((one.name, one.origin, one.description) for one in all_profiles(Path.cwd())),
        )
        output.status("none is a default: without --profile, nothing of a fabric is set")
        output.status("what one sets, why, and what it needs: kij-train profiles show NAME")


@command.command("show")
@click.argument("name", shell_complete=completers.profiles)
def show(name: str) -> None:
    """What a profile sets, why, by which source, and what it needs on the cluster.

    NAME is a profile that comes with kij-train, one of the project file, or a .toml file.
    """
    profile = Profile.find(name, Path.cwd())
    output.data(f"{profile.name}: {profile.description or 'no description'}")
    output.data(f"from:   {profile.origin}")
    if profile.source:
        output.data(f"source: {profile.source}")
    if profile.max_nodes is not None:
        output.data(f"nodes:  {profile.max_nodes} at most")
        if "max_nodes" in profile.why:
            output.data(f"      {profile.why['max_nodes']}")
    for use, kinds in profile.gpu_kinds.items():
        output.data(f"{use} on GPUs of kind {', '.join(kinds)}")
        if f"gpu_kinds.{use}" in profile.why:
            output.data(f"      {profile.why[f'gpu_kinds.{use}']}")
    output.data("sets:")
    for key, value in _flat(profile.spec):
        output.data(f"  {key} = {value}")
        if key in profile.why:
            output.data(f"      {profile.why[key]}")
    if profile.needs:
        output.data("needs:")
        for need in profile.needs:
            output.data(f"  {need}")


def _flat(spec: dict[str, Any]) -> list[tuple[str, Any]]:
    """Keys as `config` shows them: env.NCCL_DEBUG."""
    rows: list[tuple[str, Any]] = []
    for key, value in spec.items():
        if isinstance(value, dict):
            rows += [(f"{key}.{name}", part) for name, part in value.items()]
        else:
            rows.append((key, ", ".join(map(str, value)) if isinstance(value, list) else value))
    return rows
