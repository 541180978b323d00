"""Lanes: the searches of groups in flight, from their beginning to what each has reached."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from leaveout.fitting import lbfgs
from leaveout.fitting.fitted import Fit, rounding
from leaveout.methods.blocks import STAYS
from leaveout.methods.coordinates import Coordinates, Plain, Turned, Whitened, renewed
from leaveout.methods.hold import Bend, least_kept
from leaveout.methods.strain import marked
from leaveout.runtime.batches import in_runs, runs_of
from leaveout.runtime.sharding import constrain, devices, is_traced, on_host, replicate, to_host
from leaveout.runtime.solution import Solution, Status
from leaveout.solvers import BESIDE, measured, thin

__all__ = ["HARD", "Effort", "Lanes", "advance", "alone", "begin", "finish", "narrow", "refilled"]

HARD = 48  # evaluations after which a lane gets a Hessian of its own, if that is not dearer
_LOOSE = 30  # times the tolerance that a change may be wrong by, along itself
_UNHELD = 1000  # and in the direction in which what stays hardly bends
_SURER = 1e-3  # of what is asked, of a lane alone: in its metric weak directions are short
_TOGETHER = 8  # lanes that are looked at, of the few that are
_WORTH = 0.05  # of the usual tolerance: nearer than this a lane is not driven, but looked at
_SEEN = 1e-6  # of a change along itself: what rounding may leave without a word


@dataclasses.dataclass(frozen=True)
class Effort:
    """How hard a group is retrained: see `Retrain`.

    Attributes:
        tolerance: the residual that is asked.
        aim: the one that the search goes for, as far as rounding lets it.
        max_steps: evaluations.
        history: pairs that L-BFGS remembers.
    """

    tolerance: float
    aim: float
    max_steps: int
    history: int


class Lanes(eqx.Module):
    """Searches in flight, what the examples get in each, its penalty, its goal if given.

    `force` is the gradient's norm at theta_hat where a lane starts elsewhere, else not a number:
    then it is what the search finds first. `turn` are coordinates of each lane's own (`Turned`).
    """

    state: lbfgs.State
    v: Float[Array, "b n"] | Float[Array, "k b l"] | UInt8[Array, "k b l"]
    l2: Float[Array, "b"] | None
    force: Float[Array, "b"]
    turn: Float[Array, "b p p"] | None = None

    def __getitem__(self, rows) -> "Lanes":
        """Some of the lanes."""

        def take(leaf):
            return leaf[rows] if leaf.ndim else leaf

        parts = jax.tree.map(take, (self.state, self.l2, self.force, self.turn))
        return Lanes(parts[0], jnp.take(self.v, rows, axis=self.v.ndim - 2), *parts[1:])

    def within(self, problem: Coordinates) -> Coordinates | Turned:
        """The coordinates that the lanes are in."""
        return _turned(problem, self.turn)


def _turned(problem: Coordinates, turn) -> Coordinates | Turned:
    return problem if turn is None else Turned(problem, turn)


def _laid(lanes: Lanes) -> Lanes:
    """The lanes over the devices: each holds what its part of the data gets from its groups."""
    parts = jax.tree.map(
        lambda leaf: constrain(leaf, "groups"), (lanes.state, lanes.l2, lanes.force, lanes.turn)
    )
    blocks = (None,) * (lanes.v.ndim - 2)
    return Lanes(parts[0], constrain(lanes.v, *blocks, "groups", "data"), *parts[1:])


def _floor(fit: Fit):
    """Rounding in a sum of n whitened gradients, below which no solver can see."""
    units = 1024 if fit.flat.dtype == jnp.float64 else 16
    usual = units * jnp.finfo(fit.flat.dtype).eps * fit.sandwich
    return jnp.maximum(usual, rounding(fit.flat, fit.metric, fit.sandwich))


@eqx.filter_jit
def begin(problem: Coordinates, who, start, l2, turn, effort: Effort) -> Lanes:
    """Lanes before any evaluation; those that do not start at theta_hat spend one on it.

    `who` is w (b n), what leaves, or who stays as the coordinates lay it out.
    """
    fit, within = problem.fit, _turned(problem, turn)
    v = who if who.dtype == STAYS else problem.lay(fit.objective.stays(who))
    origin = jnp.zeros((v.shape[-2], fit.flat.size), fit.flat.dtype)
    if start is None and not fit.is_bare:
        state = lbfgs.initialise(origin, history=effort.history)
        return _laid(Lanes(state, v, l2, jnp.full(len(origin), jnp.nan, origin.dtype), turn))
    _, gradient = within.function(v, l2)(origin)
    force = jnp.linalg.norm(gradient, axis=1)
    goal = jnp.maximum(effort.aim * force, _floor(fit))
    u = origin if start is None else within.push(start, l2)
    # bare coordinates: the first step must find its own length
    first = 1 / jnp.maximum(force, 1.0) if fit.is_bare else None
    state = lbfgs.initialise(u, goal, history=effort.history, first_step=first)
    return _laid(Lanes(state, v, l2, force, turn))


@eqx.filter_jit(donate="all-except-first")
def refilled(new: Lanes, pool: Lanes, rows) -> Lanes:
    """The pool with lanes `rows` taken from `new`; rows beyond the pool are padding."""
    count = len(pool.force)
    source = jnp.zeros(count, int).at[rows].set(jnp.arange(len(rows)), mode="drop")
    isnew = jnp.zeros(count, bool).at[rows].set(True, mode="drop")
    state = lbfgs.restart(pool.state, isnew, new.state, source)
    each = (slice(None),) * (pool.v.ndim - 2)
    mixed = Lanes(
        state,
        pool.v.at[*each, rows].set(new.v, mode="drop"),
        None if pool.l2 is None else pool.l2.at[rows].set(new.l2, mode="drop"),
        pool.force.at[rows].set(new.force, mode="drop"),
        None if pool.turn is None else pool.turn.at[rows].set(new.turn, mode="drop"),
    )
    return _laid(mixed)


def _widths(lanes: int) -> tuple[int, ...]:
    """How many lanes are evaluated together, where fewer than all cost less."""
    fewer = (4, 16, 64) if on_host() and devices() == 1 else ()
    return (*(width for width in fewer if width < lanes), lanes)


def advance(problem: Coordinates, lanes: Lanes, most, enough, tolerance: float) -> Lanes:
    """Evaluate until `enough` lanes or fewer are running."""
    inputs = problem, lanes.v, lanes.l2, lanes.turn
    state = _search(inputs, lanes.state, most, enough, tolerance)
    return Lanes(state, *inputs[1:3], lanes.force, lanes.turn)


@eqx.filter_jit(donate="all-except-first")
def _search(inputs, state: lbfgs.State, most, enough, tolerance: float) -> lbfgs.State:
    problem, v, l2, turn = inputs

    def function(u, rows):
        if rows is None:
            return _turned(problem, turn).function(v, l2)(u)
        own, some = (None if part is None else part[rows] for part in (turn, l2))
        return _turned(problem, own).function(jnp.take(v, rows, axis=v.ndim - 2), some)(u)

    goals = {"enough": enough, "relative": tolerance, "floor": _floor(problem.fit)}
    if tolerance and not problem.fit.is_bare:
        goals["beside"] = _beside(problem) * tolerance
    state = lbfgs.advance(function, state, most, **goals, widths=_widths(len(state.step)))
    return jax.tree.map(lambda leaf: constrain(leaf, "groups"), state)


def _beside(problem: Coordinates) -> float | Float[Array, ""]:
    """Times its tolerance that a gradient may be of the change.

    Where one more evaluation spares a look at how little what stays bends, it is made.
    """
    if not isinstance(problem, Whitened) or problem.grip is None:
        return float(BESIDE)
    sure = _UNHELD * problem.grip.usual
    return jnp.where(sure > _WORTH, jnp.minimum(sure, BESIDE), BESIDE)


def finish(problem: Coordinates, lanes: Lanes, rows, tolerance: float) -> Solution:
    """Change, relative residual, evaluations and status of the lanes `rows`."""
    found, needed = _reached(problem, lanes, rows, tolerance)
    if is_traced(needed):
        return marked(found, ~_held(problem, lanes, rows, needed), Status.inaccurate)
    needed = to_host(needed)
    asked, few = np.flatnonzero(needed), min(_TOGETHER, len(rows))
    if not asked.size:
        return found

    def held(some: np.ndarray):  # a program of its own, where it is needed
        return _held(problem, lanes, np.asarray(rows)[some], needed[some])

    loose, runs = np.zeros(len(rows), bool), runs_of(asked.size, few)
    loose[asked] = ~to_host(in_runs((asked[run] for run in runs), held, lambda _: few))
    return marked(found, loose, Status.inaccurate)


@eqx.filter_jit
def _reached(
    problem: Coordinates, lanes: Lanes, rows, tolerance: float
) -> tuple[Solution, Float[Array, "b"]]:
    """What lanes reached, and the share of its curvature that every direction must have kept.

    That is 0 where it is known to have, or where the lane has failed anyway.
    """
    lanes = lanes[rows]
    state, solution = lanes.state, lbfgs.solution(lanes.state)
    force = jnp.where(jnp.isnan(lanes.force), state.force, lanes.force)
    within = lanes.within(problem)
    change = within.theta(state.point, lanes.l2) - problem.fit.flat[None]
    status = solution.status
    bend = within.curvature(state.point, lanes.v, lanes.l2)
    lost = _running_away(state, bend, tolerance)
    status = jnp.where((status == 0) & lost, Status.no_minimum, status)
    felt = force > _floor(problem.fit)  # else nothing leaves but rounding
    size, ahead = (jnp.linalg.norm(part, axis=1) for part in (state.point, state.direction))
    pull = bend.along / jnp.where(size > 0, size, 1.0)  # |H(w) u| along u
    # no lengths of one kind but in coordinates of H: there |u| is the shorter where curvature comes
    size = jnp.inf if problem.fit.is_bare else size
    left, of, length = solution.residual, measured(force, size), jnp.minimum(pull, size)
    residual = jnp.where(felt, left / jnp.where(felt, of, 1.0), 0.0)
    # a gradient that is a share of that length leaves that share of the change; nor is the search
    # done that would go on by more than that, in directions of little curvature
    share = _LOOSE * tolerance
    short = (left > share * length) | (ahead > share * size)
    short &= left > 2 * _floor(problem.fit)
    reached = residual <= jnp.maximum(2 * tolerance, 1e-9)  # else the floor was, before the goal
    short |= reached & (left > jnp.maximum(share, _SEEN) * length)
    if residual.dtype != jnp.float64:  # whose floor is high
        short |= ~reached
        status = jnp.where((status == Status.stalled) & reached, Status.converged, status)
    short &= residual > jnp.finfo(residual.dtype).eps  # 0 where nothing was felt
    status = jnp.where((status == 0) & short, Status.inaccurate, status)
    needed = _needed(problem, left, size, tolerance)
    # of lanes beyond the pool there are no numbers
    asked = (status == 0) & ~(bend.kept > needed) & jnp.isfinite(left)
    finite = jnp.all(jnp.isfinite(change), axis=1)
    change = jnp.where(finite[:, None], change, 0.0)
    status = jnp.where(finite, status, Status.nonfinite).astype(jnp.int8)
    residual = jnp.where(jnp.isfinite(residual), residual, jnp.inf)
    found = Solution(change, residual, solution.steps, status)
    return replicate((found, jnp.where(asked, needed, 0.0)))


def _needed(problem: Coordinates, left, size, tolerance: float) -> Float[Array, "b"]:
    """The share of its curvature below which a direction hides too much of the change."""
    if problem.fit.metric is None:
        return jnp.zeros_like(left)
    least = _UNHELD * tolerance * size
    needed = jnp.where(least > 0, left / jnp.where(least > 0, least, 1.0), 0.0)
    return jnp.maximum(needed, thin(left.dtype))


@eqx.filter_jit
def _held(problem: Coordinates, lanes: Lanes, rows, needed: Float[Array, "b"]) -> Bool[Array, "b"]:
    """Whether what stays of each lane bends so much in every direction that its gradient tells.

    Where it does not, a small gradient may be a large change.
    """
    some = lanes[rows]
    taken = some.within(problem).taken(some.state.point, some.v, some.l2)
    kept = least_kept(taken, some.state.gradient, needed > 0)
    return replicate((needed == 0) | (kept > needed))


def _running_away(state: lbfgs.State, bend: Bend, tolerance: float):
    """(b) whether a lane is still on its way to infinity, although its gradient has died out."""
    slope = jnp.sum(state.gradient * state.point, axis=1)
    # a Newton step along the change itself that is not short beside it
    stepping = (jnp.abs(slope) > 1e-4 * bend.along) & (
        jnp.abs(slope) > 10 * state.goal * jnp.sqrt(jnp.maximum(bend.along, 0.0))
    )
    # the gradient of a parameter on its way to infinity dies out together with its curvature
    share = min(max(10 * tolerance, 1e-10), 1e-3)  # below 0 it is no minimum of another kind
    whole = bend.whole[None]
    gone = (jnp.abs(bend.left) < share * whole) & (whole > 0)
    return stepping | jnp.any(gone, axis=1)


@eqx.filter_jit
def narrow(pool: Lanes, rows) -> Lanes:
    """Some of the lanes."""
    return _laid(pool[rows])


_initialise = eqx.filter_jit(lbfgs.initialise)  # a buffer for every array: they are donated


@eqx.filter_jit
def _length_left(problem: Coordinates, lanes: Lanes):
    """(b) the length of the change so far in the metric of each lane's own Hessian."""
    bend = lanes.within(problem).curvature(lanes.state.point, lanes.v, lanes.l2)
    return jnp.sqrt(jnp.maximum(bend.along, 0.0))


