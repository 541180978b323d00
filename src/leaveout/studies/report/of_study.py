"""The report of a study: how well predictions say what retraining gives."""

from pathlib import Path
from typing import Any

from leaveout.analysis.compare import Comparison
from leaveout.attribution.container import Effects
from leaveout.plot import Figure
from leaveout.runtime.solution import flagged_in_words
from leaveout.studies.datasets import Dataset
from leaveout.studies.report.about import about
from leaveout.studies.report.page import (
    Card,
    Page,
    Row,
    Section,
    Table,
    drawn,
    number,
    write_page,
)

__all__ = ["report_of_study"]

_STATISTICS = {
    "spearman": "rank correlation",
    "pearson": "correlation",
    "slope": "slope",
    "sign_agreement": "same sign",
    "underestimated": "underestimated",
}


def report_of_study(
    effects: dict[str, Effects],
    comparisons: dict[str, Comparison],
    columns: list[str],
    panels: Figure,
    data: Dataset,
    path: Path,
    *,
    command: str | None,
    notes: list[str],
) -> Path:
    """A page on a study: the methods beside retraining, with figures.

    Args:
        effects: name of a method to its effects, "actual" among them.
        comparisons: name of a method to how it compares.
        columns: the measures that the page shows.
        panels: the figure of them.
        data: the data set.
        path: of the file.
        command: that asked for the study, or None.
        notes: on its groups, and on the fit.
    """
    actual = effects["actual"]
    n, count, size = actual.groups.n, len(actual.groups), actual.groups.size
    lead = (
        f"From a model learnt from {n:,} examples, {count:,} groups of {size.min():,} to "
        f"{size.max():,} examples were left out, one after the other. Each time the model was "
        "fitted again, which is the truth, and its change was predicted, which is cheaper.",
    )
    figure = drawn(
        panels,
        "Predicted effects (up) against those of retraining (across), a mark a group; on the grey "
        "line both are the same.",
    )
    page = Page(
        kicker=f"study of predictions \u00b7 {data.name}",
        title="Can what removing data does be predicted without retraining?",
        lead=lead,
        cards=tuple(_card(name, each, columns[0]) for name, each in comparisons.items()),
        sections=(
            Section("Predicted against actual effects", figures=(figure,)),
            Section("In numbers", _MEANINGS, tables=(_table(comparisons, columns),)),
            Section("How sure is this?", points=(*_ended(effects), *notes)),
            about(None, data, command),
        ),
    )
    return write_page(page, path)


_MEANINGS = (
    "A rank correlation of 1 puts the groups in the right order; a slope of 1 predicts effects at "
    "their size, on average; underestimated is the share of groups whose effect is predicted too "
    "small.",
)


def _card(name: str, found: Comparison, column: str) -> Card:
    """A method's answer."""
    rank, slope = _value(found, "spearman", column), _value(found, "slope", column)
    text = f"rank correlation with retraining on {column}, at {number(slope, 3)} times the size"
    return Card(f"{name}: {number(rank, 3)}", text)


def _value(found: Comparison, statistic: str, column: str) -> float:
    return float(found[statistic][found.columns.index(column)])


def _table(comparisons: dict[str, Comparison], columns: list[str]) -> Table:
    """A row a method and measure."""
    rows = tuple(
        Row((name, column, *(_shown(_value(found, s, column), s) for s in _STATISTICS)))
        for column in columns
        for name, found in comparisons.items()
    )
    return Table(("method", "effect on", *_STATISTICS.values()), rows, words=(0, 1))


def _shown(value: float, statistic: str) -> str:
    if statistic in ("sign_agreement", "underestimated"):
        return f"{number(100 * value, 3)} %"
    return number(value, 3)


def _ended(effects: dict[str, Any]) -> list[str]:
    """How the solves of each method ended."""
    return [
        f"{name}: {flagged_in_words(each.status)}"
        if each.status.any()
        else f"{name}: all {len(each.groups):,} groups converged."
        for name, each in effects.items()
    ]
