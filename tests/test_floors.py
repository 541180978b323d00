"""What every file of the package keeps to."""

import ast
import importlib
from pathlib import Path

import pytest

import leaveout as lo

SOURCE = Path(lo.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


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
