"""The paper's figures, made again: the studies they need, and how they look.

Source: Koh, Ang, Teo and Liang (2019), figures 1, 2, C.1, C.2 and C.4.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leaveout import plot
from leaveout.methods import BY_WORD
from leaveout.plot import Paths
from leaveout.runtime.files import write_json
from leaveout.studies import removal
from leaveout.studies.folder import Progress, Say
from leaveout.studies.given import known
from leaveout.studies.koh2019 import figure3, plot_sweep, published
from leaveout.studies.removal import Configuration, Study, headline

__all__ = ["configurations", "figure", "rows_of", "study_of"]


def configurations(number: str, names: Sequence[str], per_family: int = 100) -> list[Configuration]:
    """The studies that a figure needs.

    Args:
        number: of the figure.
        names: of data sets, "mnist" or "mnist:10" for another number of groups a family.
        per_family: groups a family; the paper's 100, or its 10 in figure C.2.

    Raises:
        ValueError: for a figure or data set that is not the paper's.
    """
    if number not in published.FIGURES:
        raise ValueError(f"unknown figure {number!r}; known: {', '.join(published.FIGURES)}")
    found = []
    for each in names:
        name, _, count = each.partition(":")
        if name not in published.DATA or not (count or "1").isdecimal():
            raise ValueError(f"figure {number} is of {', '.join(published.DATA)}; got {each!r}")
        size = int(count) if count else per_family
        if number == "C.2":
            found += [
                Configuration(name, min(size, 10), l2_over_n=level, methods=("influence", "actual"))
                for level in published.SWEEP
            ]
        else:
            found.append(Configuration(name, size, l2_over_n=published.CHOSEN.get(name)))
    return found


def figure(
    number: str,
    names: Sequence[str] | None = None,
    *,
    studies: str | os.PathLike = ".",
    out: str | os.PathLike = ".",
    per_family: int = 100,
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
    memory: float | int | None = None,
) -> list[Path]:
    """Make a figure of the paper; studies that are missing or unfinished are run first.

    Args:
        number: "1", "2", "3", "C.1", "C.2" or "C.4"; figure 3 needs float64 and no study.
        names: of data sets, as in `configurations`; default the figure's own.
        studies: folder in which the studies' folders are.
        out: folder to write to.
        per_family: groups a family.
        progress: as in `removal.run`.
        say: as in `removal.run`.
        memory: as in `removal.run`.

    Returns:
        what was written: PNG, PDF, and the numbers as JSON.

    Raises:
        ValueError: for a figure or data set that is not the paper's.
    """
    if number == "3":
        return figure3.figure(names, out=out)
    wanted = configurations(number, names or published.FIGURES.get(number, ()), per_family)
    names = list(dict.fromkeys(known(configuration.dataset) for configuration in wanted))
    done = {c: study_of(c, Path(studies), progress, say, memory) for c in wanted}
    stem = Path(out) / f"figure_{number.replace('.', '')}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    if number == "C.2":
        paths += _sweep_figures(done, names, stem, paths)
    else:
        _scatter_figure(number, list(done.values()), names, paths)
    rows = [row for each in done.values() for row in rows_of(each, 3 if number == "C.1" else 0)]
    numbers = stem.with_suffix(".json")
    write_json(numbers, rows, indent=1)
    return [*paths, numbers]


def study_of(
    configuration: Configuration,
    where: Path,
    progress: Progress | None,
    say: Say,
    memory: float | int | None,
) -> Study:
    """The study of a configuration: the one in `where`, or a new one there."""
    known = {row["configuration"]: row["folder"] for row in removal.found(where)}
    folder = known.get(configuration, where / configuration.folder())
    return removal.run(configuration, folder, progress=progress, say=say, memory=memory)


def _column(done: Study, measure: str, point: int = 0) -> str:
    shown = headline(done.effects["actual"], point)
    return shown[published.MEASURES.index(measure)]


def _is_binary(done: Study) -> bool:
    return done.summary["data"]["outputs"] == 1


def _scatter_figure(number: str, done: list[Study], names: Sequence[str], paths: Paths) -> None:
    point = 3 if number == "C.1" else 0
    rows = {
        "1": [("influence", measure) for measure in published.MEASURES],
        "2": [("newton", "test prediction")],
        "C.1": [("influence", "test prediction"), ("influence", "test loss")],
        "C.4": [(method, m) for m in published.MEASURES[1:] for method in published.PREDICTIONS],
    }[number]

    def cell(each: Study, method: str, measure: str):
        if number != "2" and measure == "test prediction" and not _is_binary(each):
            return None  # the paper's blank panel, which hosts the legend
        effects = each.effects
        return effects[method], effects["actual"], _column(each, measure, point)

    plot.grid(
        [[cell(each, *row) for each in done] for row in rows],
        titles=[published.DATA[name] for name in names],
        rows=[f"{BY_WORD[method].name}\n{published.WORDS.get(m, m)}" for method, m in rows],
        zoom=True,
        path=paths,
    )


def _sweep_figures(
    done: dict[Configuration, Study], names: Sequence[str], stem: Path, paths: Paths
) -> list[Path]:
    """Figure C.2, and the curves of Spearman against l2 that go with it."""
    series = {
        name: [done[c] for c in done if c.dataset == name] for name in names
    }  # in the order of published.SWEEP

    def cell(each: list[Study], measure: str):
        if measure == "test prediction" and not _is_binary(each[0]):
            return None
        return [(s.effects["influence"], s.effects["actual"], _column(s, measure)) for s in each]

    plot_sweep.sweep(
        [[cell(each, measure) for each in series.values()] for measure in published.MEASURES],
        published.SWEEP,
        titles=[published.DATA[name] for name in names],
        rows=[f"influence\n{published.WORDS.get(m, m)}" for m in published.MEASURES],
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
            published.DATA[name]: line(each, measure)
            for name, each in series.items()
            if measure != "test prediction" or _is_binary(each[0])
        }
        for measure in published.MEASURES
    ]
    more = [stem.with_name(f"{stem.name}_curves{suffix}") for suffix in (".png", ".pdf")]
    plot_sweep.curves(
        lines,
        published.SWEEP,
        titles=[published.WORDS.get(m, m) for m in published.MEASURES],
        path=more,
    )
    return more


def rows_of(done: Study, point: int = 0) -> list[dict[str, Any]]:
    """One row for each method and measure: what was measured, and what was published."""
    rows = []
    for method, report in done.comparisons.items():
        for measure in published.MEASURES:
            column = _column(done, measure, point)
            mine = {
                row["statistic"]: row
                for row in report.rows
                if row["column"] == column and row["by"] == "all"
            }
            theirs = published.PUBLISHED.get((method, measure), {}) if point == 0 else {}
            configuration = done.summary["configuration"]
            rows.append(
                {
                    "data": configuration["dataset"],
                    "l2_over_n": done.summary["l2_over_n"],
                    "method": method,
                    "measure": measure,
                    "query_point": done.summary["query_points"][point],
                    "groups": mine["spearman"]["count"],
                    "published": theirs.get(configuration["dataset"]),
                    "low": mine["spearman"]["low"],
                    "high": mine["spearman"]["high"],
                }
                | {name: row["value"] for name, row in mine.items()}
            )
    return rows
