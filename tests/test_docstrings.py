"""Docstrings of public names: every argument is explained, and every example runs."""

import ast
import dataclasses
import doctest
import inspect
import sys
from pathlib import Path

import jax
import pytest
from docs.generated import SHARED, names

import leaveout as lo

SOURCE = Path(lo.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NAMES = {name: thing for name, thing in names() if callable(thing)}
WITHOUT = {  # instances of a class that is explained, and aliases
    name for name, thing in NAMES.items() if not hasattr(thing, "__qualname__")
}


def examples() -> dict[str, list[tuple[int, str]]]:
    """Files to the docstrings of them that have examples, with their lines."""
    found: dict[str, list[tuple[int, str]]] = {}
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text and ">>> " in text:
                line = getattr(node, "lineno", 1)
                found.setdefault(str(path.relative_to(SOURCE)), []).append((line, text))
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def shared():
    """What examples take as given: one fit for all of them."""
    space: dict[str, object] = {}
    exec(SHARED, space)
    return space


#: what compiles most
SLOW = {
    *("analysis/propositions.py", "fitting/edits.py", "fitting/penalties.py"),
    *("methods/trajectory.py", "objectives/sharded.py", "training/run.py"),
    "studies/koh2019/counterexamples.py",
}
FILES = [pytest.param(file, marks=pytest.mark.slow if file in SLOW else ()) for file in EXAMPLES]


@pytest.mark.parametrize("file", FILES)
def test_examples_print_what_they_say(file, shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line, text in EXAMPLES[file]:
        test = doctest.DocTestParser().get_doctest(text, dict(shared), file, file, line)
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False)
        assert result.failed == 0, f"{file}, line {line}: see above"


def explained(doc: str, section: str) -> set[str]:
    """The words that a section of a docstring explains."""
    _, found, rest = f"\n{doc}".partition(f"\n{section}:\n")
    inside = []
    for line in rest.splitlines() if found else []:
        if line and not line.startswith(" "):
            break
        inside.append(line)
    heads = [line[4:].partition(":")[0] for line in inside if line[:4] == "    " != line[4:8]]
    return {word.strip(" *") for head in heads for word in head.split(",")}


@pytest.mark.parametrize("name", sorted(NAMES.keys() - WITHOUT))
def test_public_names_explain_what_they_take_and_give(name):
    thing = NAMES[name]
    doc = inspect.getdoc(thing)
    assert doc is not None, f"lo.{name} has no docstring"
    assert ">>> " in doc, f"lo.{name} has no example"
    if inspect.isfunction(thing):
        wanted = set(inspect.signature(thing).parameters)
        assert wanted <= explained(doc, "Args"), f"lo.{name}: {wanted - explained(doc, 'Args')}"
        assert "\nReturns:\n" in doc, f"lo.{name} does not say what comes back"
    elif dataclasses.is_dataclass(thing):
        fields = {field.name for field in dataclasses.fields(thing)}
        said = explained(doc, "Attributes") | explained(doc, "Args")
        assert fields <= said, f"lo.{name}: {fields - said}"


#: what it calls can refuse, and is given only what it takes
SURE = {"counterexamples.blind_spot"}


def code(thing) -> list[ast.stmt]:
    """A function; of a class the methods that make an instance."""
    node = ast.parse(inspect.getsource(inspect.unwrap(thing))).body[0]
    if not isinstance(node, ast.ClassDef):
        return [node]
    return [
        each for each in node.body if getattr(each, "name", "") in ("__init__", "__post_init__")
    ]


def calls(node: ast.AST) -> set[str]:
    """Names of the functions that a piece of code calls."""
    called = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {each.id for each in called if isinstance(each, ast.Name)}


def refuses(node: ast.AST) -> bool:
    """Whether a piece of code raises, or calls a check of what it was given."""
    checks = any(name == "admit" or name.startswith("check_") for name in calls(node))
    return checks or any(isinstance(each, ast.Raise) for each in ast.walk(node))


@pytest.mark.parametrize("name", sorted(NAMES.keys() - WITHOUT - SURE))
def test_public_names_say_what_they_refuse(name):
    """What refuses, itself or in the next function of its module, says so under `Raises:`."""
    thing = inspect.unwrap(NAMES[name])
    parts, module = code(thing), sys.modules[thing.__module__]
    for each in sorted(set().union(*map(calls, parts))):
        function = getattr(module, each, None)
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            parts += code(function)
    said = "\nRaises:\n" in (inspect.getdoc(thing) or "")
    assert said or not any(map(refuses, parts)), f"lo.{name} does not say what it refuses"


def test_the_shared_lines_make_what_examples_need(shared):
    assert isinstance(shared["fit"], lo.Fit)
    assert jax.config.read("jax_enable_x64")
