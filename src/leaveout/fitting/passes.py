"""One pass over the examples: value, gradient and Hessian of J together.

Many examples are looked at a block at a time, each block while it is in the cache: beside the data
nothing is then in memory that has an entry an example.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective
from leaveout.runtime.batches import summed
from leaveout.runtime.memory import MANY_EXAMPLES, PASS_EXAMPLES
from leaveout.runtime.sharding import devices, on_host

__all__ = ["SecondOrder", "count_blocks", "scatter", "second_order", "value_of"]

_T = TypeVar("_T")


class SecondOrder(NamedTuple):
    """J around one theta: its value, gradient, and Hessian with penalty and gauge."""

    value: Float[Array, ""]
    gradient: Float[Array, "p"]
    matrix: Float[Array, "p p"]


def count_blocks(objective: AbstractObjective) -> int:
    """Into how many blocks the examples are cut: one, unless they are many, on one processor."""
    few = objective.n <= MANY_EXAMPLES or objective.sparse
    return 1 if few or not on_host() or devices() > 1 else -(-objective.n // PASS_EXAMPLES)


def second_order(
    objective: AbstractObjective, theta: Float[Array, "p"], every: int | Int[Array, ""] = 1
) -> SecondOrder:
    """J around theta, by one pass: n p^2 multiplications for a linear model.

    Args:
        objective: J.
        theta: (p).
        every: of the blocks (`count_blocks`) only the first of so many is looked at, and stands for
            all of them. It may be traced: one program serves every share.
    """

    def term(some: AbstractObjective):
        expansion, bare = some.at(theta), some.with_l2(0.0)
        gauge = expansion.gauge()
        matrix = expansion.hessian(some.weights)
        return *bare.value_and_gradient(theta), matrix, () if gauge is None else gauge

    value, gradient, matrix, gauge = _summed(objective, term, every)
    penalty = objective.penalty
    matrix = matrix + jnp.diag(penalty)
    return SecondOrder(
        value + 0.5 * jnp.sum(penalty * theta**2),
        gradient + penalty * theta,
        matrix + gauge if isinstance(gauge, jax.Array) else matrix,
    )


def value_of(
    objective: AbstractObjective, theta: Float[Array, "p"], every: int | Int[Array, ""] = 1
) -> Float[Array, ""]:
    """J at theta; further as in `second_order`."""
    value = _summed(objective, lambda some: some.with_l2(0.0).value(theta), every)
    return value + 0.5 * jnp.sum(objective.penalty * theta**2)


def scatter(objective: AbstractObjective, theta: Float[Array, "p"]) -> Float[Array, "p p"]:
    """sum_i g_i g_i' at theta, as costly as a Hessian."""

    def term(some: AbstractObjective):
        expansion: AbstractExpansion = some.at(theta)
        return expansion.scatter()

    return _summed(objective, term)


def _summed(
    objective: AbstractObjective,
    term: Callable[[AbstractObjective], _T],
    every: int | Int[Array, ""] = 1,
) -> _T:
    """The sum over blocks of what `term` makes of the objective of a block's examples."""
    if count_blocks(objective) == 1:
        return term(objective)

    def of(cut):
        *data, weights = objective.examples
        some = *jax.tree.map(cut, data), every * cut(weights[None], 1)[0]
        return term(eqx.tree_at(lambda o: o.examples, objective, some))

    return summed(of, PASS_EXAMPLES, objective.n, every)
