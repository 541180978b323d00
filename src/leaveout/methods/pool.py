"""A pool of lanes in which groups are retrained: kept full, emptied as groups are done.

The lanes have one shape, so that one program serves them all: a lane that is done makes room for
the next group, and a few hard groups do not hold up the rest.
"""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from leaveout.fitting import lbfgs
from leaveout.fitting.fitted import Fit, rounding
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.methods.bricks import Bricks
from leaveout.methods.coordinates import (
    STAYS,
    Coordinates,
    Plain,
    Turned,
    all_or_nothing,
    cached_blocks,
    renewed,
)
from leaveout.objectives.abstract import AbstractObjective
from leaveout.runtime.batches import in_runs, runs_of
from leaveout.runtime.memory import (
    ACCELERATOR,
    POOL_BYTES,
    POOL_LANES,
    budget,
    longest,
    rung,
)
from leaveout.runtime.sharding import constrain, devices, on_host, place, replicate, to_host
from leaveout.runtime.solution import Solution, Status
from leaveout.solvers import BESIDE, measured

__all__ = ["Effort", "Task", "pool_size", "pooled", "straight"]

_BURST = 16  # evaluations at most between two looks at which lanes are done
_LOOSE = 30  # times the tolerance that a change may be wrong by, along itself
_SEEN = 1e-6  # of a change along itself: what rounding may leave without a word
_HARD = 48  # evaluations after which a lane gets a Hessian of its own, if that is not dearer


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


class Task(NamedTuple):
    """What is retrained.

    Attributes:
        problem: coordinates around the fit.
        groups: what leaves.
        start: (g p) where each group starts, or None for theta_hat.
        l2: (g) a penalty for each group, or None for the objective's.
        effort: when a group is done.
        bricks: what makes a metric for each group, or None for the one that all share.
    """

    problem: Coordinates
    groups: Groups
    start: Float[Array | np.ndarray, "g p"] | None
    l2: Float[Array, "g"] | None
    effort: Effort
    bricks: Bricks | None = None

    def of(self, rows: np.ndarray) -> "Task":
        """The same for some of the groups, in the metric that all share."""
        start, l2 = self._given(rows)
        return Task(self.problem, self.groups[rows], start, l2, self.effort)

    def _given(self, rows: np.ndarray):
        """Where some of the groups start, and the l2 of each."""
        start = None if self.start is None else self.start[rows]
        return start, None if self.l2 is None else self.l2[rows]

    def begun(self, rows: np.ndarray) -> "_Lanes":
        """Lanes of some groups, before any evaluation."""
        start, l2 = self._given(rows)
        turn = None if self.bricks is None else self.bricks.turns(rows)
        fit, groups = self.problem.fit, self.groups
        whole = all_or_nothing(self.problem, groups)
        who = whole.stays(groups[rows]) if whole is not None else leaving(fit, groups, rows)
        return _begin(self.problem, who, start, l2, turn, self.effort)

    @property
    def lanes(self) -> int:
        """Lanes of its pool."""
        own, flagged = self.bricks is not None, all_or_nothing(self.problem, self.groups)
        fit, history = self.problem.fit, self.effort.history
        return pool_size(fit, len(self.groups), history, own=own, flagged=flagged is not None)


def pool_size(
    fit: Fit, count: int, history: int, *, own: bool = False, flagged: bool = False
) -> int:
    """Lanes that a pool for so many groups has.

    Args:
        fit: whose groups they are.
        count: how many.
        history: pairs that L-BFGS remembers.
        own: whether each lane has a metric of its own.
        flagged: whether a lane holds who stays, and not weights.
    """
    objective = fit.objective
    held = 2 * STAYS.itemsize if flagged else 8 * _floats_held(objective)  # twice when filled
    each = objective.n * held + 8 * objective.p * (2 * history + 16 + 3 * objective.p * own)
    if on_host():  # the problem's own number: fewer lanes that run cost less (`_widths`)
        return longest(each, min(budget(), POOL_BYTES), POOL_LANES)
    return longest(each, budget(), min(rung(count), ACCELERATOR * POOL_LANES))


