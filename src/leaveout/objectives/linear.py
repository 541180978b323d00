"""Linear models: the loss of a linear score, differentiated at the score where that is cheap.

What is summed over examples is contracted with the data by matrix products.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from leaveout.objectives.abstract import AbstractObjective, AbstractScores, weigh
from leaveout.objectives.centre import Measured, measured, some_kept, varying
from leaveout.objectives.checks import encode, parts
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.layout import Layout
from leaveout.objectives.losses import Loss, logistic
from leaveout.objectives.span import Span, span_of
from leaveout.objectives.sparse import (
    Design,
    Sparse,
    as_design,
    crossproduct,
    some_columns,
    widened,
)
from leaveout.objectives.steps import Steps
from leaveout.runtime.compilation import compiled
from leaveout.runtime.sharding import is_traced, to_host
from leaveout.runtime.tables import (
    Fingerprint,
    Names,
    as_sparse,
    check_names,
    common_rows,
    is_sparse,
    is_table,
    matrix,
    names_of,
)

__all__ = [
    "LinearObjective",
    "as_linear",
    "crossproduct",
]


class LinearObjective(AbstractScores):
    """Losses of the scores of a linear model; made by `glm`, `logistic`, `softmax`, ...

    Attributes:
        design: (n q) inputs with a last column of ones if there is an intercept; sparse where they
            came so and are kept so (`models.glm` says when).
        y: (n ...) coded targets.
        offset: (n K) known amounts that are added to the scores, or None.
        weights: (n) base weights s.
        l2: () the penalty, sum convention (scikit-learn's 1 / C).
        penalised: (p) how heavily it falls on each entry of theta: booleans, or numbers, which are
            the penalties themselves (and l2 is 1) where one was given for each.
        loss: the loss of one example.
        layout: where weight and bias lie in theta.
        classes: the labels that the codes 0..K-1 stand for, or None.
        names: of the features, where x was a table.
        targets: names of several targets, where y was a table of them.
        fingerprint: which rows the examples are, where x, y or weights had a pandas index.
        measured: how the user's inputs are measured here, or None (`centred`). The flat theta then
            holds the scores at the centre in the place of the intercepts.
        span: coordinates of the weights in the span of the rows, or None (`centred`).
        steps: what makes inputs of a table or of texts, where the model came from a pipeline.
    """

    design: Design
    y: PyTree
    offset: Float[Array, "n K"] | None
    weights: Float[Array, "n"]
    l2: Float[Array, ""]
    penalised: Bool[Array, "p"] | Float[Array, "p"]
    loss: Loss = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)
    classes: tuple | None = eqx.field(static=True)
    names: Names | None = eqx.field(static=True, default=None)
    targets: Names | None = eqx.field(static=True, default=None)
    fingerprint: Fingerprint | None = None
    measured: Measured | None = None
    span: Span | None = None
    steps: Steps | None = eqx.field(static=True, default=None)

    @property
    def outputs(self) -> int:
        """K, scores of an example."""
        return self.layout.outputs

    @property
    def convex(self) -> bool:
        """Whether the loss says that it is convex in the scores."""
        return self.loss.convex

    @property
    def floats_per_example(self) -> int:
        """Scores, slopes and a temporary of them, the weights and the losses."""
        return 3 * self.layout.outputs + 2

    @property
    def rows(self):
        """The design of a model of one output."""
        dense = not isinstance(self.design, Sparse)
        return self.design if self.layout.outputs == 1 and dense else None

    @property
    def widens(self) -> bool:
        """They are: theta is flat, a loss is of any dtype, and a convex one has one minimum."""
        return self.convex

    @property
    def sparse(self) -> bool:
        """Whether the design is sparse: nothing dense is then made of it."""
        return isinstance(self.design, Sparse)

    @property
    def known_layout(self) -> Layout:
        """Where weight and bias lie in theta as the user knows it."""
        return self.layout if self.span is None else self.span.layout

    @property
    def titles(self) -> tuple[str, ...]:
        """Features and intercept, of several outputs each with the class or target."""
        layout = self.known_layout
        each = self.names or tuple(f"x[{j}]" for j in range(layout.features))
        columns = np.array([*map(str, each), "intercept"][: layout.width], object)
        if layout.outputs == 1:
            return tuple(columns)
        names = [self.score_name(k) for k in range(layout.outputs)]
        order = np.unravel_index(layout.order(), (layout.outputs, layout.width))
        return tuple(f"{columns[j]}, {names[k]}" for k, j in zip(*order, strict=True))

    @property
    def linear_layout(self) -> Layout:
        """Where weight and bias lie in theta."""
        return self.layout

    @property
    def known_size(self) -> int:
        """Parameters that the user knows."""
        return self.known_layout.size

    @property
    def examples(self):
        """Inputs, targets, offsets where there are any, and base weights."""
        offset = () if self.offset is None else (self.offset,)
        return self.design, self.y, *offset, self.weights

    @property
    def has_offset(self) -> bool:
        """Whether a known amount is added to the scores of each example."""
        return self.offset is not None

    @property
    def x(self) -> Design:
        """Inputs without the intercept's column."""
        if isinstance(self.design, Sparse):
            return self.design.leading(self.layout.features)
        return self.design[:, : self.layout.features]

    @property
    def intercept(self) -> bool:
        """Whether there is a bias."""
        return self.layout.intercept

    def initial(self):
        """Zeros, and intercepts that take the mean offset back: there is no better guess."""
        zeros = jax.device_put(np.zeros(self.layout.size, self.design.dtype))
        if self.offset is None or not self.layout.intercept:
            return zeros
        mean = self.weights @ self.offset / jnp.sum(self.weights)
        if self.loss.shift_invariant:
            mean -= jnp.mean(mean)
        return zeros.at[-self.outputs :].set(-mean)

    def tree(self, theta):
        """Flat theta as `Linear(weight, bias)`."""
        return self.known_layout.tree(self.shown(jnp.asarray(theta)), self.names or ())

    parameters = tree

    def flat(self, theta):
        """`Linear(weight, bias)` as the flat vector."""
        return self.taken_in(super().flat(theta))

    def centred(self) -> "LinearObjective":
        """Columns measured from their means, or rows in their span, where one serves."""
        if not self.sparse:
            return self._around_means().spanned()
        inner = self.spanned()  # which whitens what it takes, however uneven
        return self._around_means() if inner is self else inner

    def spanned(self, *, always: bool = False) -> "LinearObjective":
        """The weights in coordinates of the span of the rows, where these are fewer, or always."""
        if is_traced(self) or self.span is not None or self.measured is not None:
            return self
        if not always and self.n >= self.layout.features:
            return self  # without a copy of the inputs
        falls = np.asarray(self.penalised)
        found = span_of(self.x, self.layout, falls, float(self.l2), always=always)
        if found is None:
            return self
        return dataclasses.replace(
            self,
            design=widened(found.design, self.layout.intercept),
            layout=found.layout,
            penalised=jnp.asarray(found.span.falls(found.layout, falls)),
            span=found.span,
        )

    def _around_means(self) -> "LinearObjective":
        """Columns measured from their means, where the intercept is free and a mean is far out.

        Sparse ones in units too, where they are uneven. A column of mean m and variance s^2 costs
        m^2 / (s^2 + l2 / n) units of rounding in H. With an intercept that nothing penalises the
        model, its weights and the penalty stay the same.
        """
        biases = self.layout.size - self.layout.outputs
        if is_traced(self):
            return self
        free = self.layout.intercept and not np.asarray(self.penalised)[biases:].any()
        if not free and not self.sparse:
            return self
        rows = np.zeros(self.p)  # one row of the design's columns an output
        rows[self.layout.order()] = float(self.l2) * np.asarray(self.penalised, float)
        least = rows.reshape(self.outputs, -1).min(axis=0)
        found = measured(
            self.design,
            self.weights,
            least.astype(self.design.dtype),
            self.layout.features,
            free=free,
        )
        return self if found is None else self._measured(*found)

    def measured_as(self, other):
        """Columns measured from the centre of another, or rows in its span.

        Raises:
            ValueError: where other rows than those of that span are there now.
        """
        other = as_linear(other)
        if other.span is not None:
            return self._spanned_as(other.span, other)
        if other.measured is None:
            return self
        if other.measured.knows(self.design):
            return self._in_place_of(other.measured, other.design)
        kept = varying(other.design)
        if is_traced(self.design):  # a column that was constant may move
            kept = jnp.ones_like(kept)
        return self._measured(dataclasses.replace(other.measured, given=self.design), kept)

    def _spanned_as(self, span: Span, other: "LinearObjective") -> "LinearObjective":
        penalised = np.asarray(self.penalised)
        span.check(self.design, penalised, other.layout, other.design)
        mine = {name: getattr(self, name) for name in ("y", "offset", "weights", "l2", "loss")}
        falls = jnp.asarray(span.falls(other.layout, penalised))
        return dataclasses.replace(other, penalised=falls, **mine)

    def _measured(self, how: Measured, kept) -> "LinearObjective":
        return self._in_place_of(how, some_kept(how.rows(self.design), kept))

    def _in_place_of(self, how: Measured, design: Design) -> "LinearObjective":
        """The same with the design as it was measured."""
        penalised = how.falls(self.layout, self.penalised)
        return dataclasses.replace(self, design=design, penalised=penalised, measured=how)

    def brought_in(self, design: Design) -> Design:
        """Rows of a design in the user's coordinates, measured as these are."""
        return design if self.measured is None else self.measured.rows(design)

    def shown(self, theta):
        """Flat theta of the user's columns, with intercepts that are scores at their origin."""
        if self.span is not None:
            return self.span.shown(self.layout, theta)
        return theta if self.measured is None else self.measured.shown(self.layout, theta)

    def taken_in(self, theta):
        """Flat theta in the span of the rows, or with intercepts that are scores at the centre."""
        if self.span is not None:
            return self.span.taken_in(theta)
        return theta if self.measured is None else self.measured.taken_in(self.layout, theta)

    def made_of(self, given):
        """What the steps before the model make of inputs."""
        return given if self.steps is None else self.steps.made_of(given, self.names)

    def inputs(self, x):
        """Inputs (m d), one row an example, measured as the model measures them.

        Raises:
            ValueError: for another number of columns, or a table with others than those of x.
        """
        x = self.made_of(x)
        check_names(names_of(x), self.names, "these inputs")
        sparse = as_sparse(x, "inputs")
        if sparse is not None and (self.sparse or self.span is not None):
            x = Sparse.of(sparse, self.design.dtype)
        elif sparse is not None or is_table(x):
            x = matrix(x, "inputs")
        x = self._rows(x, self.known_layout.features)
        x = x if self.measured is None else self.measured.rows(x)
        return x if self.span is None else self.span.inward(x)

    def _rows(self, x, features: int) -> Design:
        """Inputs in the precision of the model, as they are."""
        x = x if isinstance(x, Sparse) else jnp.asarray(x, self.design.dtype)
        if x.ndim != 2 or x.shape[1] != features:
            raise ValueError(
                f"expected inputs of shape (m, {features}), got {x.shape}; "
                "give one row per example with the columns the model was fitted on"
            )
        return x

    def predicting(self, counts):
        """As of any objective: of logistic and softmax regression with a free intercept."""
        biases = self.layout.size - self.layout.outputs
        free = self.layout.intercept and not np.asarray(to_host(self.penalty))[biases:].any()
        if not free or self.has_offset or not (self.loss is logistic or self.loss.categorical):
            return None
        share = (counts + 1) / jnp.sum(counts + 1, axis=1, keepdims=True)
        logits = jnp.log(share)
        bias = logits[:, 1:] - logits[:, :1] if self.layout.outputs == 1 else logits
        return jnp.zeros((len(bias), self.p), self.weights.dtype).at[:, biases:].set(bias)

    def widen(self, x) -> Design:
        """What `inputs` gave, with the intercept's column of ones if the model has one."""
        return widened(self._rows(x, self.layout.features), self.layout.intercept)

    def scores(self, theta, x=None):
        """Scores of what `inputs` gave (m d), a column an output; of the training data by default.

        Rows of a design (m q), ones included, serve too. Offsets are those of the training data;
        other inputs have none.
        """
        if x is None:
            scores = self.moves(theta)
            return scores if self.offset is None else scores + self.offset
        x = self.inputs(x) if is_table(x) or is_sparse(x) else x
        matrix = self.layout.matrix(theta).T
        if isinstance(x, Sparse):  # without a column of ones
            scores = x @ matrix[: x.shape[1]]
            return scores + matrix[-1:] if self.layout.intercept else scores
        whole = np.shape(x)[1:] == (self.layout.width,)
        return (jnp.asarray(x) if whole else self.widen(x)) @ matrix

    def moves(self, change: Float[Array | np.ndarray, "p"]) -> Float[Array, "n K"]:
        """How far the scores of the training data move with theta: linear, without the offset."""
        return self.design @ self.layout.matrix(change).T

    def encode(self, y):
        """Targets in the user's labels, coded as in training."""
        real = self.loss.targets in ("real", "counts")
        if self.targets is not None:
            check_names(names_of(y), self.targets, "these targets")
        return encode(y, self.loss, self.classes, self.y.shape[1:] if real else ())

    def encoded(self, examples):
        """New examples `(x (m d), y (m))`, or `(x, y, offset)`, as `examples`, and how many."""
        x, y, offset = parts(examples, "lo.add")
        check_names(names_of(x), self.names, "the new examples")
        given = x if self.sparse and as_sparse(x) is not None else matrix(x)
        design, targets = self.widen(self.inputs(given)), self.encode(y)
        design = as_design(design) if self.sparse else design
        if {leaf.shape[:1] for leaf in jax.tree.leaves(targets)} != {design.shape[:1]}:
            raise ValueError(
                f"expected as many targets as inputs, got {design.shape[0]} inputs and "
                f"targets of {jax.tree.map(np.shape, targets)}"
            )
        common_rows(x=x, y=y)
        offset = self.offset_of(offset, len(design), "lo.add")
        if offset is not None and not self.has_offset:
            raise ValueError(
                "this model has no offset; fit it with offset=np.zeros(n) to add points that do"
            )
        more = () if offset is None else (offset,)
        return (design, targets, *more), len(design)

    @compiled
    def losses(self, theta):
        """Each example's loss, without base weights."""
        return jax.vmap(self.point_loss)(self.scores(theta), self.y)

    def weighted(self, scores, v) -> tuple[Float[Array, "n"], Float[Array, "n K"]]:
        """Each example's loss at these scores, and its slopes there, times what it gets."""
        values, slopes = jax.vmap(jax.value_and_grad(self.point_loss))(scores, self.y)
        return weigh(v, values), weigh(v, slopes)

    def pull(self, slopes: Float[Array, "n K"]) -> Float[Array, "p"]:
        """Slopes at the scores as a gradient in theta: one matrix product."""
        return self.layout.flat(slopes.T @ self.design)

    def score_gradients(self, theta, x, function, y):
        """As of any scores: a derivative at the scores an example, then its product with inputs."""
        slopes = jax.vmap(jax.jacrev(function))(self.scores(theta, x), y)
        if isinstance(x, Sparse):
            x = x.written_out(slopes.shape[1] * slopes.shape[2])
        rows = self.widen(x)
        matrix = jnp.einsum("mck,mq->mckq", slopes, rows)
        return jax.vmap(jax.vmap(self.layout.flat))(matrix)

    @compiled
    def value_and_gradient(self, theta, v=None):
        """J(theta; v) and its gradient: two matrix products and autodiff at the score."""
        values, slopes = self.weighted(self.scores(theta), self.weights if v is None else v)
        penalty = self.penalty
        value = jnp.sum(values) + 0.5 * jnp.sum(penalty * theta**2)
        return value, self.pull(slopes) + penalty * theta

    def at(self, theta) -> LinearExpansion:
        """Every loss to second order around theta."""
        first, second = self._derivatives(theta)
        return LinearExpansion(
            design=self.design,
            first=first,
            second=second,
            weights=self.weights,
            penalty=self.penalty,
            layout=self.layout,
            shift_invariant=self.loss.shift_invariant,
        )

    @compiled
    def _derivatives(self, theta) -> tuple[Float[Array, "n K"], Float[Array, "n K K"]]:
        """First and second derivatives of each loss at its scores."""
        scores, point = self.scores(theta), self.point_loss
        first = jax.vmap(jax.grad(point))(scores, self.y)
        return first, jax.vmap(jax.hessian(point))(scores, self.y)

    def own_curvature(self, scores: Float[Array, "K"], y) -> Float[Array, "K"]:
        """One example's second derivative by each of its scores alone."""
        if self.loss.diagonal is not None:
            return self.loss.diagonal(scores, y)
        _, curvature = jax.linearize(lambda s: jax.grad(self.point_loss)(s, y), scores)
        eye = jnp.eye(scores.size, dtype=scores.dtype)
        # K at once would be K x K an example
        return jax.lax.map(lambda unit: jnp.sum(unit * curvature(unit)), eye)

    def free_columns(self):
        """Columns of the design of which a parameter has no penalty; all where that is traced."""
        if is_traced(self.penalty):
            return tuple(range(self.layout.width))
        bare, rows = np.asarray(to_host(self.penalty)) == 0, np.zeros(self.p, bool)
        rows[self.layout.order()] = bare  # one row of the design's columns an output
        return tuple(np.flatnonzero(rows.reshape(self.outputs, -1).any(axis=0)).tolist())

    def at_columns(self, values, columns):
        """The entries of a flat vector that belong to these columns, in every output."""
        return self.layout.matrix(values)[:, np.array(columns, int)].reshape(-1)

    def curvature_along(self, theta, change, v, columns):
        """As of any objective, the diagonal by one product with the squared columns."""
        scores, moved = self.scores(theta), self.moves(change)

        def point(scores, moved, y):
            slopes = jax.grad(self.point_loss)
            bent = jax.jvp(lambda s: slopes(s, y), (scores,), (moved,))[1]
            return jnp.sum(moved * bent), self.own_curvature(scores, y)

        whole, own = jax.vmap(point)(scores, moved, self.y)
        squares = some_columns(self.design, np.array(columns, int)) ** 2
        return jnp.sum(weigh(v, whole)), (weigh(v, own).T @ squares).ravel()


def as_linear(objective: AbstractObjective, what: str = "this") -> LinearObjective:
    """The objective, which has to be a linear model's.

    Raises:
        ValueError: if it is another.
    """
    if not isinstance(objective, LinearObjective):
        raise ValueError(f"{what} is for linear models (lo.glm and its kin)")
    return objective
