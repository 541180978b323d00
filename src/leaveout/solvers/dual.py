"""The inverse of a curvature of fewer examples than parameters, by way of the examples."""

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
        lower: (m m) the Cholesky factor of I + A A'.

    Source: Woodbury (1950).
    """

    rows: Float[Array, "m p"]
    scale: Float[Array, "p"]
    lower: Float[Array, "m m"]

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H^-1 b: two products with the rows."""
        b = b * self.scale[None]
        seen = jax.scipy.linalg.cho_solve((self.lower, True), self.rows @ b.T)
        return (b - (self.rows.T @ seen).T) * self.scale[None]


@eqx.filter_jit
def factorise_rows(rows: Float[Array, "m p"], penalty: Float[Array, "p"]) -> DualFactor:
    """The factor of R'R + diag(penalty), every entry of which is above 0."""
    scale = 1 / jnp.sqrt(penalty)
    rows = rows * scale[None]
    gram = rows @ rows.T
    return DualFactor(rows, scale, jnp.linalg.cholesky(gram + jnp.eye(len(gram), dtype=gram.dtype)))
