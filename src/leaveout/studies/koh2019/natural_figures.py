"""The paper's figures of natural groups, made again from reports of `natural`.

Source: Koh, Ang, Teo and Liang (2019), figures 4 and C.5 to C.11.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from leaveout import plot
from leaveout.studies.folder import Progress, Say
from leaveout.studies.natural import Question, run
from leaveout.studies.natural_report import Report, draw_against_actual, draw_coverage, short

__all__ = ["FIGURES", "figure"]

#: figure of the paper to the data sets that it shows here
FIGURES = {
    "4": ("cdr", "nli"),
    "C.5": ("cdr",),
    "C.6": ("cdr",),
    "C.7": ("cdr",),
    "C.8": ("nli",),
    "C.9": ("nli",),
    "C.10": ("nli",),
    "C.11": ("nli",),
}


def figure(
    number: str,
    names: Sequence[str] | None = None,
    *,
    studies: str | os.PathLike = ".",
    out: str | os.PathLike = ".",
    progress: Progress | None = None,
    say: Say = lambda sentence: None,
    memory: float | int | None = None,
) -> list[Path]:
    """A figure of the paper's second half; studies that are missing are run first.

    Args:
        number: one of `FIGURES`.
        names: data sets to show in place of its own: labelling functions for figures 4 (first) to
            C.7, workers for 4 (second) and C.8 to C.11.
        studies: where the studies' folders are.
        out: folder to write to, as PNG and PDF.
        progress: as in `natural.run`.
        say: as in `natural.run`.
        memory: as in `natural.run`.

    Returns:
        the paths.
    """
    wanted = FIGURES[number]
    names = list(wanted if names is None else names)
    if len(names) != len(wanted):
        raise ValueError(f"figure {number} shows {len(wanted)} data sets, got {len(names)}")
    reports = []
    for name in names:
        question = Question(name)
        where = Path(studies) / question.folder()
        reports.append(run(question, where, progress=progress, say=say, memory=memory))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    stem = f"figure_{number.replace('.', '')}"
    paths = [out / f"{stem}{suffix}" for suffix in (".png", ".pdf")]
    _DRAWINGS[number](paths, *reports)
    return paths


def _classes(report: Report) -> list[int]:
    """Columns of the loss on each class of the queries."""
    return [j for part, j in report.losses().items() if part.startswith("class ")]


def _others(report: Report) -> list[int]:
    """Columns of the loss on the parts that are neither classes nor all of the queries."""
    losses = report.losses().items()
    return [j for part, j in losses if part != "all" and not part.startswith("class ")]


def _functions_and_workers(paths: list[Path], functions: Report, workers: Report) -> None:
    """Labelling functions on the loss of their own class, and workers on all of it."""
    drawn, axes = plot.canvas(1, 3)
    first, kinds, losses = functions.effects["influence"], functions.kinds(), functions.losses()
    if kinds is None or not losses.keys() >= set(kinds):
        raise ValueError("the first data set of figure 4 has groups that are each of one class")
    columns = [losses[kind] for kind in kinds]
    own, codes = (part[range(len(columns)), columns] for part in (first.value, first.column_status))
    for ax, trait in zip(axes[0], ("coverage", "precision"), strict=False):
        plot.against(
            functions.table[trait], own, ax=ax, kinds=kinds, xlabel=trait,
            ylabel="influence on loss of own class", status=codes,
            title=f"{functions.summary['question']['dataset']}: labelling functions",
        )  # fmt: skip
    second, whole = workers.effects["influence"], workers.losses()["all"]
    plot.against(
        workers.table["size"], second.value[:, whole], status=second.column_status[:, whole],
        ax=axes[0, 2], xlabel="examples contributed", ylabel="influence on total loss", hide=1,
        title=f"{workers.summary['question']['dataset']}: workers",
    )  # fmt: skip
    plot.write(drawn, paths)


def _functions_against_actual(paths: list[Path], report: Report) -> None:
    draw_against_actual(report, _classes(report), paths)


def _functions_by_coverage(paths: list[Path], report: Report) -> None:
    draw_coverage(report, _classes(report), "coverage", paths)


def _functions_by_precision(paths: list[Path], report: Report) -> None:
    draw_coverage(report, _classes(report), "precision", paths)


def _workers_against_actual(paths: list[Path], report: Report) -> None:
    draw_against_actual(report, _others(report), paths)


def _workers_by_size(paths: list[Path], report: Report) -> None:
    draw_coverage(report, [report.losses()["all"]], "size", paths, hide=1)


def _workers_by_part(paths: list[Path], report: Report) -> None:
    first, others = report.effects["influence"], _others(report)
    title = "influence on the query loss, by part"
    columns, names = [short(first.columns[j]) for j in others], first.groups.names
    codes = first.column_status[:, others]
    plot.heat(first.value[:, others], names, columns, title=title, path=paths, status=codes)


def _workers_by_size_in_part(paths: list[Path], report: Report) -> None:
    first, others = report.effects["influence"], _others(report)
    drawn, axes = plot.canvas(1, len(others))
    for ax, j in zip(axes[0], others, strict=True):
        part = short(first.columns[j])
        plot.against(
            report.table[f"in {part}"], first.value[:, j], ax=ax, title=part,
            xlabel="examples in that part", ylabel="influence on its loss",
            status=first.column_status[:, j],
        )  # fmt: skip
    plot.write(drawn, paths)


#: figure to what draws it: called with the paths, and a report of each data set that it shows
_DRAWINGS: dict[str, Callable[..., None]] = {
    "4": _functions_and_workers,
    "C.5": _functions_against_actual,
    "C.6": _functions_by_coverage,
    "C.7": _functions_by_precision,
    "C.8": _workers_against_actual,
    "C.9": _workers_by_size,
    "C.10": _workers_by_part,
    "C.11": _workers_by_size_in_part,
}
