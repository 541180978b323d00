"""Intervals for the effects of retraining: what a measure can be on balls that must hold theta.

Both theta_hat and the theta that replaces it are known to a ball only: that a fit is an optimum but
for a decrement counts as much as that a candidate is.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.certify.balls import DENSE, AbstractBall, data_extent, penalty_ball
from leaveout.certify.hessian import Frame, frame, hessian_ball
from leaveout.fitting.fitted import Fit
from leaveout.measures import Measure
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.linear import LinearObjective, as_linear
from leaveout.runtime.memory import QUERY_BYTES
from leaveout.runtime.sharding import is_traced, to_host
from leaveout.runtime.solution import Certificate
from leaveout.runtime.text import warn
from leaveout.solvers import together

__all__ = ["Proof"]

_FEW = 16  # groups that the penalty's ball left open, taken together


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """What is proven of a fit, and what of the thetas that replace it.

    Attributes:
        fit: the fitted objective.
        measures: bound to it.
        count: m, columns of all measures.
        available: bytes, of which the frame of the fit may take a quarter.
        at_once: use the Hessian's ball for every group, n p^2 + p^3 each. Otherwise only where the
            penalty's does not certify, or does not exist.
        before: the balls of theta_hat that were asked for, by whether they are the Hessian's.
    """

    fit: Fit
    measures: tuple[Measure, ...]
    count: int
    available: int
    at_once: bool
    before: dict[bool, AbstractBall] = dataclasses.field(default_factory=dict)

    def enclose(self, change, w, l2=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intervals for the effects of retraining without each group, from any change in theta.

        Args:
            change: (b p) candidates, theta_without - theta.
            w: (b n) what leaves.
            l2: (b) a penalty for each refit, then by the penalty's ball alone: a frame is of one
                penalty. Default the objective's.

        Returns:
            lower, upper (b m) and `Certificate` codes (b).
        """
        upper = np.full((len(change), self.count), np.inf)
        found = -upper, upper, np.full(len(change), Certificate.uncertified, np.int8)
        if self.fit.flat.dtype != jnp.float64:
            warn(
                f"intervals need float64, so in {self.fit.flat.dtype} there are none; call "
                'jax.config.update("jax_enable_x64", True) first'
            )
            return found
        # one kind of ball after the other: see `together` for what two batched factorisations do
        if self.penalty is not None:
            found = _met(found, slice(None), self._by(self.penalty, change, w, l2))
        if l2 is not None:
            return found
        rows = np.flatnonzero(self.at_once | (found[2] != Certificate.certified))
        if not rows.size or self.frame is None:
            return found
        if self.at_once or self.penalty is None:
            return _met(found, slice(None), self._by(self.frame, change, w))
        size = min(_FEW, len(change))  # of one length: compiled once
        for run in np.split(rows, range(size, rows.size, size)):
            few = np.resize(run, size)
            part = self._by(self.frame, change[few], w[few])
            found = _met(found, run, tuple(side[: run.size] for side in part))
        return found

    def _by(self, kind: Frame | bool, change, w, l2=None):
        """Intervals from one kind of ball; that of all the data is found once."""
        if isinstance(kind, Frame) not in self.before:
            self.before[isinstance(kind, Frame)] = _before(self.fit, kind)
        before = self.before[isinstance(kind, Frame)]
        found = to_host(_enclose(self.fit, self.measures, before, change, w, l2, kind))
        return tuple(np.asarray(side) for side in found)

    @cached_property
    def penalty(self) -> bool | None:
        """Whether the intercepts are free; None where the penalty's ball does not exist."""
        return _free_intercept(self.fit.objective)

    @cached_property
    def frame(self) -> Frame | None:
        """The frame of the fit where it exists and serves."""
        return _frame_within(self.fit, self.available)


def _met(found, rows, part):
    """The intervals of some rows narrowed by others that hold as well."""
    lower, upper, code = (side.copy() for side in found)
    lower[rows] = np.maximum(lower[rows], part[0])
    upper[rows] = np.minimum(upper[rows], part[1])
    code[rows] = np.minimum(code[rows], part[2])
    # two that hold cannot be apart: if they are, what was taken for granted of rounding is not so
    apart = (lower > upper).any(axis=1)
    lower[apart], upper[apart], code[apart] = -np.inf, np.inf, Certificate.uncertified
    return lower, upper, code


