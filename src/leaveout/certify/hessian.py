"""The ball that the Hessian of what stays gives, and the coordinates that all groups share."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from leaveout.certify.balls import SLACK, AbstractBall, gradient_sizes
from leaveout.certify.radius import Points, ball_around, ball_centred
from leaveout.objectives.abstract import weigh
from leaveout.objectives.layout import spread, widest
from leaveout.objectives.linear import LinearObjective, crossproduct
from leaveout.objectives.rounding import score_error, slope_error, units_of
from leaveout.solvers import Factor, white_rows

__all__ = ["Frame", "HessianBall", "frame", "hessian_ball"]


class HessianBall(AbstractBall):
    """A ball in the metric of a Hessian of what stays, M = L C C' L'.

    Attributes:
        factor: of H(1) = L L', whose coordinates u are used.
        backward: (p p) |L^-1|.
        root: (p p) C, lower triangular, C C' the metric in these coordinates.
        inverse_root: (p p) C^-1.
        most: () |C|, at most.
        stiff: () |C^-1|, at most.
        askew: () as of `Frame`: what rounding may take from the length of a whitened vector.
    """

    centre: Float[Array, "p"]
    radius: Float[Array, ""]
    points: Float[Array, "n"]
    factor: Factor
    backward: Float[Array, "p p"]
    root: Float[Array, "p p"]
    inverse_root: Float[Array, "p p"]
    most: Float[Array, ""]
    stiff: Float[Array, ""]
    askew: Float[Array, ""]

    def whiten(self, vectors):
        """Rows whose lengths are those of the vectors in M^-1, or longer by what rounding took."""
        longer = 1 + self.askew * self.most * self.stiff
        return self.factor.whiten(vectors) @ self.inverse_root.T * longer

    def size(self, change):
        """The length of a change in theta in M."""
        return jnp.linalg.norm((change @ self.factor.lower) @ self.root)

    def box(self, sizes):
        """An upper bound of the length in M^-1 of a vector whose entries are no larger."""
        return _boxed(self.inverse_root, self.backward, sizes)

    def stretch(self, other):
        """By the norms of C and of the other's C^-1."""
        return self.most * other.stiff


def _norm(matrix):
    """An upper bound of the 2-norm of a symmetric matrix: its largest sum of a row's sizes."""
    return jnp.max(jnp.sum(jnp.abs(matrix), axis=1))


def _boxed(inverse_root, backward, sizes):
    return jnp.linalg.norm(jnp.abs(inverse_root) @ (backward @ sizes))


class Frame(eqx.Module):
    """A linear model in coordinates u that make H(1) the identity: what all groups share.

    Attributes:
        objective: a linear model whose loss states an `envelope`.
        anchor: (p) theta of the fit.
        factor: of H(1) there, H = L L'.
        rows: (n K p) the examples in its coordinates, X_i L^-T.
        squares: (n) the squared length of each example's rows.
        scores: (n K) at the anchor.
        curvature: (n K K) second derivatives there.
        whole: (p p) H(1) in its own coordinates: the identity, but for rounding in the factor.
        backward: (p p) |L^-1|.
        askew: () how wrong the rows may be, relative to their lengths: by the condition of L.
        largest: (q) the largest entry of each column of the design.
    """

    objective: LinearObjective
    anchor: Float[Array, "p"]
    factor: Factor
    rows: Float[Array, "n K p"]
    squares: Float[Array, "n"]
    scores: Float[Array, "n K"]
    curvature: Float[Array, "n K K"]
    whole: Float[Array, "p p"]
    backward: Float[Array, "p p"]
    askew: Float[Array, ""]
    largest: Float[Array, "q"]


@eqx.filter_jit
def frame(objective: LinearObjective, anchor: Float[Array, "p"], factor: Factor) -> Frame:
    """The frame of a fit: 2 n K p^2 multiplications and n K p numbers."""
    expansion = objective.at(anchor)
    if factor.rows is not None:
        rows = factor.rows[:, None, :]
    else:
        rows = jax.lax.map(white_rows(expansion, factor), expansion.design, batch_size=256)
    eye = jnp.eye(objective.p, dtype=rows.dtype)
    backward = jnp.abs(factor.whiten(eye).T)
    # a triangular solve is exact for a factor that is p units of rounding off, entry by entry
    condition = backward @ jnp.abs(factor.lower)
    condition = jnp.sqrt(jnp.max(condition.sum(axis=0)) * jnp.max(condition.sum(axis=1)))
    return Frame(
        objective=objective,
        anchor=anchor,
        factor=Factor(factor.lower),
        rows=rows,
        squares=jnp.sum(rows**2, axis=(1, 2)),
        scores=objective.scores(anchor),
        curvature=expansion.second,
        whole=_own(expansion, factor) + _seen(rows, expansion.curvature),
        backward=backward,
        askew=(objective.p + 10) * jnp.finfo(rows.dtype).eps * condition,
        largest=jnp.max(jnp.abs(objective.design), axis=0),
    )


