"""Measures of query examples, one by one or summed over subsets of them: models of scores."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from leaveout.measures.container import Measure, around, convex, sound
from leaveout.measures.enclosing import apart_over, image, loss_error
from leaveout.objectives.abstract import AbstractScores, as_scores, weigh
from leaveout.objectives.checks import leading_axes, parts
from leaveout.objectives.linear import as_linear
from leaveout.objectives.rounding import score_error, units_of
from leaveout.objectives.sparse import Inputs, Sparse
from leaveout.objectives.steps import Unread, is_unread
from leaveout.runtime.columns import (
    column,
    distinct,
    name_of,
    refuse_text_of_missing,
    told_apart,
)
from leaveout.runtime.tables import (
    as_sparse,
    check_names,
    common_rows,
    is_sparse,
    matrix,
    names_of,
)
from leaveout.runtime.text import shortened

__all__ = [
    "gap",
    "inputs_of",
    "loss",
    "margin",
    "prediction",
    "probability",
    "queries",
    "subsets",
]


class _PerExample(Measure):
    """A function of the scores of query examples: one column each, or sums or means of them.

    Attributes:
        x: (m d), or a table until it is bound.
        y: (m), or None.
        offset: (m K) what is added to their scores, or None; predictions need none, which move by
            as much with it as without.
        name: of a column an example.
        bound: whether the examples are as an objective takes them.
        function: of the objective, the scores (K) and the target of one example.
        pool: (l m) weights of the l sums over examples, or None for a column an example.
        labels: (l) names of the sums.
    """

    x: Inputs
    y: PyTree
    offset: Array | np.ndarray | None
    name: str = eqx.field(static=True)
    function: Callable = eqx.field(static=True)
    pool: Float[Array | np.ndarray, "l m"] | None = None
    labels: tuple[str, ...] = eqx.field(static=True, default=())
    needs_w: bool = eqx.field(static=True, default=False)
    bound: bool = eqx.field(static=True, default=False)

    def bind(self, objective):
        if self.bound:  # its examples are coded already
            return self
        objective = as_scores(objective, self.name)
        x = inputs_of(objective, self.x, self.name)
        y = jnp.zeros(x.shape[0]) if self.y is None else objective.encode(self.y)
        pool = None if self.pool is None else jnp.asarray(self.pool, objective.weights.dtype)
        offset = None
        if self.function is not _score:
            offset = objective.offset_of(self.offset, x.shape[0], self.name)
        return dataclasses.replace(self, x=x, y=y, offset=offset, pool=pool, bound=True)

    @property
    def better(self):
        return {_loss: -1, _margin: 1}.get(self.function, 0)

    def _scores(self, objective: AbstractScores, theta) -> Float[Array, "m K"]:
        """Scores of the examples at theta."""
        scores = objective.scores(theta, self.x)
        return scores if self.offset is None else scores + self.offset

    def _each(self, objective: AbstractScores, scores) -> Float[Array, "m c"]:
        """The columns of every example, from its scores."""
        values = jax.vmap(lambda s, t: self.function(objective, s, t))(scores, self.y)
        return values.reshape(len(scores), -1)

    def values(self, objective, theta, w):
        objective = as_scores(objective, self.name)
        values = self._each(objective, self._scores(objective, theta))
        return jnp.reshape(values if self.pool is None else self.pool @ values, -1)

    def gradients(self, objective, theta):
        objective = as_scores(objective, self.name)

        def slopes(scores, rest):
            y, offset = rest
            scores = scores if offset is None else scores + offset
            return jnp.reshape(self.function(objective, scores, y), -1)

        each = objective.score_gradients(theta, self.x, slopes, (self.y, self.offset))
        if self.pool is not None:
            each = jnp.einsum("lm,mcp->lcp", self.pool, each)
        return each.reshape(-1, each.shape[-1])

    def affine(self, objective):
        objective = as_scores(objective, self.name)
        linear = self.function is _margin and objective.outputs == 1
        return linear or self.function is _score

    def steepest(self, objective):
        objective = as_linear(objective)
        if self.affine(objective):
            return jnp.linalg.norm(self.gradients(objective, objective.initial()), axis=1)
        if self.function is not _loss:
            return super().steepest(objective)
        each = objective.loss.slope * jnp.linalg.norm(objective.widen(self.x), axis=1)
        return each if self.pool is None else jnp.abs(self.pool) @ each

    def enclose(self, objective, ball, w):
        objective = as_linear(objective)
        values = self.values(objective, ball.centre, None)
        half = ball.reach(self.gradients(objective, ball.centre))
        off = score_error(objective, ball.centre, self.x)
        scores = objective.scores(ball.centre, self.x)
        if self.affine(objective):
            each = jnp.broadcast_to(off[:, None], scores.shape)
            return around(values, half + self._lost(each, jnp.abs(scores)))
        if self.function is not _loss or not objective.convex:
            return super().enclose(objective, ball, w)
        apart = apart_over(objective, ball, objective.widen(self.x))
        scores = self._scores(objective, ball.centre)
        if objective.outputs == 1 and self.pool is None:
            return image(objective, scores[:, 0], self.y, apart + off)
        lost, rise = loss_error(objective, scores, self.y, off, apart)
        lost = self._lost(lost[:, None], jnp.abs(self._each(objective, scores)))
        if self.pool is None:
            return convex(values, half + lost, rise)
        rise = weigh(self.pool, jnp.broadcast_to(rise, self.pool.shape))
        up, down = jnp.sum(jnp.maximum(rise, 0.0), 1), jnp.sum(jnp.minimum(rise, 0.0), 1)
        lower, upper = around(values, half + lost)
        return sound(lower + down, upper + up)  # what is subtracted bends down

    def _lost(self, each: Float[Array, "m c"], sizes: Float[Array, "m c"]) -> Float[Array, "..."]:
        """What rounding may take from the columns: of every example, and of sums of such sizes."""
        if self.pool is None:
            return each.reshape(-1)
        summed = units_of(len(sizes)) * jnp.finfo(sizes.dtype).eps * sizes
        return (jnp.abs(self.pool) @ (each + summed)).reshape(-1)

    def columns(self, objective):
        theta = jax.ShapeDtypeStruct((objective.p,), objective.weights.dtype)
        count = len(eqx.filter_eval_shape(_values, self, objective, theta))
        scores = as_scores(objective, self.name)
        names = [scores.score_name(k) for k in range(scores.outputs)]
        if self.pool is not None:
            each = count // len(self.labels)
            return tuple(
                label + (f"[{names[k]}]" if each > 1 else "")
                for label in self.labels
                for k in range(each)
            )
        each = count // self.x.shape[0]
        if each == 1:
            return tuple(f"{self.name}[{i}]" for i in range(count))
        return tuple(f"{self.name}[{i // each}, {names[i % each]}]" for i in range(count))


@eqx.filter_jit
def _values(measure: _PerExample, objective, theta):
    """Its values: JAX keeps the trace, which `columns` asks for at every call."""
    return measure.values(objective, theta, None)


def _per_example(examples, name, reduce, by, function):
    x, y, offset = examples
    x = queries(x, y, offset, name, by)
    if reduce not in (None, "sum", "mean"):
        raise ValueError(f'expected reduce as None, "sum" or "mean", got {reduce!r}')
    each = _PerExample(x=x, y=y, offset=offset, name=name, function=function)
    if reduce is None and by is None:
        return each
    reduce = reduce or "sum"
    title = f"{reduce} of {name}"
    pool, labels = np.ones((1, x.shape[0])), (title,)
    if by is not None:
        pool, titles = subsets(by, x.shape[0])
        labels = tuple(f"{title}[{label}]" for label in titles)
    if reduce == "mean":
        pool = pool / pool.sum(axis=1, keepdims=True)
    return dataclasses.replace(each, pool=pool, labels=labels)


def queries(x, y, offset, name, by=None) -> Inputs:
    """Query inputs, with as many targets: arrays checked, tables for `inputs_of`.

    Raises:
        ValueError: for another shape, entries that are no finite numbers, or where two of x, y,
            the offset and `by` have a pandas index and they differ.
    """
    given = x
    if is_unread(x):
        x = Unread(x)
    elif is_sparse(x):
        x = as_sparse(x, f"the inputs of {name}")
        assert x is not None
    elif not isinstance(x, jax.core.Tracer):
        if np.ndim(x) < 2:
            raise ValueError(
                f"expected query inputs of shape (m, d) with m >= 1, got {np.shape(x)}; "
                "write x[None] for a single example"
            )
        x = _rows_of(x, f"the inputs of {name}")
    if (not isinstance(x, Unread) and x.ndim < 2) or x.shape[0] == 0:
        raise ValueError(f"expected query inputs of shape (m, d) with m >= 1, got {x.shape}")
    if y is not None and leading_axes(y) != {x.shape[:1]}:
        raise ValueError(
            f"expected one target for each of the {x.shape[0]} query inputs, got targets with "
            f"leading axes {sorted(leading_axes(y))}"
        )
    common_rows(x=given, y=y, offset=offset, by=by)
    return x


def inputs_of(objective: AbstractScores, x: Inputs, name: str) -> Array | Sparse:
    """Query inputs as an objective takes them; of a table what the steps before it make.

    Raises:
        ValueError: for other columns than those it was fitted on, or what is no finite number.
    """
    if not isinstance(x, Unread):
        return objective.inputs(x)
    what, made = f"the inputs of {name}", objective.made_of(x.given)
    if made is x.given:
        check_names(names_of(made), objective.names, what)
        sparse = as_sparse(made, what)
        made = matrix(made, what) if sparse is None else sparse
    return objective.inputs(made)


def _rows_of(x, what: str) -> np.ndarray:
    """Inputs (m d), or those of networks (m ...), as finite numbers."""
    if np.ndim(x) <= 2:
        return matrix(x, what)
    array = np.asarray(x)
    return matrix(array.reshape(len(array), -1), what).reshape(array.shape)


def subsets(by, count: int) -> tuple[np.ndarray, list[str]]:
    """Members (l m) of subsets of the queries, as 0 and 1, and their names.

    A query whose label is missing belongs to none.
    """
    if isinstance(by, Mapping):
        parts = [column(part) for part in by.values()]
        if not all(values.dtype == bool and there.all() for values, there in parts):
            raise ValueError("expected booleans (m) for each name in `by`")
        names, members = list(by), np.array([values for values, _ in parts])
    else:
        labels, there = column(by)
        found, code = distinct(labels[there])
        refuse_text_of_missing(found, "the labels of `by`")
        names, members = found, np.zeros((len(found), labels.size), bool)
        members[code, np.flatnonzero(there)] = True
    fits = members.ndim == 2 and members.shape[1] == count
    if not fits or not len(members) or not members.any(axis=1).all():
        raise ValueError(
            f"expected `by` as one label for each of the {count} queries, or a dictionary of names "
            f"to booleans ({count},) of which some are true; got shape {members.shape[1:]}"
        )
    return members.astype(float), told_apart([(name,) for name in names])


def prediction(
    x, *, reduce: str | None = None, by: Iterable[object] | None = None, name: str = "prediction"
) -> Measure:
    """Scores of query inputs (m d), intercept included: m K columns, example-major.

    Offsets are not asked for: with them or without, scores move by the same.

    Args:
        x: (m d).
        reduce: None for a column per example, "sum" or "mean" over examples.
        by: (m) labels, or a dictionary of names to booleans (m): a sum or mean for each subset. An
            example whose label is missing is in none.
        name: for tables and axes.

    Returns:
        a measure of m K columns, or one for each subset.

    Raises:
        ValueError: for inputs that are no finite numbers (m d), an unknown `reduce`, or a `by` that
            does not fit them; once the objective is known, for other columns.

    Example:
        >>> lo.effects(fit, groups, lo.measures.prediction(x[:2]), lo.Newton()).value.shape
        (4, 2)
    """
    return _per_example((x, None, None), name, reduce, by, _score)


def loss(
    examples, *, reduce: str | None = None, by: Iterable[object] | None = None, name: str = "loss"
) -> Measure:
    """Losses of query examples `(x (m d), y (m))`, without penalty: m columns.

    Args:
        examples: inputs and targets, the targets in the labels of the training data, or a PyTree
            like its own; and their offsets, `(x, y, offset)`, where the model has one.
        reduce: None for a column per example, "sum" or "mean" over examples.
        by: (m) labels, or a dictionary of names to booleans (m): a sum or mean for each subset. An
            example whose label is missing is in none.
        name: for tables and axes.

    Returns:
        a measure of m columns, or one for each subset.

    Raises:
        ValueError: for no pair of finite inputs and as many targets, an unknown `reduce`, or a `by`
            that does not fit them; once the objective is known, for other columns or labels, or no
            offset where the model has one.

    Example:
        >>> by_class = lo.measures.loss((x, y), by=y)
        >>> lo.effects(fit, groups, by_class, lo.Newton()).columns
        ('sum of loss[0]', 'sum of loss[1]')
    """
    return _per_example(parts(examples, name), name, reduce, by, _loss)


def margin(
    examples, *, reduce: str | None = None, by: Iterable[object] | None = None, name: str = "margin"
) -> Measure:
    """Log-odds of the true label of query examples: m columns.

    For a binary model y (w.x + b), y in {-1, +1}: what the paper's figures call the test
    prediction. For K classes s_y - log sum_{k != y} exp(s_k), which is the same for K = 2.

    Args:
        examples: inputs and labels, `(x (m d), y (m))`.
        reduce: None for a column per example, "sum" or "mean" over examples.
        by: (m) labels, or a dictionary of names to booleans (m): a sum or mean for each subset.
        name: for tables and axes.

    Returns:
        a measure of m columns, or one for each subset.

    Raises:
        ValueError: for no pair of finite inputs and as many labels, an unknown `reduce`, or a `by`
            that does not fit them; once the objective is known, for no classifier, other columns or
            labels, or no offset where the model has one.

    Example:
        >>> lo.effects(fit, groups, lo.measures.margin((x[:2], y[:2])), lo.Newton()).value.shape
        (4, 2)
    """
    return _per_example(parts(examples, name), name, reduce, by, _margin)


def probability(
    x, *, reduce: str | None = None, by: Iterable[object] | None = None, name: str = "probability"
) -> Measure:
    """Probabilities of query inputs (m d) by a classifier: of the positive label, m columns.

    Of K classes that of each, m K columns, example-major.

    Args:
        x: (m d); or examples `(x, y)` or `(x, y, offset)`, as `data.query` has them: targets are
            not looked at and may be None, the offset is needed where the model has one.
        reduce: None for a column per example, "sum" or "mean" over examples.
        by: as in `prediction`.
        name: for tables and axes.

    Returns:
        a measure of m columns (m K of K classes), or one for each subset.

    Raises:
        ValueError: for inputs that are no finite numbers (m d), an unknown `reduce`, or a `by` that
            does not fit them; once the objective is known, for no classifier, other columns, or no
            offset where the model has one.

    Example:
        >>> lo.effects(fit, groups, lo.measures.probability(x[:2]), lo.Newton()).columns
        ('probability[0]', 'probability[1]')
    """
    x, _, offset = (*x, None, None)[:3] if isinstance(x, tuple) else (x, None, None)
    return _per_example((x, None, offset), name, reduce, by, _probability)


def gap(
    examples,
    by,
    *,
    of: Callable[..., Measure] = probability,
    between: Sequence[object] | None = None,
    name: str = "gap",
) -> Measure:
    """A difference of two means over query examples: how unequally a model treats two subsets.

        gap = mean of f over the first subset - mean of f over the second

    With the predicted probability it is the smooth form of demographic parity; of subsets of the
    examples with positive labels only (`by` as a dictionary) that of equal opportunity. One column;
    a column a class or score where `of` has several.

    Args:
        examples: as `of` takes them: inputs (m d) for `probability` and `prediction`, inputs and
            targets for `loss` and `margin`.
        by: (m) labels, or a dictionary of names to booleans (m).
        of: the measure whose means are compared: `probability`, `prediction`, `loss` or `margin`.
        between: which two labels or names, the one that is subtracted last; default the two that
            there are, in sorted order (a dictionary's in its own).
        name: for tables and axes.

    Returns:
        a measure of one column; of one a class or score where `of` has several.

    Raises:
        ValueError: for other than two subsets, an unknown one, or another kind of measure.

    Example:
        >>> sex = ["f", "m"] * 12
        >>> lo.effects(fit, groups, lo.measures.gap(x, sex), lo.Newton()).columns
        ('gap in probability, f - m',)
    """
    known = of in (probability, prediction, loss, margin)
    each = of(examples, by=by, reduce="mean", name=name) if known else None
    if not isinstance(each, _PerExample) or each.pool is None:
        raise ValueError(
            f"expected of= as lo.measures.probability, .prediction, .loss or .margin, got {of!r}"
        )
    titles = subsets(by, each.x.shape[0])[1]
    asked = titles if between is None else [name_of((one,), titles) for one in between]
    if len(asked) != 2 or len(set(asked)) != 2 or not set(asked) <= set(titles):
        raise ValueError(
            f"expected a gap between two of {shortened(titles)}, got {shortened(asked)}; name them "
            "by between=(first, second)"
        )
    first, second = (titles.index(one) for one in asked)
    label = f"{name} in {getattr(of, '__name__', 'f')}, {asked[0]} - {asked[1]}"
    pool = each.pool[first] - each.pool[second]
    return dataclasses.replace(each, pool=pool[None], labels=(label,))


def _score(objective, scores, _):
    return scores


def _probability(objective, scores, _):
    if objective.loss.targets == "binary":
        return jax.nn.sigmoid(scores)
    if objective.loss.targets == "classes":
        return jax.nn.softmax(scores)
    raise ValueError("probability needs a classifier (lo.logistic, lo.softmax)")


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
