"""Certificates: a ball that must hold the retrained theta, for every group, without retraining.

Given any theta near the minimum of what a group leaves behind, its remaining gradient and bounds on
how fast the curvature can change, the minimum lies in a ball around it. Two metrics serve:

- the penalty's: l2 bends everything that is penalised, and a free intercept is bent by what stays,
  after the weights are centred. Two and a half products with the data for each group, three of
  several outputs; nothing is factorised. Tight where the gradient is small, as after retraining.
- the Hessian's of what stays, factorised for each group: far tighter per unit of gradient.

Computed in float64 and inflated for rounding (a relative 1e-9, and what a sum of so many terms can
lose); not interval arithmetic.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.certify.radius import Points, ball_around, ball_centred
from leaveout.objectives.abstract import weigh
from leaveout.objectives.layout import SUMMED, pairs, spread, widest
from leaveout.objectives.linear import LinearObjective, crossproduct
from leaveout.solvers import Factor, white_rows

__all__ = [
    "DENSE",
    "AbstractBall",
    "Frame",
    "HessianBall",
    "PenaltyBall",
    "data_extent",
    "frame",
    "hessian_ball",
    "penalty_ball",
]

DENSE = 2000  # parameters up to which a matrix of p x p is formed and factorised for each group
_REACH = 1.0  # change in scores within which the intercept's curvature is bounded
_SLACK = 1e-9  # relative inflation for rounding


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

    def reach(self, vectors: Float[Array, "k p"]) -> Float[Array, "k"]:
        """How far vector . theta can be from vector . centre, at most."""
        return jnp.linalg.norm(self.whiten(vectors), axis=1) * self.radius


# ---- the penalty's metric ------------------------------------------------------------------------


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
    scores = objective.scores(theta)
    _, slopes = objective.weighted(scores, v)
    outputs = objective.layout.outputs
    low, matrices = slopes.T[:0], None
    if free_intercept:  # it goes through the data together with the slopes: one product for both
        low, matrices = _lower_curvature(objective, scores, v, slopes)
    sums = jnp.concatenate([slopes.T, low]) @ objective.design
    gradient = objective.layout.flat(sums[:outputs]) + objective.penalty * theta
    noise = SUMMED * jnp.finfo(theta.dtype).eps * jnp.sum(jnp.abs(slopes))
    middle, farthest, length = data_extent(objective) if extent is None else extent
    held = objective.penalty[: len(theta) - outputs * free_intercept]
    l2 = jnp.min(held)  # where each coefficient has its own, the least bends all of them
    if matrices is None:
        longest = length / jnp.sqrt(l2)
        radius = jnp.linalg.norm(gradient) / jnp.sqrt(l2) * (1 + _SLACK) + noise * longest
        radius = jnp.where(l2 > 0, radius, jnp.inf)
        return PenaltyBall(theta, radius, np.sqrt(2) * longest, None, None, None, l2)
    curvature = matrices(sums[outputs:])  # (K K q)
    total = curvature[..., -1]
    if objective.loss.shift_invariant:
        total = total + jnp.trace(total) / outputs  # pins the common shift, which nothing sees
    # one eigendecomposition and no other call to LAPACK, none for one output: see `enclose`
    values, vectors = (total[0], jnp.ones((1, 1))) if outputs == 1 else jnp.linalg.eigh(total)
    root = vectors / jnp.sqrt(values)[None] @ vectors.T
    root_bias = vectors * jnp.sqrt(values)[None] @ vectors.T
    pull = curvature[..., : objective.layout.features]
    shift = root @ (root @ pull.reshape(outputs, -1))
    ball = PenaltyBall(theta, jnp.zeros(()), jnp.zeros(()), root, root_bias, shift, l2)
    # how far apart two scores of an example can get, in radii
    aside = shift.reshape(outputs, outputs, -1) - jnp.eye(outputs)[..., None] * middle[None, None]
    pair = 1.0 if outputs == 1 else 2.0
    longest = jnp.sqrt(pair * ((farthest + jnp.linalg.norm(aside)) ** 2 / l2 + jnp.sum(root**2)))
    radius = ball.whiten(gradient[None])
    radius = jnp.linalg.norm(radius) * (1 + _SLACK) + noise * longest
    shown = (longest * radius <= _REACH) & (l2 > 0) & jnp.all(values > 0)
    return PenaltyBall(
        theta, jnp.where(shown, radius, jnp.inf), longest, root, root_bias, shift, l2
    )


def data_extent(objective: LinearObjective) -> tuple:
    """The middle (d) of the inputs, how far one is from it, and the longest row of the design."""
    middle = jnp.mean(objective.x, axis=0)
    farthest = jnp.sqrt(jnp.max(jnp.sum((objective.x - middle[None]) ** 2, axis=1)))
    return middle, farthest, jnp.sqrt(jnp.max(jnp.sum(objective.design**2, axis=1)))


def _lower_curvature(objective, scores, v, slopes) -> tuple[Float[Array, "r n"], Callable]:
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
    low, _ = jax.vmap(lambda s, y: envelope(s, y, _REACH))(given, objective.y)
    low = weigh(v, low)[None]
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


# ---- the Hessian's metric ------------------------------------------------------------------------


class HessianBall(AbstractBall):
    """A ball in the metric of a Hessian of what stays.

    Attributes:
        factor: of H(1), whose coordinates u are used.
        root: (p p) C, lower triangular, C C' the metric in these coordinates.
        inverse_root: (p p) C^-1.
    """

    centre: Float[Array, "p"]
    radius: Float[Array, ""]
    points: Float[Array, "n"]
    factor: Factor
    root: Float[Array, "p p"]
    inverse_root: Float[Array, "p p"]

    def whiten(self, vectors):
        """Rows whose lengths are those of the vectors in M^-1."""
        return self.factor.whiten(vectors) @ self.inverse_root.T

    def size(self, change):
        """The length of a change in theta in M."""
        return jnp.linalg.norm((change @ self.factor.lower) @ self.root)


class Frame(eqx.Module):
    """A linear model in coordinates u that make H(1) the identity: what all groups share.

    Attributes:
        objective: a linear model whose loss states an `envelope`.
        anchor: (p) theta of the fit.
        factor: of H(1) there, H = L L'.
        rows: (n K p) the examples in its coordinates, X_i L^-T.
        scores: (n K) at the anchor.
        curvature: (n K K) second derivatives there.
        whole: (p p) H(1) in its own coordinates: the identity, but for rounding in the factor.
    """

    objective: LinearObjective
    anchor: Float[Array, "p"]
    factor: Factor
    rows: Float[Array, "n K p"]
    scores: Float[Array, "n K"]
    curvature: Float[Array, "n K K"]
    whole: Float[Array, "p p"]


@eqx.filter_jit
def frame(objective: LinearObjective, anchor: Float[Array, "p"], factor: Factor) -> Frame:
    """The frame of a fit: 2 n K p^2 multiplications and n K p numbers."""
    expansion = objective.at(anchor)
    if factor.rows is not None:
        rows = factor.rows[:, None, :]
    else:
        rows = jax.lax.map(white_rows(expansion, factor), expansion.design, batch_size=256)
    own = jnp.diag(expansion.penalty)
    gauge = expansion.gauge()
    own = own if gauge is None else own + gauge
    own = factor.whiten(factor.whiten(own).T)
    return Frame(
        objective=objective,
        anchor=anchor,
        factor=Factor(factor.lower),
        rows=rows,
        scores=objective.scores(anchor),
        curvature=expansion.second,
        whole=own + _seen(rows, expansion.curvature),
    )


def _seen(rows, curvature):
    """sum_i X_i' C_i X_i in the coordinates of the rows (n K p)."""
    n, outputs, p = rows.shape
    bent = jnp.einsum("nkl,nlp->nkp", curvature, rows)
    return crossproduct(bent.reshape(n * outputs, p), rows.reshape(n * outputs, p))


