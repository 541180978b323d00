"""Certificates: a ball that must hold the retrained theta, for every group, without retraining.

Given any theta near the minimum of what a group leaves behind, its remaining gradient and bounds on
how fast the curvature can change, the minimum lies in a ball around it. Two metrics serve:

- the penalty's: l2 bends everything that is penalised, and a free intercept is bent by what stays,
  after the weights are centred. Two and a half products with the data for each group; nothing is
  factorised. Tight where the gradient is small, as after retraining.
- the Hessian's of what stays, factorised for each group: far tighter per unit of gradient.

Computed in float64 and inflated for rounding (a relative 1e-9, and what a sum of so many terms can
lose); not interval arithmetic.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.fit import Fit
from leaveout.inputs import is_traced
from leaveout.objective import LinearObjective
from leaveout.solution import Certificate
from leaveout.solvers import Factor
from leaveout.solvers.direct import together
from leaveout.solvers.factor import white_rows

__all__ = [
    "DENSE",
    "AbstractBall",
    "Frame",
    "HessianBall",
    "PenaltyBall",
    "apart",
    "enclose",
    "frame",
    "frame_within",
    "hessian_ball",
    "knapsack",
    "penalty_ball",
    "spread",
]

DENSE = 2000  # parameters up to which a matrix of p x p is formed and factorised for each group
_REACH = 1.0  # change in scores within which the intercept's curvature is bounded
_SLACK = 1e-9  # relative inflation for rounding
_SUMMED = 32  # units of rounding that a sum of many terms may lose, relative to their sizes
_BISECTIONS = 12
_ROUNDS = 12  # at most, to find a ball that the map takes into itself


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
        bend: (K K) Q^1/2.
        shift: (K p_v) Z, p_v the number of weights; None without a free intercept.
        l2: the penalty.
    """

    centre: Float[Array, "p"]
    radius: Float[Array, ""]
    points: Float[Array, ""]
    root: Float[Array, "K K"] | None
    bend: Float[Array, "K K"] | None
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
        if self.shift is None or self.bend is None:
            return jnp.sqrt(self.l2) * jnp.linalg.norm(change)
        weight, bias = change[: -len(self.bend)], change[-len(self.bend) :]
        bias = self.bend @ (bias + self.shift @ weight)
        return jnp.sqrt(self.l2 * jnp.sum(weight**2) + jnp.sum(bias**2))


def penalty_ball(
    objective: LinearObjective,
    theta: Float[Array, "p"],
    stays: Float[Array, "n"],
    *,
    free_intercept: bool,
) -> PenaltyBall:
    """The ball around theta that the penalty alone gives; convex losses only.

    The gradient's length in the metric is the radius, since the metric bounds the curvature from
    below: everywhere without a free intercept, as far as all scores stay within 1 of what they are
    with one, which is checked.

    Args:
        objective: a linear model whose weights are penalised.
        theta: where the gradient is taken.
        stays: what stays of each example, 1 - w.
        free_intercept: the intercepts, and nothing else, are free of the penalty.
    """
    scores = objective.scores(theta)
    a = objective.weights * stays
    _, slopes = objective.weighted(scores, a)
    gradient = objective.pull(slopes) + objective.penalty * theta
    noise = _SUMMED * jnp.finfo(theta.dtype).eps * jnp.sum(jnp.abs(slopes))
    x = objective.x
    middle = jnp.mean(x, axis=0)
    farthest = jnp.sqrt(jnp.max(jnp.sum((x - middle[None]) ** 2, axis=1)))
    l2 = objective.l2
    if not free_intercept:
        longest = jnp.sqrt(jnp.max(jnp.sum(objective.design**2, axis=1)) / l2)
        radius = jnp.linalg.norm(gradient) / jnp.sqrt(l2) * (1 + _SLACK) + noise * longest
        radius = jnp.where(l2 > 0, radius, jnp.inf)
        return PenaltyBall(theta, radius, np.sqrt(2) * longest, None, None, None, l2)
    outputs = objective.layout.outputs
    low = _lower_curvature(objective, scores, a)
    total = jnp.sum(low, axis=0)
    if objective.loss.shift_invariant:
        total = total + jnp.trace(total) / outputs  # pins the common shift, which nothing sees
    # one eigendecomposition and no other call to LAPACK, none for one output: see `enclose`
    values, vectors = (total[0], jnp.ones((1, 1))) if outputs == 1 else jnp.linalg.eigh(total)
    root = vectors / jnp.sqrt(values)[None] @ vectors.T
    bend = vectors * jnp.sqrt(values)[None] @ vectors.T
    pull = jnp.einsum("nkl,nd->kld", low, x)
    shift = root @ (root @ pull.reshape(outputs, -1))
    ball = PenaltyBall(theta, jnp.zeros(()), jnp.zeros(()), root, bend, shift, l2)
    # how far apart two scores of an example can get, in radii
    aside = shift.reshape(outputs, outputs, -1) - jnp.eye(outputs)[..., None] * middle[None, None]
    pair = 1.0 if outputs == 1 else 2.0
    longest = jnp.sqrt(pair * ((farthest + jnp.linalg.norm(aside)) ** 2 / l2 + jnp.sum(root**2)))
    radius = ball.whiten(gradient[None])
    radius = jnp.linalg.norm(radius) * (1 + _SLACK) + noise * longest
    shown = (longest * radius <= _REACH) & (l2 > 0) & jnp.all(values > 0)
    return PenaltyBall(theta, jnp.where(shown, radius, jnp.inf), longest, root, bend, shift, l2)


