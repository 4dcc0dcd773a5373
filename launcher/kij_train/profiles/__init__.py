"""Named settings for a fabric or a kind of machine, as data: one TOML file each.

A profile is a partial spec (its `[spec]` table) with the reason and the source of what it sets, and
the number of nodes that its settings work for (`max_nodes`), where there is one. It ranks below
everything the user says and above the defaults. No profile is a default.
"""

from __future__ import annotations

from importlib import resources


def builtin_profiles() -> list[str]:
    """Names of the profiles that come with kij-train, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name[:-5] for file in files if file.name.endswith(".toml"))


def read_builtin(name: str) -> str:
    """The TOML text of a profile that comes with kij-train. Raises KeyError."""
    if name not in builtin_profiles():
        raise KeyError(name)
    return resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
