"""Second order in w: the next term of the series that influence begins."""

from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
from jaxtyping import Array

from leaveout.fitting.fitted import Change, Fit, expansion_of
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.methods.first_order import force_of, over_weights
from leaveout.methods.protocol import Method, Prepared
from leaveout.methods.strain import judged
from leaveout.runtime.solution import Solution
from leaveout.solvers import AnySolver, Auto, as_solver

__all__ = ["SecondOrder"]


@dataclass(frozen=True)
class SecondOrder(Method):
    """The change in theta to second order in w, as a method of `effects`.

    Also known as the second-order infinitesimal jackknife:

        H^-1 (g(w) + H(w) d - T[d, d] / 2),  d = H^-1 g(w),  T the third derivative.

    It uses the factor of H only, so that a group costs two solves and about three gradients. A
    series: it helps small groups and misleads for those that take most of the curvature along some
    direction; where J of what stays is higher after it than before, the status is `too_far`.

    Attributes:
        solver: any member of `solvers`, or a lineax linear solver.

    Example:
        >>> lo.effects(fit, groups, measure, lo.SecondOrder()).method
        'second-order influence'

    Source: Giordano, Jordan and Broderick (2019).
    """

    solver: AnySolver = Auto()

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "second-order influence"

    def prepare(self, fit: Fit, measures: Sequence[Measure]) -> Prepared:
        """Changes by two solves a group."""
        solver, expansion = as_solver(self.solver), expansion_of(fit)

        def change(groups: Groups, l2: Array | None = None) -> Change:
            def step(w, *own) -> Solution:
                found = _second(fit, expansion, w, solver, *own)
                return found if own else judged(fit, None, found, fit.objective.stays(w))

            more = None if l2 is None else l2[:, None]
            solution = over_weights(fit, groups, step, more)
            return Change.of(solution, fit.objective)

        return Prepared(change, change_under=change)


@eqx.filter_jit
def _second(fit, expansion, w, solver, l2=None) -> Solution:
    taken = fit.objective.taken(w)
    gradient = jax.vmap(expansion.gradient)(taken)
    if l2 is not None:
        gradient += force_of(fit, l2[:, 0])
    first = solver.full(expansion, fit.metric, gradient)
    lost = jax.vmap(expansion.hvp)(taken, first.value)
    if l2 is not None:
        lost += (fit.objective.l2 - l2) * fit.objective.heaviness[None] * first.value
    third = jax.vmap(lambda d: fit.objective.third_derivative(fit.flat, d))(first.value)
    return solver.full(expansion, fit.metric, gradient + lost - third / 2)
