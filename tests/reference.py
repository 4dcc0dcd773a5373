"""The pages of docs/reference, made of the code: python -m tests.reference, or make goldens.

They say what `kij-train explain`, `--help` and the docstrings say, from the same places.
tests/unit/test_reference.py fails when the pages are older than the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
import kij_train
import yaml
from kij_train.array_api import ArrayRun
from kij_train.array_api import map as map_items
from kij_train.cli import grouped
from kij_train.cli.app import COMMANDS, app
from kij_train.profiles import builtin_profiles
from kij_train.reference import About, Topic, causes, codes, fields, variables
from kij_train.spec import kinds
from kij_train.spec.settings import Group, settings_of
from kij_train.specfile import Profile

from tests.kube import ROOT

FOLDER = ROOT / "docs" / "reference"
WIDTH = 88
ROLE = ROOT / "manifests" / "role.yaml"


def _cell(text: str) -> str:
    """A text within a cell of a table: one line, and nothing that ends the cell or is HTML."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


def _code(text: str) -> str:
    return f"`{' '.join(text.split())}`".replace("|", "\\|")


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


# --- commands -------------------------------------------------------------------------------------


def commands() -> str:
    """Every command and option, as `--help` has them."""
    text = "# Commands\n\nWhat `kij-train help COMMAND` prints.\n"
    for name in COMMANDS:
        found = app.get_command(click.Context(app), name)
        assert found is not None
        text += _command(f"kij-train {name}", found, 2)
    return text


def _command(path: str, command: click.Command, level: int) -> str:
    context = click.Context(command, info_name=path)
    text = f"\n{'#' * level} {path}\n\n    {' '.join(command.get_usage(context).split()[1:])}\n"
    text += f"\n{_prose(command.help or '')}"
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            heading = parameter.group.value if isinstance(parameter, grouped.Option) else "Options"
            sections.setdefault(heading, []).append(record)
    for heading in [*(group.value for group in Group), "Options"]:
        rows = ((_code(flag), _cell(said)) for flag, said in sections.get(heading, []))
        if heading in sections:
            text += f"\n{_table((heading, ''), rows)}"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            within = command.get_command(context, name)
            assert within is not None
            text += _command(f"{path} {name}", within, level + 1)
    return text


def _prose(text: str) -> str:
    """A docstring of click: paragraphs, and behind \\b lines that stay as they are."""
    parts = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if part.startswith("\b"):
            parts.append("\n".join(f"    {line.strip()}" for line in part.splitlines()[1:]))
        else:
            parts.append(_cell(part).replace("\\|", "|"))
    return "\n\n".join(parts) + "\n"


# --- topics ---------------------------------------------------------------------------------------


def spec_fields() -> str:
    """Every key of a spec file, with its flag, its variable and its default."""
    groups = {
        name: setting.group
        for model in reversed(kinds())
        for name, setting in settings_of(model).items()
    }
    text = (
        "# Fields of specs\n\nKeys of a spec file (`-f job.yaml`), of `kij-train.toml` and of "
        "profiles, and arguments of [`kij_train.job` and `kij_train.map`](api.md). A flag wins "
        "over a `KIJ_*` variable, that over a spec file, that over the project file, that over a "
        "profile.\n"
    )
    topics = fields.topics()
    for group in Group:
        some = [topic for topic in topics if groups[topic.name] is group]
        if some:
            text += f"\n## {group.value}\n" + "".join(map(_field, some))
    return text


def _field(topic: Topic) -> str:
    facts = dict(topic.facts)
    rows = [(label, _code(value)) for label, value in facts.items() if label != "of"]
    title = topic.name if "launch" in facts["of"] else f"{topic.name} (arrays)"
    return (
        f"\n### {title}\n\n{_cell(topic.text)}\n\n"
        f"{_table(('of', facts['of'].join(('`', '`'))), rows)}"
    )


def environment() -> str:
    """The variables that scripts find, and all others of pods."""
    topics = variables.topics()
    theirs = [topic for topic in topics if variables.is_for_scripts(topic)]
    ours = [topic for topic in topics if topic not in theirs]
    return (
        "# Environment\n\n## What scripts may read\n\n"
        "torchrun sets `RANK`, `LOCAL_RANK` and the rest for each rank.\n\n"
        f"{_rows('variable', theirs)}"
        "\n## Between kij-train's own processes\n\nThey may change with any release.\n\n"
        f"{_rows('variable', ours)}"
        "\n## What sets fields of a spec\n\n`KIJ_` and the name of the field in capitals: "
        "`KIJ_NODES=8` for [`nodes`](fields.md#nodes).\n"
    )


def _rows(name: str, topics: Iterable[Topic]) -> str:
    return _table((name, ""), ((_code(topic.name), _cell(topic.text)) for topic in topics))


def exit_codes() -> str:
    """Of kij-train, and of processes in pods."""
    topics = codes.topics()
    own = [topic for topic in topics if topic.about is About.EXIT_CODE]
    pods = [topic for topic in topics if topic.about is About.POD_EXIT_CODE]
    return (
        f"# Exit codes\n\n## Of kij-train\n\n{_rows('code', own)}\n## Of processes in pods\n\n"
        "Their Job decides by them whether another pod is tried. Other codes are the script's or "
        f"the program's own; 128 + N is signal N.\n\n{_rows('code', pods)}"
    )


