"""The inverse of a curvature of fewer examples than parameters, by way of the examples."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["DualFactor", "KeptFactors", "factorise_rows"]


class DualFactor(eqx.Module):
    """The inverse of R'R + diag(penalty), R (m p) with m below p: m^2 p + m^3 / 3 operations.

        H^-1 = D (I - A' (I + A A')^-1 A) D,  D = penalty^-1/2,  A = R D

    Attributes:
        rows: (m p) A.
        scale: (p) D.
        lower: (m m) the Cholesky factor of I + A A'.
        gram: (m m) A A', where factors of what groups leave are to be made of it; else None.
        owner: (m) whose row each is, of the examples.

    Source: Woodbury (1950).
    """

    rows: Float[Array, "m p"]
    scale: Float[Array, "p"]
    lower: Float[Array, "m m"]
    gram: Float[Array, "m m"] | None
    owner: Int[Array, "m"]

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H^-1 b: two products with the rows."""
        return self.less(b, jax.scipy.linalg.cho_solve((self.lower, True), self.seen(b).T).T)

    def seen(self, b: Float[Array, "k p"]) -> Float[Array, "k m"]:
        """Rows of A D b."""
        return (b * self.scale[None]) @ self.rows.T

    def less(self, b: Float[Array, "k p"], seen: Float[Array, "k m"]) -> Float[Array, "k p"]:
        """Rows of D (D b - A' seen)."""
        return (b * self.scale[None] - seen @ self.rows) * self.scale[None]

    def multiply(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of H b."""
        bare = b / self.scale[None]
        return (bare + (bare @ self.rows.T) @ self.rows) / self.scale[None]

    def length(self, x: Float[Array, "k p"]) -> Float[Array, "k"]:
        """(x'Hx)^1/2 of rows x."""
        bare = x / self.scale[None]
        return jnp.sqrt(jnp.sum(bare**2, axis=1) + jnp.sum((bare @ self.rows.T) ** 2, axis=1))

    def kept(self, share: Float[Array, "k n"]) -> "KeptFactors":
        """The inverses of R' diag(share) R + diag(penalty): m^3 / 3 operations for each.

        Args:
            share: at least 0, of each example.
        """
        assert self.gram is not None  # asked for when the factor was made
        root = jnp.sqrt(share[:, self.owner])
        lower = jax.lax.map(lambda r: _cholesky(r[:, None] * self.gram * r[None]), root)
        return KeptFactors(self, root, lower)


class KeptFactors(eqx.Module):
    """What is left of a `DualFactor` in each of k groups.

    Attributes:
        whole: the factor of all the examples.
        root: (k m) V^1/2, the root of the share that each row keeps.
        lower: (k m m) the Cholesky factors of I + V^1/2 A A' V^1/2.
    """

    whole: DualFactor
    root: Float[Array, "k m"]
    lower: Float[Array, "k m m"]

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Each row by its own inverse."""
        solved = jax.vmap(lambda lower, b: jax.scipy.linalg.cho_solve((lower, True), b))
        seen = solved(self.lower, self.root * self.whole.seen(b))
        return self.whole.less(b, self.root * seen)


def _cholesky(gram: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Of I + gram."""
    return jnp.linalg.cholesky(gram + jnp.eye(len(gram), dtype=gram.dtype))


@eqx.filter_jit
def factorise_rows(
    rows: Float[Array, "m p"],
    owner: Int[Array, "m"],
    penalty: Float[Array, "p"],
    keep_gram: bool = False,
) -> DualFactor:
    """The factor of R'R + diag(penalty), all of it above 0; `owner` says whose row each is."""
    scale = 1 / jnp.sqrt(penalty)
    rows = rows * scale[None]
    gram = rows @ rows.T
    return DualFactor(rows, scale, _cholesky(gram), gram if keep_gram else None, owner)
