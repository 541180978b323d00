"""The objective: J(theta; v) = sum_i v_i loss_i(theta) + l2/2 sum_j f_j theta_j^2, a SUM.

f (p) is how heavily the penalty falls on each parameter: 1 or 0 where one number was given for all.

v is what each example gets. The data as it is gives base weights s (default 1); when a share w of
an example leaves, it gets s (1 - w). An example that is known but has no weight (s = 0) gets -w: so
points are added. theta is flat (p) everywhere inside the library; `tree` and `flat` translate at
its edge. Gradients, Hessian-vector products and Hessians come from automatic differentiation of the
loss: of the whole sum (`general`), or at the scores of a linear model (`linear`).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from leaveout.objectives.checks import check_offset
from leaveout.objectives.layout import Layout
from leaveout.objectives.losses import Loss
from leaveout.runtime.compilation import compiled
from leaveout.runtime.sharding import is_traced, to_host
from leaveout.runtime.tables import Fingerprint, Names
from leaveout.runtime.text import called, shortened

__all__ = [
    "AbstractExpansion",
    "AbstractObjective",
    "AbstractScores",
    "as_scores",
    "is_parameter",
    "taken_of",
    "weigh",
]

_FEW = 16  # free parameters that are looked at one by one


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf of theta is trained: an inexact array, or a float."""
    return eqx.is_inexact_array(leaf) or isinstance(leaf, float | np.floating)


