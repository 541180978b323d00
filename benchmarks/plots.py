"""Plots of recorded results: what is in the folder, drawn beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leaveout import plot

__all__ = ["draw"]

_LABELS = {"groups": "groups", "n": "examples", "d": "features", "alpha": "share that leaves"}


def draw(folder: Path) -> list[Path]:
    """Draw what has been recorded in a folder; the paths written."""
    written = []
    drawings = {
        "accuracy_certificates": _cost,
        "accuracy_damping": _damping,
        "accuracy_leave_one_out": _leave_one_out,
        "accuracy_recipes": _recipes,
        "accuracy_rivals_concrete": _rivals,
        "accuracy_rivals_mnist_small": _rivals,
        "accuracy_sets": _sets,
        "accuracy_values": _values,
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


# ---- of networks, sets and values ----------------------------------------------------------------


def _damping(rows: list[dict]):
    """Rank correlation and slope by damping, a column a method, a line a kind of groups."""
    columns = list(dict.fromkeys((row["setup"], row["method"]) for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    names = {"tanh": "SGD", "adam": "Adam"}
    figure, axes = plot.canvas(2, len(columns))
    for column, (setup, method) in enumerate(columns):
        some = [row for row in rows if (row["setup"], row["method"]) == (setup, method)]
        own = next(row["damping"] for row in some if row["of the recipe"])
        title = f"{method}, {names[setup]}"
        for row, what in enumerate(("spearman", "slope")):
            ax = axes[row, column]
            for family in families:
                mine = [r for r in some if r["family"] == family]
                mine.sort(key=lambda r: r["damping"])
                ax.plot([r["damping"] for r in mine], [r[what] for r in mine], "o-", label=family)
            ax.axvline(own, color="0.6", linestyle=":")
            ax.set(xscale="log", title=title if row == 0 else "", xlabel="damping, of a mean loss")
            ax.set(ylabel="Spearman, this run" if row == 0 else "slope")
            ax.grid(alpha=0.3)
        axes[1, column].axhline(1.0, color="0.6", linewidth=2, zorder=0)
        axes[0, column].set(ylim=(0, 1.02))
        axes[1, column].set(yscale="log", ylim=(1e-3, 4))
    axes[0, 0].legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def _recipes(rows: list[dict]):
    """Rank correlation and slope by l2, a column a kind of groups; correlation by smoothness."""
    rows = [row for row in rows if row["measure"] == "margin"]
    families = list(dict.fromkeys(row["family"] for row in rows))
    rough = any(row["varied"] == "smoothness" for row in rows)
    figure, axes = plot.canvas(3 if rough else 2, len(families))
    for column, family in zip(axes.T, families, strict=True):
        mine = [row for row in rows if row["family"] == family]
        penalties = [row for row in mine if row["varied"] == "l2"]
        for ax, what in zip(column, ("spearman", "slope"), strict=False):
            for i, method in enumerate(dict.fromkeys(row["method"] for row in penalties)):
                line = [row for row in penalties if row["method"] == method]
                ax.plot(
                    [row["l2 / n"] for row in line], [row[what] for row in line],
                    f"{'osD^'[i]}-", label=method, markersize=5,
                )  # fmt: skip
            ax.set(xscale="log", xlabel="l2 / n", title=family if what == "spearman" else "")
            ax.set(ylabel="Spearman, this run" if what == "spearman" else what)
            ax.set(ylim=(0, 1.03) if what == "spearman" else (0, None))
            ax.grid(alpha=0.3)
        column[1].axhline(1.0, color="0.6", linewidth=2, zorder=0)
        if rough:
            _by_smoothness(column[2], [row for row in mine if row["varied"] == "smoothness"])
    axes[0, 0].legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def _by_smoothness(ax, rows: list[dict]) -> None:
    """The metagradient's rank correlation, a mark an optimiser and activation, its rate beside."""
    for i, variant in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        mine = [row for row in rows if row["variant"] == variant]
        smooth = [row["smoothness"] for row in mine]
        label = "Adam, tanh" if variant == "adam" else f"SGD, {variant}"
        ax.plot(smooth, [row["spearman"] for row in mine], "osD"[i], label=label, markersize=6)
        for row in mine:
            place = (row["smoothness"], row["spearman"])
            ax.annotate(f" {row['rate']:g}", place, fontsize=7, va="top")
    for line in (0.5, 0.9):  # refused below the one, warned of below the other
        ax.axvline(line, color="0.6", linestyle=":", linewidth=1)
    ax.set(xlabel="smoothness (rates beside)", ylabel="Spearman, metagradient", ylim=(-0.1, 1.03))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, frameon=False, loc="lower right")


