"""The rules of the house: imports go down, nothing turns in a circle, names mean one thing.

`python tests/test_house.py` prints the counts.
"""

import ast
import importlib
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import leaveout as lo

SOURCE = Path(lo.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

#: the folders, lowest first; those of one row do not import each other
FLOORS = (
    ("runtime",),
    ("objectives",),
    ("groups", "measures", "solvers", "curvature"),
    ("fitting",),
    ("training",),
    ("methods", "certify"),
    ("attribution",),
    ("analysis",),
    ("plot",),
    ("studies",),
)
FLOOR = {folder: level for level, folders in enumerate(FLOORS) for folder in folders}
FACE = ("__init__", "__main__")  # the face may import every folder

#: folders and modules to which one adds by editing one file: their `__all__` is what they offer
SHELVES = ("groups", "measures", "solvers", "curvature", "methods", "plot", "studies.datasets")
HEAVY = {"pandas", "sklearn", "matplotlib", "rich", "pooch", "xarray", "pyarrow"}


class Import(NamedTuple):
    """One `from module import names` of ours, and whether it runs when the module is loaded."""

    module: str
    names: tuple[str, ...]
    eager: bool


def dotted(path: Path) -> str:
    """What a file is imported as, below the package."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


def statements(body: Iterable[ast.stmt], eager: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Every import of some statements, and whether it runs when they do."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, eager
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inner = eager and not typing and not isinstance(node, ast.FunctionDef)
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from statements(getattr(node, field, []), inner)


def imports(source: str) -> list[Import]:
    """What a file imports of ours, lazily or not."""
    found = []
    for node, eager in statements(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "leaveout":
            assert node.level == 0
            module = (node.module or "").partition(".")[2]
            found.append(Import(module, tuple(name.name for name in node.names), eager))
        elif isinstance(node, ast.Import):
            ours = [n.name for n in node.names if n.name.startswith("leaveout.")]
            found += [Import(name.partition(".")[2], (), eager) for name in ours]
    return found


def folders(source: str) -> set[str]:
    """The folders of ours that a file imports from."""
    every = imports(source)
    direct = {each.module.split(".")[0] for each in every if each.module}
    return direct | {name for each in every if not each.module for name in each.names}


def outside(source: str) -> set[str]:
    """Packages of others that a file imports when it is loaded."""
    found = set()
    for node, eager in statements(ast.parse(source).body):
        if eager and isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif eager and isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def upward(own: str, others: set[str]) -> set[str]:
    """Folders on the same floor or above."""
    return {other for other in others - {own} if FLOOR[other] >= FLOOR[own]}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in turn, or none."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return way[way.index(node) :]
        if node in done:
            return []
        found = next((c for o in sorted(arrows.get(node, ())) if (c := walk(o, [*way, node]))), [])
        done.add(node)
        return found

    return next((found for node in sorted(arrows) if (found := walk(node, []))), [])


def arrows_within() -> dict[str, set[str]]:
    """Module to the modules that it imports when it is loaded, all of ours."""
    known = {dotted(path) for path in FILES}
    found: dict[str, set[str]] = {}
    for path in FILES:
        wanted: set[str] = set()
        for each in imports(path.read_text()):
            if each.eager:
                inner = {f"{each.module}.{name}".lstrip(".") for name in each.names}
                wanted |= (inner & known) or ({each.module} & known)
        found[dotted(path)] = wanted - {dotted(path)}
    return found


def arrows_between() -> set[tuple[str, str]]:
    """Arrows between rooms of the top level: the folders, and the face."""
    return {
        (dotted(path).split(".")[0], other)
        for path in FILES
        for other in folders(path.read_text())
        if other != dotted(path).split(".")[0]
    }


def beside(package: ModuleType) -> set[str]:
    """Names of the modules and folders of a package."""
    assert package.__file__ is not None
    here = Path(package.__file__).parent
    modules = {path.stem for path in here.glob("*.py")} - {"__init__", "__main__"}
    return modules | {path.parent.name for path in here.glob("*/__init__.py")}


def shadows(offered: dict[str, object], modules: set[str]) -> set[str]:
    """Names that are offered as one thing and are a module beside it."""
    return {
        name
        for name, thing in offered.items()
        if name in modules and not isinstance(thing, ModuleType)
    }


def test_imports_go_down():
    for path in FILES:
        own = dotted(path).split(".")[0]
        if own not in FACE:
            assert not upward(own, folders(path.read_text())), path


def test_a_planted_upward_import_is_found():
    assert upward("objectives", folders("def f():\n    from leaveout.studies.cli import main\n"))
    assert upward("groups", folders("from leaveout import measures\n"))
    assert not upward("plot", folders("from leaveout.runtime.text import aligned\n"))


def test_no_imports_turn_in_a_circle():
    assert circle(arrows_within()) == []


def test_a_planted_circle_is_found():
    arrows = arrows_within()
    arrows["runtime.memory"] = arrows["runtime.memory"] | {"runtime.batches"}
    assert set(circle(arrows)) == {"runtime.memory", "runtime.batches"}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_studies_and_heavy_packages_are_not_loaded_below_studies(path):
    if dotted(path).split(".")[0] in ("studies", "__main__"):
        return
    text = path.read_text()
    for each in imports(
        text
    ):  # the face names what it hands on to type checkers, and loads it late
        late = dotted(path) in FACE and not each.eager
        assert late or each.module.split(".")[0] != "studies"
    assert not outside(text) & HEAVY


@pytest.mark.parametrize("shelf", ["", *SHELVES])
def test_what_is_offered_bears_no_name_of_a_module_beside_it(shelf):
    package = importlib.import_module(f"leaveout.{shelf}".rstrip("."))
    offered = {name: getattr(package, name) for name in package.__all__}
    assert not shadows(offered, beside(package))


def test_a_function_named_like_a_module_is_found():
    assert shadows({"fitting": lo.fit, "groups": lo.groups}, beside(lo)) == {"fitting"}


@pytest.mark.parametrize("shelf", SHELVES)
def test_shelves_hand_out_only_what_they_offer(shelf):
    offered = set(importlib.import_module(f"leaveout.{shelf}").__all__)
    for path in FILES:
        own = dotted(path)
        if own == shelf or own.startswith(f"{shelf}.") or own in FACE:
            continue
        for each in imports(path.read_text()):
            assert not each.module.startswith(f"{shelf}."), f"{own} reaches into {each.module}"
            if each.module == shelf:
                assert set(each.names) <= offered, f"{own} takes {set(each.names) - offered}"


def test_files_of_folders_that_are_no_shelves_are_empty():
    for path in FILES:
        if path.name == "__init__.py" and dotted(path) not in (*SHELVES, "__init__"):
            assert not path.read_text().strip(), path


def test_the_face_shows_what_it_offers_and_nothing_else():
    assert dir(lo) == sorted(lo.__all__)
    for name in lo.__all__:
        assert getattr(lo, name) is not None


def listed(body: list[ast.stmt]) -> list[str]:
    """What a module's `__all__` lists."""
    return next(
        [ast.literal_eval(element) for element in node.value.elts]
        for node in body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__all__"
        and isinstance(node.value, ast.List)
    )


def test_public_names_are_listed_and_nothing_leaks():
    kinds = (ast.FunctionDef, ast.ClassDef)
    for path in FILES:
        if path.name == "__init__.py":
            continue
        body = ast.parse(path.read_text()).body
        names = set(listed(body))
        public = {n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")}
        assert public <= names, f"{path.stem} leaks {public - names}"
        module = importlib.import_module(f"leaveout.{dotted(path)}")
        assert all(hasattr(module, name) for name in names), path


def lengths() -> list[tuple[int, str]]:
    """Lines of every function's body, its docstring apart, and where it is."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                last = body[-1].end_lineno if body else None
                lines = 0 if last is None else last - body[0].lineno + 1
                found.append((lines, f"{dotted(path)}.{node.name}"))
    return sorted(found, reverse=True)


def long(path: Path) -> int:
    """Lines of a file; the examples of its docstrings, which `help` shows, do not count."""
    example = re.compile(r'\n\n +Example:\n(?:(?! +Source:| *""").*\n)*')
    return len(example.sub("\n", path.read_text()).splitlines())


