"""Influence: the change in theta to first order, H^-1 g(w), from one factorisation for all.

And what the same factor gives beyond it: each point rescaled by its own leverage.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from leaveout.curvature import Curvature
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Change, Fit, expansion_of, warn_if_float32_stalled
from leaveout.fitting.gates import Need, check_fit, check_own, inside
from leaveout.fitting.implicit import following, known, like, refuse_own_l2, solve_at
from leaveout.fitting.leaving import leaving, listed_gradients, taken_by, worth_listing
from leaveout.groups import Groups
from leaveout.measures import Measure, Measures, as_measures
from leaveout.methods.end_point import influence_at, refuse_settings
from leaveout.methods.protocol import Method, PerPoint, Prepared, asked, gradients_of
from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective, taken_of
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.scored import ScoredExpansion
from leaveout.runtime.batches import abreast, in_rungs
from leaveout.runtime.memory import (
    CHUNK_GROUPS,
    FEW_GROUPS,
    MANY_GROUPS,
    budget,
    longest,
)
from leaveout.runtime.remembered import REMEMBERED
from leaveout.runtime.sharding import entry_point, is_traced, replicate, to_host
from leaveout.runtime.solution import Solution, Status, raise_unless_converged
from leaveout.solvers import (
    AnySolver,
    Auto,
    Cholesky,
    Factor,
    Solver,
    as_solver,
    attach_matrix,
    judge,
    leverage,
    relative,
    tolerance_of,
)
from leaveout.training.run import Trained

__all__ = [
    "Influence",
    "adjoint",
    "force_of",
    "influence",
    "over_weights",
    "per_point",
    "self_influence",
]

_SOLVES = 24  # times the solves: parameters up to which H is summed to take their residuals


@dataclass(frozen=True)
class Influence(Method):
    """Influence as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.
        at_changed: evaluate f at theta + change instead of to first order (the paper's code calls
            it parameter influence).
        rescaled: take each point's Newton step instead of its influence (`influence`).
        curvature: what stands for the Hessian, of `lo.curvature`; default the Hessian of a fit, and
            Gauss-Newton of a run. Groups are then solved by conjugate gradients.

    Example:
        >>> effects = lo.effects(fit, groups, measure, lo.Influence())
        >>> effects.method, effects.value.shape
        ('influence', (4, 1))
    """

    of_run: ClassVar[Collection[Need] | None] = ()

    solver: AnySolver = Auto()
    at_changed: bool = False
    rescaled: bool = False
    curvature: Curvature | None = None

    @property
    def name(self) -> str:
        """For tables and axes."""
        name = "rescaled influence" if self.rescaled else "influence"
        name = f"{name} at changed theta" if self.at_changed else name
        return name if self.curvature is None else self.curvature.title(name)

    @property
    def first_order(self) -> bool:
        """Whether f is taken to first order in the change."""
        return not self.at_changed

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """Changes by a solve a group; first-order effects by a solve a column where they add up."""
        if self.curvature is not None or isinstance(fit, Trained):
            refuse_settings(rescaled=self.rescaled, solver=self.solver != Auto())
            return influence_at(fit, measures, self.curvature, self.at_changed)
        here = fit if self.rescaled else known(fit)
        solver, expansion = as_solver(self.solver), _expansion(here, self.rescaled)

        def change(groups: Groups, l2: Array | None = None) -> Change:
            metric = _metric(here, expansion, solver, len(groups))
            solution = _over_chunks(
                here, expansion, groups, eqx.Partial(_solve, factor=metric, solver=solver),
                force_of(here, l2),
            )  # fmt: skip
            if is_traced((fit, l2)) and not self.rescaled:
                refuse_own_l2(l2)
                value = like(fit, groups, solution.value, _formula)
                solution = eqx.tree_at(lambda s: s.value, solution, value)
            return Change.of(solution, fit.objective).finished(fit, tolerance_of(solver))

        if self.at_changed:
            return Prepared(change, change_under=change)
        additive = [
            None if m.needs_w or not m.smooth else adjoint(fit, expansion, m, solver)
            for m in measures
        ]
        direct = isinstance(self.solver, Auto | Cholesky) and not self.rescaled
        by_length = [m.own and direct and fit.metric is not None for m in measures]

        def effects(groups: Groups) -> list[Solution | None]:
            return [self_influence(fit, groups) if own else None for own in by_length]

        return Prepared(change, effects if any(by_length) else None, additive, change)


@entry_point
def influence(
    fit: Fit,
    groups: Groups,
    solver: AnySolver = Auto(),
    *,
    rescaled: bool = False,
    l2: Float[Array | np.ndarray, "g"] | None = None,
    memory=None,
    throw: bool = False,
) -> Change:
    """Change in theta to first order when each group leaves.

        change = H^-1 g(w),  g(w) = sum_i s_i w_i grad loss_i(theta)

    Additive over disjoint groups. One factorisation (that of the fit) and one solve a group: n p +
    p^2 multiplications each.

    Rescaled, each point's part is its own Newton step, (H - H_i)^-1 g_i instead of H^-1 g_i: still
    additive, exact for groups of one point on squared loss and the approximate leave-one-out step
    on others, blind to points that act together. Linear models with a factor only; n p^2 once.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        solver: any member of `solvers`, or a lineax linear solver.
        rescaled: divide by what each point leaves of itself.
        l2: (g) a penalty for each group's refit; default the objective's. To first order, H^-1 of
            what theta's pull loses: it stays additive.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails.

    Returns:
        value (g p) in units of theta; residual is relative, in the norm of H^-1.

    Raises:
        ValueError: if `groups` was made for another number of examples.

    Example:
        >>> lo.influence(fit, groups).value.shape
        (4, 4)

    Source: Koh and Liang (2017); Koh et al. (2019), equation 4, with the sign of removal. Rescaled:
    Beirami et al. (2017), Rad and Maleki (2020); Rubinstein and Hopkins (2025).
    """
    method = Influence(solver, rescaled=rescaled)

    def prepare(inner: Fit) -> Prepared:
        return method.prepare(following(inner), ())

    return asked(fit, groups, prepare, l2=l2, memory=memory, throw=throw)


@entry_point
def self_influence(fit: Fit, groups: Groups) -> Solution:
    """Influence on each group's own loss, g(w)' H^-1 g(w), from the factor of H: no solve a group.

    Returns:
        value (g 1); residual is relative, in the norm of H^-1.

    Raises:
        ValueError: for a fit without a factor.
    """
    factor = fit.metric
    if factor is None:
        raise ValueError("the influence of groups on themselves needs a fit with a factor of H")
    call = eqx.Partial(_self_influence, factor=factor)
    return _over_chunks(fit, expansion_of(fit), groups, call)


def _over_chunks(
    fit: Fit,
    expansion: AbstractExpansion,
    groups: Groups,
    call: Callable[..., PyTree],
    more: Array | None = None,
) -> PyTree:
    """The joined answers of call(expansion, g(w) (b p)) over all groups; `more` is added to g(w).

    Args:
        fit: the fitted objective.
        expansion: of it.
        groups: what leaves.
        call: a PyTree, for `jit`.
        more: (g p), or None.
    """
    objective, count = fit.objective, len(groups)
    if not worth_listing(fit, expansion, groups):

        def pulled(rows: np.ndarray):
            force = None if more is None else more[rows]
            return _of_weights(call, expansion, leaving(fit, groups, rows), force)

        return in_rungs(count, _most(fit, _held(fit)), pulled, *_together(fit, MANY_GROUPS))
    assert isinstance(expansion, LinearExpansion | ScoredExpansion)  # worth_listing

    def listed(rows: np.ndarray):
        some = groups[rows]
        return listed_gradients(expansion, some, taken_by(objective, some))

    together = _together(fit, CHUNK_GROUPS)
    found = in_rungs(count, _most(fit), listed, *together)
    found = found if more is None else found + more
    found = found if is_traced(found) else to_host(found)

    def some(rows: np.ndarray):
        return _of_gradients(call, expansion, found[rows])

    return in_rungs(count, _most(fit), some, *together)


def over_weights(
    fit: Fit, groups: Groups, call: Callable[..., PyTree], more: Array | None = None
) -> PyTree:
    """The joined answers of call(w (b n)) over all groups, `more` (g k) handed over beside w."""

    def answer(rows: np.ndarray):
        w = leaving(fit, groups, rows)
        return call(w) if more is None else call(w, more[rows])

    return in_rungs(len(groups), _most(fit, _held(fit)), answer)


def _metric(fit: Fit, expansion: AbstractExpansion, solver: Solver, count: int) -> Factor | None:
    """The factor for so many solves: with H beside it where that is cheaper than their residuals.

    Each is two passes over the data, H as much as p / 10 to p / 4 of them, but once a fit. Not in
    float32, whose rounding in H is seen in the residuals.
    """
    metric, p = fit.metric, fit.objective.p
    direct = isinstance(solver, Auto | Cholesky) and isinstance(expansion, LinearExpansion)
    small = fit.flat.dtype == jnp.float64 and 8 * p**2 <= REMEMBERED
    if metric is None or not (direct and small and _SOLVES * count > p):
        return metric
    return attach_matrix(metric, expansion)


def _most(fit: Fit, held: int = 0) -> int:
    """Groups that fit in memory, each with its gradient and change, and so many bytes beside.

    Without a dense factor each has what conjugate gradients hold as well.
    """
    vectors = 6 if isinstance(fit.metric, Factor) else 16
    return longest(8 * vectors * fit.objective.p + held, budget(), CHUNK_GROUPS)


def _together(fit: Fit, many: int) -> tuple[int, int]:
    """Groups that are best solved together, and of what is left over; see `in_rungs`."""
    if isinstance(fit.metric, Factor):
        return many, FEW_GROUPS
    outputs = fit.objective.outputs
    return abreast(outputs, many), abreast(outputs, FEW_GROUPS)


def _held(fit: Fit) -> int:
    """Bytes of what a group takes from every example."""
    return 8 * fit.objective.n * (2 + fit.objective.floats_per_example)


def force_of(fit: Fit, l2: Array | None) -> Float[Array, "g p"] | None:
    """What the gradient at theta loses where the penalty becomes l2 (g): (l2_hat - l2) f theta."""
    if l2 is None:
        return None
    pull = fit.objective.heaviness * fit.flat
    return (fit.objective.l2 - l2)[:, None] * pull[None]


@eqx.filter_jit
def _of_weights(call: Callable, expansion: AbstractExpansion, w: Float[Array, "b n"], more):
    pulled = expansion.gradients(taken_of(expansion.weights[None], w))
    return replicate(call(expansion, pulled if more is None else pulled + more))


@eqx.filter_jit
def _of_gradients(call: Callable, expansion: AbstractExpansion, gradient: Float[Array, "b p"]):
    return replicate(call(expansion, gradient))


def _formula(objective: AbstractObjective, theta, w: Float[Array, "n"]) -> Float[Array, "p"]:
    """One group's influence, written down for its derivatives."""
    gradient = objective.at(theta).gradient(objective.taken(w))
    return solve_at(objective, theta, objective.weights, gradient)


