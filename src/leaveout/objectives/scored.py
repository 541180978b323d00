"""Linear models of many outputs to second order, without K x K numbers an example.

The second derivatives of n examples with K scores are n K^2 numbers; what they do to a direction is
found from the n K scores, one derivative of the slopes along it, in blocks of examples.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective, weigh
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.layout import Layout
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.losses import Loss
from leaveout.runtime.batches import cut_out
from leaveout.runtime.memory import CACHED_EXAMPLES

__all__ = ["Metric", "ScoredExpansion", "scored", "stored"]

_TOGETHER = 2**21  # scores of all lanes that are in flight together


@runtime_checkable
class Metric(Protocol):
    """Something near the inverse Hessian, in whose norm conjugate gradients work."""

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of about H^-1 b."""
        ...


class ScoredExpansion(AbstractExpansion):
    """Second-order expansion of losses of many linear scores, its curvature found where asked for.

    Attributes:
        design: (n q) inputs, the intercept's ones last.
        scores: (n K) where the losses are expanded.
        y: (n ...) coded targets.
        first: (n K) derivative of each loss at its scores.
        own: (n K) second derivative by each score alone.
        weights: (n) base weights.
        penalty: (p) the diagonal of the penalty's Hessian.
        loss: of one example.
        layout: where weight and bias lie in theta.
        metric: near the Hessian of all the data, or None.
    """

    design: Float[Array, "n q"]
    scores: Float[Array, "n K"]
    y: PyTree
    first: Float[Array, "n K"]
    own: Float[Array, "n K"]
    weights: Float[Array, "n"]
    penalty: Float[Array, "p"]
    metric: Metric | None
    loss: Loss = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)

    def gradient(self, v):
        """sum_i v_i grad loss_i."""
        return self.layout.flat(weigh(v, self.first).T @ self.design)

    def gradients(self, v):
        """The same for several weightings (b n), in blocks of examples."""
        lanes = len(v)

        def term(cut):
            return _pulled(weigh(cut(v, 1), cut(self.first)[None]), cut(self.design))

        return jax.vmap(self.layout.flat)(self._sum(term, lanes))

    def hvp(self, v, vector):
        """sum_i v_i hess loss_i vector."""
        return self.hvps(v[None], vector[None])[0]

    def hvps(self, v, vectors):
        """The same for several weightings (b n), each with a vector of its own (b p)."""
        parts = jax.vmap(self.layout.matrix)(vectors)  # (b K q)

        def term(cut):
            design = cut(self.design)
            moved = jnp.einsum("lq,bkq->blk", design, parts)
            bent = self._bent(cut(self.scores), jax.tree.map(cut, self.y), moved)
            return _pulled(weigh(cut(v, 1), bent), design)

        return jax.vmap(self.layout.flat)(self._sum(term, len(vectors)))

    def _bent(self, scores, y, moved: Float[Array, "b l K"]) -> Float[Array, "b l K"]:
        """Second derivatives of a block's losses along moves of its scores."""

        def slopes(scores):
            return jax.vmap(jax.grad(self._point_loss))(scores, y)

        return jax.vmap(lambda move: jax.jvp(slopes, (scores,), (move,))[1])(moved)

    def _point_loss(self, scores, y):
        return jnp.asarray(self.loss(scores, y), scores.dtype)

    def _sum(self, term: Callable, lanes: int) -> Float[Array, "b K q"]:
        """The sum of `term` over blocks of examples; it is given what cuts a block out of n."""
        n, outputs = self.scores.shape
        length = min(n, max(_TOGETHER // (lanes * outputs), 32), CACHED_EXAMPLES)
        count = -(-n // length)
        if count == 1:
            return term(lambda leaf, axis=0: leaf)

        def add(total, block):
            return total + term(cut_out(block, length, n)), None

        zeros = jnp.zeros((lanes, outputs, self.design.shape[1]), self.design.dtype)
        return jax.lax.scan(add, zeros, jnp.arange(count))[0]

    def hessian(self, v):
        """sum_i v_i hess loss_i."""
        return stored(self).hessian(v)

    def dot(self, vector):
        """Grad loss_i . vector, for every example."""
        return jnp.sum(self.first * (self.design @ self.layout.matrix(vector).T), axis=1)

    def dots(self, vectors):
        """The same for several vectors, one output after the other."""
        parts = jax.vmap(self.layout.matrix)(vectors).transpose(1, 2, 0)  # (K q m)

        def add(total, output):
            slope, part = output
            return total + slope[:, None] * (self.design @ part), None

        zeros = jnp.zeros((self.n, len(vectors)), self.design.dtype)
        return jax.lax.scan(add, zeros, (self.first.T, parts))[0]

    def restrict(self, rows):
        """The expansion of the examples `rows` only."""
        names = ("design", "scores", "y", "first", "own", "weights")
        parts = [getattr(self, name) for name in names]
        some = jax.tree.map(lambda leaf: leaf[rows], parts)
        return eqx.tree_at(lambda e: [getattr(e, name) for name in names], self, some)

    def gauge(self):
        """As of `LinearExpansion`."""
        return stored(self).gauge()

    def pinned(self, vectors):
        """Rows (b p) times the gauge: the mean over outputs of the columns that nothing holds."""
        scale = self.pins()
        if scale is None:
            return None
        means = jax.vmap(self.layout.matrix)(vectors).mean(axis=1) * scale[None]
        rows = jnp.broadcast_to(means[:, None], (len(vectors), self.layout.outputs, scale.size))
        return jax.vmap(self.layout.flat)(rows)

    def pins(self) -> Float[Array, "q"] | None:
        """How strongly the gauge holds the common shift of each column; None without one."""
        if not self.loss.shift_invariant:
            return None
        trace = weigh(self.weights, jnp.sum(self.own, axis=1))
        free = jnp.all(self.layout.matrix(self.penalty) == 0, axis=0)
        return jnp.where(free, trace @ self.design**2 / self.layout.outputs, 0.0)


def _pulled(slopes: Float[Array, "b l K"], design: Float[Array, "l q"]) -> Float[Array, "b K q"]:
    return jnp.einsum("blk,lq->bkq", slopes, design)


def scored(
    objective: AbstractObjective, theta: Float[Array, "p"], metric: Metric | None = None
) -> ScoredExpansion | None:
    """A linear model of several outputs to second order around theta; None of any other."""
    if not isinstance(objective, LinearObjective) or objective.outputs == 1:
        return None
    if not isinstance(objective.design, jax.Array):
        return None
    scores, y = objective.scores(theta), objective.y
    return ScoredExpansion(
        design=objective.design,
        scores=scores,
        y=y,
        first=jax.vmap(jax.grad(objective.point_loss))(scores, y),
        own=jax.vmap(objective.own_curvature)(scores, y),
        weights=objective.weights,
        penalty=objective.penalty,
        metric=metric,
        loss=objective.loss,
        layout=objective.layout,
    )


def stored(expansion: AbstractExpansion) -> AbstractExpansion:
    """The expansion with all K x K second derivatives of every example; others as they are."""
    if not isinstance(expansion, ScoredExpansion):
        return expansion
    second = jax.vmap(jax.hessian(expansion._point_loss))(expansion.scores, expansion.y)
    return LinearExpansion(
        design=expansion.design,
        first=expansion.first,
        second=second,
        weights=expansion.weights,
        penalty=expansion.penalty,
        layout=expansion.layout,
        shift_invariant=expansion.loss.shift_invariant,
    )