def _leave_one_out(rows: list[dict]):
    """Correlation with the effects of single points, by trainings a point, a panel a truth."""
    truths = {
        "own": "start and order of their own", "moved": "start of the run, order moved up",
        "same": "start and batches of the run",
    }  # fmt: skip
    margins = [row for row in rows if row["measure"] == "margin"]
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = plot.canvas(len(names), len(truths))
    for line, name in zip(axes, names, strict=True):
        for ax, truth in zip(line, truths, strict=True):
            mine = [row for row in margins if (row["data"], row["truth"]) == (name, truth)]
            _by_trainings(ax, mine)
            ax.set(title=truths[truth], ylabel=f"{name}, Spearman over 60 points")
    figure.legend(
        *_entries(axes), fontsize=8, frameon=False, loc="outside lower center", ncols=6
    )  # fmt: skip
    return figure


def _by_trainings(ax, rows: list[dict]) -> None:
    """A line a method, its interval and the ceiling."""
    for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        line = [row for row in rows if row["method"] == method and row["spearman"] is not None]
        ax.plot(
            [row["trainings"] for row in line], [row["spearman"] for row in line],
            f"{'osD'[i]}-", label=method, markersize=5,
        )  # fmt: skip
        some = [row for row in line if row["low"] is not None]
        ax.fill_between(
            [row["trainings"] for row in some], [row["low"] for row in some],
            [row["high"] for row in some], color=f"C{i}", alpha=0.12, linewidth=0,
        )  # fmt: skip
    ceiling = {row["trainings"]: row["ceiling"] for row in rows if row["ceiling"] is not None}
    ax.plot(*zip(*sorted(ceiling.items()), strict=True), "k:", label="ceiling of noise")
    ax.axhline(0.025, color="0.7", linewidth=1, zorder=0, label="published, at most")
    ax.set(xlabel="trainings a point", ylim=(-0.2, 1.03), xticks=sorted(ceiling))
    ax.grid(alpha=0.3)


