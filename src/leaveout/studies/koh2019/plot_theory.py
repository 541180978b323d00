"""Where influence goes wrong, and what bounds it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from leaveout.analysis.compare import compare
from leaveout.attribution.container import Effects
from leaveout.plot import FOUR, LINES, Axes

__all__ = ["cones", "removal", "signs"]


def signs(
    influence: Effects,
    newton: Effects,
    *,
    ax: Axes,
    column: int = 0,
    title: str | None = None,
    cone: float | None = None,
    also: tuple[str, Effects, Effects] | None = None,
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
    _cross(ax, low, high)
    _points(ax, x, y, parts)
    if also is not None:
        ax.scatter(*pairs[1], s=24, c="0.25", marker="x", linewidths=0.9, label=also[0], zorder=1)
    ax.set(xlim=(low, high), title=title, xlabel="Newton's effect", ylabel="influence")
    if close:
        spare = 0.25 * (y.max() - y.min())
        ax.set(ylim=(y.min() - spare, y.max() + spare), box_aspect=1)
    else:
        ax.set(ylim=(low, high), aspect="equal")
    report = compare(influence, newton, resamples=0)
    _agreement(ax, float(report.spearman[column]), float(report.sign_agreement[column]))
    if len(ax.get_legend_handles_labels()[0]) > 1:
        place = "lower left" if close else "lower right"
        ax.legend(loc=place, fontsize=8, framealpha=0.75, edgecolor="none")


def _cross(ax: Axes, low: float, high: float) -> None:
    """The line y = x, and those through the origin."""
    ax.plot([low, high], [low, high], color="0.6", linewidth=2, alpha=0.8, zorder=0)
    for line in (ax.axhline, ax.axvline):
        line(0, color="0.6", linewidth=0.8, zorder=0)


def _points(ax: Axes, x: np.ndarray, y: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
    """A point a group, each part in a style of its own."""
    for i, (name, mine) in enumerate(parts.items()):
        colour, marker = FOUR[i % len(FOUR)]
        if mine.any():
            ax.scatter(
                x[mine], y[mine], s=28, c=colour, marker=marker, label=name, alpha=0.85,
                linewidths=0.3, edgecolors="white", zorder=2,
            )  # fmt: skip


def _agreement(ax: Axes, spearman: float, signs: float) -> None:
    """How well order and signs agree, in a corner."""
    ax.text(
        0.03, 0.97, f"Spearman {spearman:.3f}\nopposite signs {1 - signs:.0%}", va="top",
        transform=ax.transAxes, fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
    ax.locator_params(nbins=5)


def removal(
    shares: ArrayLike | Sequence[float],
    series: Mapping[str, ArrayLike | Sequence[float]],
    *,
    ax: Axes,
    title: str | None = None,
    faint: bool = False,
) -> None:
    """Effects as a group leaves by and by.

    Args:
        shares: (t) from 0, nothing has left, to 1.
        series: name to effects (t), of "influence", "Newton" and "actual".
        ax: matplotlib axes to draw in.
        title: above the panel.
        faint: whether to draw lines that stand behind others, unnamed.
    """
    for name, effects in series.items():
        colour, line, marker = LINES[name]
        label, alpha = (None, 0.4) if faint else (name, 1.0)
        ax.plot(
            shares, effects, line, color=colour, marker=marker, markersize=4, label=label,
            alpha=alpha,
        )  # fmt: skip
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.set(title=title, xlabel="share of the group that has left", ylabel="effect", box_aspect=1)
    ax.locator_params(nbins=5)
    ax.legend(loc="upper left", fontsize=8, frameon=False)


def cones(
    influence: ArrayLike,
    newton: ArrayLike,
    actual: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    whole: float,
    *,
    ax: Axes,
    title: str | None = None,
) -> None:
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