def count(pattern: str, where: Iterable[Path] = FILES) -> int:
    """How often a pattern occurs in the package."""
    return sum(len(re.findall(pattern, path.read_text())) for path in where)


def kind_questions() -> int:
    """How often code outside `objectives` asks whether an objective is a linear model."""
    others = [path for path in FILES if dotted(path).split(".")[0] != "objectives"]
    return count(r"isinstance\([^()]*(?:\([^()]*\))?[^()]*\bLinearObjective\b", others)


def test_rooms_and_arrows_stay_few():
    rooms = {dotted(path).split(".")[0] for path in FILES}
    assert len(rooms) <= 16
    assert len(arrows_between()) <= 80


def test_functions_and_modules_stay_short():
    every = lengths()
    assert every[0][0] <= 60, every[0]
    assert statistics.median(lines for lines, _ in every) <= 5
    for path in FILES:
        assert long(path) <= 500, path


def test_what_something_is_is_seldom_asked():
    assert count(r": Any\b") <= 60
    assert kind_questions() <= 6


if __name__ == "__main__":
    every = lengths()
    print("rooms", len({dotted(path).split(".")[0] for path in FILES}), "floors", len(FLOORS))
    print("arrows between rooms", len(arrows_between()), "circles", len(circle(arrows_within())))
    print("functions", len(every), "median body", statistics.median(n for n, _ in every))
    print("longest bodies", every[:3])
    longest = max((long(path), dotted(path)) for path in FILES)
    print("lines", sum(len(p.read_text().splitlines()) for p in FILES), "longest module", longest)
    print(": Any", count(r": Any\b"), "isinstance(..., LinearObjective)", kind_questions())
    sys.exit(0)
