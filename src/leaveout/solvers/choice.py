"""Which solver: what a caller asks for, or the one that the operation counts favour."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from leaveout.objectives.abstract import AbstractExpansion
from leaveout.objectives.expansion import LinearExpansion
from leaveout.solvers.direct import Cholesky, LowRank
from leaveout.solvers.factor import Block, Factor, Solver
from leaveout.solvers.foreign import Lineax
from leaveout.solvers.iterative import CG

__all__ = ["AnySolver", "Auto", "as_solver", "tolerance_of"]

#: what verbs take: a member of the shelf, one of your own, or a lineax linear solver; what is none
#: of these reaches `as_solver`, which says so in a sentence
if TYPE_CHECKING:
    import lineax as lx

    AnySolver: TypeAlias = Solver | lx.AbstractLinearSolver
else:
    AnySolver = object

_STEPS = 15  # of conjugate gradients in the metric of H: 5 to 20 for groups of up to a quarter


@dataclass(frozen=True)
class Auto:
    """Cholesky, LowRank or CG, whichever the operation counts say is cheapest for the block.

    Attributes:
        rtol: handed on to the solver chosen.

    Example:
        >>> lo.influence(fit, groups, lo.solvers.Auto(rtol=1e-6)).value.shape
        (4, 4)
    """

    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Rows of H^-1 b."""
        return self.choose(expansion, factor, None).full(expansion, factor, b)

    def reduced(self, expansion, factor, block):
        """The map b to rows of (H - H(w))^-1 b."""
        return self.choose(expansion, factor, block).reduced(expansion, factor, block)

    def choose(
        self, expansion: AbstractExpansion, factor: Factor | None, block: Block | None
    ) -> Solver:
        """The solver that would be used; `block` is None for `full`."""
        if factor is None:
            return CG(self.rtol)
        if block is None:
            return Cholesky(self.rtol)
        costs = self.costs(expansion, factor, block)
        return min(costs, key=lambda solver: costs[solver])

    def costs(
        self, expansion: AbstractExpansion, factor: Factor, block: Block
    ) -> dict[Solver, float]:
        """Multiplications and additions of a group by each solver, weighted by how slow they are.

        Beside large matrix products, at 1: products of gathered rows take 1.5 times as long,
        factorisations 4 times.
        """
        n, p, k = expansion.n, expansion.penalty.size, block.taken.shape[1]
        linear = isinstance(expansion, LinearExpansion)
        outputs = expansion.layout.outputs if linear else 1
        inner, seen = k * outputs, factor.rows is not None
        dense = 1.5 * k * p**2 * (outputs + 1) / outputs + 4 * p**3 / 3 + 8 * p**2
        product = 4 * n * p if seen else 8 * n * p + 12 * p**2
        costs: dict[Solver, float] = {
            Cholesky(self.rtol): dense if linear else 4 * dense,
            CG(self.rtol): _STEPS * product,
        }
        if linear and block.indices is not None:
            whitened = 4 * p * inner if seen else 4 * p**2 * inner
            products = inner**2 if factor.gram is not None else 3 * p * inner**2
            costs[LowRank(self.rtol)] = whitened + products + 8 * inner**3 / 3
        return costs


def as_solver(solver: AnySolver) -> Solver:
    """A solver of this shelf, or any lineax linear solver, as a `Solver`.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(solver, Solver) and not isinstance(solver, type):
        return solver
    import lineax as lx

    if isinstance(solver, lx.AbstractLinearSolver):
        return Lineax(solver)
    raise ValueError(
        f"expected a solver such as lo.solvers.Cholesky(), lo.solvers.CG(rtol=1e-10) or a lineax "
        f"solver, got {solver!r}; solvers are values, never strings or classes"
    )


@runtime_checkable
class _Tolerant(Protocol):
    """A solver that says which residual it aims at."""

    @property
    def rtol(self) -> float: ...


def tolerance_of(solver: Solver) -> float:
    """The residual that a solver aims at; 1e-8 where it does not say."""
    return solver.rtol if isinstance(solver, _Tolerant) else 1e-8
