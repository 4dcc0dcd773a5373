"""The recipes in manifests/recipes: whole, told of, and profiles that can be used.

Whether Karpenter, Kueue, NVIDIA's operator and Kubernetes take the files, tests/node/test_buying.py
and tests/node/test_recipes.py ask them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from kij_train.cli import main
from kij_train.spec import JobSpec
from kij_train.spec.array import ArraySpec
from kij_train.specfile import Layer, Profile, all_profiles, resolve

from tests.goldens import ROOT

RECIPES = ROOT / "manifests" / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has copied the profiles."""
    (tmp_path / "kij-train.toml").write_text((RECIPES / "kij-train.toml").read_text())
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_for_and_is_in_the_documents(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    assert all(isinstance(body, dict) for body in yaml.safe_load_all(text))
    docs = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert path.name in docs
    marked = text.count("HERE") - text.count("marked HERE")
    assert (marked > 0) == ("marked HERE" in text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_commands_of_a_recipe_are_taken(
    path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "evaluate.py").touch()
    told = re.findall(r"kij-train ((?:launch|map) [^#\n]*)", path.read_text())
    for words in told:
        command, *rest = words.split()
        assert main([command, "--dry-run=client", *rest]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("bought-training", JobSpec),
        ("bought-evaluations", ArraySpec),
        ("shared-gpus", JobSpec),
        ("shared-gpus", ArraySpec),
    ],
)
def test_every_profile_of_the_recipes_can_be_used(
    project: Path, name: str, model: type[JobSpec | ArraySpec]
) -> None:
    own = {one.name for one in all_profiles(project) if one.origin == "project file"}
    assert own == {"bought-training", "bought-evaluations", "shared-gpus"}
    assert Profile.find(name, project).description
    layer = Layer({"script": "train.py", "gpu_kind": "dra" if model is JobSpec else "shared"})
    resolve(layer, environ={}, cwd=project, profile=name, model=model)


def test_spot_training_restarts_in_one_zone_and_is_not_moved(project: Path) -> None:
    layer = Layer({"script": "train.py", "gpus": 8, "nodes": 4})
    spec = resolve(layer, environ={}, cwd=project, profile="bought-training").spec
    assert (spec.restart, spec.topology) == ("gang", "topology.kubernetes.io/zone:required")
    assert spec.node_selector == {"karpenter.sh/nodepool": "training"}
    assert spec.annotations == {"karpenter.sh/do-not-disrupt": "true"}


# --- rules of use ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("render --gpus 8 train.py", None),
        ("render --gpus 8 --gpu-kind dra train.py", None),
        ("render --gpu-kind shared train.py", None),
        (
            "render --gpus 1 --gpu-kind shared train.py",
            "profile shared-gpus has training on GPUs of kind whole, dra, and --gpu-kind asks for "
            "shared: ranks on shares",
        ),
        ("render --gpus 1 --gpu-kind mig-1g.10gb train.py", "has training on GPUs of kind whole"),
        (
            "map --dry-run=client --range 0:2 --gpus 1 train.py",
            "without --gpu-kind it is whole: an eval",
        ),
        (
            "map --dry-run=client --range 0:2 --gpus 1 --gpu-kind dra:gpu.example.com train.py",
            "has evaluations and other arrays on GPUs of kind shared, mig-*, dra:mig*",
        ),
    ],
)
def test_a_profile_enforces_which_gpus_are_for_what(
    project: Path, capsys: pytest.CaptureFixture[str], words: str, said: str | None
) -> None:
    command, *rest = words.split()
    code = main([command, "--profile", "shared-gpus", *rest])
    err = capsys.readouterr().err
    if said is None:
        assert code == 0, err
    else:
        assert code == 2
        assert said in err
        assert "--gpu-kind" in err and "kij-train doctor" in err


def test_arrays_go_where_the_rule_has_them(project: Path) -> None:
    for kind in ("shared", "mig-1g.10gb", "dra:mig-1g.10gb"):
        layer = Layer({"script": "train.py", "gpus": 1, "gpu_kind": kind})
        resolve(layer, environ={}, cwd=project, profile="shared-gpus", model=ArraySpec)


@pytest.mark.parametrize(
    "table",
    ["gpu_kinds = 3", 'gpu_kinds = {games = ["whole"]}', "gpu_kinds = {training = []}",
     'gpu_kinds = {training = "whole"}', "gpu_kinds = {arrays = [1]}"],
)  # fmt: skip
def test_a_rule_of_the_wrong_shape_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    (project / "mine.toml").write_text(f"{table}\n[spec]\n")
    assert main(["render", "--profile", "mine.toml", "train.py"]) == 2
    err = capsys.readouterr().err
    assert "gpu_kinds must be a table of training and arrays" in err and '["shared"' in err


def test_the_rules_of_a_profile_are_shown(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Profile.find("shared-gpus", project).gpu_kinds["training"] == ("whole", "dra")
    assert main(["profiles", "show", "shared-gpus"]) == 0
    out = capsys.readouterr().out
    assert "training on GPUs of kind whole, dra\n      ranks on shares" in out
