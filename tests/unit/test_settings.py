"""A field of a spec carries its own facts: a new one is found everywhere without another line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import pytest
from kij_train.cli import grouped
from kij_train.cli.options import spec_options
from kij_train.errors import RequestError
from kij_train.spec import JobSpec
from kij_train.spec.settings import Fact, Group, Merge, Setting, Switch, fields_with, settings_of
from kij_train.specfile import Layer, Origin, check, resolve


class Grown(JobSpec):
    """A job with three more fields."""

    colour: Annotated[
        str | None,
        Setting(Group.PLACEMENT, "--colour -c NAME", Fact.CLUSTER_ONLY | Fact.TORCHX),
    ] = None
    """Colour of the machines."""
    marks: Annotated[tuple[str, ...], Setting(Group.DATA, "--mark NAME", merge=Merge.JOIN)] = ()
    """Marks."""
    bright: Annotated[
        bool, Setting(Group.DATA, switches={"--dull": Switch(False, "Not bright.")})
    ] = True
    """Whether it is bright."""


def test_every_field_has_a_setting_and_every_flag_a_help() -> None:
    assert settings_of(JobSpec).keys() == JobSpec.model_fields.keys()
    flags = [flag for option in spec_options() for flag in option.flags]
    assert len(flags) == len(set(flags))
    for option in spec_options():
        assert option.help, option.flags
        assert option.switch or option.setting.metavar, option.flags


def test_a_new_field_has_its_flags_under_its_heading() -> None:
    options = [option.option for option in spec_options(Grown)]
    text = grouped.Command("grown", params=list(options)).get_help(
        click.Context(click.Command("x"))
    )
    placement = text.partition("Placement:")[2].partition("Environment and data:")[0]
    assert "-c, --colour NAME" in placement
    assert "Colour of the machines." in placement
    data = text.partition("Environment and data:")[2].partition("Security:")[0]
    assert "--mark NAME" in data
    assert "Repeatable." in data
    assert "--dull" in data
    assert "Not bright." in data


def test_a_new_field_is_a_variable_and_a_key_and_merges_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: a.py\nmarks: [low]\ncolour: red\n")
    resolved = resolve(
        Layer({"bright": False}, {("bright",): Origin("--dull", names_value=True)}),
        environ={"KIJ_MARKS": "high higher", "KIJ_COLOUR": "blue"},
        cwd=tmp_path,
        spec_file="job.yaml",
        model=Grown,
    )
    assert resolved.spec.marks == ("low", "high", "higher")
    assert resolved.spec.colour == "blue"
    assert not resolved.spec.bright
    assert resolved.origin(("colour",)) == "KIJ_COLOUR"


def test_a_wrong_value_of_a_new_field_is_refused_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: a.py\nbright: perhaps\n")
    with pytest.raises(RequestError, match=r"job.yaml:2: bright perhaps must be true or false"):
        resolve(Layer({}), environ={}, cwd=tmp_path, spec_file="job.yaml", model=Grown)
    with pytest.raises(RequestError, match=r'unknown key "color". Did you mean "colour"'):
        check(Layer({"script": "a.py", "color": "red"}), Grown)


def test_facts_of_a_new_field_are_read_where_they_count() -> None:
    assert "colour" in fields_with(Grown, Fact.CLUSTER_ONLY)
    assert "colour" in fields_with(Grown, Fact.TORCHX)
    assert "marks" not in fields_with(Grown, Fact.CLUSTER_ONLY)
    assert Grown.model_json_schema()["properties"]["colour"]["description"]
