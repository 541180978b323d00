"""Direct solvers: dense factorisations, and downdates of the factor of H."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.scored import stored
from leaveout.runtime.sharding import devices, on_host, over_lanes
from leaveout.runtime.solution import Solution, Status
from leaveout.solvers.factor import (
    PIECE,
    Block,
    apply_full,
    factorise,
    full_matrix,
    hessian_of_lists,
    is_definite,
    judge,
    left_over,
    measured,
    reachable,
    relative,
    thinned,
    unit_diagonal,
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

    Example:
        >>> lo.newton(fit, groups, lo.solvers.Cholesky()).steps.tolist()
        [0, 0, 0, 0]
    """

    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Rows of H^-1 b, once refined."""
        matrix = full_matrix(expansion) if factor is None else factor.matrix
        factor = factorise(matrix)[0] if factor is None else factor
        apply = apply_full(expansion) if matrix is None else lambda x: x @ matrix
        x = factor.solve(b)
        x = x + factor.solve(b - apply(x))
        residual = relative(b - apply(x), b, factor.solve)
        return judge(x, residual, reachable(self.rtol, b.dtype), Status.converged)

    def reduced(self, expansion, factor, block):
        """The map b to rows of (H - H(w))^-1 b."""
        if factor is None:
            factor, _ = factorise(full_matrix(expansion))
        matrix = factor.lower @ factor.lower.T
        scale = jnp.diagonal(matrix)
        base = jnp.diag(expansion.penalty)
        gauge = expansion.gauge()
        base = base if gauge is None else base + gauge

        listed = block.indices is not None
        leaves = hessian_of_lists(expansion, block)
        dealt = listed and devices() > 1  # each device then makes the Hessians that it factorises

        def seen(lane):
            """A group's Hessian of what stays, or the points that leave it."""
            indices, taken = lane
            if dealt:
                return expansion.restrict(indices), taken
            if not listed:
                return base + expansion.hessian(expansion.weights - taken)
            return matrix - leaves(indices, taken)

        def factors(own):
            left = matrix - own[0].hessian(own[1]) if dealt else own
            lower = jnp.linalg.cholesky(left)
            definite = is_definite(lower, scale if listed else jnp.diagonal(left))

            def inverse(v):  # of what stays, in coordinates that make H the identity
                return factor.lower.T @ jax.scipy.linalg.cho_solve((lower, True), factor.lower @ v)

            return lower, definite, _kept(inverse, lower)

        batch = _together(expansion, block)
        lanes = block.indices, block.taken
        lower, definite, share = over_lanes(seen, factors, lanes, batch)

        def one(lane):
            lower, definite, right = lane
            x = jax.scipy.linalg.cho_solve((lower, True), right)
            return jnp.where(definite, x, 0.0), right - lower @ (lower.T @ x)

        def solve(b) -> Solution:
            x, error = over_lanes(lambda lane: lane, one, (lower, definite, b), batch)
            x, error, status = _mend(expansion, block, b, x, error, definite)
            residual, status = left_over(error, b, factor, x), thinned(status, share)
            return judge(x, residual, reachable(self.rtol, b.dtype), status)

        return solve


def _together(expansion, block: Block) -> int:
    """Lanes whose dense work is done in one batch."""
    p = expansion.penalty.size
    row = expansion.design.shape[1] if isinstance(expansion, LinearExpansion) else p
    lanes, k = block.taken.shape
    return together(lanes, 8 * (4 * p * p + 3 * min(k, PIECE) * row))


