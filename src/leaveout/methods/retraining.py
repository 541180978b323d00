"""Retraining: the truth, argmin J(.; v) - theta for what groups leave, many groups at once.

Batched L-BFGS in the coordinates u of theta = theta_hat + L^-T u, L the Cholesky factor of H:
there the Hessian of what is left is I - S with 0 <= S < 1, so that few steps are needed, and the
length of the gradient is the Newton decrement (in the metric of H). For linear models of one
output the design itself is brought into these coordinates, and an evaluation is two products with
it and nothing else. The lanes of a pool are kept full (`pool`); one that does not converge in a few
dozen evaluations goes on alone, in the metric of its own Hessian.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Change, Fit, with_rows
from leaveout.fitting.gates import doubtful
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods.coordinates import around
from leaveout.methods.pool import Effort, Task, pool_size, pooled, straight
from leaveout.methods.protocol import Method, Prepared, asked
from leaveout.objectives.abstract import AbstractScores
from leaveout.runtime.batches import in_runs
from leaveout.runtime.memory import budget
from leaveout.runtime.options import check_integer, check_positive
from leaveout.runtime.sharding import entry_point, is_traced, replicate, to_host
from leaveout.runtime.solution import Solution, Status
from leaveout.solvers import factorise, full_matrix, reachable

__all__ = [
    "Retrain",
    "retrain",
]


@dataclass(frozen=True)
class Retrain(Method):
    """Retraining as a method of `effects`.

    Attributes:
        tolerance: the remaining gradient, relative to the one the group's removal causes; both in
            the norm of H^-1. The change is then right to about tolerance / (1 - mu), mu the
            largest share of curvature that the group takes away in any direction.
        max_steps: evaluations of the objective and its gradient that a group may use.
        history: pairs that L-BFGS remembers.
    """

    actual: ClassVar[bool] = True

    tolerance: float = 1e-8
    max_steps: int = 500
    history: int = 10

    def __post_init__(self):
        check_positive(self.tolerance, "tolerance")
        check_integer(self.max_steps, "max_steps", least=0)
        check_integer(self.history, "history")

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "actual"

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """`retrain` with these settings, in coordinates that are found once."""
        return Prepared(_retraining(fit, self, None, None))


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

        change = argmin J(.; v) - theta_hat,  v = s (1 - w)

    The l2 penalty stays what it is. Two matrix products of the size of the data for each
    evaluation, for all groups in flight together; about 10 to 30 evaluations a group. Where a
    linear model has no penalty, a group that leaves more than one minimum gets one of them and the
    status `singular` (n p^2 a group to find out); one that moves theta by less than a hundred times
    what theta_hat is from its own optimum gets `inaccurate`.

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
        the removal caused, in the norm of H^-1; steps counts evaluations of value and gradient.

    Raises:
        ValueError: if `groups` was made for another number of examples.

    Source: Koh et al. (2019), equation 2; converged, where the paper's solver stopped early.
    """
    if not isinstance(method, Retrain):
        raise ValueError(f"expected method as lo.Retrain(...), got {method!r}")

    def prepare(inner: Fit) -> Prepared:
        begin = _per_group(start, (len(groups), fit.objective.p), "start")
        penalties = _per_group(l2, (len(groups),), "l2")
        if penalties is not None and not is_traced(l2) and not (np.asarray(l2) >= 0).all():
            raise ValueError(f"expected penalties >= 0, got {np.asarray(l2).min()}")
        begin = None if begin is None else inner.objective.taken_in(begin)
        return Prepared(_retraining(inner, method, begin, penalties))

    return asked(fit, groups, prepare, memory=memory, throw=throw)


def _retraining(fit: Fit, method: Retrain, start, l2):
    """The map from groups to their changes."""
    if l2 is None:
        fit = with_rows(fit, budget())
    problem = around(fit, l2 is not None)
    asked = reachable(method.tolerance, fit.flat.dtype)
    effort = Effort(asked, method.max_steps, method.history)

    def change(groups: Groups) -> Change:
        lanes = pool_size(fit, len(groups), method.history)
        task = Task(problem, groups, start, l2, effort)
        traced = is_traced((fit, start, l2))
        solution = (straight if traced else pooled)(task, lanes)
        if not is_traced(solution) and _may_be_flat(fit, l2):
            flat = _flat(fit, groups, solution.value, l2, lanes)
            solution = _flagged(solution, flat, Status.singular)
        if not is_traced(solution) and l2 is None:  # a change from theta, not from its optimum
            solution = _flagged(solution, doubtful(fit, groups), Status.inaccurate)
        return Change.of(solution, fit.objective).finished(fit, asked)

    return change


def _flagged(solution: Solution, where, status: Status) -> Solution:
    """The solution with a status for some rows that converged."""
    code = jnp.where((solution.status == 0) & where, status, solution.status)
    return eqx.tree_at(lambda s: s.status, solution, code.astype(jnp.int8))


def _per_group(values, shape, name):
    if values is None:
        return None
    if np.shape(values) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {np.shape(values)}")
    return jnp.asarray(values)


def _may_be_flat(fit: Fit, l2) -> bool:
    """Whether more than intercepts go without penalty, so that a minimum need not be the only one.

    An intercept that has lost its curvature is noticed on the way (`pool`).
    """
    objective = fit.objective
    if fit.metric is None or not isinstance(objective, AbstractScores):
        return False
    bare = float(objective.l2) == 0 if l2 is None else bool((np.asarray(to_host(l2)) == 0).any())
    free = int(np.count_nonzero(~np.asarray(to_host(objective.penalised))))
    return bare or free > objective.outputs


def _flat(fit: Fit, groups: Groups, value, l2, lanes: int):
    """(g) where the Hessian of what stays is singular at theta_hat + value."""

    def look(rows):
        own = None if l2 is None else l2[rows]
        return _singular(fit, leaving(fit, groups, rows), value[rows], own)

    count = len(groups)
    starts = range(0, count, lanes)
    return in_runs((np.arange(at, min(at + lanes, count)) for at in starts), look, lambda _: lanes)


@eqx.filter_jit
def _singular(fit: Fit, w, value, l2):
    def one(lane):
        w, change, l2 = lane
        objective = fit.objective if l2 is None else fit.objective.with_l2(l2)
        here = objective.at(fit.flat + change)
        return ~factorise(full_matrix(here, objective.stays(w)))[1]

    return replicate(jax.lax.map(one, (w, value, l2)))
