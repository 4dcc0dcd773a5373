"""The pages of docs/examples: what people have written by hand beside what kij-train renders.

    python -m tests.migrations        also: make goldens

What is by hand is a file there; `migrationrows.py` says which of its lines are which of ours. Here
both are read, every leaf of both is accounted for, and the pages are written.
tests/unit/test_migrations.py fails when a line of either has no counterpart and no word about it,
and when the pages are older than the code.
"""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml
from kij_train import runs
from kij_train.cli.options import flags_layer
from kij_train.spec import ArraySpec
from kij_train.specfile import resolve

from tests.kube import ROOT
from tests.migrationrows import BESIDES, EXAMPLES, Example, Row

FOLDER = ROOT / "docs" / "examples"
_HASH = re.compile(r"\b[0-9a-f]{16,64}\b")
Objects = dict[str, Any]
"""Kind → object."""
NOT_THERE = object()
WIDTH = 88
MOST_SHOWN = 44
"""Characters of a line: two stand beside each other."""


def rendered(example: Example) -> Objects:
    """What the example's command renders, by kind; without the ConfigMaps, which hold the code."""
    words = shlex.split(example.command)
    folder = ROOT / "train_examples"
    if words[1] == "map":
        from kij_train.cli import map as mapping

        params = mapping.command.make_context("map", words[2:]).params
        array = resolve(flags_layer(params, ArraySpec), environ={}, cwd=folder, model=ArraySpec)
        items = mapping.read_items(array)
        bodies = runs.plan_array(array, items, cwd=folder, place=runs.OnCluster()).objects()
    else:
        from kij_train.cli.render import command

        params = command.make_context("render", words[2:]).params
        spec = resolve(flags_layer(params), environ={}, cwd=folder)
        bodies = runs.plan(spec, cwd=folder, place=runs.OnCluster()).objects()
    return {body["kind"]: body for body in bodies if body["kind"] != "ConfigMap"}


def by_hand(example: Example) -> Objects:
    """What stands in the example's file, by kind; of a script, its lines."""
    text = (FOLDER / example.file).read_text(encoding="utf-8")
    if example.file.endswith(".sh"):
        return {"lines": [line for line in text.splitlines() if not line.startswith("#!")]}
    return {body["kind"]: body for body in yaml.safe_load_all(text)}


# --- paths: Job:spec.template.spec.containers[train].image ----------------------------------------


def _parts(path: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]|[^.\[\]]+(?:/[^.\[\]]+)*", path)


def leaves(objects: Objects) -> Iterator[str]:
    """The paths of all values that hold no others; members of a list by their name or place."""
    for kind, body in objects.items():
        yield from _leaves(f"{kind}:", body)


