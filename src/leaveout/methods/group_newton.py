"""The group Newton step: one reweighted solve a group, (H(1) - H(w))^-1 g(w).

And Chebyshev's step, a second solve with the same factor that makes it third order.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Change, Fit, with_rows
from leaveout.fitting.gates import check_groups, warn_if_float32_stalled
from leaveout.fitting.leaving import LISTED, leaving
from leaveout.fitting.optimum import backtrack
from leaveout.groups import Groups
from leaveout.objectives.checks import is_traced
from leaveout.objectives.linear import LinearExpansion
from leaveout.runtime.memory import bucket, budget, chunks
from leaveout.runtime.sharding import devices, entry_point, on_host, place, replicate
from leaveout.runtime.solution import Solution, raise_unless_converged
from leaveout.solvers import CG, Auto, Block, as_solver

__all__ = [
    "Krylov",
    "Newton",
    "NewtonChebyshev",
    "newton",
]

_LANES = 64  # groups solved together; four times as many where all look at the same data
_WIDE = 4  # times as many again on an accelerator
_NARROWEST = (
    64  # points to which small lists are padded, unless all are smaller: it saves compiling
)


@dataclass(frozen=True)
class Newton:
    """The group Newton step as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver; of the first step.
        linearised: take f to first order in the change instead of evaluating it there.
        steps: Newton steps, those after the first damped.
    """

    solver: Any = Auto()
    linearised: bool = False
    steps: int = 1

    @property
    def name(self) -> str:
        """For tables and axes."""
        name = "Newton" if self.steps == 1 else f"Newton, {self.steps} steps"
        return f"linearised {name}" if self.linearised else name

    @property
    def first_order(self) -> bool:
        """Whether f is taken to first order in the change."""
        return self.linearised

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """`newton` with this solver and so many steps."""
        return newton(fit, groups, self.solver, steps=self.steps, memory=memory)


@dataclass(frozen=True)
class NewtonChebyshev:
    """The Newton step and Chebyshev's correction of it, as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.
    """

    solver: Any = Auto()

    name = "Newton-Chebyshev"
    first_order = False

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """`newton` with this solver and the correction."""
        return newton(fit, groups, self.solver, chebyshev=True, memory=memory)


@dataclass(frozen=True)
class Krylov:
    """The Newton step by a few steps of conjugate gradients in the metric of H: no factor a group.

    One step is influence times a number of the group's own, g'H^-1 g / g'H^-1 (H - H(w)) H^-1 g:
    right for copies of one point and wherever H(w) is a multiple of H. Costs two products with the
    data a step. `residual` says how much of the Newton step is missing; its size is not judged.

    Attributes:
        steps: how many.

    Source: Hestenes and Stiefel (1952); the first step is d(w) of Koh et al. (2019), proposition 4,
    where that applies.
    """

    steps: int = 1

    first_order = False

    @property
    def name(self) -> str:
        """For tables and axes."""
        return f"Krylov-{self.steps}"

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """`newton` by so many steps."""
        solver = CG(max_steps=self.steps, truncate=True)
        return newton(fit, groups, solver, memory=memory)


@entry_point
def newton(
    fit: Fit,
    groups: Groups,
    solver: Any = Auto(),
    *,
    chebyshev: bool = False,
    steps: int = 1,
    memory=None,
    throw: bool = False,
) -> Change:
    """Change in theta after one Newton step on what each group leaves behind.

        change = (H(1) - H(w))^-1 g(w)

    Exact when the loss is quadratic. Its error is second order in the part removed, like
    influence's, with a much smaller constant. Costs what `solvers` says, at most |w| p^2 + p^3 / 3
    a group.

    Chebyshev's correction makes the error third order, with the same factor:

        change - (H(1) - H(w))^-1 T(1 - w)[change, change] / 2

    T the third derivative of what stays, by automatic differentiation: about two gradients and a
    triangular solve more. It helps where the step is short on the scale on which the curvature
    changes, and overshoots where it is not.

    Every further step squares the error. It is taken from where the last one ended, with the
    Hessian of what stays there, by conjugate gradients in the metric of H(1): two products with the
    data for each of about 15 iterations, as much as retraining. It is halved until J(.; 1 - w)
    falls.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        solver: any member of `solvers`, or a lineax linear solver; Auto chooses block by block.
        chebyshev: add the correction.
        steps: how many, at least 1; with a correction, after it.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails.

    Returns:
        value (g p) in units of theta; residual is relative, in the norm of H(1)^-1. A group that
        leaves a singular Hessian gets the smallest solution and the status `singular`.

    Raises:
        ValueError: if `groups` was made for another number of examples, or for less than a step.

    Source: Koh et al. (2019), the one-step Newton approximation of section 4; Chebyshev's method
    of third order, here for the removal of groups.
    """
    check_groups(fit, groups)
    if steps < 1:
        raise ValueError(f"expected at least one step, got steps={steps!r}")
    objective, solver = fit.objective, as_solver(solver)
    available = budget(memory)
    fit = with_rows(fit, available, gram=_wants_gram(groups, objective))
    expansion = _expansion(fit)
    order, parts = [], []
    for rows, lanes, width, chosen in _blocks(fit, expansion, groups, solver, available, steps):
        block = _block(fit, groups, np.resize(rows, lanes), width)
        part = _solve_block(fit, expansion, block, chosen, chebyshev, steps)
        if not is_traced(part):
            jax.block_until_ready(part)  # one block at a time: its memory, and see `_together`
        parts.append(jax.tree.map(lambda leaf, k=len(rows): leaf[:k], part))
        order.append(rows)
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    back = np.argsort(np.concatenate(order))
    value, residual, taken, status = (
        leaf[back] for leaf in (joined.value, joined.residual, joined.steps, joined.status)
    )
    change = Change(value, residual, taken, status, objective)
    warn_if_float32_stalled(fit, residual, getattr(solver, "rtol", 1e-8))
    if throw and not is_traced(fit):
        raise_unless_converged(status, residual, [f"group {str(n)!r}" for n in groups.names])
    return change


def _wants_gram(groups: Groups, objective) -> bool:
    """Whether X H^-1 X' as a whole is cheaper than its part for each group that is small enough."""
    size = groups.size.astype(float)
    return objective.n < objective.p and bool(np.sum(size**2) > objective.n**2)


