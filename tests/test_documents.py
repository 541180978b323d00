"""Texts: what stands in a block of Python runs, and prints what stands below it."""

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$\n*", flags=re.M | re.S)
AS_PRINTED = doctest.OutputChecker()


class Block(NamedTuple):
    """A block of Python, where it begins, and what it prints, if the text says so."""

    line: int
    code: str
    printed: str | None


def blocks(text: str) -> list[Block]:
    """The blocks of Python of a text; one without a language right after one is its output."""
    fences = list(FENCE.finditer(text))
    found = []
    for fence, after in zip(fences, [*fences[1:], None], strict=False):
        if fence[1] == "python":
            follows = after is not None and after[1] == "" and after.start() == fence.end()
            line = text.count("\n", 0, fence.start()) + 1
            found.append(Block(line, fence[2], after[2] if after and follows else None))
    return found


#: pages at the top of `docs` speak of programs in parts, those of `api` are made of docstrings
WRITTEN = sorted(page for page in (ROOT / "docs").glob("*/**/*.md") if "api" not in page.parts)
PAGES = [README, ROOT / "CONTRIBUTING.md", *WRITTEN]
RUN = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))]


def cases():
    """Pages, all but the first among the slow tests: together they take a minute."""
    for page in RUN:
        marks = () if page == README else (pytest.mark.slow,)
        yield pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("page", list(cases()))
def test_blocks_run_and_print_what_stands_below_them(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "__main__"}
    for line, code, printed in blocks(page.read_text(encoding="utf-8")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), jax.numpy_rank_promotion("allow"):  # as users have it
            exec(compile("\n" * line + code, str(page), "exec"), space)
        if printed is not None:
            same = AS_PRINTED.check_output(printed, out.getvalue(), doctest.ELLIPSIS)
            assert same, f"{page.name}, line {line} prints\n{out.getvalue()}and says\n{printed}"


def test_a_block_that_prints_something_else_is_found():
    (block,) = blocks("```python\nprint(2)\n```\n\n```\n3\n```\n")
    assert block == Block(1, "print(2)\n", "3\n")
    (alone,) = blocks("```python\n2\n```\n\nText.\n\n```\n3\n```\n")
    assert alone.printed is None


def test_the_readme_is_of_one_screen_or_two_and_reads_anywhere():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith(("https://", "BASE_URL/")), target


@pytest.mark.parametrize(
    "command",
    [
        'python3 -m venv .venv && .venv/bin/pip install -q -e ".[study]" && '
        ".venv/bin/leaveout study breast_cancer",
        'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && '
        ".venv/bin/python -m pytest -n 2",
    ],
)
def test_the_two_commands_stay_in_the_readme(command):
    assert f"```bash\n{command}\n```" in README.read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere():
    """Sphinx checks this too; here without it."""
    for page in PAGES[2:]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            made = ("api/", "command_line.md", "datasets.md", "glossary.md", "ipynb")
            if target.startswith("https://") or any(name in target for name in made):
                continue
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
