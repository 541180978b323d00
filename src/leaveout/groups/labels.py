"""Labels of any kind as groups: which examples have one, and what the groups are called."""

from typing import NamedTuple

import numpy as np

from leaveout.runtime.columns import Column, distinct, refuse_text_of_missing, told_apart
from leaveout.runtime.tables import Fingerprint, as_columns, common_rows, fingerprint

__all__ = ["Coded", "between_edges", "by_label", "by_pair", "index_of", "masks_of"]


class Coded(NamedTuple):
    """Points, each in the group that its code says.

    Attributes:
        n: number of training examples.
        points: (k) examples.
        code: (k) the group each belongs to, 0 to g - 1.
        names: (g) what the groups are called.
        w: (k) how much of each leaves, or None for all.
        notes: on how they were made.
        fingerprint: which rows the examples are, or None.
    """

    n: int
    points: np.ndarray
    code: np.ndarray
    names: np.ndarray | list[str]
    w: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    fingerprint: Fingerprint | None = None


def by_label(labels, kind: str) -> Coded:
    """A group for each distinct label, or for each combination of several that occurs.

    Raises:
        ValueError: where all are missing, or one reads as a missing value made text.
    """
    columns = _columns(labels)
    n = columns[0].values.size
    present = np.flatnonzero(np.logical_and.reduce([there for _, there in columns]))
    if present.size == 0:
        raise ValueError("expected at least one label, but all are missing")
    parts = [_distinct(values[present]) for values, _ in columns]
    crossed, code = np.unique([code for _, code in parts], axis=1, return_inverse=True)
    each = [[found[k] for k in codes] for (found, _), codes in zip(parts, crossed, strict=True)]
    names = told_apart(list(zip(*each, strict=True)))
    notes = _left_out(kind, present.size, n)
    return Coded(n, present, code, names, notes=notes, fingerprint=common_rows(labels=labels))


def by_pair(examples, labels, w, n: int) -> Coded:
    """A group for each distinct label of a long table, of the examples that it stands beside.

    Raises:
        ValueError: for lengths that differ.
    """
    points, ((values, there),) = np.asarray(examples).reshape(-1), _columns(labels)
    if points.shape != values.shape:
        raise ValueError(
            f"expected one label for each of the {points.size} examples, got {values.size}"
        )
    if w is not None and np.shape(w) != points.shape:
        raise ValueError(
            f"expected w as one number for each of the {points.size} examples, got shape "
            f"{np.shape(w)}"
        )
    common_rows(examples=examples, labels=labels, w=w)
    kept = np.flatnonzero(there)
    found, code = _distinct(values[kept])
    names = told_apart([(label,) for label in found])
    w = None if w is None else np.asarray(w, float)[kept]
    rows = index_of([examples], n)
    return Coded(n, points[kept], code, names, w, fingerprint=rows)


def between_edges(values, edges) -> Coded:
    """A group for each interval [edge, next edge) that holds a value.

    Raises:
        ValueError: for edges that do not increase, or where there is no such value.
    """
    rows, ((values, there),) = common_rows(values=values), _columns(values)
    edges = np.asarray(edges)
    if edges.ndim != 1 or edges.size < 2 or (edges[1:] <= edges[:-1]).any():
        raise ValueError("expected at least two increasing edges")
    known = values[there].astype(edges.dtype if edges.dtype.kind == "M" else float)
    code = np.full(there.size, -1)
    code[there] = np.searchsorted(edges, known, side="right") - 1
    inside = np.flatnonzero((code >= 0) & (code < edges.size - 1))
    if inside.size == 0:
        raise ValueError(f"no value lies between {edges[0]} and {edges[-1]}")
    found, code = np.unique(code[inside], return_inverse=True)
    names = [f"[{edges[i]}, {edges[i + 1]})" for i in found]
    return Coded(there.size, inside, code, names, fingerprint=rows)


def _columns(labels) -> list[Column]:
    """One or several columns of labels, each with its own type."""
    columns = as_columns(labels)
    for values, _ in columns:
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"expected one label for each example, got shape {values.shape}")
    if not columns:
        raise ValueError("expected at least one column of labels, got none")
    return columns


def _distinct(labels: np.ndarray) -> tuple[list, np.ndarray]:
    """The distinct labels, sorted, and the position of each label's own; none is a missing one."""
    found, code = distinct(labels)
    refuse_text_of_missing(found, "the labels")
    return found, code


def _left_out(kind: str, present: int, n: int) -> tuple[str, ...]:
    """A note on how many examples have no label, where there are any."""
    if present == n:
        return ()
    return (f"{kind}: {n - present:,} of {n:,} examples have no label and are in no group",)


def index_of(lists: list, n: int) -> Fingerprint | None:
    """Rows numbered from 0, where labels of a pandas index were given for positions."""
    import narwhals.stable.v2 as nw

    if not any(nw.dependencies.is_pandas_index(one) for one in lists):
        return None
    return fingerprint(nw.dependencies.get_pandas().RangeIndex(n))


def masks_of(given) -> Fingerprint | None:
    """The rows that the columns of a table (g n) are named by, or those of a list of columns."""
    import narwhals.stable.v2 as nw

    if not nw.dependencies.is_pandas_dataframe(given):
        return common_rows(masks=given)
    names = given.columns
    return None if list(names) == list(range(len(names))) else fingerprint(names)
