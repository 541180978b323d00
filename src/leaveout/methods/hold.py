"""How firmly what stays holds theta: whether a small gradient tells that a search has arrived.

In coordinates of H the Hessian of what stays is I - S, and a gradient r leaves theta an error of
(I - S)^-1 r. Where a group takes nearly all the curvature of some direction, and hardly any penalty
holds it, r dies out there long before theta has arrived, and no residual tells.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Bool, Float

__all__ = ["STEADY", "Bend", "Grip", "grip_of", "least_kept"]

STEADY = 0.5
_DIRECTIONS = 16  # that hardly any penalty holds: at most so many are looked at in every lane
_ROUNDS = 12  # of subspace iteration that finds them
_FIRST = 3  # products after which lanes that seem to keep so much of their curvature are believed
_FIRM = 0.5
_MOST = 12  # products of the others, at most
_KNOWN = 0.05  # of itself that a share may be unknown by: further off it can be of a next direction


class Bend(eqx.Module):
    """The Hessian of what stays, beside that of all the data.

    Attributes:
        along: (b) its curvature along the change of each lane.
        left: (b f) of parameters without penalty, what is left of their own curvature,
        whole: (f) and what it was.
        kept: (b) a share of its curvature that every direction has kept, at least; 0 if not known.
        steady: (b) whether the loss of every example that stays has kept `STEADY` of its curvature.
    """

    along: Float[Array, "b"]
    left: Float[Array, "b f"]
    whole: Float[Array, "f"]
    kept: Float[Array, "b"]
    steady: Bool[Array, "b"]


class Grip(eqx.Module):
    """The directions in which hardly any penalty holds theta, and how firmly it holds all others.

    Only near these can a group leave next to no curvature. Lengths are in coordinates that make H
    the identity.

    Attributes:
        directions: (p r) orthonormal.
        penalty: (r r) what of H the penalty makes up there.
        beyond: () the share of H that it makes up of directions orthogonal to these, at least.
    """

    directions: Float[Array, "p r"]
    penalty: Float[Array, "r r"]
    beyond: Float[Array, ""]

    @property
    def usual(self) -> Float[Array, ""]:
        """The share that `kept` finds where a quarter of what the data make up there is left."""
        return self._least(jnp.asarray(0.25, self.beyond.dtype))

    def pairs(self, rows: Float[Array, "l p"], curvature: Float[Array, "b l"]):
        """(b r r) what examples with these rows and curvatures make up of the Hessian there."""
        seen = rows @ self.directions
        size = seen.shape[1]
        products = (seen[:, :, None] * seen[:, None]).reshape(-1, size * size)
        return (curvature @ products).reshape(-1, size, size)

    def kept(self, data: Float[Array, "b r r"]) -> Float[Array, "b"]:
        """The share of its curvature that every direction has kept, at least.

        A direction with a share c of its square beyond these keeps beyond c, and at least
        (sqrt((1 - c) h) - sqrt(c))^2, h what is kept least among them: c = h / 4.

        Args:
            data: what examples that stay make up of H in these directions.
        """
        return self._least(jnp.linalg.eigvalsh(data + self.penalty[None])[:, 0])

    def _least(self, held):
        held = jnp.clip(held, 0.0, 1.0)
        return held * jnp.minimum(self.beyond / 4, 0.13)


def grip_of(
    lower: Float[np.ndarray, "p p"], penalty: Float[np.ndarray, "p"], bare: tuple[int, ...]
) -> Grip | None:
    """The grip of a penalty, whose parameters `bare` have none; None where those are too many.

    Subspace iteration on H = lower lower' in the metric of the penalty, p^2 multiplications a
    direction a round; by NumPy, which compiles nothing.
    """
    p, held = penalty.size, penalty > 0
    count = min(int(p**0.5), _DIRECTIONS) - len(bare)
    if count < 1 or p - len(bare) <= count:
        return None
    root = np.where(held, 1 / np.sqrt(np.where(held, penalty, 1.0)), 0.0)

    def bent(y):
        return root[:, None] * (lower @ (lower.T @ (root[:, None] * y)))

    y = np.random.default_rng(0).normal(size=(p, count)).astype(lower.dtype)
    for _ in range(_ROUNDS):
        y, _ = np.linalg.qr(bent(y))
    beyond = 0.5 / np.linalg.eigvalsh(y.T @ bent(y))[0]  # half: the rounds may leave something
    own = np.eye(p, dtype=lower.dtype)[:, list(bare)]
    directions, _ = np.linalg.qr(lower.T @ np.concatenate([own, root[:, None] * y], axis=1))
    moved = scipy.linalg.solve_triangular(lower, directions, lower=True, trans=1)
    made_up = moved.T @ (penalty[:, None] * moved)
    return Grip(*(jnp.asarray(part) for part in (directions, made_up, beyond)))


def least_kept(
    taken: Callable, gradient: Float[Array, "b p"], asked: Bool[Array, "b"]
) -> Float[Array, "b"]:
    """The least share of its curvature that a direction has kept in each lane, or a little less.

    One less the largest eigenvalue of S, by Lanczos steps from a vector that leans on no direction,
    and on what is left of the gradient; every step is a product with all the data. Less by what it
    is not known by.

    Args:
        taken: the map of rows z to S z.
        gradient: what is left of it in each lane.
        asked: lanes whose answer matters.

    Source: Kuczynski and Wozniakowski (1992), for how fast.
    """
    lanes, p = gradient.shape
    most = min(_MOST, p)
    lean = jnp.cos(0.37 * jnp.arange(1.0, p + 1, dtype=gradient.dtype) ** 2)
    start = _unit(_unit(lean[None]) + _unit(gradient))
    basis = jnp.zeros((lanes, most, p), gradient.dtype)
    ones, inner = jnp.ones(lanes, gradient.dtype), jnp.zeros((lanes, most, most), gradient.dtype)

    def unfinished(carry):
        at, *_, kept, error = carry
        unknown = (at < _FIRST) | jnp.any(asked & (kept < _FIRM) & (error > _KNOWN * kept))
        return (at < most) & unknown

    def step(carry):
        at, basis, inner, q, *_ = carry
        basis, image = basis.at[:, at].set(q), taken(q)
        along = jnp.einsum("bkp,bp->bk", basis, image)
        inner = inner.at[:, at].set(along).at[:, :, at].set(along)
        image -= jnp.einsum("bk,bkp->bp", along, basis)
        again = jnp.einsum("bkp,bp->bk", basis, image)  # what rounding has left
        image -= jnp.einsum("bk,bkp->bp", again, basis)
        values, vectors = jnp.linalg.eigh(inner)
        error = jnp.linalg.norm(image, axis=1) * jnp.abs(vectors[:, at, -1])
        return at + 1, basis, inner, _unit(image), 1 - values[:, -1], error

    *_, kept, error = jax.lax.while_loop(unfinished, step, (0, basis, inner, start, ones, ones))
    return kept - error


def _unit(rows: Float[Array, "b p"]) -> Float[Array, "b p"]:
    """Rows of length 1; those that are rounding of such a length become 0."""
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    there = length > 0
    return jnp.where(there, rows / jnp.where(there, length, 1.0), 0.0)