def _frame_within(fit: Fit, available: int) -> Frame | None:
    """The frame of a fit where it exists and serves: in a quarter of the bytes available."""
    objective = _provable(fit.objective)
    if fit.metric is None or objective is None or not objective.convex:
        return None
    size = 8 * objective.n * objective.outputs * objective.p
    if objective.loss.envelope is None or objective.p > DENSE or size > available / 4:
        return None
    if objective.outputs > 1 and not objective.loss.categorical:
        return None  # `Points` takes the curvature for a variance
    return frame(objective, fit.flat, fit.metric)


def _provable(objective: AbstractObjective) -> LinearObjective | None:
    """The objective where something can be proven of it: a linear model's.

    Of sparse rows the span is only known to the rounding of their products, which nothing bounds.
    """
    if not isinstance(objective, LinearObjective) or objective.sparse:
        return None
    return objective if objective.span is None or objective.span.exact else None


def _free_intercept(any_objective: AbstractObjective) -> bool | None:
    """Whether the intercepts are free; None where the penalty's ball does not exist."""
    objective = _provable(any_objective)
    if objective is None or not objective.convex:
        return None
    if is_traced((objective.penalised, objective.l2)) or not float(objective.l2) > 0:
        return None
    penalised = np.asarray(objective.penalised)
    if (penalised > 0).all():
        return False
    bounded = objective.loss.envelope is not None
    usual = (penalised > 0) == objective.layout.penalised()
    return True if bounded and usual.all() else None


@eqx.filter_jit
def _before(fit: Fit, kind: Frame | bool) -> AbstractBall:
    """The ball that must hold the theta of all the data."""
    objective = as_linear(fit.objective)
    return _ball(objective, fit.flat, objective.weights, kind, data_extent(objective))


def _ball(objective, theta, v, kind: Frame | bool, extent) -> AbstractBall:
    """The Hessian's ball if `kind` is a frame, else the penalty's, of a free intercept or none."""
    if isinstance(kind, Frame):
        exact = objective.n * objective.outputs <= 2 * objective.p  # no dearer then
        return hessian_ball(kind, theta, v, fresh=True, exact=exact)
    return penalty_ball(objective, theta, v, free_intercept=kind, extent=extent)


@eqx.filter_jit
def _enclose(fit: Fit, measures, before: AbstractBall, change, w, l2, kind: Frame | bool):
    """Intervals from one kind of ball, that of all the data beside those of what stays."""
    objective = as_linear(fit.objective)
    n, p, outputs = objective.n, objective.p, objective.outputs
    extent = data_extent(objective)  # once, not once a lane

    def one(lane):
        change, w, l2 = lane
        own = objective if l2 is None else as_linear(objective.with_l2(l2))
        ball = _ball(own, fit.flat + change, objective.stays(w), kind, extent)
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), ball, before)
        # one after the other: measures are compiled once
        low, high = jax.lax.map(lambda each: _image(objective, measures, each, w), both)
        lower, upper = _outwards(low[0] - high[1], high[0] - low[1])
        far = ball.radius + before.radius * ball.stretch(before)
        close = far <= ball.size(ball.centre - before.centre)
        code = jnp.where(close, Certificate.certified, Certificate.loose)
        known = jnp.any(jnp.isfinite(lower) & jnp.isfinite(upper))
        return lower, upper, jnp.where(known, code, Certificate.uncertified).astype(jnp.int8)

    each = p if isinstance(kind, Frame) else 2 if objective.loss.categorical else outputs
    held = 8 * n * outputs * each + QUERY_BYTES
    # nothing large is factorised for the penalty's ball: wider products with the data are faster
    room = 2**26 if outputs == 1 and not isinstance(kind, Frame) else 2**23
    return jax.lax.map(one, (change, w, l2), batch_size=together(len(change), held, room))


def _image(objective, measures: Sequence[Measure], ball: AbstractBall, w):
    """What the columns can be on a ball; anything where there is none."""
    parts = [measure.enclose(objective, ball, w) for measure in measures]
    lower, upper = (jnp.concatenate(sides) for sides in zip(*parts, strict=True))
    known = jnp.isfinite(ball.radius)
    return jnp.where(known, lower, -jnp.inf), jnp.where(known, upper, jnp.inf)


def _outwards(lower, upper):
    """Bounds as differences that may be rounded; infinite where they are no numbers, or crossed."""
    eps = jnp.finfo(lower.dtype).eps
    lower, upper = lower - eps * jnp.abs(lower), upper + eps * jnp.abs(upper)
    known = ~(jnp.isnan(lower) | jnp.isnan(upper)) & (lower <= upper)
    return jnp.where(known, lower, -jnp.inf), jnp.where(known, upper, jnp.inf)