def _leaves(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(_below(path, str(key)), part)
    elif isinstance(value, list) and value:
        for place, part in enumerate(value):
            yield from _leaves(f"{path}[{_name(part, place)}]", part)
    else:
        yield path


def _name(part: Any, place: int) -> str:
    return str(part.get("name", place)) if isinstance(part, dict) else str(place)


def value_at(objects: Objects, path: str) -> Any:
    """What stands at a path; NOT_THERE where nothing does."""
    kind, _, rest = path.partition(":")
    value = objects.get(kind, NOT_THERE)
    for part in _parts(rest):
        name = part.strip("[]")
        if isinstance(value, dict):
            value = value.get(name, NOT_THERE)
        elif isinstance(value, list):
            named = {_name(each, place): each for place, each in enumerate(value)}
            value = named.get(name, NOT_THERE)
        else:
            return NOT_THERE
    return value


def covers(prefix: str, path: str) -> bool:
    """Whether a path stands below another one, or is the same."""
    return path.startswith(prefix) and (
        prefix.endswith(":") or path[len(prefix) :][:1] in ("", ".", "[")
    )


def of_script(example: Example, path: str) -> str:
    """The line of a script that holds these words."""
    return next((line for line in by_hand(example)["lines"] if path in line), "")


# --- pages ----------------------------------------------------------------------------------------


def page(example: Example) -> str:
    """The whole page of an example."""
    hand, ours = by_hand(example), rendered(example)
    rows = "".join(_row(row, hand, ours) for row in example.rows)
    others = left(example, ours)
    besides = ""
    for prefix, why in BESIDES.items():
        some = [path for path in others if covers(prefix, path)]
        if some:
            text = _yaml(_with_key(prefix, _only(some, prefix, value_at(ours, prefix))))
            besides += f"<tr><td><pre>{text}</pre></td><td>{_note(why)}</td></tr>\n"
    return (
        f"# {example.title}\n\n{example.about}\n\n"
        f"The file by hand: [{example.file}]({example.file}). The command that takes its place:\n\n"
        f"```shell\n{_wrapped(example.command)}\n```\n\n{example.more}\n\n"
        "## Line by line\n\n<table>\n<tr><th>by hand</th><th>what kij-train renders</th>"
        f"</tr>\n{rows}</table>\n\n"
        "## What else is rendered\n\n<table>\n"
        f"<tr><th>what kij-train renders</th><th>what for</th></tr>\n{besides}</table>\n\n"
        "The code is in ConfigMaps, which are left out here.\n"
    ).replace("\n\n\n", "\n")


def left(example: Example, ours: Objects) -> list[str]:
    """Leaves of ours that no row has."""
    taken = [path for row in example.rows for path in row.ours]
    taken += [f"{kind}:{key}" for kind in ours for key in ("apiVersion", "kind", "metadata.name")]
    return [leaf for leaf in leaves(ours) if not any(covers(path, leaf) for path in taken)]


def _only(kept: list[str], path: str, value: Any) -> Any:
    """A value without what does not stand at one of these paths."""
    if isinstance(value, dict):
        found = {key: _below(path, str(key)) for key in value}
        return {
            key: _only(kept, at, value[key])
            for key, at in found.items()
            if any(covers(at, one) for one in kept)
        }
    if isinstance(value, list):
        places = [(f"{path}[{_name(part, place)}]", part) for place, part in enumerate(value)]
        return [
            _only(kept, at, part) for at, part in places if any(covers(at, one) for one in kept)
        ]
    return value


def _below(path: str, key: str) -> str:
    if re.search(r"[./]", key):
        return f"{path}[{key}]"
    return path + ("" if path.endswith(":") else ".") + key


def _row(row: Row, hand: Objects, ours: Objects) -> str:
    left = "\n".join(_shown(hand, path) for path in row.hand) or "—"
    right = "\n".join(_shown(ours, path) for path in row.ours) or "—"
    by = f"<code>{html.escape(row.by)}</code>" if row.by else ""
    note = f"{by}{' · ' if by and row.note else ''}{_note(row.note)}"
    above = f'<tr><td colspan="2">{note}</td></tr>\n' if note else ""
    return f"{above}<tr><td><pre>{left}</pre></td><td><pre>{right}</pre></td></tr>\n"


def _note(text: str) -> str:
    """A text of a cell, with `code`."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def _shown(objects: Objects, path: str) -> str:
    """The lines of YAML of what stands at a path, with its key; of a script, its line."""
    if "lines" in objects:
        return html.escape(next(line for line in objects["lines"] if path in line))
    value = value_at(objects, path)
    assert value is not NOT_THERE, path
    return _yaml(_with_key(path, value))


def _with_key(path: str, value: Any) -> Any:
    """What stands at a path, in the mapping or list that it stands in."""
    last = (_parts(path.partition(":")[2])[-1:] or [""])[0]
    name = last.strip("[]")
    if not last:
        return value
    if last.startswith("[") and (isinstance(value, dict) or name.isdigit()):
        return [value]
    return {name: value}


def _yaml(body: Any) -> str:
    text = yaml.safe_dump(body, sort_keys=False, width=1000, allow_unicode=True).rstrip()
    lines = _HASH.sub("…", text.removesuffix("\n...")).splitlines()
    shown = (line if len(line) <= MOST_SHOWN else line[:MOST_SHOWN] + "…" for line in lines)
    return html.escape("\n".join(shown), quote=False)


def _wrapped(command: str) -> str:
    """A command over lines of a page's width."""
    lines, line = [], ""
    for words in re.findall(r"--?\S+ [^-\s]\S*|\S+", command):
        if len(line) + len(words) > WIDTH:
            lines.append(line + " \\")
            line = "   "
        line += (" " if line else "") + words
    return "\n".join([*lines, line])


def main() -> None:
    """Write every page."""
    for example in EXAMPLES:
        (FOLDER / f"{example.name}.md").write_text(page(example), encoding="utf-8")
    print(FOLDER.relative_to(ROOT))


if __name__ == "__main__":
    main()
