"""Influence: the change in theta to first order, H(1)^-1 g(w), from one factorisation for all.

And what the same factor gives beyond it: each point rescaled by its own leverage, and the second
order in the weights.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.gates import check_groups, warn_if_float32_stalled
from leaveout.fitting.leaving import leaving, listed_gradients, worth_listing
from leaveout.groups import Groups
from leaveout.measures import as_measures
from leaveout.objectives.checks import is_traced
from leaveout.objectives.linear import LinearExpansion
from leaveout.runtime.memory import bucket, budget, chunks
from leaveout.runtime.sharding import entry_point, replicate, to_host
from leaveout.runtime.solution import Solution, Status, raise_unless_converged
from leaveout.solvers import Auto, Cholesky, as_solver
from leaveout.solvers.factor import judge, leverage, relative

__all__ = [
    "Influence",
    "adjoint",
    "group_sums",
    "influence",
    "over_chunks",
    "per_point",
    "self_influence",
]


@dataclass(frozen=True)
class Influence:
    """Influence as a method of `effects`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.
        at_changed: evaluate f at theta + change instead of to first order (the paper's code calls
            it parameter influence).
        rescaled: take each point's Newton step instead of its influence (`influence`).
    """

    solver: Any = Auto()
    at_changed: bool = False
    rescaled: bool = False

    @property
    def name(self) -> str:
        """For tables and axes."""
        name = "rescaled influence" if self.rescaled else "influence"
        return f"{name} at changed theta" if self.at_changed else name

    @property
    def first_order(self) -> bool:
        """Whether f is taken to first order in the change."""
        return not self.at_changed

    def by_factor(self, fit: Fit) -> bool:
        """Whether first-order effects are taken from the factor of H itself."""
        direct = isinstance(self.solver, Auto | Cholesky) and not self.rescaled
        return self.first_order and direct and fit.metric is not None

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """`influence` with this solver."""
        return influence(fit, groups, self.solver, rescaled=self.rescaled, memory=memory)


@entry_point
def influence(
    fit: Fit,
    groups: Groups,
    solver: Any = Auto(),
    *,
    rescaled: bool = False,
    memory=None,
    throw: bool = False,
) -> Change:
    """Change in theta to first order when each group leaves.

        change = H(1)^-1 g(w),  g(w) = sum_i s_i w_i grad loss_i(theta)

    Additive over disjoint groups. One factorisation (that of the fit) and one solve a group: n p +
    p^2 multiplications each.

    Rescaled, each point's part is its own Newton step, (H(1) - H_i)^-1 g_i instead of H(1)^-1 g_i:
    still additive, exact for groups of one point on squared loss and the approximate leave-one-out
    step on others, blind to points that act together. Linear models with a factor only; n p^2 once.

    Args:
        fit: the fitted objective.
        groups: what leaves.
        solver: any member of `solvers`, or a lineax linear solver.
        rescaled: divide by what each point leaves of itself.
        memory: bytes that working arrays may take; default a quarter of what is free.
        throw: raise if any group's solve fails.

    Returns:
        value (g p) in units of theta; residual is relative, in the norm of H^-1.

    Raises:
        ValueError: if `groups` was made for another number of examples.

    Source: Koh and Liang (2017); Koh et al. (2019), equation 4, with the sign of removal. Rescaled:
    Beirami et al. (2017), Rad and Maleki (2020); Rubinstein and Hopkins (2025).
    """
    check_groups(fit, groups)
    objective, solver = fit.objective, as_solver(solver)
    joined = over_chunks(
        fit, groups, memory,
        lambda expansion, gradient: _solve(expansion, fit.metric, gradient, solver), rescaled,
    )  # fmt: skip
    change = Change(joined.value, joined.residual, joined.steps, joined.status, objective)
    warn_if_float32_stalled(fit, change.residual, getattr(solver, "rtol", 1e-8))
    if throw and not is_traced(fit):
        raise_unless_converged(change.status, change.residual, _names(groups))
    return change


@entry_point
def self_influence(fit: Fit, groups: Groups, memory=None) -> tuple:
    """Influence on each group's own loss, g(w)' H^-1 g(w), from the factor of H: no solve a group.

    Returns:
        value (g 1), residual (g), status (g).
    """
    return over_chunks(
        fit, groups, memory, lambda _, gradient: _self_influence(fit.metric, gradient)
    )


def over_chunks(fit: Fit, groups: Groups, memory, call, rescaled: bool = False, dense=False):
    """The joined answers of call(expansion, g(w) (b p)) over all groups; of w (b n) if `dense`."""
    objective = fit.objective
    listed = not dense and worth_listing(fit, groups)
    each = 8 * 6 * objective.p + (
        0 if listed else 8 * objective.n * (2 + objective.floats_per_example)
    )
    expansion, parts = _expansion(fit, rescaled), []
    for rows in chunks(np.arange(len(groups)), each, budget(memory), 8192 if listed else 1024):
        lanes = len(rows) if len(groups) <= 1024 else bucket(len(rows))
        some = groups[np.resize(rows, lanes)]
        if listed:
            assert isinstance(expansion, LinearExpansion)  # few
            given = listed_gradients(expansion, some)
        else:
            given = leaving(fit, some) if dense else _pulled(expansion, leaving(fit, some))
        parts.append(jax.tree.map(lambda leaf, k=len(rows): leaf[:k], call(expansion, given)))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@eqx.filter_jit
def _pulled(expansion, leaves):
    return jax.vmap(expansion.gradient)(leaves)


def _names(groups: Groups) -> list[str]:
    return [f"group {str(name)!r}" for name in groups.names]


@eqx.filter_jit
def _expansion(fit: Fit, rescaled: bool = False):
    expansion = fit.expansion()
    return _rescaled(expansion, fit.metric) if rescaled else expansion


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

    own = leverage(expansion, factor)
    first = jax.vmap(rescale)((own, expansion.first, expansion.second))
    return dataclasses.replace(expansion, first=first)


@eqx.filter_jit
def _solve(expansion, factor, gradient, solver) -> Solution:
    return replicate(solver.full(expansion, factor, gradient))


@eqx.filter_jit
def _self_influence(factor, gradient):
    white = factor.whiten(gradient)
    value = jnp.sum(white**2, axis=1, keepdims=True)
    error = factor.whiten(gradient - white @ factor.lower.T)
    solution = judge(value, relative(error, white, lambda u: u), jnp.inf, Status.converged)
    return replicate((solution.value, solution.residual, solution.status))


@entry_point
def adjoint(
    fit: Fit, gradients: Float[Array, "m p"], solver: Any = Auto(), rescaled: bool = False
) -> tuple:
    """What each training point does to each of m linear functionals, and how well it was solved.

    One solve a functional, then one pass over the data: psi_ij = s_i grad loss_i . H^-1 grad f_j.

    Returns:
        psi (n m), residual (m), steps (m), status (m).
    """
    solver = as_solver(solver)
    answer = _adjoint(_expansion(fit, rescaled), fit.metric, gradients, solver)
    warn_if_float32_stalled(fit, answer[1], getattr(solver, "rtol", 1e-8))
    return answer


@eqx.filter_jit
def _adjoint(expansion, factor, gradients, solver):
    solution = solver.full(expansion, factor, gradients)
    psi = expansion.dots(solution.value)
    return psi, solution.residual, solution.steps, solution.status


@entry_point
def per_point(
    fit: Fit, measures: Any, solver: Any = Auto(), *, rescaled: bool = False, throw: bool = True
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
        if not measure.smooth:
            raise ValueError(
                f"{measure.name} has no useful derivative, so influence on it cannot be summed; "
                "use lo.effects(fit, groups, ...), which evaluates it at the changed theta"
            )
    gradients = jnp.concatenate([_gradients(fit, measure) for measure in bound])
    psi, residual, _, status = adjoint(fit, gradients, solver, rescaled)
    if throw and not is_traced(fit):
        columns = [c for m in bound for c in m.columns(fit.objective)]
        raise_unless_converged(status, residual, columns)
    return psi


@eqx.filter_jit
def _gradients(fit: Fit, measure):
    return measure.gradients(fit.objective, fit.flat)


def group_sums(groups: Groups, values: Float[Array | np.ndarray, "n m"]) -> Float[Array, "g m"]:
    """sum_i w_i values_i for every group: a sparse product on the host, segments when traced."""
    if is_traced(values):
        rows = np.repeat(np.arange(len(groups)), np.diff(groups.offsets))
        terms = values[groups.indices] * jnp.asarray(groups.w, values.dtype)[:, None]
        return jax.ops.segment_sum(terms, rows, len(groups))
    shape = (len(groups), len(values))
    table = scipy.sparse.csr_matrix((groups.w, groups.indices, groups.offsets), shape)
    return jnp.asarray(table @ to_host(values), values.dtype)
