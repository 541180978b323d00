"""Retraining: the truth, argmin J(.; 1 - w) - theta, for many groups at once.

Batched L-BFGS in the coordinates u of theta = theta_hat + L^-T u, L the Cholesky factor of H(1):
there the Hessian of what is left is I - S with 0 <= S < 1, so that few steps are needed, and the
length of the gradient is the Newton decrement (in the metric of H(1)). A pool of lanes of fixed
size is kept full: a lane that is done makes room for the next group, so a few hard groups do not
hold up the rest and only one shape is compiled. A lane that does not converge in a few dozen
evaluations goes on alone, in the metric of its own Hessian.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout import lbfgs
from leaveout.fit import Change, Fit, check_groups
from leaveout.groups import Groups
from leaveout.inputs import is_traced
from leaveout.memory import bucket, budget
from leaveout.objective import LinearObjective
from leaveout.solution import Status, raise_unless_converged
from leaveout.solvers import factorise

__all__ = [
    "Retrain",
    "retrain",
]

_LANES = 128  # groups in flight at most: products are wide enough to run at full speed
_BURST = 6  # evaluations between two looks at which lanes are done
_HARD = 48  # evaluations after which a lane gets a Hessian of its own, if that is not dearer


@dataclass(frozen=True)
class Retrain:
    """Retraining as a method of `effects`.

    Attributes:
        tolerance: the remaining gradient, relative to the one the group's removal causes; both in
            the norm of H(1)^-1. The change is then right to about tolerance / (1 - mu), mu the
            largest share of curvature that the group takes away in any direction.
        max_steps: evaluations of the objective and its gradient that a group may use.
        history: pairs that L-BFGS remembers.
    """

    tolerance: float = 1e-8
    max_steps: int = 500
    history: int = 10

    name = "actual"
    first_order = False

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """`retrain` with these settings."""
        return retrain(fit, groups, self, memory=memory)


def retrain(
    fit: Fit,
    groups: Groups,
    method: Retrain = Retrain(),
    *,
    start: Float[Array | np.ndarray, "g p"] | None = None,
    l2: Float[Array | np.ndarray, "g"] | None = None,
    memory=None,
    throw: bool = False,
) -> Change:
    """Change in theta when the model is trained again without each group.

        change = argmin J(.; 1 - w) - theta_hat

    The l2 penalty stays what it is. Two matrix products of the size of the data for each
    evaluation, for all groups in flight together; about 10 to 30 evaluations a group.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        method: tolerance, steps, history.
        start: (g p) where each group starts; default theta_hat.
        l2: (g) a penalty for each group; default the objective's.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group does not converge.

    Returns:
        value (g p) in units of theta; residual is the gradient that remains relative to the one
        the removal caused, in the norm of H(1)^-1; steps counts evaluations of value and gradient.

    Raises:
        ValueError: if `groups` was made for another number of examples.

    Source: Koh et al. (2019), equation 2; converged, where the paper's solver stopped early.
    """
    check_groups(fit, groups)
    if not isinstance(method, Retrain):
        raise ValueError(f"expected method as lo.Retrain(...), got {method!r}")
    start = _per_group(start, (len(groups), fit.objective.p), "start")
    l2 = _per_group(l2, (len(groups),), "l2")
    if l2 is not None and not is_traced(l2) and not (np.asarray(l2) >= 0).all():
        raise ValueError(f"expected penalties >= 0, got {np.asarray(l2).min()}")
    problem = _prepare(fit, l2 is not None)
    lanes = _pool_size(fit, len(groups), method, budget(memory))
    if is_traced((fit, start, l2)):
        solution = _static(problem, groups, method, start, l2, lanes)
    else:
        solution = _pooled(problem, groups, method, start, l2, lanes)
    value, residual, steps, status = solution
    change = Change(value, residual, steps, status, fit.objective)
    if throw and not is_traced(change):
        names = [f"group {str(name)!r}" for name in groups.names]
        raise_unless_converged(change.status, change.residual, names)
    return change


def _per_group(values, shape, name):
    if values is None:
        return None
    if np.shape(values) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {np.shape(values)}")
    return jnp.asarray(values)


class _Problem(eqx.Module):
    """What all lanes share: the fit, and the coordinates that make it round.

    theta = theta_hat + basis @ (scale * u); scale is 1 / sqrt(1 + (l2 - l2_hat) bends) in the
    directions `basis`, so that a lane with its own l2 is as well conditioned as the others.
    """

    fit: Fit
    basis: Float[Array, "p p"] | None
    bends: Float[Array, "p"] | None

    def scale(self, l2):
        """(b p) lengths of the coordinates of lanes with penalties l2 (b)."""
        if self.bends is None or l2 is None:
            return None
        grown = 1 + (l2 - self.fit.objective.l2)[:, None] * self.bends[None]
        return 1 / jnp.sqrt(jnp.maximum(grown, 1e-12))

    def theta(self, u, scale):
        """Coordinates (b p) to parameters (b p)."""
        u = u if scale is None else u * scale
        return self.fit.flat[None] + (u if self.basis is None else u @ self.basis.T)

    def pull(self, gradient, scale):
        """Gradients with respect to theta to gradients with respect to u."""
        gradient = gradient if self.basis is None else gradient @ self.basis
        return gradient if scale is None else gradient * scale

    def push(self, theta, scale):
        """Parameters (b p) to coordinates."""
        delta = theta - self.fit.flat[None]
        if self.basis is None:
            return delta
        u = jnp.linalg.solve(self.basis, delta.T).T
        return u if scale is None else u / scale

    def function(self, stays, l2, scale):
        """U (b p) to values (b) and gradients (b p)."""
        objective = self.fit.objective

        def evaluate(theta, stays, l2):
            problem = objective if l2 is None else objective.with_l2(l2)
            return problem.value_and_gradient(theta, stays)

        def function(u):
            axes = (0, 0, None if l2 is None else 0)
            theta = self.theta(u, scale)
            value, gradient = jax.vmap(evaluate, in_axes=axes)(theta, stays, l2)
            return value, self.pull(gradient, scale)

        return function


@eqx.filter_jit
def _prepare(fit: Fit, own_l2: bool) -> _Problem:
    if fit.factor is None:
        return _Problem(fit, None, None)
    lower = fit.factor.lower
    eye = jnp.eye(lower.shape[0], dtype=lower.dtype)
    basis = jax.scipy.linalg.solve_triangular(lower, eye, lower=True, trans=1)  # L^-T
    if not own_l2:
        return _Problem(fit, basis, None)
    # in these coordinates a unit of l2 is basis' M basis, M the mask: diagonalise it once
    mask = fit.objective.penalised.astype(lower.dtype)
    bends, turn = jnp.linalg.eigh(basis.T @ (mask[:, None] * basis))
    return _Problem(fit, basis @ turn, jnp.maximum(bends, 0.0))


def _pool_size(fit: Fit, count: int, method: Retrain, available: int) -> int:
    objective = fit.objective
    each = 8 * (objective.n * objective.numbers + objective.p * (2 * method.history + 16))
    fits = max(available // each, 1)
    return int(min(bucket(count, 8), _LANES, 1 << (int(fits).bit_length() - 1)))


class _Lanes(eqx.Module):
    """A pool in flight: the search, and what is particular to each lane."""

    state: lbfgs.State
    stays: Float[Array, "b n"]
    l2: Float[Array, "b"] | None
    goal: Float[Array, "b"]
    force: Float[Array, "b"]


@eqx.filter_jit
def _begin(problem: _Problem, leaves, start, l2, method: Retrain) -> _Lanes:
    fit, stays = problem.fit, 1 - leaves
    scale = problem.scale(l2)
    function = problem.function(stays, l2, scale)
    origin = jnp.zeros((leaves.shape[0], fit.flat.size), fit.flat.dtype)
    _, gradient = function(origin)
    force = jnp.linalg.norm(gradient, axis=1)
    # rounding in the sum of n whitened gradients, below which no solver can see
    noise = 1024 * jnp.finfo(force.dtype).eps * fit.spread
    goal = jnp.maximum(method.tolerance * force, noise)
    u = origin if start is None else problem.push(start, scale)
    first = None
    if problem.basis is None:  # bare coordinates: the first step must find its own length
        first = 1 / jnp.maximum(force, 1.0)
    state = lbfgs.initialise(function, u, goal, history=method.history, first_step=first)
    return _Lanes(state, stays, l2, goal, force)


@eqx.filter_jit
def _advance(problem: _Problem, lanes: _Lanes, most) -> _Lanes:
    scale = problem.scale(lanes.l2)
    function = problem.function(lanes.stays, lanes.l2, scale)
    state = lbfgs.advance(function, lanes.state, lanes.goal, most)
    return eqx.tree_at(lambda pool: pool.state, lanes, state)


def _flattened(fit: Fit, theta, lanes: _Lanes, tolerance: float):
    """Lanes in which a parameter without penalty has lost all its curvature on the way.

    The gradient of a parameter on its way to infinity dies out together with its curvature.
    """
    if not isinstance(fit.objective, LinearObjective):
        return jnp.zeros(theta.shape[0], bool)
    linear = fit.objective
    whole = linear.at(fit.flat).diagonal(jnp.ones(linear.n, theta.dtype))

    def lane(inputs):
        theta, stays, l2 = inputs
        objective = linear if l2 is None else linear.with_l2(l2)
        left = objective.at(theta).diagonal(stays)
        gone = left < max(10 * tolerance, 1e-10) * whole
        return jnp.any(gone & (objective.penalty == 0) & (whole > 0))

    return jax.lax.map(lane, (theta, lanes.stays, lanes.l2))


@eqx.filter_jit
def _finish(problem: _Problem, lanes: _Lanes, tolerance: float, theta=None):
    """Change, relative residual, evaluations and status of lanes, at `theta` if it is given."""
    fit, solution = problem.fit, lbfgs.solution(lanes.state)
    if theta is None:
        theta = problem.theta(solution.value, problem.scale(lanes.l2))
    change = theta - fit.flat[None]

    def curvature(theta, stays, l2, change):
        objective = fit.objective if l2 is None else fit.objective.with_l2(l2)
        gradient, bent = jax.jvp(
            lambda t: objective.value_and_gradient(t, stays)[1], (theta,), (change,)
        )
        return gradient @ change, bent @ change

    axes = (0, 0, None if lanes.l2 is None else 0, 0)
    slope, bend = jax.vmap(curvature, in_axes=axes)(theta, lanes.stays, lanes.l2, change)
    # a Newton step along the change itself that is not short beside it: still on its way to
    # infinity, although the gradient has died out
    running_away = (jnp.abs(slope) > 1e-4 * bend) & (
        jnp.abs(slope) > 10 * lanes.goal * jnp.sqrt(jnp.maximum(bend, 0.0))
    )
    running_away |= _flattened(fit, theta, lanes, tolerance)
    status = solution.status
    status = jnp.where((status == 0) & running_away, Status.no_minimum, status).astype(jnp.int8)
    residual = solution.residual / jnp.where(lanes.force > 0, lanes.force, 1.0)
    finite = jnp.all(jnp.isfinite(change), axis=1)
    change = jnp.where(finite[:, None], change, 0.0)
    status = jnp.where(finite, status, Status.nonfinite).astype(jnp.int8)
    residual = jnp.where(jnp.isfinite(residual), residual, jnp.inf)
    return change, residual, solution.steps, status


def _rows(values, rows):
    return None if values is None else values[rows]


def _static(problem, groups, method, start, l2, lanes):
    """Chunk after chunk, each to the end: what can be traced."""
    parts = []
    for at in range(0, len(groups), lanes):
        rows = np.arange(at, min(at + lanes, len(groups)))
        leaves = jnp.asarray(groups.dense(rows), problem.fit.flat.dtype)
        pool = _begin(problem, leaves, _rows(start, rows), _rows(l2, rows), method)
        pool = _advance(problem, pool, method.max_steps)
        parts.append(_finish(problem, pool, method.tolerance))
    return tuple(jnp.concatenate(leaves) for leaves in zip(*parts, strict=True))


def _patience(fit: Fit, method: Retrain) -> int:
    """Evaluations after which a lane is given a Hessian of its own.

    Where p is large that costs as much as hundreds of evaluations: half as many are tried first.
    """
    objective = fit.objective
    outputs = getattr(getattr(objective, "layout", None), "outputs", 1)
    renewal = objective.n * objective.p**2 * (outputs + 1) / outputs + 2 * objective.p**3
    evaluation = 4 * objective.n * objective.p + 4 * objective.p**2
    worth = max(_HARD, int(renewal / evaluation / 2))
    return min(worth, max(_HARD, int(0.8 * method.max_steps)), method.max_steps)


def _pooled(problem, groups, method, start, l2, lanes):
    """A pool kept full from a queue, largest groups (the hardest, as a rule) first."""
    count, size = len(groups), problem.fit.flat.size
    dtype = np.dtype(problem.fit.flat.dtype)
    queue = np.argsort(-groups.size, kind="stable")
    out = (
        np.zeros((count, size), dtype),
        np.zeros(count, dtype),
        np.zeros(count, np.int32),
        np.zeros(count, np.int8),
    )
    holder = np.full(lanes, -1)  # which group a lane holds; -1 for none
    pool: Any = None
    dense = problem.basis is not None
    most = _patience(problem.fit, method) if dense else method.max_steps
    while True:
        free = np.flatnonzero(holder < 0)
        if len(queue) and len(free) >= min(lanes / 4, len(queue)):
            taken, queue = queue[: len(free)], queue[len(free) :]
            holder[free[: len(taken)]] = taken
            rows = np.full(lanes, taken[0])
            rows[free[: len(taken)]] = taken
            leaves = jnp.asarray(groups.dense(rows), dtype)
            fresh = _begin(problem, leaves, _rows(start, rows), _rows(l2, rows), method)
            isnew = np.zeros(lanes, bool)
            isnew[free] = True
            pool = fresh if pool is None else _merge(pool, fresh, jnp.asarray(isnew))
            pool = _halt(pool, jnp.asarray(holder >= 0))
        pool = _advance(problem, pool, min(_BURST, method.max_steps))
        running = np.asarray(pool.state.running)
        spent = np.asarray(pool.state.evaluations) >= most
        done = (holder >= 0) & (~running | spent)
        if done.any():
            finished = [np.asarray(leaf) for leaf in _finish(problem, pool, method.tolerance)]
            for target, source in zip(out, finished, strict=True):
                target[holder[done]] = source[done]
            if dense and most < method.max_steps:
                for lane in np.flatnonzero(done & (finished[3] != Status.converged)):
                    answer = _alone(problem, pool, int(lane), finished[0][lane], method)
                    for target, value in zip(out, answer, strict=True):
                        target[holder[lane]] = np.asarray(value)[0]
            holder[done] = -1
            pool = _halt(pool, jnp.asarray(holder >= 0))
        if not len(queue) and (holder < 0).all():
            return tuple(jnp.asarray(leaf) for leaf in out)


def _alone(problem: _Problem, pool: _Lanes, lane: int, change, method: Retrain):
    """Go on with one hard lane, its own Hessian as metric, renewed as often as it helps.

    A group that takes nearly all curvature along some direction (or moves theta far) leaves a
    problem that is not round in the coordinates of H(1).
    """
    one = jax.tree.map(lambda leaf: leaf[lane : lane + 1], pool)
    theta = problem.fit.flat + jnp.asarray(change)
    spent = int(one.state.evaluations[0])
    while True:
        own = _renew(problem, one.stays[0], None if one.l2 is None else one.l2[0], theta)
        fresh = _restart(own, one, method.history)
        fresh = _advance(own, fresh, min(_HARD, max(method.max_steps - spent, 1)))
        spent += int(fresh.state.evaluations[0])
        moved = fresh.state.point[0]
        theta = own.theta(moved[None], None)[0]
        code = int(lbfgs.solution(fresh.state).status[0])
        if code == Status.converged or spent >= method.max_steps or not moved.any():
            break
    total = jnp.full(1, spent, jnp.int32)
    fresh = eqx.tree_at(lambda pool: pool.state.evaluations, fresh, total)
    return _finish(problem, fresh, method.tolerance, theta[None])


@eqx.filter_jit
def _renew(problem: _Problem, stays, l2, theta) -> _Problem:
    """The problem around another theta, whitened by the Hessian of what stays there."""
    objective = problem.fit.objective
    expansion = (objective if l2 is None else objective.with_l2(l2)).at(theta)
    gauge = expansion.gauge()
    matrix = expansion.hessian(stays) + jnp.diag(expansion.penalty)
    matrix = matrix if gauge is None else matrix + gauge
    diagonal = jnp.abs(jnp.diagonal(matrix))
    diagonal = jnp.where(diagonal > 0, diagonal, jnp.max(diagonal))

    def attempt(shift):
        return factorise(matrix + jnp.diag(shift * diagonal))

    def lift(carry):
        return (100 * carry[0], *attempt(100 * carry[0]))

    first = jnp.asarray(1e-14, theta.dtype)
    _, factor, _ = jax.lax.while_loop(
        lambda carry: ~carry[2] & (carry[0] < 1.0), lift, (first, *attempt(jnp.zeros_like(first)))
    )
    eye = jnp.eye(theta.size, dtype=theta.dtype)
    basis = jax.scipy.linalg.solve_triangular(factor.lower, eye, lower=True, trans=1)
    return _Problem(eqx.tree_at(lambda fit: fit.flat, problem.fit, theta), basis, None)


@eqx.filter_jit
def _restart(problem: _Problem, lanes: _Lanes, history: int) -> _Lanes:
    """Lanes at the problem's own theta with no memory of the search so far."""
    function = problem.function(lanes.stays, lanes.l2, None)
    state = lbfgs.initialise(
        function, jnp.zeros_like(lanes.state.point), lanes.goal, history=history
    )
    return eqx.tree_at(lambda pool: pool.state, lanes, state)


@eqx.filter_jit
def _halt(pool: _Lanes, keep) -> _Lanes:
    """Freeze the lanes that are not kept."""
    return eqx.tree_at(lambda lanes: lanes.state.running, pool, pool.state.running & keep)


@eqx.filter_jit
def _merge(pool: _Lanes, fresh: _Lanes, isnew) -> _Lanes:
    """The pool with its new lanes taken from `fresh`."""
    return jax.tree.map(
        lambda old, new: jnp.where(isnew.reshape((-1,) + (1,) * (old.ndim - 1)), new, old),
        pool,
        fresh,
    )
