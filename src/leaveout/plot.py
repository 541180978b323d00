"""Figures of predicted against actual effects, in the manner of the paper's."""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from leaveout.report import compare

__all__ = [
    "against",
    "bands",
    "canvas",
    "cones",
    "curves",
    "grid",
    "heat",
    "panels",
    "ranks",
    "removal",
    "scatter",
    "signs",
    "sweep",
    "write",
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
_FOUR = (("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "s"), ("#000000", "D"))
_LINES = {
    "influence": ("#D55E00", "--", None),
    "Newton": ("#0072B2", "-", None),
    "actual": ("#000000", "-", "s"),
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
    cells = [[(each, actual, column) for each in predictions.values()] for column in columns]
    return grid(cells, titles=list(predictions), path=path)


def grid(
    cells: Any,
    *,
    titles: Any = None,
    rows: Any = None,
    zoom: bool = False,
    path: Any = None,
):
    """`scatter` panels in rows and columns, with one legend.

    Groups whose solve failed in either are left out. A cell that is None stays empty; the first of
    them hosts the legend.

    Args:
        cells: rows of (predicted, actual, column) or None.
        titles: above each column.
        rows: beside each row, instead of the methods' names.
        zoom: cut the limits where a few points would hide the others (they are counted as hidden).
        path: where to write it, or several paths; the format goes by the suffix.

    Returns:
        the matplotlib figure.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    down, across = len(cells), max(map(len, cells))
    figure = Figure(figsize=(3.3 * across + 0.4, 3.2 * down + 0.8), layout="constrained", dpi=110)
    axes = figure.subplots(down, across, squeeze=False)
    found, host = {}, None
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            ax = axes[i, j]
            if titles is not None and i == 0:
                ax.set_title(titles[j])
            if cell is None:
                ax.axis("off")
                host = ax if host is None else host
                continue
            predicted, actual, column = cell
            good = (predicted.status == 0) & (actual.status == 0)
            predicted, actual = predicted[good], actual[good]
            limits = _zoomed(predicted, actual, column) if zoom else None
            scatter(predicted, actual, column=column, ax=ax, limits=limits)
            if rows is not None:
                ax.set(xlabel="actual effect", ylabel=rows[i] if j == 0 else "")
            found |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    order = list(_styles(found))
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
    j = predicted.columns.index(column) if isinstance(column, str) else column
    values = np.concatenate([predicted.value[:, j], actual.value[:, j]])
    low, high = np.quantile(values, [0.005, 0.995])
    if high - low > 0.5 * (values.max() - values.min()):
        return None
    pad = 0.1 * (high - low)
    return float(low - pad), float(high + pad)


def write(figure: Any, path: Any) -> None:
    """Write a figure.

    Args:
        figure: of matplotlib.
        path: where to, or several paths; the format goes by the suffix. Nowhere if None.
    """
    if path is None:
        return
    for each in path if isinstance(path, list | tuple) else [path]:
        figure.savefig(each)


def sweep(
    cells: Any,
    levels: Any,
    *,
    titles: Any = None,
    rows: Any = None,
    path: Any = None,
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
    _matplotlib()
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
            drawn = []
            for level, (predicted, actual, column) in zip(exponents, series, strict=True):
                k = predicted.columns.index(column)
                good = (predicted.status == 0) & (actual.status == 0)
                x, y = actual.value[good, k], predicted.value[good, k]
                drawn.append(np.concatenate([x, y]))
                ax.scatter(x, y, s=6, color=colours(norm(level)), linewidths=0)
            values = np.concatenate(drawn)
            low, high = values.min(), values.max()
            # strong penalties have small effects: linear near 0, logarithmic further out
            bend = float(np.quantile(np.abs(values), 0.2)) or 1.0
            for scale in (ax.set_xscale, ax.set_yscale):
                scale("symlog", linthresh=bend)
            ax.plot([low, high], [low, high], color="0.6", linewidth=2, alpha=0.8, zorder=0)
            ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(_decades(bend, low, high))
            ax.set_xlabel("actual effect")
            if j == 0:
                ax.set_ylabel(series[0][0].method if rows is None else rows[i])
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, ticks=exponents, shrink=0.6)
    bar.set_label("log10 of l2 / n")
    write(figure, path)
    return figure


def _decades(bend, low, high):
    """At most two ticks on either side of 0, at powers of ten that leave room for both."""
    from matplotlib.ticker import FixedLocator

    ticks = [0.0]
    for end in (low, high):
        top = int(np.floor(np.log10(max(abs(end), bend))))
        bottom = int(np.ceil(np.log10(bend)))
        middle = (top + bottom + 1) // 2
        shown = {top, middle} if top - middle > 1 else {top}
        ticks += [np.sign(end) * 10.0**k for k in shown if k >= bottom]
    return FixedLocator(sorted(set(ticks)))


def curves(rows: Any, levels: Any, *, titles: Any, path: Any = None):
    """Spearman against l2 / n: a panel for each measure, a line for each series.

    Args:
        rows: for each panel, series name to values (NaN where there is none), one a level.
        levels: l2 / n.
        titles: above each panel.
        path: as in `grid`.

    Returns:
        the matplotlib figure.
    """
    _matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(rows) + 0.4, 3.8), layout="constrained", dpi=110)
    axes = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    known = list(_STYLE.values())
    for ax, series, title in zip(axes, rows, titles, strict=True):
        for i, (name, values) in enumerate(series.items()):
            colour, marker = known[(4, 5, 1, 2, 0)[i % 5]] if i < 5 else _OTHER[i % len(_OTHER)]
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


def canvas(down: int, across: int):
    """A figure with room for square panels, and its axes (down across)."""
    _matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.9 * across, 4.1 * down), layout="constrained", dpi=110)
    return figure, figure.subplots(down, across, squeeze=False)


def signs(
    influence: Any,
    newton: Any,
    *,
    ax: Any,
    column: int = 0,
    title: str | None = None,
    cone: float | None = None,
    also: tuple[str, Any, Any] | None = None,
    close: bool = False,
) -> None:
    """The panel of the paper's figure 3: a point a group, Newton's effect against influence.

    The thick grey line is y = x, the thin ones cross at the origin. Groups of one kind of which
    influence has the other sign stand out, in shaded quadrants; several kinds have a style each.

    Args:
        influence: `Effects`, for the y axis.
        newton: `Effects` of the same groups, for the x axis.
        ax: matplotlib axes to draw in.
        column: of the effects.
        title: above the panel.
        cone: slope of the edge of a cone below y = x, which is then shaded.
        also: a name, and `Effects` of the same groups for other points (x, then y), drawn as
            crosses.
        close: y limits of its own, for influences that are nearly alike.
    """
    x, y, kind = newton.value[:, column], influence.value[:, column], influence.groups.kind
    pairs = [(x, y)] if also is None else [(x, y), tuple(e.value[:, column] for e in also[1:])]
    values = np.concatenate([part for pair in pairs for part in pair])
    pad = 0.06 * (values.max() - values.min())
    low, high = float(values.min() - pad), float(values.max() + pad)
    parts = {name: kind == name for name in dict.fromkeys(kind.tolist())}
    if len(parts) == 1:
        same = np.sign(x) == np.sign(y)
        parts = {"Newton" if same.all() else "same sign": same, "opposite signs": ~same}
        ax.fill_between([low, 0], 0, high, color="0.95", linewidth=0, zorder=-1)
        ax.fill_between([0, high], low, 0, color="0.95", linewidth=0, zorder=-1)
    if cone is not None:
        ends = np.array([low, high])
        ax.fill_between(ends, ends, cone * ends, color="0.93", linewidth=0, zorder=-1)
    ax.plot([low, high], [low, high], color="0.6", linewidth=2, alpha=0.8, zorder=0)
    for line in (ax.axhline, ax.axvline):
        line(0, color="0.6", linewidth=0.8, zorder=0)
    for i, (name, mine) in enumerate(parts.items()):
        colour, marker = _FOUR[i % len(_FOUR)]
        if mine.any():
            ax.scatter(
                x[mine], y[mine], s=28, c=colour, marker=marker, label=name, alpha=0.85,
                linewidths=0.3, edgecolors="white", zorder=2,
            )  # fmt: skip
    if also is not None:
        ax.scatter(*pairs[1], s=24, c="0.25", marker="x", linewidths=0.9, label=also[0], zorder=1)
    ax.set(xlim=(low, high), title=title, xlabel="Newton's effect", ylabel="influence")
    if close:
        spare = 0.25 * (y.max() - y.min())
        ax.set(ylim=(y.min() - spare, y.max() + spare), box_aspect=1)
    else:
        ax.set(ylim=(low, high), aspect="equal")
    report = compare(influence, newton, resamples=0)
    words = f"Spearman {report.spearman[column]:.3f}\n"
    words += f"opposite signs {1 - report.sign_agreement[column]:.0%}"
    ax.text(
        0.03, 0.97, words, va="top", transform=ax.transAxes, fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    ax.locator_params(nbins=5)
    if len(ax.get_legend_handles_labels()[0]) > 1:
        place = "lower left" if close else "lower right"
        ax.legend(loc=place, fontsize=8, framealpha=0.75, edgecolor="none")


def removal(shares: Any, series: Any, *, ax: Any, title: str | None = None, faint=False) -> None:
    """Effects as a group leaves by and by.

    Args:
        shares: (t) from 0, nothing has left, to 1.
        series: name to effects (t), of "influence", "Newton" and "actual".
        ax: matplotlib axes to draw in.
        title: above the panel.
        faint: whether to draw lines that stand behind others, unnamed.
    """
    for name, effects in series.items():
        colour, line, marker = _LINES[name]
        label, alpha = (None, 0.4) if faint else (name, 1.0)
        ax.plot(
            shares, effects, line, color=colour, marker=marker, markersize=4, label=label,
            alpha=alpha,
        )  # fmt: skip
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set(title=title, xlabel="share of the group that has left", ylabel="effect", box_aspect=1)
    ax.locator_params(nbins=5)
    ax.legend(loc="upper left", fontsize=8, frameon=False)


def against(
    x: Any,
    y: Any,
    *,
    ax: Any,
    kinds: Any = None,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    hide: int = 0,
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
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    kinds = np.full(x.size, "") if kinds is None else np.asarray(kinds)
    words = []
    for i, kind in enumerate(np.unique(kinds)):
        mine = kinds == kind
        colour, marker = _FOUR[i % len(_FOUR)]
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
        ax.text(0.98, 0.02, f"{hide:,} hidden", color="red", ha="right", transform=ax.transAxes)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, box_aspect=1)
    ax.text(
        0.03, 0.97, "\n".join(words), va="top", transform=ax.transAxes, fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    ax.locator_params(nbins=5)
    if len(np.unique(kinds)) > 1:
        ax.legend(loc="best", fontsize=8, framealpha=0.75, edgecolor="none")


def heat(values: Any, rows: Any, columns: Any, *, title: str | None = None, path: Any = None):
    """Effects of groups on several measures as colours, groups of like effects side by side.

    The groups are ordered by average linkage of their rows, each divided by its length. Colours end
    where 98 % of the effects do.

    Args:
        values: (g m).
        rows: (g) names of the groups, shown below the map where they are 40 or fewer.
        columns: (m) names of the measures, beside it.
        title: above the map.
        path: as in `grid`.

    Returns:
        the matplotlib figure.
    """
    _matplotlib()
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import leaves_list, linkage

    values, rows = np.asarray(values, float), np.asarray(rows)
    order = np.arange(len(values))
    if len(values) > 2:
        length = np.linalg.norm(values, axis=1, keepdims=True)
        order = leaves_list(linkage(values / np.where(length > 0, length, 1.0), "average"))
    limit = float(np.quantile(np.abs(values), 0.98)) or 1.0
    named = len(values) <= 40
    figure = Figure(
        figsize=(min(2.5 + 0.32 * len(values), 11), 1.6 + 0.3 * len(columns) + 1.2 * named),
        layout="constrained", dpi=110,
    )  # fmt: skip
    ax = figure.add_subplot()
    image = ax.imshow(
        values[order].T, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", rasterized=True
    )
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


def bands(credit: Any, column: int = 0, *, most: int = 30, ax: Any = None, path: Any = None):
    """Each group's effect beside the middle 95 % of random groups of its size and class balance.

    Filled where it stands out after Benjamini and Hochberg at 5 %.

    Args:
        credit: from `lo.credit`, with a null band.
        column: which column.
        most: groups shown, those of the largest |z|.
        ax: matplotlib axes to draw in; default a new figure's.
        path: as in `grid`.

    Returns:
        the matplotlib figure.
    """
    _matplotlib()
    null = credit.null
    if null is None or not np.isfinite(null.effect[:, column]).all():
        raise ValueError(f"{credit.columns[column]} was not compared with random groups")
    order = np.argsort(-np.abs(null.z[:, column]), kind="stable")[:most][::-1]
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
    colour = _FOUR[0][0]
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
    write(ax.figure, path)
    return ax.figure


def cones(
    influence: Any, newton: Any, actual: Any, lower: Any, upper: Any, whole: float, *, ax: Any,
    title: str | None = None,
) -> None:  # fmt: skip
    """Effects on the groups' own loss over influence's, each group in its cone.

    Args:
        influence: (g), for the x axis, logarithmic.
        newton: (g) Newton's, to second order in the change: inside the cones.
        actual: (g) retraining's.
        lower: (g) lower edge of the group's own cone, a multiple of influence.
        upper: (g) upper edge.
        whole: upper edge of everybody's cone; its lower edge is 1.
        ax: matplotlib axes to draw in.
        title: above the panel.
    """
    shown = np.asarray(influence) > 0
    x, newton, actual = (np.asarray(part)[shown] for part in (influence, newton, actual))
    lower, upper = np.asarray(lower)[shown], np.asarray(upper)[shown]
    ax.vlines(
        x, lower, np.minimum(upper, 1e6), color="0.8", linewidth=1.2, label="own cone", zorder=0
    )
    ax.scatter(x, newton / x, s=7, c="#0072B2", linewidths=0, label="Newton", zorder=2)
    ax.scatter(
        x, actual / x, s=9, c="#D55E00", marker="x", linewidths=0.6, label="actual", zorder=1
    )
    ax.axhline(1, color="0.4", linewidth=1, label="influence")
    edge = f"{whole:.3g}" if np.isfinite(whole) else "infinity"
    ax.text(
        0.03, 0.97, f"the paper's cone: 1 to {edge}", va="top", transform=ax.transAxes, fontsize=9
    )
    ax.set(
        xscale="log", yscale="log", title=title, xlabel="influence on self-loss",
        ylabel="effect / influence", box_aspect=1,
    )  # fmt: skip
    ax.legend(loc="center left", fontsize=8, framealpha=0.75, edgecolor="none")


def ranks(series: Any, *, ax: Any, xlabel: str, ylabel: str) -> None:
    """Curves of a rank correlation against a scale: name to (x, values)."""
    for (name, (x, values)), (colour, marker) in zip(series.items(), _FOUR, strict=False):
        ax.plot(x, values, color=colour, marker=marker, markersize=5, label=name)
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel, box_aspect=1)
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right", fontsize=8, frameon=False)
