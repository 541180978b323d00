"""Writes the pages of the site that follow from the code and from `CONTRIBUTING.md`.

The interface by folder, the command line, the data sets, the statuses, the glossary and the
notebooks: nothing of them is written twice, and a new public name is on its page by itself. The
pages are not kept.
"""

import argparse
import importlib
import inspect
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import leaveout as lo

__all__ = ["SHARED", "names", "rooms", "terms", "write"]

ROOT = Path(__file__).parents[1]

#: what examples of docstrings take as given
SHARED = (Path(__file__).with_name("shared.py")).read_text(encoding="utf-8").split('"""\n\n', 1)[1]

INNER = {  # what a shelf offers to other folders, and not to users
    *("measures.Ball", "measures.Measures", "measures.as_measures", "groups.shuffles"),
    *("counterexamples.changes", "datasets.Origin", "datasets.origin", "datasets.where"),
    *(f"plot.{name}" for name in ("Axes", "Figure", "Paths", "FOUR", "LINES", "OTHER", "STYLE")),
    *("plot.HELPS", "plot.HURTS", "plot.meaning", "groups.dealt_sums", "datasets.Coding"),
    *("plot.count_in_red", "plot.need_matplotlib", "solvers.AnySolver"),
}
OF_SOLVERS = ("Auto", "CG", "Cholesky", "Lineax", "LowRank", "Refined")

ALIASES = {  # other words under which a term is looked up
    "Base weight s": ("Base weight",),
    "Mu, the share of curvature": ("Mu", "Share of curvature"),
    "Newton decrement": ("Decrement",),
}


def names(module: ModuleType = lo, prefix: str = "") -> Iterator[tuple[str, object]]:
    """What users write after `lo.`, with what it is; modules give their own names."""
    for name in sorted(module.__all__, key=str.lower):
        thing, full = getattr(module, name), prefix + name
        if full in INNER or (prefix == "solvers." and name not in OF_SOLVERS):
            continue
        if not isinstance(thing, ModuleType):
            yield full, thing
        elif hasattr(thing, "__all__"):
            yield from names(thing, f"{prefix}{name}.")


def _home(name: str, thing: object) -> str:
    """The module that something is defined in."""
    if hasattr(thing, "__qualname__"):
        return getattr(thing, "__module__", "")
    shelf = name.rpartition(".")[0]
    return getattr(lo, shelf).__name__ if shelf else type(thing).__module__


def rooms() -> dict[str, tuple[str, list[tuple[str, object]]]]:
    """Each folder: what `CONTRIBUTING.md` says of it, and its public names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^ {2,4}(\w+)/ +(?:\* )?(\S.*)$", text, flags=re.M))
    seen: set[int] = set()
    every: dict[str, tuple[str, list[tuple[str, object]]]] = {}
    for name, thing in names():
        home = _home(name, thing).split(".")
        if home[0] != "leaveout" or id(thing) in seen:
            continue
        seen.add(id(thing))
        every.setdefault(home[1], (found.get(home[1], ""), []))[1].append((name, thing))
    return {room: every[room] for room in found if room in every}


def write(docs: Path) -> None:
    """Write every page below a folder."""
    _interface(docs / "reference" / "api")
    _save(docs / "reference" / "command_line.md", _command_line())
    _save(docs / "reference" / "datasets.md", _datasets())
    _save(docs / "how-to" / "_statuses.md", _statuses())
    _save(docs / "glossary.md", _glossary())
    _save(docs / "explanation" / "_more.md", _more(docs))
    _notebooks(docs / "tutorials")


def _save(path: Path, text: str) -> None:
    """Write a page if it says something else than before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _interface(folder: Path) -> None:
    """A page a folder of the package, and the list of them."""
    lines = ["# The interface, by folder", "", "Examples take these lines as given:", ""]
    lines += ["```python", SHARED.rstrip(), "```", ""]
    lines += ["| folder | what is in it | names |", "|---|---|---|"]
    order = []
    for room, (about, members) in rooms().items():
        _save(folder / f"{room}.md", _room(room, about, members))
        short = ", ".join(f"[`{name}`](#leaveout.{name})" for name, _ in members)
        lines.append(f"| [{room}]({room}.md) | {about} | {short} |")
        order.append(room)
    lines += ["", "```{toctree}", ":hidden:", "", *order, "```", ""]
    _save(folder / "index.md", "\n".join(lines))


def _room(room: str, about: str, members: list[tuple[str, object]]) -> str:
    """The page of one folder."""
    lines = [f"# {room}", "", f"{about[:1].upper()}{about[1:]}.", ""]
    lines += ["Examples take [these lines](index.md) as given.", "", "```{eval-rst}"]
    for name, thing in members:
        lines += [*_directive(name, thing), ""]
    return "\n".join([*lines, "```", ""])


