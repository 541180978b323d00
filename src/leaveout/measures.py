"""Shelf of measures: what one cares about, a function of theta and of what left.

A measure has columns, one effect each. To add one, write an Equinox module with `values` and
`columns`; gradients come from autodiff unless a cheaper way is given in `gradients`. Any function
`f(theta)` or `f(theta, w)` of the PyTree theta (and w, a float (n) array of what leaves) to a
scalar or a vector is a measure as it is.
"""

import abc
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.objective import AbstractObjective, LinearObjective

__all__ = [
    "Ball",
    "Measure",
    "as_measures",
    "linear",
    "loss",
    "margin",
    "parameter",
    "prediction",
    "self_loss",
]


@runtime_checkable
class Ball(Protocol):
    """A set of theta, |theta - centre| <= radius in a metric M: see `certificates`."""

    @property
    def centre(self) -> Float[Array, "p"]:
        """Its middle."""
        ...

    @property
    def radius(self) -> Float[Array, ""]:
        """Its radius."""
        ...

    @property
    def points(self) -> Float[Array, "..."]:
        """(n) or () how far apart scores of a training example can get, at most, in radii."""
        ...

    def reach(self, vectors: Float[Array, "k p"]) -> Float[Array, "k"]:
        """How far vector . theta can be from vector . centre, at most."""
        ...


class Measure(eqx.Module):
    """A quantity of interest with m columns.

    Attributes:
        name: what the columns have in common, for tables and axes.
        needs_w: whether the value depends on what left (self-loss does).
        own: whether its gradient at w is g(w), the group's own, so that its influence is the square
            of a length.
    """

    name: eqx.AbstractVar[str]
    needs_w: eqx.AbstractVar[bool]
    own: ClassVar[bool] = False

    @abc.abstractmethod
    def values(
        self, objective: AbstractObjective, theta: Float[Array, "p"], w: Float[Array, "n"] | None
    ) -> Float[Array, "m"]:
        """The columns at theta, flat; w is what left, given if `needs_w`."""

    @abc.abstractmethod
    def columns(self, objective: AbstractObjective) -> tuple[str, ...]:
        """Names of the columns."""

    def bind(self, objective: AbstractObjective) -> "Measure":
        """The measure with its own data coded for this objective; done once, before `values`."""
        return self

    def gradients(
        self, objective: AbstractObjective, theta: Float[Array, "p"]
    ) -> Float[Array, "m p"]:
        """Gradients of the columns with respect to theta; only if not `needs_w`."""
        return jax.jacrev(lambda t: self.values(objective, t, None))(theta)

    def enclose(
        self, objective: AbstractObjective, ball: Ball, w: Float[Array, "n"] | None
    ) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        """Bounds of the columns over a ball of theta: (-inf, inf) unless a measure knows better."""
        count = len(self.columns(objective))
        return jnp.full(count, -jnp.inf), jnp.full(count, jnp.inf)

    def steepest(self, objective: AbstractObjective) -> Float[Array, "m"]:
        """The longest gradient a column can have at any theta; infinite unless known.

        If `needs_w`, (n) instead: what each example adds for every unit of it that leaves.
        """
        return jnp.full(len(self.columns(objective)), jnp.inf)


def _sound(lower, upper):
    """Bounds as they are, or infinite where they overflowed on the way."""
    return (
        jnp.where(jnp.isnan(lower) | (lower == jnp.inf), -jnp.inf, lower),
        jnp.where(jnp.isnan(upper) | (upper == -jnp.inf), jnp.inf, upper),
    )


def _around(values, half):
    return _sound(values - half, values + half)


def _convex(values, half, bend):
    """Bounds of a convex function from its tangent at the centre and a bound on what bends away."""
    return _sound(values - half, values + half + bend)


