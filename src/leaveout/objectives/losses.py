"""Shelf of losses: a scalar loss of one example's scores and target, differentiable by JAX.

To add one, write `name = Loss(value, targets, sample)`: `value(scores, y)` is the loss of ONE
example, without any penalty. Nothing else is needed; gradients and curvature come from autodiff.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from leaveout.runtime.text import called

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
        categorical: True if its derivatives by the scores, from the second on, are the cumulants of
            which of K categories is drawn (softmax, whatever its targets). Certificates of others
            of several outputs are for predictions after retraining only.
        convex: True if the loss is convex in the scores: retraining then searches along a line by
            slopes alone, which saves the values, and errors can be bounded.
        envelope: `envelope(scores, y, radius)` to (low, high): how the curvature can change, which
            is what certificates rest on. For one output, bounds on the chord
            (loss'(s + d) - loss'(s)) / d over |d| <= radius; bounds on the second derivative there
            serve. For several, bounds on the same chord relative to the Hessian at `scores`, over
            displacements whose entries differ by at most `radius`. None: no certificates.
        slope: the largest length its gradient by the scores can have, anywhere.
        third: the largest third derivative by the scores, anywhere, as a multilinear form.
        diagonal: `diagonal(scores (K), y)`, the second derivative by each score alone, of losses of
            several scores; None leaves it to K products with the Hessian.

    Raises:
        ValueError: for what is no function; for a categorical loss that is not stated to be convex
            and shift_invariant.

    Example:
        >>> huber = lo.losses.Loss(lambda s, y: jnp.sqrt(1 + (s - y) ** 2) - 1, "real", convex=True)
        >>> lo.fit(lo.glm(huber, x, y, l2=1.0)).theta.weight.shape
        (3,)
        >>> float(lo.losses.logistic(0.0, 1)), float(lo.losses.squares(1.0, 3.0))
        (0.6931471805599453, 2.0)
    """

    value: Callable
    targets: Literal["binary", "classes", "counts", "real", "any"] = "any"
    sample: Callable | None = None
    shift_invariant: bool = False
    categorical: bool = False
    convex: bool = False
    envelope: Callable | None = None
    slope: float = math.inf
    third: float = math.inf
    diagonal: Callable | None = None

    def __post_init__(self):
        if not callable(self.value):
            raise ValueError(
                f"expected a loss as a function of the scores and target of one example, got "
                f"{self.value!r}; lo.losses has some"
            )
        if self.categorical and not (self.shift_invariant and self.convex):
            raise ValueError("a categorical loss is shift_invariant and convex; state these too")

    def __reduce_ex__(self, protocol):
        """The losses of this shelf go by their names: their parts cannot be pickled one by one."""
        own = next((name for name in __all__ if globals()[name] is self), None)
        return super().__reduce_ex__(protocol) if own is None else own

    @property
    def name(self) -> str:
        """What it is called: its name on this shelf, or that of your function."""
        own = next((name for name in __all__ if globals()[name] is self), None)
        return own or called(self.value)

    def __call__(self, scores, y):
        """The loss of one example."""
        return self.value(scores, y)


def _logistic(score, y):
    # softplus, written so that its derivatives cost one exponential and are right at 0; of a sure
    # example the two linear terms are equal, and what is left is not rounded beside them
    up = score >= 0
    far = jnp.where(up, score, -score)
    return (jnp.where(up, score, 0.0) - y * score) + jnp.log1p(jnp.exp(-far))


def _falling(radius):
    """(1 - exp(-r)) / r, the mean of exp(-t) over 0..r."""
    return jnp.where(radius > 0, -jnp.expm1(-radius) / jnp.where(radius > 0, radius, 1.0), 1.0)


def _rising(radius):
    """(exp(r) - 1) / r, the mean of exp(t) over 0..r."""
    mean = jnp.expm1(radius) / jnp.where(radius > 0, radius, 1.0)
    return jnp.where(jnp.isinf(radius), jnp.inf, jnp.where(radius > 0, mean, 1.0))


def _logistic_envelope(score, y, radius):
    far = jnp.where(score >= 0, score, -score)  # as in the loss: compilers share the exponential
    tail = jnp.exp(-far)
    near = jnp.exp(-jnp.maximum(far - radius, 0.0))
    low = tail * _falling(radius) / ((1 + tail) * (1 + tail * jnp.exp(-radius)))  # exact
    second = tail / (1 + tail) ** 2
    # the third derivative is at most the second, which is largest where the score is nearest 0
    high = jnp.where(second > 0, second * _rising(radius), jnp.inf)
    return low, jnp.minimum(high, near / (1 + near) ** 2)


def _softmax(scores, y):
    return jax.nn.logsumexp(scores) - jnp.sum(jax.nn.one_hot(y, scores.size) * scores)


def _softmax_diagonal(scores, y):
    share = jax.nn.softmax(scores)
    return share * (1 - share)


def _softmax_envelope(scores, y, radius):
    # the third cumulant of the scores' displacement is at most its range times its variance
    return _falling(radius), _rising(radius)


def _squares(scores, y):
    return 0.5 * jnp.sum((scores - y) ** 2)  # of one score the sum is nothing


def _squares_envelope(scores, y, radius):
    one = jnp.ones_like(radius)
    return one, one


def _poisson(score, y):
    return jnp.exp(score) - y * score


def _poisson_envelope(score, y, radius):
    second = jnp.exp(score)
    high = jnp.where(second > 0, second * _rising(radius), jnp.exp(score + radius))
    return second * _falling(radius), high


#: log(1 + exp(s)) - y s with y in {0, 1}: binary logistic regression.
logistic = Loss(
    _logistic,
    "binary",
    lambda key, score: jax.random.bernoulli(key, jax.nn.sigmoid(score)).astype(score.dtype),
    convex=True,
    envelope=_logistic_envelope,
    slope=1.0,
    third=1 / (6 * math.sqrt(3)),
)

#: logsumexp(s) - s_y with y in 0..K-1: multinomial logistic regression, one score a class.
softmax = Loss(
    _softmax,
    "classes",
    lambda key, scores: jax.random.categorical(key, scores),
    shift_invariant=True,
    categorical=True,
    convex=True,
    envelope=_softmax_envelope,
    slope=math.sqrt(2),
    third=math.sqrt(2) / (3 * math.sqrt(3)),
    diagonal=_softmax_diagonal,
)

#: |s - y|^2 / 2: least squares, of one score or of several.
squares = Loss(
    _squares,
    "real",
    lambda key, score: score + jax.random.normal(key, score.shape),
    convex=True,
    envelope=_squares_envelope,
    third=0.0,
    diagonal=lambda scores, y: jnp.ones_like(scores),
)

#: exp(s) - y s: Poisson regression with the log link, without the constant log(y!).
poisson = Loss(
    _poisson,
    "counts",
    lambda key, score: jax.random.poisson(key, jnp.exp(score)).astype(score.dtype),
    convex=True,
    envelope=_poisson_envelope,
)
