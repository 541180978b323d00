"""The groups of a study of a network: families of the paper, natural ones, halves and singles."""

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from leaveout import groups as _groups
from leaveout.groups import Groups
from leaveout.runtime.options import generator
from leaveout.studies.datasets import Dataset

__all__ = ["LEAST", "check", "families", "natural", "share"]

LEAST = 5  # groups of a family that is scored
_HALVES, _SINGLES = 3, 2  # shares of the groups, of which any other family has one
_SHARES = 7 + _HALVES + _SINGLES
_OF_CLASS = 0.8  # of the largest class that a group takes at most
_NATURAL = 60  # groups of a column of labels up to which they take part


class _Inputs(NamedTuple):
    """What gradients are clustered of.

    Attributes:
        n: examples.
        x: (n f) what the last layer is given.
    """

    n: int
    x: Float[np.ndarray, "n f"]


def natural(data: Dataset) -> Groups | None:
    """The groups that come with the data, by its first column of labels, where they are few."""
    if not data.labels:
        return None
    name, column = next(iter(data.labels.items()))
    if not 2 < len(np.unique(column)) <= _NATURAL:
        return None
    return Groups.from_labels(column, kind=name)


def check(count: int) -> None:
    """Refuse fewer groups than give every family those that a score takes.

    Raises:
        ValueError: with how many it takes.
    """
    if count < LEAST * _SHARES:
        raise ValueError(
            f"expected at least {LEAST * _SHARES} groups for all families, got {count}: raise "
            "--trainings, or lower --seeds"
        )


def share(data: Dataset, count: int) -> int:
    """Groups a family, where there are to be `count` in all; natural groups take part whole.

    Raises:
        ValueError: if that is fewer than a score takes.
    """
    own = natural(data)
    left = count - (0 if own is None else len(own))
    check(left)
    return left // _SHARES


def families(
    key: Array,
    data: Dataset,
    count: int,
    *,
    features: Float[np.ndarray, "n f"],
    residuals: Float[np.ndarray, "n ..."],
    scores: Float[np.ndarray, "n m"],
) -> Groups:
    """At most `count` groups: the paper's seven kinds of .25 to 25 %, random halves, and singles.

    Args:
        key: random key.
        data: the training examples.
        count: groups in all.
        features: what the last layer is given; with `residuals` the gradients of that layer.
        residuals: derivative of each loss in the outputs.
        scores: what each example does to queries, for the tails; of one query.
    """
    num = share(data, count)
    every = _groups.sizes(data.n, num)
    deep = _Inputs(data.n, features)
    made: list[Callable[[Array], Groups]] = [
        lambda key: _groups.random(key, data, sizes=every),
        lambda key: _groups.shared_feature(key, data, sizes=every),
        lambda key: _groups.feature_clusters(key, data, sizes=every),
        lambda key: _groups.gradient_clusters(key, deep, residuals, sizes=every),
        lambda key: _groups.tails(key, scores, num=num),
        lambda key: _drawn(key, data.n, _HALVES * num, data.n // 2, "half"),
        lambda key: _drawn(key, data.n, _SINGLES * num, 1, "single"),
    ]
    if data.labelled:
        largest = int(np.bincount(data.y).max())
        own_class = _groups.sizes(data.n, num, high=min(0.25, _OF_CLASS * largest / data.n))
        made.append(lambda key: _groups.same_class(key, data, sizes=own_class))
    parts = [make(jax.random.fold_in(key, number)) for number, make in enumerate(made)]
    own = natural(data)
    return functools.reduce(operator.add, parts if own is None else [own, *parts])


def _drawn(key: Array, n: int, count: int, size: int, kind: str) -> Groups:
    """Groups of one size, drawn at random; single points without repetition."""
    rng = generator(key)
    if size == 1:
        lists = rng.choice(n, min(count, n), replace=False)[:, None]
    else:
        lists = [rng.choice(n, size, replace=False) for _ in range(count)]
    names = [f"{kind} {i}" for i in range(len(lists))]
    return Groups.from_indices(list(lists), n=n, names=names, kind=kind)
