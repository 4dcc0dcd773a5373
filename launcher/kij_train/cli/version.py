"""kij-train version"""

from __future__ import annotations

import click

from kij_train import __version__
from kij_train.cli import output


@click.command("version")
def command() -> None:
    """Print the version, as --version does."""
    output.data(f"kij-train, version {__version__}")