class _PerExample(Measure):
    """A function of the scores of query examples: one column each, or their sum or mean."""

    x: Array | np.ndarray
    y: Any
    name: str = eqx.field(static=True)
    reduce: str | None = eqx.field(static=True)
    function: Callable = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True, default=False)

    def bind(self, objective):
        if not isinstance(objective, LinearObjective):
            raise ValueError(
                f"{self.name} is a measure of linear models; for this objective write "
                "f(theta) yourself, any JAX function of the parameters"
            )
        x = objective.widen(self.x)
        y = jnp.zeros(x.shape[0]) if self.y is None else objective.encode(self.y)
        return dataclasses.replace(self, x=x, y=y)

    def values(self, objective: Any, theta, w):
        scores = objective.scores(theta, self.x)
        values = jax.vmap(lambda s, t: self.function(objective, s, t))(scores, self.y)
        if self.reduce is None:
            return values.reshape(-1)
        total = jnp.sum if self.reduce == "sum" else jnp.mean
        return total(values, axis=0).reshape(-1)

    def gradients(self, objective: Any, theta):
        # one derivative at the scores an example, then one product with the inputs
        design, layout = self.x, objective.layout
        scores = objective.scores(theta, design)
        slopes = jax.vmap(jax.jacrev(lambda s, t: self.function(objective, s, t)))(scores, self.y)
        slopes = slopes.reshape(design.shape[0], -1, layout.outputs)
        if self.reduce is None:
            matrix = jnp.einsum("mck,mq->mckq", slopes, design)
            matrix = matrix.reshape(-1, layout.outputs, layout.width)
        else:
            scale = 1.0 if self.reduce == "sum" else 1 / design.shape[0]
            matrix = scale * jnp.einsum("mck,mq->ckq", slopes, design)
        return jax.vmap(layout.flat)(matrix)

    def _affine(self, objective) -> bool:
        """Whether the columns are linear in theta."""
        linear = self.function is _margin and objective.layout.outputs == 1
        return linear or self.function is _score

    def steepest(self, objective: Any):
        if self._affine(objective):
            return jnp.linalg.norm(self.gradients(objective, objective.initial()), axis=1)
        if self.function is not _loss:
            return super().steepest(objective)
        each = objective.loss.slope * jnp.linalg.norm(self.x, axis=1)
        if self.reduce is None:
            return each
        return (jnp.sum if self.reduce == "sum" else jnp.mean)(each)[None]

    def enclose(self, objective: Any, ball, w):
        values = self.values(objective, ball.centre, None)
        if self._affine(objective):
            return _around(values, ball.reach(self.gradients(objective, ball.centre)))
        if self.function is not _loss or not objective.loss.convex:
            return super().enclose(objective, ball, w)
        apart = _apart(objective, ball, self.x)
        if objective.layout.outputs == 1 and self.reduce is None:
            return _image(objective, ball, self.x, self.y, apart)
        bend = _bend(objective, objective.scores(ball.centre, self.x), self.y, apart)
        half = ball.reach(self.gradients(objective, ball.centre))
        if self.reduce is not None:
            total = jnp.sum if self.reduce == "sum" else jnp.mean
            bend = total(bend)[None]
        return _convex(values, half, bend)

    def columns(self, objective):
        theta = jax.ShapeDtypeStruct((objective.p,), objective.weights.dtype)
        count = jax.eval_shape(lambda t: self.values(objective, t, None), theta).shape[0]
        if self.reduce is not None:
            return tuple(
                f"{self.reduce} of {self.name}" + (f"[score {k}]" if count > 1 else "")
                for k in range(count)
            )
        each = count // self.x.shape[0]
        if each == 1:
            return tuple(f"{self.name}[{i}]" for i in range(count))
        return tuple(f"{self.name}[{i // each}, score {i % each}]" for i in range(count))


def _per_example(x, y, name, reduce, function):
    if reduce not in (None, "sum", "mean"):
        raise ValueError(f'expected reduce as None, "sum" or "mean", got {reduce!r}')
    x = x if isinstance(x, jax.core.Tracer) else np.asarray(x)
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(
            f"expected query inputs of shape (m, d) with m >= 1, got {x.shape}; "
            "write x[None] for a single example"
        )
    if not isinstance(x, jax.core.Tracer) and not np.isfinite(x).all():
        raise ValueError(f"the inputs of {name} must be finite, but some are NaN or infinite")
    if y is not None and np.shape(y)[:1] != x.shape[:1]:
        raise ValueError(
            f"expected one target for each of the {x.shape[0]} query inputs, got {np.shape(y)}"
        )
    return _PerExample(x=x, y=y, name=name, reduce=reduce, function=function)


