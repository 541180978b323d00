"""What every point would do if it changed sides: left, or came back; what searches for sets go by.

To first order in each point's own Newton step, from theta, the minimum without the points that are
off. With a = grad f, t_i what point i loses (negative where it comes back),

    t_i (1 - t_i c_i x_i' H^-1 x_i)^-1 grad loss_i . H^-1 a,   H of what is there

One question needs an adjoint in H, for all points at once, and every point's leverage. Both cost
n p^2: H is summed, factorised and brought before every row. Where p is large, the adjoints of many
questions are solved together by conjugate gradients in the metric of the fit, to a thousandth and
with products in float32, for points are only ranked by them; and leverages are those of the fit,
somewhat below what they are where much has left. A question that this does not answer goes alone.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from leaveout.fitting.fitted import Fit, with_rows
from leaveout.measures import Measure
from leaveout.objectives.abstract import weigh
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.linear import as_linear
from leaveout.runtime.batches import in_rungs
from leaveout.runtime.memory import NEWTON_LANES, budget, longest
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import devices, entry_point, place, replicate, to_host
from leaveout.runtime.solution import Status
from leaveout.solvers import CG, factorise, full_matrix, leverage, seen_through

__all__ = ["toggled", "values_at"]

_ALONE = 1e-8  # of its curvature that a point leaves, below which its step is no number
_LARGE = 64  # parameters from which on a Hessian a question is dearer than a few products with X
_ROUGH = CG(1e-3)  # solves that points are only ranked by


def values_at(fit: Fit, measures: tuple[Measure, ...], theta: Array) -> Float[Array, "m"]:
    """All columns of some measures at theta."""
    return jnp.concatenate([each.values(fit.objective, theta, None) for each in measures])


@entry_point
def toggled(
    fit: Fit,
    measures: tuple[Measure, ...],
    theta: Float[np.ndarray, "b p"],
    off: Bool[np.ndarray, "b n"],
    amounts: Float[np.ndarray, "n"],
    columns: Int[np.ndarray, "b"],
) -> Float[np.ndarray, "b n"]:
    """What each point's changing sides does, to first order in its own Newton step.

    Args:
        fit: the fitted objective.
        measures: bound to it.
        theta: each question's model, the minimum without the points that are off.
        off: which these are.
        amounts: what each point loses when it leaves.
        columns: which of the measures' columns each question is about.
    """
    count, seen = len(columns), _rows_of(fit)
    found, alone = np.zeros(off.shape), np.arange(count)

    def some(rows: np.ndarray):
        assert seen is not None  # below
        sides = place(theta[rows], fit.flat.dtype), place(off[rows], bool)
        return _together(fit, seen, measures, *sides, amounts, columns[rows])

    if seen is not None:
        most = longest(8 * 8 * fit.objective.n, budget(), NEWTON_LANES)
        found, good = in_rungs(count, most, some, NEWTON_LANES, NEWTON_LANES // 2)
        found, alone = np.array(to_host(found)), np.flatnonzero(~to_host(good))
    for k in alone:
        question = theta[k], off[k], amounts, np.asarray(columns[k])
        found[k] = to_host(_alone(fit, measures, *question))
    return found


def _pull(fit, measures, theta, column) -> Float[Array, "p"]:
    """The gradient of a column at theta."""
    return jax.grad(lambda t: values_at(fit, measures, t)[column])(theta)


class _Rows(eqx.Module):
    """A linear model of one score in the coordinates of its metric.

    Attributes:
        rows: (n p) the design there, in float32.
        leverages: (n) their squared lengths, x_i' H^-1 x_i.
        scores: (n) at theta_hat.
        curvature: (n) of each loss there, times its base weight.
    """

    rows: Float[Array, "n p"]
    leverages: Float[Array, "n"]
    scores: Float[Array, "n"]
    curvature: Float[Array, "n"]


def _rows_of(fit: Fit) -> _Rows | None:
    """What questions are answered by together: of a model of one score and many columns."""
    if fit.objective.p < _LARGE or devices() > 1:
        return None
    metric = with_rows(fit, budget()).metric
    if metric is None or metric.rows is None:
        return None
    return _single_rows(as_linear(fit.objective), fit.flat, metric.rows)


@remembered
@eqx.filter_jit
def _single_rows(objective, theta, rows) -> _Rows:
    curvature, scores = objective.at(theta).curvature[:, 0, 0], objective.scores(theta)[:, 0]
    return _Rows(rows.astype(jnp.float32), jnp.sum(rows**2, axis=1), scores, curvature)


@eqx.filter_jit
def _together(fit: Fit, seen: _Rows, measures, theta, off, amounts, columns):
    """The answers (b n) to questions side by side, and (b) which of them are answers."""
    objective, metric, dtype = as_linear(fit.objective), fit.metric, fit.flat.dtype
    assert metric is not None  # _rows_of

    def along(u):
        """(b n) how a change of coordinates (b p) moves scores."""
        return (u.astype(jnp.float32) @ seen.rows.T).astype(dtype)

    pulls = jax.vmap(lambda t, column: _pull(fit, measures, t, column))(theta, columns)
    pulls = metric.whiten(pulls).astype(jnp.float32)
    there = jnp.where(off, (objective.weights - amounts)[None], objective.weights[None])
    slope = jax.grad(objective.loss.value)
    bend = jax.grad(slope)
    scores = seen.scores[None] + along((theta - fit.flat[None]) @ metric.lower)
    first = jax.vmap(lambda s: jax.vmap(slope)(s, objective.y))(scores)
    second = jax.vmap(lambda s: jax.vmap(bend)(s, objective.y))(scores)

    lost = seen.curvature[None] - weigh(there, second)
    lose = seen_through(seen.rows, lost.astype(jnp.float32))
    adjoint = _ROUGH.solve(lambda u: u - lose(u), lambda b: b, pulls)
    change = jnp.where(off, -amounts[None], amounts[None])
    kept = 1 - weigh(change, second) * seen.leverages[None]
    held = kept > max(_ALONE, 8 * float(jnp.finfo(dtype).eps))
    step = jnp.where(held, first / jnp.where(held, kept, 1.0), 0.0)
    effect = weigh(change, step * along(adjoint.value))
    good = (adjoint.status == Status.converged) & jnp.all(jnp.isfinite(adjoint.value), axis=1)
    return _finite(effect), replicate(good)


def _finite(effect: Array) -> Array:
    return replicate(jnp.where(jnp.isfinite(effect), effect, 0.0))


@eqx.filter_jit
def _alone(fit, measures, theta, off, amounts, column):
    """The answer (n) to one question, of any objective."""
    expansion = fit.objective.at(theta)
    factor, _ = factorise(full_matrix(expansion, fit.objective.weights - amounts * off))
    adjoint = factor.solve(_pull(fit, measures, theta, column)[None])[0]
    change = jnp.where(off, -amounts, amounts)
    return _finite(change * _steps(expansion, factor, adjoint, change))


def _steps(expansion, factor, adjoint, change):
    """Slopes, of a linear model each rescaled by its own leverage, times the adjoint."""
    if not isinstance(expansion, LinearExpansion):
        return expansion.dot(adjoint)

    def rescale(point):
        own, slopes, second, change = point
        eye = jnp.eye(len(slopes), dtype=slopes.dtype)
        left = eye - change * second @ own
        kept = jnp.linalg.det(left) > _ALONE  # else nothing holds it but the point itself
        return jnp.where(kept, jnp.linalg.solve(left, slopes), 0.0)

    each = leverage(expansion, factor), expansion.first, expansion.second, change
    first = jax.vmap(rescale)(each)
    return dataclasses.replace(expansion, first=first).dot(adjoint)
