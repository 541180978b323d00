"""What a convex loss of examples can be while theta is anywhere in a ball, rounding allowed for."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.measures.container import sound
from leaveout.objectives.layout import widest
from leaveout.objectives.rounding import evaluation_error, slope_error
from leaveout.runtime.memory import QUERY_BYTES

__all__ = ["apart_over", "image", "loss_error"]


def apart_over(objective, ball, x) -> Float[Array, "m"]:
    """How far the scores of examples (m q) move at most: of several, the largest difference."""
    layout = objective.layout
    if layout.outputs == 1:
        return ball.reach(jax.vmap(lambda row: layout.flat(row[None]))(x))
    eye = jnp.eye(layout.outputs, dtype=x.dtype)

    def one(row):
        white = ball.whiten(jax.vmap(lambda e: layout.flat(e[:, None] * row[None]))(eye))
        return widest((white @ white.T)[None])[0] * ball.radius

    held = 8 * layout.outputs * layout.size
    return jax.lax.map(one, x, batch_size=int(np.clip(QUERY_BYTES // held, 1, len(x))))


def loss_error(objective, scores, y, off, apart) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """What to allow each example's convex loss, from its tangent at scores as they were computed.

    Args:
        objective: whose loss it is.
        scores: (m K) computed, `off` (m) or () from what they are.
        y: (m ...) coded targets.
        off: how wrong the scores may be.
        apart: (m) how far the scores move at most: of several, their largest difference.

    Returns:
        (m) what rounding may have done to the loss, and to its slope by how far scores move; and
        (m) how far the loss rises above its tangent, at most.
    """
    slopes = jnp.sum(jnp.abs(jax.vmap(jax.grad(objective.point_loss))(scores, y)), axis=1)
    wrong = slope_error(objective, scores, y, off)
    lost = evaluation_error(objective, scores, y) + slopes * off + wrong * (apart + off)
    return lost, _excess(objective, scores, y, apart + 2 * off)


def _excess(objective, scores, y, apart) -> Float[Array, "m"]:
    """How far the convex loss of each example rises above its tangent when scores move `apart`.

    By the loss's envelope; of several outputs at most an eighth of the squared range (Popoviciu).
    """
    if objective.layout.outputs > 1:
        return apart**2 / 8 if objective.loss.categorical else jnp.full(apart.shape, jnp.inf)
    if objective.loss.envelope is None:
        return jnp.full(apart.shape, jnp.inf)
    _, high = jax.vmap(objective.loss.envelope)(scores[:, 0], y, apart)
    return jnp.where(apart > 0, high * apart**2 / 2, 0.0)


def image(objective, middle, y, half):
    """The losses that scores in an interval can have: a convex function's least and largest."""

    def loss(score, y):
        return objective.point_loss(score[None], y)

    low, high = middle - half, middle + half
    both = jax.vmap(jax.value_and_grad(loss))
    (left, falls), (right, rises) = both(low, y), both(high, y)
    # where it has its least value inside, its tangents at the ends meet below it
    inside = (falls < 0) & (rises > 0)
    gap = jnp.where(inside, rises - falls, 1.0)
    drop = falls * (left - right + rises * (high - low)) / gap
    least = jnp.where(inside, left + drop * (1 + 1e-12), jnp.minimum(left, right))
    lost = [evaluation_error(objective, end[:, None], y) for end in (low, high)]
    lost = jnp.maximum(*lost)
    known = jnp.isfinite(half)
    least, top = least - lost, jnp.maximum(left, right) + lost
    return sound(jnp.where(known, least, -jnp.inf), jnp.where(known, top, jnp.inf))
