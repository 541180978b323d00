"""How wrong float64 may leave scores, slopes, losses and their sums: what certificates allow for.

A model of rounding, not interval arithmetic. A sum of m terms is taken to lose at most
`units_of(m)` units of rounding of the sum of their sizes; a loss, its slope and its curvature at a
given score, `_EVALUATED` units of the sizes that they are made of. The scores' own rounding goes
through the loss: an input of 2,000 times a weight of 3 is off by 1e-12, and so is every slope.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from leaveout.objectives.layout import SUMMED
from leaveout.objectives.linear import LinearObjective

__all__ = ["evaluation_error", "score_error", "slope_error", "steepness", "units_of"]

_EVALUATED = 16  # units of rounding in a loss, a slope or a curvature at a given score


def units_of(terms: int) -> float:
    """Units of rounding that a sum of so many terms may lose, relative to the sum of their sizes.

    Half as many as there are terms at the very worst, which this covers up to 167 of them. Beyond,
    what sums in blocks lose, and what errors of either sign add up to.

    Source: Higham and Mary (2019), A new approach to probabilistic rounding error analysis.
    """
    return SUMMED + 4 * math.sqrt(terms)


def score_error(objective: LinearObjective, theta: Float[Array, "p"], x=None):
    """How wrong a computed score can be: (m) of inputs (m d), or () of all training examples.

    The terms of a score are summed by size, |x| . |weight|: where they cancel, as a year times its
    weight does with the intercept, the score is much smaller than what it may be off by.
    """
    sizes = jnp.abs(objective.layout.matrix(theta))  # (K q)
    unit = units_of(objective.layout.width) * jnp.finfo(theta.dtype).eps
    rows = jnp.max(jnp.abs(objective.design), axis=0) if x is None else jnp.abs(objective.widen(x))
    error = unit * jnp.max(rows @ sizes.T, axis=-1)
    if objective.span is None:
        return error
    # the rows themselves are rounded in the coordinates of their span
    lengths = jnp.linalg.norm(objective.design if x is None else rows, axis=1)
    lengths = jnp.max(lengths) if x is None else lengths
    unit = units_of(objective.span.layout.features) * jnp.finfo(theta.dtype).eps
    return error + unit * lengths * jnp.max(jnp.linalg.norm(sizes, axis=1))


def steepness(objective: LinearObjective, scores: Float[Array, "m K"], y, off):
    """(m) the most that a slope changes, summed over outputs, for each unit that a score does.

    Args:
        objective: whose loss it is.
        scores: (m K).
        y: (m ...) coded targets.
        off: (m) or (), how far the scores may be from these.
    """
    loss, off = objective.loss, jnp.broadcast_to(off, scores.shape[:1])
    if loss.categorical:
        return jnp.ones(len(scores), scores.dtype)  # the mean distance from a mean, of unit moves
    if loss.envelope is not None and scores.shape[1] == 1:
        return jax.vmap(loss.envelope)(scores[:, 0], y, off)[1]
    second = jax.vmap(jax.hessian(objective.point_loss))(scores, y)
    return 2 * jnp.sum(jnp.abs(second), axis=(1, 2))


def _sizes(objective: LinearObjective, scores, slopes, steep) -> Float[Array, "m"]:
    """What losses are made of, beside their values: slopes and curvatures times scores."""
    longest = jnp.max(jnp.abs(scores), axis=1)
    bound = objective.loss.slope if math.isfinite(objective.loss.slope) else 0.0
    return (jnp.sum(jnp.abs(slopes), axis=1) + steep + bound) * (1 + longest)


def slope_error(objective: LinearObjective, scores: Float[Array, "m K"], y, off):
    """(m) how wrong computed slopes can be, summed over outputs, if scores are `off` by so much."""
    slopes = jax.vmap(jax.grad(objective.point_loss))(scores, y)
    steep = steepness(objective, scores, y, off)
    unit = _EVALUATED * jnp.finfo(scores.dtype).eps
    return steep * off + unit * _sizes(objective, scores, slopes, steep)


def evaluation_error(objective: LinearObjective, scores: Float[Array, "m K"], y):
    """(m) how wrong computed losses can be at these very scores."""
    losses, slopes = jax.vmap(jax.value_and_grad(objective.point_loss))(scores, y)
    steep = steepness(objective, scores, y, jnp.zeros(()))
    unit = _EVALUATED * jnp.finfo(scores.dtype).eps
    return unit * (jnp.abs(losses) + _sizes(objective, scores, slopes, steep))
