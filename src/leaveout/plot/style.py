"""What every figure shares: styles, a canvas, words for its axes, and writing it."""

import os
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

from leaveout.runtime import files
from leaveout.runtime.extras import needed

__all__ = [
    "FOUR",
    "HELPS",
    "HURTS",
    "LINES",
    "NEUTRAL",
    "OTHER",
    "STYLE",
    "Axes",
    "Figure",
    "Paths",
    "canvas",
    "colours",
    "count_in_red",
    "cut",
    "entitle",
    "explain",
    "meaning",
    "named",
    "need_matplotlib",
    "plain",
    "styles",
    "wrapped",
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
#: groups without which the model is worse, or better, or of which that is not known
HELPS, HURTS, NEUTRAL = "#0072B2", "#D55E00", "#555555"
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


def meaning(better: int, what: str = "the group") -> str:
    """What lies left and right of zero on an axis of effects, f(without) - f(with).

    Args:
        better: 1 where more of f is better, -1 where less is, 0 where that is not known.
        what: leaves.
    """
    if not better:
        return f"\u2190 lower without {what}   |   higher without {what} \u2192"
    left, right = ("better", "worse") if better < 0 else ("worse", "better")
    return f"\u2190 {left} without {what}   |   {right} without {what} \u2192"


def colours(values, better: int) -> list[str]:
    """A colour for each effect: of what helps, of what hurts, or of what is neither."""
    if not better:
        return [NEUTRAL] * len(values)
    return [HURTS if better * value > 0 else HELPS for value in values]


def plain(text: object) -> str:
    """Text as it stands: a dollar begins no formula."""
    return str(text).replace("$", r"\$")


def cut(names, most: int = 28) -> list[str]:
    """Names, those that are long cut short."""
    short = [name if len(name) <= most else f"{name[: most - 1]}\u2026" for name in map(str, names)]
    return [plain(name) for name in short]


def named(names, sizes) -> list[str]:
    """What rows of groups are called: a name, cut short where it is long, and a size."""
    return [f"{name} ({size:,})" for name, size in zip(cut(names), sizes, strict=True)]


def entitle(ax: Axes, title: str | None, own: bool) -> None:
    """A title, in lines: over the whole figure if that is the axes' own, else over the axes."""
    if title and own:
        ax.figure.suptitle(wrapped(title, int(11 * ax.figure.get_figwidth())), fontsize=12)
    elif title:
        ax.set_title(wrapped(title, 40))


def explain(ax: Axes, handles: list, columns: int, own: bool) -> None:
    """A legend below the axes, where it lies over nothing."""
    options = {"handles": handles, "ncols": columns, "fontsize": 8, "frameon": False}
    if own:
        ax.figure.legend(loc="outside lower center", **options)
    else:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), **options)


def wrapped(title: str | None, width: int) -> str | None:
    """A title in lines of so many letters."""
    return None if title is None else "\n".join(textwrap.wrap(plain(title), width))


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

    Returns:
        nothing.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: for a suffix that matplotlib does not know.

    Example:
        >>> figure, axes = lo.plot.canvas(1, 1)
        >>> lo.plot.write(figure, "figure.png")
    """
    if path is None:
        return
    with warnings.catch_warnings():  # of letters that the font lacks; PDF and PNG show a box
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        _write(figure, path)


def _write(figure: Figure, path: Paths) -> None:
    for each in path if isinstance(path, list | tuple) else [path]:
        if isinstance(each, str | os.PathLike):
            kind = os.path.splitext(each)[1][1:] or need_matplotlib().rcParams["savefig.format"]
            whole = each if os.path.splitext(each)[1] else f"{os.fspath(each)}.{kind}"
            files.write(whole, lambda file, kind=kind: figure.savefig(file, format=kind))
        else:
            figure.savefig(each)
