"""A linear model to second order: what is summed over examples is one product with the data."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from leaveout.objectives.abstract import AbstractExpansion, weigh
from leaveout.objectives.layout import Layout, pairs
from leaveout.objectives.sparse import (
    Design,
    Sparse,
    curved,
)
from leaveout.runtime.compilation import compiled

__all__ = ["LinearExpansion"]


class LinearExpansion(AbstractExpansion):
    """Second-order expansion of losses of linear scores; one matrix product per contraction.

    Attributes:
        design: (n q) inputs, the intercept's ones last.
        first: (n K) derivative of each loss at its scores.
        second: (n K K) second derivative.
        weights: (n) base weights.
        penalty: (p) the diagonal of the penalty's Hessian.
        layout: where weight and bias lie in theta.
        shift_invariant: as of `Loss`.
    """

    design: Design
    first: Float[Array, "n K"]
    second: Float[Array, "n K K"]
    weights: Float[Array, "n"]
    penalty: Float[Array, "p"]
    layout: Layout = eqx.field(static=True)
    shift_invariant: bool = eqx.field(static=True)

    @property
    def curvature(self) -> Float[Array, "n K K"]:
        """Second derivatives times base weights: what each example adds to H, at its scores."""
        return weigh(self.weights, self.second)

    @compiled
    def gradient(self, v):
        """sum_i v_i grad loss_i."""
        return self.layout.flat(weigh(v, self.first).T @ self.design)

    def scores(self, vector: Float[Array, "p"]) -> Float[Array, "n K"]:
        """The change in scores when theta changes by `vector`."""
        return self.design @ self.layout.matrix(vector).T

    @compiled
    def hvp(self, v, vector):
        """sum_i v_i hess loss_i vector."""
        moved = jnp.einsum("nkl,nl->nk", self.second, self.scores(vector))
        return self.layout.flat(weigh(v, moved).T @ self.design)

    @compiled
    def hessian(self, v):
        """sum_i v_i hess loss_i: K (K + 1) / 2 products of q x n by n x q."""
        outputs, width = self.layout.outputs, self.layout.width
        rows, columns, place = pairs(outputs)

        def block(pair):
            return curved(self.design, weigh(v, self.second[:, pair[0], pair[1]]))

        each = jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], 1)
        upper = block(each[0])[None] if outputs == 1 else jax.lax.map(block, each)
        blocks = upper[place]  # (K K q q)
        matrix = blocks.transpose(0, 2, 1, 3).reshape(outputs * width, outputs * width)
        order = self.layout.order()
        return matrix if outputs == 1 else matrix[order][:, order]

    @compiled
    def dot(self, vector):
        """Grad loss_i . vector, for every example."""
        return jnp.sum(self.first * self.scores(vector), axis=1)

    @compiled
    def dots(self, vectors):
        """The same for several vectors: one matrix product an output.

        Its slopes scale the inputs or the product, whichever has fewer columns: no more than one
        array of either size an output is in memory.
        """
        parts = jax.vmap(self.layout.matrix)(vectors)  # (m K q)
        design = self.design
        before = len(vectors) > self.layout.width
        terms = [
            (slope * design) @ parts[:, k].T
            if before and not isinstance(design, Sparse)
            else slope * (design @ parts[:, k].T)
            for k, slope in enumerate(jnp.split(self.first, self.layout.outputs, axis=1))
        ]
        return sum(terms[1:], terms[0])

    @compiled
    def scatter(self):
        """sum_i g_i g_i': as costly as a Hessian, without an n x p array."""
        own = weigh(self.weights, self.first)
        outer = own[:, :, None] * self.first[:, None, :]
        return dataclasses.replace(self, second=outer).hessian(self.weights)

    def restrict(self, rows):
        """The expansion of the examples `rows` only."""
        some = {
            name: getattr(self, name)[rows] for name in ("design", "first", "second", "weights")
        }
        return dataclasses.replace(self, **some)

    @compiled
    def diagonal(self, v) -> Float[Array, "p"]:
        """The diagonal of `hessian`, at the cost of one product."""
        curvature = jnp.diagonal(self.second, axis1=1, axis2=2)
        return self.layout.flat(weigh(v, curvature).T @ self.design**2)

    @compiled
    def gauge(self):
        """Pins the common shift of all classes wherever nothing penalises it (see `Layout`)."""
        if not self.shift_invariant:
            return None
        outputs, order = self.layout.outputs, self.layout.order()
        trace = weigh(self.weights, jnp.trace(self.second, axis1=1, axis2=2))
        free = jnp.all(self.layout.matrix(self.penalty) == 0, axis=0)
        scale = jnp.where(free, trace @ self.design**2 / outputs, 0.0)
        matrix = jnp.kron(jnp.full((outputs, outputs), 1 / outputs), jnp.diag(scale))
        return matrix[order][:, order]