def weigh(
    weights: Float[Array | np.ndarray, "..."], values: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Weights times values, along the leading axes of the values; 0 where the weight is 0.

    0 * inf is NaN: an example without weight must not be heard, whatever its loss. Where that is
    finite it has its derivative in the weight.
    """
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    return jnp.where((weights != 0) | jnp.isfinite(values), values, 0.0) * weights


def taken_of(s: Float[Array, "..."], w: Float[Array | np.ndarray, "..."]) -> Float[Array, "..."]:
    """What is lost of base weights s when w leaves: s w; w where s = 0, if that adds.

    Of an example without base weight nothing can leave; its derivative in s is w all the same.
    """
    s = jnp.broadcast_to(s, w.shape)
    return s * w + jnp.where(s > 0, 0.0, jnp.minimum(w, 0.0))


class AbstractExpansion(eqx.Module):
    """Every example's loss to second order around one theta.

    v (n) multiplies the examples: `weights`, the base weights, for the whole data; what a group
    leaves of them, or what it takes. Nothing here contains the penalty; `penalty` holds it.
    """

    weights: eqx.AbstractVar[Float[Array, "n"]]
    penalty: eqx.AbstractVar[Float[Array, "p"]]

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.weights.shape[0]

    @abc.abstractmethod
    def gradient(self, v: Float[Array, "n"]) -> Float[Array, "p"]:
        """sum_i v_i grad loss_i."""

    @abc.abstractmethod
    def hvp(self, v: Float[Array, "n"], vector: Float[Array, "p"]) -> Float[Array, "p"]:
        """sum_i v_i hess loss_i vector."""

    @abc.abstractmethod
    def hessian(self, v: Float[Array, "n"]) -> Float[Array, "p p"]:
        """sum_i v_i hess loss_i."""

    @abc.abstractmethod
    def dot(self, vector: Float[Array, "p"]) -> Float[Array, "n"]:
        """Grad loss_i . vector, for every example."""

    def dots(self, vectors: Float[Array, "m p"]) -> Float[Array, "n m"]:
        """The same for several vectors."""
        return jax.vmap(self.dot, out_axes=1)(vectors)

    @compiled
    def scatter(self) -> Float[Array, "p p"]:
        """sum_i g_i g_i', g_i = s_i grad loss_i."""
        eye = jnp.eye(self.penalty.size, dtype=self.penalty.dtype)
        jacobian = weigh(self.weights, jax.lax.map(self.dot, eye).T)  # (n p)
        return jacobian.T @ jacobian

    @abc.abstractmethod
    def restrict(self, rows: Int[Array, "k"]) -> "AbstractExpansion":
        """The expansion of the examples `rows` only."""

    def gradients(self, v: Float[Array, "b n"]) -> Float[Array, "b p"]:
        """`gradient` of several weightings."""
        return jax.vmap(self.gradient)(v)

    def hvps(self, v: Float[Array, "b n"], vectors: Float[Array, "b p"]) -> Float[Array, "b p"]:
        """`hvp` of several weightings, each with a vector of its own."""
        return jax.vmap(self.hvp)(v, vectors)

    def pinned(self, vectors: Float[Array, "b p"]) -> Float[Array, "b p"] | None:
        """Rows times the gauge, or None without one."""
        gauge = self.gauge()
        return None if gauge is None else vectors @ gauge

    def gauge(self) -> Float[Array, "p p"] | None:
        """A matrix that pins the directions in which the loss cannot change, or None."""
        return None


class AbstractObjective(eqx.Module):
    """What every objective offers.

    Attributes:
        weights: (n) base weights s.
        l2: () the penalty.
        penalised: (p) which entries of theta it falls on.
        fingerprint: which rows the examples are, where they were given with a pandas index.
    """

    weights: eqx.AbstractVar[Float[Array, "n"]]
    l2: eqx.AbstractVar[Float[Array, ""]]
    penalised: eqx.AbstractVar[Bool[Array, "p"] | Float[Array, "p"]]
    fingerprint: eqx.AbstractVar[Fingerprint | None]

    @property
    @abc.abstractmethod
    def examples(self) -> PyTree:
        """The fields that hold one entry an example, base weights last."""

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

    @compiled
    def value_and_gradient(
        self, theta: Float[Array | np.ndarray, "p"], v: Float[Array, "n"] | None = None
    ) -> tuple[Float[Array, ""], Float[Array, "p"]]:
        """J(theta; v) and its gradient; v is by default the base weights.

        By reverse mode over the whole sum, where an objective knows no better.
        """
        v, penalty = self.weights if v is None else v, self.penalty
        value, gradient = jax.value_and_grad(lambda t: jnp.sum(v * self.losses(t)))(theta)
        return value + 0.5 * jnp.sum(penalty * theta**2), gradient + penalty * theta

    @abc.abstractmethod
    def encoded(self, examples: PyTree) -> tuple[PyTree, int]:
        """New examples in the form of `examples`, without base weights, and their number."""

    def parameters(self, theta: Float[Array | np.ndarray, "p"]) -> PyTree:
        """Flat theta as the trained leaves of `tree`, the others None."""
        return eqx.filter(self.tree(theta), eqx.is_inexact_array)

    @property
    def n(self) -> int:
        """Number of training examples."""
        return self.weights.shape[0]

    @property
    def p(self) -> int:
        """Number of parameters."""
        return self.penalised.shape[0]

    @property
    def known_size(self) -> int:
        """Number of parameters that the user knows; other than p only if `centred` made it."""
        return self.p

    @property
    def in_words(self) -> str:
        """The loss, by its name, and its classes."""
        loss = getattr(self, "loss", None)
        return f"{loss.name if isinstance(loss, Loss) else called(loss)} loss"

    @property
    def l2_in_words(self) -> str:
        """The penalty, for a reader."""
        if self.penalised.dtype == bool:
            return f"{float(self.l2):.4g}"
        least, most = float(jnp.min(self.penalty)), float(jnp.max(self.penalty))
        return f"{least:.4g} to {most:.4g} by coefficient"

    @property
    def titles(self) -> tuple[str, ...]:
        """(P) what the entries of the user's flat theta are called."""
        return tuple(f"theta[{i}]" for i in range(self.known_size))

    @property
    def linear_layout(self) -> Layout | None:
        """Where weight and bias lie in theta, of a linear model; None of others."""
        return None

    @property
    def widens(self) -> bool:
        """Whether its arrays in float64 are the same objective, with the same minimum."""
        return False

    @property
    def sparse(self) -> bool:
        """Whether its data is sparse, so that nothing dense is made of it."""
        return False

    @property
    def outputs(self) -> int:
        """Scores of an example, 1 where there is no such thing."""
        return 1

    @property
    def convex(self) -> bool:
        """Whether J is known to be convex."""
        return False

    @property
    def floats_per_example(self) -> int:
        """Numbers held for each example while J is evaluated or differentiated: plans memory."""
        return 14

    @property
    def rows(self) -> Float[Array, "n p"] | None:
        """The design, where one score an example is all that theta acts through; else None."""
        return None

    @property
    def penalty(self) -> Float[Array, "p"]:
        """The diagonal of the penalty's Hessian: l2 f, f how heavily it falls on each parameter."""
        return self.l2 * self.heaviness

    @property
    def heaviness(self) -> Float[Array, "p"]:
        """How heavily the penalty falls on each parameter, f: `penalised` as numbers."""
        return self.penalised.astype(self.weights.dtype)

    def stays(self, w: Float[Array | np.ndarray, "... n"]) -> Float[Array, "... n"]:
        """What examples get when w of them leaves: s (1 - w), and -w where s = 0."""
        s = jnp.broadcast_to(self.weights, w.shape)
        return s * (1 - w) + jnp.where(s > 0, 0.0, jnp.maximum(-w, 0.0))

    def taken(self, w: Float[Array | np.ndarray, "... n"]) -> Float[Array, "... n"]:
        """What examples lose when w of them leaves: `taken_of` their base weights."""
        return taken_of(self.weights, w)

    def flat(self, theta: PyTree) -> Float[Array, "p"]:
        """A PyTree of parameters as the flat vector."""
        flat, _ = ravel_pytree(eqx.filter(theta, is_parameter))
        if flat.shape != (self.known_size,):
            raise ValueError(
                f"expected a theta of {self.known_size} parameters shaped like "
                f"{jax.tree.map(jnp.shape, self.tree(self.initial()))}, got {flat.size}; "
                "pass the parameters of this very model"
            )
        return flat.astype(self.weights.dtype)

    @compiled
    def value(self, theta: Float[Array | np.ndarray, "p"], v: Float[Array, "n"] | None = None):
        """J(theta; v): the sum of losses plus the penalty."""
        return self.value_and_gradient(theta, v)[0]

    @compiled
    def gradient(self, theta: Float[Array | np.ndarray, "p"], v: Float[Array, "n"] | None = None):
        """The gradient (p) of J(.; v) at theta."""
        return self.value_and_gradient(theta, v)[1]

    @compiled
    def hvp(self, theta, vector, v=None) -> Float[Array, "p"]:
        """The Hessian of J(.; v) at theta times a vector."""
        v = self.weights if v is None else v
        return self.at(theta).hvp(v, vector) + self.penalty * vector

    @compiled
    def hessian(self, theta, v=None) -> Float[Array, "p p"]:
        """The Hessian of J(.; v) at theta; costs n p^2 for a linear model, p HVPs otherwise."""
        v = self.weights if v is None else v
        return self.at(theta).hessian(v) + jnp.diag(self.penalty)

    @compiled
    def third_derivative(self, theta, vector, v=None) -> Float[Array, "p"]:
        """The third derivative of J(.; v) at theta, contracted twice with a vector.

        Forward over forward mode through the gradient: about two gradients' work.
        """

        def along(theta):
            return jax.jvp(lambda t: self.gradient(t, v), (theta,), (vector,))[1]

        return jax.jvp(along, (theta,), (vector,))[1]

    def curvature_along(self, theta, change, v, columns: tuple[int, ...]):
        """Along a change: () the losses' curvature at theta, and that of single free parameters.

        Returns:
            () change' H change without the penalty, at theta and v (n), and (f) the diagonal of H
            for the K parameters of each of these columns, which are `free_columns()`.
        """

        def gradient(theta):
            return self.value_and_gradient(theta, v)[1] - self.penalty * theta

        def alone(column):
            unit = jnp.zeros_like(theta).at[column].set(1.0)
            return jax.jvp(gradient, (theta,), (unit,))[1][column]

        own = jax.jvp(gradient, (theta,), (change,))[1] @ change
        return own, jax.lax.map(alone, np.array(columns, int))

    def free_columns(self) -> tuple[int, ...]:
        """Few parameters without penalty, which may run to infinity; none if many, or if traced.

        Of a linear model columns of its design.
        """
        if is_traced(self.penalty):
            return ()
        bare = np.flatnonzero(np.asarray(to_host(self.penalty)) == 0)
        return tuple(bare.tolist()) if bare.size <= _FEW else ()

    def at_columns(self, values: Float[Array, "p"], columns: tuple[int, ...]) -> Float[Array, "f"]:
        """The entries of a flat vector that belong to these columns, in every output."""
        return values[np.array(columns, int)]

    def centred(self) -> "AbstractObjective":
        """The same problem in coordinates that rounding spares; itself where there are none."""
        return self

    def measured_as(self, other: "AbstractObjective") -> "AbstractObjective":
        """This objective in the coordinates of another that `centred` made of one like it."""
        return self

    def shown(self, theta: Float[Array, "... p"]) -> Float[Array, "... p"]:
        """Flat theta, or changes in it, as the user knows them; other only if `centred` made it."""
        return theta

    def taken_in(self, theta: Float[Array, "... p"]) -> Float[Array, "... p"]:
        """The inverse of `shown`."""
        return theta

    def predicting(self, counts: Float[Array | np.ndarray, "c K"]) -> Float[Array, "c p"] | None:
        """Flat theta whose weights are 0, which predicts smoothed shares of the classes for all.

        (n_k + 1) / (n + K): what a coalition of one class, or of nobody, stands for, where a free
        intercept has no minimum. None where there is none, or theta cannot say so.
        """
        return None

    def with_l2(self, l2):
        """The same objective under another penalty (a number, or traced); f stays as it is."""
        return eqx.tree_at(lambda o: o.l2, self, jnp.asarray(l2, self.weights.dtype))


class AbstractScores(AbstractObjective):
    """An objective whose losses are those of scores: what predictions and accuracies are made of.

    Attributes:
        loss: the loss of one example's scores.
        classes: the labels that the codes 0..K-1 stand for, or None.
        names: of the features, or None.
    """

    loss: eqx.AbstractVar[Loss]
    classes: eqx.AbstractVar[tuple | None]
    names: eqx.AbstractVar[Names | None]

    @property
    @abc.abstractmethod
    def outputs(self) -> int:
        """K, scores of an example."""

    @abc.abstractmethod
    def scores(
        self,
        theta: Float[Array | np.ndarray, "p"],
        x: Float[Array | np.ndarray, "m ..."] | None = None,
    ) -> Float[Array, "m K"]:
        """Scores of inputs, one column an output; of the training data by default."""

    def made_of(self, given: PyTree) -> PyTree:
        """What the model takes of what a pipeline before it takes: without one, the same."""
        return given

    @abc.abstractmethod
    def inputs(self, x: PyTree) -> Array:
        """Inputs of new examples, checked, as `scores` takes them."""

    @abc.abstractmethod
    def encode(self, y: PyTree) -> PyTree:
        """Targets in the user's labels, coded as in training."""

    @property
    def has_offset(self) -> bool:
        """Whether a known amount is added to the scores of each example."""
        return False

    def offset_of(self, offset, count: int, what: str) -> Float[Array, "m K"] | None:
        """The offset that new examples carry, checked; None where neither they nor the model do.

        Raises:
            ValueError: for another shape, or none where the model has one.
        """
        if offset is not None:
            return check_offset(offset, count, self.outputs, self.weights.dtype)
        if self.has_offset:
            raise ValueError(
                f"this model has an offset, so {what} needs those of its examples: give "
                "(x, y, offset), zeros for none"
            )
        return None

    @property
    def labelled(self) -> bool:
        """Whether the targets are labels."""
        return self.loss.targets in ("binary", "classes")

    @property
    def in_words(self) -> str:
        """The loss, by its name, and its classes."""
        if not self.classes:
            return super().in_words
        said = shortened(self.classes, 4)
        if self.outputs == 1:
            said = f"{self.classes[1]!r} against {self.classes[0]!r}"
        return f"{super().in_words} of {said}"

    def score_name(self, k: int) -> str:
        """What the score of an output is called: its class, or its target."""
        labels = self.classes or getattr(self, "targets", None) or ()
        if len(labels) != self.outputs:
            return f"score {k}"
        kind = "class" if self.classes else "target"
        return labels[k] if isinstance(labels[k], str) else f"{kind} {labels[k]}"

    def point_loss(self, scores: Float[Array, "K"], y) -> Float[Array, ""]:
        """The loss of one example, its scores always given as (K)."""
        value = self.loss(scores[0] if self.outputs == 1 else scores, y)
        return jnp.asarray(value, scores.dtype)

    def score_gradients(
        self,
        theta: Float[Array, "p"],
        x: Float[Array | np.ndarray, "m ..."],
        function: Callable,
        y: PyTree,
    ) -> Float[Array, "m c p"]:
        """Gradients in theta of c functions of the scores of each of m examples.

        Args:
            theta: (p).
            x: (m ...) inputs.
            function: of the scores (K) and the target of one example, to values (c).
            y: (m ...) targets.
        """
        return jax.jacrev(lambda t: jax.vmap(function)(self.scores(t, x), y))(theta)


def as_scores(objective: AbstractObjective, what: str) -> AbstractScores:
    """The objective, which has to be of scores.

    Raises:
        ValueError: if it is another, with what asked for it.
    """
    if not isinstance(objective, AbstractScores):
        raise ValueError(
            f"{what} is a measure of models that score examples (lo.logistic, lo.glm, ...); for "
            "this objective write f(theta) yourself, any JAX function of the parameters"
        )
    return objective
