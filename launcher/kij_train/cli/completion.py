"""kij-train completion"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from kij_train.cli import output


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a shell's completion script, which knows names: of jobs, namespaces, queues and more.

    \b
      bash   eval "$(kij-train completion bash)"             in ~/.bashrc
      zsh    eval "$(kij-train completion zsh)"              in ~/.zshrc
      fish   kij-train completion fish | source              in ~/.config/fish/config.fish
    """
    from kij_train.cli.app import app

    made = get_completion_class(shell)
    assert made is not None
    output.data(made(app, {}, "kij-train", "_KIJ_TRAIN_COMPLETE").source())
