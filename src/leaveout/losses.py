"""Shelf of losses: a scalar loss of one example's scores and target, differentiable by JAX.

To add one, write `name = Loss(value, targets, sample)`: `value(scores, y)` is the loss of ONE
example, without any penalty. Nothing else is needed; gradients and curvature come from autodiff.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

__all__ = [
    "Loss",
    "logistic",
    "poisson",
    "softmax",
    "squares",
]


@dataclass(frozen=True)
class Loss:
    """A per-example loss as a value.

    Attributes:
        value: `value(scores, y)` to a scalar; scores is () for one output and (K) for several.
        targets: how y is checked and coded: "binary" (two labels of any type, coded 0 and 1),
            "classes" (K labels, coded 0..K-1), "counts" (finite, not negative), "real" (finite),
            or "any" (a user's own: passed through untouched).
        sample: `sample(key, scores)` draws a target from the model the loss is the negative
            log-likelihood of; used for synthetic data and by the shelf's own tests.
        shift_invariant: True if adding a constant to all scores changes nothing (softmax): the
            Hessian is then singular along that shift, and solvers pin it.
        convex: True if the loss is convex in the scores: retraining then searches along a line by
            slopes alone, which saves the values.
    """

    value: Callable
    targets: Literal["binary", "classes", "counts", "real", "any"] = "any"
    sample: Callable | None = None
    shift_invariant: bool = False
    convex: bool = False

    def __call__(self, scores, y):
        """The loss of one example."""
        return self.value(scores, y)


def _logistic(score, y):
    # softplus, written so that its derivatives cost one exponential and are right at 0
    up = score >= 0
    far = jnp.where(up, score, -score)
    return jnp.where(up, score, 0.0) + jnp.log1p(jnp.exp(-far)) - y * score


def _softmax(scores, y):
    return jax.nn.logsumexp(scores) - jnp.sum(jax.nn.one_hot(y, scores.size) * scores)


def _squares(score, y):
    return 0.5 * (score - y) ** 2


def _poisson(score, y):
    return jnp.exp(score) - y * score


#: log(1 + exp(s)) - y s with y in {0, 1}: binary logistic regression.
logistic = Loss(
    _logistic,
    "binary",
    lambda key, score: jax.random.bernoulli(key, jax.nn.sigmoid(score)).astype(score.dtype),
    convex=True,
)

#: logsumexp(s) - s_y with y in 0..K-1: multinomial logistic regression, one score a class.
softmax = Loss(
    _softmax,
    "classes",
    lambda key, scores: jax.random.categorical(key, scores),
    shift_invariant=True,
    convex=True,
)

#: (s - y)^2 / 2: least squares.
squares = Loss(
    _squares,
    "real",
    lambda key, score: score + jax.random.normal(key, score.shape),
    convex=True,
)

#: exp(s) - y s: Poisson regression with the log link, without the constant log(y!).
poisson = Loss(
    _poisson,
    "counts",
    lambda key, score: jax.random.poisson(key, jnp.exp(score)).astype(score.dtype),
    convex=True,
)
