"""Influence: the change in theta to first order, H(1)^-1 g(w), from one factorisation for all."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from leaveout.fit import Change, Fit, check_groups
from leaveout.groups import Groups
from leaveout.inputs import is_traced
from leaveout.measures import as_measures
from leaveout.memory import bucket, budget, chunks
from leaveout.solution import Solution, Status, raise_unless_converged
from leaveout.solvers import Auto, Cholesky, as_solver
from leaveout.solvers.factor import judge, relative

__all__ = [
    "Influence",
    "adjoint",
    "group_sums",
    "influence",
    "per_point",
    "squared",
]


@dataclass(frozen=True)
class Influence:
    """Influence as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.
        at_changed: evaluate f at theta + change instead of to first order (the paper's code calls
            it parameter influence).
    """

    solver: Any = Auto()
    at_changed: bool = False

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "influence at changed theta" if self.at_changed else "influence"

    @property
    def first_order(self) -> bool:
        """Whether f is taken to first order in the change."""
        return not self.at_changed

    def by_factor(self, fit: Fit) -> bool:
        """Whether first-order effects are taken from the factor of H itself."""
        direct = isinstance(self.solver, Auto | Cholesky)
        return self.first_order and direct and fit.factor is not None

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """`influence` with this solver."""
        return influence(fit, groups, self.solver, memory=memory)


def influence(
    fit: Fit, groups: Groups, solver: Any = Auto(), *, memory=None, throw: bool = False
) -> Change:
    """Change in theta to first order when each group leaves.

        change = H(1)^-1 g(w),  g(w) = sum_i s_i w_i grad loss_i(theta)

    Additive over disjoint groups. One factorisation (that of the fit) and one solve a group: n p +
    p^2 multiplications each.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        solver: any member of `solvers`, or a lineax linear solver.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails.

    Returns:
        value (g p) in units of theta; residual is relative, in the norm of H^-1.

    Raises:
        ValueError: if `groups` was made for another number of examples.

    Source: Koh and Liang (2017); Koh et al. (2019), equation 4, with the sign of removal.
    """
    check_groups(fit, groups)
    objective, solver = fit.objective, as_solver(solver)
    joined = _over_chunks(
        fit, groups, memory, lambda expansion, leaves: _solve(expansion, fit.factor, leaves, solver)
    )
    change = Change(joined.value, joined.residual, joined.steps, joined.status, objective)
    if throw and not is_traced(fit):
        raise_unless_converged(change.status, change.residual, _names(groups))
    return change


def squared(fit: Fit, groups: Groups, memory=None) -> tuple:
    """Influence on each group's own loss, g(w)' H^-1 g(w), from the factor of H: no solve a group.

    Returns:
        value (g 1), residual (g), status (g).
    """
    return _over_chunks(
        fit, groups, memory, lambda expansion, leaves: _squared(expansion, fit.factor, leaves)
    )


def _over_chunks(fit: Fit, groups: Groups, memory, call):
    """The joined answers of call(expansion, what leaves (b n)) over all groups."""
    objective = fit.objective
    each = 8 * (objective.n * (2 + objective.numbers) + 6 * objective.p)
    expansion, parts = _expansion(fit), []
    for rows in chunks(np.arange(len(groups)), each, budget(memory), 1024):
        lanes = len(rows) if len(groups) <= 1024 else bucket(len(rows))
        leaves = jnp.asarray(groups.dense(np.resize(rows, lanes)), objective.weights.dtype)
        part = call(expansion, leaves)
        parts.append(jax.tree.map(lambda leaf, k=len(rows): leaf[:k], part))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _names(groups: Groups) -> list[str]:
    return [f"group {str(name)!r}" for name in groups.names]


@eqx.filter_jit
def _expansion(fit: Fit):
    return fit.expansion()


@eqx.filter_jit
def _solve(expansion, factor, leaves, solver) -> Solution:
    return solver.full(expansion, factor, jax.vmap(expansion.gradient)(leaves))


@eqx.filter_jit
def _squared(expansion, factor, leaves):
    gradient = jax.vmap(expansion.gradient)(leaves)
    white = factor.whiten(gradient)
    value = jnp.sum(white**2, axis=1, keepdims=True)
    error = factor.whiten(gradient - white @ factor.lower.T)
    solution = judge(value, relative(error, white, lambda u: u), jnp.inf, Status.converged)
    return solution.value, solution.residual, solution.status


def adjoint(fit: Fit, gradients: Float[Array, "m p"], solver: Any = Auto()) -> tuple:
    """What each training point does to each of m linear functionals, and how well it was solved.

    One solve a functional, then one pass over the data: psi_ij = s_i grad loss_i . H^-1 grad f_j.

    Returns:
        psi (n m), residual (m), steps (m), status (m).
    """
    return _adjoint(_expansion(fit), fit.factor, gradients, as_solver(solver))


@eqx.filter_jit
def _adjoint(expansion, factor, gradients, solver):
    solution = solver.full(expansion, factor, gradients)
    psi = jax.vmap(expansion.dot, out_axes=1)(solution.value)
    return psi, solution.residual, solution.steps, solution.status


def per_point(
    fit: Fit, measures: Any, solver: Any = Auto(), *, throw: bool = True
) -> Float[Array, "n m"]:
    """First-order effect of removing each training point alone, on every column of the measures.

    Sums over a group give the group's influence. One solve a column, whatever n is.

    Args:
        fit: the fitted objective.
        measures: measures that do not depend on what leaves.
        solver: any member of `solvers`, or a lineax linear solver.
        throw: raise if a solve fails.

    Returns:
        (n m), f(without) - f(with) in units of f, to first order.
    """
    if not isinstance(fit, Fit):
        raise ValueError(f"expected a Fit from lo.fit(objective), got {type(fit).__name__}")
    bound = tuple(m.bind(fit.objective) for m in as_measures(measures))
    for measure in bound:
        if measure.needs_w:
            raise ValueError(
                f"{measure.name} depends on who leaves together, so it has no per-point sum; "
                "use lo.effects(fit, groups, ...) with one group a point"
            )
    gradients = jnp.concatenate([_gradients(fit, measure) for measure in bound])
    psi, residual, _, status = adjoint(fit, gradients, solver)
    if throw and not is_traced(fit):
        columns = [c for m in bound for c in m.columns(fit.objective)]
        raise_unless_converged(status, residual, columns)
    return psi


@eqx.filter_jit
def _gradients(fit: Fit, measure):
    return measure.gradients(fit.objective, fit.flat)


def group_sums(groups: Groups, values: Float[Array | np.ndarray, "n m"]) -> Float[Array, "g m"]:
    """sum_i w_i values_i for every group: a sparse product on the host, segments when traced."""
    weights = np.ones(len(groups.indices)) if groups.weights is None else groups.weights
    if is_traced(values):
        rows = np.repeat(np.arange(len(groups)), np.diff(groups.offsets))
        terms = values[groups.indices] * jnp.asarray(weights, values.dtype)[:, None]
        return jax.ops.segment_sum(terms, rows, len(groups))
    shape = (len(groups), groups.n)
    table = scipy.sparse.csr_matrix((weights, groups.indices, groups.offsets), shape)
    return jnp.asarray(table @ np.asarray(values), values.dtype)
