"""Families that ask only how many examples there are: folds, single points, lookalikes."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array

from leaveout.groups.container import Groups
from leaveout.groups.dealing import shuffles
from leaveout.runtime.options import check_integer, check_is, generator

__all__ = ["Counted", "folds", "known", "lookalikes", "singles"]


@runtime_checkable
class Counted(Protocol):
    """Anything that knows how many examples there are."""

    @property
    def n(self) -> int:
        """Number of examples."""
        ...


def known(data, kind: type) -> None:
    """Refuse what is no such data, a fit among it."""
    if not isinstance(data, kind):
        raise ValueError(
            f"expected a linear model or a data set, got {type(data).__name__}; of a fit give "
            "fit.objective"
        )


def folds(key: Array | None, data: Counted | int | np.integer, k: int) -> Groups:
    """The k folds of cross-validation: blocks of ceil(n / k), shuffled if a key is given.

    Args:
        key: random key, or None for the order of the data.
        data: with n, or n itself.
        k: number of folds, 2 to n.

    Returns:
        the groups.

    Raises:
        ValueError: for what is no key or no such data, or fewer than 2 folds or more than n.

    Example:
        >>> lo.groups.folds(None, 24, 3).size.tolist()
        [8, 8, 8]
    """
    if not isinstance(data, int | np.integer):
        known(data, Counted)
    n = data if isinstance(data, int | np.integer) else data.n
    check_integer(k, "k, the number of folds,")
    if not 2 <= k <= n:
        raise ValueError(f"expected 2 to {n} folds, got {k}")
    number = np.arange(n) // -(-n // k)
    if key is not None:
        number = generator(key).permutation(number)
    return dataclasses.replace(Groups.from_labels(number, kind="fold"), notes=())


def singles(data: Counted) -> Groups:
    """Every point alone: leave one out.

    Args:
        data: with n.

    Returns:
        n groups of one point.

    Raises:
        ValueError: for what is no such data, a fit among it.

    Example:
        >>> len(lo.groups.singles(objective))
        24
    """
    known(data, Counted)
    return Groups.from_indices(list(np.arange(data.n)[:, None]), n=data.n, kind="single")


def lookalikes(key: Array, data: Counted, *, like: Groups, within=None, draws: int = 1) -> Groups:
    """Random groups like the given ones: of the same sizes, and as many points of each stratum.

    Args:
        key: of the draws.
        data: with n.
        like: groups, whose weights are kept.
        within: (n) strata, for example the classes; default one of all points.
        draws: how often.

    Returns:
        g groups a draw, draw after draw. Groups that do not overlap do not in a draw either: it is
        a permutation of the points.

    Raises:
        ValueError: for what is no key, no such data or no groups of it, draws that are no count, or
            strata that are not one for each point, miss some, or have another pandas index than
            the groups.

    Example:
        >>> lo.groups.lookalikes(jax.random.key(0), objective, like=groups, draws=2).size.tolist()
        [6, 6, 6, 6, 6, 6, 6, 6]
    """
    known(data, Counted)
    check_is(like, Groups, "like= as lo.Groups")
    if like.n != data.n:
        raise ValueError(f"expected groups of these {data.n:,} points, got groups of {like.n:,}")
    check_integer(draws, "draws")
    return Groups.from_pairs(
        np.concatenate(list(shuffles(key, like, within, draws))),
        np.repeat(np.arange(draws * len(like)), np.tile(like.size, draws)),
        n=data.n,
        w=None if like.partial is None else np.tile(like.partial, draws),
        kind="lookalike",
    )
