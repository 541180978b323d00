"""Certificates: a ball that must hold the retrained theta, for every group, without retraining.

Given any theta near the minimum of what a group leaves behind, its remaining gradient and bounds on
how fast the curvature can change, the minimum lies in a ball around it. Two metrics serve:

- the penalty's: l2 bends everything that is penalised, and a free intercept is bent by what stays,
  after the weights are centred. Two and a half products with the data for each group, three of
  several outputs; nothing is factorised. Tight where the gradient is small, as after retraining.
- the Hessian's of what stays, factorised for each group: far tighter per unit of gradient.

Computed in float64. What rounding may have done is bounded and added, by a model of it
(`objectives.rounding`), not by interval arithmetic. It covers

- scores, the more the larger the terms that cancel in them (raw years, offsets of 6e4), and by way
  of them slopes, curvatures, losses and self-loss;
- sums over examples, feature by feature: an error in the gradient of a column that is far from zero
  is not made up for by one of the intercept's, and counts for what it is in M^-1;
- coordinates, factors and solves, by how ill-conditioned they are: where the metric is not known to
  be positive definite beyond rounding, nothing is proven;
- theta_hat: it is enclosed like what replaces it (`enclose`).

It takes for granted that sums lose no more than `rounding.units_of` their number; that a loss, its
slope and its curvature at a score are right to 16 units of rounding of what they are made of (a
loss of your own that cancels inside says so by its `slope`: `rounding.evaluation_error`); that an
`envelope` is right to a relative 1e-9; and that nothing underflows. A measure of your own with an
`enclose` answers for its own rounding. The data, weights and penalty are taken as the float64
numbers that they are.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.objectives.abstract import weigh
from leaveout.objectives.layout import pairs
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.rounding import score_error, slope_error, steepness, units_of

__all__ = [
    "DENSE",
    "SLACK",
    "AbstractBall",
    "PenaltyBall",
    "data_extent",
    "gradient_sizes",
    "penalty_ball",
]

DENSE = 2000  # parameters up to which a matrix of p x p is formed and factorised for each group
SLACK = 1e-9  # relative inflation for rounding
_REACH = 1.0  # change in scores within which the intercept's curvature is bounded


class AbstractBall(eqx.Module):
    """A set that holds the retrained theta: |theta - centre| <= radius in a metric M.

    Attributes:
        centre: (p).
        radius: () infinite where nothing could be shown.
        points: (n), or () for all, an upper bound of how far the score of a training example can
            get, in radii; of several scores, their largest difference.
    """

    centre: eqx.AbstractVar[Float[Array, "p"]]
    radius: eqx.AbstractVar[Float[Array, ""]]
    points: eqx.AbstractVar[Float[Array, "..."]]

    @abc.abstractmethod
    def whiten(self, vectors: Float[Array, "k p"]) -> Float[Array, "k r"]:
        """Rows whose lengths are those of the vectors in M^-1, and whose angles likewise."""

    @abc.abstractmethod
    def size(self, change: Float[Array, "p"]) -> Float[Array, ""]:
        """The length of a change in theta in M."""

    @abc.abstractmethod
    def box(self, sizes: Float[Array, "p"]) -> Float[Array, ""]:
        """An upper bound of the length in M^-1 of a vector whose entries are no larger than these.

        That is, of sums that rounding has left wrong by so much, each in its own way.
        """

    @abc.abstractmethod
    def stretch(self, other: Any) -> Float[Array, ""]:
        """An upper bound of a vector's length in M for each unit of that in another ball's metric.

        Of balls of one kind and fit.
        """

    def reach(self, vectors: Float[Array, "k p"]) -> Float[Array, "k"]:
        """How far vector . theta can be from vector . centre, at most."""
        return jnp.linalg.norm(self.whiten(vectors), axis=1) * self.radius * (1 + SLACK)


def gradient_sizes(
    objective: LinearObjective, slopes: Float[Array, "n K"], theta, largest: Float[Array, "q"]
) -> Float[Array, "p"]:
    """How wrong rounding may leave each entry of a gradient, a sum over examples and the penalty.

    By the largest entry of each column (q): no further pass over the data. In the span of the rows
    each row is rounded too, by no more than a sum over its columns is.
    """
    eps, units = jnp.finfo(theta.dtype).eps, units_of(len(slopes))
    units += units_of(objective.span.layout.features) if objective.span is not None else 0.0
    sums = units * jnp.sum(jnp.abs(slopes), axis=0)[:, None] * largest[None]
    return eps * (objective.layout.flat(sums) + 4 * jnp.abs(objective.penalty * theta))


class PenaltyBall(AbstractBall):
    """A ball in the metric l2 |v|^2 + (b + Z v)' Q (b + Z v), v the weights and b the intercepts.

    Q and Z come from a lower bound on the curvature of what stays, sum_i D_i (x_i, 1) (x_i, 1)', by
    the Schur complement: Q = sum_i D_i, Z = Q^-1 sum_i D_i x_i'.

    Attributes:
        root: (K K) Q^-1/2.
        root_bias: (K K) Q^1/2.
        shift: (K p_v) Z, p_v the number of weights; None without a free intercept.
        l2: the penalty, of several the least.
    """

    centre: Float[Array, "p"]
    radius: Float[Array, ""]
    points: Float[Array, ""]
    root: Float[Array, "K K"] | None
    root_bias: Float[Array, "K K"] | None
    shift: Float[Array, "K v"] | None
    l2: Float[Array, ""]

    def whiten(self, vectors):
        """Rows whose lengths are those of the vectors in M^-1."""
        if self.shift is None or self.root is None:
            return vectors / jnp.sqrt(self.l2)
        outputs = len(self.root)
        weight, bias = vectors[:, :-outputs], vectors[:, -outputs:]
        weight = (weight - bias @ self.shift) / jnp.sqrt(self.l2)
        return jnp.concatenate([weight, bias @ self.root], axis=1)

    def size(self, change):
        """The length of a change in theta in M."""
        if self.shift is None or self.root_bias is None:
            return jnp.sqrt(self.l2) * jnp.linalg.norm(change)
        weight, bias = change[: -len(self.root_bias)], change[-len(self.root_bias) :]
        bias = self.root_bias @ (bias + self.shift @ weight)
        return jnp.sqrt(self.l2 * jnp.sum(weight**2) + jnp.sum(bias**2))

    def box(self, sizes):
        """An upper bound of the length in M^-1 of a vector whose entries are no larger."""
        if self.shift is None or self.root is None:
            return jnp.linalg.norm(sizes) / jnp.sqrt(self.l2)
        weight, bias = sizes[: -len(self.root)], sizes[-len(self.root) :]
        weight = (weight + bias @ jnp.abs(self.shift)) / jnp.sqrt(self.l2)
        return jnp.hypot(jnp.linalg.norm(weight), jnp.linalg.norm(bias @ jnp.abs(self.root)))

    def stretch(self, other):
        """By |b + Z v| <= |b + Z' v| + |(Z - Z') v|, each in terms of the other's length."""
        if self.shift is None or self.root_bias is None:
            return jnp.ones(())
        turned = jnp.linalg.norm(self.root_bias @ other.root)
        moved = jnp.linalg.norm(self.root_bias @ (self.shift - other.shift))
        return 1 + turned + moved / jnp.sqrt(self.l2)


