"""Plots of recorded results: what is in the folder, drawn beside it."""

import json
from pathlib import Path

from leaveout import plot

__all__ = ["draw"]

_LABELS = {"groups": "groups", "n": "examples", "d": "features", "alpha": "share that leaves"}


def draw(folder: Path) -> list[Path]:
    """Draw what has been recorded in a folder; the paths written."""
    written = []
    drawings = {
        "accuracy_certificates": _cost,
        "speed_methods": _speed,
        "speed_scaling": _scaling,
    }
    for name, make in drawings.items():
        path = folder / f"{name}.json"
        if path.exists():
            figure = make(json.loads(path.read_text())["rows"])
            written.append(folder / f"{name}.png")
            plot.write(figure, written[-1])
    return written


def _cost(rows: list[dict]):
    """Error against time a group, a panel for each data set, a point for each method."""
    rows = [row for row in rows if "tolerance" not in row["method"]]
    names = list(dict.fromkeys(row["data"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    markers = "osDP^v*X"
    figure, axes = plot.canvas(1, len(names))
    for ax, name in zip(axes[0], names, strict=True):
        for i, method in enumerate(methods):
            mine = [row for row in rows if row["data"] == name and row["method"] == method]
            ax.scatter(
                [row["ms_a_group"] for row in mine], [row["median_error"] for row in mine], s=48,
                color=f"C{i}", marker=markers[i % len(markers)], label=method,
            )  # fmt: skip
        ax.set(
            xscale="log", yscale="log", title=name, xlabel="ms a group", box_aspect=1,
            ylabel="median error / rms effect",
        )  # fmt: skip
        ax.xaxis.set_minor_formatter(lambda *_: "")
        ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure


def _speed(rows: list[dict]):
    """Milliseconds a group of everything timed; hollow where effects missed 1e-6."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = plot.canvas(1, len(names))
    figure.set_size_inches(6.4 * len(names), 4.8)
    for ax, name in zip(axes[0], names, strict=True):
        mine = [row for row in rows if row["data"] == name and "ms_a_group" in row]
        mine.sort(key=lambda row: -row["ms_a_group"])
        place = range(len(mine))
        for i, row in zip(place, mine, strict=True):
            right = row.get("accurate", row.get("error", 0.0) <= 1e-6)
            ours = "failed" in row or "rivals are done" in row["method"]
            colour = "#0072B2" if ours else "#D55E00"
            ax.barh(
                i, row["ms_a_group"], color=colour if right else "white", edgecolor=colour,
                height=0.7,
            )  # fmt: skip
        ax.set_yticks(list(place), [row["method"] for row in mine], fontsize=7)
        ax.set(xscale="log", title=name, xlabel="ms a group (hollow: effects miss 1e-6)")
    return figure


def _scaling(rows: list[dict]):
    """Milliseconds a group against what is varied, a panel for each."""
    names = list(dict.fromkeys(row["sweep"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, axes = plot.canvas(1, len(names))
    for ax, name in zip(axes[0], names, strict=True):
        for i, method in enumerate(methods):
            mine = [row for row in rows if row["sweep"] == name and row["method"] == method]
            ax.plot(
                [row[name] for row in mine], [row["ms_a_group"] for row in mine], color=f"C{i}",
                marker="osD"[i], label=method,
            )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel=_LABELS[name], ylabel="ms a group", box_aspect=1)
        ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure
