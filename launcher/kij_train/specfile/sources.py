"""Reading every source into a layer: variables, spec files, project files, profiles."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kij_train import profiles
from kij_train.errors import RequestError
from kij_train.pod import contract, gang, itemplan
from kij_train.spec import JobSpec, Model, kinds
from kij_train.spec.settings import Fact, Merge, Setting, fields_with, settings_of
from kij_train.specfile import yaml_text
from kij_train.specfile.explain import brief, did_you_mean
from kij_train.specfile.layers import Layer, Location, Origin
from kij_train.specfile.paths import check_path, expanded, tilde

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "KIJ_"
PROJECT_FILE = "kij-train.toml"
STDIN = "-"
"""In place of a spec file, as for kubectl."""
STDIN_SHOWN = "standard input"
NOT_SETTINGS = frozenset(
    {
        value
        for module in (contract, gang, itemplan)
        for name, value in vars(module).items()
        if name.startswith("ENV_")
    }
    | {"KIJ_RUN_ID", "KIJ_PREFLIGHT_DEADLINE_S"}
)
"""Variables of nodes, which are there when one launches from within a node."""
NOT_SETTINGS_PREFIX = "KIJ_TEST_"


def environment_layer(environ: Mapping[str, str], model: type[Model] = JobSpec) -> Layer:
    """KIJ_NODES=8 and the like; white space separates lists and mappings, args are as in a shell.

    Raises RequestError.
    """
    layer = Layer({})
    for name, setting in _settings_with_variables(model).items():
        variable = ENV_PREFIX + name.upper()
        text = environ.get(variable)
        if not text:
            continue
        value: Any = text
        if setting.merge is Merge.BY_KEY:
            value = dict(split_pair(item, variable) for item in text.split())
        elif setting.merge is Merge.JOIN:
            value = text.split()
        elif name == "args":
            value = _words(text, variable)
        layer.values[name] = value
        layer.origins |= _uniform_origins({name: value}, Origin(variable, names_value=True))
    return layer


def variable_of(field: str, setting: Setting) -> str | None:
    """The KIJ_* variable that sets a field; None where none does."""
    return None if Fact.WITHOUT_VARIABLE in setting.facts else ENV_PREFIX + field.upper()


def _settings_with_variables(model: type[Model]) -> dict[str, Setting]:
    return {
        name: setting
        for name, setting in settings_of(model).items()
        if Fact.WITHOUT_VARIABLE not in setting.facts
    }


def _words(text: str, variable: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise RequestError(f"{variable} {text}: not as a shell reads words: {error}") from None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """What to say about each KIJ_* variable that sets nothing, of no kind of job."""
    ours = [
        variable
        for variable in sorted(environ)
        if variable.startswith(ENV_PREFIX)
        and not variable.startswith(NOT_SETTINGS_PREFIX)
        and variable not in NOT_SETTINGS
    ]
    if not ours:
        return []
    fields = dict.fromkeys(name for model in kinds() for name in _settings_with_variables(model))
    known = [name.upper() for name in (*fields, "profile")]
    names = (variable.removeprefix(ENV_PREFIX) for variable in ours)
    return [
        f"{ENV_PREFIX}{name} is no setting{did_you_mean(name, known, ENV_PREFIX)}"
        for name in names
        if name not in known
    ]


def split_pair(text: str, where: str) -> tuple[str, str]:
    """KEY=VALUE. Raises RequestError naming `where` it was given."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RequestError(f"{where} {text}: must look like KEY=VALUE")
    return key, value


def read_project(cwd: Path, model: type[Model] = JobSpec) -> ProjectFile:
    """kij-train.toml, or pyproject.toml with a [tool.kij-train] table, here or further up."""
    for folder in (cwd, *cwd.parents):
        own, shared = folder / PROJECT_FILE, folder / "pyproject.toml"
        if own.is_file():
            return _project_layer(own, _read_toml(own), cwd, model)
        if shared.is_file():
            table = _read_toml(shared).get("tool", {}).get("kij-train")
            if table is not None:
                return _project_layer(shared, table, cwd, model)
    return ProjectFile({})


@dataclass
class ProjectFile(Layer):
    """The project file's defaults, its own profiles, and the profile it chooses."""

    profile: str | None = None
    profile_from: str = ""
    """Where that stands."""
    profiles: dict[str, Any] = field(default_factory=dict)


@dataclass
class SpecFile(Layer):
    """A spec file, and the profile it chooses."""

    profile: str | None = None
    profile_from: str = ""


