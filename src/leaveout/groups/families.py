"""The shelf of families: functions that make groups.

To add one, write `f(key, data, *, sizes, ...) -> Groups`: same key, same groups. `data` is anything
with n, x (n d) and y (n), a `Dataset` or an objective. The families follow Koh et al. (2019),
section 3 and their released code, with random numbers of our own.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

from leaveout.groups.clusterings import clusterings
from leaveout.groups.container import Groups
from leaveout.groups.counted import Counted, known
from leaveout.runtime.memory import GRADIENT_BYTES
from leaveout.runtime.options import check_key, generator
from leaveout.runtime.tables import dense_copy, is_sparse
from leaveout.runtime.text import shortened

__all__ = [
    "Examples",
    "Inputs",
    "feature_clusters",
    "gradient_clusters",
    "of_data",
    "random",
    "same_class",
    "seven",
    "shared_feature",
    "sizes",
    "tails",
]


@runtime_checkable
class Inputs(Counted, Protocol):
    """Anything with n examples and their inputs."""

    @property
    def x(self) -> Any:
        """Inputs (n d)."""
        ...


@runtime_checkable
class Examples(Inputs, Protocol):
    """Anything with n examples, their inputs and their targets: an objective, a data set."""

    @property
    def y(self) -> Any:
        """Targets (n)."""
        ...


@runtime_checkable
class _Modelled(Protocol):
    """Examples that say whether their model has an intercept."""

    @property
    def intercept(self) -> bool: ...


_SKETCH = 512  # dimensions of the sketch of gradients that are too many to hold


def sizes(n: int, num: int = 100, low: float = 0.0025, high: float = 0.25) -> np.ndarray:
    """(num) sizes evenly spaced from low n to high n, truncated to integers, at least 1.

    Args:
        n: points in all.
        num: how many sizes.
        low: the least, a share of n.
        high: the largest, a share of n.

    Returns:
        (num) integers.

    Example:
        >>> lo.groups.sizes(1_000, 4).tolist()
        [2, 84, 167, 250]

    Source: Koh et al. (2019), section 3: 0.25 % to 25 % of the training data.
    """
    return np.clip(np.linspace(int(low * n), int(high * n), num).astype(int), 1, n - 1)


def _sized(sizes, n: int) -> list[int]:
    """Sizes of groups of n points."""
    given = list(sizes) if isinstance(sizes, Iterable) else sizes
    asked = np.asarray(given)
    if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "iu"):
        raise ValueError(f"expected sizes as a list of integers, got {shortened([given])}")
    beyond = asked[(asked < 1) | (asked >= n)]
    if beyond.size:
        raise ValueError(f"expected sizes of 1 to {n - 1} of {n} points, got {beyond[0]}")
    return asked.tolist()


def _family(lists, n, kind, asked, why="") -> Groups | None:
    note = f"{kind}: {len(lists):,} of {asked:,} groups" + (f"; {why}" if why else "")
    if not lists:
        return None
    names = [f"{kind} {i}" for i in range(len(lists))]
    return Groups.from_indices(lists, n=n, names=names, kind=kind, notes=(note,))


def _some(made: Groups | None, kind: str, why: str) -> Groups:
    if made is None:
        raise ValueError(f"{kind}: no group could be made; {why}")
    return made


def random(key: Array, data: Counted, *, sizes: Iterable) -> Groups:
    """Points drawn uniformly without replacement, one group a size.

    Args:
        key: random key.
        data: with n.
        sizes: one group each.

    Returns:
        the groups.

    Raises:
        ValueError: for what is no key or no such data, no sizes, or sizes that are not 1 to n - 1.

    Example:
        >>> lo.groups.random(jax.random.key(0), objective, sizes=[2, 4]).size.tolist()
        [2, 4]
    """
    known(data, Counted)
    rng = generator(key)
    lists = [rng.choice(data.n, size, replace=False) for size in _sized(sizes, data.n)]
    return _some(_family(lists, data.n, "random", len(lists)), "random", "no sizes were given")


def _pools(key, pools: list[np.ndarray], data, sizes, kind: str, what: str) -> Groups:
    """For each size, a pool large enough chosen uniformly, then points of it."""
    rng, lists, sizes = generator(key), [], _sized(sizes, data.n)
    lengths = np.array([pool.size for pool in pools])
    for size in sizes:
        large = np.flatnonzero(lengths >= size)
        if large.size:
            lists.append(rng.choice(pools[rng.choice(large)], size, replace=False))
    missing = len(sizes) - len(lists)
    why = f"{missing} sizes exceed the largest {what} ({lengths.max():,} points)" if missing else ""
    return _some(_family(lists, data.n, kind, len(sizes), why), kind, why)


def _inputs(data: Inputs) -> np.ndarray:
    """Inputs (n d) as an array; a large sparse matrix is refused."""
    return dense_copy(data.x, "x") if is_sparse(data.x) else np.asarray(data.x)


def same_class(key: Array, data: Examples, *, sizes: Sequence | np.ndarray) -> Groups:
    """Points of one class: a class with at least `size` points is chosen, then points of it.

    Args:
        key: random key.
        data: with n, x (n d) and y (n).
        sizes: one group each, if a class is large enough.

    Returns:
        the groups.

    Raises:
        ValueError: for what is no key or no such data, sizes that are not 1 to n - 1, or where no
            class is large enough for any of them.

    Example:
        >>> lo.groups.same_class(jax.random.key(0), objective, sizes=[2, 4]).size.tolist()
        [2, 4]
    """
    known(data, Examples)
    y = np.asarray(data.y)
    pools = [np.flatnonzero(y == label) for label in np.unique(y)]
    return _pools(key, pools, data, sizes, "random within class", "class")


def shared_feature(key: Array, data: Inputs, *, sizes: Iterable) -> Groups:
    """Points of like value in one feature: a window of a random feature's ranks.

    Ties are in the order of the data, so that windows of a sparse feature are slices of equals.

    Args:
        key: random key.
        data: with n and x (n d).
        sizes: one group each.

    Returns:
        the groups.

    Raises:
        ValueError: for what is no key or no such data, no sizes, or sizes that are not 1 to n - 1;
            for a sparse x that is too large to be written out.

    Example:
        >>> lo.groups.shared_feature(jax.random.key(0), objective, sizes=[2, 4]).size.tolist()
        [2, 4]
    """
    known(data, Inputs)
    rng, x, n, lists = generator(key), _inputs(data), data.n, []
    for size in _sized(sizes, n):
        order = np.argsort(x[:, rng.integers(x.shape[1])], kind="stable")
        begin = min(max(int(rng.integers(n)) - size // 2, 0), n - size)
        lists.append(order[begin : begin + size])
    kind = "shared feature value"
    return _some(_family(lists, n, kind, len(lists)), kind, "no sizes were given")


def feature_clusters(key: Array, data: Inputs, *, sizes: Sequence | np.ndarray) -> Groups:
    """Points near each other: of one cluster of the raw inputs.

    The clusters are those of single linkage cut by inconsistency (threshold 1, depth 2) and of
    k-means with k = 4, 8, ..., 128, pooled; for each size a cluster large enough is chosen.

    Args:
        key: random key.
        data: with n and x (n d).
        sizes: one group each, if a cluster is large enough.

    Returns:
        the groups.

    Raises:
        ValueError: for what is no key or no such data, sizes that are not 1 to n - 1, or where no
            cluster is large enough for any; for a sparse x that is too large to be written out.

    Example:
        >>> lo.groups.feature_clusters(jax.random.key(0), objective, sizes=[3, 5]).size.tolist()
        [3, 5]
    """
    known(data, Inputs)
    return _clusters(key, _inputs(data), data, sizes, "feature clustering")


def gradient_clusters(
    key: Array,
    data: Inputs,
    residuals: Float[Array | np.ndarray, "n ..."],
    *,
    sizes: Sequence | np.ndarray,
    intercept: bool = True,
) -> Groups:
    """Points that pull theta alike: of one cluster of the gradients of the loss.

    Args:
        key: random key.
        data: with n and x (n d).
        residuals: (n) or (n K) derivative of each loss at its scores; the gradient of a linear
            model is its product with the inputs (and 1 for the intercept).
        sizes: one group each, if a cluster is large enough.
        intercept: whether the model has one.

    Gradients that would take more than 128 MiB are sketched in 512 dimensions, which keeps
    distances to about 6 %.

    Returns:
        the groups.

    Raises:
        ValueError: for what is no key or no such data, residuals of other points, sizes that are
            not 1 to n - 1, or where no cluster is large enough for any of them; for a sparse x that
            is too large to be written out.

    Example:
        >>> residuals = np.asarray(fit.expansion().first)
        >>> key = jax.random.key(0)
        >>> lo.groups.gradient_clusters(key, objective, residuals, sizes=[3]).size.tolist()
        [3]
    """
    known(data, Inputs)
    x = _inputs(data)
    x = np.c_[x, np.ones(len(x))] if intercept else x
    residuals = np.asarray(residuals, float)
    if not residuals.ndim or len(residuals) != len(x):
        raise ValueError(
            f"expected a residual of each of {len(x)} points, got shape {residuals.shape}"
        )
    residuals = residuals.reshape(len(x), -1)
    width = residuals.shape[1] * x.shape[1]
    if 8 * len(x) * width <= GRADIENT_BYTES:
        gradients = (residuals[:, :, None] * x[:, None, :]).reshape(len(x), width)
        return _clusters(key, gradients, data, sizes, "gradient clustering")
    rng = generator(_own(key, 1))
    gradients = np.zeros((len(x), _SKETCH))
    for column in residuals.T:  # one class at a time: never n x p
        gradients += column[:, None] * (x @ rng.normal(size=(x.shape[1], _SKETCH)))
    made = _clusters(key, gradients / np.sqrt(_SKETCH), data, sizes, "gradient clustering")
    note = f"{made.notes[0]}; of gradients sketched from {width:,} to {_SKETCH} dimensions"
    return dataclasses.replace(made, notes=(note,))


def _clusters(key, points, data, sizes, kind) -> Groups:
    rng = generator(_own(key, 0))
    labels = clusterings(points, rng)
    pools = [np.flatnonzero(label == c) for label in labels for c in np.unique(label)]
    return _pools(key, pools, data, sizes, kind, "cluster")


def tails(
    key: Array,
    scores: Float[Array | np.ndarray, "n m"],
    *,
    num: int = 100,
    names: Sequence[object] | None = None,
) -> Groups:
    """Points with the most positive, and the most negative, influence on each of m queries.

    For each query, three phases of sizes up to 2.5 %, 10 % and 25 % of n; a group is drawn from the
    1.5 x (the phase's largest size) points at that end.

    Args:
        key: random key.
        scores: (n m) influence of each training point on each query's loss.
        num: groups for each query and end.
        names: (m) names of the queries; default their position.

    Returns:
        the groups.

    Raises:
        ValueError: for what is no key, scores that are no numbers (n m), or a num of 0.

    Example:
        >>> scores = lo.per_point(fit, lo.measures.loss((x[:1], y[:1])))
        >>> len(lo.groups.tails(jax.random.key(0), scores, num=3))
        6
    """
    scores, rng = np.asarray(scores), generator(key)
    if scores.ndim != 2 or scores.dtype.kind not in "iuf":
        raise ValueError(
            f"expected scores (n m), a column of numbers each query, got {scores.dtype} of shape "
            f"{scores.shape}"
        )
    n, lists, labels, kinds = len(scores), [], [], []
    counts = (num // 3, num // 3, num - 2 * (num // 3))
    for query, column in enumerate(scores.T):
        order = np.argsort(column, kind="stable")
        name = query if names is None else names[query]
        for high, count in zip((0.025, 0.1, 0.25), counts, strict=True):
            phase = sizes(n, count, high=high)
            window = min(int(1.5 * phase.max()), n) if count else 0
            for size in phase:
                for kind, pool in (
                    ("negative tail", order[:window]),
                    ("positive tail", order[n - window :]),
                ):
                    lists.append(rng.choice(pool, min(size, window), replace=False))
                    labels.append(f"{kind} of query {name}, {size} points")
                    kinds.append(kind)
    asked = 2 * num * scores.shape[1]
    note = f"tails: {len(lists):,} of {asked:,} groups"
    return Groups.from_indices(lists, n=n, names=labels, kind=kinds, notes=(note,))


def of_data(key: Array, data: Examples, *, num: int = 100) -> Groups:
    """Those of the paper's seven kinds that look at the data alone, whatever was fitted to it.

    Random, random within a class, shared feature value, feature clusters: num of each.

    Args:
        key: random key, as in `seven`.
        data: with n, x (n d) and y (n).
        num: groups a family.

    Returns:
        the groups, family after family.

    Raises:
        ValueError: for what is no key or no such data, a num of 0, or a sparse x that is too large
            to be written out.

    Example:
        >>> len(lo.groups.of_data(jax.random.key(0), lo.datasets.wine(), num=2))
        8
    """
    known(data, Examples)
    every = sizes(data.n, num)
    families = (random, same_class, shared_feature, feature_clusters)
    parts = [f(_own(key, i), data, sizes=every) for i, f in enumerate(families)]
    return functools.reduce(operator.add, parts)


def seven(
    key: Array,
    data: Examples,
    residuals: Float[Array | np.ndarray, "n ..."],
    scores: Float[Array | np.ndarray, "n m"],
    *,
    num: int = 100,
    first: Groups | None = None,
) -> Groups:
    """The paper's seven kinds of groups: num of each family, and num for each query and tail.

    Every family has its own key, so that leaving one out changes no other.

    Args:
        key: random key.
        data: with n, x (n d) and y (n); for instance an objective.
        residuals: as in `gradient_clusters`.
        scores: as in `tails`.
        num: groups a family; 100 and six queries make up to 1,700.
        first: `of_data(key, data, num=num)`, where several models of the same data share it.

    Returns:
        the groups, family after family.

    Raises:
        ValueError: for what is no key or no such data, scores or residuals of another shape, a num
            of 0, or a sparse x that is too large to be written out.

    Example:
        >>> scores, residuals = lo.per_point(fit, measure), np.asarray(fit.expansion().first)
        >>> len(lo.groups.seven(jax.random.key(0), objective, residuals, scores, num=2))
        14

    Source: Koh et al. (2019), section 3; sizes and windows as in their released code.
    """
    known(data, Examples)
    every = sizes(data.n, num)
    intercept = data.intercept if isinstance(data, _Modelled) else True
    first = of_data(key, data, num=num) if first is None else first
    near = gradient_clusters(_own(key, 4), data, residuals, sizes=every, intercept=intercept)
    return first + near + tails(_own(key, 5), scores, num=num)


def _own(key, number):
    check_key(key)
    return jax.random.fold_in(key, number)
