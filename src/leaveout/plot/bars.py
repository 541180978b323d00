"""What groups are worth: a bar a group."""

import numpy as np

from leaveout.analysis.values import Values
from leaveout.plot.style import LINES, Axes, Paths, need_matplotlib, write
from leaveout.runtime.options import check_is

__all__ = ["values"]

_WIDE = 1.96  # standard errors to each side: 95 %


def values(
    found: Values,
    *,
    column: int | str = 0,
    most: int = 30,
    ax: Axes | None = None,
    title: str | None = None,
    path: Paths = None,
):
    """A bar a group, the largest value on top; beside it what the group adds alone, and last.

    Lines through the ends of bars are 95 % intervals, where values were sampled. The sign is
    f(with) - f(without): of a loss, bars to the left are of groups that help.

    Args:
        found: from `lo.value`.
        column: position or name of the column shown.
        most: groups shown, those of the largest sizes of value.
        ax: matplotlib axes to draw in; default a new figure's.
        title: above the bars.
        path: as in `grid`.

    Returns:
        the axes.

    Raises:
        ValueError: for the name of a column that is not there.

    Example:
        >>> axes = lo.plot.values(lo.value(fit, groups, measure))
        >>> axes.get_xlabel()
        'added to mean of loss'
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    check_is(found, Values, "what lo.value gave")
    j = found.at(column)
    large = np.sort(np.argsort(-np.abs(found.value[:, j]), kind="stable")[:most])
    rows = large[np.argsort(found.value[large, j], kind="stable")]
    if ax is None:
        size = (6.5, 1.3 + 0.27 * rows.size)
        ax = Figure(figsize=size, layout="constrained", dpi=110).add_subplot()
    place = np.arange(rows.size)
    error = None if found.exact else _WIDE * found.error[rows, j]
    ax.barh(
        place, found.value[rows, j], xerr=error, color=LINES["Newton"][0], alpha=0.75, height=0.7,
        error_kw={"ecolor": "black", "elinewidth": 1.0, "capsize": 2.5}, label=found.of.name,
    )  # fmt: skip
    beside = (("alone", "o", found.alone), ("last", "X", found.last))
    for name, marker, values in beside:
        ax.scatter(
            values[rows, j], place, s=26, marker=marker, facecolors="white", zorder=3,
            edgecolors=LINES["influence"][0] if name == "alone" else "black", label=name,
        )  # fmt: skip
    ax.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    ax.set_yticks(place, [str(found.groups.names[i]) for i in rows])
    ax.set(xlabel=f"added to {found.columns[j]}", title=title or "", ylim=(-0.6, rows.size - 0.4))
    if rows.size < len(found.groups):
        rest = len(found.groups) - rows.size
        ax.text(0.99, 0.01, f"{rest:,} groups not shown", ha="right", transform=ax.transAxes)
    if found.status[j]:
        ax.text(0.99, 0.05, "flagged", color="red", ha="right", transform=ax.transAxes)
    ax.legend(fontsize=8, framealpha=0.75, edgecolor="none")
    ax.ticklabel_format(axis="x", scilimits=(-3, 4))
    write(ax.figure, path)
    return ax
