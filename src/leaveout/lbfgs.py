"""Batched L-BFGS: many problems of one shape minimised together, one evaluation a step.

Every lane (problem) has its own line search, history, tolerance and status, but all lanes share
each evaluation of the function, so that a step is two large matrix products for linear models.
A lane that rejects its trial point shortens the step and tries again at the next evaluation; a
lane that is done is frozen. Coordinates should be preconditioned by the caller: the initial
inverse Hessian is a multiple of the identity.

Source: Nocedal and Wright (2006), algorithms 7.4 and 7.5. We differ in the line search: a step is
accepted on slopes (the approximate Wolfe condition of Hager and Zhang 2005, which keeps working
when differences of the function drown in rounding) together with a bound on the value.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from leaveout.solution import Solution, Status

__all__ = [
    "State",
    "advance",
    "initialise",
    "minimise",
    "solution",
]

_SUFFICIENT = 0.8  # accept a trial whose slope rose to at most this share of the first |slope|
_PATIENCE = 30  # evaluations without progress in the gradient before a lane counts as stalled


class State(eqx.Module):
    """Where every lane stands; b lanes of size p, m pairs of history.

    Attributes:
        point, value, gradient: (b p), (b), (b p) the last accepted iterate.
        direction, slope, step: (b p), (b), (b) the search under way.
        moves, turns: (b m p) the history, differences of iterates (Nocedal and Wright's s) and of
            gradients (their y), oldest first; zero where there is none yet.
        curvature: (b m) 1 / (s . y), zero where there is none (their rho).
        best, patience: (b) smallest gradient norm so far, evaluations since it last halved or the
            value last fell by more than rounding.
        evaluations: (b) function-and-gradient evaluations spent.
        status: (b) codes; `running` says which lanes are not done.
        running: (b).
    """

    point: Float[Array, "b p"]
    value: Float[Array, "b"]
    gradient: Float[Array, "b p"]
    direction: Float[Array, "b p"]
    slope: Float[Array, "b"]
    step: Float[Array, "b"]
    moves: Float[Array, "b m p"]
    turns: Float[Array, "b m p"]
    curvature: Float[Array, "b m"]
    best: Float[Array, "b"]
    patience: Int[Array, "b"]
    evaluations: Int[Array, "b"]
    status: Int8[Array, "b"]
    running: Bool[Array, "b"]


def initialise(
    function: Callable,
    start: Float[Array, "b p"],
    tolerance: Float[Array, "b"],
    *,
    history: int = 10,
    first_step: Float[Array, "b"] | None = None,
) -> State:
    """The state after one evaluation at `start`.

    Args:
        function: (b p) to values (b) and gradients (b p).
        start: (b p).
        tolerance: (b) a lane is done when its gradient's norm is at most this.
        history: pairs remembered.
        first_step: (b) length of the first step along minus the gradient; default 1, right for
            preconditioned coordinates.
    """
    value, gradient = function(start)
    lanes, size = start.shape
    norm = jnp.linalg.norm(gradient, axis=1)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    zeros = jnp.zeros((lanes, history, size), start.dtype)
    return State(
        point=start,
        value=value,
        gradient=gradient,
        direction=-gradient,
        slope=-(norm**2),
        step=jnp.ones(lanes, start.dtype) if first_step is None else first_step,
        moves=zeros,
        turns=zeros,
        curvature=zeros[:, :, 0],
        best=norm,
        patience=jnp.zeros(lanes, jnp.int32),
        evaluations=jnp.ones(lanes, jnp.int32),
        status=jnp.where(finite, Status.converged, Status.nonfinite).astype(jnp.int8),
        running=finite & (norm > tolerance),
    )


def advance(function: Callable, state: State, tolerance: Float[Array, "b"], most: int) -> State:
    """Evaluate at most `most` times more, or until every lane is done."""

    def unfinished(carry):
        count, state = carry
        return (count < most) & jnp.any(state.running)

    def evaluate(carry):
        count, state = carry
        return count + 1, _step(function, state, tolerance)

    return jax.lax.while_loop(unfinished, evaluate, (0, state))[1]


def solution(state: State) -> Solution:
    """The iterates as a `Solution`; residual is the norm of the gradient, steps evaluations."""
    status = jnp.where(state.running, Status.max_steps, state.status).astype(jnp.int8)
    norm = jnp.linalg.norm(state.gradient, axis=1)
    return Solution(state.point, norm, state.evaluations, status)


def minimise(
    function: Callable,
    start: Float[Array, "b p"],
    tolerance: Float[Array, "b"],
    *,
    max_steps: int = 500,
    history: int = 10,
    first_step: Float[Array, "b"] | None = None,
) -> Solution:
    """Minimise b functions at once; see `initialise` for the arguments."""
    state = initialise(function, start, tolerance, history=history, first_step=first_step)
    return solution(advance(function, state, tolerance, max_steps))


def _step(function, state: State, tolerance) -> State:
    """One evaluation: every running lane accepts its trial point or shortens its step."""
    trial = state.point + state.step[:, None] * state.direction
    value, gradient = function(trial)
    slope = jnp.sum(gradient * state.direction, axis=1)
    norm = jnp.linalg.norm(gradient, axis=1)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    # rounding in a value of size |value| must not veto a step that the slopes approve of
    slack = 1e3 * jnp.finfo(value.dtype).eps * jnp.abs(state.value)
    lower = value <= state.value + 1e-4 * state.step * state.slope + slack
    accept = (state.running & finite & lower & (slope <= -_SUFFICIENT * state.slope)) | (
        state.running & finite & (norm <= tolerance)
    )

    moves, turns, curvature = _remember(
        state, accept, trial - state.point, gradient - state.gradient
    )
    point = jnp.where(accept[:, None], trial, state.point)
    kept_gradient = jnp.where(accept[:, None], gradient, state.gradient)
    direction = -_apply_inverse(moves, turns, curvature, kept_gradient)
    new_slope = jnp.sum(direction * kept_gradient, axis=1)
    uphill = ~(new_slope < 0)
    direction = jnp.where(uphill[:, None], -kept_gradient, direction)
    new_slope = jnp.where(uphill, -jnp.sum(kept_gradient**2, axis=1), new_slope)
    # a parabola through both slopes, kept within a tenth and a half of the step
    denominator = jnp.where(finite & (slope > state.slope), slope - state.slope, jnp.inf)
    shorter = state.step * jnp.clip(-state.slope / denominator, 0.1, 0.5)

    improved = accept & ((norm < 0.5 * state.best) | (value < state.value - slack))
    patience = jnp.where(improved, 0, state.patience + 1)
    done = accept & (norm <= tolerance)
    stalled = state.running & ~done & (patience >= _PATIENCE)
    status = jnp.where(stalled, Status.stalled, state.status).astype(jnp.int8)
    blown = stalled & ~finite
    status = jnp.where(blown, Status.nonfinite, status).astype(jnp.int8)
    return State(
        point=point,
        value=jnp.where(accept, value, state.value),
        gradient=kept_gradient,
        direction=jnp.where(accept[:, None], direction, state.direction),
        slope=jnp.where(accept, new_slope, state.slope),
        step=jnp.where(accept, jnp.ones_like(shorter), shorter),
        moves=moves,
        turns=turns,
        curvature=curvature,
        best=jnp.where(improved, jnp.minimum(norm, state.best), state.best),
        patience=patience,
        evaluations=state.evaluations + state.running,
        status=status,
        running=state.running & ~done & ~stalled,
    )


def _remember(state: State, accept, move, turn):
    """The history with the newest pair of every accepting lane appended."""
    product = jnp.sum(move * turn, axis=1)
    useful = product > 1e-12 * jnp.linalg.norm(move, axis=1) * jnp.linalg.norm(turn, axis=1)
    keep = accept & useful
    curvature = jnp.where(keep, 1 / jnp.where(keep, product, 1.0), 0.0)

    def append(history, newest):
        shifted = jnp.concatenate([history[:, 1:], newest[:, None]], axis=1)
        return jnp.where(keep.reshape((-1,) + (1,) * newest.ndim), shifted, history)

    return (
        append(state.moves, move),
        append(state.turns, turn),
        append(state.curvature, curvature),
    )


def _apply_inverse(moves, turns, curvature, gradient):
    """The two-loop recursion: the approximate inverse Hessian times the gradient."""
    count = moves.shape[1]
    coefficients = [None] * count
    for i in reversed(range(count)):
        coefficients[i] = curvature[:, i] * jnp.sum(moves[:, i] * gradient, axis=1)
        gradient = gradient - coefficients[i][:, None] * turns[:, i]
    newest, known = jnp.sum(turns[:, -1] ** 2, axis=1), curvature[:, -1] > 0
    scale = jnp.where(known, 1 / jnp.where(known, curvature[:, -1] * newest, 1), 1)
    gradient = scale[:, None] * gradient
    for i in range(count):
        correction = coefficients[i] - curvature[:, i] * jnp.sum(turns[:, i] * gradient, axis=1)
        gradient = gradient + correction[:, None] * moves[:, i]
    return gradient
