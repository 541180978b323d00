"""How well predicted effects agree with actual ones, in the groups and in samples of them.

A sample is how often each group is in it: nothing is sorted or ranked twice, whatever the number of
samples, and all columns share the same ones.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = ["STATISTICS", "Agreement", "samples", "spearman", "with_intervals"]

#: what is computed for each column, in this order
STATISTICS = (
    "spearman",
    "pearson",
    "slope",
    "sign_agreement",
    "underestimated",
    "median_relative_error",
    "max_relative_error",
)

_TOGETHER = 2**16  # numbers of a table of groups and samples: what a processor keeps at hand

# below this share of the mean square, a variance has lost six digits to the mean
_CANCELLED = 1e-6


def with_intervals(
    columns: Sequence[tuple[np.ndarray, np.ndarray]], seed: Sequence[int], resamples: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each column: statistics (s), and their bootstrap 2.5 and 97.5 % points over its groups.

    NaN is what is undefined: everything of fewer than two groups.

    Args:
        columns: predicted and actual effects, (g) each, of the same g groups.
        seed: of the resamples, which are the same for every column.
        resamples: of the groups; 0 for no interval.
    """
    count = len(columns[0][0])
    none = np.full(len(STATISTICS), np.nan)
    if count < 2:
        return [(none, none, none) for _ in columns]
    found = [Agreement(p, a) for p, a in columns]
    values = [each(np.ones((count, 1)))[0] for each in found]
    if resamples == 0:
        return [(value, none, none) for value in values]
    many = [[each(drawn) for each in found] for drawn in samples(count, seed, resamples)]
    every = (np.concatenate(parts) for parts in zip(*many, strict=True))
    return [(value, *_interval(one)) for value, one in zip(values, every, strict=True)]


def spearman(p: Float[np.ndarray, "g"], a: Float[np.ndarray, "g"]) -> float:
    """Spearman's correlation of two columns; NaN where either does not vary."""
    once = np.ones((len(p), 1))
    return float(_rank_correlation(_Places.of(p).ranks(once), _Places.of(a).ranks(once), once)[0])


