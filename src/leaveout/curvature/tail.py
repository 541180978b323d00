"""The last parameters of a network alone: few, and each example's part in them is held."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from leaveout.objectives.abstract import AbstractExpansion, AbstractScores, weigh

__all__ = ["TOGETHER", "Tail", "of_example", "tail_at"]

TOGETHER = 32  # examples, or columns of a matrix, that are differentiated together


class Tail(AbstractExpansion):
    """Losses around one theta as functions of its last t parameters, by Gauss-Newton.

    Attributes:
        weights: (n) base weights.
        penalty: (t) of the objective, and the damping.
        slopes: (n K t) derivative of the scores in the parameters.
        first: (n K) of the loss in the scores.
        second: (n K K) likewise.
    """

    weights: Float[Array, "n"]
    penalty: Float[Array, "t"]
    slopes: Float[Array, "n K t"]
    first: Float[Array, "n K"]
    second: Float[Array, "n K K"]

    def gradient(self, v):
        """Sum_i v_i grad loss_i, exact."""
        return jnp.einsum("nk,nkt->t", weigh(v, self.first), self.slopes)

    def hvp(self, v, vector):
        """The matrix of v, without penalty, times a vector."""
        bent = jnp.einsum("nkl,nl->nk", self.second, self.slopes @ vector)
        return jnp.einsum("nk,nkt->t", weigh(v, bent), self.slopes)

    def hessian(self, v):
        """The matrix of v, without penalty."""
        bent = jnp.einsum("nkl,nlt->nkt", weigh(v, self.second), self.slopes)
        size = self.penalty.size
        return bent.reshape(-1, size).T @ self.slopes.reshape(-1, size)

    def dot(self, vector):
        """(n) grad loss_i . vector."""
        return jnp.sum(self.first * (self.slopes @ vector), axis=1)

    def restrict(self, rows):
        """The same of some examples."""
        parts = (self.slopes[rows], self.first[rows], self.second[rows])
        return Tail(self.weights[rows], self.penalty, *parts)


def tail_at(
    objective: AbstractScores, theta: Float[Array, "p"], penalty: Float[Array, "p"], count: int
) -> Tail:
    """The last `count` parameters of theta: a pass back an output, n K count numbers."""

    def one(example):
        return of_example(objective, theta, count, *example)

    parts = jax.lax.map(one, objective.examples[:2], batch_size=TOGETHER)
    return Tail(objective.weights, penalty[-count:], *parts)


def of_example(objective: AbstractScores, theta: Float[Array, "p"], count: int, x, y):
    """Derivatives of scores in the last parameters (K count), of the loss in scores (K), (K K)."""
    head, last = jnp.split(theta, [theta.size - count])

    def score(last):
        return objective.scores(jnp.concatenate([head, last]), x[None])[0].reshape(-1)

    def loss(scores):
        return objective.point_loss(scores, y)

    scores = score(last)
    return jax.jacrev(score)(last), jax.grad(loss)(scores), jax.hessian(loss)(scores)
