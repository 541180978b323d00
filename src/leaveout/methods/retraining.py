"""Retraining: the truth, argmin J(.; v) - theta for what groups leave, many groups at once.

Batched L-BFGS in the coordinates u of theta = theta_hat + L^-T u, L the Cholesky factor of H:
there the Hessian of what is left is I - S with 0 <= S < 1, so that few steps are needed, and the
length of the gradient is the Newton decrement (in the metric of H). For linear models of one
output the design itself is brought into these coordinates, and an evaluation is two products with
it and nothing else. The lanes of a pool are kept full (`pool`); one that does not converge in a few
dozen evaluations goes on alone, in the metric of its own Hessian, and so does one that has hardly
any curvature left in some direction, where a small gradient tells nothing (`hold`). Groups that
leave little of H get a metric of what they leave from the start, where that is cheaper (`bricks`).
Past the dense limit a linear model of many outputs is retrained in the coordinates of a factor for
each output, which make the Hessian near enough to the identity.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Change, Fit, with_rows
from leaveout.fitting.gates import Need, doubtful
from leaveout.fitting.implicit import known, minima
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods.bricks import bricks_of
from leaveout.methods.coordinates import around
from leaveout.methods.lanes import Effort
from leaveout.methods.pool import Task, pool_size, pooled, straight
from leaveout.methods.protocol import Method, Prepared, asked
from leaveout.methods.strain import marked
from leaveout.methods.trajectory import retrained
from leaveout.objectives.abstract import AbstractScores
from leaveout.runtime.batches import in_runs, joined, runs_of
from leaveout.runtime.memory import budget
from leaveout.runtime.options import check_integer, check_positive
from leaveout.runtime.sharding import entry_point, is_traced, replicate, to_host
from leaveout.runtime.solution import Solution, Status
from leaveout.runtime.tables import Named
from leaveout.solvers import factorise, full_matrix, reachable, scale_of
from leaveout.training.run import Trained

__all__ = [
    "Retrain",
    "retrain",
    "retrainer",
]

_AIM = 0.125  # of what is asked in float32, which only large groups reach: theirs is what is seen
_FEW = 128  # parameters up to which every direction is looked at, not only that of the change


@dataclass(frozen=True)
class Retrain(Method):
    """Retraining as a method of `effects`.

    Attributes:
        tolerance: the remaining gradient, relative to the one the group's removal causes, both in
            the norm of H^-1, or to 8 times the change in that of H where that is shorter, as of
            points that are added with a large leverage. The change is then right to about
            tolerance / (1 - mu), mu the largest share of curvature that the group takes away in any
            direction; to about the tolerance where the group has a metric of its own (`bricks`),
            whose norm it then is. Where the search would still go on by 30 tolerances of the
            change, or 1 - mu is so small that what is left may be 1000, it does so with the group's
            own Hessian (not past the dense limit, where mu is not looked at).
        max_steps: evaluations of the objective and its gradient that a group may use.
        history: pairs that L-BFGS remembers.
        exact: of a run, refuse to go on where training it again gives other bits; False starts
            from the theta that is found here, and says so.

    On a `Run` the training itself is repeated without each group, from the same start through the
    same batches; tolerance, max_steps and history are of fits.

    Raises:
        ValueError: for a tolerance that is not positive, or steps or a history that are no count.

    Example:
        >>> effects = lo.effects(fit, groups, measure, lo.Retrain(tolerance=1e-10))
        >>> bool((effects.residual < 1e-10).all())
        True
    """

    actual: ClassVar[bool] = True
    of_run: ClassVar[Collection[Need] | None] = (Need.trajectory,)

    tolerance: float = 1e-8
    max_steps: int = 500
    history: int = 10
    exact: bool = True

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
        if isinstance(fit, Trained):
            return retrained(fit)
        whole = functools.cache(lambda: retrainer(fit, self, own_l2=True))
        return Prepared(retrainer(fit, self), change_under=lambda groups, l2: whole()(groups, l2))


@entry_point
def retrain(
    fit: Fit,
    groups: Groups,
    method: Retrain = Retrain(),
    *,
    start: Float[Array | np.ndarray, "g p"] | None = None,
    l2: Float[Array | np.ndarray, "g"] | Named | None = None,
    memory=None,
    throw: bool = False,
) -> Change:
    """Change in theta when the model is trained again without each group.

        change = argmin J(.; v) - theta_hat,  v = s (1 - w)

    The l2 penalty stays what it is. Two matrix products of the size of the data for each
    evaluation, for all groups in flight together; about 10 to 30 evaluations a group. Where a
    linear model has no penalty, a group that leaves more than one minimum gets one of them and the
    status `singular` (n p^2 a group to find out); one that moves theta by less than a hundred times
    what theta_hat is from its own optimum gets `inaccurate`. Where the loss is not known to be
    convex the minimum is a local one, the one that training from theta_hat reaches (`start` for
    another); one that turns out to be none, J bending down there, gets `not_positive_definite`.

    Under `jax.grad`, `jax.jvp` and `jax.jit` the retrained theta has its derivatives in l2, base
    weights, x and y (whatever the objective holds as floats), by one solve a group with the Hessian
    of what stays there; theta_hat has those of `fit.flat`: a fit from `lo.fit` inside the function
    that is differentiated follows its objective, one from outside is a constant.

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
        the removal caused (see `Retrain.tolerance`), in the norm of H^-1; steps counts evaluations
        of value and gradient.

    Raises:
        ValueError: if `groups` was made for another number of examples.

    Example:
        >>> change = lo.retrain(fit, groups)
        >>> change.value.shape, change.status.tolist()
        ((4, 4), [0, 0, 0, 0])

    Source: Koh et al. (2019), equation 2; converged, where the paper's solver stopped early.
    """
    if not isinstance(method, Retrain):
        raise ValueError(f"expected method as lo.Retrain(...), got {method!r}")

    def prepare(inner: Fit) -> Prepared:
        begin, own = _start(start, (len(groups), fit.objective.p)), l2 is not None
        begin = None if begin is None else inner.objective.taken_in(begin)
        found = functools.partial(retrainer(inner, method, own_l2=own), start=begin)
        return Prepared(found, change_under=found)

    return asked(fit, groups, prepare, l2=l2, memory=memory, throw=throw)


def retrainer(fit: Fit, method: Retrain, *, own_l2: bool = False) -> Callable[..., Change]:
    """The map from groups to their changes, in coordinates that are found once.

    Of groups, and perhaps the l2 (g) of each, if they have their own, and the flat theta (g p) at
    which each starts, in the coordinates of the fit.
    """
    here = known(fit)
    apart = is_traced(here.objective) and not is_traced(here.flat)  # then the factor is another's
    if not own_l2 and not apart:
        here = with_rows(here, budget())
    problem = around(here, own_l2 or apart)
    asked = reachable(method.tolerance, here.flat.dtype)
    aim = asked if here.flat.dtype == jnp.float64 else max(method.tolerance, _AIM * asked)
    effort = Effort(asked, aim, method.max_steps, method.history)

    def change(groups: Groups, l2: Array | None = None, start=None) -> Change:
        own, begin = known((l2, start))
        begin = None if begin is None else begin.astype(here.flat.dtype)
        lanes = pool_size(here, len(groups), method.history)
        task = Task(problem, groups, begin, own, effort)
        traced = is_traced((here, begin, own))
        solution = straight(task, lanes) if traced else _solved(task)
        if not traced and _may_be_flat(here, own):
            flat = _flat(here, groups, solution.value, own, lanes)
            solution = marked(solution, flat, Status.singular)
        if not traced and not here.objective.convex:
            solution = _judged(here, groups, solution, own, lanes)
        if not traced and own is None:  # a change from theta, not from its optimum
            solution = marked(solution, doubtful(here, groups), Status.inaccurate)
        if is_traced((fit, l2)):
            theta = minima(fit, groups, here.flat[None] + solution.value, l2)
            solution = eqx.tree_at(lambda s: s.value, solution, theta - fit.flat[None])
        return Change.of(solution, fit.objective).finished(fit, asked)

    return change


def _solved(task: Task) -> Solution:
    """Groups in the metric that all share; those that leave little of it in one of their own."""
    found = bricks_of(task.problem, task.groups)
    if found is None:
        return pooled(task)
    bricks, own = found
    others = np.setdiff1d(np.arange(len(task.groups)), own)
    parts = [pooled(task.of(own)._replace(bricks=bricks))]
    if others.size:
        parts.append(pooled(task.of(others)))
    back = np.argsort(np.concatenate([own, others]))
    return joined(parts, [own.size, others.size][: len(parts)], back=back)


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
    return _looked_at(_singular, fit, groups, value, l2, lanes)


def _looked_at(look, fit: Fit, groups: Groups, value, l2, lanes: int):
    """(g) what `look` says of what each group leaves, at theta_hat + value."""

    def some(rows):
        own = None if l2 is None else l2[rows]
        return look(fit, leaving(fit, groups, rows), value[rows], own)

    return in_runs(runs_of(len(groups), lanes), some, lambda _: lanes)


def _judged(fit: Fit, groups: Groups, solution: Solution, l2, lanes: int) -> Solution:
    """Where J is not known to be convex: lanes that end where it bends down marked."""
    bent = _looked_at(_bends_down, fit, groups, solution.value, l2, lanes)
    return marked(solution, bent, Status.not_positive_definite)


@eqx.filter_jit
def _bends_down(fit: Fit, w, value, l2):
    """(b) whether J has a direction of negative curvature, in as many as are cheap to look at."""

    def one(lane):
        w, change, l2 = lane
        objective = fit.objective if l2 is None else fit.objective.with_l2(l2)
        theta, v = fit.flat + change, objective.stays(w)
        if objective.p > _FEW:
            return change @ objective.hvp(theta, change, v) < 0
        matrix = full_matrix(objective.at(theta), v)
        scale = jnp.sqrt(scale_of(matrix))
        matrix = matrix / (scale[:, None] * scale[None])
        floor = 1e2 * objective.p * jnp.finfo(theta.dtype).eps
        return jnp.min(jnp.linalg.eigvalsh(matrix)) < -floor

    return replicate(jax.lax.map(one, (w, value, l2)))


@eqx.filter_jit
def _singular(fit: Fit, w, value, l2):
    def one(lane):
        w, change, l2 = lane
        objective = fit.objective if l2 is None else fit.objective.with_l2(l2)
        here = objective.at(fit.flat + change)
        return ~factorise(full_matrix(here, objective.stays(w)))[1]

    return replicate(jax.lax.map(one, (w, value, l2)))
