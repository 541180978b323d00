"""Which effects are determined although theta is not: column by column.

What stays may leave theta undetermined along a direction (a dummy of the group that left, columns
that now add up to others), or send it to infinity along one (an intercept whose only events left).
A functional that does not change along it has its value, or its limit, all the same.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from leaveout.certify.balls import DENSE
from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.objectives.abstract import AbstractScores
from leaveout.runtime.memory import bucket
from leaveout.runtime.sharding import replicate, to_host
from leaveout.runtime.solution import Status
from leaveout.solvers import Factor, factorise, full_matrix

__all__ = ["determined", "in_question", "of_groups"]

_LOOSE = 1e-8  # share of its curvature that a direction has left at which it counts as free
_TOLERANCE = 1e-6  # of what a column can move, and of the change


def in_question(fit: Fit, change: Change, actual: bool) -> np.ndarray:
    """Positions of the groups that leave theta undetermined, where `determined` can tell of what.

    It can for models of scores with a factor of H, in float64, up to p = 2,000. An approximation
    whose equation is not solved is not looked at; of retraining `determined` sees for itself what
    is left to go.
    """
    sees = isinstance(fit.objective, AbstractScores) and fit.metric is not None
    if not sees or fit.flat.dtype != jnp.float64 or fit.flat.size > DENSE:
        return np.zeros(0, int)
    status, residual = np.asarray(change.status), np.asarray(change.residual)
    if actual:
        return np.flatnonzero((status == Status.singular) | (status == Status.no_minimum))
    return np.flatnonzero((status == Status.singular) & (residual <= _TOLERANCE))


def determined(
    fit: Fit,
    measures: Sequence[Measure],
    w: Float[Array, "k n"],
    change: Float[Array, "k p"],
    *,
    actual: bool,
    first_order: bool,
) -> Bool[np.ndarray, "k m"]:
    """Whether what stays determines each column, and the change has come to its value.

    In coordinates in which H is the identity what stays has the Hessian M. P c, with P = d (M + d
    I)^-1 to the fourth and d = 1e-8, is the part of a column's gradient c along directions that are
    free: it must be 0, and the column itself must not move along them. After retraining, the Newton
    step that is left to go in all other directions must not move it either.

    Args:
        fit: the fitted objective, a model of scores.
        measures: bound to it, smooth.
        w: what leaves.
        change: theta without, minus theta.
        actual: whether the change is retraining's, else an approximation from theta_hat.
        first_order: whether the columns are taken to first order in the change.

    Costs n p^2 + 3 p^3 a group.
    """
    assert fit.metric is not None  # see `in_question`
    how = actual, first_order
    return np.asarray(to_host(_determined(fit, fit.metric, tuple(measures), w, change, *how)))


def of_groups(
    fit: Fit,
    groups: Groups,
    measures: Sequence[Measure],
    change: Change,
    rows: np.ndarray,
    *,
    actual: bool,
    first_order: bool,
) -> Bool[np.ndarray, "r m"]:
    """`determined` of the groups `in_question`, by their positions; few shapes are compiled."""
    filled = np.resize(rows, bucket(rows.size))
    w, changes = leaving(fit, groups, filled), change.value[filled]
    how = {"actual": actual, "first_order": first_order}
    return determined(fit, measures, w, changes, **how)[: rows.size]


@eqx.filter_jit
def _determined(fit: Fit, factor: Factor, measures, w, change, actual: bool, first_order: bool):
    objective = fit.objective

    def one(lane):
        w, change = lane

        def values(theta):
            each = [measure.values(objective, theta, w) for measure in measures]
            return jnp.concatenate(each)

        theta, v = fit.flat + change, objective.stays(w)
        matrix = full_matrix(objective.at(theta if actual else fit.flat), v)
        white = factor.whiten(factor.whiten(matrix).T)
        lifted, _ = factorise(white + _LOOSE * jnp.eye(len(white), dtype=white.dtype))

        def free(rows):
            for _ in range(4):
                rows = _LOOSE * lifted.solve(rows)
            return rows

        at = fit.flat if first_order else theta
        derive = jax.jacrev if jax.eval_shape(values, at).size <= at.size else jax.jacfwd
        gradients = factor.whiten(derive(values)(at))
        size, length = jnp.linalg.norm(gradients, axis=1), jnp.linalg.norm(change @ factor.lower)
        within = _TOLERANCE * size
        good = (size > 0) & (jnp.linalg.norm(free(gradients), axis=1) <= within)
        if actual:
            left = factor.whiten(-objective.gradient(theta, v)[None])
            step = lifted.solve(left - free(left))[0]
            good &= jnp.abs(gradients @ step) <= within * length
            good &= jnp.linalg.norm(free(left)) <= _TOLERANCE * length
        return good if first_order else good & _still(values, theta, factor, free, length, within)

    return replicate(jax.lax.map(one, (w, change)))


def _still(values, theta, factor: Factor, free, length, within):
    """(m) whether the columns keep their values along a way through the free directions."""
    way = free(jax.random.normal(jax.random.key(0), (1, theta.size), theta.dtype))[0]
    size = jnp.linalg.norm(way)
    some = size > _TOLERANCE  # else no direction is free
    scale = jnp.where(length > 0, length, 1.0) / jnp.where(some, size, 1.0)
    way = way * jnp.where(some, scale, 0.0)
    step, here = factor.unwhiten(way[None])[0], values(theta)
    moved = jnp.maximum(jnp.abs(values(theta + step) - here), jnp.abs(values(theta - step) - here))
    return moved <= within * jnp.linalg.norm(way)
