"""Second order in the weights: the next term of the series that influence begins."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax

from leaveout.fitting.fitted import Change, Fit
from leaveout.fitting.gates import check_groups
from leaveout.groups import Groups
from leaveout.methods.first_order import over_chunks
from leaveout.runtime.solution import Solution
from leaveout.solvers import Auto, as_solver

__all__ = ["SecondOrder"]


@dataclass(frozen=True)
class SecondOrder:
    """The change in theta to second order in the weights, as a method of `effects`.

    Also known as the second-order infinitesimal jackknife. It uses the factor of H only, so that a
    group costs two solves and about three gradients. A series: it helps small groups and misleads
    for those that take most of the curvature along some direction.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.

    Source: Giordano, Jordan and Broderick (2019).
    """

    solver: Any = Auto()

    name = "second-order influence"
    first_order = False

    def change(self, fit: Fit, groups: Groups, memory=None) -> Change:
        """H^-1 (g(w) + H(w) d - T(1)[d, d] / 2) with d = H^-1 g(w), T the third derivative."""
        check_groups(fit, groups)
        solver = as_solver(self.solver)
        joined = over_chunks(
            fit, groups, memory,
            lambda expansion, leaves: _second(fit, expansion, leaves, solver), dense=True,
        )  # fmt: skip
        return Change(joined.value, joined.residual, joined.steps, joined.status, fit.objective)


@eqx.filter_jit
def _second(fit, expansion, leaves, solver) -> Solution:
    gradient = jax.vmap(expansion.gradient)(leaves)
    first = solver.full(expansion, fit.metric, gradient)
    taken = jax.vmap(expansion.hvp)(leaves, first.value)
    third = jax.vmap(lambda v: fit.objective.third_derivative(fit.flat, v))(first.value)
    return solver.full(expansion, fit.metric, gradient + taken - third / 2)
