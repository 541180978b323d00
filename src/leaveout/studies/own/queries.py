"""Which rows of a table train, and which are queries."""

import numpy as np

from leaveout.runtime.columns import Column, as_numbers, distinct
from leaveout.runtime.text import shortened
from leaveout.studies.own.frames import kind_of

__all__ = ["by_column", "by_share"]

_TRAIN = ("train", "training", "fit", "development", "dev")


def by_share(share: float, n: int, strata: np.ndarray | None) -> np.ndarray:
    """(n) booleans: which rows are queries, a share of every stratum, always the same ones.

    Raises:
        ValueError: for a share beyond 0 to 1, or one that leaves nobody on either side.
    """
    if not 0 < share < 1:
        raise ValueError(f"expected query= as a share between 0 and 1, got {share}")
    held, rng = np.zeros(n, bool), np.random.default_rng(0)
    strata = np.zeros(n, int) if strata is None else strata
    for stratum in np.unique(strata):
        mine = np.flatnonzero(strata == stratum)
        held[rng.choice(mine, round(share * mine.size), replace=False)] = True
    if held.all() or not held.any():
        raise ValueError(f"a share of {share} of {n:,} rows leaves none to train, or to query")
    return held


def by_column(name: str, given: Column) -> np.ndarray:
    """(n) booleans: which rows a column says are queries: true, 1, or not "train".

    Raises:
        ValueError: for a column that says something else, or nothing of some rows.
    """
    if not given.there.all():
        raise ValueError(
            f"the column {name!r} does not say of {int((~given.there).sum()):,} rows whether they "
            "train or are queries"
        )
    found = distinct(given.values)[0]
    if kind_of(given) in ("boolean", "number") and set(found) == {0, 1}:
        numbers = as_numbers(given)
        assert numbers is not None
        return numbers == 1
    words = [str(label).lower() for label in found]
    if kind_of(given) == "text" and len(set(words) & set(_TRAIN)) == 1 and len(found) > 1:
        training = found[words.index(next(iter(set(words) & set(_TRAIN))))]
        return np.asarray(given.values != training)
    raise ValueError(
        f"expected the column {name!r} to say which rows are queries, by true and false, 0 and 1 "
        f"or 'train' and another word; it holds {shortened(found)}"
    )
