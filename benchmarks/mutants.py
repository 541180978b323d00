"""Break the core on purpose: do the tests see it?

A mutant is the source of one module with one thing changed: a constant, a comparison, an operator,
a condition, two arguments, a statement that is dropped. It is put into a copy of the repository,
never into the working tree, and the tests that reach its line are run there, the quickest first,
until one fails (killed) or all have passed (survived). Which test reaches which line is measured
once, file by file, with the contexts of `coverage`; that of tests marked slow takes over an hour
more (`--slow`), and is used once it is there.

    python -m benchmarks.mutants --count 100 --seed 0 --out build/mutants

Stopped and called again, it goes on where it was: each mutant is a line of `mutants.jsonl`, known
by the text of its module, so that what has changed since is tried anew. Mutants that change nothing
a user can see are named in `EQUIVALENT` with the reason, and not counted.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest

from benchmarks.equivalent import EQUIVALENT

ROOT = Path(__file__).parent.parent
ROOMS = ("objectives", "methods", "certify", "analysis")

_PARTS = (
    "src", "tests", "benchmarks", "docs", "notebooks", "pyproject.toml", "README.md",
    "CONTRIBUTING.md",
)  # fmt: skip
_LEFT_OUT = ("test_house.py", "test_compilation.py", "test_source.py")  # read text, not code
_SECONDS = 120  # a mutant
_BUDGET = 60  # of them for tests, by what these took when all was well

_COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMBINED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change.

    Attributes:
        name: of the module as it is and the number of the change in it.
        module: its path.
        line: the first that changes.
        last: the last.
        source: what the first reads.
        before: what stood there.
        after: what stands there now.
        text: of the whole module.
    """

    name: str
    module: str
    line: int
    last: int
    source: str
    before: str
    after: str
    text: str

    def row(self, **found) -> dict[str, Any]:
        """A line of the results."""
        kept = ("name", "module", "line", "source", "before", "after")
        return {key: getattr(self, key) for key in kept} | found


# ---- what can be changed -------------------------------------------------------------------------


def mutants(root: Path = ROOT) -> list[Mutant]:
    """All of them, in the order of the text."""
    found = []
    for room in ROOMS:
        for path in sorted((root / "src" / "leaveout" / room).glob("*.py")):
            found += _of_module(path.relative_to(root).as_posix(), path.read_text())
    return found


def _of_module(module: str, source: str) -> list[Mutant]:
    tree, digest = ast.parse(source), hashlib.blake2b(source.encode(), digest_size=4).hexdigest()
    found, lines = [], source.splitlines()
    for number, (node, changed) in enumerate(_changes(tree)):
        before = ast.unparse(node)
        mapped = _replaced(tree, node, changed)
        after = ast.unparse(changed) if changed is not None else "pass"
        assert isinstance(node, ast.expr | ast.stmt)
        last = node.end_lineno or node.lineno
        name = f"{module}:{node.lineno}:{digest}:{number}"
        place = name, module, node.lineno, last, lines[node.lineno - 1].strip()
        found.append(Mutant(*place, before, after, ast.unparse(mapped)))
    return found


def _replaced(tree: ast.Module, node: ast.AST, changed: ast.AST | None) -> ast.Module:
    """A copy of the tree with another node in the place of one."""
    new = ast.Pass() if changed is None else changed
    whole = copy.deepcopy(tree, {id(node): new})
    return ast.fix_missing_locations(whole)


