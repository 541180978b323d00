"""The paper's figures and tables, made again: the studies they need, how they look, its numbers.

Source: Koh, Ang, Teo and Liang (2019), figures 1, 2, 3, C.1, C.2, C.4 and table 1; the correlations
printed in the notebooks released with it.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from leaveout import plot
from leaveout.analysis.compare import compare
from leaveout.attribution.verb import Effects
from leaveout.groups import Groups
from leaveout.methods.first_order import Influence
from leaveout.methods.group_newton import Newton
from leaveout.methods.retraining import Retrain
from leaveout.objectives.checks import float_type
from leaveout.studies import removal as study
from leaveout.studies.koh2019 import counterexamples
from leaveout.studies.koh2019.counterexamples import Counterexample
from leaveout.studies.removal import Configuration, Study, headline

__all__ = [
    "DATA",
    "FIGURES",
    "PUBLISHED",
    "SWEEP",
    "TABLE_1",
    "configurations",
    "figure",
    "study_of",
    "tables",
]

#: data set to its heading; in the paper's order
DATA = {
    "diabetes": "Diabetes",
    "enron": "Enron (other words)",
    "fishdog": "Fish-dog (for Dogfish)",
    "cdr": "CDR (rebuilt)",
    "mnist": "MNIST",
    "mnist_small": "MNIST-small",
}

#: figure to the data sets it shows
FIGURES = {
    "1": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
    "2": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
    "3": (),  # the counterexamples: generated, and no study
    "C.1": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
    "C.2": ("diabetes", "enron", "fishdog", "mnist_small"),
    "C.4": ("diabetes", "enron", "fishdog", "cdr", "mnist"),
}

#: l2 / n of figure C.2
SWEEP = tuple(10.0**k for k in range(-7, 3))

#: l2 / n where the data is the paper's and its choice hangs on one example (see `docs/paper.md`)
_CHOSEN = {"diabetes": 10 ** (-4 + 1 / 3)}

#: the paper's l2 / n and test accuracy (table 1)
TABLE_1 = {
    "diabetes": (2.2e-4, 0.682),
    "enron": (1e-3, 0.961),
    "fishdog": (2.2e-2, 0.985),
    "mnist": (1e-3, 0.921),
    "cdr": (1e-4, 0.674),
}

#: (method, measure) to the Spearman correlations with actual effects in the released notebooks
PUBLISHED = {
    ("influence", "test prediction"): {
        "diabetes": 0.99861,
        "enron": 0.88605,
        "fishdog": 0.97574,
        "cdr": 0.99491,
    },
    ("influence", "test loss"): {
        "diabetes": 0.99861,
        "enron": 0.88605,
        "fishdog": 0.97574,
        "cdr": 0.99491,
        "mnist": 0.99640,
    },
    ("influence", "self_loss"): {
        "diabetes": 0.99815,
        "enron": 0.88783,
        "fishdog": 0.98022,
        "cdr": 0.99247,
        "mnist": 0.99357,
    },
    ("newton", "test prediction"): {
        "diabetes": 0.99867,
        "enron": 0.99490,
        "fishdog": 0.99757,
        "cdr": 0.99125,
    },
}

_MEASURES = ("test prediction", "test loss", "self_loss")
_WORDS = {"self_loss": "self-loss"}
_METHODS = {
    "influence": "influence",
    "changed": "influence at changed theta",
    "newton": "Newton",
}


def configurations(number: str, names: Sequence[str], per_family: int = 100) -> list[Configuration]:
    """The studies that a figure needs.

    Args:
        number: of the figure.
        names: of data sets, "mnist" or "mnist:10" for another number of groups a family.
        per_family: groups a family; the paper's 100, or its 10 in figure C.2.

    Raises:
        ValueError: for a figure or data set that is not the paper's.
    """
    if number not in FIGURES:
        raise ValueError(f"unknown figure {number!r}; known: {', '.join(FIGURES)}")
    found = []
    for each in names:
        name, _, count = each.partition(":")
        if name not in DATA or not (count or "1").isdecimal():
            raise ValueError(f"figure {number} is of {', '.join(DATA)}; got {each!r}")
        size = int(count) if count else per_family
        if number == "C.2":
            found += [
                Configuration(name, min(size, 10), l2_over_n=level, methods=("influence", "actual"))
                for level in SWEEP
            ]
        else:
            found.append(Configuration(name, size, l2_over_n=_CHOSEN.get(name)))
    return found


def figure(
    number: str,
    names: Sequence[str] | None = None,
    *,
    studies: str | os.PathLike = ".",
    out: str | os.PathLike = ".",
    per_family: int = 100,
    progress: Callable | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    memory=None,
) -> list[Path]:
    """Make a figure of the paper; studies that are missing or unfinished are run first.

    Args:
        number: "1", "2", "3", "C.1", "C.2" or "C.4"; figure 3 needs float64 and no study.
        names: of data sets, as in `configurations`; default the figure's own.
        studies: folder in which the studies' folders are.
        out: folder to write to.
        per_family: groups a family.
        progress: as in `study.run`.
        say: as in `study.run`.
        memory: as in `study.run`.

    Returns:
        what was written: PNG, PDF, and the numbers as JSON.

    Raises:
        ValueError: for a figure or data set that is not the paper's.
    """
    if number == "3":
        return _counterexamples(names, Path(out))
    wanted = configurations(number, names or FIGURES.get(number, ()), per_family)
    names = list(dict.fromkeys(configuration.dataset for configuration in wanted))
    done = {c: study_of(c, Path(studies), progress, say, memory) for c in wanted}
    stem = Path(out) / f"figure_{number.replace('.', '')}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    if number == "C.2":
        paths += _sweep_figures(done, names, stem, paths)
    else:
        _scatter_figure(number, list(done.values()), names, paths)
    rows = [row for each in done.values() for row in _rows(each, 3 if number == "C.1" else 0)]
    numbers = stem.with_suffix(".json")
    numbers.write_text(json.dumps(rows, indent=1) + "\n")
    return [*paths, numbers]


# ---- figure 3 ------------------------------------------------------------------------------------

_THIRD = 2  # of the queries that the released code draws, the one that it shows
_GUARD = 1e-4
_TILT = 0.05
_SHARES = np.linspace(0, 1, 21)


def _counterexamples(names, out: Path) -> list[Path]:
    """Figure 3: the paper's panels, the released rule in two precisions, and the compact ones."""
    if names:
        raise ValueError(f"figure 3 is of generated data; got {', '.join(names)}")
    if float_type() != np.float64:
        raise ValueError(
            'figure 3 compares float32 with float64; call jax.config.update("jax_enable_x64", True)'
        )
    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plot.canvas(2, 3)
    rows = [
        _honest(axes[0, 0]),
        _copies(axes[0, 1]),
        _reversed(axes[0, 2]),
        *_literal(axes[1, 0], axes[1, 1]),
        *_blind(axes[1, 2]),
    ]
    paths = [out / f"figure_3{suffix}" for suffix in (".png", ".pdf")]
    plot.write(figure, paths)
    numbers = out / "figure_3.json"
    numbers.write_text(json.dumps(rows, indent=1) + "\n")
    return [*paths, numbers]