def _lower_curvature(objective, scores, a) -> Float[Array, "n K K"]:
    """Below a_i times every chord of the slopes from `scores` to less than 1 away."""
    envelope: Any = objective.loss.envelope
    if objective.layout.outputs == 1:
        low, _ = jax.vmap(lambda s, y: envelope(s, y, _REACH))(scores[:, 0], objective.y)
        return jnp.where(a != 0, a * low, 0.0)[:, None, None]
    low, _ = jax.vmap(lambda s, y: envelope(s, y, _REACH))(scores, objective.y)
    second = jax.vmap(jax.hessian(objective.point_loss))(scores, objective.y)
    return jnp.where(a != 0, a * low, 0.0)[:, None, None] * second


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


def knapsack(
    value: Float[Array, "n"], most: Float[Array, "n"], budget: Float[Array, ""]
) -> Float[Array, ""]:
    """An upper bound of max sum_i value_i z_i over 0 <= z_i <= most_i, sum_i z_i <= budget.

    By duality every threshold t >= 0 gives one, t budget + sum_i most_i (value_i - t)_+. The best t
    is where the budget is spent on what is worth more than t: found by bisection, a pass over the
    n numbers each time, instead of by sorting them.
    """
    top = jnp.max(jnp.where(most > 0, value, 0.0))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        over = jnp.sum(jnp.where(value > middle, most, 0.0)) > budget
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(top), top))

    def dual(t):
        return t * budget + jnp.sum(jnp.where(most > 0, most * jnp.maximum(value - t, 0.0), 0.0))

    return jnp.minimum(jnp.minimum(dual(low), dual(high)), dual(jnp.zeros_like(top)))


class _Points(eqx.Module):
    """What the bounds need to know of the n examples, seen from a theta.

    Attributes:
        scores: (n K) at theta.
        y: targets.
        a: (n) what stays of each, base weight included.
        metric: (n) the second derivative inside the metric, for one output; for K, nothing.
        moved: (n) for K outputs: range of the change in scores from where the metric was taken.
        own: (n) h_i, the share of the metric that the example makes up, at most.
        length: (n) t_i, its largest difference of scores in radii.
        shifted: (n) D_i, the same for the Newton step from theta.
    """

    scores: Float[Array, "n K"]
    y: Any
    a: Float[Array, "n"]
    metric: Float[Array, "n"]
    moved: Float[Array, "n"]
    own: Float[Array, "n"]
    length: Float[Array, "n"]
    shifted: Float[Array, "n"]
    envelope: Any = eqx.field(static=True)

    def chords(self, radius):
        """(low, high) of a_i times the curvature chords within `radius` of the scores.

        For one output as they are, for K outputs relative to the metric's.
        """
        one = self.scores.shape[1] == 1
        scores = self.scores[:, 0] if one else self.scores
        low, high = jax.vmap(self.envelope)(scores, self.y, jnp.broadcast_to(radius, self.a.shape))
        if one:
            there = self.a != 0
            return jnp.where(there, self.a * low, 0.0), jnp.where(there, self.a * high, 0.0)
        return jnp.exp(-self.moved) * low, jnp.exp(self.moved) * high

    def shortfall(self, radius):
        """How far the curvature can fall below the metric's, relative to it."""
        low, _ = self.chords(radius)
        if self.scores.shape[1] == 1:
            share = low / jnp.where(self.metric > 0, self.metric, 1.0)
            return jnp.where(self.metric > 0, jnp.maximum(1 - share, 0.0), 0.0)
        return jnp.where(self.a > 0, jnp.maximum(1 - low, 0.0), 0.0)

    def force(self, radius, length):
        """Bound of |sum_i x_i (a_i s_i - M_i) delta_i| in M^-1, for |delta_i| <= radius_i.

        Args:
            radius: (n).
            length: bound of the whole displacement in the metric.
        """
        low, high = self.chords(radius)
        if self.scores.shape[1] == 1:
            wide = jnp.maximum(jnp.abs(high - self.metric), jnp.abs(low - self.metric))
            share = wide / jnp.where(self.metric > 0, self.metric, 1.0)
            share = jnp.where(self.metric > 0, share, jnp.where(wide > 0, jnp.inf, 0.0))
            most = self.metric * radius**2
        else:
            share = jnp.where(self.a > 0, jnp.maximum(jnp.abs(1 - low), jnp.abs(high - 1)), 0.0)
            wide = self.a
            most = jnp.minimum(self.own * length**2, self.a * radius**2 / 4)
        regular = share <= 1
        value = jnp.where(regular, share, 0.0) ** 2
        together = jnp.sqrt(knapsack(value, jnp.where(regular, most, 0.0), length**2))
        alone = wide * radius * self.length
        return together + jnp.sum(jnp.where(regular | (wide == 0), 0.0, alone))


