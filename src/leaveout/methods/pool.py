"""A pool of lanes in which groups are retrained: kept full, emptied as groups are done.

The lanes have one shape, so that one program serves them all: a lane that is done makes room for
the next group, and a few hard groups do not hold up the rest.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.methods.blocks import STAYS, cached_blocks
from leaveout.methods.bricks import Bricks
from leaveout.methods.coordinates import Coordinates, all_or_nothing
from leaveout.methods.lanes import (
    HARD,
    Effort,
    Lanes,
    advance,
    alone,
    begin,
    finish,
    narrow,
    refilled,
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
from leaveout.runtime.sharding import on_host, place, to_host
from leaveout.runtime.solution import Solution, Status

__all__ = ["Task", "pool_size", "pooled", "straight"]

_BURST = 16  # evaluations at most between two looks at which lanes are done


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

    def begun(self, rows: np.ndarray) -> "Lanes":
        """Lanes of some groups, before any evaluation."""
        start, l2 = self._given(rows)
        turn = None if self.bricks is None else self.bricks.turns(rows)
        fit, groups = self.problem.fit, self.groups
        whole = all_or_nothing(self.problem, groups)
        who = whole.stays(groups[rows]) if whole is not None else leaving(fit, groups, rows)
        return begin(self.problem, who, start, l2, turn, self.effort)

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
        pool = advance(task.problem, task.begun(rows), effort.max_steps, 0, effort.aim)
        return finish(task.problem, pool, np.arange(len(rows)), effort.tolerance)

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
        self.lanes: Lanes | None = None
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
            self.lanes = narrow(new, np.zeros(len(self.holder), int))
        self.lanes = refilled(new, self.lanes, rows)
        self.holder[rows_here] = taken

    def advance(self) -> None:
        """Evaluate until a quarter of the lanes, or all the last ones, are done, or for a while."""
        assert self.lanes is not None  # filled before
        held = self.holder >= 0
        enough = max(int(held.sum()) - self.some, 0) if len(self.queue) else 0
        most, aim = min(_BURST, self.most), self.task.effort.aim
        self.lanes = advance(self.task.problem, self.lanes, most, enough, aim)
        running, spent = to_host((self.lanes.state.running, self.lanes.state.evaluations))
        self.done = held & (~running | (spent >= self.most))

    def harvest(self) -> None:
        """Write down what the lanes that are done reached, and empty them."""
        for rows in _padded(np.flatnonzero(self.done), self.some, len(self.holder)):
            assert self.lanes is not None  # some are done
            found = to_host(finish(self.task.problem, self.lanes, rows, self.task.effort.tolerance))
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
        found = to_host(alone(task.problem, self.lanes, lane, answer.value, task.effort))
        return jax.tree.map(lambda leaf: leaf[0], found)

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
    worth = max(HARD, int(renewal / evaluation / 2))
    return min(worth, max(HARD, int(0.8 * effort.max_steps)), effort.max_steps)
