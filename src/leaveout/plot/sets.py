"""Sets that matter: a row a set, and what is said of it before and after training again."""

from collections.abc import Mapping

import numpy as np

from leaveout.analysis.sets_found import Extreme, Flips
from leaveout.plot.style import (
    LINES,
    NEUTRAL,
    Axes,
    Paths,
    count_in_red,
    cut,
    entitle,
    explain,
    need_matplotlib,
    write,
)
from leaveout.runtime.options import check_is
from leaveout.runtime.solution import Status

__all__ = ["extreme", "flips"]

_LONG = 44  # letters of a name that are shown
_MARKS = {  # colour, marker, size: the larger lie around the smaller
    "influence says": (LINES["influence"][0], "o", 100),
    "one pass by influence, retrained": (LINES["Newton"][0], "X", 75),
    "found": ("#000000", "s", 16),
    "no set of that size does more": (NEUTRAL, "|", 130),
    "no fewer do it": (NEUTRAL, "|", 130),
}


def extreme(
    found: Extreme,
    *,
    most: int = 40,
    title: str | None = None,
    ax: Axes | None = None,
    path: Paths = None,
):
    """A row a set: the share of its effect that influence and one pass by it come to.

    An axis in shares shows sets of any column beside each other; the effects themselves stand on
    the right. Where no set can do more than is proven, that limit too.

    Args:
        found: from `lo.extreme`.
        most: sets shown: those of which one pass finds the smallest shares, as `found` has them.
        title: above the plot.
        ax: matplotlib axes to draw in; default a new figure's.
        path: as in `grid`.

    Returns:
        the matplotlib figure.

    Raises:
        ValueError: where the effects of all sets are flagged.

    Example:
        >>> figure = lo.plot.extreme(lo.extreme(fit, measure, [1, 2, 3]))
        >>> len(figure.axes[0].get_yticklabels())  # a row a set
        3
    """
    check_is(found, Extreme, "what lo.extreme gave")
    good = found.status == Status.converged
    known = np.flatnonzero(good & (found.value != 0))
    if not known.size:
        raise ValueError("nothing to draw: the effects of all sets are flagged, or 0")
    share = found.one_pass / np.where(found.value == 0, np.nan, found.value)
    rows = np.sort(known[np.argsort(share[known], kind="stable")][:most])
    value = found.value[rows]
    marks = {
        "influence says": found.predicted[rows] / value,
        "one pass by influence, retrained": share[rows],
        "found": np.ones(len(rows)),
    }
    if found.upper is not None:
        marks["no set of that size does more"] = found.upper[rows] / value
    texts = [f"{each:+.4g}" for each in value]
    shown = _rows(ax, cut(found.groups.names[rows], _LONG), marks, texts, title)
    shown.axvline(1.0, color="0.6", linewidth=0.8, zorder=0)
    left, right = shown.get_xlim()
    shown.set_xlim(min(0.0, left), max(1.05, right))
    shown.xaxis.set_major_formatter(lambda part, _: f"{100 * part:.0f} %")
    more = _more(len(known) - len(rows), "sets")
    shown.set_xlabel(f"of the effect found, which stands on the right{more}", fontsize=9)
    count_in_red(shown, flagged=int(np.count_nonzero(~good)))
    write(shown.figure, path)
    return shown.figure


def flips(
    found: Flips,
    *,
    most: int = 40,
    title: str | None = None,
    ax: Axes | None = None,
    path: Paths = None,
):
    """A row a column: how many points turn it, as influence says, as found, at least as proven.

    On the right what f is now, and without the points found. A row without a circle is one of which
    influence says that no number is enough.

    Args:
        found: from `lo.flips`.
        most: columns shown, those that the fewest points turn.
        title: above the plot.
        ax: matplotlib axes to draw in; default a new figure's.
        path: as in `grid`.

    Returns:
        the matplotlib figure.

    Raises:
        ValueError: where neither the search nor influence finds points enough for any column.

    Example:
        >>> figure = lo.plot.flips(lo.flips(fit, lo.measures.parameter([0, 1]), most=6))
        >>> len(figure.axes[0].get_yticklabels())  # a row a column
        2
    """
    check_is(found, Flips, "what lo.flips gave")
    counts = {"influence says": found.influence_says, "found": found.size}
    if found.at_least is not None:
        counts["no fewer do it"] = found.at_least
    if max(found.size.max(), found.influence_says.max()) < 0:
        raise ValueError("nothing to draw: no column was turned, and influence says none would be")
    rank = np.where(found.size < 0, np.inf, found.size)
    rows = np.sort(np.argsort(rank, kind="stable")[:most])
    marks = {name: np.where(each < 0, np.nan, each)[rows] for name, each in counts.items()}
    names = cut([found.columns[j] for j in rows], _LONG)
    shown = _rows(ax, names, marks, [_turned(found, int(j)) for j in rows], title)
    many = np.nanmax(np.stack(list(marks.values())))
    shown.set_xlim(0, 1.08 * many)
    shown.xaxis.get_major_locator().set_params(integer=True)
    more = _more(len(rank) - len(rows), "columns")
    shown.set_xlabel(f"how many leave until f is past {found.threshold:g}{more}", fontsize=9)
    write(shown.figure, path)
    return shown.figure


def _turned(found: Flips, column: int) -> str:
    """What f is now, and without those that turn it; starred where that is flagged."""
    now, then = found.now[column], found.without[column]
    text = f"{now:.4g}, not turned" if np.isnan(then) else f"{now:.4g} \u2192 {then:.3g}"
    return text + "*" * bool(found.status[column])


def _more(count: int, what: str) -> str:
    """How many rows are not shown; nothing for none."""
    return f"; {count:,} more {what} are not shown" if count else ""


def _rows(ax: Axes | None, names, marks: Mapping[str, np.ndarray], texts, title: str | None):
    """The axes, with rows from top to bottom, a mark for each thing said, texts on the right."""
    need_matplotlib()
    from matplotlib.figure import Figure

    own = ax is None
    if ax is None:
        size = (8, 1.9 + 0.29 * len(names))
        ax = Figure(figsize=size, layout="constrained", dpi=110).add_subplot()
    place = np.arange(len(names))
    marks = {name: np.where(np.isfinite(each), each, np.nan) for name, each in marks.items()}
    spread = list(marks.values())
    ax.hlines(place, np.fmin.reduce(spread), np.fmax.reduce(spread), color="0.85", zorder=1)
    handles = []
    for name, values in marks.items():
        colour, marker, size = _MARKS[name]
        face = {} if marker == "|" else {"edgecolors": colour}
        options = {"s": size, "marker": marker, "zorder": 3, "label": name, **face}
        drawn = ax.scatter(values, place, color="white" if marker == "o" else colour, **options)
        handles += [drawn] if np.isfinite(values).any() else []
    ax.set_yticks(place, names)
    ax.set(ylim=(len(names) - 0.4, -0.6))
    right = ax.secondary_yaxis("right")
    right.set_yticks(place, texts, fontsize=8)
    right.tick_params(length=0)
    entitle(ax, title, own)
    explain(ax, handles, 2, own)
    return ax
