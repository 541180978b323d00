"""Measures of the group itself, and of theta itself."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from leaveout.measures.container import Measure, around, sound
from leaveout.measures.queries import loss_error
from leaveout.objectives.abstract import weigh
from leaveout.objectives.linear import as_linear
from leaveout.objectives.rounding import score_error, units_of
from leaveout.runtime.sharding import is_traced

__all__ = ["linear", "parameter", "self_loss"]


class _SelfLoss(Measure):
    """sum_i s_i w_i loss_i(theta) over what left, the sum of (s - v) loss."""

    name: str = eqx.field(static=True, default="self_loss")
    needs_w: bool = eqx.field(static=True, default=True)
    own: ClassVar[bool] = True

    def values(self, objective, theta, w):
        assert w is not None  # needs_w
        return jnp.sum(weigh(objective.taken(w), objective.losses(theta)))[None]

    def enclose(self, objective, ball, w):
        objective = as_linear(objective)
        if not objective.convex:
            return super().enclose(objective, ball, w)
        assert w is not None  # needs_w
        taken = objective.taken(w)
        values = self.values(objective, ball.centre, w)
        scores, off = objective.scores(ball.centre), score_error(objective, ball.centre)
        losses, slopes = objective.weighted(scores, taken)
        apart = jnp.broadcast_to(ball.points * ball.radius, taken.shape)
        lost, rise = loss_error(objective, scores, objective.y, off, apart)
        rise = weigh(taken, rise)  # what is added bends down
        up, down = jnp.sum(jnp.maximum(rise, 0.0)), jnp.sum(jnp.minimum(rise, 0.0))
        sizes = units_of(len(taken)) * jnp.finfo(taken.dtype).eps * jnp.abs(losses)
        lost = jnp.sum(sizes) + jnp.sum(weigh(jnp.abs(taken), lost))
        lower, upper = around(values, ball.reach(objective.pull(slopes)[None]) + lost)
        return sound(lower + down, upper + up)

    def steepest(self, objective):
        objective = as_linear(objective)
        unit = jnp.where(objective.weights > 0, objective.weights, 1.0)
        return unit * objective.loss.slope * jnp.linalg.norm(objective.design, axis=1)

    def columns(self, objective):
        return ("self_loss",)


def self_loss() -> Measure:
    """The loss of the group itself, sum_i s_i w_i loss_i(theta): one column.

    Not additive over groups: what is predicted depends on who leaves together.
    """
    return _SelfLoss()


def _lost(objective, sizes):
    """Rounding in sums over theta, by the sums of the sizes of their terms."""
    return units_of(objective.p) * jnp.finfo(sizes.dtype).eps * sizes


class _Parameter(Measure):
    """Entries of the flat theta."""

    index: tuple[int, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True, default=False)

    def values(self, objective, theta, w):
        return objective.shown(theta)[np.asarray(self.index)]

    def enclose(self, objective, ball, w):
        vectors, theta = self.gradients(objective, ball.centre), ball.centre
        lost = _lost(objective, jnp.abs(vectors) @ jnp.abs(theta))
        return around(self.values(objective, theta, w), ball.reach(vectors) + lost)

    def steepest(self, objective):
        return jnp.linalg.norm(self.gradients(objective, objective.initial()), axis=1)

    def columns(self, objective):
        if max(self.index) >= objective.p or min(self.index) < -objective.p:
            raise ValueError(f"theta has {objective.p} entries, but entry {self.index} was asked")
        return tuple(f"{self.name}[{i}]" for i in self.index)


def parameter(index, *, name: str = "parameter") -> Measure:
    """One entry, or several, of the flat theta.

    Args:
        index: an integer or several, each a position in theta; negative ones count from its end.
        name: for tables and axes.

    Raises:
        ValueError: for what is no integer, booleans among it; for a position beyond theta, once the
            objective is known.
    """
    asked = np.atleast_1d(np.asarray(index))
    if asked.ndim != 1 or asked.size == 0 or asked.dtype.kind not in "iu":
        masks = "; write np.flatnonzero(mask) for booleans" if asked.dtype == bool else ""
        raise ValueError(
            f"expected one position in theta, or several, as integers, got {index!r}{masks}"
        )
    return _Parameter(index=tuple(asked.tolist()), name=name)


class _Linear(Measure):
    """Products of given vectors with the flat theta."""

    vectors: Float[Array, "m p"]
    name: str = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True, default=False)

    def values(self, objective, theta, w):
        return self.vectors @ objective.shown(theta)

    def enclose(self, objective, ball, w):
        vectors, theta = self.gradients(objective, ball.centre), ball.centre
        sizes = jnp.abs(self.vectors) @ jnp.abs(objective.shown(theta))
        sizes += jnp.abs(vectors) @ jnp.abs(theta)
        return around(
            self.values(objective, theta, w), ball.reach(vectors) + _lost(objective, sizes)
        )

    def steepest(self, objective):
        return jnp.linalg.norm(self.gradients(objective, objective.initial()), axis=1)

    def columns(self, objective):
        if self.vectors.shape[1] != objective.p:
            raise ValueError(
                f"theta has {objective.p} entries, the vectors have {self.vectors.shape[1]}"
            )
        return tuple(f"{self.name}[{i}]" for i in range(len(self.vectors)))


def linear(vectors, *, name: str = "linear") -> Measure:
    """Linear functionals: products of vectors (m p) with the flat theta, m columns.

    Args:
        vectors: (m p), or (p) for one.
        name: for tables and axes.

    Raises:
        ValueError: for what is no matrix of finite numbers; for another p, once the objective is
            known.
    """
    vectors = jnp.atleast_2d(vectors if is_traced(vectors) else jnp.asarray(_numbers(vectors)))
    if vectors.ndim != 2 or vectors.size == 0:
        raise ValueError(f"expected vectors of shape (m, p) or (p,), got {vectors.shape}")
    return _Linear(vectors=vectors.astype(float), name=name)


def _numbers(vectors) -> np.ndarray:
    """Vectors as finite real numbers."""
    if scipy.sparse.issparse(vectors):
        raise ValueError(f"vectors are a sparse matrix {vectors.shape}; give .toarray() of it")
    try:
        vectors = np.asarray(vectors)
    except ValueError:
        raise ValueError("expected vectors as a matrix (m, p), all of the same length") from None
    if vectors.dtype.kind not in "fiub":
        raise ValueError(f"expected vectors of numbers, got {vectors.dtype} of {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors must be finite, but some entries are NaN or infinite")
    return vectors