def _apart(objective, ball, x) -> Float[Array, "m"]:
    """How far the scores of examples (m q) move at most: of several, the largest difference."""
    layout = objective.layout
    if layout.outputs == 1:
        return ball.reach(jax.vmap(lambda row: layout.flat(row[None]))(x))
    rows, columns = np.triu_indices(layout.outputs, 1)
    pairs = np.eye(layout.outputs)[rows] - np.eye(layout.outputs)[columns]

    def one(row):
        vectors = jax.vmap(lambda pair: layout.flat(pair[:, None] * row[None]))(jnp.asarray(pairs))
        return jnp.max(ball.reach(vectors))

    return jax.lax.map(one, x)


def _bend(objective, scores, y, apart) -> Float[Array, "m"]:
    """How far the convex loss of each example rises above its tangent when scores move `apart`.

    By the loss's envelope; of several outputs at most an eighth of the squared range (Popoviciu).
    """
    if objective.layout.outputs > 1:
        return apart**2 / 8 if objective.loss.shift_invariant else jnp.full(apart.shape, jnp.inf)
    if objective.loss.envelope is None:
        return jnp.full(apart.shape, jnp.inf)
    _, high = jax.vmap(objective.loss.envelope)(scores[:, 0], y, apart)
    return jnp.where(apart > 0, high * apart**2 / 2, 0.0)


def _image(objective, ball, x, y, half):
    """The losses that scores in an interval can have: a convex function's least and largest."""
    middle = objective.scores(ball.centre, x)[:, 0]

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
    known = jnp.isfinite(half)
    top = jnp.maximum(left, right)
    return _sound(jnp.where(known, least, -jnp.inf), jnp.where(known, top, jnp.inf))


def prediction(x, *, reduce: str | None = None, name: str = "prediction") -> Measure:
    """Scores of query inputs (m d), intercept included: m K columns, example-major.

    Args:
        x: (m d).
        reduce: None for a column per example, "sum" or "mean" over examples.
        name: for tables and axes.
    """
    return _per_example(x, None, name, reduce, _score)


def loss(examples, *, reduce: str | None = None, name: str = "loss") -> Measure:
    """Losses of query examples `(x (m d), y (m))`, without penalty: m columns.

    Args:
        examples: inputs and targets, the targets in the labels of the training data.
        reduce: None for a column per example, "sum" or "mean" over examples.
        name: for tables and axes.
    """
    x, y = examples
    return _per_example(x, y, name, reduce, _loss)


def margin(examples, *, reduce: str | None = None, name: str = "margin") -> Measure:
    """Log-odds of the true label of query examples: m columns.

    For a binary model y (w.x + b), y in {-1, +1}: what the paper's figures call the test
    prediction. For K classes s_y - log sum_{k != y} exp(s_k), which is the same for K = 2.
    """
    x, y = examples
    return _per_example(x, y, name, reduce, _margin)


def _score(objective, scores, _):
    return scores


def _loss(objective, scores, y):
    return objective.point_loss(scores, y)


def _margin(objective, scores, y):
    if objective.loss.targets == "binary":
        return (2 * y - 1) * scores[0]
    if objective.loss.targets == "classes":
        own = jnp.arange(scores.size) == y
        rest = jax.nn.logsumexp(jnp.where(own, -jnp.inf, scores))
        return jnp.sum(jnp.where(own, scores, 0.0)) - rest
    raise ValueError(
        "margin needs a classifier (lo.logistic, lo.softmax); use lo.measures.prediction for others"
    )


class _SelfLoss(Measure):
    """sum_i s_i w_i loss_i(theta) over what left."""

    name: str = eqx.field(static=True, default="self_loss")
    needs_w: bool = eqx.field(static=True, default=True)
    own: ClassVar[bool] = True

    def values(self, objective, theta, w):
        assert w is not None  # needs_w
        weights = w * objective.weights
        losses = objective.losses(theta)
        # 0 * inf is NaN: examples that stay are not part of it
        return jnp.sum(jnp.where(weights != 0, weights * losses, 0.0))[None]

    def enclose(self, objective: Any, ball, w):
        if not isinstance(objective, LinearObjective) or not objective.loss.convex:
            return super().enclose(objective, ball, w)
        assert w is not None  # needs_w
        weights = w * objective.weights
        values = self.values(objective, ball.centre, w)
        scores = objective.scores(ball.centre)
        gradient = objective.pull(objective.weighted(scores, weights)[1])
        apart = jnp.broadcast_to(ball.points * ball.radius, weights.shape)
        bend = _bend(objective, scores, objective.y, apart)
        bend = jnp.sum(jnp.where(weights != 0, weights * bend, 0.0))
        return _convex(values, ball.reach(gradient[None]), bend[None])

    def steepest(self, objective: Any):
        lengths = jnp.linalg.norm(objective.design, axis=1)
        return objective.weights * objective.loss.slope * lengths

    def columns(self, objective):
        return ("self_loss",)