def _expansion(fit: Fit, rescaled: bool) -> AbstractExpansion:
    expansion = expansion_of(fit)
    return _rescaled(expansion, fit.metric) if rescaled else expansion


@eqx.filter_jit
def _rescaled(expansion, factor):
    """Slopes (I - A_i R_ii)^-1 gamma_i in the place of gamma_i, R_ii = X_i H^-1 X_i' (K K)."""
    if factor is None or not isinstance(expansion, LinearExpansion):
        raise ValueError(
            "rescaled influence needs a linear model (lo.glm and its kin) small enough for its "
            "Hessian to be factorised; use lo.Influence() or lo.Newton()"
        )

    def rescale(point):
        own, slopes, curvature = point
        eye = jnp.eye(len(slopes), dtype=slopes.dtype)
        return jnp.linalg.solve(eye - curvature @ own, slopes)

    own, curvature = leverage(expansion, factor), expansion.curvature
    first = jax.vmap(rescale)((own, expansion.first, curvature))
    return dataclasses.replace(expansion, first=first)


def _solve(expansion, gradient, *, factor, solver) -> Solution:
    return solver.full(expansion, factor, gradient)


def _self_influence(expansion, gradient, *, factor: Factor) -> Solution:
    white = factor.whiten(gradient)
    value = jnp.sum(white**2, axis=1, keepdims=True)
    error = factor.whiten(gradient - white @ factor.lower.T)
    return judge(value, relative(error, white, lambda u: u), jnp.inf, Status.converged)