def penalty_ball(
    objective: LinearObjective,
    theta: Float[Array, "p"],
    v: Float[Array, "n"],
    *,
    free_intercept: bool,
    extent: tuple | None = None,
) -> PenaltyBall:
    """The ball around theta that the penalty alone gives; convex losses only.

    The gradient's length in the metric is the radius, since the metric bounds the curvature from
    below: everywhere without a free intercept, as far as all scores stay within 1 of what they are
    with one, which is checked.

    Args:
        objective: a linear model whose weights are penalised.
        theta: where the gradient is taken.
        v: what each example gets, base weight included.
        free_intercept: the intercepts, and nothing else, are free of the penalty.
        extent: of the data, where it is known already.
    """
    extent = data_extent(objective) if extent is None else extent
    scores, off = objective.scores(theta), score_error(objective, theta)
    _, slopes = objective.weighted(scores, v)
    outputs = objective.layout.outputs
    low, matrices = slopes.T[:0], None
    if free_intercept:  # it goes through the data together with the slopes: one product for both
        low, matrices = _lower_curvature(objective, scores, v, slopes, off)
    sums = jnp.concatenate([slopes.T, low]) @ objective.design
    gradient = objective.layout.flat(sums[:outputs]) + objective.penalty * theta
    held = objective.penalty[: len(theta) - outputs * free_intercept]
    l2 = jnp.min(held)  # where each coefficient has its own, the least bends all of them
    wrong = slope_error(objective, scores, objective.y, off)
    known, loose = jnp.all(v >= 0) & (l2 > 0), jnp.zeros(())
    zero = jnp.zeros((), theta.dtype)
    if matrices is None:
        ball = PenaltyBall(theta, zero, zero, None, None, None, l2)
        longest, apart = extent[2] / jnp.sqrt(l2), np.sqrt(2)
    else:  # chords are known from the scores as computed: see `Points.unclear`
        wrong = wrong + off * steepness(objective, scores, objective.y, _REACH + off)
        curvature, apart = matrices(sums[outputs:]), 1.0
        ball, longest, loose = _with_intercepts(objective, theta, curvature, extent)
    radius = jnp.linalg.norm(ball.whiten(gradient[None])) * (1 + SLACK)
    radius += ball.box(gradient_sizes(objective, slopes, theta, extent[3]))
    radius = (radius + jnp.sum(weigh(v, wrong)) * longest) * (1 + loose)
    if free_intercept:
        known &= (longest * radius <= _REACH) & (loose < 0.5)
    radius = jnp.where(known & ~jnp.isnan(radius), radius, jnp.inf)
    return dataclasses.replace(ball, radius=radius, points=apart * longest)