def _pair(example: Counterexample) -> tuple[Effects, Effects]:
    return example.effects(Influence()), example.effects(Newton(linearised=True))


def _facts(panel: str, first: Effects, second: Effects, column: int = 0) -> dict[str, Any]:
    """A row of figure_3.json: influence against Newton at one query."""
    report = compare(first, second, resamples=0)
    one, other = first.value[:, column], second.value[:, column]
    return {
        "panel": panel,
        "groups": len(one),
        "spearman": float(report.spearman[column]),
        "pearson": float(report.pearson[column]),
        "opposite_signs": float(np.mean(np.sign(one) != np.sign(other))),
        "influence": [float(one.min()), float(one.max())],
        "newton": [float(other.min()), float(other.max())],
    }


def _queries(example: Counterexample, first: Effects, second: Effects) -> dict[str, Any]:
    """What holds for all the queries that were drawn for pairs of gauss4."""
    ranks = compare(first, second, resamples=0).spearman
    return {
        "queries": len(ranks),
        "spearman_of_queries": [float(f(ranks)) for f in (np.min, np.mean, np.max)],
        "length_of_query": float(np.linalg.norm(example.x_query[_THIRD])),
        "points": len(np.unique(example.groups.indices)),
    }


def _honest(ax) -> dict[str, Any]:
    example = counterexamples.gauss4()
    first, second = _pair(example)
    actual = example.effects(Retrain())
    plot.signs(first, second, column=_THIRD, ax=ax, title="gauss4: pairs that point apart")
    return _facts("gauss4", first, second, _THIRD) | {
        "read_off_the_paper": {"spearman": 0.49, "opposite_signs": 0.31},  # 83 of its 120 points
        "spearman_newton_actual": float(compare(second, actual, resamples=0).spearman[_THIRD]),
        **_queries(example, first, second),
    }


