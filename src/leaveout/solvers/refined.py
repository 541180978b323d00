"""Factors in float32, answers in float64."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from leaveout.runtime.sharding import over_lanes
from leaveout.runtime.solution import Solution
from leaveout.solvers.direct import together
from leaveout.solvers.factor import (
    Factor,
    apply_full,
    apply_reduced,
    full_matrix,
    hessian_of_lists,
    judged_again,
    share_of,
    turned,
    unit_diagonal,
)
from leaveout.solvers.iterative import CG

__all__ = ["Refined"]


@dataclass(frozen=True)
class Refined:
    """Cholesky factors in float32, as the preconditioner of conjugate gradients in float64.

    For devices whose float64 is slow (TPUs, most graphics cards): forming and factorising, n p^2 +
    p^3 / 3, take place in float32; every step costs one product with the data in float64. Steps to
    a residual of 1e-10 at condition numbers of 1e2, 1e4, 1e6, 1e8: 3, 4, 7, 17; what was not
    reached is said. A group is solved twice: the second tells how much curvature is left. Needs
    float64 to be enabled; without it all is float32, and so is the residual.

    Attributes:
        rtol: residual at which a lane is done.
        max_steps: steps after which a lane is given up.

    Example:
        >>> lo.newton(fit, groups, lo.solvers.Refined()).value.shape
        (4, 4)

    Source: Higham and Mary (2022), Acta Numerica 31, section 5.
    """

    rtol: float = 1e-10
    max_steps: int = 100

    def full(self, expansion, factor, b):
        """Rows of H^-1 b."""
        matrix = full_matrix(_single(expansion)) if factor is None else _product(factor)
        lower, scale = _rough(matrix)
        return self._conjugate(apply_full(expansion), Factor(lower).solve, scale[None], b)

    def reduced(self, expansion, factor, block):
        """The map b to rows of (H - H(w))^-1 b."""
        single = _single(expansion)
        whole = full_matrix(single) if factor is None else _product(factor)
        of_lists = hessian_of_lists(single, block)

        def leaves(lane):
            """What a group takes from H, in float32."""
            indices, taken = lane
            taken = taken.astype(jnp.float32)
            return single.hessian(taken) if indices is None else of_lists(indices, taken)

        lanes = block.indices, block.taken
        batch = together(len(block.taken), 16 * whole.size)
        lower, scale = over_lanes(leaves, lambda own: _rough(whole - own), lanes, batch)
        apply = apply_reduced(expansion, block.left(expansion.weights))
        each = jax.vmap(lambda own, r: Factor(own).solve(r[None])[0])

        def solve(b) -> Solution:
            solved = partial(self._conjugate, apply, partial(each, lower), scale)
            found = solved(b)
            if factor is None:
                return found
            share = share_of(factor, solved(turned(factor, found.value)).value)
            return judged_again(found, b - apply(found.value), b, factor, self.rtol, share)

        return solve

    def _conjugate(self, apply, solve, scale, b):
        """CG on `apply`, preconditioned by `solve` in float32, in coordinates of unit diagonal."""

        def precondition(r):
            size = jnp.max(jnp.abs(r), axis=1, keepdims=True)
            size = jnp.where(size > 0, size, 1.0)  # float32 has no numbers below 1e-45
            x = solve((r / size).astype(jnp.float32) / scale) / scale
            return x.astype(b.dtype) * size

        return CG(self.rtol, self.max_steps).solve(apply, precondition, b)


def _single(tree):
    """The same in float32."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        tree,
    )


def _product(factor):
    lower = factor.lower.astype(jnp.float32)
    return lower @ lower.T


def _rough(matrix):
    """The factor of a matrix scaled to unit diagonal and lifted clear of rounding; the scale.

    Where even that is not definite, the identity.
    """
    scaled, scale = unit_diagonal(matrix)
    eye = jnp.eye(len(matrix), dtype=matrix.dtype)
    lift = len(matrix) * jnp.finfo(matrix.dtype).eps
    lower = jnp.linalg.cholesky(scaled + lift * eye)
    return jnp.where(jnp.all(jnp.isfinite(lower)), lower, eye), scale
