"""Forest plots: what is estimated without each group, or what each group does, row by row."""

import dataclasses

import numpy as np

from leaveout.analysis.confidence import Confidence
from leaveout.analysis.credit import Credit
from leaveout.plot.style import (
    HURTS,
    NEUTRAL,
    Axes,
    Paths,
    colours,
    count_in_red,
    entitle,
    explain,
    meaning,
    named,
    need_matplotlib,
    plain,
    write,
)
from leaveout.runtime.options import check_is

__all__ = ["forest"]

_ALL = "#000000"


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """What a forest plot shows, a row a group.

    Attributes:
        value: (g) where the marks are.
        low: (g) lower ends of the intervals, or None.
        high: (g) their upper ends.
        band: (g) ends of what random groups do, or None.
        names: (g) of the groups, with their sizes.
        size: (g) points of each.
        tint: (g) colours.
        lost: how many groups are not drawn, their effects being flagged.
    """

    value: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    band: tuple[np.ndarray, np.ndarray] | None
    names: list[str]
    size: np.ndarray
    tint: list[str]
    lost: int

    def some(self, rows: np.ndarray) -> "_Rows":
        """Some of the rows, in this order."""
        ends = {
            name: None if (part := getattr(self, name)) is None else part[rows]
            for name in ("low", "high")
        }
        return dataclasses.replace(
            self,
            value=self.value[rows],
            band=None if self.band is None else (self.band[0][rows], self.band[1][rows]),
            names=[self.names[i] for i in rows],
            size=self.size[rows],
            tint=[self.tint[i] for i in rows],
            **ends,
        )


def forest(
    found: Confidence | Credit,
    column: int | str = 0,
    *,
    most: int = 40,
    title: str | None = None,
    ax: Axes | None = None,
    path: Paths = None,
):
    """A row a group: what is estimated without it, how sure that is, and whether it is chance.

    Of a `Confidence`: the estimate on all data with its confidence interval (first row, a diamond),
    and without each cluster; bars are confidence intervals (statistical) from the clusters that are
    left, in orange where they say otherwise of "no effect" (the thin line) than all clusters do. A
    ratio has a logarithmic axis.

    Of a `Credit`: what each group does; bars are certified intervals (numerical) where the effects
    were certified.

    Squares are as large as the groups; grey bands are what random groups of their sizes do.

    Args:
        found: from `lo.confidence` or `lo.credit`.
        column: which column, by position or name.
        most: groups shown, those of the largest effects.
        title: above the plot.
        ax: matplotlib axes to draw in; default a new figure's.
        path: as in `grid`.

    Returns:
        the matplotlib figure.

    Raises:
        ValueError: where all effects on the column are flagged, or for the name of one that is not
            there.

    Example:
        >>> found = lo.credit(fit, groups, measure, null=20)
        >>> figure = lo.plot.forest(found, "mean of loss", title="What each ward does")
        >>> len(figure.axes[0].get_yticklabels())  # a row a group
        4
    """
    need_matplotlib()
    check_is(found, Confidence | Credit, "what lo.confidence or lo.credit gave")
    whole = isinstance(found, Confidence)
    credit = found.credits[0] if whole else found
    j = credit.at(column)
    rows = _without(found, j) if whole else _effects(found, j)
    order, best = np.argsort(rows.value, kind="stable"), credit.best
    large = np.argsort(-np.abs(best.value[:, j]), kind="stable")[:most]
    good = (best.column_status[:, j] == 0) & np.isin(np.arange(len(order)), large)
    shown = rows.some(order[good[order]])
    if not len(shown.value):
        raise ValueError(f"nothing to draw: all effects on {credit.columns[j]} are flagged")
    own = ax is None
    if ax is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 2.1 + 0.29 * len(shown.value)), layout="constrained", dpi=110)
        ax = figure.add_subplot()
    _draw(ax, shown)
    texts = _estimate(ax, found, j, len(shown.value)) if whole else _zero(ax)
    name, better = plain(credit.columns[j]), best.better[j]
    kind = ", ".join(np.unique(credit.groups.kind).astype(str))
    label, sides = f"effect on {name}", meaning(better, f"the {kind}")
    if whole:
        label = f"{name}, without the {kind}"
        sides = "\u2190 lower than with all (dashed)   |   higher than with all (dashed) \u2192"
    ax.set_xlabel(f"{label}\n{sides}", fontsize=9)
    entitle(ax, title, own)
    _numbers(ax, shown, texts)
    count_in_red(ax, flagged=rows.lost)
    explain(ax, _handles(shown, found), 1, own)
    write(ax.figure, path)
    return ax.figure


