"""kij-train help"""

from __future__ import annotations

import click

from kij_train.cli import output


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    del param
    assert ctx.parent is not None
    group = ctx.parent.command
    assert isinstance(group, click.Group)
    return [name for name in group.list_commands(ctx) if name.startswith(incomplete)]


@click.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1, shell_complete=_names)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of kij-train, or of a command: help launch, help bench allreduce."""
    assert ctx.parent is not None
    about = ctx.parent
    for word in words:
        if not isinstance(about.command, click.Group):
            raise click.UsageError(f"{about.command_path} has no commands: {word}", about)
        _, found, _ = about.command.resolve_command(about, [word])
        assert found is not None
        about = click.Context(found, info_name=word, parent=about)
    output.data(about.get_help())