def hessian_ball(
    frame: Frame,
    theta: Float[Array, "p"],
    v: Float[Array, "n"],
    *,
    fresh: bool,
    exact: bool,
) -> HessianBall:
    """The ball that the Hessian of what stays gives, from any theta.

    Args:
        frame: of the fit.
        theta: the candidate, where the gradient is taken.
        v: what each example gets, base weight included.
        fresh: take the Hessian at `theta` (n p^2 more) instead of at the anchor, where it is that
            of the Newton step.
        exact: measure every example in the metric (n p^2 more) instead of bounding its length by
            the metric's least eigenvalue (2 p^3 more).

    Returns:
        The ball around theta - M^-1 gradient. Costs p^3 for the factor besides.
    """
    objective, factor, rows = frame.objective, frame.factor, frame.rows
    envelope = objective.loss.envelope
    assert envelope is not None  # there is no frame of others
    n, outputs, p = rows.shape
    scores = objective.scores(theta)
    _, slopes = objective.weighted(scores, v)
    gradient = objective.pull(slopes) + objective.penalty * theta
    residual = factor.whiten(gradient[None])[0]

    if fresh:
        inside = jax.vmap(jax.hessian(objective.point_loss))(scores, objective.y)
    else:
        inside = frame.curvature
    inside = weigh(v, inside)
    lower = jnp.linalg.cholesky(
        frame.whole - _seen(rows, weigh(objective.weights, frame.curvature) - inside)
    )
    eye = jnp.eye(p, dtype=rows.dtype)
    inverse_root = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    inverse = inverse_root.T @ inverse_root

    own, length = _lengths(rows, inside, inverse, exact)
    eps = jnp.finfo(rows.dtype).eps
    noise = SUMMED * eps * jnp.sum(jnp.abs(slopes).sum(axis=1) * length)
    start = jnp.linalg.norm(inverse_root @ residual) * (1 + _SLACK) + noise
    step = inverse @ residual
    shifted = spread(rows @ step)
    moved = jnp.zeros(n) if fresh or outputs == 1 else spread(scores - frame.scores)
    points = Points(
        scores=scores, y=objective.y, a=v, metric=inside[:, 0, 0], moved=moved, own=own,
        length=length, shifted=shifted, envelope=envelope,
    )  # fmt: skip
    rho = ball_around(points, start)
    radius = ball_centred(points, start, rho)
    # what is lost in the gradient, in the solve, and in writing the centre down
    radius = radius * (1 + _SLACK) + _rounding(lower) * start + noise
    radius += SUMMED * eps * jnp.linalg.norm(jnp.abs(factor.lower).T @ jnp.abs(theta))
    radius = jnp.where(jnp.all(jnp.isfinite(inverse_root)) & jnp.isfinite(radius), radius, jnp.inf)
    centre = theta - factor.unwhiten(step[None])[0]
    return HessianBall(centre, radius, length, factor, lower, inverse_root)


