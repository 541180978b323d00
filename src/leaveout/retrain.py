"""Retraining: the truth, argmin J(.; 1 - w) - theta, for many groups at once.

Batched L-BFGS in the coordinates u of theta = theta_hat + L^-T u, L the Cholesky factor of H(1):
there the Hessian of what is left is I - S with 0 <= S < 1, so that few steps are needed, and the
length of the gradient is the Newton decrement (in the metric of H(1)). For linear models of one
output the design itself is brought into these coordinates, and an evaluation is two products with
it and nothing else. A pool of lanes of fixed size is kept full: a lane that is done makes room for
the next group, so a few hard groups do not hold up the rest and only a few shapes are compiled. A
lane that does not converge in a few dozen evaluations goes on alone, in the metric of its own
Hessian.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from leaveout import lbfgs
from leaveout.fit import Change, Fit, check_groups, whitened
from leaveout.groups import Groups
from leaveout.inputs import is_traced
from leaveout.memory import bucket, budget
from leaveout.objective import LinearObjective
from leaveout.solution import Status, raise_unless_converged
from leaveout.solvers import Factor, factorise

__all__ = [
    "Retrain",
    "retrain",
]

_LANES = 512  # groups in flight at most: products are wide enough to run at full speed
_BURST = 16  # evaluations at most between two looks at which lanes are done
_CACHED = 2048  # examples in a block of a linear model's: all lanes' scores of it stay in cache
_HOST = 2**30  # bytes of a pool on a processor
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
    available = budget(memory)
    if l2 is None:
        fit = whitened(fit, available)
    problem = _prepare(fit, l2 is not None)
    lanes = _pool_size(fit, len(groups), method, available)
    run = _static if is_traced((fit, start, l2)) else _pooled
    value, residual, steps, status = run(problem, groups, method, start, l2, lanes)
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


# ---- coordinates ---------------------------------------------------------------------------------


class _Whitened(eqx.Module):
    """A linear model of one output, in coordinates u that make H(1) the identity.

    With eta = rows u the change in scores, the gradient of J(.; a) with respect to u is

        u + rest - rows' (phi''(m) eta + phi'(m) - a phi'(m + eta)),

    m the scores at theta_hat: neither theta nor the penalty appears. The examples are cut into k
    blocks of length l, the last one filled up with examples of no weight.

    Attributes:
        fit: whose factor is `factor`.
        rows: (k l p) the design in whitened coordinates.
        y: targets, leading axes (k l).
        weights, scores, losses, first, second: (k l) s, m, phi, s phi' and s phi'' at theta_hat.
        rest: (p) what is left of the gradient at theta_hat.
        squares: (k l f) squared columns of the design whose parameters have no penalty.
    """

    fit: Fit
    factor: Factor
    rows: Float[Array, "k l p"]
    y: PyTree
    weights: Float[Array, "k l"]
    scores: Float[Array, "k l"]
    losses: Float[Array, "k l"]
    first: Float[Array, "k l"]
    second: Float[Array, "k l"]
    rest: Float[Array, "p"]
    squares: Float[Array, "k l f"]

    def theta(self, u, l2):
        """Coordinates (b p) to parameters (b p)."""
        return self.fit.flat[None] + self.factor.unwhiten(u)

    def push(self, theta, l2):
        """Parameters (b p) to coordinates."""
        return (theta - self.fit.flat[None]) @ self.factor.lower

    def lay(self, stays):
        """What stays (b n), laid out in blocks (k b l)."""
        count, length = self.scores.shape
        stays = jnp.pad(stays, ((0, 0), (0, count * length - stays.shape[1])))
        return stays.reshape(-1, count, length).transpose(1, 0, 2)

    def _sum(self, term, u, stays):
        """Sum over blocks of term(block, what stays in it (b l), change in scores (b l))."""

        def add(total, inputs):
            block, stays = inputs
            part = term(block, stays, u @ block.rows.T)
            return jax.tree.map(jnp.add, total, part), None

        shared = ("fit", "factor", "rest")
        blocks = {k: v for k, v in vars(self).items() if k not in shared}
        if len(self.scores) == 1:
            first = _Block(**jax.tree.map(lambda leaf: leaf[0], blocks))
            return term(first, stays[0], u @ first.rows.T)
        shapes = jax.eval_shape(
            lambda b, s: term(b, s, u @ b.rows.T),
            *jax.tree.map(lambda leaf: leaf[0], (_Block(**blocks), stays)),
        )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zeros, (_Block(**blocks), stays))[0]

    def function(self, stays, l2):
        """U (b p) to values (b), less that at theta_hat, and gradients (b p)."""
        loss: Any = self.fit.objective

        def term(block, stays, moved):
            scores, bent = block.scores[None] + moved, block.second[None] * moved
            slopes = block.left(stays, block.at(loss, scores, jax.grad))
            pull = (bent + block.first[None] - slopes) @ block.rows
            if loss.loss.convex:
                return pull, None
            gained = block.left(stays, block.at(loss, scores, lambda f: f) - block.losses[None])
            return pull, jnp.sum(gained - moved * (0.5 * bent + block.first[None]), axis=1)

        def function(u):
            pull, gained = self._sum(term, u, stays)
            gradient = u + self.rest[None] - pull
            if gained is None:
                return None, gradient
            return 0.5 * jnp.sum(u**2, axis=1) + u @ self.rest + gained, gradient

        return function

    def curvature(self, u, stays, l2):
        """Along each u: (b) its own Hessian's, and whether a parameter without penalty lost all."""
        loss: Any = self.fit.objective

        def term(block, stays, moved):
            second = block.at(loss, block.scores[None] + moved, lambda f: jax.grad(jax.grad(f)))
            left = block.left(stays, second)
            bend = jnp.sum((left - block.second[None]) * moved**2, axis=1)
            return bend, left @ block.squares, block.second @ block.squares

        bend, left, whole = self._sum(term, u, stays)
        return jnp.sum(u**2, axis=1) + bend, left, whole


