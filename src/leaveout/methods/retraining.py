"""Retraining: the truth, argmin J(.; v) - theta for what groups leave, many groups at once.

Batched L-BFGS in the coordinates u of theta = theta_hat + L^-T u, L the Cholesky factor of H:
there the Hessian of what is left is I - S with 0 <= S < 1, so that few steps are needed, and the
length of the gradient is the Newton decrement (in the metric of H). For linear models of one
output the design itself is brought into these coordinates, and an evaluation is two products with
it and nothing else. The lanes of a pool are kept full (`pool`); one that does not converge in a few
dozen evaluations goes on alone, in the metric of its own Hessian.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Change, Fit, with_rows
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods.coordinates import around
from leaveout.methods.pool import Effort, Task, pool_size, pooled, straight
from leaveout.methods.protocol import Method, Prepared, asked
from leaveout.objectives.abstract import AbstractScores
from leaveout.runtime.batches import in_runs
from leaveout.runtime.memory import budget
from leaveout.runtime.sharding import entry_point, is_traced, replicate, to_host
from leaveout.runtime.solution import Status
from leaveout.solvers import factorise, full_matrix

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

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "actual"

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """`retrain` with these settings, in coordinates that are found once."""
        whole = functools.cache(lambda: _retraining(fit, self, own_l2=True))
        return Prepared(_retraining(fit, self), change_under=lambda groups, l2: whole()(groups, l2))


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
    status `singular` (n p^2 a group to find out).

    Args:
        fit: the fitted objective.
        groups: what leaves.
        method: tolerance, steps, history.
        start: (g p) where each group starts; default theta_hat.
        l2: (g) a penalty for each group; default the objective's. Where that has one for each
            coefficient, what multiplies it.
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

    def prepare() -> Prepared:
        begin, own = _start(start, (len(groups), fit.objective.p)), l2 is not None
        found = _retraining(fit, method, begin, own_l2=own)
        return Prepared(found, change_under=found)

    return asked(fit, groups, prepare, l2=l2, memory=memory, throw=throw)


def _retraining(fit: Fit, method: Retrain, start=None, *, own_l2: bool = False):
    """The map from groups, and the l2 of each if they have their own, to their changes."""
    if not own_l2:
        fit = with_rows(fit, budget())
    problem = around(fit, own_l2)
    effort = Effort(method.tolerance, method.max_steps, method.history)

    def change(groups: Groups, l2: Array | None = None) -> Change:
        lanes = pool_size(fit, len(groups), method.history)
        task = Task(problem, groups, start, l2, effort)
        traced = is_traced((fit, start, l2))
        solution = (straight if traced else pooled)(task, lanes)
        if not is_traced(solution) and _may_be_flat(fit, l2):
            flat = _flat(fit, groups, solution.value, l2, lanes)
            status = jnp.where((solution.status == 0) & flat, Status.singular, solution.status)
            solution = eqx.tree_at(lambda s: s.status, solution, status.astype(jnp.int8))
        return Change.of(solution, fit.objective).finished(fit, method.tolerance)

    return change


def _start(values, shape):
    if values is None:
        return None
    if np.shape(values) != shape:
        raise ValueError(f"expected start of shape {shape}, got {np.shape(values)}")
    return jnp.asarray(values)


def _may_be_flat(fit: Fit, l2) -> bool:
    """Whether more than intercepts go without penalty, so that a minimum need not be the only one.

    An intercept that has lost its curvature is noticed on the way (`pool`).
    """
    objective = fit.objective
    if fit.metric is None or not isinstance(objective, AbstractScores):
        return False
    bare = float(objective.l2) == 0 if l2 is None else bool((np.asarray(to_host(l2)) == 0).any())
    free = int(np.count_nonzero(np.asarray(to_host(objective.penalised)) == 0))
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
