"""kij-train explain"""

from __future__ import annotations

import importlib
import textwrap

import click

from kij_train import reference
from kij_train.cli import output
from kij_train.cli.onjob import output_option
from kij_train.reference import About, Topic

STARTING = ("launch", "map", "sweep", "eval")
"""Commands whose options are explained, beside the fields of their specs."""
WIDTH = 88


def topics() -> list[Topic]:
    """All that can be asked about."""
    return [*reference.all_topics(), *_options()]


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    del ctx, param
    return sorted({topic.name for topic in topics() if topic.name.startswith(incomplete)})


# `explain --nodes` asks about a flag, and gives none.
@click.command("explain", context_settings={"ignore_unknown_options": True})
@click.argument("word", required=False, shell_complete=_names)
@output_option("text", "json")
def command(word: str | None, form: str) -> None:
    """Explain a field, an exit code, a variable of the pods, or what `why` names.

    \b
      kij-train explain restart       a field of spec files, and its flag and variable
      kij-train explain KIJ_RUN_DIR   a variable that scripts find
      kij-train explain 6             an exit code
      kij-train explain OOMKilled     what became of a pod

    Without a word, it lists all that it knows.
    """
    known = topics()
    found = known if word is None else reference.find(word, known)
    if form == "json":
        output.json_data([topic.as_json() for topic in found])
    elif word is None:
        _print_all(found)
    else:
        output.data("\n\n".join(map(_text, found)))


def _text(topic: Topic) -> str:
    lines = [f"{topic.name}: {topic.about.value}", ""]
    lines += textwrap.wrap(
        topic.text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    if topic.facts:
        lines.append("")
        wide = max(len(label) for label, _ in topic.facts)
        lines += [f"  {label.ljust(wide)}  {value}" for label, value in topic.facts]
    return "\n".join(lines)


def _print_all(found: list[Topic]) -> None:
    for about in About:
        rows = [(topic.name, topic.text) for topic in found if topic.about is about]
        output.table((about.value, "what it is"), rows)
        output.data("\n")


def _options() -> list[Topic]:
    """Options of the commands that start something, which are no fields of their specs."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name in STARTING:
        starting = importlib.import_module(f"kij_train.cli.{name}").command
        for option in starting.params:
            if not isinstance(option, click.Option) or option.hidden:
                continue
            if not (option.name or "").startswith("spec_"):
                flags = ", ".join(option.opts)
                if option.metavar:
                    flags += f" {option.metavar}"
                key = (max(option.opts, key=len), flags, option.help or "")
                found.setdefault(key, []).append(name)
    return [
        Topic(About.OPTION, flag, text, (("of", ", ".join(of)), ("flag", flags)))
        for (flag, flags, text), of in found.items()
    ]
