"""A page: what a reader sees from above to below, and how it becomes one file of HTML."""

import dataclasses
import importlib.metadata
import os
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

from leaveout.plot import Figure
from leaveout.runtime.extras import needed
from leaveout.runtime.files import write_text

__all__ = ["Card", "Drawn", "Page", "Row", "Section", "Table", "drawn", "number", "write_page"]


@dataclasses.dataclass(frozen=True)
class Card:
    """One answer in a box: a few words, a sentence, and "helps", "hurts" or neither."""

    headline: str
    text: str
    side: str = ""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure as SVG, and what it shows."""

    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells of a table, on which side the row is, and whether its numbers are in doubt."""

    cells: tuple[str, ...]
    side: str = ""
    flagged: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: above each column.
        rows: below.
        words: columns of text, flush left.
        tinted: columns in the colour of the row's side.
        rest: where it is folded away, what unfolds it.
    """

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    words: tuple[int, ...] = (0,)
    tinted: tuple[int, ...] = ()
    rest: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """What stands below one heading, in this order."""

    heading: str
    sentences: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    figures: tuple[Drawn, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """A report: a question, the answer in a few cards, and sections with the rest."""

    kicker: str
    title: str
    lead: tuple[str, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]

    @property
    def version(self) -> str:
        """Of this library."""
        return importlib.metadata.version("leaveout")


def write_page(page: Page, path: str | os.PathLike) -> Path:
    """Write a page as one file of HTML that needs no other, whole or not at all.

    Raises:
        ImportError: without jinja2, with what to install.
    """
    with needed("a report"):
        import jinja2
    text = resources.files("leaveout.studies.report").joinpath("page.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    write_text(Path(path), environment.from_string(text).render(page=page))
    return Path(path)


def drawn(figure: Figure, caption: str) -> Drawn:
    """A figure of matplotlib as SVG to put into a page; text stays text.

    Names of parts come from the caption, so that those of one page do not meet.
    """
    import io

    import matplotlib

    font = ["DejaVu Sans", "Verdana", "Arial", "sans-serif"]
    file = io.StringIO()
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": caption, "font.sans-serif": font}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")  # browsers have it
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None},
            bbox_inches="tight", pad_inches=0.08,
        )  # fmt: skip
    svg = file.getvalue()
    return Drawn(svg[svg.index("<svg") :], caption)


def number(value: float, digits: int = 4, signed: bool = False) -> str:
    """A number for a reader: few digits, a true minus, commas in large ones."""
    if value != value:
        return "\u2013"
    size = abs(value)
    if size >= 10 ** (digits - 1):
        text = f"{value:+,.0f}" if signed else f"{value:,.0f}"
    else:
        text = f"{value:+.{digits}g}" if signed else f"{value:.{digits}g}"
    return text.replace("-", "\u2212")