def alone(problem: Coordinates, pool: Lanes, lane: int, change, effort: Effort) -> Solution:
    """Go on with one hard lane, its own Hessian as metric, renewed as often as it helps.

    A group that takes nearly all curvature along some direction (or moves theta far) leaves a
    problem that is not round in the coordinates of H.
    """
    one = narrow(pool, jnp.array([lane]))
    force = jnp.where(jnp.isnan(one.force), one.state.force, one.force)
    goal = jnp.minimum(one.state.goal, effort.aim * _length_left(problem, one))
    goal = jnp.maximum(goal, _floor(problem.fit))
    one = Lanes(eqx.tree_at(lambda s: s.goal, one.state, goal), problem.unlay(one.v), one.l2, force)
    theta = problem.fit.flat + jnp.asarray(change)
    spent, free = int(one.state.evaluations[0]), problem.fit.objective.free_columns()
    while True:
        own = renewed(problem.fit, free, one.v[0], None if one.l2 is None else one.l2[0], theta)
        state = _initialise(jnp.zeros_like(one.state.point), one.state.goal, history=effort.history)
        fresh = eqx.tree_at(lambda lanes: lanes.state, one, state)
        most = min(HARD, max(effort.max_steps - spent, 1))
        fresh = advance(own, fresh, most, 0, 0.0)  # by its goal alone: points are of this step
        spent += int(fresh.state.evaluations[0])
        theta = own.theta(fresh.state.point, None)[0]
        code = int(lbfgs.solution(fresh.state).status[0])
        still = not bool(fresh.state.point.any())
        if code == Status.converged or spent >= effort.max_steps or still:
            break
    if code == Status.converged:
        fresh = _surer(own, fresh, _floor(problem.fit))
        theta = own.theta(fresh.state.point, None)[0]
    whole = Plain(problem.fit, own.basis, None, own.rest, free, own.gauge)  # the way from theta_hat
    fresh = eqx.tree_at(
        lambda lanes: (lanes.state.point, lanes.state.evaluations),
        fresh,
        (whole.push(theta[None], None), jnp.full(1, spent, jnp.int32)),
    )
    return finish(whole, fresh, np.array([0]), effort.tolerance)


def _surer(own: Plain, lanes: Lanes, floor) -> Lanes:
    """A lane alone that has arrived, after going on as far as is cheap, and no less arrived.

    Its own Hessian gives the directions in which it hardly bends short lengths: what is left there
    is a small share of the change, and need not be one of the effect.
    """
    goal = lanes.state.goal + 0  # a copy: states are donated

    def set_to(lanes: Lanes, goal, running) -> Lanes:
        parts = goal, running, jnp.zeros_like(lanes.state.status)
        return eqx.tree_at(lambda x: (x.state.goal, x.state.running, x.state.status), lanes, parts)

    further = set_to(lanes, jnp.maximum(_SURER * goal, floor), jnp.ones(1, bool))
    return set_to(advance(own, further, HARD, 0, 0.0), goal, jnp.zeros(1, bool))
