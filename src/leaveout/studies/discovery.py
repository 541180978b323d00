"""Which describable group of a data set moves a measure the most: a `Dataset` to a `Credit`."""

from collections.abc import Callable, Mapping

import numpy as np

from leaveout import measures
from leaveout.analysis.credit import Credit
from leaveout.analysis.discovery import discover
from leaveout.analysis.null import Null
from leaveout.fitting.optimum import fit
from leaveout.measures import Measure
from leaveout.runtime.text import shortened
from leaveout.studies.datasets import Dataset
from leaveout.studies.penalty import quickly

__all__ = ["MEASURES", "described", "discovered"]

#: the measures that a command can name; of all query examples, or between two kinds of them
MEASURES = ("gap", "gap in loss", "loss")


def described(data: Dataset, without: tuple[str, ...] = ()) -> Mapping[str, np.ndarray]:
    """What describes the training examples: the columns about them, and their label as "label".

    Args:
        data: with `labels`.
        without: columns that no group is to be described by.
    """
    columns = dict(data.labels)
    if data.labelled:
        columns["label"] = data.y
    return {name: column for name, column in columns.items() if name not in without}


def discovered(
    data: Dataset,
    *,
    measure: str = "gap",
    between: str | None = None,
    l2: float | None = None,
    without: tuple[str, ...] = (),
    direction: int | None = None,
    null: Null | int = Null(200),
    memory=None,
    progress: Callable[[int], None] | None = None,
    **options,
) -> Credit:
    """`lo.discover` of a data set, its model fitted and its columns as descriptions.

    Args:
        data: with columns about training and query examples.
        measure: of `MEASURES`, on the query examples.
        between: a column of `query_labels`: a gap is between its two commonest values.
        l2: the penalty divided by n; default the data set's own, or a thousandth.
        without: columns that no group is to be described by.
        direction: as in `lo.discover`; default what makes a gap smaller, or a loss.
        null: as in `lo.discover`.
        memory: as in `lo.discover`.
        progress: as in `lo.discover`.
        options: others of `lo.discover`.

    Raises:
        ValueError: for an unknown measure or column.
    """
    chosen = _measure(data, measure, between)
    fitted = fit(data.objective(quickly(data, l2)))
    if direction is None:
        bound = chosen.bind(fitted.objective)
        now = float(bound.values(fitted.objective, fitted.flat, None)[0])
        direction = -1 if now > 0 else 1
    told = {"null": null, "memory": memory, "progress": progress}
    return discover(
        fitted, described(data, without), chosen, direction=direction, **told, **options
    )


def _measure(data: Dataset, name: str, between: str | None) -> Measure:
    """The measure of that name on the query examples."""
    if name == "loss":
        return measures.loss(data.query, reduce="mean")
    if name not in MEASURES:
        raise ValueError(f"unknown measure {name!r}; known: {', '.join(MEASURES)}")
    if between is None or between not in data.query_labels:
        raise ValueError(
            f"a gap is between two values of a column about the query examples, got {between!r}; "
            f"there are {shortened(data.query_labels)}"
        )
    column = data.query_labels[between]
    values, count = np.unique(column, return_counts=True)
    pair = sorted(values[np.argsort(-count, kind="stable")[:2]].tolist())
    of = measures.loss if name == "gap in loss" else measures.probability
    return measures.gap(data.query, by=column, between=pair, of=of)