def _copies(ax) -> dict[str, Any]:
    example = counterexamples.ortho2()
    first, second = _pair(example)
    actual = example.effects(Retrain())
    largest = np.linalg.eigvalsh(example.fit.objective.hessian(example.fit.flat))[-1]
    cone = float(example.fit.objective.l2 / largest)  # l2 / (l2 + sigma_max), proposition 4
    plot.signs(first, second, ax=ax, title="ortho2: copies of one point", cone=cone)
    ratio, kind = (second.value / first.value)[:, 0], example.groups.kind
    return _facts("ortho2", first, second) | {
        "spearman_actual": float(compare(first, actual, resamples=0).spearman[0]),
        "factors": {
            str(name): [float(ratio[kind == name].min()), float(ratio[kind == name].max())]
            for name in dict.fromkeys(kind)
        },
        "cone_slope": cone,
    }


def _reversed(ax) -> dict[str, Any]:
    example = counterexamples.reversal()
    first, second = _pair(example)
    actual = example.effects(Retrain())
    also, title = ("actual", actual, first), "six axes: order reversed"
    plot.signs(first, second, ax=ax, title=title, also=also, close=True)
    ax.set_xlabel("effect")
    return _facts("reversal", first, second) | {
        "spearman_actual": float(compare(first, actual, resamples=0).spearman[0]),
        "factors": (second.value / first.value)[:, 0].tolist(),
        "actual": [float(actual.value.min()), float(actual.value.max())],
    }


def _literal(here, there) -> list[dict[str, Any]]:
    """The released rule in float64, and in float32 with the same groups and queries in float64."""
    example = counterexamples.gauss4(_GUARD)
    first, second = _pair(example)
    plot.signs(first, second, column=_THIRD, ax=here, title="gauss4: released rule, float64")
    row = _facts("released rule, float64", first, second, _THIRD)
    rows = [row | _queries(example, first, second)]
    with jax.enable_x64(False):
        rounded = counterexamples.gauss4(_GUARD)
        # as released, the changes in float32; their products with the query in float64
        products = [
            change.astype(float) @ rounded.x_query.T
            for change in counterexamples.changes(rounded.fit, rounded.groups)
        ]
    again = Counterexample(example.fit, rounded.groups, rounded.x_query)
    exact = _pair(again)
    first, second = (
        dataclasses.replace(effects, value=value)
        for effects, value in zip(exact, products, strict=True)
    )
    title = "gauss4: released rule, float32"
    also = ("the same in float64", exact[1], exact[0])
    plot.signs(first, second, column=_THIRD, ax=there, title=title, also=also)
    row = _facts("released rule, float32", first, second, _THIRD)
    rows.append(row | _queries(rounded, first, second))
    row = _facts("groups and queries of float32, in float64", *exact, _THIRD)
    return [*rows, row | _queries(again, *exact)]


def _blind(ax) -> list[dict[str, Any]]:
    """A group that leaves by and by, seen by a query blind to influence, and by a tilted one."""
    rows = []
    for tilt in (0.0, _TILT):
        example = counterexamples.blind_spot(tilt)
        weights = _SHARES[1:, None] * example.groups.dense()
        parts = dataclasses.replace(example, groups=Groups.from_weights(weights))
        series = {
            name: np.append(0.0, parts.effects(method).value[:, 0])
            for name, method in (
                ("influence", Influence()),
                ("Newton", Newton(linearised=True)),
                ("actual", Retrain()),
            )
        }
        title = "a query blind to influence (faint: tilted)"
        plot.removal(_SHARES, series, ax=ax, title=title, faint=tilt > 0)
        ends = {name.lower(): float(effects[-1]) for name, effects in series.items()}
        rows.append({"panel": "blind spot", "tilt": tilt} | ends)
    return rows


# ---- studies -------------------------------------------------------------------------------------


def study_of(configuration: Configuration, where: Path, progress, say, memory) -> Study:
    """The study of a configuration: the one in `where`, or a new one there."""
    known = {row["configuration"]: row["folder"] for row in study.found(where)}
    folder = known.get(configuration, where / configuration.folder())
    return study.run(configuration, folder, progress=progress, say=say, memory=memory)


def _column(done: Study, measure: str, point: int = 0) -> str:
    shown = headline(done.effects["actual"], point)
    return shown[_MEASURES.index(measure)]


def _is_binary(done: Study) -> bool:
    return done.summary["data"]["outputs"] == 1


