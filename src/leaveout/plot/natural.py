"""Natural groups: what they are, what they do, and where they stand."""

import numpy as np

from leaveout.analysis.credit import Credit
from leaveout.plot.style import FOUR, Axes, Paths, count_in_red, need_matplotlib, write

__all__ = ["against", "bands", "heat"]


def against(
    x,
    y,
    *,
    ax: Axes,
    kinds=None,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    hide: int = 0,
    status=None,
) -> None:
    """What the groups are against what they do: a point a group, the paper's figure 4.

    Args:
        x: (g) a property of the groups.
        y: (g) effects.
        ax: matplotlib axes to draw in.
        kinds: (g) names of up to four sorts of groups; a colour and marker, and a rank correlation,
            for each.
        xlabel: what x is.
        ylabel: what y is.
        title: above the panel.
        hide: groups of the largest x to leave outside the limits; the border says so in red.
        status: (g) `Status` codes of the effects, a column of `Effects.column_status`: those that
            are not 0 are left out, of the correlations too, and their number stands in red.

    Returns:
        nothing; it draws in `ax`.

    Example:
        >>> figure, axes = lo.plot.canvas(1, 1)
        >>> effects = lo.effects(fit, groups, measure).value[:, 0]
        >>> lo.plot.against(groups.size, effects, ax=axes[0, 0], xlabel="size", ylabel="effect")
    """
    from scipy.stats import spearmanr

    x, y = np.asarray(x, float), np.asarray(y, float)
    kinds = np.full(x.size, "") if kinds is None else np.asarray(kinds)
    good = np.ones(x.size, bool) if status is None else np.asarray(status) == 0
    x, y, kinds, flagged = x[good], y[good], kinds[good], int((~good).sum())
    words = []
    for i, kind in enumerate(np.unique(kinds)):
        mine = kinds == kind
        colour, marker = FOUR[i % len(FOUR)]
        ax.scatter(
            x[mine], y[mine], s=22, c=colour, marker=marker, label=str(kind) or None, alpha=0.75,
            linewidths=0.3, edgecolors="white",
        )  # fmt: skip
        if mine.sum() > 2 and np.ptp(x[mine]) > 0 and np.ptp(y[mine]) > 0:
            name = f"{kind}: " if kind else "Spearman "
            words.append(f"{name}{np.asarray(spearmanr(x[mine], y[mine]))[0]:.2f}")
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    if 0 < hide < x.size:
        shown = x < np.sort(x)[-hide]
        for line, values in ((ax.set_xlim, x[shown]), (ax.set_ylim, y[shown])):
            pad = 0.06 * (np.ptp(values) or 1.0)
            line(values.min() - pad, values.max() + pad)
        ax.spines["right"].set(color="red", linewidth=2)
    count_in_red(ax, hidden=hide if 0 < hide < x.size else 0, flagged=flagged)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, box_aspect=1)
    ax.text(
        0.03, 0.97, "\n".join(words), va="top", transform=ax.transAxes, fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    ax.locator_params(nbins=5)
    if len(np.unique(kinds)) > 1:
        ax.legend(loc="best", fontsize=8, framealpha=0.75, edgecolor="none")


def heat(
    values,
    rows,
    columns,
    *,
    title: str | None = None,
    path: Paths = None,
    status=None,
):
    """Effects of groups on several measures as colours, groups of like effects side by side.

    The groups are ordered by average linkage of their rows, each divided by its length. Colours end
    where 98 % of the effects do. Effects that are flagged are grey, and counted in red.

    Args:
        values: (g m).
        rows: (g) names of the groups, shown below the map where they are 40 or fewer.
        columns: (m) names of the measures, beside it.
        title: above the map.
        path: as in `grid`.
        status: (g m) `Status` codes of the effects (`Effects.column_status`), or (g) of groups.

    Returns:
        the matplotlib figure.

    Example:
        >>> effects = lo.effects(fit, groups, lo.measures.loss((x, y), by=y)).value
        >>> figure = lo.plot.heat(effects, groups.names, ["class 0", "class 1"])
    """
    need_matplotlib()
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import leaves_list, linkage

    values, rows = np.asarray(values, float), np.asarray(rows)
    codes = np.zeros(len(values)) if status is None else np.asarray(status)
    lost = np.broadcast_to(codes.reshape(len(values), -1) != 0, values.shape)
    values = np.where(lost, 0.0, values)
    order = np.arange(len(values))
    if len(values) > 2:
        length = np.linalg.norm(values, axis=1, keepdims=True)
        order = leaves_list(linkage(values / np.where(length > 0, length, 1.0), "average"))
    limit = 1.0 if lost.all() else float(np.quantile(np.abs(values[~lost]), 0.98)) or 1.0
    named = len(values) <= 40
    figure = Figure(
        figsize=(min(2.5 + 0.32 * len(values), 11), 1.6 + 0.3 * len(columns) + 1.2 * named),
        layout="constrained", dpi=110,
    )  # fmt: skip
    ax = figure.add_subplot()
    ax.set_facecolor("0.6")  # seen where a value is masked
    shown = np.ma.masked_array(values, lost)[order].T
    image = ax.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", rasterized=True)
    count_in_red(ax, flagged=int(lost.sum()))
    ax.set_yticks(np.arange(len(columns)), list(columns))
    if named:
        ax.set_xticks(np.arange(len(rows)), rows[order], rotation=90)
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(rows):,} groups, those of like effects side by side")
    if title:
        ax.set_title(title)
    figure.colorbar(image, ax=ax, label="effect of removal", shrink=0.9)
    write(figure, path)
    return figure


