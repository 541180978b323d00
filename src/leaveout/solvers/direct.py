"""Direct solvers: dense factorisations, and downdates of the factor of H."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from leaveout.objective import LinearExpansion
from leaveout.solution import Status
from leaveout.solvers.factor import (
    Block,
    apply_full,
    factorise,
    full_matrix,
    is_definite,
    judge,
    reachable,
    relative,
)

__all__ = ["Cholesky", "LowRank", "together"]


@dataclass(frozen=True)
class Cholesky:
    """Factorise the dense Hessian: once for `full`, once a group for `reduced`.

    The group's Hessian is H minus what leaves (of dense weights: built from what stays): |w| p^2
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
        apply = apply_full(expansion)
        x = factor.solve(b)
        x = x + factor.solve(b - apply(x))
        residual = relative(b - apply(x), b, factor.solve)
        return judge(x, residual, reachable(self.rtol, b.dtype), Status.converged)

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
            if indices is None:
                left = base + expansion.hessian(1 - weights)
            else:
                left = matrix - expansion.restrict(indices).hessian(weights)
            lower = jnp.linalg.cholesky(left)
            definite = is_definite(lower, jnp.diagonal(left) if indices is None else scale)
            x = jax.scipy.linalg.cho_solve((lower, True), right)
            return jnp.where(definite, x, 0.0), right - left @ x, definite

        lanes = (block.indices, block.weights, b)
        x, error, definite = jax.lax.map(solve, lanes, batch_size=_together(expansion, block))
        x, error, status = _mend(expansion, block, b, x, error, definite)
        residual = relative(error, b, factor.solve)
        return judge(x, residual, reachable(self.rtol, b.dtype), status)


def _together(expansion, block: Block) -> int:
    """Lanes whose dense work is done in one batch."""
    p = expansion.penalty.size
    row = expansion.design.shape[1] if isinstance(expansion, LinearExpansion) else p
    lanes, k = block.weights.shape
    return together(lanes, 8 * (4 * p * p + 3 * k * row))


def together(lanes: int, bytes_each: int) -> int:
    """Lanes to be factorised in one batch: as many as stay in a processor's cache.

    A divisor of their number: a remainder would be a second batch beside the first, and two
    batched LAPACK calls at once can wait for ever for each other's threads (seen in jaxlib 0.10 on
    two cores, where each waits in the pool it runs on).
    """
    room = 2**23 if jax.default_backend() == "cpu" else 2**28
    most = int(np.clip(room // bytes_each, 1, lanes))
    return max(size for size in range(1, most + 1) if lanes % size == 0)


def _mend(expansion, block: Block, b, x, error, good):
    """Solve the lanes that are not `good` again, carefully: whatever it costs, never NaN.

    Their Hessian is rebuilt from the rows that stay (H - H(w) cancels when little curvature is
    left), scaled to unit diagonal, and inverted on its range. Returns x, the error b - A x, status.
    """
    gauge = expansion.gauge()

    def careful(lane):
        indices, weights, right = lane
        if indices is not None:
            weights = jnp.zeros(expansion.n, weights.dtype).at[indices].add(weights)
        stays = 1 - weights
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
    + p (|w| K)^2 + (|w| K)^3; for |w| K < p. Where the factor holds the design in whitened
    coordinates the first term drops out, where it holds X H^-1 X' the second: p appears only in
    the way from u to theta. Linear models only, and `reduced` only.

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
        if block.indices is None:
            return Cholesky(self.rtol).reduced(expansion, factor, block, b)
        if factor is None:
            factor, _ = factorise(full_matrix(expansion))
        if factor.rows is not None:
            return self._whitened(expansion, factor, block, b)
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
        good &= relative(error, b, factor.solve) <= reachable(self.rtol, b.dtype)
        x, error, status = _mend(expansion, block, b, x, error, good)
        residual = relative(error, b, factor.solve)
        return judge(x, residual, reachable(self.rtol, b.dtype), status)

    def _whitened(self, expansion, factor, block, b):
        """The same in coordinates u = lower' x, where the rows of the points need no solve."""
        rows, gram, second = factor.rows, factor.gram, expansion.second[:, 0, 0]

        def solve(lane):
            indices, weights, start = lane
            white, curvature = rows[indices], weights * second[indices]
            inner = white @ white.T if gram is None else gram[indices][:, indices]
            eye = jnp.eye(len(indices), dtype=start.dtype)
            factors, pivots = jax.scipy.linalg.lu_factor(eye - curvature[:, None] * inner)
            regular = jnp.min(jnp.abs(jnp.diagonal(factors))) > 1e-10
            a = jax.scipy.linalg.lu_solve((factors, pivots), curvature * (white @ start))
            u = start + a @ white
            return u, start - u + (curvature * (white @ u)) @ white, regular

        start = factor.whiten(b)
        lanes = (block.indices, block.weights, start)
        k = block.indices.shape[1]
        size = 8 * k * (rows.shape[1] + 3 * k)
        u, error, regular = jax.lax.map(solve, lanes, batch_size=together(len(b), size))
        size, left = jnp.linalg.norm(start, axis=1), jnp.linalg.norm(error, axis=1)
        reached = left <= reachable(self.rtol, b.dtype) * size
        good = regular & jnp.all(jnp.isfinite(u), axis=1) & reached
        x = jnp.where(good[:, None], factor.unwhiten(jnp.where(good[:, None], u, 0.0)), 0.0)
        error = jnp.where(good[:, None], error @ factor.lower.T, b)
        x, error, status = _mend(expansion, block, b, x, error, good)
        residual = relative(error, b, factor.solve)
        return judge(x, residual, reachable(self.rtol, b.dtype), status)