def _floats_held(objective: AbstractObjective) -> int:
    """Numbers that a lane holds for each example: in blocks what it gets, twice when filled."""
    cut = cached_blocks(objective.n) > 1 and not objective.sparse
    return 2 * objective.outputs if cut else objective.floats_per_example


def straight(task: Task, lanes: int) -> Solution:
    """Chunk after chunk, each to the end: what can be traced."""
    effort, count = task.effort, len(task.groups)

    def to_the_end(rows: np.ndarray) -> Solution:
        pool = _advance(task.problem, task.begun(rows), effort.max_steps, 0, effort.aim)
        return _finish(task.problem, pool, np.arange(len(rows)), effort.tolerance)

    return in_runs(runs_of(count, lanes), to_the_end)


def pooled(task: Task) -> Solution:
    """A pool kept full from a queue, largest groups (the hardest, as a rule) first."""
    pool = _Pool(task)
    while True:
        if pool.due:
            pool.harvest()
            pool.fill()
            if not pool.holds_any:
                return Solution(*(place(part, part.dtype) for part in pool.reached))
        pool.advance()


class _Pool:
    """Lanes in flight, the queue of groups that wait for one, and what those that are done reached.

    Lanes are emptied and filled a quarter of the pool at a time: one shape serves for all.
    """

    def __init__(self, task: Task):
        fit, effort, count, lanes = task.problem.fit, task.effort, len(task.groups), task.lanes
        dtype = np.dtype(fit.flat.dtype)
        self.task = task
        self.lanes: _Lanes | None = None
        self.holder = np.full(lanes, -1)  # which group a lane holds; -1 for none
        self.done = np.zeros(lanes, bool)
        self.queue = np.argsort(-task.groups.size, kind="stable")
        self.some = max(lanes // 4, 1)  # lanes that are filled, and that are emptied, together
        self.most = effort.max_steps if fit.metric is None else _patience(fit, effort)
        self.reached = (  # as a `Solution` is
            np.zeros((count, fit.flat.size), dtype), np.zeros(count, dtype),
            np.zeros(count, np.int32), np.zeros(count, np.int8),
        )  # fmt: skip

    @property
    def holds_any(self) -> bool:
        """Whether a group is in a lane."""
        return bool((self.holder >= 0).any())

    @property
    def due(self) -> bool:
        """Whether enough lanes are done to be emptied and filled."""
        idle = self.done | (self.holder < 0)
        return bool(self.done.sum() >= self.some or idle.all() or not len(self.queue))

    def fill(self) -> None:
        """Put waiting groups into lanes that hold none."""
        free = np.flatnonzero(self.holder < 0)[: len(self.queue)]
        for rows in _padded(free, self.some, len(self.holder)):
            self._refill(rows)
        if self.lanes is None or not self.holds_any:
            return
        running = to_host(self.lanes.state.running) & (self.holder >= 0)  # no others do
        running = place(running, bool, "groups")
        self.lanes = eqx.tree_at(lambda lanes: lanes.state.running, self.lanes, running)

    def _refill(self, rows: np.ndarray) -> None:
        """Begin the next groups in these lanes; rows beyond the pool are padding."""
        rows_here = rows[rows < len(self.holder)]
        taken, self.queue = np.split(self.queue, [len(rows_here)])
        new = self.task.begun(np.resize(taken, self.some))
        if self.lanes is None:
            self.lanes = _narrow(new, np.zeros(len(self.holder), int))
        self.lanes = _refilled(new, self.lanes, rows)
        self.holder[rows_here] = taken

    def advance(self) -> None:
        """Evaluate until a quarter of the lanes, or all the last ones, are done, or for a while."""
        assert self.lanes is not None  # filled before
        held = self.holder >= 0
        enough = max(int(held.sum()) - self.some, 0) if len(self.queue) else 0
        most, aim = min(_BURST, self.most), self.task.effort.aim
        self.lanes = _advance(self.task.problem, self.lanes, most, enough, aim)
        running, spent = to_host((self.lanes.state.running, self.lanes.state.evaluations))
        self.done = held & (~running | (spent >= self.most))

    def harvest(self) -> None:
        """Write down what the lanes that are done reached, and empty them."""
        for rows in _padded(np.flatnonzero(self.done), self.some, len(self.holder)):
            assert self.lanes is not None  # some are done
            found = to_host(
                _finish(self.task.problem, self.lanes, rows, self.task.effort.tolerance)
            )
            for i, lane in enumerate(rows[rows < len(self.holder)]):
                answer = jax.tree.map(lambda leaf, i=i: leaf[i], found)
                self._write(int(self.holder[lane]), self._improved(int(lane), answer))
        self.holder[self.done] = -1

    def _improved(self, lane: int, answer: Solution) -> Solution:
        """The answer of a lane; of one that did not converge, after going on alone."""
        task = self.task
        if answer.status == Status.inaccurate and answer.value.dtype != np.float64:
            return answer  # rounding stopped it, and would again
        hard = answer.status != Status.converged and task.problem.fit.metric is not None
        if not hard or self.most >= task.effort.max_steps:
            return answer
        assert self.lanes is not None  # it holds the lane
        alone = to_host(_alone(task.problem, self.lanes, lane, answer.value, task.effort))
        return jax.tree.map(lambda leaf: leaf[0], alone)

    def _write(self, group: int, answer: Solution) -> None:
        parts = answer.value, answer.residual, answer.steps, answer.status
        for whole, part in zip(self.reached, parts, strict=True):
            whole[group] = part


def _padded(rows, length: int, filler: int):
    """Runs of `length` rows, the last one filled up."""
    for at in range(0, len(rows), length):
        run = rows[at : at + length]
        yield np.concatenate([run, np.full(length - len(run), filler)])


def _patience(fit: Fit, effort: Effort) -> int:
    """Evaluations after which a lane is given a Hessian of its own.

    Where p is large that costs as much as hundreds of evaluations: half as many are tried first.
    """
    n, p, outputs = fit.objective.n, fit.objective.p, fit.objective.outputs
    renewal = n * p**2 * (outputs + 1) / outputs + 2 * p**3
    evaluation = 4 * n * p + 4 * p**2
    worth = max(_HARD, int(renewal / evaluation / 2))
    return min(worth, max(_HARD, int(0.8 * effort.max_steps)), effort.max_steps)


# ---- lanes ---------------------------------------------------------------------------------------


class _Lanes(eqx.Module):
    """Searches in flight, what the examples get in each, its penalty, its goal if given.

    `force` is the gradient's norm at theta_hat where a lane starts elsewhere, else not a number:
    then it is what the search finds first. `turn` are coordinates of each lane's own (`Turned`).
    """

    state: lbfgs.State
    v: Float[Array, "b n"] | Float[Array, "k b l"] | UInt8[Array, "k b l"]
    l2: Float[Array, "b"] | None
    force: Float[Array, "b"]
    turn: Float[Array, "b p p"] | None = None

    def __getitem__(self, rows) -> "_Lanes":
        """Some of the lanes."""

        def take(leaf):
            return leaf[rows] if leaf.ndim else leaf

        parts = jax.tree.map(take, (self.state, self.l2, self.force, self.turn))
        return _Lanes(parts[0], jnp.take(self.v, rows, axis=self.v.ndim - 2), *parts[1:])

    def within(self, problem: Coordinates) -> Coordinates | Turned:
        """The coordinates that the lanes are in."""
        return _turned(problem, self.turn)


def _turned(problem: Coordinates, turn) -> Coordinates | Turned:
    return problem if turn is None else Turned(problem, turn)


def _laid(lanes: _Lanes) -> _Lanes:
    """The lanes over the devices: each holds what its part of the data gets from its groups."""
    parts = jax.tree.map(
        lambda leaf: constrain(leaf, "groups"), (lanes.state, lanes.l2, lanes.force, lanes.turn)
    )
    blocks = (None,) * (lanes.v.ndim - 2)
    return _Lanes(parts[0], constrain(lanes.v, *blocks, "groups", "data"), *parts[1:])


def _floor(fit: Fit):
    """Rounding in a sum of n whitened gradients, below which no solver can see."""
    units = 1024 if fit.flat.dtype == jnp.float64 else 16
    usual = units * jnp.finfo(fit.flat.dtype).eps * fit.sandwich
    return jnp.maximum(usual, rounding(fit.flat, fit.metric, fit.sandwich))


@eqx.filter_jit
def _begin(problem: Coordinates, who, start, l2, turn, effort: Effort) -> _Lanes:
    """Lanes before any evaluation; those that do not start at theta_hat spend one on it.

    `who` is w (b n), what leaves, or who stays as the coordinates lay it out.
    """
    fit, within = problem.fit, _turned(problem, turn)
    v = who if who.dtype == STAYS else problem.lay(fit.objective.stays(who))
    origin = jnp.zeros((v.shape[-2], fit.flat.size), fit.flat.dtype)
    if start is None and not fit.is_bare:
        state = lbfgs.initialise(origin, history=effort.history)
        return _laid(_Lanes(state, v, l2, jnp.full(len(origin), jnp.nan, origin.dtype), turn))
    _, gradient = within.function(v, l2)(origin)
    force = jnp.linalg.norm(gradient, axis=1)
    goal = jnp.maximum(effort.aim * force, _floor(fit))
    u = origin if start is None else within.push(start, l2)
    # bare coordinates: the first step must find its own length
    first = 1 / jnp.maximum(force, 1.0) if fit.is_bare else None
    state = lbfgs.initialise(u, goal, history=effort.history, first_step=first)
    return _laid(_Lanes(state, v, l2, force, turn))


@eqx.filter_jit(donate="all-except-first")
def _refilled(new: _Lanes, pool: _Lanes, rows) -> _Lanes:
    """The pool with lanes `rows` taken from `new`; rows beyond the pool are padding."""
    count = len(pool.force)
    source = jnp.zeros(count, int).at[rows].set(jnp.arange(len(rows)), mode="drop")
    isnew = jnp.zeros(count, bool).at[rows].set(True, mode="drop")
    state = lbfgs.restart(pool.state, isnew, new.state, source)
    each = (slice(None),) * (pool.v.ndim - 2)
    refilled = _Lanes(
        state,
        pool.v.at[*each, rows].set(new.v, mode="drop"),
        None if pool.l2 is None else pool.l2.at[rows].set(new.l2, mode="drop"),
        pool.force.at[rows].set(new.force, mode="drop"),
        None if pool.turn is None else pool.turn.at[rows].set(new.turn, mode="drop"),
    )
    return _laid(refilled)


def _widths(lanes: int) -> tuple[int, ...]:
    """How many lanes are evaluated together, where fewer than all cost less."""
    fewer = (4, 16, 64) if on_host() and devices() == 1 else ()
    return (*(width for width in fewer if width < lanes), lanes)


def _advance(problem: Coordinates, lanes: _Lanes, most, enough, tolerance: float) -> _Lanes:
    """Evaluate until `enough` lanes or fewer are running."""
    inputs = problem, lanes.v, lanes.l2, lanes.turn
    state = _search(inputs, lanes.state, most, enough, tolerance)
    return _Lanes(state, *inputs[1:3], lanes.force, lanes.turn)


@eqx.filter_jit(donate="all-except-first")
def _search(inputs, state: lbfgs.State, most, enough, tolerance: float) -> lbfgs.State:
    problem, v, l2, turn = inputs

    def function(u, rows):
        if rows is None:
            return _turned(problem, turn).function(v, l2)(u)
        own, some = (None if part is None else part[rows] for part in (turn, l2))
        return _turned(problem, own).function(jnp.take(v, rows, axis=v.ndim - 2), some)(u)

    goals = {"enough": enough, "relative": tolerance, "floor": _floor(problem.fit)}
    if not problem.fit.is_bare:
        goals["beside"] = BESIDE * tolerance
    state = lbfgs.advance(function, state, most, **goals, widths=_widths(len(state.step)))
    return jax.tree.map(lambda leaf: constrain(leaf, "groups"), state)


@eqx.filter_jit
def _finish(problem: Coordinates, lanes: _Lanes, rows, tolerance: float) -> Solution:
    """Change, relative residual, evaluations and status of the lanes `rows`."""
    lanes = lanes[rows]
    state, solution = lanes.state, lbfgs.solution(lanes.state)
    force = jnp.where(jnp.isnan(lanes.force), state.force, lanes.force)
    within = lanes.within(problem)
    change = within.theta(state.point, lanes.l2) - problem.fit.flat[None]
    status = solution.status
    along = within.curvature(state.point, lanes.v, lanes.l2)
    lost = _running_away(state, *along, tolerance)
    status = jnp.where((status == 0) & lost, Status.no_minimum, status)
    felt = force > _floor(problem.fit)  # else nothing leaves but rounding
    size, ahead = (jnp.linalg.norm(part, axis=1) for part in (state.point, state.direction))
    pull = along[0] / jnp.where(size > 0, size, 1.0)  # |H(w) u| along u
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
    finite = jnp.all(jnp.isfinite(change), axis=1)
    change = jnp.where(finite[:, None], change, 0.0)
    status = jnp.where(finite, status, Status.nonfinite).astype(jnp.int8)
    residual = jnp.where(jnp.isfinite(residual), residual, jnp.inf)
    return replicate(Solution(change, residual, solution.steps, status))


def _running_away(state: lbfgs.State, curvature, left, whole, tolerance: float):
    """(b) whether a lane is still on its way to infinity, although its gradient has died out."""
    slope = jnp.sum(state.gradient * state.point, axis=1)
    # a Newton step along the change itself that is not short beside it
    stepping = (jnp.abs(slope) > 1e-4 * curvature) & (
        jnp.abs(slope) > 10 * state.goal * jnp.sqrt(jnp.maximum(curvature, 0.0))
    )
    # the gradient of a parameter on its way to infinity dies out together with its curvature
    share = min(max(10 * tolerance, 1e-10), 1e-3)  # below 0 it is no minimum of another kind
    gone = (jnp.abs(left) < share * whole[None]) & (whole[None] > 0)
    return stepping | jnp.any(gone, axis=1)


@eqx.filter_jit
def _narrow(pool: _Lanes, rows) -> _Lanes:
    """Some of the lanes."""
    return _laid(pool[rows])


_initialise = eqx.filter_jit(lbfgs.initialise)  # a buffer for every array: they are donated


@eqx.filter_jit
def _length_left(problem: Coordinates, lanes: _Lanes):
    """(b) the length of the change so far in the metric of each lane's own Hessian."""
    curvature, *_ = lanes.within(problem).curvature(lanes.state.point, lanes.v, lanes.l2)
    return jnp.sqrt(jnp.maximum(curvature, 0.0))


def _alone(problem: Coordinates, pool: _Lanes, lane: int, change, effort: Effort) -> Solution:
    """Go on with one hard lane, its own Hessian as metric, renewed as often as it helps.

    A group that takes nearly all curvature along some direction (or moves theta far) leaves a
    problem that is not round in the coordinates of H.
    """
    one = _narrow(pool, jnp.array([lane]))
    force = jnp.where(jnp.isnan(one.force), one.state.force, one.force)
    goal = jnp.minimum(one.state.goal, effort.aim * _length_left(problem, one))
    goal = jnp.maximum(goal, _floor(problem.fit))
    one = _Lanes(
        eqx.tree_at(lambda s: s.goal, one.state, goal), problem.unlay(one.v), one.l2, force
    )
    theta = problem.fit.flat + jnp.asarray(change)
    spent, free = int(one.state.evaluations[0]), problem.fit.objective.free_columns()
    while True:
        own = renewed(problem.fit, free, one.v[0], None if one.l2 is None else one.l2[0], theta)
        state = _initialise(jnp.zeros_like(one.state.point), one.state.goal, history=effort.history)
        fresh = eqx.tree_at(lambda lanes: lanes.state, one, state)
        most = min(_HARD, max(effort.max_steps - spent, 1))
        fresh = _advance(own, fresh, most, 0, 0.0)  # by its goal alone: points are of this step
        spent += int(fresh.state.evaluations[0])
        theta = own.theta(fresh.state.point, None)[0]
        code = int(lbfgs.solution(fresh.state).status[0])
        still = not bool(fresh.state.point.any())
        if code == Status.converged or spent >= effort.max_steps or still:
            break
    whole = Plain(problem.fit, own.basis, None, own.rest, free)  # the way from theta_hat
    fresh = eqx.tree_at(
        lambda lanes: (lanes.state.point, lanes.state.evaluations),
        fresh,
        (whole.push(theta[None], None), jnp.full(1, spent, jnp.int32)),
    )
    return _finish(whole, fresh, np.array([0]), effort.tolerance)
