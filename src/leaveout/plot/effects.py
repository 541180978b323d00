"""Predicted against actual effects, in the manner of the paper."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from leaveout.analysis.agreement import with_intervals
from leaveout.analysis.compare import check_column, comparable, paired
from leaveout.attribution.container import Effects
from leaveout.plot.style import (
    Axes,
    Paths,
    count_in_red,
    meaning,
    need_matplotlib,
    plain,
    styles,
    wrapped,
    write,
)
from leaveout.runtime.options import check_is
from leaveout.runtime.solution import flagged_in_words

__all__ = ["grid", "panels", "scatter"]

_DWARFED = 15  # times the size of three quarters of the effects, from which axes are made wide


def scatter(
    predicted,
    actual,
    *,
    column: int | str = 0,
    ax: Axes | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    wide: bool = False,
):
    """The paper's panel: a point a group, actual effect against its approximation.

    Both axes share their limits; the grey line is y = x. The border turns red on each side beyond
    which points lie, and says how many. Groups whose effect is flagged on either side
    (`Effects.column_status`) are left out, and their number stands in red beside it.

    Args:
        predicted: `Effects` or an array (g m), for the y axis.
        actual: `Effects` or an array of the same groups and columns, for the x axis.
        column: position or name of the column shown.
        ax: matplotlib axes to draw in; default a new figure's.
        limits: of both axes; default all points with 5 % to spare.
        title: above the panel.
        wide: axes that are linear near zero and logarithmic far from it (asinh), where a few groups
            would press all others together; all are then seen, and y = x stays a line.

    Returns:
        the axes.

    Raises:
        ValueError: for effects of other groups or columns, or of one group; for a column that is
            not there, or all of whose effects are flagged.

    Example:
        >>> actual = lo.effects(fit, groups, measure, lo.Retrain())
        >>> axes = lo.plot.scatter(lo.effects(fit, groups, measure), actual, title="Newton")
    """
    need_matplotlib()
    check_column(paired(predicted, actual).columns, column)
    if ax is None:
        from matplotlib import figure as drawn

        ax = drawn.Figure(figsize=(4, 4), layout="constrained").add_subplot()
    pair = comparable(predicted, actual)
    j = pair.columns.index(column) if isinstance(column, str) else column
    good = pair.status[:, j] == 0
    if not good.any():
        raise ValueError(
            f"there is nothing to draw: on {pair.columns[j]} {flagged_in_words(pair.status[:, j])}"
        )
    x, y = pair.actual[good, j], pair.predicted[good, j]
    stretched = _stretch(ax, x, y) if wide and limits is None else None
    limits = limits or stretched or _around(x, y)
    ax.plot(limits, limits, color="0.6", linewidth=2, alpha=0.8, zorder=0)
    kind = np.full(len(good), "group") if pair.groups is None else pair.groups.kind
    _points(ax, x, y, kind[good])
    ax.set(xlim=limits, ylim=limits)
    ax.set(**({"box_aspect": 1} if stretched else {"aspect": "equal"}))
    sides = meaning(actual.better[j] if isinstance(actual, Effects) else 0, "it")
    scale = "\n(logarithmic beyond the middle, so that all are seen)" if stretched else ""
    ax.set_xlabel(f"actual effect on {plain(pair.columns[j])}\n{sides}{scale}", fontsize=8.5)
    ax.set_ylabel(predicted.method if isinstance(predicted, Effects) else "predicted effect")
    if title:
        ax.set_title(wrapped(title, 40))
    hidden = _say_hidden(ax, x, y, limits)
    count_in_red(ax, hidden=hidden, flagged=int((~good).sum()))
    value = with_intervals([(y, x)], (), 0)[0][0]
    rank, _, slope, *_ = ("undefined" if not np.isfinite(v) else f"{v:.3f}" for v in value)
    ax.text(
        0.03, 0.97, f"Spearman {rank}\nslope {slope}", va="top", transform=ax.transAxes, fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    if not stretched:
        ax.locator_params(nbins=5)
        ax.ticklabel_format(scilimits=(-3, 4))
    return ax


def _stretch(ax: Axes, x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Make axes wide where the largest effects are many times those of most; their limits."""
    sizes = np.abs(np.concatenate([x, y]))
    most = float(np.quantile(sizes, 0.75))
    if len(x) < 5 or not most > 0 or sizes.max() < _DWARFED * most:
        return None
    limits = most * np.sinh(_around(np.arcsinh(x / most), np.arcsinh(y / most)))
    for scale, axis in ((ax.set_xscale, ax.xaxis), (ax.set_yscale, ax.yaxis)):
        scale("asinh", linear_width=most)
        ticks = _ticks(most, limits)
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    return float(limits[0]), float(limits[1])


