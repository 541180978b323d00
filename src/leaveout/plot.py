"""Figures of predicted against actual effects, in the manner of the paper's."""

from typing import Any

import numpy as np

from leaveout.report import compare

__all__ = [
    "panels",
    "scatter",
]

#: kind: (colour, marker). Okabe and Ito's palette, which colour-blind readers tell apart, and a
#: marker of its own for every kind; in the order of the paper's legend.
_STYLE = {
    "shared feature value": ("#009E73", "s"),
    "feature clustering": ("#D55E00", "D"),
    "gradient clustering": ("#CC79A7", "P"),
    "random within class": ("#F0E442", "^"),
    "random": ("#000000", "o"),
    "positive tail": ("#0072B2", ">"),
    "negative tail": ("#E69F00", "<"),
}
_OTHER = (("#56B4E9", "v"), ("#999999", "X"), ("#117733", "p"), ("#882255", "h"), ("#332288", "d"))


def _matplotlib():
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('figures need matplotlib; pip install "leaveout[study]"') from error
    return matplotlib


def _styles(kinds) -> dict[str, tuple[str, str]]:
    """A style for each kind, no two alike while there are five unknown ones or fewer."""
    unknown = sorted(set(kinds) - set(_STYLE))
    known = {kind: style for kind, style in _STYLE.items() if kind in kinds}
    return known | {kind: _OTHER[i % len(_OTHER)] for i, kind in enumerate(unknown)}


def scatter(
    predicted: Any,
    actual: Any,
    *,
    column: int | str = 0,
    ax: Any = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
):
    """The paper's panel: a point a group, actual effect against its approximation.

    Both axes share their limits; the grey line is y = x. The border turns red on each side beyond
    which points lie, and says how many.

    Args:
        predicted: `Effects`, for the y axis.
        actual: `Effects` of the same groups and columns, for the x axis.
        column: position or name of the column shown.
        ax: matplotlib axes to draw in; default a new figure's.
        limits: of both axes; default all points with 5 % to spare.
        title: above the panel.

    Returns:
        the axes.
    """
    _matplotlib()
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(4, 4), layout="constrained").add_subplot()
    j = predicted.columns.index(column) if isinstance(column, str) else column
    x, y, kind = actual.value[:, j], predicted.value[:, j], predicted.groups.kind
    styles = _styles(kind.tolist())
    report = compare(predicted, actual, resamples=0)  # refuses other groups or columns
    if limits is None:
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        pad = 0.05 * ((high - low) or 1.0)
        limits = (low - pad, high + pad)
    ax.plot(limits, limits, color="0.6", linewidth=2, alpha=0.8, zorder=0)
    for name in sorted(set(kind.tolist()), key=lambda name: "tail" not in name):  # tails below
        mine = kind == name
        colour, marker = styles[name]
        ax.scatter(
            x[mine], y[mine], s=14, c=colour, marker=marker, label=name, alpha=0.75,
            linewidths=0.3, edgecolors="white", zorder=1 if "tail" in name else 2,
        )  # fmt: skip
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.set_xlabel(f"actual effect on {predicted.columns[j]}")
    ax.set_ylabel(predicted.method)
    if title:
        ax.set_title(title)
    outside = {
        "left": x < limits[0], "right": x > limits[1],
        "bottom": y < limits[0], "top": y > limits[1],
    }  # fmt: skip
    for side, beyond in outside.items():
        if beyond.any():
            ax.spines[side].set(color="red", linewidth=2)
    hidden = int(np.any(list(outside.values()), axis=0).sum())
    if hidden:
        ax.text(0.98, 0.02, f"{hidden:,} hidden", color="red", ha="right", transform=ax.transAxes)
    rank, slope = (
        "undefined" if np.isnan(v) else f"{v:.3f}" for v in (report.spearman[j], report.slope[j])
    )
    ax.text(
        0.03, 0.97, f"Spearman {rank}\nslope {slope}", va="top", transform=ax.transAxes, fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    ax.locator_params(nbins=5)
    ax.ticklabel_format(scilimits=(-3, 4))
    return ax


def panels(predictions: dict[str, Any], actual: Any, columns: Any, *, path: Any = None):
    """A grid of `scatter` panels: a row for each column of the effects, a column for each method.

    Args:
        predictions: method name to `Effects`.
        actual: `Effects` of the same groups.
        columns: positions or names of the columns to show.
        path: where to write it, PNG, PDF or SVG by suffix; default nowhere.

    Returns:
        the matplotlib figure.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    rows, across = len(columns), len(predictions)
    figure = Figure(figsize=(3.9 * across + 0.4, 3.7 * rows + 0.8), layout="constrained", dpi=110)
    grid = figure.subplots(rows, across, squeeze=False)
    for i, column in enumerate(columns):
        for j, (name, predicted) in enumerate(predictions.items()):
            good = (predicted.status == 0) & (actual.status == 0)
            shown = scatter(predicted[good], actual[good], column=column, ax=grid[i, j])
            if i == 0:
                shown.set_title(name)
    order = list(_styles(actual.groups.kind.tolist()))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    figure.legend(
        [found[kind] for kind in order if kind in found],
        [kind for kind in order if kind in found],
        loc="outside lower center", ncols=min(4, 2 * across), markerscale=1.8, frameon=False,
    )  # fmt: skip
    if path is not None:
        figure.savefig(path)
    return figure
