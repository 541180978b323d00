"""Natural groups: what they are, what they do, and where they stand."""

import numpy as np

from leaveout.analysis.credit import Credit
from leaveout.analysis.null import Standing
from leaveout.plot.style import (
    FOUR,
    HELPS,
    HURTS,
    NEUTRAL,
    Axes,
    Paths,
    colours,
    count_in_red,
    cut,
    entitle,
    explain,
    meaning,
    named,
    need_matplotlib,
    plain,
    write,
)
from leaveout.runtime.options import check_is

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
    above = {"x": 0.0, "y": 1.02, "va": "bottom"}  # over no point, where a title leaves room
    ax.text(
        **(above if title is None else {"x": 0.03, "y": 0.97, "va": "top"}), s="\n".join(words),
        transform=ax.transAxes, fontsize=9,
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
    better=None,
    apart: bool = False,
):
    """Effects of groups on several measures as colours, groups of like effects side by side.

    The groups are ordered by average linkage of their rows, each divided by its length. Colours end
    where 98 % of the effects do. Effects that are flagged are grey, and counted in red. Where there
    are few, the effects stand in their cells.

    Args:
        values: (g m).
        rows: (g) names of the groups, shown below the map where they are 40 or fewer.
        columns: (m) names of the measures, beside it.
        title: above the map.
        path: as in `grid`.
        status: (g m) `Status` codes of the effects (`Effects.column_status`), or (g) of groups.
        better: (m), or one for all, of `Effects.better`: colours then say which groups help and
            which hurt, whatever the sign of a measure.
        apart: each measure on a scale of its own, where their units differ.

    Returns:
        the matplotlib figure.

    Raises:
        FileNotFoundError: if there is no such folder to write to.

    Example:
        >>> effects = lo.effects(fit, groups, lo.measures.loss((x, y), by=y)).value
        >>> figure = lo.plot.heat(effects, groups.names, ["class 0", "class 1"])
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    values, rows = np.asarray(values, float), np.asarray(rows)
    codes = np.zeros(len(values)) if status is None else np.asarray(status)
    lost = np.broadcast_to(codes.reshape(len(values), -1) != 0, values.shape)
    values = np.where(lost, 0.0, values)
    order = _alike(values)
    senses = np.zeros(len(columns), int) if better is None else np.asarray(better)
    senses = np.broadcast_to(senses, (len(columns),))
    sided = senses.all()
    tinted, limit = _tinted(values, lost, senses if sided else np.full(len(columns), -1), apart)
    named_rows, below, beside = len(values) <= 40, cut(rows), cut(columns, 40)
    wide = 2.0 + 0.085 * max(map(len, beside)) + 0.34 * len(values)
    high = 2.0 + 0.3 * len(columns) + 0.085 * max(map(len, below)) * named_rows
    size = float(np.clip(wide, 6, 12)), high
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    ax = figure.add_subplot()
    ax.set_facecolor("0.6")  # seen where a value is masked
    shown = np.ma.masked_array(tinted, lost)[order].T
    image = ax.imshow(
        shown, cmap=_sides() if sided else "PRGn_r", vmin=-limit, vmax=limit, aspect="auto",
        rasterized=True,
    )  # fmt: skip
    count_in_red(ax, flagged=int(lost.sum()))
    ax.set_yticks(np.arange(len(columns)), beside)
    if named_rows:
        ax.set_xticks(np.arange(len(rows)), [below[i] for i in order], rotation=90)
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(rows):,} groups, those of like effects side by side")
    if values.size <= 80:
        _write_in(ax, values[order], lost[order], np.abs(tinted[order]) > 0.6 * limit)
    entitle(ax, title, True)
    bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.7, aspect=35, pad=0.03)
    bar.set_label(_scale_in_words(bool(sided), apart))
    if apart:
        bar.set_ticks([])
    write(figure, path)
    return figure


def _alike(values: np.ndarray) -> np.ndarray:
    """(g) an order in which groups of like effects are side by side."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(values) < 3:
        return np.arange(len(values))
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return leaves_list(linkage(values / np.where(length > 0, length, 1.0), "average"))


def _tinted(values, lost, senses, apart: bool) -> tuple[np.ndarray, float]:
    """(g m) what colours are of: positive where a group helps; and where colours end."""
    tinted = -values * senses
    if apart:
        tinted = tinted / [
            _end(column, gone) for column, gone in zip(tinted.T, lost.T, strict=True)
        ]
        return tinted, 1.0
    return tinted, _end(tinted, lost)


def _end(values: np.ndarray, lost: np.ndarray) -> float:
    """Where the colours of some values end."""
    return 1.0 if lost.all() else float(np.quantile(np.abs(values[~lost]), 0.98)) or 1.0


