"""Fields of specs: their docstrings, and what their types and settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kij_train.reference import About, Topic
from kij_train.spec import Common, kinds
from kij_train.spec.settings import Fact, Merge, Setting, settings_of
from kij_train.specfile import variable_of

COMMANDS = {"JobSpec": "launch", "ArraySpec": "map, sweep, eval"}
"""Model → the commands whose requests it describes."""
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "object": "mapping",
    "array": "list",
}
_MERGED = {
    Merge.JOIN: "joined: every source adds to the list",
    Merge.BY_KEY: "merged key by key",
}


def topics() -> list[Topic]:
    """A topic a field; where two kinds of job have the same field, one for both."""
    found: dict[Topic, list[str]] = {}
    for model in kinds():
        schema = model.model_json_schema()
        for name, setting in settings_of(model).items():
            topic = _topic(model, name, setting, schema)
            found.setdefault(topic, []).append(COMMANDS[model.__name__])
    return [
        Topic(
            topic.about, topic.name, topic.text, (("of", ", ".join(of)), *topic.facts), topic.words
        )
        for topic, of in found.items()
    ]


def _topic(model: type[Common], name: str, setting: Setting, schema: Mapping[str, Any]) -> Topic:
    field = model.model_fields[name]
    described = schema["properties"].get(field.alias or name, {})
    facts = [("key", f"{name}: {_values(described, schema)}")]
    flags = [setting.flag, *(setting.switches or {})]
    if any(flags):
        facts.append(("flag", ", ".join(filter(None, flags))))
    variable = variable_of(name, setting)
    if variable is not None:
        facts.append(("variable", variable))
    facts.append(("default", _shown(field.get_default(call_default_factory=True))))
    if setting.merge in _MERGED:
        facts.append(("sources", _MERGED[setting.merge]))
    if Fact.CLUSTER_ONLY in setting.facts:
        facts.append(("with --local", "means nothing"))
    words = [word for flag in flags for word in flag.split() if word.startswith("--")]
    text = " ".join((field.description or "").split())
    return Topic(About.FIELD, name, text, tuple(facts), (*words, *filter(None, [variable])))


def _shown(value: object) -> str:
    if value is None or value in ((), {}):
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        return _values(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        parts = [_values(one, whole) for one in schema["anyOf"] if one.get("type") != "null"]
        if "text" in parts:  # which then says the same as a number would
            parts = [part for part in parts if part in ("text", "mapping")]
        return " or ".join(dict.fromkeys(parts)) + _such_as(schema)
    words = _TYPES.get(str(schema.get("type")), "any")
    if words == "list":
        words += f" of {_values(schema.get('items', {}), whole)}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        words += f" from {low}" + (f" to {high}" if high is not None else "")
    return words + _such_as(schema)


def _such_as(schema: Mapping[str, Any]) -> str:
    examples = schema.get("examples") or []
    return f", such as {examples[0]}" if examples else ""