@entry_point
def adjoint(fit: Fit, expansion: AbstractExpansion, measure: Measure, solver) -> PerPoint:
    """What each point does to each column of a measure, to first order.

    One solve a column, then one pass over the data: psi_ij = grad loss_i . H^-1 grad f_j, times the
    base weight of the example, if it has one.

    Args:
        fit: the fitted objective.
        expansion: of its losses; rescaled, where that is wanted.
        measure: bound to the objective, smooth, and without need of w.
        solver: a member of `solvers`.
    """
    gradients = gradients_of(fit, measure)
    metric = _metric(fit, expansion, solver, len(gradients))
    found = PerPoint(*to_host(_adjoint(expansion, metric, gradients, solver, np.asarray(1.0))))
    warn_if_float32_stalled(fit, found.residual, tolerance_of(solver))
    return found


@eqx.filter_jit
def _adjoint(expansion, factor, gradients, solver, absent):
    """For each point and column, per base weight of the point, or `absent` where it has none."""
    solution = solver.full(expansion, factor, gradients)
    s = expansion.weights
    unit = jnp.where(s > 0, s, absent.astype(s.dtype))
    psi = unit[:, None] * expansion.dots(solution.value)
    return psi, solution.residual, solution.steps, solution.status


@in_double
@entry_point
def per_point(
    fit: Fit,
    measures: Measures,
    solver: AnySolver = Auto(),
    *,
    rescaled: bool = False,
    throw: bool = True,
) -> Float[Array, "n m"]:
    """First-order effect of removing each training point alone, on every column of the measures.

    Sums over a group give the group's influence. One solve a column, whatever n is.

    Args:
        fit: the fitted objective.
        measures: measures that do not depend on what leaves.
        solver: any member of `solvers`, or a lineax linear solver.
        rescaled: as in `influence`.
        throw: raise if a solve fails.

    Returns:
        (n m), f(without) - f(with) in units of f, to first order.

    Raises:
        SolveError: if a solve fails, unless `throw` is False.

    Example:
        >>> each = lo.per_point(fit, measure)
        >>> together = lo.effects(fit, groups, measure, lo.Influence()).value
        >>> bool(np.allclose(groups.dense() @ each, together))
        True
    """
    check_fit(fit)
    fit = following(inside(fit))
    check_own(known(fit))
    bound = tuple(m.bind(fit.objective) for m in as_measures(measures))
    for measure in bound:
        _check_additive(measure)
    solver, expansion = as_solver(solver), _expansion(fit, rescaled)
    gradients = jnp.concatenate([gradients_of(fit, measure) for measure in bound])
    metric = _metric(fit, expansion, solver, len(gradients))
    psi, residual, _, status = _adjoint(expansion, metric, gradients, solver, np.asarray(0.0))
    warn_if_float32_stalled(fit, residual, tolerance_of(solver))
    if throw and not is_traced(fit):
        columns = [c for m in bound for c in m.columns(fit.objective)]
        raise_unless_converged(status, residual, columns)
    return psi


def _check_additive(measure: Measure) -> None:
    if measure.needs_w:
        raise ValueError(
            f"{measure.name} depends on who leaves together, so it has no per-point sum; "
            "use lo.effects(fit, groups, ...) with one group a point"
        )
    if not measure.smooth:
        raise ValueError(
            f"{measure.name} has no useful derivative, so influence on it cannot be summed; "
            "use lo.effects(fit, groups, ...), which evaluates it at the changed theta"
        )