def _rounding(lower):
    """What the solve with a factor may lose, relative to the solution."""
    own = jnp.diagonal(lower)
    worst = (jnp.max(own) / jnp.min(own)) ** 2
    return 10 * len(lower) * jnp.finfo(lower.dtype).eps * worst


def _lengths(rows, inside, inverse, exact: bool):
    """Bounds (n) of h_i = tr(M_i X_i M^-1 X_i') and of the largest difference of two scores."""
    n, outputs, p = rows.shape
    if exact:
        turned = (rows.reshape(n * outputs, p) @ inverse).reshape(rows.shape)
        gram = jnp.einsum("nkp,nlp->nkl", turned, rows)
    else:
        # M^-1 <= |M^-1| I, and |M^-1|^4 is at most the Frobenius norm of its fourth power
        # (squared in a loop: as one expression XLA squares anew for every tile of what is summed)
        fourth = jax.lax.fori_loop(0, 2, lambda _, power: power @ power, inverse)
        largest = jnp.sqrt(jnp.sqrt(jnp.linalg.norm(fourth)))
        gram = jnp.einsum("nkp,nlp->nkl", rows, rows) * largest
    # no example makes up more than the whole metric
    return jnp.minimum(jnp.einsum("nkl,nkl->n", inside, gram), 1.0), widest(gram)