def _scatter_figure(number: str, done: list[Study], names, paths) -> None:
    point = 3 if number == "C.1" else 0
    rows = {
        "1": [("influence", measure) for measure in _MEASURES],
        "2": [("newton", "test prediction")],
        "C.1": [("influence", "test prediction"), ("influence", "test loss")],
        "C.4": [(method, m) for m in _MEASURES[1:] for method in _METHODS],
    }[number]

    def cell(each: Study, method: str, measure: str):
        if number != "2" and measure == "test prediction" and not _is_binary(each):
            return None  # the paper's blank panel, which hosts the legend
        effects = each.effects
        return effects[method], effects["actual"], _column(each, measure, point)

    plot.grid(
        [[cell(each, *row) for each in done] for row in rows],
        titles=[DATA[name] for name in names],
        rows=[f"{_METHODS[method]}\n{_WORDS.get(m, m)}" for method, m in rows],
        zoom=True,
        path=paths,
    )


def _sweep_figures(done: dict[Configuration, Study], names, stem: Path, paths) -> list[Path]:
    """Figure C.2, and the curves of Spearman against l2 that go with it."""
    series = {
        name: [done[c] for c in done if c.dataset == name] for name in names
    }  # in the order of SWEEP

    def cell(each: list[Study], measure: str):
        if measure == "test prediction" and not _is_binary(each[0]):
            return None
        return [(s.effects["influence"], s.effects["actual"], _column(s, measure)) for s in each]

    plot.sweep(
        [[cell(each, measure) for each in series.values()] for measure in _MEASURES],
        SWEEP,
        titles=[DATA[name] for name in names],
        rows=[f"influence\n{_WORDS.get(m, m)}" for m in _MEASURES],
        path=paths,
    )

    def line(each: list[Study], measure: str) -> np.ndarray:
        columns = (_column(s, measure) for s in each)
        reports = (s.comparisons["influence"] for s in each)
        return np.array(
            [r.spearman[r.columns.index(c)] for r, c in zip(reports, columns, strict=True)]
        )

    lines = [
        {
            DATA[name]: line(each, measure)
            for name, each in series.items()
            if measure != "test prediction" or _is_binary(each[0])
        }
        for measure in _MEASURES
    ]
    more = [stem.with_name(f"{stem.name}_curves{suffix}") for suffix in (".png", ".pdf")]
    plot.curves(lines, SWEEP, titles=[_WORDS.get(m, m) for m in _MEASURES], path=more)
    return more


def _rows(done: Study, point: int = 0) -> list[dict[str, Any]]:
    """One row for each method and measure: what was measured, and what was published."""
    rows = []
    for method, report in done.comparisons.items():
        for measure in _MEASURES:
            column = _column(done, measure, point)
            mine = {
                row["statistic"]: row
                for row in report.rows
                if row["column"] == column and row["by"] == "all"
            }
            published = PUBLISHED.get((method, measure), {}) if point == 0 else {}
            configuration = done.summary["configuration"]
            rows.append(
                {
                    "data": configuration["dataset"],
                    "l2_over_n": done.summary["l2_over_n"],
                    "method": method,
                    "measure": measure,
                    "query_point": done.summary["query_points"][point],
                    "groups": mine["spearman"]["count"],
                    "published": published.get(configuration["dataset"]),
                    "low": mine["spearman"]["low"],
                    "high": mine["spearman"]["high"],
                }
                | {name: row["value"] for name, row in mine.items()}
            )
    return rows


# ---- tables --------------------------------------------------------------------------------------


def tables(
    studies: str | os.PathLike = ".",
    *,
    out: str | os.PathLike = ".",
    page: str | os.PathLike | None = None,
) -> list[Path]:
    """Table 1, all correlations and the cost of each study, beside the paper's, from what is there.

    Args:
        studies: folder in which the finished studies are; of several of a data set the largest is
            taken, and those that are missing are left out.
        out: folder for paper.json and paper.md.
        page: a text whose part between the lines "<!-- tables -->" and "<!-- end of tables -->"
            is replaced by paper.md.

    Returns:
        what was written.

    Raises:
        FileNotFoundError: if no study of the paper's is finished.
    """
    done: dict[str, Study] = {}
    known = sorted(study.found(studies), key=lambda row: -row["configuration"].per_family)
    for name in DATA:
        for row in known:
            mine = row["configuration"]
            if row["state"] == "finished" and name not in done and mine.dataset == name:
                (theirs,) = configurations("1", [name], mine.per_family)
                if mine == theirs:
                    done[name] = study.read(row["folder"])
    if not done:
        raise FileNotFoundError(
            f"no finished study of {', '.join(DATA)} in {studies}; run `leaveout figure 1` first"
        )
    first = [_table_1_row(name, each) for name, each in done.items()]
    ranks = [row for each in done.values() for row in _rows(each)]
    costs = [_cost_row(name, each) for name, each in done.items()]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    numbers, text_path = out / "paper.json", out / "paper.md"
    text = {"table_1": first, "spearman": ranks, "cost": costs}
    numbers.write_text(json.dumps(text, indent=1) + "\n")
    parts = (_first_table(first), _rank_table(ranks), _cost_table(costs))
    made = "\n\n".join(parts) + "\n"
    text_path.write_text(made)
    written = [numbers, text_path]
    if page is not None:
        before, _, rest = Path(page).read_text().partition("<!-- tables -->\n")
        _, mark, after = rest.partition("<!-- end of tables -->")
        if not mark:
            raise ValueError(f"{page} has no lines <!-- tables --> and <!-- end of tables -->")
        Path(page).write_text(f"{before}<!-- tables -->\n{made}{mark}{after}")
        written.insert(0, Path(page))
    return written