def _ticks(most: float, limits: np.ndarray) -> list[float]:
    """Zero, and at most three powers of ten on each side, beyond what is drawn as a line."""
    first, last = np.ceil(np.log10(2 * most)), np.floor(np.log10(np.abs(limits).max()))
    powers = np.arange(first, last + 1)[:: -max(1, int((last - first) // 3 + 1))][::-1]
    ticks = [0.0, *(sign * 10.0**power for power in powers for sign in (-1, 1))]
    return sorted(tick for tick in ticks if limits[0] <= tick <= limits[1])


def _around(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Limits with all points inside, and 5 % to spare."""
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    pad = 0.05 * ((high - low) or 1.0)
    return float(low - pad), float(high + pad)


def _points(ax: Axes, x: np.ndarray, y: np.ndarray, kind: np.ndarray) -> None:
    """A point a group, in the style of its kind; tails lie below."""
    chosen = styles(kind.tolist())
    for name in sorted(set(kind.tolist()), key=lambda name: ("tail" not in name, name)):
        mine = kind == name
        colour, marker = chosen[name]
        ax.scatter(
            x[mine], y[mine], s=14, c=colour, marker=marker, label=name, alpha=0.75,
            linewidths=0.3, edgecolors="white", zorder=1 if "tail" in name else 2,
        )  # fmt: skip


def _say_hidden(ax: Axes, x: np.ndarray, y: np.ndarray, limits: tuple[float, float]) -> int:
    """Turn a border red beyond which points lie; how many there are."""
    outside = {
        "left": x < limits[0], "right": x > limits[1],
        "bottom": y < limits[0], "top": y > limits[1],
    }  # fmt: skip
    for side, beyond in outside.items():
        if beyond.any():
            ax.spines[side].set(color="red", linewidth=2)
    return int(np.any(list(outside.values()), axis=0).sum())


def panels(
    predictions: Mapping[str, Effects],
    actual: Effects,
    columns: Iterable[int | str] | int | str,
    *,
    path: Paths = None,
):
    """A grid of `scatter` panels: a row for each column of the effects, a column for each method.

    Axes are made `wide` where a few groups dwarf the others.

    Args:
        predictions: method name to `Effects`.
        actual: `Effects` of the same groups.
        columns: positions or names of the columns to show, one or several.
        path: where to write it, PNG, PDF or SVG by suffix; default nowhere.

    Returns:
        the matplotlib figure.

    Raises:
        ValueError: for predictions without names, and for what `scatter` refuses.
        FileNotFoundError: if there is no such folder to write to.

    Example:
        >>> actual = lo.effects(fit, groups, measure, lo.Retrain())
        >>> figure = lo.plot.panels({"Newton": lo.effects(fit, groups, measure)}, actual, [0])
    """
    check_is(predictions, Mapping, "effects by name, such as {'Newton': effects}")
    columns = [columns] if isinstance(columns, str) else columns
    asked = columns if isinstance(columns, Iterable) else [columns]
    cells = [[(each, actual, column) for each in predictions.values()] for column in asked]
    return grid(cells, titles=list(predictions), wide=True, path=path)


def grid(
    cells: Sequence[Sequence[tuple[Effects, Effects, int | str] | None]],
    *,
    titles: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    zoom: bool = False,
    wide: bool = False,
    path: Paths = None,
):
    """`scatter` panels in rows and columns, with one legend.

    A cell that is None stays empty; the first of them hosts the legend.

    Args:
        cells: rows of (predicted, actual, column) or None.
        titles: above each column.
        rows: beside each row, instead of the methods' names.
        zoom: cut the limits where a few points would hide the others (they are counted as hidden).
        wide: make axes wide instead, as in `scatter`.
        path: where to write it, or several paths; the format goes by the suffix.

    Returns:
        the matplotlib figure.

    Raises:
        ValueError: for cells that are no rows of such triples, and for what `scatter` refuses.
        FileNotFoundError: if there is no such folder to write to.

    Example:
        >>> effects = lo.effects(fit, groups, measure, lo.Retrain())
        >>> figure = lo.plot.grid([[(lo.effects(fit, groups, measure), effects, 0), None]])
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    for row in cells:
        check_is(row, list | tuple, "rows of cells, a row a list of them")
        for cell in row:
            check_is(cell, tuple | list | None, "cells as (predicted, actual, column), or None")
    down, across = len(cells), max(map(len, cells))
    figure = Figure(figsize=(3.3 * across + 0.4, 3.2 * down + 0.8), layout="constrained", dpi=110)
    axes = figure.subplots(down, across, squeeze=False)
    found, host = {}, None
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            ax = axes[i, j]
            if titles is not None and i == 0:
                ax.set_title(wrapped(titles[j], 34))
            if cell is None:
                ax.axis("off")
                host = ax if host is None else host
                continue
            predicted, actual, column = cell
            limits = _zoomed(predicted, actual, column) if zoom else None
            scatter(predicted, actual, column=column, ax=ax, limits=limits, wide=wide)
            if rows is not None:
                sides = ax.get_xlabel().partition("\n")[2]
                ax.set(xlabel=f"actual effect\n{sides}", ylabel=rows[i] if j == 0 else "")
            found |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    order = list(styles(found))
    entries = [found[kind] for kind in order], order
    if host is not None:
        host.legend(*entries, loc="center", markerscale=1.8, frameon=False)
    else:
        figure.legend(
            *entries, loc="outside lower center", ncols=min(4, 2 * across), markerscale=1.8,
            frameon=False,
        )  # fmt: skip
    write(figure, path)
    return figure


def _zoomed(predicted, actual, column):
    """Limits that show all points, or all but 2 % of them if those take most of the room."""
    pair = paired(predicted, actual)
    j = pair.columns.index(column) if isinstance(column, str) else column
    good = pair.status[:, j] == 0
    values = np.concatenate([pair.predicted[good, j], pair.actual[good, j]])
    if not values.size:
        return None
    low, high = np.quantile(values, [0.005, 0.995])
    if high - low > 0.5 * (values.max() - values.min()):
        return None
    pad = 0.1 * (high - low)
    return float(low - pad), float(high + pad)
