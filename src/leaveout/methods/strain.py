"""Whether a step is longer than the expansion it was taken from holds.

A Newton step is the minimum of J of what stays as the loss looks from theta_hat, to second order.
Where it is long that is another function than J: points that are added where the model is sure of
their opposite have a large slope and hardly any curvature, and the step goes ten or a thousand
times too far. It shows in J itself, which then is higher after the step than before.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from leaveout.fitting.fitted import Fit
from leaveout.fitting.places import backtrack
from leaveout.objectives.abstract import AbstractObjective, weigh
from leaveout.objectives.linear import LinearObjective, as_linear
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import constrain, devices, is_traced, place, replicate, to_host
from leaveout.runtime.solution import Solution, Status

__all__ = ["Reach", "judged", "marked", "reach_of", "shortened"]

_GROWTH = 2.0  # of the curvature along a Newton step, below which J falls whatever else
_RADII = (0.5, 1.0, 2.0, 4.0, np.inf)  # moves of a score up to which curvature is bounded
_TOGETHER = 16  # lanes whose losses are in memory at once
_SCORES = 512  # of one example, of all these lanes


class Reach(eqx.Module):
    """How far a change in theta moves scores, at most: `longest` times its length.

    Where that is below 1 and no loss's curvature more than doubles over a distance of 1, J of what
    stays falls along a Newton step d: it changes by at most -d'Hd + growth d'Hd / 2.

    Attributes:
        longest: the longest row of the design, in units of the lengths; infinite where nothing is
            known of the losses, so that J has to be looked at.
        lower: (p p) the Cholesky factor of H, if lengths are in its metric.
        bends: (k n) of one score an example: the most that the curvature of its loss can be while
            the score moves by each of `_RADII`, less twice what it is.
        known: whether anything is known of the losses.
    """

    longest: Float[Array, ""]
    lower: Float[Array, "p p"] | None
    bends: Float[Array, "k n"] | None = None
    known: bool = eqx.field(static=True, default=True)

    def of(self, change: Float[Array, "b p"]) -> Float[Array, "b"]:
        """How far each change moves a score, at most."""
        seen = change if self.lower is None else change @ self.lower
        size = jnp.linalg.norm(seen, axis=1)
        return jnp.where(size > 0, self.longest * size, 0.0)


def reach_of(fit: Fit) -> Reach:
    """The reach of changes in theta of a fit."""
    objective = fit.objective
    if isinstance(objective, LinearObjective) and objective.convex and objective.loss.envelope:
        return _reach(fit)
    return Reach(jnp.full((), jnp.inf, fit.flat.dtype), None, known=False)


@remembered
@eqx.filter_jit
def _reach(fit: Fit) -> Reach:
    objective, factor = as_linear(fit.objective), fit.metric
    known = _growth(objective, fit.flat) < _GROWTH
    rows, lower = objective.design, None
    if factor is not None and factor.rows is not None:
        rows, lower = factor.rows, factor.lower
    pair = 1.0 if objective.outputs == 1 else 2.0  # the difference of two scores
    longest = jnp.sqrt(pair * jnp.max(rows**2 @ jnp.ones(rows.shape[1], rows.dtype)))
    reach = replicate(Reach(jnp.where(known, longest, jnp.inf), lower))
    if objective.outputs > 1:
        return reach
    bends = constrain(_bends(objective, fit.flat), None, "data")
    return dataclasses.replace(reach, bends=bends)


def _growth(objective: LinearObjective, theta) -> Float[Array, ""]:
    """By how much the curvature of a loss can grow, at most, while scores move by 1."""
    high = _highest(objective, theta, 1.0)
    if objective.outputs > 1:  # relative already
        return jnp.max(high)
    here = objective.at(theta).second[:, 0, 0]
    grown = high / jnp.where(here > 0, here, 1.0)
    return jnp.max(jnp.where(here > 0, grown, jnp.where(high > 0, jnp.inf, 0.0)))


def _highest(objective: LinearObjective, theta, radius: float) -> Float[Array, "n"]:
    """The most that the curvature of each loss can be while its scores move by a radius."""
    scores, envelope = objective.scores(theta), objective.loss.envelope
    assert envelope is not None  # reach_of
    given = scores[:, 0] if objective.outputs == 1 else scores
    far = jnp.asarray(radius, scores.dtype)
    return jax.vmap(lambda s, y: envelope(s, y, far)[1])(given, objective.y)


def _bends(objective: LinearObjective, theta) -> Float[Array, "k n"]:
    here = objective.at(theta).second[:, 0, 0]
    return jnp.stack([_highest(objective, theta, radius) - 2 * here for radius in _RADII])


def judged(fit: Fit, reach: Reach | None, found: Solution, left: Float[Array, "b n"]) -> Solution:
    """The changes of groups, those for which J of what stays has risen marked as `too_far`.

    Values stay as they are. One pass over the data a group, and none where `reach` tells for all.

    Args:
        fit: the fitted objective.
        reach: of it, for one Newton step; None for changes that are none.
        found: changes in theta.
        left: (b n) what points have left of their base weights.
    """
    if is_traced(found) or reach is None or bool(_may_rise(fit, reach, found.value, left)):
        return _judged(fit, found, left)
    return found


@eqx.filter_jit
def _may_rise(fit: Fit, reach: Reach, change: Float[Array, "b p"], left) -> Bool[Array, ""]:
    """Whether J may have risen along a Newton step: first by lengths, then by scores."""
    far = jnp.any(~(reach.of(change) <= 1.0))
    if not reach.known:
        return replicate(far)
    look = partial(_may_bend_up, fit, reach.bends, change, left)
    return replicate(jax.lax.cond(far, look, lambda: far))


def _may_bend_up(fit: Fit, bends, change, left: Float[Array, "b n"]) -> Bool[Array, ""]:
    """Whether the curvature could make up for the slope of any Newton step.

    Along a step d J changes by no more than -d'Hd + d'Ud / 2, with U the most that the losses'
    curvature can be on the way, for each example by how far its own scores move.
    """
    objective = as_linear(fit.objective)
    of_one = None if bends is None else partial(_above_by_radius, bends)
    above = of_one or partial(_above, objective, objective.scores(fit.flat))

    def may(lane):
        change, v = lane
        up = jnp.sum(weigh(v, above(objective.moves(change))))
        return ~(up <= objective.penalty @ change**2) | jnp.any(v < 0)

    return jnp.any(_over_lanes(objective, may, (constrain(change, "groups"), left)))


def _above_by_radius(bends: Float[Array, "k n"], moved: Float[Array, "n 1"]) -> Float[Array, "n"]:
    """`_above` of one score an example, by bounds that are found once for all moves."""
    far, bend = jnp.abs(moved[:, 0]), bends[-1]
    for radius, bound in reversed(list(zip(_RADII[:-1], bends[:-1], strict=True))):
        bend = jnp.where(far <= radius, bound, bend)
    return jnp.where(far > 0, bend * far**2, 0.0)


def _above(objective: LinearObjective, scores, moved: Float[Array, "n K"]) -> Float[Array, "n"]:
    """The most that each loss's curvature along a move can become, less twice what it is.

    Of several scores, whose envelope is relative to that.
    """
    envelope = objective.loss.envelope
    assert envelope is not None  # reach_of

    def one(score, y, moved):
        _, bent = jax.jvp(lambda s: jax.grad(objective.loss.value)(s, y), (score,), (moved,))
        along = jnp.sum(moved * bent)
        return envelope(score, y, jnp.ptp(moved))[1] * along - 2 * along

    return jax.vmap(one)(scores, objective.y, moved)


def _over_lanes(objective: AbstractObjective, function: Callable, lanes: PyTree) -> Array:
    """A function of every lane, a few lanes at a time; over several devices of all at once."""
    count = len(jax.tree.leaves(lanes)[0])
    some = max(min(_TOGETHER, _SCORES // objective.outputs, count), 1)
    if count <= some or devices() > 1:
        return jax.vmap(function)(lanes)
    return jax.lax.map(function, lanes, batch_size=some)


@eqx.filter_jit
def _judged(fit: Fit, found: Solution, left) -> Solution:
    objective, theta = fit.objective, fit.flat
    before = objective.losses(theta)

    def rises(lane):
        change, v = lane
        return ~_falls(objective, theta, change, v, before)

    lanes = constrain(found.value, "groups"), left
    found = marked(found, _over_lanes(objective, rises, lanes))
    if not objective.convex:
        bent = _over_lanes(objective, lambda lane: _bends_down(objective, theta, *lane), lanes)
        found = marked(found, bent, Status.not_positive_definite)
    return replicate(found)


def _bends_down(objective: AbstractObjective, theta, change, v) -> Bool[Array, ""]:
    """Whether J(.; v) has negative curvature along a change, where it begins or where it ends."""

    def curvature(theta):
        return change @ objective.hvp(theta, change, v)

    return (curvature(theta) < 0) | (curvature(theta + change) < 0)


def _falls(objective: AbstractObjective, theta, change, v, before) -> Bool[Array, ""]:
    """Whether J(.; v) is no higher at theta + change than at theta, but for its rounding."""
    after = objective.losses(theta + change)
    steeper = objective.penalty * change
    rise = jnp.sum(weigh(v, after - before)) + steeper @ (theta + change / 2)
    scale = jnp.sum(weigh(v, jnp.abs(after) + jnp.abs(before)))
    scale += jnp.abs(steeper) @ (jnp.abs(theta) + jnp.abs(change))
    return jnp.isfinite(rise) & (rise <= 1e2 * jnp.finfo(theta.dtype).eps * scale)


def marked(
    found: Solution, bad: Bool[Array | np.ndarray, "b"], code: Status = Status.too_far
) -> Solution:
    """The solution, its `bad` lanes that have no other failure marked as `too_far`, or as told."""
    if is_traced((found, bad)):
        status = jnp.where(bad & (found.status == Status.converged), code, found.status)
        return eqx.tree_at(lambda s: s.status, found, status.astype(jnp.int8))
    before, bad = to_host((found.status, bad))  # where no program is compiled for their number
    status = np.where(bad & (before == Status.converged), code, before)
    return eqx.tree_at(lambda s: s.status, found, place(status, np.int8))


def shortened(fit: Fit, found: Solution, v: Float[Array, "b n"]) -> tuple[Solution, Array]:
    """The changes halved until J of what stays falls, and (b) which of them were.

    Args:
        fit: the fitted objective.
        found: changes in theta.
        v: what each example gets.
    """
    objective, theta = fit.objective, fit.flat

    def one(change, v):
        value, gradient = objective.value_and_gradient(theta, v)
        return backtrack(objective, theta, change, value, gradient @ change, v)

    length = jax.vmap(one)(found.value, v)
    return eqx.tree_at(lambda s: s.value, found, length[:, None] * found.value), length < 1