def _directive(name: str, thing: object) -> list[str]:
    """What has Sphinx show a public name."""
    full = f"leaveout.{name}"
    if inspect.isclass(thing):
        return [f".. autoclass:: {full}", "   :members:"]
    if callable(thing) and hasattr(thing, "__qualname__"):
        return [f".. autofunction:: {full}"]
    return [f".. py:data:: {full}", "", f"   {_comment(name, thing)}"]


def _comment(name: str, thing: object) -> str:
    """What stands in `#:` lines before a value of a shelf."""
    module = importlib.import_module(_home(name, thing))
    short = name.rpartition(".")[2]
    found = re.search(rf"((?:^#: .*\n)+){short} = ", inspect.getsource(module), flags=re.M)
    said = "" if found is None else found[1].replace("#:", "").replace("\n", " ")
    return re.sub(r"(?<!\\)([|*])", r"\\\1", " ".join(said.split()))


def _command_line() -> str:
    """The help of every command."""
    os.environ.setdefault("COLUMNS", "96")
    main = importlib.import_module("leaveout.studies.cli.main")
    parser = main._parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    lines = ["# The command line", "", parser.description, ""]
    lines += ["A study stopped half-way goes on with the same command. What is written where: "]
    lines += ["[files](files.md). What a status means: [statuses](../how-to/statuses.md).", ""]
    for name, command in commands.choices.items():
        lines += [f"## leaveout {name}", "", "```text", command.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def _datasets() -> str:
    """Every data set with its source and licence."""
    lines = ["# Data sets, and on what terms", ""]
    lines += ["`lo.datasets.NAME()` or `lo.datasets.load(name)` gives a data set; raw files are"]
    lines += ["looked for below `LEAVEOUT_DATA` and in the user's cache, and otherwise downloaded"]
    lines += ["from their publisher against a pinned checksum where they are published.", ""]
    lines += ["| name | what | source | licence |", "|---|---|---|---|"]
    for name in lo.datasets.available():
        function, origin = getattr(lo.datasets, name), lo.datasets.origin(name)
        found = origin or function()
        first = (inspect.getdoc(function) or "").split("\n")[0]
        said = (f"[`{name}`](#leaveout.datasets.{name})", first, found.source, found.licence)
        lines.append(f"| {' | '.join(text.replace('|', '/') for text in said)} |")
    return "\n".join([*lines, ""])


def _statuses() -> str:
    """Every code with its advice, as the code says it."""
    lines = []
    for title, codes in (("status", lo.Status), ("certificate", lo.Certificate)):
        lines += [f"| {title} | code | what it means, and what to do |", "|---|--:|---|"]
        lines += [f"| `{code.name}` | {int(code)} | {code.advice} |" for code in codes]
        lines += [""]
    return "\n".join(lines)


def terms() -> dict[str, str]:
    """The words of the trade, as `CONTRIBUTING.md` explains them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Words of the trade")
    found = re.findall(r"^- \*\*(.+?)\*\* - ((?:.|\n(?!- |\n|#))+)", text[2], flags=re.M)
    return {term: " ".join(said.split()) for term, said in found}


def _glossary() -> str:
    """The page of words."""
    lines = ["# Glossary", "", "```{glossary}"]
    for term, said in sorted(terms().items(), key=lambda pair: pair[0].lower()):
        lines += [*ALIASES.get(term, ()), term, f"  {said[:1].upper()}{said[1:]}", ""]
    return "\n".join([*lines, "```", ""])


def _more(docs: Path) -> str:
    """The list of pages beside `index.md` that no other page lists."""
    listed = "".join(path.read_text(encoding="utf-8") for path in docs.rglob("index.md"))
    listed += "index"
    found = [page.stem for page in sorted(docs.glob("*.md"))]
    own = [stem for stem in found if not re.search(rf"^(\.\./)?{stem}$", listed, flags=re.M)]
    lines = ["```{toctree}", ":hidden:", "", *(f"../{stem}" for stem in own if stem != "index")]
    return "\n".join([*lines, "```", ""]) if own != ["index"] else ""


def _notebooks(folder: Path) -> None:
    """The notebooks as .ipynb: those that were run, or as they are written."""
    import jupytext

    folder.mkdir(parents=True, exist_ok=True)
    done = os.environ.get("LEAVEOUT_NOTEBOOKS")
    for source in sorted((ROOT / "notebooks").glob("*.py")):
        target = folder / f"{source.stem}.ipynb"
        run = Path(done) / target.name if done else None
        if run is not None and run.exists():
            shutil.copyfile(run, target)
        elif not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            jupytext.write(jupytext.read(source), target)
