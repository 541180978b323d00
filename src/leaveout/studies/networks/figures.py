"""Figures of studies of networks: effects with error bars, slopes by size, and smoothness."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leaveout import plot
from leaveout.attribution.container import Effects
from leaveout.plot import Axes

if TYPE_CHECKING:
    from leaveout.studies.networks.study import Report

__all__ = ["across", "by_size", "draw", "draw_across"]

_APART = ("half", "single")  # kinds of another order of size, which would hide the others
_COLOURS = {
    "influence": "#D55E00",
    "Newton": "#0072B2",
    "metagradient": "#009E73",
    "corrected metagradient": "#000000",
}
_BANDS = np.array([0.0, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5])  # shares of the data
_LEAST = 5  # groups of a band


def _colour(name: str) -> str | None:
    """A method's own, with whatever curvature."""
    return _COLOURS.get(name.partition(",")[0])


def draw(folder: Path, effects: Mapping[str, Effects]) -> None:
    """The figures of a study, into its folder."""
    actual = effects["actual"]
    predicted = {name: each for name, each in effects.items() if name != "actual"}
    if not predicted:
        return
    some = ~np.isin(actual.groups.kind, _APART)
    _panels({name: each[some] for name, each in predicted.items()}, actual[some], folder)
    figure, axes = plot.canvas(1, 2)
    by_size(predicted, actual, axes[0, 0], of_seeds=False)
    by_size(predicted, actual, axes[0, 1], of_seeds=True)
    plot.write(figure, folder / "slopes.png")


def _panels(predicted: Mapping[str, Effects], actual: Effects, folder: Path) -> None:
    """Predicted against actual effects, a row a measure, a column a method."""
    shown = _headline(actual)
    figure, axes = plot.canvas(len(shown), len(predicted))
    handles = {}
    for row, column in zip(axes, shown, strict=True):
        for ax, (name, each) in zip(row, predicted.items(), strict=True):
            plot.scatter(each, actual, column=column, ax=ax, title=name)
            _bars(ax, each, actual, column)
            ax.set(ylabel="predicted effect" if ax is row[0] else "")
            found, labels = ax.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
    order = list(plot.styles(handles))
    figure.legend(
        [handles[kind] for kind in order], order, loc="outside lower center", ncols=4,
        markerscale=1.8, frameon=False,
    )  # fmt: skip
    plot.write(figure, folder / "figure.png")


def _headline(actual: Effects) -> list[int]:
    """The first column of what is predicted, and the mean loss."""
    return [0, len(actual.columns) - 1]


def _bars(ax: Axes, predicted: Effects, actual: Effects, column: int) -> None:
    """Standard errors over seeds, behind the points."""
    if actual.error is None or predicted.error is None:
        return
    ax.errorbar(
        actual.value[:, column], predicted.value[:, column], xerr=actual.error[:, column],
        yerr=predicted.error[:, column], fmt="none", ecolor="0.7", elinewidth=0.6, zorder=0.5,
    )  # fmt: skip


def by_size(predicted: Mapping[str, Effects], actual: Effects, ax: Axes, *, of_seeds: bool) -> Axes:
    """Slope of predicted over actual effects by the size of the groups, a line a method.

    Args:
        predicted: name to the effects of a method.
        actual: those of retraining.
        ax: to draw in.
        of_seeds: by products of different seeds, which noise does not pull towards 0; else each
            seed against itself.
    """
    first = np.array(actual.measure) == actual.measure[0]
    ax.axhline(1.0, color="0.6", linewidth=2, alpha=0.8, zorder=0)
    for name, each in predicted.items():
        points = []
        for low, high in itertools.pairwise(_BANDS):
            rows = (actual.groups.alpha > low) & (actual.groups.alpha <= high + 1e-9)
            rows &= actual.groups.kind != "single"
            if rows.sum() >= _LEAST:
                value = _slope(each, actual, rows, first, of_seeds)
                points.append((100 * float(np.mean(actual.groups.alpha[rows])), value))
        sizes, slopes = np.array(points).reshape(-1, 2).T
        ax.plot(sizes, slopes, "o-", color=_colour(name), label=name, markersize=4)
    title = "between seeds" if of_seeds else "each seed against itself"
    ax.set(
        xscale="log", xlabel="size of the group, % of the data", ylabel="slope",
        title=f"{actual.measure[0]}, {title}",
    )  # fmt: skip
    ax.legend(frameon=False, fontsize=8)
    return ax


def _slope(predicted: Effects, actual: Effects, rows, columns, of_seeds: bool) -> float:
    p, a = (
        (each.value[None] if each.seeds is None else each.seeds)[:, rows][:, :, columns]
        for each in (predicted, actual)
    )
    above, below = (np.einsum("sgm,tgm->st", each, a) for each in (p, a))
    pairs = ~np.eye(len(a), dtype=bool) if of_seeds else np.eye(len(a), dtype=bool)
    total = below[pairs].sum()
    return float(above[pairs].sum() / total) if total > 0 else np.nan


# ---- several studies -----------------------------------------------------------------------------


def draw_across(reports: Sequence["Report"], path: plot.Paths) -> None:
    """Correlation by smoothness, a panel a kind of groups; a point a study and method."""
    figure, axes = plot.canvas(1, 2)
    for ax, family in zip(axes[0], ("random", "half"), strict=True):
        across(reports, family, ax)
    plot.write(figure, path)


def across(reports: Sequence["Report"], family: str, ax: Axes) -> Axes:
    """Rank correlation with retraining the same run, by how smooth its training is.

    Args:
        reports: of studies.
        family: kind of groups.
        ax: to draw in.
    """
    names = [score.method for report in reports for score in report.scores]
    for name in dict.fromkeys([*_COLOURS, *names]):
        points = [
            (min(report.summary["smoothness"]), score.spearman)
            for report in reports
            for score in report.scores
            if (score.method, score.family, score.question) == (name, family, "this run")
            and score.measure in ("margin", "prediction")
            and report.summary["smoothness"]
        ]
        if points:
            smooth, value = np.array(sorted(points)).T
            marker, colour = "s" if "," in name else "o", _colour(name)
            ax.plot(smooth, value, marker, color=colour, label=name, markersize=5, alpha=0.8)
    ax.axvline(0.9, color="0.6", linestyle=":", linewidth=1)
    ax.axvline(0.5, color="0.6", linestyle=":", linewidth=1)
    ax.set(
        xlabel="smoothness: cosine after a step of 2 %", ylabel="Spearman, this run",
        title=f"{family} groups" if family != "half" else "random halves (LDS)", ylim=(-0.2, 1.03),
    )  # fmt: skip
    if ax.get_legend_handles_labels()[0]:  # a family of few groups has no score
        ax.legend(frameon=False, fontsize=8, loc="lower right")
    return ax
