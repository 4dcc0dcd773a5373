"""Man pages of all commands, by click-man: `make man` writes build/man, for `man -l` or MANPATH."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import kij_train
from kij_train.cli.app import app

from tests.kube import ROOT

FOLDER = ROOT / "build" / "man" / "man1"


def write(folder: Path) -> None:
    """A page for every command and command of a command."""
    from click_man.core import write_man_pages  # which takes Python 3.11

    folder.mkdir(parents=True, exist_ok=True)
    context = click.Context(app)
    found = {name: app.get_command(context, name) for name in app.list_commands(context)}
    commands = {name: command for name, command in found.items() if command is not None}
    # click-man reads the commands of a group, which ours imports when they are called.
    whole = click.Group("kij-train", commands, help=app.help, params=app.params)
    write_man_pages("kij-train", whole, version=kij_train.__version__, target_dir=str(folder))
    for page in folder.glob("*.1"):
        text = page.read_text(encoding="utf-8")
        # It leaves backslashes of help texts as they are, which begin an escape of troff.
        page.write_text(re.sub(r"\\(?![-f])", r"\\e", text), encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
    print(f"MANPATH={FOLDER.parent.relative_to(ROOT)}: man kij-train-launch")
    sys.exit(0)
