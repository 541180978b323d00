"""The group Newton step: one reweighted solve a group, (H - H(w))^-1 g(w).

And Chebyshev's step, a second solve with the same factor that makes it third order.
"""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.curvature import Curvature
from leaveout.fitting.fitted import Change, Fit, expansion_of, ill_conditioned, with_rows
from leaveout.fitting.gates import Need
from leaveout.fitting.implicit import following, known, like, refuse_own_l2, solve_at
from leaveout.fitting.leaving import block_of, leaving
from leaveout.fitting.places import backtrack
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods.end_point import newton_at, refuse_settings
from leaveout.methods.first_order import force_of
from leaveout.methods.newton_batches import Batch, by_rows, plan_of
from leaveout.methods.protocol import Method, Prepared, asked
from leaveout.methods.strain import judged, marked, reach_of, shortened
from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective, weigh
from leaveout.objectives.expansion import LinearExpansion
from leaveout.runtime.batches import joined
from leaveout.runtime.memory import budget
from leaveout.runtime.options import check_integer
from leaveout.runtime.sharding import (
    entry_point,
    is_traced,
    place,
    replicate,
    to_host,
)
from leaveout.runtime.solution import Solution
from leaveout.runtime.tables import Named
from leaveout.solvers import (
    CG,
    AnySolver,
    Auto,
    Block,
    Solver,
    apply_reduced,
    as_solver,
    corrected,
    factorise,
    tolerance_of,
)
from leaveout.training.run import Trained

__all__ = ["Krylov", "Newton", "NewtonChebyshev", "newton"]


@dataclass(frozen=True)
class Newton(Method):
    """The group Newton step as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver; of the first step.
        linearised: take f to first order in the change instead of evaluating it there.
        steps: Newton steps, those after the first damped.
        curvature: what stands for the Hessian, of `lo.curvature`; default the Hessian of a fit, and
            Gauss-Newton of a run. Groups are then solved by conjugate gradients.

    Raises:
        ValueError: for steps that are no count.

    Example:
        >>> lo.effects(fit, groups, measure, lo.Newton(steps=2)).method
        'Newton, 2 steps'
    """

    of_run: ClassVar[Collection[Need] | None] = ()

    solver: AnySolver = Auto()
    linearised: bool = False
    steps: int = 1
    curvature: Curvature | None = None

    def __post_init__(self):
        check_integer(self.steps, "steps")

    @property
    def name(self) -> str:
        """For tables and axes."""
        name = "Newton" if self.steps == 1 else f"Newton, {self.steps} steps"
        name = f"linearised {name}" if self.linearised else name
        return name if self.curvature is None else self.curvature.title(name)

    @property
    def first_order(self) -> bool:
        """Whether f is taken to first order in the change."""
        return self.linearised

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """`newton` with this solver and so many steps, or with a curvature."""
        if self.curvature is not None or isinstance(fit, Trained):
            refuse_settings(steps=self.steps > 1, solver=self.solver != Auto())
            return newton_at(fit, self.curvature)
        return _Way(self.solver, steps=self.steps).prepare(fit)


@dataclass(frozen=True)
class NewtonChebyshev(Method):
    """The Newton step and Chebyshev's correction of it, as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.

    Example:
        >>> lo.effects(fit, groups, measure, lo.NewtonChebyshev()).method
        'Newton-Chebyshev'
    """

    solver: AnySolver = Auto()

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "Newton-Chebyshev"

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """`newton` with this solver and the correction."""
        return _Way(self.solver, chebyshev=True).prepare(fit)


