"""Which rows of a table train, and which are queries."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from leaveout.runtime.columns import Column, as_numbers, column, distinct
from leaveout.runtime.tables import is_table
from leaveout.runtime.text import shortened
from leaveout.studies.own.frames import Frame, kind_of

__all__ = ["held_out"]

_TRAIN = ("train", "training", "fit", "development", "dev")
_STRATA = 20  # values of a target up to which a share is taken of each


@runtime_checkable
class _Splitter(Protocol):
    """One of scikit-learn's."""

    def split(self, X: Any, y: Any = None, /) -> Iterable[Any]: ...


def held_out(frame: Frame, query: object, target: str) -> list[np.ndarray] | None:
    """(n) booleans of the rows that are queries, one array a fold; None for another table.

    Args:
        frame: the table.
        query: a share, a number of folds, the name of a column, booleans, a splitter of
            scikit-learn's, or pairs (train, query) of positions.
        target: whose values a share is taken of, where they are few.

    Raises:
        ValueError: for a share or a number that leaves nobody to train or to query.
    """
    strata = _strata(frame[target])
    if isinstance(query, bool | np.bool_):
        raise ValueError(f"expected query= as a share, a column, folds or a table, got {query}")
    if isinstance(query, float | np.floating):
        return [_share(float(query), strata)]
    if isinstance(query, int | np.integer):
        return _folds(int(query), strata)
    if isinstance(query, str):
        return [_said(query, frame[query])] if query in frame.columns else None
    if isinstance(query, _Splitter):
        query = list(query.split(np.zeros((frame.n, 1)), strata))
    if isinstance(query, list | tuple) and query and isinstance(query[0], list | tuple):
        return [_positions(pair[1], frame.n) for pair in query]
    return _booleans(query, frame.n)


def _booleans(query: object, n: int) -> list[np.ndarray] | None:
    """Booleans (n), of any library; None for what is not one column."""
    if is_table(query) or isinstance(query, Mapping | os.PathLike):
        return None
    values, there = column(query)
    if values.dtype != bool or values.shape != (n,) or not there.all():
        raise ValueError(
            f"expected query= as a share, a column, {n:,} booleans, folds or a table, got "
            f"{type(query).__name__}"
        )
    return [values]


def _strata(target: Column) -> np.ndarray:
    """(n) the number of each row's label, of a target of few; else all the same."""
    found, code = distinct(target.values.astype(str))
    return code if len(found) <= _STRATA else np.zeros(code.size, int)


def _share(share: float, strata: np.ndarray) -> np.ndarray:
    if not 0 < share < 1:
        raise ValueError(f"expected query= as a share between 0 and 1, got {share}")
    held, rng = np.zeros(strata.size, bool), np.random.default_rng(0)
    for stratum in np.unique(strata):
        mine = np.flatnonzero(strata == stratum)
        held[rng.choice(mine, round(share * mine.size), replace=False)] = True
    if held.all() or not held.any():
        raise ValueError(
            f"a share of {share} of {strata.size:,} rows leaves none to train, or none to query"
        )
    return held


def _folds(count: int, strata: np.ndarray) -> list[np.ndarray]:
    """Folds of like size, of every stratum, always the same ones."""
    if not 2 <= count <= strata.size:
        raise ValueError(f"expected 2 to {strata.size:,} folds, got {count}")
    order = np.random.default_rng(0).permutation(strata.size)
    order = order[np.argsort(strata[order], kind="stable")]  # dealt out label by label
    fold = np.empty(strata.size, int)
    fold[order] = np.arange(strata.size) % count
    return [fold == k for k in range(count)]


def _positions(given: object, n: int) -> np.ndarray:
    """The query part of a pair, positions or booleans, as booleans."""
    rows = np.asarray(cast(Any, given))
    if rows.dtype == bool and rows.shape == (n,):
        return rows
    if rows.dtype.kind not in "iu" or rows.ndim != 1 or not ((rows >= 0) & (rows < n)).all():
        raise ValueError(f"expected folds as pairs (train, query) of positions below {n:,}")
    held = np.zeros(n, bool)
    held[rows] = True
    return held


def _said(name: str, given: Column) -> np.ndarray:
    """What a column says: true, 1, or any word but "train" is a query.

    Raises:
        ValueError: for a column that says something else, or nothing of some rows.
    """
    if not given.there.all():
        raise ValueError(
            f"the column {name!r} does not say of {int((~given.there).sum()):,} rows whether they "
            "train or are queries"
        )
    found, kind = distinct(given.values)[0], kind_of(given)
    if kind in ("boolean", "number") and set(found) == {0, 1}:
        return np.asarray(as_numbers(given)) == 1
    training = [label for label in found if str(label).lower() in _TRAIN]
    if kind == "text" and len(training) == 1 and len(found) > 1:
        return np.asarray(given.values != training[0])
    raise ValueError(
        f"expected the column {name!r} to say which rows are queries, by true and false, 0 and 1 "
        f"or 'train' and another word; it holds {shortened(found)}"
    )
