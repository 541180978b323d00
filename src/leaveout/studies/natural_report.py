"""What a study of natural groups found, and its figures.

Source: Koh, Ang, Teo and Liang (2019), section 5.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leaveout import plot
from leaveout.analysis.credit import Credit
from leaveout.attribution.container import Effects
from leaveout.plot import Paths

__all__ = ["Report", "draw", "draw_against_actual", "draw_coverage", "short"]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What `run` leaves behind.

    Attributes:
        folder: where the files are.
        effects: name of a method to the effects of all groups.
        table: a pandas table, a row a group: that of `Credit.to_pandas`, and coverage (share of all
            memberships), majority (the commonest class), precision where labels have one, and "in
            PART" (examples in each part that queries have too).
        summary: what `summary.json` holds.
        credit: the result of `lo.credit`; None if it was read from the folder.
        resumed: chunks that were there already.
    """

    folder: Path
    effects: dict[str, Effects]
    table: Any
    summary: dict[str, Any]
    credit: Credit | None = None
    resumed: int = 0

    def losses(self) -> dict[str, int]:
        """Part of the queries to the position of the column that is the effect on its loss."""
        first = next(iter(self.effects.values()))
        return {
            short(name): j
            for j, (name, measure) in enumerate(zip(first.columns, first.measure, strict=True))
            if measure == "loss"
        }

    def kinds(self) -> list[str] | None:
        """The class of each group where groups are of one class, else None."""
        counts = [name for name in self.table if str(name).startswith("class ")]
        if not counts or not ((self.table[counts] != 0).sum(axis=1) == 1).all():
            return None
        return [f"class {k}" for k in self.table["majority"]]


def draw(report: Report, title: str) -> None:
    """Every figure that a study has which was just run, into its folder."""
    folder, found = report.folder, report.credit
    assert found is not None
    summed = [j for j, name in enumerate(found.best.measure) if name == "loss"]
    known = found.best.column_status[:, 0] == 0
    if found.null is not None and (np.isfinite(found.null.z[:, 0]) & known).any():
        plot.bands(found, 0, title=title, path=folder / "bands.png")
    values = found.best.value[:, summed]
    names = [short(found.columns[j]) for j in summed]
    if len(summed) > 1:
        heading = f"{title}: effect on the query loss"
        codes = found.best.column_status[:, summed]
        path = folder / "heat.png"
        better = [found.best.better[j] for j in summed]
        plot.heat(
            values, found.groups.names, names,
            title=heading, path=path, status=codes, better=better,
        )  # fmt: skip
    draw_coverage(report, summed[: min(3, len(summed))], "size", folder / "size.png")
    if "precision" in report.table:
        draw_coverage(report, summed[: min(3, len(summed))], "precision", folder / "precision.png")
    shown = [j for j in (0, *summed[1:4]) if _has_pairs(report, j)]
    if "actual" in report.effects and len(report.effects) > 1 and shown:
        draw_against_actual(report, shown, folder / "actual.png")


def _has_pairs(report: Report, j: int) -> bool:
    """Whether every method and retraining have the effects of two groups on a column."""
    actual = report.effects.get("actual")
    return actual is not None and all(
        ((each.column_status[:, j] == 0) & (actual.column_status[:, j] == 0)).sum() > 1
        for each in report.effects.values()
    )


def short(column: str) -> str:
    """The part of a column's name in brackets."""
    return column.partition("[")[2].rstrip("]") or column


def draw_coverage(
    report: Report, columns: Sequence[int], trait: str, path: Paths, *, hide: int = 0
) -> None:
    """Effects over a trait of the groups, a panel a column; `hide` as in `plot.against`."""
    figure, axes = plot.canvas(1, len(columns))
    best = list(report.effects.values())[-1]
    for ax, j in zip(axes[0], columns, strict=True):
        plot.against(
            report.table[trait], best.value[:, j], ax=ax, kinds=report.kinds(), xlabel=trait,
            ylabel=f"{best.method} effect on {short(best.columns[j])}\n"
            f"{plot.meaning(best.better[j], 'it')}",
            hide=hide, status=best.column_status[:, j],
        )  # fmt: skip
    plot.write(figure, path)


def draw_against_actual(report: Report, columns: Sequence[int], path: Paths) -> None:
    """Predicted against actual effects, a row a method, a panel a column."""
    actual = report.effects["actual"]
    kinds = report.kinds()
    if kinds is not None:
        groups = dataclasses.replace(actual.groups, kind=np.asarray(kinds))
        actual = dataclasses.replace(actual, groups=groups)
    cells, rows = [], []
    for name, each in report.effects.items():
        if name != "actual":
            each = dataclasses.replace(each, groups=actual.groups)
            cells.append([(each, actual, j) for j in columns])
            rows.append(name)
    titles = [short(actual.columns[j]) for j in columns]
    plot.grid(cells, titles=titles, rows=rows, wide=True, path=path)
