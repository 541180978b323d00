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
from jaxtyping import Array, Float

from leaveout.fitting import lbfgs
from leaveout.fitting.fitted import Change, Fit, with_rows
from leaveout.fitting.gates import check_groups, warn_if_float32_stalled
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.methods.coordinates import Coordinates, Plain, around, free_columns, renewed
from leaveout.objectives.checks import is_traced
from leaveout.objectives.linear import LinearObjective
from leaveout.runtime.memory import bucket, budget
from leaveout.runtime.sharding import constrain, entry_point, on_host, place, replicate, to_host
from leaveout.runtime.solution import Status, raise_unless_converged
from leaveout.solvers import factorise, full_matrix

__all__ = [
    "Retrain",
    "retrain",
]

_LANES = 512  # groups in flight at most: products are wide enough to run at full speed
_WIDE = 4  # times as many on an accelerator, which waits longer for each kernel
_BURST = 16  # evaluations at most between two looks at which lanes are done
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


@entry_point
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
    evaluation, for all groups in flight together; about 10 to 30 evaluations a group. Where a
    linear model has no penalty, a group that leaves more than one minimum gets one of them and the
    status `singular` (n p^2 a group to find out).

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
        fit = with_rows(fit, available)
    problem = around(fit, l2 is not None)
    lanes = _pool_size(fit, len(groups), method, available)
    run = _static if is_traced((fit, start, l2)) else _pooled
    value, residual, steps, status = run(problem, groups, method, start, l2, lanes)
    if not is_traced(value) and _may_be_flat(fit, l2):
        flat = _flat(fit, groups, value, l2, lanes)
        status = jnp.where((status == Status.converged) & flat, Status.singular, status)
        status = status.astype(jnp.int8)
    change = Change(value, residual, steps, status, fit.objective)
    warn_if_float32_stalled(fit, residual, method.tolerance)
    if throw and not is_traced(change):
        names = [f"group {str(name)!r}" for name in groups.names]
        raise_unless_converged(change.status, change.residual, names)
    return change


def _may_be_flat(fit: Fit, l2) -> bool:
    """Whether more than intercepts go without penalty, so that a minimum need not be the only one.

    An intercept that has lost its curvature is noticed on the way (`_finish`).
    """
    objective = fit.objective
    if fit.metric is None or not isinstance(objective, LinearObjective):
        return False
    bare = float(objective.l2) == 0 if l2 is None else bool((np.asarray(to_host(l2)) == 0).any())
    free = int(np.count_nonzero(~np.asarray(to_host(objective.penalised))))
    return bare or free > objective.layout.outputs


def _flat(fit: Fit, groups: Groups, value, l2, lanes: int):
    """(g) where the Hessian of what stays is singular at theta_hat + value."""
    parts = []
    for at in range(0, len(groups), lanes):
        rows = np.resize(np.arange(at, min(at + lanes, len(groups))), lanes)
        flat = _singular(fit, leaving(fit, groups, rows), value[rows], _rows(l2, rows))
        parts.append(flat[: len(groups) - at])
    return jnp.concatenate(parts)


@eqx.filter_jit
def _singular(fit: Fit, leaves, value, l2):
    def one(lane):
        w, change, l2 = lane
        objective = fit.objective if l2 is None else fit.objective.with_l2(l2)
        return ~factorise(full_matrix(objective.at(fit.flat + change), 1 - w))[1]

    return replicate(jax.lax.map(one, (leaves, value, l2)))


def _per_group(values, shape, name):
    if values is None:
        return None
    if np.shape(values) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {np.shape(values)}")
    return jnp.asarray(values)


# ---- lanes ---------------------------------------------------------------------------------------