def _without(found: Confidence, j: int) -> _Rows:
    """What is estimated without each cluster."""
    low = None if found.without_low is None else found.without_low[:, j]
    high = None if found.without_high is None else found.without_high[:, j]
    none = 1.0 if found.ratio[j] else 0.0
    tint = [NEUTRAL] * len(found.groups)
    if low is not None and high is not None:
        sure = found.low[j] > none or found.high[j] < none
        turned = ((low > none) | (high < none)) != sure
        known = np.isfinite(low) & np.isfinite(high)
        tint = [HURTS if other else NEUTRAL for other in turned & known]
    band = found.band()
    ends = None if band is None else (band[0][:, j], band[1][:, j])
    return _rows(found.credits[0], j, found.without[:, j], low, high, ends, tint)


def _effects(found: Credit, j: int) -> _Rows:
    """What each group does."""
    best, null = found.best, found.null
    low = None if best.lower is None else best.lower[:, j]
    high = None if best.upper is None else best.upper[:, j]
    ends = None if null is None else (null.low[:, j], null.high[:, j])
    tint = colours(best.value[:, j], best.better[j])
    return _rows(found, j, best.value[:, j], low, high, ends, tint)


def _rows(credit: Credit, j: int, value, low, high, band, tint) -> _Rows:
    groups = credit.groups
    lost = int(np.count_nonzero(credit.best.column_status[:, j]))
    return _Rows(value, low, high, band, named(groups.names, groups.size), groups.size, tint, lost)


def _draw(ax: Axes, rows: _Rows) -> None:
    """Bands, intervals and squares."""
    place = np.arange(len(rows.value))
    if rows.band is not None:
        low, high = rows.band
        ax.barh(place, high - low, left=low, height=0.62, color="0.88", zorder=1)
    if rows.low is not None and rows.high is not None:
        ax.hlines(place, rows.low, rows.high, colors=rows.tint, linewidth=1.4, zorder=2)
    area = 25 + 120 * rows.size / rows.size.max()
    ax.scatter(rows.value, place, s=area, marker="s", c=rows.tint, zorder=3)
    ax.set(ylim=(-0.8, len(place) - 0.2))
    ax.set_yticks(place, rows.names)


def _estimate(ax: Axes, found: Confidence, j: int, above: int) -> list[str]:
    """The row of all data, the line of no effect, and the scale; the numbers of that row."""
    value, low, high = found.estimate[j], found.low[j], found.high[j]
    if found.ratio[j]:
        from matplotlib.ticker import FuncFormatter, LogLocator

        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_locator(LogLocator(subs=()))
    ax.axvline(1.0 if found.ratio[j] else 0.0, color="0.4", linewidth=0.8, zorder=0)
    ax.axvline(value, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    ax.fill([low, value, high, value], [above, above + 0.28, above, above - 0.28], color=_ALL)
    ax.set_yticks([*ax.get_yticks(), above], [*_labels(ax), f"all {len(found.groups):,} together"])
    ax.set(ylim=(-0.8, above + 0.8))
    return [_number(value, low, high)]


def _labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def _zero(ax: Axes) -> list[str]:
    """The line of no effect; there is no row of all data."""
    ax.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    return []


def _numbers(ax: Axes, rows: _Rows, last: list[str]) -> None:
    """Each row's numbers, right of the axes."""
    right = ax.secondary_yaxis("right")
    if rows.low is None or rows.high is None:
        texts = [_number(value) for value in rows.value]
    else:
        ends = zip(rows.value, rows.low, rows.high, strict=True)
        texts = [_number(f) if np.isnan(a) else _number(f, a, b) for f, a, b in ends]
    right.set_yticks(ax.get_yticks(), [*texts, *last], fontsize=8)
    right.tick_params(length=0)


def _number(value: float, *ends: float) -> str:
    """A number with its interval: three digits each, zeros at the end kept, as in a column."""
    first, *rest = (f"{each:#.3g}".rstrip(".") for each in (value, *ends))
    return f"{first} [{', '.join(rest)}]" if rest else first


def _handles(rows: _Rows, found: Confidence | Credit) -> list:
    """What the legend explains."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = []
    if isinstance(found, Confidence):
        per = f"{100 * found.level:g} % confidence interval"
        handles.append(
            Line2D([], [], color=_ALL, marker="D", linestyle="", label=f"all data, with its {per}")
        )
        square = "without the group" + ("" if rows.low is None else f", with the {per} of the rest")
        handles.append(Line2D([], [], color=NEUTRAL, marker="s", label=square))
        if HURTS in rows.tint:
            other = "the interval says otherwise of no effect than that of all data"
            handles.append(Line2D([], [], color=HURTS, marker="s", label=other))
    else:
        square = f"{found.best.method} effect"
        square += "" if rows.low is None else ", with its certified interval (numerical)"
        handles.append(Line2D([], [], color=NEUTRAL, marker="s", label=square))
    if rows.band is not None:
        handles.append(Patch(color="0.88", label="95 % of random groups of its size"))
    return handles
