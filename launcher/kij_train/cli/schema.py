"""kij-train schema"""

from __future__ import annotations

import click

from kij_train.cli import output
from kij_train.spec import ArraySpec, Common, JobSpec

KINDS: dict[str, type[Common]] = {"launch": JobSpec, "map": ArraySpec}
"""Command → what its spec files are."""


@click.command("schema")
@click.argument("kind", type=click.Choice(list(KINDS)), default="launch")
def command(kind: str) -> None:
    """Print the JSON Schema of spec files of launch, or of map, for editors and validators.

    In VS Code: save it as kij-train.schema.json, and put
    "# yaml-language-server: $schema=kij-train.schema.json" on top of a spec file.
    """
    schema = KINDS[kind].model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "kij-train job" if kind == "launch" else "kij-train array"
    schema["properties"]["profile"] = {
        "description": "Named settings below those of the file: see kij-train profiles.",
        "type": "string",
    }
    output.json_data(schema)
