"""Linear models: the loss of a linear score, differentiated at the score where that is cheap.

What is summed over examples is contracted with the data by matrix products.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from leaveout.objectives.abstract import (
    AbstractExpansion,
    AbstractObjective,
    AbstractScores,
    weigh,
)
from leaveout.objectives.checks import (
    encode,
    parts,
)
from leaveout.objectives.layout import Layout, pairs
from leaveout.objectives.losses import Loss
from leaveout.runtime.sharding import is_traced, replicate
from leaveout.runtime.tables import (
    Fingerprint,
    Names,
    check_names,
    common_rows,
    is_table,
    matrix,
    names_of,
)

__all__ = [
    "LinearExpansion",
    "LinearObjective",
    "as_linear",
    "crossproduct",
]


def crossproduct(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, "p q"]:
    """X' Y, X written down transposed first: products on a processor run up to twice as fast so."""
    return jax.lax.optimization_barrier(x.T) @ y


class LinearExpansion(AbstractExpansion):
    """Second-order expansion of losses of linear scores; one matrix product per contraction.

    Attributes:
        design: (n q) inputs, the intercept's ones last.
        first: (n K) derivative of each loss at its scores.
        second: (n K K) second derivative.
        weights: (n) base weights.
        penalty: (p) the diagonal of the penalty's Hessian.
        layout: where weight and bias lie in theta.
        shift_invariant: as of `Loss`.
    """

    design: Float[Array, "n q"]
    first: Float[Array, "n K"]
    second: Float[Array, "n K K"]
    weights: Float[Array, "n"]
    penalty: Float[Array, "p"]
    layout: Layout = eqx.field(static=True)
    shift_invariant: bool = eqx.field(static=True)

    @property
    def curvature(self) -> Float[Array, "n K K"]:
        """Second derivatives times base weights: what each example adds to H, at its scores."""
        return weigh(self.weights, self.second)

    def gradient(self, v):
        """sum_i v_i grad loss_i."""
        return self.layout.flat(weigh(v, self.first).T @ self.design)

    def scores(self, vector: Float[Array, "p"]) -> Float[Array, "n K"]:
        """The change in scores when theta changes by `vector`."""
        return self.design @ self.layout.matrix(vector).T

    def hvp(self, v, vector):
        """sum_i v_i hess loss_i vector."""
        moved = jnp.einsum("nkl,nl->nk", self.second, self.scores(vector))
        return self.layout.flat(weigh(v, moved).T @ self.design)

    def hessian(self, v):
        """sum_i v_i hess loss_i: K (K + 1) / 2 products of q x n by n x q."""
        outputs, width = self.layout.outputs, self.layout.width
        rows, columns, place = pairs(outputs)

        def block(pair):
            scale = weigh(v, self.second[:, pair[0], pair[1]])
            return crossproduct(scale[:, None] * self.design, self.design)

        each = jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], 1)
        upper = block(each[0])[None] if outputs == 1 else jax.lax.map(block, each)
        blocks = upper[place]  # (K K q q)
        matrix = blocks.transpose(0, 2, 1, 3).reshape(outputs * width, outputs * width)
        order = self.layout.order()
        return matrix if outputs == 1 else matrix[order][:, order]

    def dot(self, vector):
        """Grad loss_i . vector, for every example."""
        return jnp.sum(self.first * self.scores(vector), axis=1)

    def dots(self, vectors):
        """The same for several vectors: one matrix product an output.

        Its slopes scale the inputs or the product, whichever has fewer columns: no more than one
        array of either size an output is in memory.
        """
        parts = jax.vmap(self.layout.matrix)(vectors)  # (m K q)
        before = len(vectors) > self.layout.width
        terms = [
            (slope * self.design) @ parts[:, k].T
            if before
            else slope * (self.design @ parts[:, k].T)
            for k, slope in enumerate(jnp.split(self.first, self.layout.outputs, axis=1))
        ]
        return sum(terms[1:], terms[0])

    def scatter(self):
        """sum_i g_i g_i': as costly as a Hessian, without an n x p array."""
        own = weigh(self.weights, self.first)
        outer = own[:, :, None] * self.first[:, None, :]
        return dataclasses.replace(self, second=outer).hessian(self.weights)

    def restrict(self, rows):
        """The expansion of the examples `rows` only."""
        some = {
            name: getattr(self, name)[rows] for name in ("design", "first", "second", "weights")
        }
        return dataclasses.replace(self, **some)

    def diagonal(self, v) -> Float[Array, "p"]:
        """The diagonal of `hessian`, at the cost of one product."""
        curvature = jnp.diagonal(self.second, axis1=1, axis2=2)
        return self.layout.flat(weigh(v, curvature).T @ self.design**2)

    def gauge(self):
        """Pins the common shift of all classes wherever nothing penalises it (see `Layout`)."""
        if not self.shift_invariant:
            return None
        outputs, order = self.layout.outputs, self.layout.order()
        trace = weigh(self.weights, jnp.trace(self.second, axis1=1, axis2=2))
        free = jnp.all(self.layout.matrix(self.penalty) == 0, axis=0)
        scale = jnp.where(free, trace @ self.design**2 / outputs, 0.0)
        matrix = jnp.kron(jnp.full((outputs, outputs), 1 / outputs), jnp.diag(scale))
        return matrix[order][:, order]