@dataclass(frozen=True)
class Krylov(Method):
    """The Newton step by a few steps of conjugate gradients in the metric of H: no factor a group.

    One step is influence times a number of the group's own, g'H^-1 g / g'H^-1 (H - H(w)) H^-1 g:
    right for copies of one point and wherever H(w) is a multiple of H. Costs two products with the
    data a step. `residual` says how much of the Newton step is missing; its size is not judged.

    Attributes:
        steps: how many.

    Raises:
        ValueError: for steps that are no count.

    Example:
        >>> lo.effects(fit, groups, measure, lo.Krylov(steps=2)).method
        'Krylov-2'

    Source: Hestenes and Stiefel (1952); the first step is d(w) of Koh et al. (2019), proposition 4,
    where that applies.
    """

    steps: int = 1

    def __post_init__(self):
        check_integer(self.steps, "steps")

    @property
    def name(self) -> str:
        """For tables and axes."""
        return f"Krylov-{self.steps}"

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """`newton` by so many steps."""
        return _Way(CG(max_steps=self.steps, truncate=True)).prepare(fit)


@entry_point
def newton(
    fit: Fit,
    groups: Groups,
    solver: AnySolver = Auto(),
    *,
    chebyshev: bool = False,
    steps: int = 1,
    l2: Float[Array | np.ndarray, "g"] | Named | None = None,
    memory=None,
    throw: bool = False,
) -> Change:
    """Change in theta after one Newton step on what each group leaves behind.

        change = (H - H(w))^-1 g(w)

    Exact when the loss is quadratic. Its error is second order in the part removed, like
    influence's, with a much smaller constant. Costs what `solvers` says, at most |w| p^2 + p^3 / 3
    a group.

    Chebyshev's correction makes the error third order, with the same factor:

        change - (H(1) - H(w))^-1 T(w)[change, change] / 2

    T the third derivative of what stays, by automatic differentiation: about two gradients and a
    triangular solve more. It helps where the step is short on the scale on which the curvature
    changes, and overshoots where it is not.

    Every further step squares the error. It is taken from where the last one ended, with the
    Hessian of what stays there, by conjugate gradients in the metric of H: two products with the
    data for each of about 15 iterations, as much as retraining. It is halved until J of what
    stays falls, and so is the first one then.

    Under `jax.grad` and `jax.jvp` one step, corrected or not, has its derivatives in the objective
    and in theta; those of theta in the objective come with a fit by `lo.fit` inside the function
    that is differentiated, and a theta that would stay while its objective moves is refused.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        solver: any member of `solvers`, or a lineax linear solver; Auto chooses block by block.
        chebyshev: add the correction.
        steps: how many, at least 1; with a correction, after it.
        l2: (g) a penalty for each group's refit; default the objective's. Costs a factor of H under
            it, p^3 a group, besides.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails.

    Returns:
        value (g p) in units of theta; residual is relative, in the norm of H^-1. A group that
        leaves a singular Hessian gets the smallest solution and the status `singular`; one after
        whose step J of what stays is higher than before it gets the status `too_far`, of several
        steps one that has not settled: points added where the model is sure of their opposite, a
        group that held nearly all curvature along some direction.

    Raises:
        ValueError: if `groups` was made for another number of examples, or for less than a step.

    Example:
        >>> lo.newton(fit, groups).value.shape
        (4, 4)

    Source: Koh et al. (2019), the one-step Newton approximation of section 4; Chebyshev's method
    of third order, here for the removal of groups.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"expected at least one step, got steps={steps!r}")
    way = _Way(solver, chebyshev, steps)
    return asked(fit, groups, way.prepare, l2=l2, memory=memory, throw=throw)


@dataclass(frozen=True)
class _Way:
    """How `newton` goes: its solver, whether with the correction, in how many steps."""

    solver: AnySolver
    chebyshev: bool = False
    steps: int = 1

    def prepare(self, given: Fit) -> Prepared:
        given = following(given)
        fit, solver = with_rows(known(given), budget()), as_solver(self.solver)
        expansion, careful = expansion_of(fit), ill_conditioned(fit)

        def change(groups: Groups, l2: Array | None = None) -> Change:
            seen = with_rows(fit, budget(), gram=_wants_gram(groups, fit.objective))
            reach = None if self.chebyshev else reach_of(seen)
            plan, parts = list(plan_of(seen, expansion, groups, solver, self.steps)), []
            for batch in plan:
                rows = np.resize(batch.rows, batch.lanes)
                listed = _listed(seen, groups, rows, batch)
                how = batch.solver, self.chebyshev, self.steps, careful
                if l2 is None:
                    part, left = _stepped(seen, expansion, *listed, *how)
                    part = part if self.steps > 1 else judged(seen, reach, part, left)
                else:
                    part = _solve_under(seen, expansion, *listed, l2[rows], *how)
                if not is_traced(part):
                    jax.block_until_ready(part)  # its memory, and see `solvers.together`
                parts.append(part)
            back = np.argsort(np.concatenate([batch.rows for batch in plan]))
            solution = joined(parts, [len(batch.rows) for batch in plan], back=back)
            if is_traced((given, l2)):
                refuse_own_l2(l2)
                value = like(given, groups, solution.value, self.formula)
                solution = eqx.tree_at(lambda s: s.value, solution, value)
            return Change.of(solution, fit.objective).finished(fit, tolerance_of(solver))

        return Prepared(change, change_under=change)

    def formula(self, objective: AbstractObjective, theta, w: Float[Array, "n"]):
        """One group's step, written down for its derivatives."""
        truncated = isinstance(self.solver, CG) and self.solver.truncate
        if truncated or self.steps > 1:
            raise ValueError(
                "there are no derivatives of Krylov steps, nor of several Newton steps; use "
                "lo.newton(fit, groups) or lo.retrain"
            )
        v = objective.stays(w)
        gradient = objective.at(theta).gradient(objective.taken(w))
        step = solve_at(objective, theta, v, gradient)
        if not self.chebyshev:
            return step
        third = objective.third_derivative(theta, step, v)
        return step - solve_at(objective, theta, v, third) / 2