def _ball(points: _Points, start) -> Float[Array, ""]:
    """The smallest rho found with gamma(rho) rho >= R: theta is no further than rho from theta*."""

    def gamma(rho):
        value = points.shortfall(rho * points.length)
        return 1 - knapsack(value, points.own, jnp.ones(()))

    def unproven(carry):
        rho, proven, tried = carry
        return ~proven & (tried < _ROUNDS) & jnp.isfinite(rho)

    def grow(carry):
        rho, _, tried = carry
        convexity = gamma(rho)
        need = jnp.where(convexity > 0, start / convexity, jnp.inf)
        proven = need <= rho
        return jnp.where(proven, rho, 1.05 * need), proven, tried + 1

    begin = 1.02 * start / jnp.maximum(gamma(jnp.zeros(())), 0.0)
    rho, proven, _ = jax.lax.while_loop(unproven, grow, (begin, jnp.asarray(False), 0))
    return jnp.where(proven, rho, jnp.inf)


def _centred(points: _Points, start, rho) -> Float[Array, ""]:
    """Radius of a ball around theta - M^-1 gradient that holds theta*; rho from `_ball`."""

    def bound(q, rho):
        radius = jnp.minimum(points.shifted + points.length * q, rho * points.length)
        return points.force(radius, jnp.minimum(start + q, rho))

    # on the ball of radius q around the Newton step, e - M^-1 gradient(theta + e) stays within
    # bound(q) of it: a ball mapped into itself holds a point that does not move (Brouwer)
    alone = jnp.full((), jnp.finfo(start.dtype).max)

    def unproven(carry):
        q, proven, tried = carry
        return ~proven & (tried < _ROUNDS) & jnp.isfinite(q)

    def grow(carry):
        q, _, tried = carry
        image = bound(q, alone)
        proven = image <= q
        return jnp.where(proven, q, 1.1 * image), proven, tried + 1

    q, proven, _ = jax.lax.while_loop(
        unproven, grow, (1.02 * bound(jnp.zeros(()), alone), jnp.asarray(False), 0)
    )
    rho = jnp.minimum(rho, jnp.where(proven, q + start, alone))
    q = jnp.minimum(jnp.where(proven, q, jnp.inf), rho + start)

    def contract(_, carry):
        q, rho = carry
        q = jnp.minimum(q, bound(q, rho))
        return q, jnp.minimum(rho, q + start)

    q, rho = jax.lax.fori_loop(0, 3, contract, (q, rho))
    return jnp.where(q < alone / 4, q, jnp.inf)


