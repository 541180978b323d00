"""A factor of H for linear models of many outputs: a block of q x q for each output.

The Hessian of K outputs is K x K blocks of X' D_kl X. Its diagonal blocks, K factors of q x q, are
what is kept; where adding one constant to all scores changes no loss, as of softmax, the blocks are
far off along such common shifts, and there H is known exactly: it is the penalty.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.objectives.abstract import AbstractObjective, weigh
from leaveout.objectives.layout import Layout
from leaveout.objectives.linear import crossproduct
from leaveout.objectives.scored import ScoredExpansion, scored
from leaveout.runtime.sharding import devices, replicate
from leaveout.solvers.factor import unit_diagonal

__all__ = ["OutputFactor", "factorise_outputs"]

_OWN = 4  # times an equal share of the examples that an output's block looks at one by one


class OutputFactor(eqx.Module):
    """About H^-1: P' B^-1 P + E C^-1 E', B = R^-T R^-1 the blocks of the outputs.

    E (p q) shifts all outputs alike, C = E'HE is the penalty there and P = I - HE C^-1 E' takes the
    shift out: what a change in theta between two minima has none of, since the losses do not feel
    it. Without such a shift P = I and the second term is nothing.

    Attributes:
        inverse: (K q q) R_k, L_k^-T of each block's Cholesky factor L_k.
        share: (K q) HE C^-1, each output's share of the penalty on a column; None without a shift.
        common: (q) C^-1.
        penalty: (p) under which it was found.
        layout: where weight and bias lie in theta.
    """

    inverse: Float[Array, "K q q"]
    share: Float[Array, "K q"] | None
    common: Float[Array, "q"]
    penalty: Float[Array, "p"]
    layout: Layout = eqx.field(static=True)

    def whiten(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of R'P b: their length is about that of b in the norm of H^-1."""
        rows = jax.vmap(self.layout.matrix)(b)
        if self.share is not None:
            rows = rows - self.share[None] * jnp.sum(rows, axis=1, keepdims=True)
        return jnp.einsum("kji,bkj->bki", self.inverse, rows).reshape(len(b), -1)

    def unwhiten(self, u: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of P'R u: the change in theta of whitened coordinates u."""
        rows = u.reshape(len(u), self.layout.outputs, -1)
        return self._flat(self._settled(jnp.einsum("kij,bkj->bki", self.inverse, rows)))

    def solve(self, b: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of about H^-1 b."""
        near = self.unwhiten(self.whiten(b))
        if self.share is None:
            return near
        common = jnp.sum(jax.vmap(self.layout.matrix)(b), axis=1) * self.common[None]
        return near + self._flat(jnp.broadcast_to(common[:, None], (len(b), *self.share.shape)))

    def push(self, change: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Whitened coordinates of changes in theta; of a common shift there are none."""
        rows = jax.vmap(self.layout.matrix)(change)
        solve = jax.scipy.linalg.solve_triangular
        u = jax.vmap(lambda upper, part: solve(upper, part.T).T, (0, 1), 1)(self.inverse, rows)
        return u.reshape(len(change), -1)

    def settled(self, theta: Float[Array, "k p"]) -> Float[Array, "k p"]:
        """Rows of P' theta: the common shift that the penalty likes best."""
        return self._flat(self._settled(jax.vmap(self.layout.matrix)(theta)))

    def _settled(self, rows):
        if self.share is None:
            return rows
        return rows - jnp.sum(self.share[None] * rows, axis=1, keepdims=True)

    def _flat(self, rows):
        return jax.vmap(self.layout.flat)(rows)

    def serves(self, objective: AbstractObjective) -> bool:
        """Whether it was found under the penalty of this objective."""
        return np.array_equal(np.asarray(self.penalty), np.asarray(objective.penalty))


@eqx.filter_jit
def factorise_outputs(
    objective: AbstractObjective, theta: Float[Array, "p"]
) -> OutputFactor | None:
    """The factor of a linear model of several outputs at theta; None of any other.

    A block looks at the examples of most curvature one by one, and at the others through their
    mean: q^2 multiplications for each of 4 n / K examples, and q at least, an output.
    """
    expansion = scored(objective, theta) if devices() == 1 else None
    if expansion is None:
        return None
    layout, pins = expansion.layout, expansion.pins()
    penalty = layout.matrix(expansion.penalty)
    extra = 0.0 if pins is None else pins[None] / layout.outputs
    curvature = jnp.maximum(weigh(expansion.weights, expansion.own), 0.0)
    blocks = _blocks(expansion, curvature.T, penalty + extra)
    share, common = None, jnp.zeros(layout.width, theta.dtype)
    if pins is not None:
        total = jnp.sum(penalty, axis=0)
        held = total > 0
        share = jnp.where(
            held[None], penalty / jnp.where(held, total, 1.0)[None], 1 / layout.outputs
        )
        stiff = jnp.where(held, total, layout.outputs * pins)
        common = jnp.where(stiff > 0, 1 / jnp.where(stiff > 0, stiff, 1.0), 0.0)
    return replicate(OutputFactor(blocks, share, common, expansion.penalty, layout))


def _blocks(
    expansion: ScoredExpansion, curvature: Float[Array, "K n"], penalty: Float[Array, "K q"]
) -> Float[Array, "K q q"]:
    """L_k^-T of X' diag(curvature_k) X + penalty_k, one output after the other."""
    design, n = expansion.design, expansion.n
    seen = min(n, max(_OWN * n // len(curvature), design.shape[1]))
    count = jnp.sum(expansion.weights > 0)
    felt = (expansion.weights > 0).astype(design.dtype)
    gram = crossproduct(felt[:, None] * design, design)

    def one(output):
        own, penalty = output
        if seen == n:
            return _inverted(crossproduct(own[:, None] * design, design) + jnp.diag(penalty))
        _, rows = jax.lax.top_k(own.astype(jnp.float32), seen)
        rest = (jnp.sum(own) - jnp.sum(own[rows])) / jnp.maximum(count - seen, 1)
        rest, some = jnp.maximum(rest, 0.0), design[rows]
        more = crossproduct(jnp.maximum(own[rows] - rest, 0.0)[:, None] * some, some)
        return _inverted(more + rest * gram + jnp.diag(penalty))

    return jax.lax.map(one, (curvature, penalty))  # products of several at once are slower


def _inverted(matrix: Float[Array, "q q"]) -> Float[Array, "q q"]:
    """L^-T, the matrix lifted clear of rounding; of its diagonal alone where that is not enough."""
    scaled, scale = unit_diagonal(matrix)
    eye = jnp.eye(len(matrix), dtype=matrix.dtype)
    lower = jnp.linalg.cholesky(scaled + 10 * len(matrix) * jnp.finfo(matrix.dtype).eps * eye)
    inverse = jax.scipy.linalg.solve_triangular(lower, eye, lower=True, trans=1)
    return jnp.where(jnp.all(jnp.isfinite(inverse)), inverse, eye) / scale[:, None]
