"""Who imports whom, between the packages and modules at the top of kij_train."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import kij_train

ROOT = Path(kij_train.__file__).parent
ROOMS = frozenset(
    {
        *("cli", "api", "pytest_plugin", "torchx_scheduler", "doctor", "bench", "runs", "jobs"),
        *("cluster", "local", "render", "specfile", "diagnosis", "spec", "profiles", "pod"),
        *("names", "units", "errors"),
    }
)
"""Those with a job of their own; the others are small and help these."""
FEWER_THAN = 110
"""Pairs of rooms of which one imports the other. A new one should have a reason."""


def imported(tree: ast.Module) -> Iterator[str]:
    """The rooms that a module names, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "kij_train":
            names = [f"kij_train.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("kij_train."))


def rooms() -> dict[str, set[str]]:
    """Room → those that it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        found.setdefault(room, set()).update(imported(ast.parse(path.read_text())))
    return {room: others & found.keys() - {room} for room, others in found.items()}


def test_no_room_imports_one_that_imports_it() -> None:
    graph = rooms()
    assert graph["cli"] >= {"runs", "jobs"}
    TopologicalSorter(graph).prepare()  # raises CycleError
    assert graph.keys() >= ROOMS
    arrows = sum(len(graph[room] & ROOMS) for room in ROOMS)
    assert arrows < FEWER_THAN, f"{arrows} arrows"
