"""Shelf of linear solvers for Hessians: frozen, hashable values, never strings.

A solver answers two questions about the Hessian H = H(1) of the objective at theta:

- `full`: H x = b, for influence;
- `reduced`: (H - H(w)) x = b for many groups w at once, for the Newton step.

`Block` says which groups are in flight: padded indices of the points that leave (or, for large
groups, of those that stay) and their weights. Every answer's residual is the true one, measured
after the solve as |b - A x| / |b| in the norm of H^-1, which does not depend on units of features.
"""

import dataclasses
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from leaveout.objective import AbstractExpansion, LinearExpansion
from leaveout.solution import Solution, Status

__all__ = [
    "CG",
    "Auto",
    "Block",
    "Cholesky",
    "Factor",
    "Lineax",
    "LowRank",
    "Solver",
    "as_solver",
    "factorise",
    "full_matrix",
]


class Block(eqx.Module):
    """Groups in flight, as padded lists of points.

    Attributes:
        indices: (b k) points; padding repeats point 0.
        weights: (b k) how much of each leaves (or stays, if `kept`); 0 for padding.
        kept: the lists hold what stays: cheaper for groups of more than half of the points.
    """

    indices: Int[Array, "b k"]
    weights: Float[Array, "b k"]
    kept: bool = eqx.field(static=True, default=False)

    def leaves(self, n: int) -> Float[Array, "b n"]:
        """Dense w, what leaves."""
        zeros = jnp.zeros((self.indices.shape[0], n), self.weights.dtype)
        lanes = jnp.arange(self.indices.shape[0])[:, None]
        dense = zeros.at[lanes, self.indices].add(self.weights)
        return 1 - dense if self.kept else dense


