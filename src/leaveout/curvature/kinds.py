"""Gauss-Newton, its last layer alone, and the Hessian itself."""

import abc
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from leaveout.curvature.tail import TOGETHER, of_example, tail_at
from leaveout.objectives.abstract import AbstractExpansion, AbstractScores, weigh
from leaveout.runtime.options import is_positive

__all__ = ["Bent", "Curvature", "GaussNewton", "Hessian", "LastLayer"]


class Bent(AbstractExpansion):
    """Losses around one theta: first order exact, second order by Gauss-Newton or the Hessian.

    Attributes:
        objective: of scores.
        theta: (p).
        weights: (n) base weights.
        penalty: (p) of the objective, and the damping.
        moves: (p) 1 for parameters that may move, 0 for those that stay.
        exact: whether products are with the Hessian, else with sum_i v_i J_i' Q_i J_i, J_i the
            scores' derivative and Q_i the loss's Hessian by the scores.

    Example:
        >>> bent = lo.curvature.GaussNewton().at(objective, fit.flat, 0.0)
        >>> exact = objective.at(fit.flat)  # of linear models Gauss-Newton is the Hessian
        >>> v = objective.weights
        >>> np.allclose(bent.hvp(v, fit.flat), exact.hvp(v, fit.flat))
        True
    """

    objective: AbstractScores
    theta: Float[Array, "p"]
    weights: Float[Array, "n"]
    penalty: Float[Array, "p"]
    moves: Float[Array, "p"]
    exact: bool = eqx.field(static=True)

    def gradient(self, v):
        """Sum_i v_i grad loss_i, exact."""
        return self.moves * self.objective.at(self.theta).gradient(v)

    def hvp(self, v, vector):
        """The matrix of v, without penalty, times a vector."""
        vector = self.moves * vector
        if self.exact:
            return self.moves * self.objective.at(self.theta).hvp(v, vector)
        objective = self.objective
        scores, moved = jax.jvp(objective.scores, (self.theta,), (vector,))

        def bend(score, move, y):
            return jax.jvp(lambda s: jax.grad(objective.point_loss)(s, y), (score,), (move,))[1]

        slopes = weigh(v, jax.vmap(bend)(scores, moved, _targets(objective)))
        return self.moves * jax.vjp(objective.scores, self.theta)[1](slopes)[0]

    def hessian(self, v):
        """The matrix of v, without penalty."""
        eye = jnp.eye(self.theta.size, dtype=self.theta.dtype)
        return jax.lax.map(lambda column: self.hvp(v, column), eye, batch_size=TOGETHER)

    def roots(self) -> tuple[Float[Array, "m p"], Int[Array, "m"]]:
        """R with R'R = sum_i s_i J_i' Q_i J_i, and the example of each row: K rows an example."""
        objective, theta = self.objective, self.theta

        def one(example):
            x, y, s = example
            slopes, _, bend = of_example(objective, theta, theta.size, x, y)
            size, way = jnp.linalg.eigh(bend)
            return jnp.sqrt(jnp.maximum(s * size, 0.0))[:, None] * (way.T @ slopes)

        examples = (*objective.examples[:2], self.weights)
        rows = jax.lax.map(one, examples, batch_size=TOGETHER)
        owner = jnp.repeat(jnp.arange(len(rows)), rows.shape[1])
        return self.moves[None] * rows.reshape(-1, theta.size), owner

    def tail(self, count: int) -> AbstractExpansion:
        """The last parameters alone, as by Gauss-Newton: n K count numbers are held."""
        return tail_at(self.objective, self.theta, self.penalty, count)

    def largest_roots(self, count: int) -> tuple[Float[Array, "count p"], Int[Array, "count"]]:
        """The rows of `roots` that bend the loss most by the scores: a pass back each.

        Of classes that a network tells apart few rows hold nearly all of the curvature: where the
        chance of the right class is near 1 the loss is flat.
        """
        objective, theta = self.objective, self.theta
        x, y = objective.examples[:2]

        def bend(score, y):
            found = jax.hessian(lambda s: objective.point_loss(s.reshape(score.shape), y))
            return found(score.reshape(-1))

        size, way = jnp.linalg.eigh(jax.vmap(bend)(objective.scores(theta), y))
        size = jnp.maximum(weigh(self.weights, size), 0.0)
        largest, at = jax.lax.top_k(size.reshape(-1), count)
        example, column = jnp.divmod(at, size.shape[1])

        def row(one):
            i, direction, root = one
            seen, back = jax.vjp(lambda t: objective.scores(t, x[i][None])[0].reshape(-1), theta)
            return back((root * direction).astype(seen.dtype))[0]

        parts = (example, way[example, :, column], jnp.sqrt(largest))
        return self.moves[None] * jax.lax.map(row, parts, batch_size=TOGETHER), example

    def dot(self, vector):
        """(n) grad loss_i . vector."""
        return self.objective.at(self.theta).dot(self.moves * vector)

    def restrict(self, rows):
        """The same of some examples."""
        some = jax.tree.map(lambda leaf: leaf[rows], self.objective.examples)
        objective = eqx.tree_at(lambda o: o.examples, self.objective, some)
        return eqx.tree_at(
            lambda e: (e.objective, e.weights), self, (objective, self.weights[rows])
        )