def cause_page() -> str:
    """Everything that `why` can name, and what to do."""
    text = (
        "# Causes\n\nWhat `kij-train why` names in `kind` (`-o json`): the words stay as they are, "
        "for scripts. What it says of one job is more: who, where, and the evidence.\n"
    )
    for topic in causes.topics():
        facts = dict(topic.facts)
        text += f"\n## {topic.name}\n\n{_cell(topic.text)}\n"
        if "seen as" in facts:
            text += f"\nSeen as: {_cell(facts['seen as'])}.\n"
        if "try" in facts:
            text += f"\nTry: {_cell(facts['try'])}\n"
    return text


# --- role, profiles, API --------------------------------------------------------------------------


def role() -> str:
    """The rights that a user needs in a namespace."""
    why, said = "", list[str]()
    rows: list[tuple[str, ...]] = []
    rules = iter(yaml.safe_load(ROLE.read_text(encoding="utf-8"))["rules"])
    for line in ROLE.read_text(encoding="utf-8").partition("rules:\n")[2].splitlines():
        if line.strip().startswith("# "):
            said.append(line.strip().removeprefix("# "))
        elif line.strip().startswith("- "):
            rule = next(rules)
            what = [
                f"{resource}.{group}" if group else resource
                for group in rule["apiGroups"]
                for resource in rule["resources"]
            ]
            why, said = (" ".join(said) or why), []
            rows.append((", ".join(map(_code, what)), ", ".join(rule["verbs"]), _cell(why)))
    lines = ROLE.read_text(encoding="utf-8").splitlines()
    apply = [line.removeprefix("#   ") for line in lines if line.startswith("#   kubectl")]
    return (
        "# Role\n\nWhat a user needs in a namespace, and nothing more: "
        "[manifests/role.yaml](../../manifests/role.yaml). An admin applies it once:\n\n"
        + "".join(f"    {line}\n" for line in apply)
        + f"\n{_table(('resources', 'verbs', 'what for'), rows)}"
    )


def profiles() -> str:
    """What each profile sets, why, and by which source."""
    text = (
        "# Profiles\n\nNamed settings of a fabric or a kind of machine, for `--profile NAME`. None "
        "is a default. `kij-train profiles show NAME` prints the same.\n"
    )
    for name in builtin_profiles():
        profile = Profile.find(name, ROOT)
        text += f"\n## {name}\n\n{_cell(profile.description)}.\n"
        if profile.source:
            text += f"\nSource: <{profile.source}>\n"
        rows = [
            (_code(f"{key} = {value}"), _cell(profile.why.get(key, "")))
            for key, value in _flat(profile.spec)
        ]
        if profile.max_nodes is not None:
            rows.append((_code(f"nodes ≤ {profile.max_nodes}"), _cell(profile.why["max_nodes"])))
        text += f"\n{_table(('sets', 'why'), rows)}"
        if profile.needs:
            text += "\nNeeds:\n\n" + "".join(f"- {_cell(need)}\n" for need in profile.needs)
    return text


def _flat(spec: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in spec.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", part) for name, part in value.items())
        else:
            yield key, value


def api() -> str:
    """What `import kij_train` gives."""
    text = f"# Python API\n\n{_cell((kij_train.__doc__ or '').partition(chr(10) * 2)[2])}\n"
    for function in (kij_train.job, kij_train.launch, kij_train.attach, map_items):
        text += _callable(f"kij_train.{function.__name__}", function, 2)
    for each in (kij_train.Run, ArrayRun):
        text += f"\n## kij_train.{each.__name__}\n\n{_doc(each)}"
        for name, member in inspect.getmembers(each):
            if name.startswith("_"):
                continue
            if isinstance(member, property):
                text += f"\n### {each.__name__}.{name}\n\n{_doc(member)}"
            elif inspect.isfunction(member):
                text += _callable(f"{each.__name__}.{name}", member, 3)
    return text + (
        "\n## Errors\n\nAll are `kij_train.errors.KijError`, with `message`, `hints` and "
        f"`exit_code`:\n\n```text\n{_tree()}\n```\n"
    )


def _tree() -> str:
    from kij_train import errors

    lines = (errors.__doc__ or "").splitlines()
    return inspect.cleandoc("\n".join(line for line in lines if line.startswith("    ")))


def _callable(name: str, function: Callable[..., Any], level: int) -> str:
    signature = inspect.signature(function)
    shown = f"{name.rpartition('.')[2]}{signature}".replace("'", "")
    if len(shown) > WIDTH:
        inner, returns = (shown[shown.index("(") + 1 :]).rsplit(")", 1)
        parts = "".join(f"    {part},\n" for part in re.split(r", (?![^\[(]*[\])])", inner))
        shown = f"{shown.partition('(')[0]}(\n{parts}){returns}"
    return f"\n{'#' * level} {name}\n\n```python\n{shown}\n```\n\n{_doc(function)}"


def _doc(thing: object) -> str:
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(thing) or "")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs) + "\n"


def index(others: dict[str, str]) -> str:
    """The first page, by the titles of the others."""
    text = (
        "# Reference\n\nMade of the code (`python -m tests.reference`): what `kij-train explain` "
        "and `--help` say.\n\n"
    )
    for name, page in others.items():
        title = page.removeprefix("# ").partition("\n")[0]
        text += f"- [{title}]({name}.md): {(PAGES[name].__doc__ or '').strip()}\n"
    return text


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "fields": spec_fields,
    "environment": environment,
    "exit-codes": exit_codes,
    "causes": cause_page,
    "role": role,
    "profiles": profiles,
    "api": api,
}


def pages() -> dict[str, str]:
    """Every page, by its name."""
    made = {name: page() for name, page in PAGES.items()}
    return {"index": index(made), **made}


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    print(FOLDER.relative_to(ROOT))


if __name__ == "__main__":
    main()