def _rivals(rows: list[dict]):
    """LDS against cost, a column a truth; filled marks are ours."""
    rows = [row for row in rows if row.get("value") is not None and "what" not in row]
    truths = list(dict.fromkeys(row["truth"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    floor = min(0.0, *(row["low"] for row in rows)) - 0.03
    figure, axes = plot.canvas(1, len(truths))
    for ax, truth in zip(axes[0], truths, strict=True):
        _by_cost(ax, [row for row in rows if row["truth"] == truth], methods)
        ax.set(title=f"{rows[0]['data']}, by {truth}", ylim=(floor, 1.03))
    figure.legend(
        *_entries(axes), fontsize=8, frameon=False, loc="outside lower center", ncols=4
    )  # fmt: skip
    return figure


def _by_cost(ax, rows: list[dict], methods: list[str]) -> None:
    """A mark a method and what was tried of its damping."""
    for i, method in enumerate(methods):
        mine = [row for row in rows if row["method"] == method]
        if mine:
            ours = mine[0]["flagged"] is not None  # no rival says how sure it is
            cost, score = [row["trainings"] for row in mine], [row["value"] for row in mine]
            ax.errorbar(
                cost, score, np.abs([[r["value"] - r[k] for r in mine] for k in ("low", "high")]),
                fmt="osDP^v*X"[i % 8], color=f"C{i % 10}", label=method, linewidth=0.8,
                markerfacecolor=f"C{i % 10}" if ours else "white",
            )  # fmt: skip
    ceilings = {row["ceiling"] for row in rows if row.get("ceiling") is not None}
    for ceiling in ceilings:
        ax.axhline(ceiling, color="k", linestyle=":", label="ceiling of noise")
    ax.set(xscale="log", xlabel="cost, in trainings", ylabel="LDS")
    ax.xaxis.set_minor_formatter(lambda *_: "")
    ax.grid(alpha=0.3)


def _entries(axes) -> tuple[list, list[str]]:
    """Handles and labels of all panels, each label once."""
    found = {}
    for ax in axes.flat:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return list(found.values()), list(found)


def _sets(rows: list[dict]):
    """Beyond one pass: sets found of a size, the fewest that flip, and what no set can do."""
    panels = {
        _beyond: [row for row in rows if row["data"] == "breast_cancer"],
        _flips: [row for row in rows if "amip_says" in row],
        _limits: [row for row in rows if "limit" in row],
    }
    panels = {draw: mine for draw, mine in panels.items() if mine}  # a smoke run has the first
    figure, axes = plot.canvas(1, len(panels))
    for ax, (draw, mine) in zip(axes[0], panels.items(), strict=True):
        draw(ax, mine)
    return figure


def _beyond(ax, rows: list[dict]) -> None:
    """Effects of sets as multiples of what one pass finds, a line a test point."""
    ways = {"influence_says": ("o", ":"), "greedy": ("s", "--"), "found": ("D", "-")}
    names = ("influence says", "greedy, one by one", "lo.extreme")
    for i, point in enumerate(dict.fromkeys(row["point"] for row in rows)):
        mine = [row for row in rows if row["point"] == point]
        for way, (marker, line) in ways.items():
            ax.plot(
                [row["size"] for row in mine], [row[way] / row["amip"] for row in mine],
                marker=marker, linestyle=line, color=f"C{i}", markersize=5, alpha=0.85,
            )  # fmt: skip
    for (marker, line), name in zip(ways.values(), names, strict=True):
        ax.plot([], [], marker=marker, linestyle=line, color="0.3", label=name)
    ax.axhline(1.0, color="0.6", linewidth=2, zorder=0)
    ax.set(
        xscale="log", yscale="log", title="breast_cancer, 4 test points",
        xlabel="points that leave", ylabel="effect / that of one pass (AMIP)",
    )  # fmt: skip
    _ticks(ax, [row["size"] for row in rows])
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _flips(ax, rows: Sequence[dict]) -> None:
    """How many points turn a sign, a line a data set."""
    names = [
        row["data"].split(", ")[-1].replace("the offer's sign", "Morocco, loans") for row in rows
    ]
    ways = {"amip_says": ("o", "influence says"), "amip": ("s", "AMIP, refitted"),
            "greedy": ("^", "greedy, one by one"), "found": ("D", "lo.flips")}  # fmt: skip
    for i, (way, (marker, label)) in enumerate(ways.items()):
        ax.plot(
            [row[way] for row in rows], range(len(rows)), marker, color=f"C{i}", label=label,
            markersize=10 - 2 * i, alpha=0.9, markerfacecolor="none" if i < 3 else f"C{i}",
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="points that turn the sign", title="who turns a result")
    _ticks(ax, (1, 5, 10, 20, 50))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _limits(ax, rows: list[dict]) -> None:
    """What was found beside what no set of that size can pass."""
    sizes = [row["size"] for row in rows]
    ax.plot(sizes, [abs(row["found"]) for row in rows], "D-", label="lo.extreme", markersize=5)
    ax.plot(sizes, [abs(row["limit"]) for row in rows], "v--", label="proven limit", markersize=5)
    ax.set(xscale="log", xlabel="points that leave", title="Morocco without pairs")
    _ticks(ax, sizes)
    ax.set(ylabel="fall of the coefficient of the offer")
    ax.legend(fontsize=8, frameon=False)
    ax.grid(alpha=0.3)


def _values(rows: list[dict]):
    """Error of Shapley's values by trainings, a panel a game."""
    rows = [row for row in rows if "antithetic_permutations" in row]
    names = list(dict.fromkeys(row["data"] for row in rows))
    ways = {"error": "lo.value", "means_of_sizes": "means of sizes alone",
            "leverage_regression": "Leverage SHAP, same coalitions",
            "antithetic_permutations": "antithetic orders (pyDVL's)"}  # fmt: skip
    figure, axes = plot.canvas(-(-len(names) // 3), min(len(names), 3))
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, names, strict=False):
        mine = [row for row in rows if row["data"] == name]
        for way, marker in zip(ways, "Dsv^", strict=True):
            ax.plot(
                [row["trainings"] for row in mine], [row[way] for row in mine], f"{marker}-",
                label=ways[way], markersize=5,
            )  # fmt: skip
        every = 2 ** mine[0]["players"]
        ax.set(xscale="log", yscale="log", title=f"{name}: {every:,} coalitions in all")
        ax.set(xlabel="coalitions trained", ylabel="RMSE / spread of the values")
        _ticks(ax, [row["trainings"] for row in mine])
        ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure


def _ticks(ax, values: Sequence[int]) -> None:
    """Ticks of a logarithmic axis where the points are, and no others."""
    some = sorted(set(values))
    ax.set_xticks(some, [f"{each:,}" for each in some])
    ax.xaxis.set_minor_formatter(lambda *_: "")