class LinearObjective(AbstractScores):
    """Losses of the scores of a linear model; made by `glm`, `logistic`, `softmax`, ...

    Attributes:
        design: (n q) inputs with a last column of ones if there is an intercept.
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
        centre: (d) what the user's inputs are measured from here, or None (`centred`). The flat
            theta then holds the scores at the centre in the place of the intercepts.
    """

    design: Float[Array, "n q"]
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
    centre: Float[Array, "d"] | None = None

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
        return self.design if self.layout.outputs == 1 else None

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
    def x(self) -> Float[Array, "n d"]:
        """Inputs without the intercept's column."""
        return self.design[:, : self.layout.features]

    @property
    def intercept(self) -> bool:
        """Whether there is a bias."""
        return self.layout.intercept

    def initial(self):
        """Zeros: a linear model has no better guess."""
        return jnp.zeros(self.layout.size, self.design.dtype)

    def tree(self, theta):
        """Flat theta as `Linear(weight, bias)`."""
        return self.layout.tree(self.shown(jnp.asarray(theta)))

    parameters = tree

    def flat(self, theta):
        """`Linear(weight, bias)` as the flat vector."""
        return self.taken_in(super().flat(theta))

    def centred(self) -> "LinearObjective":
        """Columns measured from their means, where the intercept is free and a mean is far out.

        A column of mean m and variance s^2 costs m^2 / (s^2 + l2 / n) units of rounding in H. With
        an intercept that nothing penalises the model, its weights and the penalty stay the same.
        """
        biases = self.layout.size - self.layout.outputs
        if not self.layout.intercept or is_traced(self):
            return self
        if np.asarray(self.penalised)[biases:].any():
            return self
        means, variances, held = (np.asarray(part)[:-1] for part in _moments(self))
        eps = float(jnp.finfo(self.design.dtype).eps)
        far = means**2 > eps**-0.25 * (variances + held)
        if not far.any():
            return self
        constant = variances <= (1e2 * eps * means) ** 2
        centre = jnp.asarray(np.where(far, means, 0.0), self.design.dtype)
        kept = np.append(~(far & constant), True)  # of a constant column all else is rounding
        return self._measured_from(centre, jnp.asarray(kept))

    def measured_as(self, other):
        """Columns measured from the centre of another."""
        centre = as_linear(other).centre
        if centre is None:
            return self
        return self._measured_from(centre, jnp.any(as_linear(other).design != 0, axis=0))

    def _measured_from(self, centre, kept) -> "LinearObjective":
        design = jnp.where(kept[None], _measured_from(centre, self.design), 0.0)
        return dataclasses.replace(self, design=design, centre=centre)

    def brought_in(self, design: Float[Array, "m q"]) -> Float[Array, "m q"]:
        """Rows of a design in the user's coordinates, measured from the centre."""
        return design if self.centre is None else _measured_from(self.centre, design)

    def shown(self, theta):
        """Flat theta with intercepts that are scores at the origin of the user's inputs."""
        return theta if self.centre is None else _shifted(self.layout, theta, -self.centre)

    def taken_in(self, theta):
        """Flat theta with intercepts that are scores at the centre."""
        return theta if self.centre is None else _shifted(self.layout, theta, self.centre)

    def inputs(self, x):
        """Inputs (m d), one row an example, measured as the model measures them.

        Raises:
            ValueError: for another number of columns, or a table with others than those of x.
        """
        check_names(names_of(x), self.names, "these inputs")
        x = self._rows(matrix(x, "inputs") if is_table(x) else x)
        return x if self.centre is None else x - self.centre[None]

    def _rows(self, x) -> Float[Array, "m d"]:
        """Inputs in the precision of the model, as they are."""
        x = jnp.asarray(x, self.design.dtype)
        if x.ndim != 2 or x.shape[1] != self.layout.features:
            raise ValueError(
                f"expected inputs of shape (m, {self.layout.features}), got {x.shape}; "
                "give one row per example with the columns the model was fitted on"
            )
        return x

    def widen(self, x) -> Float[Array, "m q"]:
        """What `inputs` gave, with the intercept's column of ones if the model has one."""
        x = self._rows(x)
        if not self.layout.intercept:
            return x
        return jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], 1)

    def scores(self, theta, x=None):
        """Scores of what `inputs` gave (m d), a column an output; of the training data by default.

        Rows of a design (m q), ones included, serve too. Offsets are those of the training data;
        other inputs have none.
        """
        if x is None:
            scores = self.moves(theta)
            return scores if self.offset is None else scores + self.offset
        x = self.inputs(x) if is_table(x) else x
        whole = np.shape(x)[1:] == (self.layout.width,)
        return (jnp.asarray(x) if whole else self.widen(x)) @ self.layout.matrix(theta).T

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
        design, targets = self.widen(self.inputs(matrix(x))), self.encode(y)
        if {leaf.shape[:1] for leaf in jax.tree.leaves(targets)} != {design.shape[:1]}:
            raise ValueError(
                f"expected as many targets as inputs, got inputs of shape {np.shape(x)} and "
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
        matrix = jnp.einsum("mck,mq->mckq", slopes, self.widen(x))
        return jax.vmap(jax.vmap(self.layout.flat))(matrix)

    def value_and_gradient(self, theta, v=None):
        """J(theta; v) and its gradient: two matrix products and autodiff at the score."""
        values, slopes = self.weighted(self.scores(theta), self.weights if v is None else v)
        penalty = self.penalty
        value = jnp.sum(values) + 0.5 * jnp.sum(penalty * theta**2)
        return value, self.pull(slopes) + penalty * theta

    def at(self, theta) -> LinearExpansion:
        """Every loss to second order around theta."""
        scores = self.scores(theta)
        return LinearExpansion(
            design=self.design,
            first=jax.vmap(jax.grad(self.point_loss))(scores, self.y),
            second=jax.vmap(jax.hessian(self.point_loss))(scores, self.y),
            weights=self.weights,
            penalty=self.penalty,
            layout=self.layout,
            shift_invariant=self.loss.shift_invariant,
        )

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
        penalty = np.asarray(self.layout.matrix(np.asarray(self.penalty)))
        return tuple(np.flatnonzero((penalty == 0).any(axis=0)).tolist())

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
        squares = self.design[:, np.array(columns, int)] ** 2
        return jnp.sum(weigh(v, whole)), (weigh(v, own).T @ squares).ravel()


@eqx.filter_jit
def _moments(objective: LinearObjective):
    """Weighted means and variances (q) of the columns, and the least penalty over the weight."""
    weights, design = objective.weights, objective.design
    total = jnp.sum(weights)
    means = weights @ design / total
    held = jnp.min(objective.layout.matrix(objective.penalty), axis=0) / total
    return replicate((means, weights @ (design - means[None]) ** 2 / total, held))


def _measured_from(centre: Float[Array, "d"], design: Float[Array, "m q"]) -> Float[Array, "m q"]:
    return design - jnp.append(centre, 0.0)[None]


def _shifted(layout: Layout, theta, centre):
    """Flat theta (... p), each intercept with weight @ centre added."""
    cut = layout.outputs * layout.features
    weight = theta[..., :cut].reshape(*theta.shape[:-1], layout.outputs, layout.features)
    return theta.at[..., cut:].add(weight @ centre)


def as_linear(objective: AbstractObjective, what: str = "this") -> LinearObjective:
    """The objective, which has to be a linear model's.

    Raises:
        ValueError: if it is another.
    """
    if not isinstance(objective, LinearObjective):
        raise ValueError(f"{what} is for linear models (lo.glm and its kin)")
    return objective
