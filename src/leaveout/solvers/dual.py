"""The inverse of a curvature of fewer examples than parameters, by way of the examples."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["DualFactor", "factorise_rows"]


class DualFactor(eqx.Module):
    """The inverse of R'R + diag(penalty), R (m p) with m below p: m^2 p + m^3 / 3 operations.

        H^-1 = D (I - A' (I + A A')^-1 A) D,  D = penalty^-1/2,  A = R D

    Attributes:
        rows: (m p) A.
        scale: (p) D.
        gram: (m m) A A'.
        lower: (m m) the Cholesky factor of I + A A'.

    Source: Woodbury (1950).
    """

    rows: Float[Array, "m p"]
    scale: Float[Array, "p"]
    gram: Float[Array, "m m"]
    lower: Float[Array, "m m"]

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H^-1 b: two products with the rows."""
        return self._by_rows(b, jax.scipy.linalg.cho_solve((self.lower, True), self._seen(b).T).T)

    def kept(self, share: Float[Array, "k n"]) -> Callable:
        """The map b (k p) to rows of (R' diag(share) R + diag(penalty))^-1 b, a factor for each.

        V^1/2 A A' V^1/2 + I is factorised, V the share that each row keeps: m^3 / 3 operations.

        Args:
            share: at least 0, of each example; its m / n rows lie one after the other.
        """
        root = jnp.sqrt(jnp.repeat(share, len(self.gram) // share.shape[1], axis=1))

        def factor(root):
            return _cholesky(root[:, None] * self.gram * root[None])

        lower = jax.lax.map(factor, root)

        def solve(b):
            seen = jax.vmap(lambda low, t: jax.scipy.linalg.cho_solve((low, True), t))
            return self._by_rows(b, root * seen(lower, root * self._seen(b)))

        return solve

    def _seen(self, b: Float[Array, "k p"]) -> Float[Array, "k m"]:
        return (b * self.scale[None]) @ self.rows.T

    def _by_rows(self, b: Float[Array, "k p"], seen: Float[Array, "k m"]) -> Float[Array, "k p"]:
        return (b * self.scale[None] - seen @ self.rows) * self.scale[None]


def _cholesky(gram: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Of I + gram."""
    return jnp.linalg.cholesky(gram + jnp.eye(len(gram), dtype=gram.dtype))


@eqx.filter_jit
def factorise_rows(rows: Float[Array, "m p"], penalty: Float[Array, "p"]) -> DualFactor:
    """The factor of R'R + diag(penalty), every entry of which is above 0."""
    scale = 1 / jnp.sqrt(penalty)
    rows = rows * scale[None]
    gram = rows @ rows.T
    return DualFactor(rows, scale, gram, _cholesky(gram))