def _wants_gram(groups: Groups, objective) -> bool:
    """Whether X H^-1 X' as a whole is cheaper than its part for each group that is small enough."""
    size = groups.size.astype(float)
    return objective.n < objective.p and bool(np.sum(size**2) > objective.n**2)


def _listed(fit: Fit, groups: Groups, rows, batch: Batch) -> tuple[Array, Array | None]:
    """W of a batch's groups, and the points it is of; of every point without a width."""
    if batch.width is None:
        return leaving(fit, groups, rows), None
    indices, w = groups.padded(rows, batch.width)
    w[len(batch.rows) :] = 0.0  # lanes that fill up have nothing to look at
    return place(w, fit.objective.weights.dtype), place(indices, indices.dtype)


def _gradients(expansion: AbstractExpansion, block: Block):
    if block.indices is None or not by_rows(expansion, block.indices.shape[1]):
        return expansion.gradients(block.dense(expansion.n))
    own = jax.vmap(lambda rows, taken: expansion.restrict(rows).gradient(taken))
    return own(block.indices, block.taken)


def _stepped(
    fit: Fit, expansion, w, indices, solver: Solver, chebyshev: bool, steps: int, careful: bool
) -> tuple[Solution, Array]:
    """The steps of groups, and what every point has left; with care only where one asks for it."""
    how = solver, chebyshev, steps, careful
    if is_traced((fit, w)):
        return _solve_block(fit, expansion, w, indices, *how)
    quick, left = _solve_block(fit, expansion, w, indices, *how, quick=True)
    if not to_host(quick.status).any():  # which waits for it: see `solvers.together`
        return quick, left
    return _solve_block(fit, expansion, w, indices, *how)