class _Block(eqx.Module):
    """Some of the examples of `_Whitened`."""

    rows: Float[Array, "... l p"]
    y: PyTree
    weights: Float[Array, "... l"]
    scores: Float[Array, "... l"]
    losses: Float[Array, "... l"]
    first: Float[Array, "... l"]
    second: Float[Array, "... l"]
    squares: Float[Array, "... l f"]

    def at(self, objective, scores, derivative):
        """Losses (b l), or a derivative of them, at scores (b l)."""

        def loss(score, y):
            return objective.point_loss(score[None], y)

        return jax.vmap(jax.vmap(derivative(loss)), in_axes=(0, None))(scores, self.y)

    def left(self, stays, values):
        """Values (b l) weighted by what stays (b l); 0 * inf is NaN: the removed are not heard."""
        weights = self.weights[None] * stays
        return jnp.where(weights != 0, weights * values, 0.0)


class _Plain(eqx.Module):
    """Any objective: theta = theta_hat + basis @ (scale * u).

    scale is 1 / sqrt(1 + (l2 - l2_hat) bends) in the directions `basis`, so that a lane with its
    own l2 is as well conditioned as the others.
    """

    fit: Fit
    basis: Float[Array, "p p"] | None
    bends: Float[Array, "p"] | None

    def _scale(self, l2):
        """(b p) lengths of the coordinates of lanes with penalties l2 (b)."""
        if self.bends is None or l2 is None:
            return None
        grown = 1 + (l2 - self.fit.objective.l2)[:, None] * self.bends[None]
        return 1 / jnp.sqrt(jnp.maximum(grown, 1e-12))

    def _turn(self, u, l2):
        """Coordinates (b p) to changes in theta."""
        scale = self._scale(l2)
        u = u if scale is None else u * scale
        return u if self.basis is None else u @ self.basis.T

    def theta(self, u, l2):
        """Coordinates (b p) to parameters (b p)."""
        return self.fit.flat[None] + self._turn(u, l2)

    def push(self, theta, l2):
        """Parameters (b p) to coordinates."""
        delta = theta - self.fit.flat[None]
        if self.basis is None:
            return delta
        u, scale = jnp.linalg.solve(self.basis, delta.T).T, self._scale(l2)
        return u if scale is None else u / scale

    def lay(self, stays):
        """What stays (b n), as it is."""
        return stays

    def _objective(self, l2):
        return self.fit.objective if l2 is None else self.fit.objective.with_l2(l2)

    def function(self, stays, l2):
        """U (b p) to values (b) and gradients (b p)."""
        scale = self._scale(l2)

        def evaluate(theta, stays, l2):
            return self._objective(l2).value_and_gradient(theta, stays)

        def function(u):
            axes = (0, 0, None if l2 is None else 0)
            value, pull = jax.vmap(evaluate, in_axes=axes)(self.theta(u, l2), stays, l2)
            pull = pull if self.basis is None else pull @ self.basis
            return value, pull if scale is None else pull * scale

        return function

    def curvature(self, u, stays, l2):
        """Along each u: (b) its own Hessian's, and whether a parameter without penalty lost all."""

        def along(theta, change, stays, l2):
            gradient = lambda t: self._objective(l2).value_and_gradient(t, stays)[1]  # noqa: E731
            return jax.jvp(gradient, (theta,), (change,))[1] @ change

        axes = (0, 0, 0, None if l2 is None else 0)
        theta, change = self.theta(u, l2), self._turn(u, l2)
        bend = jax.vmap(along, in_axes=axes)(theta, change, stays, l2)
        objective = self.fit.objective
        if not isinstance(objective, LinearObjective):
            return bend, jnp.ones((len(u), 0)), jnp.ones(0)
        free = objective.penalty == 0
        whole = jnp.where(free, objective.at(self.fit.flat).diagonal(jnp.ones(objective.n)), 0.0)

        def left(lane):
            theta, stays = lane
            return jnp.where(free, objective.at(theta).diagonal(stays), 0.0)

        return bend, jax.lax.map(left, (theta, stays)), whole