def _changes(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """Every node that is changed, and what it becomes; None where a statement is dropped."""
    for node, named in _code(tree, frozenset()):
        yield from ((node, changed) for changed in _changed(node, named))


def _code(node: ast.AST, named: frozenset) -> Iterator[tuple[ast.AST, frozenset]]:
    """The nodes that compute, in order, each with the names that have a value before it."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
        return  # messages and types
    yield node, named
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "type_comment"):
            continue
        inner = named
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _code(part, inner)
                inner |= _names(part)


def _names(node: ast.AST) -> frozenset:
    """The names that a statement, or the arguments of a function, give a value."""
    if isinstance(node, ast.Assign):
        parts = [part for target in node.targets for part in ast.walk(target)]
        return frozenset(part.id for part in parts if isinstance(part, ast.Name))
    if isinstance(node, ast.arguments):
        every = (*node.posonlyargs, *node.args, *node.kwonlyargs)
        return frozenset(each.arg for each in every)
    return frozenset()


def _changed(node: ast.AST, named: frozenset) -> list[ast.AST | None]:
    """What a node may become."""
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARED:
        return [_with(node, ops=[_COMPARED[type(node.ops[0])](), *node.ops[1:]])]
    if isinstance(node, ast.BinOp) and type(node.op) in _COMBINED:
        return [_with(node, op=_COMBINED[type(node.op)]())]
    if isinstance(node, ast.BoolOp):
        return [_with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        return [node.operand]
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return [] if "TYPE_CHECKING" in ast.dump(node.test) else [_negated(node)]
    if isinstance(node, ast.Call):
        return _swapped(node)
    dropped = isinstance(node, ast.AugAssign)
    dropped |= isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    dropped |= isinstance(node, ast.Assign) and bool(_names(node)) and _names(node) <= named
    return [None] if dropped else []


def _constant(value: object) -> list[ast.AST | None]:
    if isinstance(value, bool):
        return [ast.Constant(not value)]
    if isinstance(value, int):
        return [ast.Constant(value + 1)]
    if isinstance(value, float):
        return [ast.Constant(2 * value if value else 1.0)]
    return []


def _with(node: ast.AST, **fields) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _negated(node: ast.If | ast.IfExp | ast.While) -> ast.AST:
    return _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def _swapped(node: ast.Call) -> list[ast.AST | None]:
    """The first two arguments the other way round; of three the last two, as of `where`."""
    if len(node.args) < 2 or any(isinstance(one, ast.Starred) for one in node.args):
        return []
    name = ast.unparse(node.func).split(".")[-1]
    if name in ("isinstance", "getattr", "hasattr", "cast"):
        return []  # nothing but an error
    if name in ("min", "max", "minimum", "maximum", "array_equal", "logical_and", "logical_or"):
        return []  # the same either way
    first, *rest = node.args
    new = [first, rest[1], rest[0]] if len(rest) == 2 else [rest[0], first, *rest[1:]]
    return [_with(node, args=new)]


# ---- which test reaches what ---------------------------------------------------------------------


def pytest_runtest_protocol(item: pytest.Item) -> None:
    """As a plugin of pytest (`-p benchmarks.mutants`): a context a test, its fixtures in it."""
    now = coverage.Coverage.current()
    if now is not None:
        now.switch_context(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """As a plugin: what passed, and the seconds it took."""
    path = os.environ.get("MUTANTS_SECONDS")
    if path and report.when == "call" and report.passed:
        with Path(path).open("a") as file:
            file.write(json.dumps([report.nodeid, round(report.duration, 2)]) + "\n")


class Reach(NamedTuple):
    """What tests reach.

    Attributes:
        seconds: test to what it takes.
        lines: (module, line) to the tests that run it; what is run at import to none.
    """

    seconds: dict[str, float]
    lines: dict[tuple[str, int], set[str]]

    def of(self, mutant: Mutant) -> list[str]:
        """The tests for a mutant, in the order in which to run them, as many as there is time for.

        Those that run its lines; of what is run at import, those that run anything of the module.
        One of each function before others of its parameters, the quick before the slow.
        """
        spans = range(mutant.line, mutant.last + 1)
        found = {test for line in spans for test in self.lines.get((mutant.module, line), ())}
        if not found:
            found = {t for (m, _), some in self.lines.items() if m == mutant.module for t in some}
        turn, order = defaultdict(int), []
        for test in sorted(found, key=lambda test: (self.seconds[test], test)):
            order.append((turn[test.split("[")[0]], self.seconds[test], test))
            turn[test.split("[")[0]] += 1
        chosen, spent = [], 0.0
        for _, seconds, test in sorted(order):
            spent += seconds
            if chosen and spent > _BUDGET:
                break
            chosen.append(test)
        return chosen


def reach(folder: Path, files: list[str], place: Path, slow: bool) -> Reach:
    """Measured once for each file of tests, and kept in the folder; slow ones are if asked for."""
    seconds, lines = {}, defaultdict(set)
    for file, mark in [(file, mark) for mark in ("not slow", "slow") for file in files]:
        kept = folder / "reach" / f"{Path(file).stem}{'.slow' * (mark == 'slow')}.json"
        if not kept.exists():
            if mark == "slow" and not slow:
                continue
            print(f"measuring what tests of {file} reach that are {mark}", flush=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(_measured(file, mark, place)))
        found = json.loads(kept.read_text())
        seconds |= found["seconds"]
        for module, line, tests in found["lines"]:
            lines[module, line] |= {test for test in tests if test in found["seconds"]}
    return Reach(seconds, lines)


def _measured(file: str, mark: str, place: Path) -> dict[str, Any]:
    data, timed = place / ".coverage", place / "seconds.jsonl"
    for path in (data, timed):
        path.unlink(missing_ok=True)
    rooms = ",".join(f"src/leaveout/{room}" for room in ROOMS)
    command = ["-m", "coverage", "run", f"--data-file={data}", f"--source={rooms}"]
    _run(
        [*command, "-m", "pytest", "-m", mark, *_QUIET, file],
        place,
        {"MUTANTS_SECONDS": str(timed)},
        None,
    )
    rows = timed.read_text().splitlines() if timed.exists() else []
    found = coverage.CoverageData(str(data))
    found.read()
    lines = []
    for path in found.measured_files():
        module = Path(path).resolve().relative_to(place.resolve()).as_posix()
        each = found.contexts_by_lineno(path)
        lines += [[module, line, sorted(set(tests) - {""})] for line, tests in each.items()]
    return {"seconds": dict(json.loads(row) for row in rows), "lines": lines}


# ---- one after another ---------------------------------------------------------------------------

_QUIET = ("-q", "--no-header", "-p", "no:cacheprovider", "-p", "benchmarks.mutants")


def _run(arguments: list[str], place: Path, more: dict[str, str], limit: float | None):
    """Python in the copy; programs that no mutant touches are compiled once for all of them."""
    env = os.environ | {
        "PYTHONPATH": f"{place / 'src'}{os.pathsep}{place}",
        "PYTHONDONTWRITEBYTECODE": "1",  # that of a module changed within a second would serve
        "JAX_COMPILATION_CACHE_DIR": str(place.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **more,
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place, env=env, timeout=limit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip


def tried(mutant: Mutant, tests: list[str], place: Path) -> dict[str, Any]:
    """A line of the results: killed and by what, survived, too slow, or reached by no test."""
    if not tests:
        return mutant.row(status="unreached", tests=0, seconds=0.0)
    path, begin = place / mutant.module, time.perf_counter()
    whole = path.read_text()
    try:
        path.write_text(mutant.text)
        ran = _run(["-m", "pytest", "-x", "-m", "", *_QUIET, *tests], place, {}, _SECONDS)
        failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        found: dict[str, Any] = {"status": "survived" if ran.returncode == 0 else "killed"}
        found |= {"by": failed[0][:200]} if failed else {}
    except subprocess.TimeoutExpired:
        found = {"status": "timeout"}
    finally:
        path.write_text(whole)
    return mutant.row(tests=len(tests), seconds=round(time.perf_counter() - begin, 1), **found)


def _copied(folder: Path) -> Path:
    """A copy of what the tests need, as it is now."""
    place = folder / "copy"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", "build")
    for part in _PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place / part, ignore=ignore)
        else:
            shutil.copy(ROOT / part, place / part)
    return place


def reason(mutant: dict[str, Any]) -> str | None:
    """Why nobody can see this mutant, where it is known."""
    place = mutant["module"], mutant["source"]
    return EQUIVALENT.get((*place, mutant["before"], mutant["after"]))


def summary(rows: list[dict[str, Any]]) -> str:
    """The score, and every mutant that no test killed."""
    counted = [row for row in rows if row["status"] == "killed" or reason(row) is None]
    killed = sum(row["status"] == "killed" for row in counted)
    share = f"{100 * killed / len(counted):.0f} %" if counted else "no score"
    lines = [f"{killed} of {len(counted)} mutants killed: {share}"]
    return "\n".join([*lines, *(_told(row) for row in rows if row["status"] != "killed")])


def _told(row: dict[str, Any]) -> str:
    """One mutant in a line."""
    why = reason(row)
    told = f"equivalent: {why}" if why else f"{row['status']}, {row['tests']} tests"
    change = f"{row['before']!r:.90} -> {row['after']!r:.90}"
    return f"  {row['module']}:{row['line']}: {change} ({told})"


def main() -> None:
    """Sample mutants, try those that have not been, and print the score and the survivors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="mutants (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants", help="a folder")
    parser.add_argument("--only", default="", help="mutants of modules whose path holds this text")
    parser.add_argument("--slow", action="store_true", help="measure what slow tests reach, too")
    parser.add_argument("--tests", nargs="*", help="files of tests; default all")
    options = parser.parse_args()
    known = options.tests or sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").glob("test_*.py")
        if path.name not in _LEFT_OUT
    )
    place = _copied(options.out.resolve())
    reached = reach(options.out.resolve(), known, place, options.slow)
    every = [each for each in mutants() if options.only in each.module]
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    results = options.out / "mutants.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {row["name"]: row for row in rows}
    for mutant in chosen:
        if mutant.name not in done:
            done[mutant.name] = tried(mutant, reached.of(mutant), place)
            with results.open("a") as file:
                file.write(json.dumps(done[mutant.name]) + "\n")
            print(_told(done[mutant.name]), flush=True)
    print(summary([done[mutant.name] for mutant in chosen]))


if __name__ == "__main__":
    main()