def _with_intercepts(objective, theta, curvature: Float[Array, "K K q"], extent):
    """The metric of a free intercept, how far apart two scores get in it, and what to allow.

    Z is known to a rounding dZ, so that the metric can be above the curvature: by no more than a
    share t + t^2 of it, t = |Q^1/2 dZ| / sqrt(l2); and a Q of several scores by its condition
    number.
    """
    middle, farthest, _, largest = extent
    outputs, features = objective.layout.outputs, objective.layout.features
    l2 = jnp.min(objective.penalty[: outputs * features])
    total = curvature[..., -1]
    if objective.loss.shift_invariant:
        total = total + jnp.trace(total) / outputs  # pins the common shift, which nothing sees
    # one eigendecomposition and no other call to LAPACK, none for one output: see `enclose`
    values, vectors = (total[0], jnp.ones((1, 1))) if outputs == 1 else jnp.linalg.eigh(total)
    root = vectors / jnp.sqrt(values)[None] @ vectors.T
    root_bias = vectors * jnp.sqrt(values)[None] @ vectors.T
    shift = root @ (root @ curvature[..., :features].reshape(outputs, -1))
    zero = jnp.zeros((), theta.dtype)
    ball = PenaltyBall(theta, zero, zero, root, root_bias, shift, l2)
    # how far apart two scores of an example can get, in radii
    aside = shift.reshape(outputs, outputs, -1) - jnp.eye(outputs)[..., None] * middle[None, None]
    pair = 1.0 if outputs == 1 else 2.0
    longest = jnp.sqrt(pair * ((farthest + jnp.linalg.norm(aside)) ** 2 / l2 + jnp.sum(root**2)))
    unit = units_of(objective.n) * jnp.finfo(theta.dtype).eps
    tilt = jnp.linalg.norm(root) * jnp.sum(jnp.abs(total)) * jnp.linalg.norm(largest[:features])
    tilt = unit * tilt / jnp.sqrt(l2)
    bent = unit * jnp.max(values) / jnp.min(values) if outputs > 1 else 0.0
    loose = jnp.where(jnp.all(values > 0), 2 * (tilt + tilt**2 + bent), jnp.inf)
    return ball, longest, loose


def data_extent(objective: LinearObjective) -> tuple:
    """Of the data, what the penalty's ball needs.

    Returns:
        the middle (d) of the inputs, how far one is from it, the longest row of the design, and the
        largest entry of each of its columns (q).
    """
    middle = jnp.mean(objective.x, axis=0)
    farthest = jnp.sqrt(jnp.max(jnp.sum((objective.x - middle[None]) ** 2, axis=1)))
    length = jnp.sqrt(jnp.max(jnp.sum(objective.design**2, axis=1)))
    return middle, farthest, length, jnp.max(jnp.abs(objective.design), axis=0)


def _lower_curvature(objective, scores, v, slopes, off) -> tuple[Float[Array, "r n"], Callable]:
    """Below v_i times every chord of the slopes from `scores` to less than 1 away, in r numbers.

    The examples come last: what is summed over them is then contiguous. The second value makes
    matrices (K K m) of sums (r m).

    The Hessian of a categorical loss is the Laplacian of a graph between scores, with edges
    p_k p_l, and at least what the edges to one score make up: K of K (K + 1) / 2 numbers. That
    score is the one whose slopes are largest, which is where most of the curvature is. Of other
    losses the entries k <= l, in the order of `pairs`.
    """
    envelope = objective.loss.envelope
    assert envelope is not None  # `enclose` asks no ball of others with a free intercept
    outputs = objective.layout.outputs
    given = scores[:, 0] if outputs == 1 else scores
    low, _ = jax.vmap(lambda s, y: envelope(s, y, _REACH + off))(given, objective.y)
    low = weigh(v, low)[None] * jnp.where(outputs > 1, jnp.exp(-2 * off), 1.0)
    if outputs == 1:
        return low, lambda sums: sums[None]

    def gradients(scores):
        return jax.vmap(jax.grad(objective.point_loss), (1, 0), 1)(scores, objective.y)

    _, curvature_along = jax.linearize(gradients, scores.T)
    eye = jnp.eye(outputs, dtype=scores.dtype)

    def column(direction):
        return curvature_along(jnp.broadcast_to(direction[:, None], scores.T.shape))

    if objective.loss.categorical:
        hub = eye[jnp.argmax(jnp.sum(jnp.abs(slopes), axis=0))]
        edges = jnp.maximum(-column(hub), 0.0)  # none from the score to itself
        return low * edges, lambda sums: _star(hub, sums)
    entries = [column(e)[k:] for k, e in enumerate(eye)]
    return low * jnp.concatenate(entries), lambda sums: sums[pairs(outputs)[2]]


def _star(hub: Float[Array, "K"], edges: Float[Array, "K m"]) -> Float[Array, "K K m"]:
    """Laplacians of edges from each score to the one at which `hub` is 1."""
    eye = jnp.eye(len(hub), dtype=edges.dtype)[..., None]
    spokes = hub[:, None, None] * edges[None]
    whole = (hub[:, None] * hub[None])[..., None] * jnp.sum(edges, axis=0)[None, None]
    return eye * edges[:, None] - spokes - spokes.swapaxes(0, 1) + whole
