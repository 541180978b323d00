"""Linear models: their parameters as a user sees them, and how those lie in the flat theta."""

from dataclasses import dataclass
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.runtime.tables import Names, check_names, is_table, matrix, names_of

__all__ = [
    "SUMMED",
    "Layout",
    "Linear",
    "pairs",
    "spread",
    "widest",
]

_Theta = TypeVar("_Theta", Array, np.ndarray)

SUMMED = 32  # units of rounding that a sum of many terms may lose, relative to their sizes


class _Known(tuple):
    """Names of columns that no two parameters differ by: a structure with others is the same."""

    __slots__ = ()

    def __eq__(self, other):
        return isinstance(other, _Known)

    def __hash__(self):
        return 0


class Linear(eqx.Module):
    """Parameters of a linear score, `scores = weight @ x + bias`.

    Attributes:
        weight: (d) for one output, (K d) for K.
        bias: () or (K); None without an intercept.
        names: of the columns of the inputs, where they were given as a table.

    Example:
        >>> theta = lo.Linear(weight=np.ones(3), bias=np.array(0.5))
        >>> float(theta.weight @ x[0] + theta.bias) == float(x[0].sum() + 0.5)
        True
    """

    weight: Any  # Float[Array, "d"] or "K d"; booleans where a mask of parameters is meant
    bias: Any
    names: _Known = eqx.field(static=True, default=_Known(), repr=False, converter=_Known)

    def __call__(self, x) -> Float[Array, "..."]:
        """Scores of inputs (... d), or a table of them: (...) for one output, (... K) for several.

        Raises:
            ValueError: for a table with other columns than the model was fitted on, or in another
                order.
        """
        if is_table(x):
            check_names(names_of(x), tuple(self.names) or None, "these inputs")
            x = matrix(x, "inputs")
        scores = x @ self.weight.T
        return scores if self.bias is None else jnp.add(*jnp.broadcast_arrays(scores, self.bias))


@dataclass(frozen=True)
class Layout:
    """Where weight and bias lie in the flat theta of a linear model: [weight row by row, bias].

    With K > 1 outputs, softmax and a free intercept, adding one constant to all K biases changes
    no probability, so the Hessian is exactly singular along that direction. All gradients are
    orthogonal to it. Solvers therefore add a multiple of the projector on it (`gauge`): solutions
    orthogonal to the direction are unchanged, and the matrix becomes invertible.

    Attributes:
        features: d, without the intercept.
        outputs: K.
        intercept: whether there is a bias.
    """

    features: int
    outputs: int
    intercept: bool

    @property
    def width(self) -> int:
        """q: columns of the design, the intercept's column of ones included."""
        return self.features + self.intercept

    @property
    def size(self) -> int:
        """P = K q."""
        return self.outputs * self.width

    def matrix(self, theta: Float[Array | np.ndarray, "p"]) -> Float[Array, "K q"]:
        """Flat theta to one row a class, bias last."""
        theta, cut = jnp.asarray(theta), self.outputs * self.features
        weight = theta[:cut].reshape(self.outputs, self.features)
        return jnp.concatenate([weight, theta[cut:, None]], 1) if self.intercept else weight

    def split(self, theta: _Theta) -> tuple[_Theta, _Theta]:
        """Weights (... K d) of flat theta (... p), and what is behind them: the biases."""
        cut = self.outputs * self.features
        weight = theta[..., :cut].reshape(*theta.shape[:-1], self.outputs, self.features)
        return weight, theta[..., cut:]

    @staticmethod
    def joined(weight: _Theta, rest: _Theta) -> _Theta:
        """The inverse of `split`."""
        parts = [weight.reshape(*rest.shape[:-1], -1), rest]
        if isinstance(rest, np.ndarray):
            return np.concatenate(parts, axis=-1)
        return jnp.concatenate(parts, axis=-1)

    def flat(self, matrix: Float[Array | np.ndarray, "K q"]) -> Float[Array, "p"]:
        """The inverse of `matrix`."""
        matrix = jnp.asarray(matrix)
        weight = matrix[:, : self.features].reshape(-1)
        return jnp.concatenate([weight, matrix[:, -1]]) if self.intercept else weight

    def tree(self, theta: Float[Array | np.ndarray, "p"], names: Names = ()) -> Linear:
        """Flat theta to `Linear`, without a leading axis of one output."""
        matrix = self.matrix(theta)
        weight = matrix[:, : self.features]
        bias = matrix[:, -1] if self.intercept else None
        if self.outputs == 1:
            return Linear(weight[0], None if bias is None else bias[0], names)
        return Linear(weight, bias, names)

    def order(self) -> np.ndarray:
        """(p) positions in the row-by-row `matrix` of the entries of the flat theta."""
        index = np.arange(self.size).reshape(self.outputs, self.width)
        weight = index[:, : self.features].reshape(-1)
        return np.concatenate([weight, index[:, -1]]) if self.intercept else weight

    def output_of(self) -> np.ndarray:
        """(p) the output that each entry of theta belongs to."""
        return self.order() // self.width

    def penalised(self) -> np.ndarray:
        """(p) True for weights, False for the intercept."""
        return np.arange(self.size) < self.outputs * self.features


def pairs(outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs k <= l of outputs: each one's k, its l, and (K K) its place, in either order."""
    rows, columns = np.triu_indices(outputs)
    place = np.zeros((outputs, outputs), int)
    place[rows, columns] = place[columns, rows] = np.arange(rows.size)
    return rows, columns, place


def spread(scores: Float[Array, "n K"]) -> Float[Array, "n"]:
    """How far a score moved; of several, the largest difference of two moves."""
    if scores.shape[1] == 1:
        return jnp.abs(scores[:, 0])
    return jnp.max(scores, axis=1) - jnp.min(scores, axis=1)


def widest(gram: Float[Array, "n K K"]) -> Float[Array, "n"]:
    """The largest |x_k - x_l| of K rows, from their products; of one row its length."""
    squares = jnp.diagonal(gram, axis1=1, axis2=2)
    if gram.shape[1] > 1:
        both = squares[:, :, None] + squares[:, None, :]
        # the products cancel where two rows are nearly one: what rounding may have taken
        squares = both - 2 * gram + SUMMED * jnp.finfo(gram.dtype).eps * both
    return jnp.sqrt(jnp.maximum(jnp.max(squares.reshape(len(gram), -1), axis=1), 0.0))
