"""Effects and rank correlations over penalties."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from leaveout.attribution.container import Effects
from leaveout.plot import FOUR, OTHER, STYLE, Axes, Paths, count_in_red, need_matplotlib, write

__all__ = ["curves", "ranks", "sweep"]


#: for each level: predicted effects, the actual ones, and the column that is shown
_Series: TypeAlias = Sequence[tuple[Effects, Effects, str]]


def sweep(
    cells: Sequence[Sequence[_Series | None]],
    levels: ArrayLike | Sequence[float],
    *,
    titles: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    path: Paths = None,
):
    """The paper's figure C.2: panels of actual effects against influence, coloured by l2 / n.

    Args:
        cells: rows of columns of lists: for each level (predicted, actual, column), or None.
        levels: l2 / n of each level.
        titles: above each column.
        rows: beside each row, instead of the method's name.
        path: as in `grid`.

    Returns:
        the matplotlib figure.
    """
    need_matplotlib()
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm
    from matplotlib.figure import Figure

    exponents = np.log10(np.asarray(levels))
    colours = colormaps["viridis"]
    norm = BoundaryNorm(np.append(exponents - 0.5, exponents[-1] + 0.5), colours.N)
    down, across = len(cells), max(map(len, cells))
    figure = Figure(figsize=(3.2 * across + 0.8, 3.1 * down + 0.3), layout="constrained", dpi=110)
    axes = figure.subplots(down, across, squeeze=False)
    for i, row in enumerate(cells):
        for j, series in enumerate(row):
            ax = axes[i, j]
            if series is None:
                ax.axis("off")
                continue
            if titles is not None and all(above[j] is None for above in cells[:i]):
                ax.set_title(titles[j])
            _panel(ax, series, [colours(norm(level)) for level in exponents])
            if j == 0:
                ax.set_ylabel(series[0][0].method if rows is None else rows[i])
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, ticks=exponents, shrink=0.6)
    bar.set_label("log10 of l2 / n")
    write(figure, path)
    return figure


def _panel(ax: Axes, series: _Series, colours: Sequence) -> None:
    """Predicted over actual effects, each level in its colour."""
    drawn, flagged = [], 0
    for colour, (predicted, actual, column) in zip(colours, series, strict=True):
        k = predicted.columns.index(column)
        good = (predicted.column_status[:, k] == 0) & (actual.column_status[:, k] == 0)
        flagged += int((~good).sum())
        x, y = actual.value[good, k], predicted.value[good, k]
        drawn.append(np.concatenate([x, y]))
        ax.scatter(x, y, s=6, color=colour, linewidths=0)
    values = np.concatenate(drawn)
    low, high = values.min(), values.max()
    # strong penalties have small effects: linear near 0, logarithmic further out
    threshold = float(np.quantile(np.abs(values), 0.2)) or 1.0
    for scale in (ax.set_xscale, ax.set_yscale):
        scale("symlog", linthresh=threshold)
    ax.plot([low, high], [low, high], color="0.6", linewidth=2, alpha=0.8, zorder=0)
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(_decades(threshold, low, high))
    ax.set_xlabel("actual effect")
    count_in_red(ax, flagged=flagged)


def _decades(threshold, low, high):
    """At most two ticks on either side of 0, at powers of ten that leave room for both."""
    from matplotlib.ticker import FixedLocator

    ticks = [0.0]
    for end in (low, high):
        top = int(np.floor(np.log10(max(abs(end), threshold))))
        bottom = int(np.ceil(np.log10(threshold)))
        middle = (top + bottom + 1) // 2
        shown = {top, middle} if top - middle > 1 else {top}
        ticks += [np.sign(end) * 10.0**k for k in shown if k >= bottom]
    return FixedLocator(sorted(set(ticks)))


def curves(
    rows: Sequence[Mapping[str, ArrayLike | Sequence[float]]],
    levels: ArrayLike | Sequence[float],
    *,
    titles: Sequence[str],
    path: Paths = None,
):
    """Spearman against l2 / n: a panel for each measure, a line for each series.

    Args:
        rows: for each panel, series name to values (NaN where there is none), one a level.
        levels: l2 / n.
        titles: above each panel.
        path: as in `grid`.

    Returns:
        the matplotlib figure.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(rows) + 0.4, 3.8), layout="constrained", dpi=110)
    axes = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    known = list(STYLE.values())
    for ax, series, title in zip(axes, rows, titles, strict=True):
        for i, (name, values) in enumerate(series.items()):
            colour, marker = known[(4, 5, 1, 2, 0)[i % 5]] if i < 5 else OTHER[i % len(OTHER)]
            ax.plot(levels, values, color=colour, marker=marker, markersize=5, label=name)
        ax.set(xscale="log", title=title, xlabel="l2 / n")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("Spearman, influence against actual")
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    for ax in axes[1:]:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=5, frameon=False
    )
    write(figure, path)
    return figure


def ranks(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]], *, ax: Axes, xlabel: str, ylabel: str
) -> None:
    """Curves of a rank correlation against a scale: name to (x, values)."""
    for (name, (x, values)), (colour, marker) in zip(series.items(), FOUR, strict=False):
        ax.plot(x, values, color=colour, marker=marker, markersize=5, label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel, box_aspect=1)
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right", fontsize=8, frameon=False)