def _table_1_row(name: str, done: Study) -> dict[str, Any]:
    data, choice = done.summary["data"], done.summary["cross_validation"]
    published = TABLE_1.get(name, (None, None))
    return {
        "data": name,
        "n": data["n"],
        "d": data["d"],
        "classes": len(data["classes"]),
        "groups": done.summary["groups"]["made"],
        "l2_over_n": done.summary["l2_over_n"],
        "chosen": choice is not None,
        "at_edge": None if choice is None else choice["at_edge"],
        "published_l2_over_n": published[0],
        "test_accuracy": done.summary["test_accuracy"],
        "published_test_accuracy": published[1],
    }


def _cost_row(name: str, done: Study) -> dict[str, Any]:
    summary = done.summary
    return {
        "data": name,
        "groups": summary["groups"]["made"],
        "device": summary["device"],
        "peak_memory_gib": summary["peak_memory_gib"],
        "not_converged": summary["retrained_not_converged"],
        "evaluations": summary["retrain_evaluations"],
        "resumed_chunks": summary["resumed_chunks"],
    } | {f"seconds_{stage}": value for stage, value in summary["seconds"].items()}


def _first_table(rows) -> str:
    lines = ["| data | n | d | classes | groups | l2 / n | paper's | test accuracy | paper's |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        edge = " (edge)" if row["at_edge"] else "" if row["chosen"] else " (given)"
        theirs, accuracy = row["published_l2_over_n"], row["published_test_accuracy"]
        lines.append(
            f"| {DATA[row['data']]} | {row['n']:,} | {row['d']:,} | {row['classes']} | "
            f"{row['groups']:,} | {row['l2_over_n']:.1e}{edge} | "
            f"{'' if theirs is None else f'{theirs:.1e}'} | {row['test_accuracy']:.1%} | "
            f"{'' if accuracy is None else f'{accuracy:.1%}'} |"
        )
    return "\n".join(lines)


def _rank_table(rows) -> str:
    """A line for each method and measure, a column for each data set; the paper's in brackets."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    lines = ["| prediction of | by | " + " | ".join(DATA[name] for name in names) + " |"]
    lines.append("|---|---|" + "--:|" * len(names))
    for measure in _MEASURES:
        for method, words in _METHODS.items():
            cells = []
            for name in names:
                row = next(
                    r
                    for r in rows
                    if (r["data"], r["method"], r["measure"]) == (name, method, measure)
                )
                value, theirs = row["spearman"], row["published"]
                text = "undefined" if value is None else f"{value:.4f}"
                if theirs is not None and value is not None:
                    text = f"**{text}**" if abs(value - theirs) > 0.01 else text
                    text += f" ({theirs:.4f})"
                cells.append(text)
            lines.append(f"| {_WORDS.get(measure, measure)} | {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost_table(rows) -> str:
    stages = ("l2", "fit", "groups", "influence", "changed", "newton", "actual", "total")
    lines = ["| data | groups | " + " | ".join(f"{s}, s" for s in stages)
             + " | evaluations, median (most) | peak, GiB |"]  # fmt: skip
    lines.append("|---|--:|" + "--:|" * (len(stages) + 2))
    for row in rows:
        seconds = " | ".join(f"{row[f'seconds_{s}']:.0f}" for s in stages)
        spent = row["evaluations"]
        lines.append(
            f"| {DATA[row['data']]} | {row['groups']:,} | {seconds} | {spent['median']:.0f} "
            f"({spent['max']:.0f}) | {row['peak_memory_gib']:.1f} |"
        )
    return "\n".join(lines)
