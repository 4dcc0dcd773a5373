"""requirements-dev.txt, which `make lock` writes: one version of each package on each Python."""

from __future__ import annotations

import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.kube import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PINS = [
    Requirement(line)
    for line in (ROOT / "requirements-dev.txt").read_text().splitlines()
    if not line.startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
EXTRAS = ("local", "dev", "docs")
PLATFORMS = ("linux", "darwin")


def wanted() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name in EXTRAS for line in extras[name])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_what_pyproject_asks_for_has_one_version_that_it_allows(python: str, platform: str) -> None:
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": platform,
        "platform_machine": "x86_64" if platform == "linux" else "arm64",
        "platform_system": platform.capitalize(),
    }
    pins: dict[str, list[Requirement]] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(machine):
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    assert [name for name, several in pins.items() if len(several) > 1] == []
    for requirement in wanted():
        if requirement.marker is not None and not requirement.marker.evaluate(machine):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{requirement}: make lock"
        (pin,) = pins[name]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version, prereleases=True), requirement


def test_the_lock_names_no_index_and_no_folder() -> None:
    text = (ROOT / "requirements-dev.txt").read_text()
    assert not re.search(r"://|^-|/", text, re.MULTILINE)


def test_the_pythons_that_are_tried_are_those_that_the_lock_is_for() -> None:
    tried = re.search(r"python=\[([^]]*)\]", (ROOT / "noxfile.py").read_text())
    assert tried is not None
    assert tuple(re.findall(r'"([^"]*)"', tried[1])) == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
