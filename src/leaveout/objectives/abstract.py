"""The objective: J(theta; v) = sum_i s_i v_i loss_i(theta) + l2/2 |theta_penalised|^2, a SUM.

s are base weights (default 1), v says what stays (1 stays, 0 leaves). theta is flat (p)
everywhere inside the library; `tree` and `flat` translate at its edge. Gradients, Hessian-vector
products and Hessians come from automatic differentiation of the loss. Linear models differentiate
the loss at its score, where it is cheap, and contract with the data by matrix products;
`general.Objective` differentiates the whole sum.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

__all__ = [
    "AbstractExpansion",
    "AbstractObjective",
    "is_parameter",
]


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf of theta is trained: an inexact array, or a float."""
    return eqx.is_inexact_array(leaf) or isinstance(leaf, float | np.floating)


class AbstractExpansion(eqx.Module):
    """Every example's loss to second order around one theta; base weights are already inside.

    `weights` are (n) and multiply the examples: ones for the whole data, w for what a group takes
    away, 1 - w for what it leaves. Nothing here contains the penalty; `penalty` holds it.
    """

    penalty: eqx.AbstractVar[Float[Array, "p"]]

    @property
    @abc.abstractmethod
    def n(self) -> int:
        """Number of examples."""

    @abc.abstractmethod
    def gradient(self, weights: Float[Array, "n"]) -> Float[Array, "p"]:
        """sum_i weights_i s_i grad loss_i."""

    @abc.abstractmethod
    def hvp(self, weights: Float[Array, "n"], vector: Float[Array, "p"]) -> Float[Array, "p"]:
        """sum_i weights_i s_i hess loss_i vector."""

    @abc.abstractmethod
    def hessian(self, weights: Float[Array, "n"]) -> Float[Array, "p p"]:
        """sum_i weights_i s_i hess loss_i."""

    @abc.abstractmethod
    def dot(self, vector: Float[Array, "p"]) -> Float[Array, "n"]:
        """s_i grad loss_i . vector, for every example."""

    def dots(self, vectors: Float[Array, "m p"]) -> Float[Array, "n m"]:
        """The same for several vectors."""
        return jax.vmap(self.dot, out_axes=1)(vectors)

    @abc.abstractmethod
    def restrict(self, rows) -> "AbstractExpansion":
        """The expansion of the examples `rows` (integers) only."""

    @abc.abstractmethod
    def gauge(self) -> Float[Array, "p p"] | None:
        """A matrix that pins the directions in which the loss cannot change, or None."""


class AbstractObjective(eqx.Module):
    """What every objective offers; `Objective` and `LinearObjective` implement it."""

    weights: eqx.AbstractVar[Float[Array, "n"]]
    l2: eqx.AbstractVar[Float[Array, ""]]
    penalised: eqx.AbstractVar[Bool[Array, "p"]]

    @property
    @abc.abstractmethod
    def examples(self) -> PyTree:
        """The fields that hold one entry an example, base weights among them."""

    @abc.abstractmethod
    def losses(self, theta: Float[Array | np.ndarray, "p"]) -> Float[Array, "n"]:
        """Each example's loss, without base weights."""

    @abc.abstractmethod
    def at(self, theta: Float[Array | np.ndarray, "p"]) -> AbstractExpansion:
        """Every loss to second order around theta."""

    @abc.abstractmethod
    def tree(self, theta: Float[Array | np.ndarray, "p"]) -> PyTree:
        """Flat theta as the PyTree of parameters the user knows."""

    @abc.abstractmethod
    def initial(self) -> Float[Array, "p"]:
        """Where a fit starts from."""

    @abc.abstractmethod
    def value_and_gradient(
        self, theta: Float[Array | np.ndarray, "p"], stays: Float[Array, "n"] | None = None
    ) -> tuple[Float[Array, ""], Float[Array, "p"]]:
        """J(theta; stays) and its gradient."""

    @property
    def n(self) -> int:
        """Number of training examples."""
        return self.weights.shape[0]

    @property
    def p(self) -> int:
        """Number of parameters."""
        return self.penalised.shape[0]

    @property
    def floats_per_example(self) -> int:
        """Numbers held for each example while J is evaluated or differentiated: plans memory."""
        return 14

    @property
    def penalty(self) -> Float[Array, "p"]:
        """The diagonal of the penalty's Hessian: l2 where penalised, 0 elsewhere."""
        return jnp.where(self.penalised, self.l2, 0.0)

    def flat(self, theta: PyTree) -> Float[Array, "p"]:
        """A PyTree of parameters as the flat vector."""
        flat, _ = ravel_pytree(eqx.filter(theta, is_parameter))
        if flat.shape != (self.p,):
            raise ValueError(
                f"expected a theta of {self.p} parameters shaped like "
                f"{jax.tree.map(jnp.shape, self.tree(self.initial()))}, got {flat.size}; "
                "pass the parameters of this very model"
            )
        return flat.astype(self.weights.dtype)

    def value(self, theta: Float[Array | np.ndarray, "p"], stays: Float[Array, "n"] | None = None):
        """J(theta; stays): the sum of losses plus the penalty."""
        return self.value_and_gradient(theta, stays)[0]

    def gradient(
        self, theta: Float[Array | np.ndarray, "p"], stays: Float[Array, "n"] | None = None
    ):
        """The gradient (p) of J(.; stays) at theta."""
        return self.value_and_gradient(theta, stays)[1]

    def hvp(self, theta, vector, stays=None) -> Float[Array, "p"]:
        """The Hessian of J(.; stays) at theta times a vector."""
        stays = jnp.ones_like(self.weights) if stays is None else stays
        return self.at(theta).hvp(stays, vector) + self.penalty * vector

    def hessian(self, theta, stays=None) -> Float[Array, "p p"]:
        """The Hessian of J(.; stays) at theta; costs n p^2 for a linear model, p HVPs otherwise."""
        stays = jnp.ones_like(self.weights) if stays is None else stays
        return self.at(theta).hessian(stays) + jnp.diag(self.penalty)

    def third_derivative(self, theta, vector, stays=None) -> Float[Array, "p"]:
        """The third derivative of J(.; stays) at theta, contracted twice with a vector.

        Forward over forward mode through the gradient: about two gradients' work.
        """

        def along(theta):
            return jax.jvp(lambda t: self.gradient(t, stays), (theta,), (vector,))[1]

        return jax.jvp(along, (theta,), (vector,))[1]

    def with_l2(self, l2):
        """The same objective under another penalty (a number, or traced)."""
        return eqx.tree_at(lambda o: o.l2, self, jnp.asarray(l2, self.weights.dtype))