_Problem = _Whitened | _Plain


def _prepare(fit: Fit, own_l2: bool) -> _Problem:
    factor = fit.factor
    if factor is None:
        return _Plain(fit, None, None)
    if factor.rows is None or own_l2:
        return _whole_basis(fit, factor, own_l2)
    objective: Any = fit.objective
    penalty = objective.penalty
    free = slice(None) if is_traced(penalty) else np.flatnonzero(np.asarray(penalty) == 0)
    on_host = jax.default_backend() == "cpu"
    blocks = -(-objective.n // _CACHED) if on_host else 1
    return _in_blocks(fit, factor, objective.design[:, free], penalty[free] == 0, blocks)


@eqx.filter_jit
def _in_blocks(fit: Fit, factor: Factor, columns, free, count: int) -> _Whitened:
    objective: Any = fit.objective
    expansion: Any = fit.expansion()
    length = -(-objective.n // count)

    def cut(values):
        padding = [(0, count * length - objective.n)] + [(0, 0)] * (values.ndim - 1)
        return jnp.pad(values, padding).reshape(count, length, *values.shape[1:])

    return _Whitened(
        fit=fit,
        factor=Factor(factor.lower),
        rows=cut(factor.rows),
        y=jax.tree.map(cut, objective.y),
        weights=cut(objective.weights),
        scores=cut(objective.scores(fit.flat)[:, 0]),
        losses=cut(objective.losses(fit.flat)),
        first=cut(expansion.first[:, 0]),
        second=cut(expansion.second[:, 0, 0]),
        rest=factor.whiten(objective.gradient(fit.flat)[None])[0],
        squares=cut(columns**2 * free[None]),
    )


@eqx.filter_jit
def _whole_basis(fit: Fit, factor: Factor, own_l2: bool) -> _Plain:
    lower = factor.lower
    eye = jnp.eye(lower.shape[0], dtype=lower.dtype)
    basis = jax.scipy.linalg.solve_triangular(lower, eye, lower=True, trans=1)  # L^-T
    if not own_l2:
        return _Plain(fit, basis, None)
    # in these coordinates a unit of l2 is basis' M basis, M the mask: diagonalise it once
    mask = fit.objective.penalised.astype(lower.dtype)
    bends, turn = jnp.linalg.eigh(basis.T @ (mask[:, None] * basis))
    return _Plain(fit, basis @ turn, jnp.maximum(bends, 0.0))


# ---- lanes ---------------------------------------------------------------------------------------


def _pool_size(fit: Fit, count: int, method: Retrain, available: int) -> int:
    objective = fit.objective
    each = 8 * (objective.n * objective.numbers + objective.p * (2 * method.history + 16))
    if jax.default_backend() == "cpu":
        available = min(available, _HOST)  # more would only be slower
    fits = max(available // each, 1)
    return int(min(bucket(count, 8), _LANES, 1 << (int(fits).bit_length() - 1)))


class _Lanes(eqx.Module):
    """A pool in flight: the search, what stays in each lane, its penalty, its goal if given.

    `force` is the gradient's norm at theta_hat where a lane starts elsewhere, else not a number:
    then it is what the search finds first.
    """

    state: lbfgs.State
    stays: Float[Array, "b n"] | Float[Array, "k b l"]
    l2: Float[Array, "b"] | None
    force: Float[Array, "b"]

    def __getitem__(self, rows) -> "_Lanes":
        """Some of the lanes."""

        def take(leaf):
            return leaf[rows] if leaf.ndim else leaf

        parts = jax.tree.map(take, (self.state, self.l2, self.force))
        return _Lanes(parts[0], jnp.take(self.stays, rows, axis=self.stays.ndim - 2), *parts[1:])


def _floor(fit: Fit):
    """Rounding in a sum of n whitened gradients, below which no solver can see."""
    return 1024 * jnp.finfo(fit.flat.dtype).eps * fit.spread


@eqx.filter_jit
def _begin(problem: _Problem, leaves, start, l2, method: Retrain) -> _Lanes:
    """Lanes before any evaluation; those that do not start at theta_hat spend one on it."""
    fit, stays = problem.fit, problem.lay(1 - leaves)
    origin = jnp.zeros((len(leaves), fit.flat.size), fit.flat.dtype)
    if start is None and fit.factor is not None:
        state = lbfgs.initialise(origin, history=method.history)
        return _Lanes(state, stays, l2, jnp.full(len(origin), jnp.nan, origin.dtype))
    _, gradient = problem.function(stays, l2)(origin)
    force = jnp.linalg.norm(gradient, axis=1)
    goal = jnp.maximum(method.tolerance * force, _floor(fit))
    u = origin if start is None else problem.push(start, l2)
    # bare coordinates: the first step must find its own length
    first = 1 / jnp.maximum(force, 1.0) if fit.factor is None else None
    state = lbfgs.initialise(u, goal, history=method.history, first_step=first)
    return _Lanes(state, stays, l2, force)


@eqx.filter_jit(donate="all-except-first")
def _refill(new: _Lanes, pool: _Lanes, rows) -> _Lanes:
    """The pool with lanes `rows` taken from `new`; rows beyond the pool are padding."""
    count = len(pool.force)
    source = jnp.zeros(count, int).at[rows].set(jnp.arange(len(rows)), mode="drop")
    isnew = jnp.zeros(count, bool).at[rows].set(True, mode="drop")
    state = lbfgs.restart(pool.state, isnew, new.state, source)
    each = (slice(None),) * (pool.stays.ndim - 2)
    return _Lanes(
        state,
        pool.stays.at[*each, rows].set(new.stays, mode="drop"),
        None if pool.l2 is None else pool.l2.at[rows].set(new.l2, mode="drop"),
        pool.force.at[rows].set(new.force, mode="drop"),
    )


def _advance(problem: _Problem, lanes: _Lanes, most, enough, tolerance: float) -> _Lanes:
    """Evaluate until `enough` lanes or fewer are running."""
    state = _search((problem, lanes.stays, lanes.l2), lanes.state, most, enough, tolerance)
    return _Lanes(state, lanes.stays, lanes.l2, lanes.force)


@eqx.filter_jit(donate="all-except-first")
def _search(inputs, state: lbfgs.State, most, enough, tolerance: float) -> lbfgs.State:
    problem, *rest = inputs
    return lbfgs.advance(
        problem.function(*rest), state, most,
        enough=enough, relative=tolerance, floor=_floor(problem.fit),
    )  # fmt: skip


@eqx.filter_jit
def _finish(problem: _Problem, lanes: _Lanes, rows, tolerance: float):
    """Change, relative residual, evaluations and status of the lanes `rows`."""
    lanes = lanes[rows]
    state, solution = lanes.state, lbfgs.solution(lanes.state)
    force = jnp.where(jnp.isnan(lanes.force), state.force, lanes.force)
    change = problem.theta(state.point, lanes.l2) - problem.fit.flat[None]
    slope = jnp.sum(state.gradient * state.point, axis=1)
    bend, left, whole = problem.curvature(state.point, lanes.stays, lanes.l2)
    # a Newton step along the change itself that is not short beside it: still on its way to
    # infinity, although the gradient has died out
    running_away = (jnp.abs(slope) > 1e-4 * bend) & (
        jnp.abs(slope) > 10 * state.goal * jnp.sqrt(jnp.maximum(bend, 0.0))
    )
    # the gradient of a parameter on its way to infinity dies out together with its curvature
    gone = (left < max(10 * tolerance, 1e-10) * whole[None]) & (whole[None] > 0)
    running_away |= jnp.any(gone, axis=1)
    status = solution.status
    status = jnp.where((status == 0) & running_away, Status.no_minimum, status)
    residual = solution.residual / jnp.where(force > 0, force, 1.0)
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
        pool = _advance(problem, pool, method.max_steps, 0, method.tolerance)
        parts.append(_finish(problem, pool, np.arange(len(rows)), method.tolerance))
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
    some = max(lanes // 4, 1)  # lanes that are filled, and that are emptied, together
    dense = problem.fit.factor is not None
    most = _patience(problem.fit, method) if dense else method.max_steps
    pool: Any = None
    done = holder >= 0
    while True:
        if done.sum() >= some or (done | (holder < 0)).all() or not len(queue):
            # emptied, and filled again, a quarter of the pool at a time: one shape for all
            for rows in _padded(np.flatnonzero(done), some, len(holder)):
                _collect(problem, groups, pool, holder, rows, method, most, out)
            holder[done] = -1
            free = np.flatnonzero(holder < 0)[: len(queue)]
            for rows in _padded(free, some, len(holder)):
                taken, queue = np.split(queue, [int(np.sum(rows < len(holder)))])
                mine = np.resize(taken, some)
                leaves = jnp.asarray(groups.dense(mine), dtype)
                new = _begin(problem, leaves, _rows(start, mine), _rows(l2, mine), method)
                if pool is None:
                    pool = _narrow(new, jnp.zeros(lanes, int))
                pool = _refill(new, pool, rows)
                holder[rows[rows < len(holder)]] = taken
            if (holder < 0).all():
                return tuple(jnp.asarray(leaf) for leaf in out)
            if not len(queue) and (holder >= 0).sum() <= some < len(holder):
                kept = np.argsort(holder < 0, kind="stable")[:some]  # the last ones are few
                pool, holder = _narrow(pool, kept), holder[kept]
            held = jnp.asarray(holder >= 0)  # lanes that hold no group do not run
            pool = eqx.tree_at(lambda p: p.state.running, pool, pool.state.running & held)
        held = int((holder >= 0).sum())
        enough = held - some if len(queue) else 0
        pool = _advance(problem, pool, min(_BURST, most), max(enough, 0), method.tolerance)
        running = np.asarray(pool.state.running)
        spent = np.asarray(pool.state.evaluations) >= most
        done = (holder >= 0) & (~running | spent)


def _padded(rows, length: int, filler: int):
    """Runs of `length` rows, the last one filled up."""
    for at in range(0, len(rows), length):
        run = rows[at : at + length]
        yield np.concatenate([run, np.full(length - len(run), filler)])


def _collect(problem, groups, pool, holder, rows, method: Retrain, most: int, out) -> None:
    """Write what lanes `rows` reached into `out`; go on alone with those that are not done."""
    finished = [np.asarray(leaf) for leaf in _finish(problem, pool, rows, method.tolerance)]
    for i, lane in enumerate(rows[rows < len(holder)]):
        answer = [leaf[i] for leaf in finished]
        hard = answer[3] != Status.converged
        if hard and problem.fit.factor is not None and most < method.max_steps:
            alone = _alone(problem, pool, int(lane), answer[0], method)
            answer = [np.asarray(leaf)[0] for leaf in alone]
        for target, value in zip(out, answer, strict=True):
            target[holder[lane]] = value


@eqx.filter_jit
def _narrow(pool: _Lanes, rows) -> _Lanes:
    """Some of the lanes."""
    return pool[rows]


_initialise = eqx.filter_jit(lbfgs.initialise)  # a buffer for every array: they are donated


def _alone(problem: _Problem, pool: _Lanes, lane: int, change, method: Retrain):
    """Go on with one hard lane, its own Hessian as metric, renewed as often as it helps.

    A group that takes nearly all curvature along some direction (or moves theta far) leaves a
    problem that is not round in the coordinates of H(1).
    """
    one = _narrow(pool, jnp.array([lane]))
    force = jnp.where(jnp.isnan(one.force), one.state.force, one.force)
    one = eqx.tree_at(lambda lanes: lanes.force, one, force)
    n, theta = problem.fit.objective.n, problem.fit.flat + jnp.asarray(change)
    stays = one.stays if one.stays.ndim == 2 else one.stays.transpose(1, 0, 2).reshape(1, -1)[:, :n]
    one = eqx.tree_at(lambda lanes: lanes.stays, one, stays)
    spent = int(one.state.evaluations[0])
    while True:
        own = _renew(problem.fit, stays[0], None if one.l2 is None else one.l2[0], theta)
        state = _initialise(jnp.zeros_like(one.state.point), one.state.goal, history=method.history)
        fresh = eqx.tree_at(lambda lanes: lanes.state, one, state)
        most = min(_HARD, max(method.max_steps - spent, 1))
        fresh = _advance(own, fresh, most, 0, method.tolerance)
        spent += int(fresh.state.evaluations[0])
        theta = own.theta(fresh.state.point, None)[0]
        code = int(lbfgs.solution(fresh.state).status[0])
        still = not bool(fresh.state.point.any())
        if code == Status.converged or spent >= method.max_steps or still:
            break
    whole = _Plain(problem.fit, own.basis, None)  # the way from theta_hat
    fresh = eqx.tree_at(
        lambda lanes: (lanes.state.point, lanes.state.evaluations),
        fresh,
        (whole.push(theta[None], None), jnp.full(1, spent, jnp.int32)),
    )
    return _finish(whole, fresh, np.array([0]), method.tolerance)


@eqx.filter_jit
def _renew(fit: Fit, stays, l2, theta) -> _Plain:
    """The problem around another theta, whitened by the Hessian of what stays there."""
    objective = fit.objective
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
    return _Plain(eqx.tree_at(lambda f: f.flat, fit, theta), basis, None)