class Frame(eqx.Module):
    """A linear model in coordinates u that make H(1) the identity: what all groups share.

    Attributes:
        objective: a linear model whose loss states an `envelope`.
        anchor: (p) theta of the fit.
        factor: of H(1) there, H = L L'.
        rows: (n K p) the examples in its coordinates, X_i L^-T.
        scores: (n K) at the anchor.
        curvature: (n K K) second derivatives there, with base weights.
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
        whole=own + _seen(rows, expansion.second),
    )


def frame_within(fit: Fit, available: int) -> Frame | None:
    """The frame of a fit where it exists and serves: in a quarter of the bytes available."""
    objective = fit.objective
    if fit.factor is None or not isinstance(objective, LinearObjective):
        return None
    size = 8 * objective.n * objective.layout.outputs * objective.p
    if objective.loss.envelope is None or objective.p > DENSE or size > available / 4:
        return None
    return frame(objective, fit.flat, fit.factor)


def _seen(rows, curvature):
    """sum_i X_i' C_i X_i in the coordinates of the rows (n K p)."""
    n, outputs, p = rows.shape
    bent = jnp.einsum("nkl,nlp->nkp", curvature, rows)
    return rows.reshape(n * outputs, p).T @ bent.reshape(n * outputs, p)


def hessian_ball(
    frame: Frame,
    theta: Float[Array, "p"],
    stays: Float[Array, "n"],
    *,
    fresh: bool,
    exact: bool,
) -> HessianBall:
    """The ball that the Hessian of what stays gives, from any theta.

    Args:
        frame: of the fit.
        theta: the candidate, where the gradient is taken.
        stays: what stays of each example.
        fresh: take the Hessian at `theta` (n p^2 more) instead of at the anchor, where it is that
            of the Newton step.
        exact: measure every example in the metric (n p^2 more) instead of bounding its length by
            the metric's least eigenvalue.

    Returns:
        The ball around theta - M^-1 gradient. Costs p^3 for the factor besides.
    """
    objective, factor, rows = frame.objective, frame.factor, frame.rows
    n, outputs, p = rows.shape
    a = objective.weights * stays
    scores = objective.scores(theta)
    _, slopes = objective.weighted(scores, a)
    gradient = objective.pull(slopes) + objective.penalty * theta
    residual = factor.whiten(gradient[None])[0]

    if fresh:
        inside = jax.vmap(jax.hessian(objective.point_loss))(scores, objective.y)
        inside = jnp.where(a[:, None, None] != 0, a[:, None, None] * inside, 0.0)
    else:
        inside = stays[:, None, None] * frame.curvature
    lower = jnp.linalg.cholesky(frame.whole - _seen(rows, frame.curvature - inside))
    eye = jnp.eye(p, dtype=rows.dtype)
    inverse_root = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    inverse = inverse_root.T @ inverse_root

    own, length = _lengths(rows, inside, inverse, exact)
    eps = jnp.finfo(rows.dtype).eps
    noise = _SUMMED * eps * jnp.sum(jnp.abs(slopes).sum(axis=1) * length)
    start = jnp.linalg.norm(inverse_root @ residual) * (1 + _SLACK) + noise
    step = inverse @ residual
    shifted = spread(rows @ step)
    moved = jnp.zeros(n) if fresh or outputs == 1 else spread(scores - frame.scores)
    points = _Points(
        scores=scores, y=objective.y, a=a, metric=inside[:, 0, 0], moved=moved, own=own,
        length=length, shifted=shifted, envelope=objective.loss.envelope,
    )  # fmt: skip
    rho = _ball(points, start)
    radius = _centred(points, start, rho)
    # what is lost in the gradient, in the solve, and in writing the centre down
    radius = radius * (1 + _SLACK) + _rounding(lower) * start + noise
    radius += _SUMMED * eps * jnp.linalg.norm(jnp.abs(factor.lower).T @ jnp.abs(theta))
    radius = jnp.where(jnp.all(jnp.isfinite(inverse_root)) & jnp.isfinite(radius), radius, jnp.inf)
    centre = theta - factor.unwhiten(step[None])[0]
    return HessianBall(centre, radius, length, factor, lower, inverse_root)


def _rounding(lower):
    """What the solve with a factor may lose, relative to the solution."""
    own = jnp.diagonal(lower)
    worst = (jnp.max(own) / jnp.min(own)) ** 2
    return 10 * len(lower) * jnp.finfo(lower.dtype).eps * worst


def spread(scores: Float[Array, "n K"]) -> Float[Array, "n"]:
    """How far a score moved; of several, the largest difference of two moves."""
    if scores.shape[1] == 1:
        return jnp.abs(scores[:, 0])
    return jnp.max(scores, axis=1) - jnp.min(scores, axis=1)


