"""What every figure shares: styles, a canvas, and writing it."""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from leaveout.runtime import files
from leaveout.runtime.extras import needed

__all__ = [
    "FOUR",
    "LINES",
    "OTHER",
    "STYLE",
    "Axes",
    "Figure",
    "Paths",
    "canvas",
    "count_in_red",
    "need_matplotlib",
    "styles",
    "write",
]

#: of matplotlib, which is imported when a figure is drawn, and not before
Axes: TypeAlias = Any
Figure: TypeAlias = Any

#: where a figure is written to: a path, several, or nowhere
Paths: TypeAlias = str | os.PathLike | Sequence[str | os.PathLike] | None

#: kind: (colour, marker). Okabe and Ito's palette, which colour-blind readers tell apart, and a
#: marker of its own for every kind; in the order of the paper's legend.
STYLE = {
    "shared feature value": ("#009E73", "s"),
    "feature clustering": ("#D55E00", "D"),
    "gradient clustering": ("#CC79A7", "P"),
    "random within class": ("#F0E442", "^"),
    "random": ("#000000", "o"),
    "positive tail": ("#0072B2", ">"),
    "negative tail": ("#E69F00", "<"),
}
FOUR = (("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "s"), ("#000000", "D"))
LINES = {
    "influence": ("#D55E00", "--", None),
    "Newton": ("#0072B2", "-", None),
    "actual": ("#000000", "-", "s"),
}
OTHER = (("#56B4E9", "v"), ("#999999", "X"), ("#117733", "p"), ("#882255", "h"), ("#332288", "d"))


def need_matplotlib():
    """Matplotlib, or one sentence on how to install it."""
    with needed("a figure"):
        import matplotlib
    return matplotlib


def styles(kinds) -> dict[str, tuple[str, str]]:
    """A style for each kind, no two alike while there are five unknown ones or fewer.

    Args:
        kinds: names of sorts of groups.

    Returns:
        name to colour and marker.

    Example:
        >>> lo.plot.styles(["random"])
        {'random': ('#000000', 'o')}
    """
    unknown = sorted(set(kinds) - set(STYLE))
    known = {kind: style for kind, style in STYLE.items() if kind in kinds}
    return known | {kind: OTHER[i % len(OTHER)] for i, kind in enumerate(unknown)}


def canvas(down: int, across: int):
    """A figure with room for square panels, and its axes (down across).

    Args:
        down: rows of panels.
        across: columns of panels.

    Returns:
        the matplotlib figure, and an array of its axes.

    Example:
        >>> figure, axes = lo.plot.canvas(1, 2)
        >>> axes.shape
        (1, 2)
    """
    need_matplotlib()
    from matplotlib import figure as drawn

    figure = drawn.Figure(figsize=(3.9 * across, 4.1 * down), layout="constrained", dpi=110)
    return figure, figure.subplots(down, across, squeeze=False)


def count_in_red(ax: Axes, **counts: int) -> None:
    """Say in a corner how many groups are not seen: "3 hidden, 1 flagged"; nothing for none."""
    words = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    if words:
        ax.text(0.98, 0.02, words, color="red", ha="right", transform=ax.transAxes)


def write(figure: Figure, path: Paths) -> None:
    """Write a figure.

    Args:
        figure: of matplotlib.
        path: where to, or several paths, each whole or not at all; the format goes by the suffix,
            matplotlib's own without one. Nowhere if None.

    Example:
        >>> figure, axes = lo.plot.canvas(1, 1)
        >>> lo.plot.write(figure, "figure.png")
    """
    if path is None:
        return
    for each in path if isinstance(path, list | tuple) else [path]:
        if isinstance(each, str | os.PathLike):
            kind = os.path.splitext(each)[1][1:] or need_matplotlib().rcParams["savefig.format"]
            whole = each if os.path.splitext(each)[1] else f"{os.fspath(each)}.{kind}"
            files.write(whole, lambda file, kind=kind: figure.savefig(file, format=kind))
        else:
            figure.savefig(each)