def _own(expansion, factor):
    """What the penalty and the gauge make up of H, in its coordinates: squares of their roots."""
    root = factor.whiten(jnp.diag(jnp.sqrt(expansion.penalty)))
    gauge = expansion.gauge()
    if gauge is None:
        return root.T @ root
    # a projector times a diagonal that it commutes with: each class has a K-th of the diagonal
    scale = jnp.sqrt(expansion.layout.outputs * jnp.diagonal(gauge))
    shared = factor.whiten(gauge / jnp.where(scale > 0, scale, 1.0)[None])
    return root.T @ root + shared.T @ shared


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
    outputs = objective.outputs
    scores, off = objective.scores(theta), score_error(objective, theta)
    _, slopes = objective.weighted(scores, v)
    gradient = objective.pull(slopes) + objective.penalty * theta
    residual = factor.whiten(gradient[None])[0]

    second = jax.vmap(jax.hessian(objective.point_loss))(scores, objective.y)
    inside = weigh(v, second if fresh else frame.curvature)
    change = inside - weigh(objective.weights, frame.curvature)
    metric = frame.whole + _seen(rows, change)
    lower = jnp.linalg.cholesky(metric)
    eye = jnp.eye(objective.p, dtype=rows.dtype)
    inverse_root = jax.scipy.linalg.solve_triangular(lower, eye, lower=True)
    inverse = inverse_root.T @ inverse_root
    most, stiff = jnp.sqrt(_norm(metric)), jnp.sqrt(_norm(inverse))
    uneven = SLACK + stiff**2 * _misfit(frame, v, change)

    own, length, tall = _lengths(rows, inside, inverse, exact)
    blurred = frame.askew * stiff * jnp.sqrt(frame.squares)
    length, tall = length + 2 * blurred, tall + blurred
    wrong = weigh(v, slope_error(objective, scores, objective.y, off))
    noise = jnp.sum(wrong * tall)
    noise += _boxed(
        inverse_root, frame.backward, gradient_sizes(objective, slopes, theta, frame.largest)
    )
    noise += frame.askew * stiff * jnp.linalg.norm(residual)
    start = jnp.linalg.norm(inverse_root @ residual) * (1 + SLACK) + noise
    step = inverse @ residual
    eps = jnp.finfo(rows.dtype).eps
    lost = 10 * objective.p * eps * (most * stiff) ** 2 * start + noise  # in the solve, and before
    moved = jnp.zeros(objective.n) if fresh or outputs == 1 else spread(scores - frame.scores)
    points = Points(
        scores=scores, y=objective.y, a=v, metric=inside[:, 0, 0], moved=moved, own=own,
        length=length, shifted=spread(rows @ step) + length * lost, off=off, uneven=uneven,
        envelope=envelope,
    )  # fmt: skip
    radius = ball_centred(points, start, ball_around(points, start)) * (1 + SLACK) + lost
    back = factor.unwhiten(step[None])[0]
    forward = jnp.abs(factor.lower).T
    written = 4 * eps * jnp.abs(theta) + (objective.p + 10) * eps * jnp.abs(back)
    radius += jnp.linalg.norm(jnp.abs(lower).T @ (forward @ written))
    known = (uneven < 0.25) & jnp.all(v >= 0) & jnp.all(jnp.isfinite(inverse_root))
    radius = jnp.where(known & jnp.isfinite(radius), radius, jnp.inf)
    return HessianBall(
        theta - back, radius, length, factor, frame.backward, lower, inverse_root, most, stiff,
        frame.askew,
    )  # fmt: skip


def _misfit(frame: Frame, v, change):
    """How far the metric may be from the examples' curvature and the penalty, in the coordinates.

    By rounding in the coordinates of the rows, in the sums, and, of several outputs, in second
    derivatives that cancel where one class is nearly sure.
    """
    eps, outputs = jnp.finfo(frame.rows.dtype).eps, frame.objective.outputs
    summed = jnp.trace(frame.whole)
    summed += jnp.sum(jnp.sqrt(jnp.sum(change**2, axis=(1, 2))) * frame.squares)
    units = units_of(frame.objective.n * outputs) + 2 * frame.objective.p
    misfit = (3 * frame.askew + units * eps) * summed
    if outputs > 1:
        misfit += 8 * outputs * eps * jnp.sum(weigh(v, frame.squares))
    return misfit


def _lengths(rows, inside, inverse, exact: bool):
    """Bounds (n) of h_i = tr(M_i X_i M^-1 X_i') and, of the lengths of an example's rows in M^-1.

    Returns:
        h_i, the largest difference of two rows, and the longest of them.
    """
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
    own = jnp.einsum("nkl,nkl->n", inside, gram)
    tall = jnp.sqrt(jnp.max(jnp.diagonal(gram, axis1=1, axis2=2), axis=1))
    # no example makes up more than the whole metric
    return jnp.minimum(own * (1 + SLACK), 1 + SLACK), widest(gram), tall