def _targets(objective: AbstractScores):
    """The coded targets of the training data."""
    return objective.examples[1]


@dataclass(frozen=True)
class Curvature(abc.ABC):
    """Which matrix stands for the Hessian.

    Attributes:
        damping: added to the diagonal, in units of a mean loss; None follows from the recipe of a
            run (`Recipe.damping`) and is 0 of a fit.

    Raises:
        ValueError: for a damping that is negative, or no finite number.

    Example:
        >>> lo.curvature.GaussNewton(damping=0.1)
        GaussNewton(damping=0.1)
    """

    damping: float | int | None = None

    def __post_init__(self):
        if self.damping not in (None, 0) and not is_positive(self.damping):
            raise ValueError(
                f"expected a damping >= 0, in units of a mean loss, got {self.damping!r}"
            )

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """For tables and axes."""

    def title(self, method: str) -> str:
        """A method's name with this curvature, for tables and axes."""
        return f"{method}, {self.name}"

    @abc.abstractmethod
    def at(self, objective: AbstractScores, theta: Float[Array, "p"], damping: float) -> Bent:
        """The expansion of an objective around theta, with this damping."""

    def moving(self, objective: AbstractScores) -> int:
        """How many of the parameters, the last ones, may move; fewer than all by Gauss-Newton."""
        return objective.p


def _bent(objective: AbstractScores, theta, damping, moves, exact: bool) -> Bent:
    total = damping * jnp.sum(objective.weights)
    still = jnp.where(moves > 0, 0.0, 1.0)  # what may not move has a curvature of its own
    penalty = objective.penalty * moves + total + still
    return Bent(
        objective=objective, theta=theta, weights=objective.weights,
        penalty=penalty.astype(theta.dtype), moves=moves, exact=exact,
    )  # fmt: skip


@dataclass(frozen=True)
class GaussNewton(Curvature):
    """sum_i s_i J_i' Q_i J_i: never negative, where the Hessian of a network is.

    On linear models it is the Hessian.

    Attributes:
        damping: as of `Curvature`.

    Example:
        >>> method = lo.Influence(curvature=lo.curvature.GaussNewton())
        >>> lo.effects(fit, groups, measure, method).value.shape
        (4, 1)
    """

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "Gauss-Newton"

    def title(self, method: str) -> str:
        """The method's name: of a network Gauss-Newton goes without saying."""
        return method

    def at(self, objective, theta, damping):
        """Gauss-Newton around theta."""
        return _bent(objective, theta, damping, jnp.ones_like(theta), exact=False)


@dataclass(frozen=True)
class LastLayer(Curvature):
    """Gauss-Newton of the last layer alone: the features stay as they are.

    The last layer is the last parameter with two axes or more, and those after it.

    Attributes:
        damping: as of `Curvature`.

    Example:
        >>> lo.curvature.LastLayer(damping=1e-3).name
        'last layer'
    """

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "last layer"

    def at(self, objective, theta, damping):
        """Gauss-Newton of the last layer around theta."""
        still = theta.size - self.moving(objective)
        moves = jnp.asarray(np.arange(theta.size) >= still, theta.dtype)
        return _bent(objective, theta, damping, moves, exact=False)

    def moving(self, objective):
        """The last parameter with two axes or more, and those after it."""
        flat = jax.ShapeDtypeStruct((objective.p,), objective.weights.dtype)
        leaves = jax.tree.leaves(jax.eval_shape(objective.parameters, flat))
        last = max((i for i, leaf in enumerate(leaves) if leaf.ndim > 1), default=0)
        return sum(leaf.size for leaf in leaves[last:])


@dataclass(frozen=True)
class Hessian(Curvature):
    """The Hessian itself; refused where it is not positive definite, as it mostly is not.

    Attributes:
        damping: as of `Curvature`.

    Example:
        >>> lo.curvature.Hessian().name
        'Hessian'
    """

    @property
    def name(self) -> str:
        """For tables and axes."""
        return "Hessian"

    def at(self, objective, theta, damping):
        """The losses to second order around theta."""
        return _bent(objective, theta, damping, jnp.ones_like(theta), exact=True)