def _project_layer(path: Path, table: Any, cwd: Path, model: type[Model]) -> ProjectFile:
    shown = _shown(path, cwd)
    if not isinstance(table, dict):
        raise RequestError(f"{shown}: [tool.kij-train] must be a table")
    values = _snake(table)
    profile, own = values.pop("profile", None), values.pop("profiles", {})
    if profile is not None and not isinstance(profile, str):
        raise RequestError(f"{shown}: profile must be the name of a profile")
    if not isinstance(own, dict):
        raise RequestError(f"{shown}: profiles must be a table of tables")
    layer = _toml_layer(values, path, shown, model)
    return ProjectFile(layer.values, layer.origins, profile, f"{shown}: profile", own)


USES = ("training", "arrays")
"""What a profile may say which kinds of GPU are for."""

OF_PROFILES = ("spec", "description", "source", "why", "needs", "max_nodes", "gpu_kinds")


@dataclass(frozen=True)
class Profile:
    """Named settings, with what a user should know about them."""

    name: str
    origin: str
    """"built-in", or the file."""
    spec: dict[str, Any]
    """Partial spec, by field name."""
    description: str = ""
    source: str = ""
    """Where the settings are documented."""
    why: Mapping[str, str] = field(default_factory=dict)
    """By key, as in "env.NCCL_IB_DISABLE"."""
    needs: tuple[str, ...] = ()
    """What must be there on the cluster."""
    max_nodes: int | None = None
    """How many nodes its settings work with."""
    gpu_kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """`training` and `arrays` → the kinds of GPU that they may ask for, as mig-*; all without."""

    @classmethod
    def of_table(cls, name: str, origin: str, table: Any) -> Profile:
        """A TOML table with [spec]; without, the table is the spec. Raises RequestError."""
        if not isinstance(table, dict):
            raise RequestError(f"profile {name}: must be a table")
        spec = table.get("spec", table)
        about = table if "spec" in table else {}
        for key in about:
            if key not in OF_PROFILES:
                raise RequestError(
                    f"profile {name}: {brief(str(key))} is no key of a profile"
                    f"{did_you_mean(str(key), OF_PROFILES)}",
                    hints=("settings of a job stand below its line [spec]",),
                )
        needs, why = about.get("needs", []), about.get("why", {})
        if not (isinstance(spec, dict) and isinstance(needs, list) and isinstance(why, dict)):
            raise RequestError(
                f"profile {name}: spec and why must be tables, needs a list",
                hints=("an example: kij-train profiles show ib",),
            )
        most = about.get("max_nodes")
        if most is not None and (type(most) is not int or most < 1):
            raise RequestError(f"profile {name}: max_nodes must be a whole number, at least 1")
        return cls(
            name=name,
            origin=origin,
            spec=_snake(spec),
            description=str(about.get("description", "")),
            source=str(about.get("source", "")),
            why={str(key): str(text) for key, text in why.items()},
            needs=tuple(str(need) for need in needs),
            max_nodes=most,
            gpu_kinds=_gpu_kinds(name, about.get("gpu_kinds", {})),
        )

    @classmethod
    def find(
        cls,
        name: str,
        cwd: Path,
        project: ProjectFile | None = None,
        where: str = "--profile",
    ) -> Profile:
        """A profile of the project file, a TOML file, or a built-in one. Raises RequestError.

        `where` it was named, for the error.
        """
        own = (project or read_project(cwd)).profiles
        if name in own:
            return cls.of_table(name, "project file", own[name])
        if name.endswith(".toml"):
            check_path(cwd / name, f"{where} {brief(name)}")
            if not (cwd / name).is_file():
                raise RequestError(f"{where} {brief(name)}: no such file", hints=tilde(name))
            return cls.of_table(name, name, {"spec": {}, **_read_toml(cwd / name)})
        try:
            return cls.of_table(name, "built-in", tomllib.loads(profiles.read_builtin(name)))
        except KeyError:
            known = [*profiles.builtin_profiles(), *own]
            raise RequestError(
                f"{where} {brief(name)}: no such profile{did_you_mean(name, known)}",
                hints=(f"profiles: {', '.join(known)}, or the path of a .toml file",),
            ) from None


