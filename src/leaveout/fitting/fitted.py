"""What a fit holds, and what a change in theta holds."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, Int8, PyTree

from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective
from leaveout.objectives.linear import LinearObjective
from leaveout.solvers import Factor, attach_rows

__all__ = ["Change", "Fit", "with_rows"]


class Fit(eqx.Module):
    """An optimum of an objective.

    Attributes:
        objective: what was minimised.
        flat: (p) theta as a flat vector; `theta` is the PyTree.
        metric: the Cholesky factor of the Hessian at theta, or None where p is too large for it.
        residual: the Newton decrement at theta: (g' H^-1 g)^1/2.
        sandwich: the sandwich length, the natural unit for `residual`.
        steps: Newton steps (or L-BFGS evaluations) taken.
        status: how it ended.
    """

    objective: AbstractObjective
    flat: Float[Array, "p"]
    metric: Factor | None
    residual: Float[Array, ""]
    sandwich: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int8[Array, ""]

    @property
    def theta(self) -> PyTree:
        """The parameters as the PyTree the objective was made with."""
        return self.objective.tree(self.flat)

    def expansion(self) -> AbstractExpansion:
        """Every loss to second order around theta."""
        return self.objective.at(self.flat)


class Change(eqx.Module):
    """What removing each of g groups does to theta: theta_without - theta.

    Attributes:
        value: (g p) changes, flat, in units of theta.
        residual: (g) what was reached; the verb says in which norm.
        steps: (g) iterations or evaluations spent, 0 for a direct solve.
        status: (g) `Status` codes.
        objective: whose theta it is.
    """

    value: Float[Array, "g p"]
    residual: Float[Array, "g"]
    steps: Int[Array, "g"]
    status: Int8[Array, "g"]
    objective: AbstractObjective

    def tree(self) -> PyTree:
        """The changes as the PyTree of parameters, each leaf with a leading axis g."""
        if isinstance(self.objective, LinearObjective):
            return jax.vmap(self.objective.tree)(self.value)
        trees = jax.vmap(lambda v: eqx.filter(self.objective.tree(v), eqx.is_inexact_array))
        return trees(self.value)


def with_rows(fit: Fit, available: int, gram: bool = False) -> Fit:
    """The fit with the design in whitened coordinates beside its factor, where that serves.

    It serves linear models of one output, and is done where it fits: n p numbers (and n^2 for the
    `gram` matrix X H^-1 X') in a quarter of the memory available. Otherwise the fit as it is.
    """
    objective, factor = fit.objective, fit.metric
    if factor is None or not isinstance(objective, LinearObjective) or objective.layout.outputs > 1:
        return fit
    if factor.rows is None and 8 * objective.n * objective.p > available / 4:
        return fit
    gram = gram and factor.gram is None and 8 * objective.n**2 <= available / 4
    if factor.rows is not None and not gram:
        return fit
    factor = attach_rows(factor, objective.design, gram)
    return eqx.tree_at(lambda f: f.metric, fit, factor, is_leaf=lambda leaf: leaf is None)