def samples(count: int, seed: Sequence[int], resamples: int) -> Iterator[Float[np.ndarray, "g b"]]:
    """How often each of so many groups is in each resample, some resamples at a time."""
    rng = np.random.default_rng(list(seed))
    for first in range(0, resamples, max(_TOGETHER // count, 1)):
        some = min(max(_TOGETHER // count, 1), resamples - first)
        draws = rng.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        drawn = np.bincount(draws.ravel(), minlength=some * count).reshape(some, count)
        yield np.ascontiguousarray(drawn.T, dtype=float)


def _interval(many: Float[np.ndarray, "b s"]) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 % points (s), of statistics that nine resamples of ten have."""
    many = np.where(np.isfinite(many), many, np.nan)
    defined = np.isfinite(many).mean(axis=0) > 0.9
    low, high = np.full((2, many.shape[1]), np.nan)
    if defined.any():
        low[defined], high[defined] = np.nanquantile(many[:, defined], [0.025, 0.975], axis=0)
    return low, high


class Agreement:
    """Predicted and actual effects (g) of a column, sorted once; called for samples of the groups.

    A call takes counts (g b), how often each group is in each of b samples, g in all, and gives
    statistics (b s) in the order of STATISTICS, NaN where undefined.
    """

    def __init__(self, p: Float[np.ndarray, "g"], a: Float[np.ndarray, "g"]):
        error, size = np.abs(p - a), np.abs(a)
        ratio = error / np.where(size > 0, size, 1)
        self.p, self.a = p, a
        self.terms = np.stack([p * a, a * a, np.sign(p) == np.sign(a), np.abs(p) < size], axis=1)
        self.of_p, self.of_a = _Places.of(p), _Places.of(a)
        known = np.flatnonzero(size > 0)
        self.by_ratio = known[np.argsort(ratio[known])]
        self.ratio = ratio[self.by_ratio]
        self.largest = [(values, np.argsort(-values, kind="stable")) for values in (error, size)]

    def __call__(self, counts: Float[np.ndarray, "g b"]) -> Float[np.ndarray, "b s"]:
        """Statistics of samples."""
        cross, square, same, under = (counts.T @ self.terms).T
        worst, longest = (_largest(values, order, counts > 0) for values, order in self.largest)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack(
                [
                    _rank_correlation(self.of_p.ranks(counts), self.of_a.ranks(counts), counts),
                    _correlation(self.p, self.a, counts),
                    cross / square,
                    same / len(self.p),
                    under / len(self.p),
                    _median(self.ratio, counts[self.by_ratio]),
                    worst / longest,
                ],
                axis=1,
            )


class _Places(NamedTuple):
    """Where values stand among each other.

    Attributes:
        order: (g) which value is least, next, ...
        first: (c) where each of c distinct values begins in that order.
        place: (g) which of the distinct values each is.
    """

    order: Int[np.ndarray, "g"]
    first: Int[np.ndarray, "c"]
    place: Int[np.ndarray, "g"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "g"]) -> "_Places":
        """Values in order."""
        order = np.argsort(values, kind="stable")
        new = np.append(True, np.diff(values[order]) > 0)
        place = np.empty(len(values), int)
        place[order] = np.cumsum(new) - 1
        return cls(order, np.flatnonzero(new), place)

    def ranks(self, counts: Float[np.ndarray, "g b"]) -> Float[np.ndarray, "g b"]:
        """Twice each value's rank in each sample, less the mean rank; ties share theirs."""
        own = counts[self.order]
        if len(self.first) < len(own):
            own = np.add.reduceat(own, self.first, axis=0)
        ranks = np.cumsum(own, axis=0)
        ranks *= 2
        ranks -= own
        ranks -= len(self.place)
        return ranks[self.place]


def _largest(values: Float[np.ndarray, "g"], order, drawn) -> Float[np.ndarray, "b"]:
    """The largest value in each sample."""
    first = np.argmax(drawn[order[:64]], axis=0)  # all but e^-64 of samples have one of these
    missed = ~drawn[order[first], np.arange(drawn.shape[1])]
    first[missed] = np.argmax(drawn[order][:, missed], axis=0)
    return values[order[first]]


def _median(values: Float[np.ndarray, "c"], counts: Float[np.ndarray, "c b"]):
    """The median (b) of each sample of ascending values; NaN where it has none of them."""
    if not len(values):
        return np.full(counts.shape[1], np.nan)
    ends = np.cumsum(counts, axis=0)
    total = ends[-1].astype(int)
    low, high = (values[_first_above(ends, at)] for at in ((total - 1) // 2, total // 2))
    return np.where(total > 0, (low + high) / 2, np.nan)


def _first_above(ends: Float[np.ndarray, "c b"], at: Int[np.ndarray, "b"]) -> Int[np.ndarray, "b"]:
    """The first row of each column, of ascending numbers, that is above a number: bisection."""
    low, high = np.zeros_like(at), np.full_like(at, len(ends) - 1)
    for _ in range(len(ends).bit_length()):
        middle = (low + high) // 2
        above = ends[middle, np.arange(at.size)] > at
        low = np.where(above, low, np.minimum(middle + 1, high))
        high = np.where(above, middle, high)
    return high


def _rank_correlation(p, a, counts) -> Float[np.ndarray, "b"]:
    """Correlation of the ranks: sums of whole numbers, exact; NaN where either does not vary."""
    own = counts * p
    cross, square = np.einsum("gb,gb->b", own, a), np.einsum("gb,gb->b", own, p)
    scale = np.sqrt(square * np.einsum("gb,gb->b", counts * a, a))  # of equal ranks their square
    return np.where(scale > 0, cross / np.where(scale > 0, scale, 1), np.nan)


def _correlation(p, a, counts) -> Float[np.ndarray, "b"]:
    """Correlation of the effects, by their moments; NaN where either does not vary.

    Samples in which the moments cancel are computed effect by effect.
    """
    moments = [_moments(one, counts) for one in (p, a)]
    (near, mean_p, spread_p, p_varies), (near_a, mean_a, spread_a, a_varies) = moments
    whole = p_varies & a_varies
    cross = counts.T @ (near * near_a) / len(p) - mean_p * mean_a
    scale = np.sqrt(np.where(whole, spread_p, 1)) * np.sqrt(np.where(whole, spread_a, 1))
    found = np.where(whole, cross / scale, np.nan)
    rows = [np.repeat(np.arange(len(p)), one) for one in counts.T[~whole].astype(int)]
    if rows:
        found[~whole] = _correlation_of_rows(p[np.stack(rows)], a[np.stack(rows)])
    return found


def _moments(values: Float[np.ndarray, "g"], counts):
    """Values in units of the largest, less their mean; means, variances, and whether those hold."""
    largest = np.abs(values).max()
    near = values / largest if largest > 0 else values
    near = near - near.mean()
    mean, square = (counts.T @ np.stack([near, near**2], axis=1) / len(values)).T
    spread, rounding = square - mean**2, 64 * len(values) * np.finfo(float).eps
    return near, mean, spread, spread > np.maximum(_CANCELLED * square, rounding**2)


def _correlation_of_rows(p, a) -> Float[np.ndarray, "b"]:
    p, p_varies = _centred(p)
    a, a_varies = _centred(a)
    scale = np.sqrt(np.sum(p * p, axis=1) * np.sum(a * a, axis=1))
    varies = p_varies & a_varies
    return np.where(varies, np.sum(p * a, axis=1) / np.where(varies, scale, 1), np.nan)


def _centred(rows) -> tuple[np.ndarray, np.ndarray]:
    """Rows minus their means, scaled to a largest entry of 1, and whether they vary at all."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    spread = np.abs(rows).max(axis=1, keepdims=True)
    varies = spread > 4 * rows.shape[1] * np.finfo(float).eps  # the rounding of a mean of g terms
    return rows / np.where(varies, spread, 1), varies[:, 0]