def _pool_size(fit: Fit, count: int, method: Retrain, available: int) -> int:
    objective = fit.objective
    each = 8 * (
        objective.n * objective.floats_per_example + objective.p * (2 * method.history + 16)
    )
    most = _LANES * _WIDE
    if on_host():
        available, most = min(available, _HOST), _LANES  # more would only be slower
    fits = max(available // each, 1)
    return int(min(bucket(count, 8), most, 1 << (int(fits).bit_length() - 1)))


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


def _laid(lanes: _Lanes) -> _Lanes:
    """The lanes over the devices: each holds what stays of its part of the data for its groups."""
    parts = jax.tree.map(
        lambda leaf: constrain(leaf, "groups"), (lanes.state, lanes.l2, lanes.force)
    )
    blocks = (None,) * (lanes.stays.ndim - 2)
    return _Lanes(parts[0], constrain(lanes.stays, *blocks, "groups", "data"), *parts[1:])


def _floor(fit: Fit):
    """Rounding in a sum of n whitened gradients, below which no solver can see."""
    return 1024 * jnp.finfo(fit.flat.dtype).eps * fit.sandwich


@eqx.filter_jit
def _begin(problem: Coordinates, leaves, start, l2, method: Retrain) -> _Lanes:
    """Lanes before any evaluation; those that do not start at theta_hat spend one on it."""
    fit, stays = problem.fit, problem.lay(1 - leaves)
    origin = jnp.zeros((len(leaves), fit.flat.size), fit.flat.dtype)
    if start is None and fit.metric is not None:
        state = lbfgs.initialise(origin, history=method.history)
        return _laid(_Lanes(state, stays, l2, jnp.full(len(origin), jnp.nan, origin.dtype)))
    _, gradient = problem.function(stays, l2)(origin)
    force = jnp.linalg.norm(gradient, axis=1)
    goal = jnp.maximum(method.tolerance * force, _floor(fit))
    u = origin if start is None else problem.push(start, l2)
    # bare coordinates: the first step must find its own length
    first = 1 / jnp.maximum(force, 1.0) if fit.metric is None else None
    state = lbfgs.initialise(u, goal, history=method.history, first_step=first)
    return _laid(_Lanes(state, stays, l2, force))


@eqx.filter_jit(donate="all-except-first")
def _refill(new: _Lanes, pool: _Lanes, rows) -> _Lanes:
    """The pool with lanes `rows` taken from `new`; rows beyond the pool are padding."""
    count = len(pool.force)
    source = jnp.zeros(count, int).at[rows].set(jnp.arange(len(rows)), mode="drop")
    isnew = jnp.zeros(count, bool).at[rows].set(True, mode="drop")
    state = lbfgs.restart(pool.state, isnew, new.state, source)
    each = (slice(None),) * (pool.stays.ndim - 2)
    refilled = _Lanes(
        state,
        pool.stays.at[*each, rows].set(new.stays, mode="drop"),
        None if pool.l2 is None else pool.l2.at[rows].set(new.l2, mode="drop"),
        pool.force.at[rows].set(new.force, mode="drop"),
    )
    return _laid(refilled)


def _advance(problem: Coordinates, lanes: _Lanes, most, enough, tolerance: float) -> _Lanes:
    """Evaluate until `enough` lanes or fewer are running."""
    state = _search((problem, lanes.stays, lanes.l2), lanes.state, most, enough, tolerance)
    return _Lanes(state, lanes.stays, lanes.l2, lanes.force)


@eqx.filter_jit(donate="all-except-first")
def _search(inputs, state: lbfgs.State, most, enough, tolerance: float) -> lbfgs.State:
    problem, *rest = inputs
    state = lbfgs.advance(
        problem.function(*rest), state, most,
        enough=enough, relative=tolerance, floor=_floor(problem.fit),
    )  # fmt: skip
    return jax.tree.map(lambda leaf: constrain(leaf, "groups"), state)


@eqx.filter_jit
def _finish(problem: Coordinates, lanes: _Lanes, rows, tolerance: float):
    """Change, relative residual, evaluations and status of the lanes `rows`."""
    lanes = lanes[rows]
    state, solution = lanes.state, lbfgs.solution(lanes.state)
    force = jnp.where(jnp.isnan(lanes.force), state.force, lanes.force)
    change = problem.theta(state.point, lanes.l2) - problem.fit.flat[None]
    slope = jnp.sum(state.gradient * state.point, axis=1)
    curvature, left, whole = problem.curvature(state.point, lanes.stays, lanes.l2)
    # a Newton step along the change itself that is not short beside it: still on its way to
    # infinity, although the gradient has died out
    running_away = (jnp.abs(slope) > 1e-4 * curvature) & (
        jnp.abs(slope) > 10 * state.goal * jnp.sqrt(jnp.maximum(curvature, 0.0))
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
    return replicate((change, residual, solution.steps, status))


def _rows(values, rows):
    return None if values is None else values[rows]


def _static(problem, groups, method, start, l2, lanes):
    """Chunk after chunk, each to the end: what can be traced."""
    parts = []
    for at in range(0, len(groups), lanes):
        rows = np.arange(at, min(at + lanes, len(groups)))
        leaves = leaving(problem.fit, groups, rows)
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
    dense = problem.fit.metric is not None
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
                leaves = leaving(problem.fit, groups, mine)
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
            held = place(holder >= 0, bool, "groups")  # lanes that hold no group do not run
            pool = eqx.tree_at(lambda p: p.state.running, pool, pool.state.running & held)
        held = int((holder >= 0).sum())
        enough = held - some if len(queue) else 0
        pool = _advance(problem, pool, min(_BURST, most), max(enough, 0), method.tolerance)
        running, evaluations = to_host((pool.state.running, pool.state.evaluations))
        spent = evaluations >= most
        done = (holder >= 0) & (~running | spent)


def _padded(rows, length: int, filler: int):
    """Runs of `length` rows, the last one filled up."""
    for at in range(0, len(rows), length):
        run = rows[at : at + length]
        yield np.concatenate([run, np.full(length - len(run), filler)])


def _collect(problem, groups, pool, holder, rows, method: Retrain, most: int, out) -> None:
    """Write what lanes `rows` reached into `out`; go on alone with those that are not done."""
    finished = to_host(_finish(problem, pool, rows, method.tolerance))
    for i, lane in enumerate(rows[rows < len(holder)]):
        answer = [leaf[i] for leaf in finished]
        hard = answer[3] != Status.converged
        if hard and problem.fit.metric is not None and most < method.max_steps:
            alone = _alone(problem, pool, int(lane), answer[0], method)
            answer = [leaf[0] for leaf in to_host(alone)]
        for target, value in zip(out, answer, strict=True):
            target[holder[lane]] = value


@eqx.filter_jit
def _narrow(pool: _Lanes, rows) -> _Lanes:
    """Some of the lanes."""
    return _laid(pool[rows])


_initialise = eqx.filter_jit(lbfgs.initialise)  # a buffer for every array: they are donated


def _alone(problem: Coordinates, pool: _Lanes, lane: int, change, method: Retrain):
    """Go on with one hard lane, its own Hessian as metric, renewed as often as it helps.

    A group that takes nearly all curvature along some direction (or moves theta far) leaves a
    problem that is not round in the coordinates of H(1).
    """
    one = _narrow(pool, jnp.array([lane]))
    force = jnp.where(jnp.isnan(one.force), one.state.force, one.force)
    one = eqx.tree_at(lambda lanes: lanes.force, one, force)
    theta, stays = problem.fit.flat + jnp.asarray(change), problem.unlay(one.stays)
    one = eqx.tree_at(lambda lanes: lanes.stays, one, stays)
    spent, free = int(one.state.evaluations[0]), free_columns(problem.fit.objective)
    while True:
        own = renewed(problem.fit, free, stays[0], None if one.l2 is None else one.l2[0], theta)
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
    whole = Plain(problem.fit, own.basis, None, free)  # the way from theta_hat
    fresh = eqx.tree_at(
        lambda lanes: (lanes.state.point, lanes.state.evaluations),
        fresh,
        (whole.push(theta[None], None), jnp.full(1, spent, jnp.int32)),
    )
    return _finish(whole, fresh, np.array([0]), method.tolerance)
