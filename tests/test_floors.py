"""Imports go down the floors of the house, never up or sideways."""

import ast
import importlib
from pathlib import Path

import pytest

import leaveout as lo

FLOORS = (
    ("solution", "losses", "models", "memory", "sharding", "files", "radius"),
    ("inputs",),
    ("datasets", "objective"),
    ("general", "lbfgs", "solvers", "groups", "measures"),
    ("path",),
    ("fit", "validation"),
    ("certificates", "changes", "coordinates", "estimators"),
    ("influence", "newton", "retrain"),
    ("effects",),
    ("bounds", "counterexamples", "held_out", "report"),
    ("credit", "plot"),
    ("natural", "study"),
    ("paper",),
    ("theory",),
    ("cli",),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
SOURCE = Path(lo.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def room_of(path: Path) -> str:
    """The room a file belongs to: its own name, or its folder's."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def rooms_of(source: str) -> set[str]:
    """The rooms of ours that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "leaveout":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {name.name for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {n.name.split(".")[1] for n in node.names if n.name.startswith("leaveout.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_go_down(path):
    own = room_of(path)
    others = rooms_of(path.read_text()) - {own}  # files of one folder may import each other
    upward = {room for room in others if FLOOR[room] >= FLOOR[own]}
    assert not upward, f"{own} (floor {FLOOR[own]}) imports {upward}"


def test_a_planted_upward_import_is_found():
    assert rooms_of("def f():\n    from leaveout.cli import main\n") == {"cli"}
    assert FLOOR["cli"] > FLOOR["objective"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_public_names_are_listed_sorted_and_nothing_leaks(path):
    body = ast.parse(path.read_text()).body
    listed = next(
        [element.value for element in node.value.elts]
        for node in body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    )
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = {n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")}
    assert public <= set(listed), f"{path.stem} leaks {public - set(listed)}"
    parts = path.relative_to(SOURCE).with_suffix("").parts
    module = importlib.import_module(".".join(("leaveout", *parts)))
    assert all(hasattr(module, name) for name in listed)