@eqx.filter_jit
def _solve_under(
    fit: Fit, expansion, w, indices, l2, solver: Solver, chebyshev: bool, steps: int, careful: bool
) -> Solution:
    """`_solve_block` of one group after the other, each under its own l2."""

    def one(lane):
        w, indices, l2 = lane
        objective = fit.objective.with_l2(l2)
        metric = fit.metric
        if metric is not None:
            more = jnp.diag(objective.penalty - expansion.penalty)
            metric, _ = factorise(metric.lower @ metric.lower.T + more)
        own = dataclasses.replace(fit, objective=objective, metric=metric)
        under = dataclasses.replace(expansion, penalty=objective.penalty)
        force = force_of(fit, l2[None])
        rows = None if indices is None else indices[None]
        how = solver, chebyshev, steps, careful, force
        found, _ = _solve_block(own, under, w[None], rows, *how)
        return jax.tree.map(lambda leaf: leaf[0], found)

    return replicate(jax.lax.map(one, (w, indices, l2)))


@eqx.filter_jit
def _solve_block(
    fit: Fit,
    expansion,
    w,
    indices,
    solver: Solver,
    chebyshev: bool,
    steps: int,
    careful: bool,
    force=None,
    quick: bool = False,
) -> tuple[Solution, Float[Array, "b n"]]:
    """The steps of groups, and what points have left; `force` (b p) pulls beside g(w)."""
    s = expansion.weights
    block = dataclasses.replace(block_of(s, w, indices), quick=quick)
    solve = solver.reduced(expansion, fit.metric, block)
    gradient = _gradients(expansion, block)
    left = block.left(s)
    if careful and fit.metric is not None and not isinstance(solver, CG):
        solve = corrected(solve, apply_reduced(expansion, left), fit.metric, tolerance_of(solver))
    step = solve(gradient if force is None else gradient + force)
    if chebyshev:
        third = jax.vmap(lambda d, v: fit.objective.third_derivative(fit.flat, d, v))
        more = solve(third(step.value, left))
        step = _followed(step, more, step.value - more.value / 2)
    step = step if steps == 1 else _continued(fit, expansion, step, left, steps)
    return replicate(step), left


def _followed(last: Solution, more: Solution, value) -> Solution:
    """What two solves after one another gave, the first failure kept."""
    return Solution(
        value=value,
        residual=jnp.maximum(last.residual, more.residual),
        steps=last.steps + more.steps,
        status=jnp.where(last.status == 0, more.status, last.status),
    )


def _continued(fit: Fit, expansion, first: Solution, left, steps: int) -> Solution:
    """Further steps, damped as the first one now is; `too_far` where they have not settled.

    They have not while a step has to be shortened, nor, once one had to be, while the last is more
    than a tenth of the whole change.
    """

    def again(_, carry):
        last, strained = carry
        step, short = _further(fit, expansion, last, left)
        change = last.value + step.value
        large = jnp.linalg.norm(step.value, axis=1) > 0.1 * jnp.linalg.norm(change, axis=1)
        return _followed(last, step, change), short | (strained & large)

    begin = shortened(fit, first, left)
    return marked(*jax.lax.fori_loop(1, steps, again, begin))


def _further(fit: Fit, expansion, last: Solution, left: Float[Array, "b n"]):
    """Every group's next Newton step, damped, from where its last one ended; (b) if shortened."""
    objective, factor = fit.objective, fit.metric

    def one(change, v):
        theta = fit.flat + change
        value, gradient = objective.value_and_gradient(theta, v)
        if factor is None or factor.rows is None:
            _, hvp = jax.linearize(lambda t: objective.gradient(t, v), theta)
            solve = CG().near(expansion, factor, jax.vmap(hvp))
        else:
            here = objective.at(theta)
            assert isinstance(here, LinearExpansion)  # whose rows the factor holds
            lost = expansion.curvature[:, 0, 0] - weigh(v, here.second[:, 0, 0])
            solve = CG().by_rows(factor, lost[None])
        more = solve(-gradient[None])
        down = more.value[0]
        length = backtrack(objective, theta, down, value, gradient @ down, v)
        return eqx.tree_at(lambda s: s.value, more, length * more.value), length < 1

    more, short = jax.vmap(one)(last.value, left)
    return jax.tree.map(lambda leaf: leaf[:, 0], more), short