def together(lanes: int, bytes_each: int, room: int = 2**23) -> int:
    """Lanes to be factorised in one batch: as many as stay in a processor's cache, or fill a GPU.

    `room` are the bytes of that cache.

    A divisor of their number: a remainder would be a second batch beside the first, and two
    batched LAPACK calls at once can wait for ever for each other's threads (seen in jaxlib 0.10 on
    two cores, where each waits in the pool it runs on).
    """
    room = room if on_host() else 2**30
    most = int(np.clip(room // bytes_each, 1, lanes))
    return max(size for size in range(1, most + 1) if lanes % size == 0)


def _mend(expansion, block: Block, b, x, error, good):
    """Solve the lanes that are not `good` again, carefully: whatever it costs, never NaN.

    Their Hessian is rebuilt from the rows that stay (H - H(w) cancels when little curvature is
    left), scaled to unit diagonal, and inverted on its range. Returns x, the error b - A x, status.
    """
    if block.quick:
        code = jnp.where(good, Status.converged, Status.inaccurate).astype(jnp.int8)
        return jnp.where(good[:, None], x, 0.0), jnp.where(good[:, None], error, b), code

    def careful(lane):
        indices, taken, right = lane
        if indices is not None:
            taken = jnp.zeros(expansion.n, taken.dtype).at[indices].add(taken)
        left = full_matrix(expansion, expansion.weights - taken)
        scaled, scale = unit_diagonal(left)
        values, vectors = jnp.linalg.eigh(scaled)
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
        return jax.lax.map(lane, (good, x, error, block.indices, block.taken, b))

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

    Example:
        >>> lo.newton(fit, groups, lo.solvers.LowRank()).value.shape
        (4, 4)

    Source: Woodbury; Koh et al. (2019) section 4, one removed group at a time.
    """

    rtol: float = 1e-8

    def full(self, expansion, factor, b):
        """Refused: there is nothing to downdate.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "LowRank downdates a factor for groups, so it serves newton only; "
            "use Cholesky() or CG() for influence"
        )

    def reduced(self, expansion, factor, block):
        """The map b to rows of (H - H(w))^-1 b, for b = g(w) or any other right-hand side.

        Raises:
            ValueError: for other than linear models.
        """
        expansion = stored(expansion)
        if not isinstance(expansion, LinearExpansion):
            raise ValueError(
                "LowRank needs a linear model (lo.glm and its kin); use Cholesky() or CG()"
            )
        if block.indices is None:
            return Cholesky(self.rtol).reduced(expansion, factor, block)
        if factor is None:
            factor, _ = factorise(full_matrix(expansion))
        seen = factor.rows is not None
        return (self._whitened if seen else self._rowwise)(expansion, factor, block)

    def _rowwise(self, expansion, factor, block):
        order = expansion.layout.order()
        outputs, width = expansion.layout.outputs, expansion.layout.width
        eye = jnp.eye(outputs, dtype=expansion.first.dtype)

        def rows_of(indices):
            """One row of X_w for each (point, output), columns in the order of theta."""
            design = expansion.design[indices]
            rows = jnp.einsum("ab,ki->kabi", eye, design).reshape(-1, outputs * width)
            return rows[:, order] if outputs > 1 else rows

        def seen(lane):
            """X_w and the blocks of C."""
            indices, taken = lane
            return rows_of(indices), taken[:, None, None] * expansion.second[indices]

        def scaled(curvature, m):
            """C m, block by block."""
            shaped = m.reshape((len(curvature), outputs, -1))
            return jnp.einsum("kab,kbj->kaj", curvature, shaped).reshape(m.shape)

        def factors(inputs):
            rows, curvature = inputs
            white = factor.whiten(rows)  # (kK p)
            system = jnp.eye(len(white), dtype=white.dtype) - scaled(curvature, white @ white.T)
            lu = jax.scipy.linalg.lu_factor(system)
            return white, *lu, _kept(lambda v: jax.scipy.linalg.lu_solve(lu, v), system)

        lanes = block.indices, block.taken
        inner = block.indices.shape[1] * outputs
        many = together(len(block.indices), 16 * inner * (outputs * width + 2 * inner))
        batch = None if on_host() else many  # a processor's cores share one lane's products
        white, lu, pivots, share = over_lanes(seen, factors, lanes, batch)

        def one(inputs):
            rows, curvature, white, lu, pivots, right = inputs
            start = factor.whiten(right[None])[0]
            turned = scaled(curvature, (white @ start)[:, None])
            a = jax.scipy.linalg.lu_solve((lu, pivots), turned)[:, 0]
            solved = start + white.T @ a
            x = jax.scipy.linalg.solve_triangular(factor.lower, solved, lower=True, trans=1)
            part = rows.T @ scaled(curvature, (rows @ x)[:, None])[:, 0]
            return x, right - factor.multiply(x[None])[0] + part

        def solve(b) -> Solution:
            inputs = lanes, white, lu, pivots, b
            x, error = over_lanes(lambda lane: (*seen(lane[0]), *lane[1:]), one, inputs, batch)
            good = _regular(lu) & jnp.all(jnp.isfinite(x), axis=1)
            x, error = jnp.where(good[:, None], x, 0.0), jnp.where(good[:, None], error, b)
            good &= left_over(error, b, factor, x) <= reachable(self.rtol, b.dtype)
            x, error, status = _mend(expansion, block, b, x, error, good)
            residual, status = left_over(error, b, factor, x), thinned(status, share)
            return judge(x, residual, reachable(self.rtol, b.dtype), status)

        return solve

    def _whitened(self, expansion, factor, block):
        """The same in coordinates u = lower' x, where the rows of the points need no solve."""
        rows, gram, second = factor.rows, factor.gram, expansion.second[:, 0, 0]
        k = block.indices.shape[1]
        batch = together(len(block.indices), 8 * k * (rows.shape[1] + 3 * k))

        def seen(lane):
            """The rows of a group and their curvature."""
            indices, taken = lane
            return rows[indices], taken * second[indices]

        def products(lane):
            """X_w H^-1 X_w', or the rows it is made of, and their curvature."""
            white, curvature = seen(lane)
            return white if gram is None else gram[lane[0]][:, lane[0]], curvature

        def factors(inputs):
            inner, curvature = inputs
            inner = inner @ inner.T if gram is None else inner
            system = jnp.eye(k, dtype=rows.dtype) - curvature[:, None] * inner
            lu = jax.scipy.linalg.lu_factor(system)
            return *lu, _kept(lambda v: jax.scipy.linalg.lu_solve(lu, v), system)

        lanes = block.indices, block.taken
        lu, pivots, share = over_lanes(products, factors, lanes, batch)

        def one(inputs):
            white, curvature, lu, pivots, start = inputs
            a = jax.scipy.linalg.lu_solve((lu, pivots), curvature * (white @ start))
            u = start + a @ white
            return u, start - u + (curvature * (white @ u)) @ white

        def solve(b) -> Solution:
            start = factor.whiten(b)
            inputs = lanes, lu, pivots, start
            u, error = over_lanes(lambda lane: (*seen(lane[0]), *lane[1:]), one, inputs, batch)
            left, beside = jnp.linalg.norm(error, axis=1), _beside(start, u)
            reached = left <= reachable(self.rtol, b.dtype) * beside
            good = _regular(lu) & jnp.all(jnp.isfinite(u), axis=1) & reached
            x = jnp.where(good[:, None], factor.unwhiten(jnp.where(good[:, None], u, 0.0)), 0.0)
            error = jnp.where(good[:, None], error @ factor.lower.T, b)
            x, error, status = _mend(expansion, block, b, x, error, good)
            residual, status = left_over(error, b, factor, x), thinned(status, share)
            return judge(x, residual, reachable(self.rtol, b.dtype), status)

        return solve


def _beside(start, u):
    """What is `measured` of solutions u of right-hand sides `start`, both whitened."""
    return measured(jnp.linalg.norm(start, axis=1), jnp.linalg.norm(u, axis=1))


def _regular(lu):
    """(b) True where no pivot of I - C R is near 0: its determinant is that of I - S."""
    return jnp.min(jnp.abs(jnp.diagonal(lu, axis1=1, axis2=2)), axis=1) > 1e-10


def _kept(inverse, like: Float[Array, "k k"]):
    """The least share of its curvature that a direction has kept, from the map v to M^-1 v.

    The least eigenvalue of M, by two steps of inverse iteration; where there is nothing near 0, no
    more than its size. `like` has M's shape.
    """
    once = inverse(jnp.cos(jnp.arange(1.0, len(like) + 1, dtype=like.dtype)))
    share = 1 / jnp.linalg.norm(inverse(once / jnp.linalg.norm(once)))
    return jnp.where(jnp.isfinite(share), share, 0.0)