def _gpu_kinds(name: str, table: Any) -> dict[str, tuple[str, ...]]:
    """The table [gpu_kinds] of a profile. Raises RequestError."""
    right = isinstance(table, dict) and all(
        use in USES and isinstance(kinds, list) and kinds and all(isinstance(k, str) for k in kinds)
        for use, kinds in table.items()
    )
    if not right:
        raise RequestError(
            f"profile {name}: gpu_kinds must be a table of {' and '.join(USES)}, each a list of "
            "kinds of GPU",
            hints=('[gpu_kinds] training = ["whole"] arrays = ["shared", "mig-*"]',),
        )
    return {use: tuple(kinds) for use, kinds in table.items()}


def all_profiles(cwd: Path) -> list[Profile]:
    """Those of the project file, which win, and the built-in ones."""
    own = read_project(cwd).profiles
    builtin = [name for name in profiles.builtin_profiles() if name not in own]
    return [Profile.find(name, cwd) for name in [*own, *builtin]]


def profile_layer(profile: Profile) -> Layer:
    """The lowest layer above the defaults."""
    values = dict(profile.spec)
    return Layer(values, _uniform_origins(values, Origin(f"profile {profile.name}")))


def read_spec_file(path: Path, cwd: Path, model: type[Model] = JobSpec) -> SpecFile:
    """A YAML (or JSON) spec file, or standard input, with the line of every key.

    Raises RequestError.
    """
    shown = str(path)
    if shown == STDIN:
        full, shown = cwd / STDIN, STDIN_SHOWN
        text = _text_of(sys.stdin.buffer.read(), shown)
    else:
        full = cwd / path
        text = read_text(full, shown)
    values, origins = yaml_text.read(text, shown, fields_with(model, Fact.WITHOUT_VARIABLE))
    profile = values.pop("profile", None)
    chosen_at = origins.pop(("profile",), Origin(shown)).where
    if profile is not None and not isinstance(profile, str):
        raise RequestError(f"{chosen_at}: profile must be the name of a profile")
    _anchor_paths(values, full.parent, model)
    return SpecFile(values, origins, profile, f"{chosen_at}: profile")


def read_text(path: Path, shown: str) -> str:
    """The text of a file. Raises RequestError."""
    try:
        return _text_of(path.read_bytes(), shown)
    except OSError as error:
        raise RequestError(
            f"cannot read {brief(shown)}: {error.strerror}", hints=tilde(shown)
        ) from None
    except ValueError:
        raise RequestError(f"cannot read {brief(shown)}: it holds a NUL byte") from None


def _text_of(content: bytes, shown: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{shown} is not a text file in UTF-8") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        # As text, so that 1.10 does not become 1.1; no field takes a fraction as a number.
        return tomllib.loads(read_text(path, str(path)), parse_float=str)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: no valid TOML: {error}") from None


def _toml_layer(values: dict[str, Any], path: Path, shown: str, model: type[Model]) -> Layer:
    # tomllib gives no lines: the first line that assigns the key, or opens its table, is it.
    text = read_text(path, shown).splitlines()
    origins: dict[Location, Origin] = {}
    for name in values:
        key = re.escape(name).replace("_", "[-_]")
        pattern = re.compile(rf'\s*(\[\[?(tool\.kij-train\.)?)?"?{key}"?\s*([=.\]]|$)')
        line = next((n for n, row in enumerate(text, start=1) if pattern.match(row)), None)
        origin = Origin(f"{shown}:{line}" if line else shown)
        origins |= _uniform_origins({name: values[name]}, origin)
    _anchor_paths(values, path.parent, model)
    return Layer(values, origins)


def _snake(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in table.items()}


def _anchor_paths(values: dict[str, Any], folder: Path, model: type[Model]) -> None:
    """Paths in a file are relative to the file."""
    for name in fields_with(model, Fact.PATH):
        if isinstance(values.get(name), str) and not _is_no_file(values[name]):
            values[name] = str(folder / expanded(values[name], name))
    commands = fields_with(model, Fact.COMMAND)
    if "code_dir" not in values and any(name in values for name in commands):
        values["code_dir"] = str(folder)


def _is_no_file(text: str) -> bool:
    """Standard input, or a URL."""
    return text == STDIN or "://" in text


def _uniform_origins(values: Mapping[str, Any], origin: Origin) -> dict[Location, Origin]:
    origins: dict[Location, Origin] = {}
    for name, value in values.items():
        origins[(name,)] = origin
        if isinstance(value, dict):
            origins.update(((name, key), origin) for key in value)
    return origins


def _shown(path: Path, cwd: Path) -> str:
    return os.path.relpath(path, cwd)