def _lengths(rows, inside, inverse, exact: bool):
    """Bounds (n) of h_i = tr(M_i X_i M^-1 X_i') and of the largest difference of two scores."""
    n, outputs, p = rows.shape
    if exact:
        turned = (rows.reshape(n * outputs, p) @ inverse).reshape(rows.shape)
        gram = jnp.einsum("nkp,nlp->nkl", turned, rows)
    else:
        # M^-1 <= |M^-1| I, and |M^-1|^4 is at most the Frobenius norm of its fourth power
        square = inverse @ inverse
        largest = jnp.sqrt(jnp.sqrt(jnp.linalg.norm(square @ square)))
        gram = jnp.einsum("nkp,nlp->nkl", rows, rows) * largest
    # no example makes up more than the whole metric
    return jnp.minimum(jnp.einsum("nkl,nkl->n", inside, gram), 1.0), apart(gram)


def apart(gram: Float[Array, "n K K"]) -> Float[Array, "n"]:
    """The largest |x_k - x_l| of K rows, from their products; of one row its length."""
    squares = jnp.diagonal(gram, axis1=1, axis2=2)
    if gram.shape[1] > 1:
        squares = squares[:, :, None] + squares[:, None, :] - 2 * gram
    return jnp.sqrt(jnp.maximum(jnp.max(squares.reshape(len(gram), -1), axis=1), 0.0))


# ---- effects -------------------------------------------------------------------------------------


def enclose(fit: Fit, measures, change, leaves, frame: Frame | None = None) -> tuple:
    """Intervals for the effects of retraining without each group, from any change in theta.

    Args:
        fit: the fitted objective.
        measures: bound to it.
        change: (b p) candidates, theta_without - theta.
        leaves: (b n) what leaves.
        frame: of the fit: the Hessian's ball is used beside the penalty's, n p^2 + p^3 a group.

    Returns:
        lower, upper (b m) and `Certificate` codes (b).
    """
    objective = fit.objective
    free, measures = _free_intercept(objective), tuple(measures)
    columns = sum(len(measure.columns(objective)) for measure in measures)
    upper = np.full((len(change), columns), np.inf)
    lower, code = -upper, np.full(len(change), Certificate.uncertified, np.int8)
    # one kind of ball after the other: see `together` for what two batched factorisations can do
    for shared in ([] if free is None else [free]) + ([] if frame is None else [frame]):
        low, high, found = (
            np.asarray(part) for part in _enclose(fit, measures, change, leaves, shared)
        )
        lower, upper = np.maximum(lower, low), np.minimum(upper, high)
        code = np.minimum(code, found)
    return lower, upper, code


def _free_intercept(objective) -> bool | None:
    """Whether the intercepts are free; None where the penalty's ball does not exist."""
    if not isinstance(objective, LinearObjective) or not objective.loss.convex:
        return None
    if is_traced((objective.penalised, objective.l2)) or not float(objective.l2) > 0:
        return None
    penalised = np.asarray(objective.penalised)
    if penalised.all():
        return False
    bounded = objective.loss.envelope is not None
    return True if bounded and (penalised == objective.layout.penalised()).all() else None


@eqx.filter_jit
def _enclose(fit: Fit, measures, change, leaves, shared: Frame | bool):
    """Intervals from one kind of ball: the Hessian's if `shared` is a frame, else the penalty's."""
    objective: Any = fit.objective

    def one(lane):
        change, w = lane
        theta, stays = fit.flat + change, 1 - w
        if isinstance(shared, Frame):
            ball: AbstractBall = hessian_ball(shared, theta, stays, fresh=True, exact=False)
        else:
            ball = penalty_ball(objective, theta, stays, free_intercept=shared)
        known = jnp.isfinite(ball.radius)
        parts = [measure.enclose(objective, ball, w) for measure in measures]
        lower, upper = (jnp.concatenate(sides) for sides in zip(*parts, strict=True))
        before = jnp.concatenate([m.values(objective, fit.flat, w) for m in measures])
        slack = _SUMMED * jnp.finfo(before.dtype).eps * jnp.abs(before)
        lower = jnp.where(known, lower - before - slack, -jnp.inf)
        upper = jnp.where(known, upper - before + slack, jnp.inf)
        close = ball.radius <= ball.size(ball.centre - fit.flat)
        code = jnp.where(close, Certificate.certified, Certificate.loose)
        known &= jnp.any(jnp.isfinite(lower) & jnp.isfinite(upper))
        return lower, upper, jnp.where(known, code, Certificate.uncertified).astype(jnp.int8)

    n, p, outputs = objective.n, objective.p, objective.layout.outputs
    held = 8 * n * outputs * (p if isinstance(shared, Frame) else 1)
    return jax.lax.map(one, (change, leaves), batch_size=together(len(change), held))