def _blocks(fit: Fit, expansion, groups: Groups, solver, available: int, steps: int = 1):
    """Runs of groups for one solver, of like size: (rows, lanes, padded width or None, solver).

    A width of None stands for dense weights: for solvers that look at all the data anyway, and for
    groups of more than half of the points.
    """
    n, p = fit.objective.n, fit.objective.p
    size = groups.size

    def choose(width):
        """The solver for lists of this length, and the length it wants."""
        weights = jnp.zeros((1, width or n))
        sample = Block(weights, None if width is None else weights.astype(int))
        auto = isinstance(solver, Auto)
        chosen = solver.choose(expansion, fit.metric, sample) if auto else solver
        return None if isinstance(chosen, CG) else width, chosen

    least = min(_NARROWEST, bucket(size.max()))
    widths = [None if k > n // 2 else min(bucket(k, least), n) for k in size]
    routes = {width: choose(width) for width in set(widths)}
    each = [routes[width] for width in widths]
    for width, chosen in dict.fromkeys(each):
        rows = np.flatnonzero([one == (width, chosen) for one in each])
        rows = rows[np.argsort(size[rows], kind="stable")]
        looks = n if width is None or not _by_rows(expansion, width) else 0
        taken = 8 * (4 * (width or n) + (2 + fit.objective.floats_per_example) * looks + 6 * p)
        taken += 8 * p * p * (not isinstance(chosen, CG))  # the group's factor
        taken += 8 * n * fit.objective.floats_per_example * (steps > 1)
        lanes = max(_LANES, _LANES * _NARROWEST // width) if width else 4 * _LANES
        runs = chunks(rows, taken, available, lanes if on_host() else _WIDE * lanes)
        for run in runs:  # a ragged end fills up to the shape that is compiled already
            yield run, len(runs[0]) if len(runs) > 1 else bucket(len(run)), width, chosen


def _block(fit: Fit, groups: Groups, rows, width) -> Block:
    if width is None:
        return Block(leaving(fit, groups, rows))
    indices, weights = groups.padded(rows, width)
    return Block(place(weights, fit.objective.weights.dtype), place(indices, indices.dtype))


@eqx.filter_jit
def _expansion(fit: Fit):
    return fit.expansion()


def _by_rows(expansion, width: int) -> bool:
    """Whether gathered rows are cheaper than a product of dense weights with all the data."""
    return (
        isinstance(expansion, LinearExpansion) and LISTED * width < expansion.n and devices() == 1
    )


def _gradients(expansion, block: Block):
    if block.indices is None or not _by_rows(expansion, block.indices.shape[1]):
        return jax.vmap(expansion.gradient)(block.leaves(expansion.n))
    own = jax.vmap(lambda rows, weights: expansion.restrict(rows).gradient(weights))
    return own(block.indices, block.weights)


@eqx.filter_jit
def _solve_block(fit: Fit, expansion, block, solver, chebyshev: bool, steps: int = 1) -> Solution:
    solve = solver.reduced(expansion, fit.metric, block)
    step = solve(_gradients(expansion, block))
    stays = 1 - block.leaves(expansion.n)
    if chebyshev:
        third = jax.vmap(lambda v, a: fit.objective.third_derivative(fit.flat, v, a))(step.value, stays)
        more = solve(third)
        step = _followed(step, more, step.value - more.value / 2)
    if steps > 1:
        step = jax.lax.fori_loop(1, steps, lambda _, s: _further(fit, expansion, s, stays), step)
    return replicate(step)


def _followed(last: Solution, more: Solution, value) -> Solution:
    """What two solves after one another gave, the first failure kept."""
    return Solution(
        value=value,
        residual=jnp.maximum(last.residual, more.residual),
        steps=last.steps + more.steps,
        status=jnp.where(last.status == 0, more.status, last.status),
    )


def _further(fit: Fit, expansion: Any, last: Solution, stays: Float[Array, "b n"]) -> Solution:
    """Every group's next Newton step, damped, from where its last one ended."""
    objective, factor = fit.objective, fit.metric

    def one(change, stays):
        theta = fit.flat + change
        value, gradient = objective.value_and_gradient(theta, stays)
        if factor is None or factor.rows is None:
            _, hvp = jax.linearize(lambda t: objective.gradient(t, stays), theta)
            solve = CG().near(expansion, factor, jax.vmap(hvp))
        else:
            here: Any = objective.at(theta)
            left = jnp.where(stays != 0, stays * here.second[:, 0, 0], 0.0)
            solve = CG().by_rows(factor, (expansion.second[:, 0, 0] - left)[None])
        more = solve(-gradient[None])
        down = more.value[0]
        length = backtrack(objective, theta, down, value, gradient @ down, stays)
        return eqx.tree_at(lambda s: s.value, more, length * more.value)

    more = jax.tree.map(lambda leaf: leaf[:, 0], jax.vmap(one)(last.value, stays))
    return _followed(last, more, last.value + more.value)