class Factor(eqx.Module):
    """The Cholesky factor of H(1), gauge included: lower @ lower.T = H."""

    lower: Float[Array, "p p"]

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H^-1 b."""
        return jax.scipy.linalg.cho_solve((self.lower, True), b.T).T

    def whiten(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of lower^-1 b: their Euclidean norm is the norm of b in H^-1."""
        return jax.scipy.linalg.solve_triangular(self.lower, b.T, lower=True).T

    def multiply(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H b."""
        return (b @ self.lower) @ self.lower.T

    def inflation(self) -> Float[Array, ""]:
        """The largest variance inflation of a parameter given those before it.

        A lower bound on the condition number of H in its best units; infinite if H is singular.
        """
        own = jnp.sum(self.lower**2, axis=1)
        return jnp.max(own / jnp.diagonal(self.lower) ** 2)


def full_matrix(expansion: AbstractExpansion) -> Float[Array, "p p"]:
    """H(1) with penalty and gauge."""
    matrix = expansion.hessian(jnp.ones(expansion.n, expansion.penalty.dtype))
    matrix = matrix + jnp.diag(expansion.penalty)
    gauge = expansion.gauge()
    return matrix if gauge is None else matrix + gauge


def factorise(matrix: Float[Array, "p p"]) -> tuple[Factor, Bool[Array, ""]]:
    """The factor of a matrix, and whether it is numerically positive definite."""
    lower = jnp.linalg.cholesky(matrix)
    return Factor(lower), _definite(lower, jnp.diagonal(matrix))


def _definite(lower, scale):
    """True if every pivot stands clear of rounding in a matrix with this diagonal."""
    floor = 10 * lower.shape[0] * jnp.finfo(lower.dtype).eps
    return jnp.all(jnp.diagonal(lower) ** 2 > floor * scale)


@runtime_checkable
class Solver(Protocol):
    """Answers questions about H; see the module."""

    def full(
        self, expansion: AbstractExpansion, factor: Factor | None, b: Float[Array, "k p"]
    ) -> Solution:
        """Rows of H^-1 b."""
        ...

    def reduced(
        self,
        expansion: AbstractExpansion,
        factor: Factor | None,
        block: Block,
        b: Float[Array, "b p"],
    ) -> Solution:
        """Rows of (H - H(w))^-1 b, one group a row."""
        ...


# ---- operators ----------------------------------------------------------------------------------


def _apply_full(expansion: AbstractExpansion):
    """X (k p) to H x, matrix-free."""
    ones = jnp.ones(expansion.n, expansion.penalty.dtype)
    return lambda x: _with_penalty(expansion, jax.vmap(lambda v: expansion.hvp(ones, v))(x), x)


def _apply_reduced(expansion: AbstractExpansion, stays: Float[Array, "b n"]):
    """X (b p) to (H - H(w)) x, matrix-free over the whole data."""
    return lambda x: _with_penalty(expansion, jax.vmap(expansion.hvp)(stays, x), x)


def _with_penalty(expansion, product, x):
    product = product + expansion.penalty[None] * x
    gauge = expansion.gauge()
    return product if gauge is None else product + x @ gauge


def _relative(residual, b, preconditioner):
    """|residual| / |b| in the norm of the preconditioner; 0 for b = 0."""
    above = jnp.sqrt(jnp.maximum(jnp.sum(residual * preconditioner(residual), axis=1), 0.0))
    below = jnp.sqrt(jnp.maximum(jnp.sum(b * preconditioner(b), axis=1), 0.0))
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1.0), above)


def _judge(value, residual, rtol, status) -> Solution:
    """A Solution that is `inaccurate` where the true residual exceeds rtol."""
    status = jnp.broadcast_to(jnp.asarray(status, jnp.int8), residual.shape)
    bad = (status == Status.converged) & ~(residual <= rtol)
    status = jnp.where(bad, Status.inaccurate, status).astype(jnp.int8)
    finite = jnp.all(jnp.isfinite(value), axis=1)
    status = jnp.where(finite, status, Status.nonfinite).astype(jnp.int8)
    value = jnp.where(finite[:, None], value, 0.0)
    residual = jnp.where(finite, residual, jnp.inf)
    return Solution(value, residual, jnp.zeros(residual.shape, jnp.int32), status)


def _tolerance(rtol, dtype):
    """What can be asked of a residual in this precision."""
    return max(rtol, 1e3 * float(jnp.finfo(dtype).eps))


# ---- dense --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cholesky:
    """Factorise the dense Hessian: once for `full`, once a group for `reduced`.

    The group's Hessian is H minus what leaves (or built from what stays, for large groups): |w| p^2
    multiplications, then p^3 / 3. A group that leaves a singular Hessian gets its smallest solution
    from an eigendecomposition over the remaining rows, and the status `singular`.

    Attributes:
        rtol: residual above which a solution is called `inaccurate`.
    """

    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Rows of H^-1 b, once refined."""
        if factor is None:
            factor, _ = factorise(full_matrix(expansion))
        apply = _apply_full(expansion)
        x = factor.solve(b)
        x = x + factor.solve(b - apply(x))
        residual = _relative(b - apply(x), b, factor.solve)
        return _judge(x, residual, _tolerance(self.rtol, b.dtype), Status.converged)

    def reduced(self, expansion, factor, block, b):
        """Rows of (H - H(w))^-1 b."""
        if factor is None:
            factor, _ = factorise(full_matrix(expansion))
        matrix = factor.lower @ factor.lower.T
        scale = jnp.diagonal(matrix)
        base = jnp.diag(expansion.penalty)
        gauge = expansion.gauge()
        base = base if gauge is None else base + gauge

        def solve(lane):
            indices, weights, right = lane
            part = expansion.restrict(indices).hessian(weights)
            left = base + part if block.kept else matrix - part
            lower = jnp.linalg.cholesky(left)
            definite = _definite(lower, jnp.diagonal(left) if block.kept else scale)
            x = jax.scipy.linalg.cho_solve((lower, True), right)
            return jnp.where(definite, x, 0.0), right - left @ x, definite

        lanes = (block.indices, block.weights, b)
        x, error, definite = jax.lax.map(solve, lanes, batch_size=_together(expansion, block))
        x, error, status = _mend(expansion, block, b, x, error, definite)
        residual = _relative(error, b, factor.solve)
        return _judge(x, residual, _tolerance(self.rtol, b.dtype), status)


def _together(expansion, block: Block) -> int:
    """Lanes whose dense work is done in one batch: as many as stay in 64 MiB.

    A divisor of the number of lanes: a remainder would be a second batch beside the first, and two
    batched LAPACK calls at once can wait for ever for each other's threads (seen in jaxlib 0.10 on
    two cores, where each waits in the pool it runs on).
    """
    p, lanes = expansion.penalty.size, block.indices.shape[0]
    row = expansion.design.shape[1] if isinstance(expansion, LinearExpansion) else p
    each = 8 * (4 * p * p + 3 * block.indices.shape[1] * row)
    most = int(np.clip(2**26 // each, 1, lanes))
    return max(size for size in range(1, most + 1) if lanes % size == 0)


def _mend(expansion, block: Block, b, x, error, good):
    """Solve the lanes that are not `good` again, carefully: whatever it costs, never NaN.

    Their Hessian is rebuilt from the rows that stay (H - H(w) cancels when little curvature is
    left), scaled to unit diagonal, and inverted on its range. Returns x, the error b - A x, status.
    """
    gauge = expansion.gauge()

    def careful(lane):
        indices, weights, right = lane
        zeros = jnp.zeros(expansion.n, weights.dtype).at[indices].add(weights)
        stays = zeros if block.kept else 1 - zeros
        left = expansion.hessian(stays) + jnp.diag(expansion.penalty)
        left = left if gauge is None else left + gauge
        diagonal = jnp.abs(jnp.diagonal(left))
        scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
        values, vectors = jnp.linalg.eigh(left / (scale[:, None] * scale[None]))
        floor = 10 * scale.size * jnp.finfo(scale.dtype).eps * jnp.max(jnp.abs(values))
        kept = jnp.abs(values) > floor
        inner = vectors.T @ (right / scale)
        inner = jnp.where(kept, inner / jnp.where(kept, values, 1.0), 0.0)
        answer = (vectors @ inner) / scale
        code = jnp.where(jnp.all(kept), Status.converged, Status.singular)
        code = jnp.where(jnp.any(values < -floor), Status.not_positive_definite, code)
        return answer, right - left @ answer, code.astype(jnp.int8)

    def lane(inputs):
        ok, x, error, *rest = inputs
        fine = jnp.asarray(Status.converged, jnp.int8)
        return jax.lax.cond(ok, lambda _: (x, error, fine), careful, tuple(rest))

    def mend(_):
        return jax.lax.map(lane, (good, x, error, block.indices, block.weights, b))

    untouched = (x, error, jnp.full(good.shape, Status.converged, jnp.int8))
    return jax.lax.cond(jnp.all(good), lambda _: untouched, mend, None)


@dataclass(frozen=True)
class LowRank:
    """Downdate the factor of H by the points that leave (Woodbury): p drops out of the solve.

        (H - H(w))^-1 g(w) = H^-1 X_w' a,  (I - C R) a = gamma,  R = X_w H^-1 X_w'

    with gamma and C the first and second derivatives at the scores of the points. Costs p^2 |w| K
    + p (|w| K)^2 + (|w| K)^3; for |w| K < p. Linear models only, and `reduced` only.

    Attributes:
        rtol: residual above which a group is solved again by the dense route.

    Source: Woodbury; Koh et al. (2019) section 4, one removed group at a time.
    """

    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Refused: there is nothing to downdate."""
        raise ValueError(
            "LowRank downdates a factor for groups, so it serves newton only; "
            "use Cholesky() or CG() for influence"
        )

    def reduced(self, expansion, factor, block, b):
        """Rows of (H - H(w))^-1 b for b = g(w) or any other right-hand side."""
        if not isinstance(expansion, LinearExpansion):
            raise ValueError(
                "LowRank needs a linear model (lo.glm and its kin); use Cholesky() or CG()"
            )
        if block.kept:
            return Cholesky(self.rtol).reduced(expansion, factor, block, b)
        if factor is None:
            factor, _ = factorise(full_matrix(expansion))
        order = expansion.layout.order()
        outputs, width = expansion.layout.outputs, expansion.layout.width
        eye = jnp.eye(outputs, dtype=b.dtype)

        def solve(lane):
            indices, weights, right = lane
            design = expansion.design[indices]
            k = design.shape[0]
            # one row of X_w for each (point, output), columns in the order of theta
            rows = jnp.einsum("ab,ki->kabi", eye, design).reshape(k * outputs, outputs * width)
            rows = rows[:, order] if outputs > 1 else rows
            white = factor.whiten(rows)  # (kK p)
            curvature = weights[:, None, None] * expansion.second[indices]

            def scaled(m):  # C m, block by block
                shaped = m.reshape((k, outputs, -1))
                return jnp.einsum("kab,kbj->kaj", curvature, shaped).reshape(m.shape)

            system = jnp.eye(k * outputs, dtype=b.dtype) - scaled(white @ white.T)
            start = factor.whiten(right[None])[0]
            factors, pivots = jax.scipy.linalg.lu_factor(system)
            a = jax.scipy.linalg.lu_solve((factors, pivots), scaled((white @ start)[:, None]))[:, 0]
            # its determinant is that of I - S: a pivot near 0 is a direction with nothing left
            regular = jnp.min(jnp.abs(jnp.diagonal(factors))) > 1e-10
            solved = start + white.T @ a
            x = jax.scipy.linalg.solve_triangular(factor.lower, solved, lower=True, trans=1)
            part = rows.T @ scaled((rows @ x)[:, None])[:, 0]
            return x, right - factor.multiply(x[None])[0] + part, regular

        x, error, regular = jax.lax.map(solve, (block.indices, block.weights, b))
        good = regular & jnp.all(jnp.isfinite(x), axis=1)
        x, error = jnp.where(good[:, None], x, 0.0), jnp.where(good[:, None], error, b)
        good &= _relative(error, b, factor.solve) <= _tolerance(self.rtol, b.dtype)
        x, error, status = _mend(expansion, block, b, x, error, good)
        residual = _relative(error, b, factor.solve)
        return _judge(x, residual, _tolerance(self.rtol, b.dtype), status)


# ---- iterative ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class CG:
    """Preconditioned conjugate gradients on Hessian-vector products; no matrix is formed.

    `full` is preconditioned by the diagonal of H (linear models; else not at all), `reduced` by the
    factor of H where the fit has one: its spectrum is then within [1 - mu, 1], mu the largest share
    of the curvature that a group takes away in any direction. Two matrix products a step, for all
    groups together. A singular Hessian is noticed only if b does not lie in its range; the smallest
    solution (in the preconditioner's metric) is returned otherwise.

    Attributes:
        rtol: residual at which a lane is done.
        max_steps: steps after which a lane is given up; default 10 p.
    """

    rtol: float = 1e-10
    max_steps: int | None = None

    def full(self, expansion, factor, b):
        """Rows of H^-1 b."""
        return self._solve(_apply_full(expansion), _jacobi(expansion), b)

    def reduced(self, expansion, factor, block, b):
        """Rows of (H - H(w))^-1 b."""
        apply = _apply_reduced(expansion, 1 - block.leaves(expansion.n))
        precondition = _jacobi(expansion) if factor is None else factor.solve
        return self._solve(apply, precondition, b)

    def _solve(self, apply, precondition, b) -> Solution:
        rtol = _tolerance(self.rtol, b.dtype)
        most = 10 * b.shape[1] if self.max_steps is None else self.max_steps
        z = precondition(b)
        size = jnp.sum(b * z, axis=1)  # squared norm of b

        def unfinished(carry):
            return (carry[0] < most) & jnp.any(carry[-1])

        def step(carry):
            count, x, r, z, direction, girth, energy, steps, flat, running = carry
            image = apply(direction)
            bend = jnp.sum(direction * image, axis=1)
            # a direction without curvature, beside the preconditioner's: b cannot be reached
            dead = running & ~(bend > 10 * jnp.finfo(b.dtype).eps * girth)
            go = running & ~dead
            length = jnp.where(go, energy / jnp.where(go, bend, 1.0), 0.0)[:, None]
            x, r = x + length * direction, r - length * image
            z = jnp.where(go[:, None], precondition(r), z)
            new = jnp.sum(r * z, axis=1)
            turn = jnp.where(energy > 0, new / jnp.where(energy > 0, energy, 1.0), 0.0)
            direction = jnp.where(go[:, None], z + turn[:, None] * direction, direction)
            # its squared length in the preconditioner's metric: z is orthogonal to the last one
            girth = jnp.where(go, new + turn**2 * girth, girth)
            energy = jnp.where(go, new, energy)
            running = go & (energy > (0.1 * rtol) ** 2 * size)
            return (
                count + 1, x, r, z, direction, girth, energy, steps + go, flat | dead, running
            )  # fmt: skip

        lanes = b.shape[0]
        start = (
            0, jnp.zeros_like(b), b, z, z, size, size,
            jnp.zeros(lanes, jnp.int32), jnp.zeros(lanes, bool), size > 0,
        )  # fmt: skip
        _, x, *_, steps, flat, running = jax.lax.while_loop(unfinished, step, start)
        residual = _relative(b - apply(x), b, precondition)
        status = jnp.where(flat, Status.singular, Status.converged)
        status = jnp.where(running, Status.max_steps, status)
        reached = residual <= rtol
        status = jnp.where(reached & ~flat, Status.converged, status)
        return dataclasses.replace(_judge(x, residual, rtol, status), steps=steps)


def _jacobi(expansion):
    """The inverse diagonal of H where it is cheap, else the identity."""
    if not isinstance(expansion, LinearExpansion):
        return lambda b: b
    diagonal = (
        expansion.diagonal(jnp.ones(expansion.n, expansion.penalty.dtype)) + expansion.penalty
    )
    gauge = expansion.gauge()
    diagonal = diagonal if gauge is None else diagonal + jnp.diagonal(gauge)
    return lambda b: b / jnp.where(diagonal > 0, diagonal, 1.0)[None]


@dataclass(frozen=True)
class Lineax:
    """Any lineax linear solver, given the dense Hessian scaled to unit diagonal.

    Made for you wherever a lineax solver is passed.

    Attributes:
        solver: for example `lineax.LU()` or `lineax.GMRES(rtol=1e-12, atol=1e-12)`.
        rtol: residual above which a solution is called `inaccurate`.
    """

    solver: lx.AbstractLinearSolver
    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Rows of H^-1 b."""
        matrix = full_matrix(expansion)
        return self._solve(lambda _: matrix, b, b)

    def reduced(self, expansion, factor, block, b):
        """Rows of (H - H(w))^-1 b."""

        def matrix(stays):
            gauge = expansion.gauge()
            left = expansion.hessian(stays) + jnp.diag(expansion.penalty)
            return left if gauge is None else left + gauge

        return self._solve(matrix, 1 - block.leaves(expansion.n), b)

    def _solve(self, matrix, stays, b):
        def solve(lane):
            left = matrix(lane[0])
            diagonal = jnp.diagonal(left)
            scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
            operator = lx.MatrixLinearOperator(
                left / (scale[:, None] * scale[None]), lx.positive_semidefinite_tag
            )
            answer = lx.linear_solve(operator, lane[1] / scale, self.solver, throw=False)
            x = answer.value / scale
            failed = answer.result != lx.RESULTS.successful
            return x, (lane[1] - left @ x) / scale, lane[1] / scale, failed

        x, error, size, failed = jax.lax.map(solve, (stays, b))
        status = jnp.where(failed, Status.stalled, Status.converged)
        residual = _relative(error, size, lambda v: v)
        return _judge(x, residual, _tolerance(self.rtol, b.dtype), status)


# ---- choosing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Auto:
    """Cholesky, LowRank or CG, whichever the operation counts say is cheapest for the block.

    Attributes:
        rtol: handed on to the solver chosen.
    """

    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Rows of H^-1 b."""
        return self.choose(expansion, factor, None).full(expansion, factor, b)

    def reduced(self, expansion, factor, block, b):
        """Rows of (H - H(w))^-1 b."""
        return self.choose(expansion, factor, block).reduced(expansion, factor, block, b)

    def choose(
        self, expansion: AbstractExpansion, factor: Factor | None, block: Block | None
    ) -> Solver:
        """The solver that would be used; `block` is None for `full`."""
        if factor is None:
            return CG(self.rtol)
        if block is None:
            return Cholesky(self.rtol)
        n, p, k = expansion.n, expansion.penalty.size, block.indices.shape[1]
        linear = isinstance(expansion, LinearExpansion)
        outputs = expansion.layout.outputs if linear else 1
        # small triangular and LU kernels reach about a quarter of the speed of matrix products
        dense = k * p**2 * (outputs + 1) / outputs + 4 * p**3 / 3 + 8 * p**2
        dense = dense if linear else 4 * dense
        inner = k * outputs
        low = 4 * p**2 * inner + 2 * p * inner**2 + 8 * inner**3 / 3
        steps = 15
        iterative = steps * (8 * n * p + 12 * p**2)
        costs = {Cholesky(self.rtol): dense, CG(self.rtol): iterative}
        if linear and not block.kept:
            costs[LowRank(self.rtol)] = low
        return min(costs, key=lambda solver: costs[solver])


def as_solver(solver) -> Solver:
    """A solver of this shelf, or any lineax linear solver, as a `Solver`.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(solver, lx.AbstractLinearSolver):
        return Lineax(solver)
    if isinstance(solver, Solver) and not isinstance(solver, type):
        return solver
    raise ValueError(
        f"expected a solver such as lo.solvers.Cholesky(), lo.solvers.CG(rtol=1e-10) or a lineax "
        f"solver, got {solver!r}; solvers are values, never strings or classes"
    )