def _sides():
    """Colours from what hurts to what helps."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("sides", [HURTS, "#FFFFFF", HELPS])


def _scale_in_words(sided: bool, apart: bool) -> str:
    """What the colours of a map mean."""
    if not sided:
        text = "\u2190 falls without the group   |   rises without the group \u2192"
    else:
        text = "\u2190 group hurts: better without it   |   group helps: worse without it \u2192"
    return f"{text}\n(each measure on its own scale)" if apart else text


def _write_in(ax: Axes, values: np.ndarray, lost: np.ndarray, dark: np.ndarray) -> None:
    """The effects in their cells."""
    for (i, j), value in np.ndenumerate(values):
        if not lost[i, j]:
            colour = "white" if dark[i, j] else "black"
            ax.text(i, j, f"{value:+.2g}", ha="center", va="center", fontsize=7, color=colour)


def bands(
    credit: Credit,
    column: int | str = 0,
    *,
    most: int = 30,
    ax: Axes | None = None,
    title: str | None = None,
    path: Paths = None,
):
    """Each group's effect beside the middle 95 % of random groups of its size and class balance.

    The dot is the effect by the last method, the actual one where there is one: filled where the
    group stands out from random ones after Benjamini and Hochberg at 5 %, blue where the group
    helps, orange where it hurts. Where the band is of another method, a tick shows the effect by
    that. Groups whose place is not known, because their effect or that of a random group is
    flagged, are left out and counted in red.

    Args:
        credit: from `lo.credit`, with a null band.
        column: which column, by position or name.
        most: groups shown, those of the largest |z|.
        ax: matplotlib axes to draw in; default a new figure's.
        title: above it.
        path: as in `grid`.

    Returns:
        the matplotlib figure.

    Raises:
        ValueError: for what `lo.credit` did not give, an unknown column, or one that was not
            compared with random groups.
        FileNotFoundError: if there is no such folder to write to.

    Example:
        >>> figure = lo.plot.bands(lo.credit(fit, groups, measure, null=20))
    """
    need_matplotlib()
    check_is(credit, Credit, "what lo.credit gave")
    null, column = credit.null, credit.at(column)
    best = credit.best
    known = best.column_status[:, column] == 0
    placed = (
        np.zeros(0, int) if null is None else np.flatnonzero(np.isfinite(null.z[:, column]) & known)
    )
    if null is None or not placed.size:
        raise ValueError(f"{credit.columns[column]} was not compared with random groups")
    order = placed[np.argsort(-np.abs(null.z[placed, column]), kind="stable")][:most][::-1]
    own = ax is None
    if ax is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 2.2 + 0.25 * len(order)), layout="constrained", dpi=110)
        ax = figure.add_subplot()
    place, better = np.arange(len(order)), best.better[column]
    low, high = null.low[order, column], null.high[order, column]
    ax.barh(place, high - low, left=low, height=0.6, color="0.86", zorder=1)
    value = best.value[order, column]
    if null.method != best.method:
        ax.scatter(null.effect[order, column], place, s=60, marker="|", c="0.45", zorder=2)
    stands, tint = null.q[order, column] <= 0.05, np.array(colours(value, better))
    ax.scatter(
        value, place, s=34, edgecolors=tint, linewidths=1.3, zorder=3,
        facecolors=np.where(stands, tint, "#FFFFFF"),
    )  # fmt: skip
    ax.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    ax.set_yticks(place, named(credit.groups.names[order], credit.groups.size[order]))
    ax.set(ylim=(-0.7, len(order) - 0.3))
    ax.set_xlabel(f"effect on {plain(credit.columns[column])}\n{meaning(better)}", fontsize=9)
    entitle(ax, title, own)
    explain(ax, _handles(best.method, null, bool(better)), 2, own)
    count_in_red(ax, flagged=len(null.z) - placed.size)
    write(ax.figure, path)
    return ax.figure


def _handles(drawn: str, null: Standing, sided: bool) -> list:
    """What the legend of `bands` explains."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    compared = null.method
    like = "the best groups by chance" if null.family else "random groups like it"

    def dot(face, edge, label):
        return Line2D([], [], linestyle="", marker="o", markersize=6, markerfacecolor=face,
                      markeredgecolor=edge, label=label)  # fmt: skip

    effect = f"{drawn} effect"
    if sided:
        dots = [dot(HELPS, HELPS, f"{effect}, helps"), dot(HURTS, HURTS, f"{effect}, hurts")]
    else:
        dots = [dot(NEUTRAL, NEUTRAL, effect)]
    handles: list[object] = [*dots]
    handles.append(dot("white", NEUTRAL, "hollow: within chance (q > 0.05)"))
    handles.append(Patch(color="0.86", label=f"95 % of {like}, by {compared}"))
    if drawn != compared:
        handles.append(
            Line2D([], [], linestyle="", marker="|", markersize=8, color="0.45",
                   label=f"its {compared}, which the band is of")
        )  # fmt: skip
    return handles
