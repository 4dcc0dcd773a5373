"""kij-train schema"""

from __future__ import annotations

import click

from kij_train.cli import output
from kij_train.spec import JobSpec


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of spec files, for editors and validators.

    In VS Code: save it as kij-train.schema.json, and put
    "# yaml-language-server: $schema=kij-train.schema.json" on top of a spec file.
    """
    schema = JobSpec.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "kij-train job"
    schema["properties"]["profile"] = {
        "description": "Named settings below those of the file: see kij-train profiles.",
        "type": "string",
    }
    output.json_data(schema)