def bands(
    credit: Credit,
    column: int = 0,
    *,
    most: int = 30,
    ax: Axes | None = None,
    path: Paths = None,
):
    """Each group's effect beside the middle 95 % of random groups of its size and class balance.

    Filled where it stands out after Benjamini and Hochberg at 5 %. Groups whose place is not known,
    because their effect or that of a random group is flagged, are left out and counted in red.

    Args:
        credit: from `lo.credit`, with a null band.
        column: which column.
        most: groups shown, those of the largest |z|.
        ax: matplotlib axes to draw in; default a new figure's.
        path: as in `grid`.

    Returns:
        the matplotlib figure.

    Example:
        >>> figure = lo.plot.bands(lo.credit(fit, groups, measure, null=20))
    """
    need_matplotlib()
    null = credit.null
    placed = np.zeros(0, int) if null is None else np.flatnonzero(np.isfinite(null.z[:, column]))
    if null is None or not placed.size:
        raise ValueError(f"{credit.columns[column]} was not compared with random groups")
    order = placed[np.argsort(-np.abs(null.z[placed, column]), kind="stable")][:most][::-1]
    if ax is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 1.4 + 0.24 * len(order)), layout="constrained", dpi=110)
        ax = figure.add_subplot()
    place = np.arange(len(order))
    low, high = null.low[order, column], null.high[order, column]
    ax.barh(
        place, high - low, left=low, height=0.55, color="0.85",
        label="95 % of random groups like it",
    )  # fmt: skip
    stands = null.q[order, column] <= 0.05
    colour = FOUR[0][0]
    for which, face, label in ((stands, colour, "q at most 0.05"), (~stands, "white", "above")):
        if which.any():
            ax.scatter(
                null.effect[order[which], column], place[which], s=30, facecolors=face,
                edgecolors=colour, linewidths=1.2, label=label, zorder=3,
            )  # fmt: skip
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set_yticks(
        place,
        [f"{credit.groups.names[i]} ({credit.groups.size[i]:,})" for i in order],
    )
    ax.set(xlabel=f"{null.method} on {credit.columns[column]}", ylim=(-0.7, len(order) - 0.3))
    ax.legend(loc="lower right", fontsize=8, framealpha=0.8, edgecolor="none")
    count_in_red(ax, flagged=len(null.z) - placed.size)
    write(ax.figure, path)
    return ax.figure
