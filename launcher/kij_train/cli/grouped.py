"""Help under headings: options of one matter together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from kij_train.spec.settings import Group


class Option(click.Option):
    """An option under a heading."""

    def __init__(self, *args: Any, group: Group, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def option(group: Group, *declarations: str, **kwargs: Any) -> Callable[[Any], Any]:
    """click.option, under a heading."""
    return click.option(*declarations, cls=Option, group=group, **kwargs)


def form_of(printed: str) -> Callable[[Any], Any]:
    """--output of a command that submits: the format of what it prints then."""
    return option(
        Group.OUTPUT,
        "--output",
        "-o",
        "form",
        type=click.Choice(["text", "yaml", "json"]),
        default="text",
        help=f"Format of what {printed} print{'' if ' and ' in printed else 's'}.",
    )


class Command(click.Command):
    """A command whose options have headings; those without one come last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section a heading, and the rest under "Other options"."""
        rows: dict[str, list[tuple[str, str]]] = {group.value: [] for group in Group}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                group = parameter.group.value if isinstance(parameter, Option) else "Other options"
                rows.setdefault(group, []).append(record)
        for heading, records in rows.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
