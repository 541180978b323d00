"""The examples of a linear model in blocks: what lanes hold of one stays in cache."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from leaveout.runtime.memory import CACHED_EXAMPLES
from leaveout.runtime.sharding import devices, on_host

__all__ = ["STAYS", "Blocks", "added", "cached_blocks"]

STAYS = np.dtype(np.uint8)  # of who stays, where a weight would be s or 0


def cached_blocks(n: int) -> int:
    """Into how many blocks n examples are cut: what lanes hold of one stays in cache.

    Only on a processor; over several devices they are cut already, and one block is one all-reduce.
    """
    return -(-n // CACHED_EXAMPLES) if on_host() and devices() == 1 else 1


def added(term, inputs):
    """The sum of `term` over the leading axis of the inputs, one entry after the other."""
    first = jax.tree.map(lambda leaf: leaf[0], inputs)
    if len(jax.tree.leaves(inputs)[0]) == 1:
        return term(first)
    shapes = jax.eval_shape(term, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total, each):
        return jax.tree.map(jnp.add, total, term(each)), None

    return jax.lax.scan(add, zeros, inputs)[0]


class Blocks(eqx.Module):
    """The examples of a linear model of one output, cut into k blocks of length l.

    The last block is filled up with examples of no weight. Without the leading axis: one block.

    Attributes:
        rows: (k l p) the design in whitened coordinates.
        y: targets, leading axes (k l).
        weights: (k l) s.
        scores, losses, first, second: (k l) m, phi, s phi' and s phi'' at theta_hat.
        squares: (k l f) squared columns of the design whose parameters have no penalty.
        lengths: (k l) squared lengths of the rows.
    """

    rows: Float[Array, "... l p"]
    y: PyTree
    weights: Float[Array, "... l"]
    scores: Float[Array, "... l"]
    losses: Float[Array, "... l"]
    first: Float[Array, "... l"]
    second: Float[Array, "... l"]
    squares: Float[Array, "... l f"]
    lengths: Float[Array, "... l"]

    def at(self, objective, scores, derivative):
        """Losses (b l) of one block, or a derivative of them, at scores (b l)."""

        def loss(score, y):
            return objective.point_loss(score[None], y)

        return jax.vmap(jax.vmap(derivative(loss)), in_axes=(0, None))(scores, self.y)

    def sum(self, term, u, v):
        """Sum over blocks of term(block, what its examples get (b l), change in scores (b l))."""

        def of(inputs):
            block, v = inputs
            return term(block, block.get(v), u @ block.rows.T)

        return added(of, (self, v))

    def get(self, v):
        """What the examples get: v, or their weights where v says who stays."""
        return self.weights[..., None, :] * v if v.dtype == STAYS else v
