"""Solvers of another library."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import jax.numpy as jnp

from leaveout.runtime.sharding import over_lanes
from leaveout.runtime.solution import Solution, Status
from leaveout.solvers.factor import (
    full_matrix,
    judge,
    judged_again,
    reachable,
    relative,
    share_of,
    turned,
)

__all__ = ["Lineax"]

if TYPE_CHECKING:
    import lineax as lx

    _Solver: TypeAlias = lx.AbstractLinearSolver
else:
    _Solver = object  # lineax is loaded where one of its solvers is used


@dataclass(frozen=True)
class Lineax:
    """Any lineax linear solver, given the dense Hessian scaled to unit diagonal.

    Made for you wherever a lineax solver is passed. A group is solved twice, by the same state: the
    second solution tells how much curvature is left.

    Attributes:
        solver: for example `lineax.LU()` or `lineax.GMRES(rtol=1e-12, atol=1e-12)`.
        rtol: residual above which a solution is called `inaccurate`.

    Example:
        >>> import lineax as lx
        >>> lo.newton(fit, groups, lo.solvers.Lineax(lx.LU())).value.shape
        (4, 4)
    """

    solver: _Solver
    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Rows of H^-1 b."""
        matrix = full_matrix(expansion)
        return self._solve(lambda _: matrix, b, b)[0]

    def reduced(self, expansion, factor, block):
        """The map b to rows of (H - H(w))^-1 b."""
        left = block.left(expansion.weights)

        def solve(b) -> Solution:
            found, error, share = self._solve(lambda v: full_matrix(expansion, v), left, b, factor)
            if factor is None:
                return found
            return judged_again(found, error, b, factor, self.rtol, share)

        return solve

    def _solve(self, matrix, lanes, b, factor=None):
        import lineax as lx

        def solve(lane):
            left, right = lane
            diagonal = jnp.diagonal(left)
            scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
            operator = lx.MatrixLinearOperator(
                left / (scale[:, None] * scale[None]), lx.positive_semidefinite_tag
            )
            state = self.solver.init(operator, {})

            def solved(right):
                answer = lx.linear_solve(
                    operator, right / scale, self.solver, state=state, throw=False
                )
                return answer.value / scale, answer.result != lx.RESULTS.successful

            x, failed = solved(right)
            share = jnp.ones((), right.dtype)
            if factor is not None:
                share = share_of(factor, solved(turned(factor, x[None])[0])[0][None])[0]
            return x, right - left @ x, scale, failed, share

        x, error, scale, failed, share = over_lanes(
            lambda lane: (matrix(lane[0]), lane[1]), solve, (lanes, b), None
        )
        status = jnp.where(failed, Status.stalled, Status.converged)
        residual = relative(error / scale, b / scale, lambda v: v)
        return judge(x, residual, reachable(self.rtol, b.dtype), status), error, share
