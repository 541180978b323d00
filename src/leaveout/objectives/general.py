"""Any loss of any parameters: each contraction is a pass of automatic differentiation."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from leaveout.objectives.abstract import AbstractExpansion, AbstractObjective, is_parameter
from leaveout.objectives.checks import (
    check_penalty,
    check_scalar,
    check_tree,
    check_weights,
    float_type,
)
from leaveout.runtime.compilation import compiled
from leaveout.runtime.sharding import in_jax
from leaveout.runtime.tables import Fingerprint, common_rows

__all__ = ["GeneralExpansion", "Objective"]


class Objective(AbstractObjective):
    """Any per-example loss over any PyTree of parameters and any PyTree of data.

        J(theta) = sum_i s_i loss(theta, example_i) + l2/2 sum_j f_j theta_j^2

    Gradients, Hessian-vector products and Hessians differentiate the whole sum; a dense Hessian
    costs p Hessian-vector products. If the loss depends on theta through linear scores only, `glm`
    is several times faster.

    Nothing is known of the loss's convexity: retraining then finds the local minimum that it
    reaches from theta (`lo.retrain(start=)` for another), and effects say so in `notes`.

    Args:
        loss: `loss(theta, example)` to a scalar, of ONE example, pure JAX.
        data: any PyTree of arrays with a common leading axis n, or of tables and columns; an
            example is its slice.
        theta: starting parameters: any PyTree, an Equinox module too. Only inexact arrays (and
            floats) are parameters.
        l2: penalty, at least 0; or one for each parameter, a PyTree like theta (or a prefix of it,
            or flat (p)).
        weights: (n) base weights s_i >= 0; default 1.
        penalised: how heavily l2 falls on each parameter, f: booleans or numbers, a PyTree
            likewise; default all.

    Attributes:
        start: (p) the starting parameters, flat.
        unravel: flat parameters (p) to the PyTree, without what is not trained.
        frozen: what of theta is not trained.
        fingerprint: what the groups made of the data remember it by, or None.

    Raises:
        ValueError: for lengths that differ, NaN in the data, a loss that is not scalar, or a
            negative l2.

    Example:
        >>> def loss(theta, example):
        ...     x, y = example
        ...     return (x @ theta["slope"] - y) ** 2 / 2
        >>> mine = lo.Objective(loss, (x, y), {"slope": jnp.zeros(3)}, l2=1.0)
        >>> lo.fit(mine).theta["slope"].shape
        (3,)
    """

    data: PyTree
    weights: Float[Array, "n"]
    l2: Float[Array, ""]
    penalised: Bool[Array, "p"] | Float[Array, "p"]
    start: Float[Array, "p"]
    loss: Callable = eqx.field(static=True)
    unravel: Callable = eqx.field(static=True)
    frozen: PyTree
    fingerprint: Fingerprint | None = None

    def __init__(self, loss, data, theta, l2=1.0, *, weights=None, penalised=None):
        if not callable(loss):
            kind = type(loss).__name__
            raise ValueError(f"expected loss(theta, example), a function of one, got {kind}")
        parameters, self.frozen = eqx.partition(theta, is_parameter)
        parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, float_type()), parameters)
        self.start, self.unravel = ravel_pytree(parameters)
        if self.start.size == 0:
            raise ValueError("theta has no floating-point parameters; give at least one")
        self.data, count = check_tree(data)
        self.loss = loss
        self.weights = check_weights(weights, count, self.start.dtype)
        self.fingerprint = common_rows(data=data, weights=weights)
        every, dtype = np.ones(self.start.size, bool), self.start.dtype
        self.l2, self.penalised = check_penalty(l2, penalised, parameters, every, dtype)
        example = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.data
        )
        with in_jax("the loss"):
            shape = jax.eval_shape(lambda t, e: loss(self.tree(t), e), self.start, example)
        check_scalar(shape)

    @property
    def examples(self):
        """Data and base weights."""
        return self.data, self.weights

    def initial(self):
        """The theta given at construction."""
        return self.start

    def tree(self, theta):
        """Flat theta as the PyTree given at construction."""
        return eqx.combine(self.unravel(theta), self.frozen)

    @compiled
    def losses(self, theta):
        """Each example's loss, without base weights."""
        tree = self.tree(theta)
        return jax.vmap(lambda example: self.loss(tree, example))(self.data).astype(theta.dtype)

    def parameters(self, theta):
        """Flat theta as the trained leaves of `tree`, the others None."""
        return self.unravel(theta)

    def encoded(self, examples):
        """A PyTree like `data`, checked, and the number of its examples.

        Raises:
            ValueError: for lengths that differ, or NaN.
        """
        data, count = check_tree(examples)
        return (data,), count

    def at(self, theta):
        """Every loss to second order around theta (differentiated when asked)."""
        return GeneralExpansion(
            objective=self, theta=jnp.asarray(theta), weights=self.weights, penalty=self.penalty
        )


class GeneralExpansion(AbstractExpansion):
    """Second-order expansion of arbitrary losses: each contraction is an autodiff pass."""

    objective: AbstractObjective
    theta: Float[Array, "p"]
    weights: Float[Array, "n"]
    penalty: Float[Array, "p"]

    def _sum(self, theta, v):
        return jnp.sum(v * self.objective.losses(theta))

    @compiled
    def gradient(self, v):
        """sum_i v_i grad loss_i, by reverse mode."""
        return jax.grad(self._sum)(self.theta, v)

    @compiled
    def hvp(self, v, vector):
        """sum_i v_i hess loss_i vector, forward over reverse."""
        gradient = jax.grad(lambda theta: self._sum(theta, v))
        return jax.jvp(gradient, (self.theta,), (vector,))[1]

    @compiled
    def hessian(self, v):
        """sum_i v_i hess loss_i, by p Hessian-vector products."""
        eye = jnp.eye(self.theta.size, dtype=self.theta.dtype)
        return jax.vmap(lambda vector: self.hvp(v, vector))(eye)

    @compiled
    def dot(self, vector):
        """Grad loss_i . vector, by forward mode."""
        return jax.jvp(self.objective.losses, (self.theta,), (vector,))[1]

    def restrict(self, rows):
        """The expansion of the examples `rows` only."""
        some = jax.tree.map(lambda leaf: leaf[rows], self.objective.examples)
        return eqx.tree_at(lambda o: o.examples, self.objective, some).at(self.theta)
