"""Intervals for the effects of retraining: what a measure can be on a ball that must hold theta."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.certify.balls import (
    DENSE,
    AbstractBall,
    Frame,
    data_extent,
    frame,
    hessian_ball,
    penalty_ball,
)
from leaveout.fitting.fitted import Fit
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.layout import SUMMED
from leaveout.objectives.linear import LinearObjective, as_linear
from leaveout.runtime.memory import QUERY_BYTES
from leaveout.runtime.sharding import is_traced
from leaveout.runtime.solution import Certificate
from leaveout.runtime.text import warn
from leaveout.solvers import together

__all__ = [
    "enclose",
    "frame_within",
]


def enclose(
    fit: Fit, measures, count: int, change, w, frame: Frame | None = None, l2=None
) -> tuple:
    """Intervals for the effects of retraining without each group, from any change in theta.

    Args:
        fit: the fitted objective.
        measures: bound to it.
        count: m, columns of all measures.
        change: (b p) candidates, theta_without - theta.
        w: (b n) what leaves.
        frame: of the fit: the Hessian's ball is used beside the penalty's, n p^2 + p^3 a group.
        l2: (b) a penalty for each refit, without a frame; default the objective's.

    Returns:
        lower, upper (b m) and `Certificate` codes (b).
    """
    objective = fit.objective
    free, measures = _free_intercept(objective), tuple(measures)
    upper = np.full((len(change), count), np.inf)
    lower, code = -upper, np.full(len(change), Certificate.uncertified, np.int8)
    if fit.flat.dtype != jnp.float64:
        warn(
            f"intervals need float64, so in {fit.flat.dtype} there are none; call "
            'jax.config.update("jax_enable_x64", True) first'
        )
        return lower, upper, code
    # one kind of ball after the other: see `together` for what two batched factorisations can do
    for shared in ([] if free is None else [free]) + ([] if frame is None else [frame]):
        sides = _enclose(fit, measures, change, w, l2, shared)
        low, high, found = (np.asarray(part) for part in sides)
        lower, upper = np.maximum(lower, low), np.minimum(upper, high)
        code = np.minimum(code, found)
    return lower, upper, code


def frame_within(fit: Fit, available: int) -> Frame | None:
    """The frame of a fit where it exists and serves: in a quarter of the bytes available."""
    objective = _provable(fit.objective)
    if fit.metric is None or objective is None:
        return None
    size = 8 * objective.n * objective.outputs * objective.p
    if objective.loss.envelope is None or objective.p > DENSE or size > available / 4:
        return None
    if objective.outputs > 1 and not objective.loss.categorical:
        return None  # `Points` takes the curvature for a variance
    return frame(objective, fit.flat, fit.metric)


def _provable(objective: AbstractObjective) -> LinearObjective | None:
    """The objective where something can be proven of it: a linear model's."""
    return objective if isinstance(objective, LinearObjective) else None


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
def _enclose(fit: Fit, measures, change, w, l2, shared: Frame | bool):
    """Intervals from one kind of ball: the Hessian's if `shared` is a frame, else the penalty's."""
    objective = as_linear(fit.objective)
    n, p, outputs = objective.n, objective.p, objective.outputs
    extent = data_extent(objective)  # once, not once a lane

    def one(lane):
        change, w, l2 = lane
        theta, v = fit.flat + change, objective.stays(w)
        if isinstance(shared, Frame):
            exact = n * outputs <= 2 * p  # no dearer then
            ball: AbstractBall = hessian_ball(shared, theta, v, fresh=True, exact=exact)
        else:
            own = objective if l2 is None else as_linear(objective.with_l2(l2))
            ball = penalty_ball(own, theta, v, free_intercept=shared, extent=extent)
        known = jnp.isfinite(ball.radius)
        parts = [measure.enclose(objective, ball, w) for measure in measures]
        lower, upper = (jnp.concatenate(sides) for sides in zip(*parts, strict=True))
        before = jnp.concatenate([m.values(objective, fit.flat, w) for m in measures])
        slack = SUMMED * jnp.finfo(before.dtype).eps * jnp.abs(before)
        lower = jnp.where(known, lower - before - slack, -jnp.inf)
        upper = jnp.where(known, upper - before + slack, jnp.inf)
        close = ball.radius <= ball.size(ball.centre - fit.flat)
        code = jnp.where(close, Certificate.certified, Certificate.loose)
        known &= jnp.any(jnp.isfinite(lower) & jnp.isfinite(upper))
        return lower, upper, jnp.where(known, code, Certificate.uncertified).astype(jnp.int8)

    each = p if isinstance(shared, Frame) else 2 if objective.loss.categorical else outputs
    held = 8 * n * outputs * each + QUERY_BYTES
    # nothing large is factorised for the penalty's ball: wider products with the data are faster
    room = 2**26 if outputs == 1 and not isinstance(shared, Frame) else 2**23
    return jax.lax.map(one, (change, w, l2), batch_size=together(len(change), held, room))