def self_loss() -> Measure:
    """The loss of the group itself, sum_i s_i w_i loss_i(theta): one column.

    Not additive over groups: what is predicted depends on who leaves together.
    """
    return _SelfLoss()


class _Parameter(Measure):
    """Entries of the flat theta."""

    index: tuple[int, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True, default=False)

    def values(self, objective, theta, w):
        return theta[np.asarray(self.index)]

    def enclose(self, objective, ball, w):
        vectors = jnp.eye(objective.p, dtype=ball.centre.dtype)[np.asarray(self.index)]
        return _around(self.values(objective, ball.centre, w), ball.reach(vectors))

    def steepest(self, objective):
        return jnp.ones(len(self.index))

    def columns(self, objective):
        if max(self.index) >= objective.p or min(self.index) < -objective.p:
            raise ValueError(f"theta has {objective.p} entries, but entry {self.index} was asked")
        return tuple(f"{self.name}[{i}]" for i in self.index)


def parameter(index, *, name: str = "parameter") -> Measure:
    """One entry, or several, of the flat theta."""
    return _Parameter(index=tuple(int(i) for i in np.atleast_1d(index)), name=name)


class _Linear(Measure):
    """Products of given vectors with the flat theta."""

    vectors: Float[Array, "m p"]
    name: str = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True, default=False)

    def values(self, objective, theta, w):
        return self.vectors @ theta

    def gradients(self, objective, theta):
        return self.vectors

    def enclose(self, objective, ball, w):
        return _around(self.vectors @ ball.centre, ball.reach(self.vectors))

    def steepest(self, objective):
        return jnp.linalg.norm(self.vectors, axis=1)

    def columns(self, objective):
        if self.vectors.shape[1] != objective.p:
            raise ValueError(
                f"theta has {objective.p} entries, the vectors have {self.vectors.shape[1]}"
            )
        return tuple(f"{self.name}[{i}]" for i in range(len(self.vectors)))


def linear(vectors, *, name: str = "linear") -> Measure:
    """Linear functionals: products of vectors (m p) with the flat theta, m columns."""
    return _Linear(vectors=jnp.atleast_2d(jnp.asarray(vectors, float)), name=name)


class _Function(Measure):
    """A user's f(theta) or f(theta, w), theta as its PyTree."""

    function: Callable = eqx.field(static=True)
    name: str = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True)

    def values(self, objective, theta, w):
        tree = objective.tree(theta)
        out = self.function(tree, w) if self.needs_w else self.function(tree)
        out = jnp.asarray(out, theta.dtype)
        if out.ndim > 1:
            raise ValueError(f"{self.name} must return a scalar or a vector, got {out.shape}")
        return out.reshape(-1)

    def columns(self, objective):
        w = objective.weights if self.needs_w else None
        count = jax.eval_shape(lambda t: self.values(objective, t, w), objective.initial()).shape[0]
        return (self.name,) if count == 1 else tuple(f"{self.name}[{i}]" for i in range(count))


def _function(function: Callable) -> Measure:
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(parameters) not in (1, 2):
        raise ValueError(
            f"expected a measure f(theta) or f(theta, w), got one of {len(parameters)} arguments"
        )
    name = getattr(function, "__name__", "measure")
    return _Function(function=function, name=name, needs_w=len(parameters) == 2)


def as_measures(measures) -> tuple[Measure, ...]:
    """One measure or several, functions among them, as a tuple of measures."""
    measures = measures if isinstance(measures, list | tuple) else (measures,)
    if not measures:
        raise ValueError("expected at least one measure, for example lo.measures.loss((x, y))")
    for measure in measures:
        if not callable(measure) and not isinstance(measure, Measure):
            raise ValueError(
                f"expected a measure or a function of theta, got {type(measure).__name__}; "
                "see lo.measures"
            )
    return tuple(m if isinstance(m, Measure) else _function(m) for m in measures)
