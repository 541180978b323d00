"""Batched L-BFGS: many problems of one shape minimised together, one evaluation a step.

Every lane (problem) has its own line search, history, goal and status, but all lanes share each
evaluation of the function, so that a step is two large matrix products for linear models. A lane
that rejects its trial point shortens the step and tries again at the next evaluation; a lane that
is done is frozen, and can be given another problem (`restart`) while the others go on.
Coordinates should be preconditioned by the caller: the initial inverse Hessian is a multiple of
the identity.

Source: Nocedal and Wright (2006), algorithms 7.4 and 7.5. We differ in the line search: a step is
accepted on slopes (the approximate Wolfe condition of Hager and Zhang 2005, which keeps working
when differences of the function drown in rounding) together with a bound on the value, where the
function has one: of a convex function gradients are enough.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from leaveout.runtime.solution import Solution, Status

__all__ = [
    "State",
    "advance",
    "initialise",
    "minimise",
    "restart",
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
            gradients (their y): a ring whose next place, `slot`, is the same for all lanes.
        curvature: (b m) 1 / (s . y), zero where a lane has no pair (their rho).
        across, between: (b m m) s_i . y_j where pair i is not newer than j, and y_i . y_j.
        along, against: (b m) s_i . gradient and y_i . gradient.
        scale: (b) s . y / y . y of a lane's newest pair (their gamma), 1 before there is one.
        slot: () the place of the ring that is written next.
        force: (b) the norm of the gradient at the first point.
        goal: (b) a lane is done when its gradient's norm is at most this; not a number until the
            first evaluation, if it is relative to what that finds.
        best, patience: (b) smallest gradient norm so far, evaluations since it last halved or the
            value last fell by more than rounding.
        evaluations: (b) function-and-gradient evaluations spent.
        status: (b) codes; `running` says which lanes are not done.
        fresh: (b) nothing is known yet: the next evaluation is at the point itself.
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
    across: Float[Array, "b m m"]
    between: Float[Array, "b m m"]
    along: Float[Array, "b m"]
    against: Float[Array, "b m"]
    scale: Float[Array, "b"]
    slot: Int[Array, ""]
    force: Float[Array, "b"]
    goal: Float[Array, "b"]
    best: Float[Array, "b"]
    patience: Int[Array, "b"]
    evaluations: Int[Array, "b"]
    status: Int8[Array, "b"]
    fresh: Bool[Array, "b"]
    running: Bool[Array, "b"]


def initialise(
    start: Float[Array, "b p"],
    goal: Float[Array, "b"] | None = None,
    *,
    history: int = 10,
    first_step: Float[Array, "b"] | None = None,
) -> State:
    """The state before any evaluation.

    Args:
        start: (b p).
        goal: (b) a lane is done when its gradient's norm is at most this; None leaves it to
            `advance`.
        history: pairs remembered.
        first_step: (b) length of the first step along minus the gradient; default 1, right for
            preconditioned coordinates.
    """
    lanes, size = start.shape
    pairs = jnp.zeros((lanes, history, size), start.dtype)
    blank, zeros, ones = jnp.zeros_like(start), pairs[:, 0, 0], jnp.ones(lanes, start.dtype)
    each = jnp.zeros((lanes, history), start.dtype)
    products = jnp.zeros((lanes, history, history), start.dtype)
    return State(
        point=start,
        value=zeros,
        gradient=blank,
        direction=blank,
        slope=zeros,
        step=ones if first_step is None else first_step,
        moves=pairs,
        turns=pairs,
        curvature=each,
        across=products,
        between=products,
        along=each,
        against=each,
        scale=ones,
        slot=jnp.int32(0),
        force=zeros,
        goal=jnp.full(lanes, jnp.nan, start.dtype) if goal is None else goal,
        best=jnp.full(lanes, jnp.inf, start.dtype),
        patience=jnp.zeros(lanes, jnp.int32),
        evaluations=jnp.zeros(lanes, jnp.int32),
        status=jnp.full(lanes, Status.converged, jnp.int8),
        fresh=jnp.ones(lanes, bool),
        running=jnp.ones(lanes, bool),
    )


def restart(state: State, lanes: Bool[Array, "b"], new: State, source: Int[Array, "b"]) -> State:
    """The state with some lanes begun anew.

    Args:
        state: of b lanes.
        lanes: (b) which of them.
        new: a state before any evaluation (`initialise`), of any number of lanes.
        source: (b) the lane of `new` that each of these lanes takes.
    """

    def take(old, fresh):
        chosen = lanes.reshape((-1,) + (1,) * (old.ndim - 1))
        return jnp.where(chosen, fresh[source], old)

    kept = ("moves", "turns", "slot")  # a pair of no curvature is never read
    parts = {
        name: value if name in kept else take(value, getattr(new, name))
        for name, value in vars(state).items()
    }
    return State(**parts)


def advance(
    function: Callable,
    state: State,
    most: int | Int[Array, ""],
    *,
    enough: int | Int[Array, ""] = 0,
    relative: float = 0.0,
    floor: float | Float[Array, ""] = 0.0,
    beside: float | Float[Array, ""] | None = None,
    widths: tuple[int, ...] = (),
) -> State:
    """Evaluate at most `most` times more, or until few lanes are running.

    Args:
        function: (b p) to values (b) and gradients (b p); None for the values of convex functions.
            With `widths`, of (k p) and which lanes these are (k), or None for all.
        state: from `initialise`, `restart` or `advance`.
        most: evaluations.
        enough: running lanes at which to stop; default none.
        relative: a lane without a goal is done when its gradient is this share of its first one,
        floor: or this small.
        beside: if given, no lane is done before its gradient is this share of its point, too, or
            as small as the floor.
        widths: numbers of lanes k, increasing, the last b, for each of which the function is
            written down: of those that are running as few are evaluated as hold them.
    """
    evaluated = _shrinking(function, widths) if widths else lambda trial, _: function(trial)

    def unfinished(carry):
        count, state = carry
        return (count < most) & (jnp.sum(state.running) > enough)

    def evaluate(carry):
        count, state = carry
        return count + 1, _step(evaluated, state, relative, floor, beside)

    return jax.lax.while_loop(unfinished, evaluate, (0, state))[1]


def solution(state: State) -> Solution:
    """The iterates as a `Solution`; residual is the norm of the gradient, steps evaluations."""
    status = jnp.where(state.running, Status.max_steps, state.status).astype(jnp.int8)
    norm = jnp.where(state.fresh, jnp.inf, jnp.linalg.norm(state.gradient, axis=1))
    return Solution(state.point, norm, state.evaluations, status)


def minimise(
    function: Callable,
    start: Float[Array, "b p"],
    goal: Float[Array, "b"],
    *,
    max_steps: int = 500,
    history: int = 10,
    first_step: Float[Array, "b"] | None = None,
) -> Solution:
    """Minimise b functions at once; see `initialise` and `advance` for the arguments."""
    state = initialise(start, goal, history=history, first_step=first_step)
    return solution(advance(function, state, max_steps))


def _shrinking(function: Callable, widths: tuple[int, ...]) -> Callable:
    """The function of trial points (b p) and of which lanes run, evaluated for few others."""

    def of(width: int):
        def call(trial, order):
            if width == len(trial):
                return function(trial, None)
            rows = order[:width]

            def spread(leaf):
                return jnp.zeros((len(trial), *leaf.shape[1:]), leaf.dtype).at[rows].set(leaf)

            return jax.tree.map(spread, function(trial[rows], rows))

        return call

    def evaluated(trial, running):
        order = jnp.argsort(~running, stable=True)
        which = jnp.searchsorted(jnp.array(widths), jnp.sum(running))
        return jax.lax.switch(which, [of(width) for width in widths], trial, order)

    return evaluated


def _step(function, state: State, relative, floor, beside) -> State:
    """One evaluation: every running lane accepts its trial point or shortens its step."""
    fresh = state.fresh
    trial = state.point + jnp.where(fresh, 0.0, state.step)[:, None] * state.direction
    value, gradient = function(trial, state.running)
    slope = jnp.sum(gradient * state.direction, axis=1)
    norm = jnp.linalg.norm(gradient, axis=1)
    finite = jnp.isfinite(norm)
    force = jnp.where(fresh, norm, state.force)
    goal = jnp.where(jnp.isnan(state.goal), jnp.maximum(relative * norm, floor), state.goal)
    enough = goal
    if beside is not None:
        enough = jnp.minimum(goal, jnp.maximum(beside * jnp.linalg.norm(trial, axis=1), floor))
    good, lower = slope <= -_SUFFICIENT * state.slope, jnp.zeros_like(fresh)
    if value is None:
        value = state.value
    else:
        finite &= jnp.isfinite(value)
        # rounding in a value of size |value| must not veto a step that the slopes approve of
        slack = 1e3 * jnp.finfo(value.dtype).eps * jnp.abs(state.value)
        good &= value <= state.value + 1e-4 * state.step * state.slope + slack
        lower = value < state.value - slack
    accept = state.running & finite & (good | (norm <= enough) | fresh)

    point = jnp.where(accept[:, None], trial, state.point)
    kept_gradient = jnp.where(accept[:, None], gradient, state.gradient)
    state = _remember(state, point, kept_gradient)
    direction = -_apply_inverse(state, kept_gradient)
    new_slope = jnp.sum(direction * kept_gradient, axis=1)
    uphill = ~(new_slope < 0)
    direction = jnp.where(uphill[:, None], -kept_gradient, direction)
    new_slope = jnp.where(uphill, -jnp.sum(kept_gradient**2, axis=1), new_slope)
    # a parabola through both slopes, kept within a tenth and a half of the step
    denominator = jnp.where(finite & (slope > state.slope), slope - state.slope, jnp.inf)
    shorter = state.step * jnp.clip(-state.slope / denominator, 0.1, 0.5)
    step = jnp.where(accept, jnp.ones_like(shorter), shorter)

    improved = accept & (fresh | lower | (norm < 0.5 * state.best))
    patience = jnp.where(improved, 0, state.patience + 1)
    done = accept & (norm <= enough)
    stalled = state.running & ~done & (patience >= _PATIENCE)
    broken = state.running & ~finite & (stalled | fresh)
    status = jnp.where(stalled, Status.stalled, state.status)
    status = jnp.where(broken, Status.nonfinite, status).astype(jnp.int8)
    return dataclasses.replace(
        state,
        point=point,
        value=jnp.where(accept, value, state.value),
        gradient=kept_gradient,
        direction=jnp.where(accept[:, None], direction, state.direction),
        slope=jnp.where(accept, new_slope, state.slope),
        step=jnp.where(fresh, state.step, step),
        force=force,
        goal=goal,
        best=jnp.where(improved, jnp.minimum(norm, state.best), state.best),
        patience=patience,
        evaluations=state.evaluations + state.running,
        status=status,
        fresh=fresh & ~state.running,
        running=state.running & ~done & ~stalled & ~broken,
    )


def _remember(state: State, point, gradient) -> State:
    """The state with the pair of every lane that has moved in the ring, and its products."""
    move, turn = point - state.point, gradient - state.gradient
    product, length = jnp.sum(move * turn, axis=1), jnp.sum(turn**2, axis=1)
    keep = product > 1e-12 * jnp.linalg.norm(move, axis=1) * jnp.sqrt(length)

    def write(ring, newest, axis=1):
        newest = jnp.where(keep.reshape((-1,) + (1,) * (newest.ndim - 1)), newest, 0.0)
        return jax.lax.dynamic_update_index_in_dim(ring, newest, state.slot, axis)

    # written before it is read: otherwise it would be copied
    moves, turns = write(state.moves, move), write(state.turns, turn)
    along, against = (jnp.einsum("bmp,bp->bm", pairs, gradient) for pairs in (moves, turns))
    across, between = write(along - state.along, product), write(against - state.against, length)
    return dataclasses.replace(
        state,
        moves=moves,
        turns=turns,
        curvature=write(state.curvature, 1 / jnp.where(keep, product, 1.0)),
        across=write(state.across, across, 2),
        between=write(write(state.between, between, 2), between),
        along=along,
        against=against,
        scale=jnp.where(keep, product / jnp.where(keep, length, 1.0), state.scale),
        slot=(state.slot + 1) % state.moves.shape[1],
    )


def _apply_inverse(state: State, gradient):
    """The two-loop recursion: the approximate inverse Hessian times the gradient.

    Its loops run over inner products that are known (Chen, Wang and Zhou 2014): the history is
    read twice and nothing as long as a gradient is written in between. Each is the solution of a
    triangular system, the pairs in the order of their age.
    """
    count = state.moves.shape[1]
    order = (state.slot - 1 - jnp.arange(count)) % count  # of places in the ring, newest first

    def aged(products, axis=1):
        """Newest first; and back, as the order is its own inverse."""
        return jnp.take(products, order, axis)

    curvature, across = aged(state.curvature), jnp.tril(aged(aged(state.across), 2), -1)
    rows = curvature[:, :, None]
    first = _triangular(rows * across, curvature * aged(state.along), lower=True)
    turns = jnp.einsum("bij,bj->bi", state.between, aged(first))
    seen = state.scale[:, None] * (state.against - turns)
    change = _triangular(rows * across.mT, first - curvature * aged(seen), lower=False)
    turned = gradient - jnp.einsum("bm,bmp->bp", aged(first), state.turns)
    return state.scale[:, None] * turned + jnp.einsum("bm,bmp->bp", aged(change), state.moves)


def _triangular(products, right, *, lower: bool):
    """Solutions of (I + products) x = right, lane after lane."""
    return jax.scipy.linalg.solve_triangular(
        products, right[..., None], lower=lower, unit_diagonal=True
    )[..., 0]
