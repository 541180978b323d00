"""Statistics of the scores of all query examples together, which have no useful derivative."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import ClassVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from leaveout.measures.container import Measure
from leaveout.measures.queries import inputs_of, queries, subsets
from leaveout.objectives.abstract import as_scores
from leaveout.objectives.checks import parts
from leaveout.objectives.sparse import Inputs
from leaveout.runtime.options import check_integer

__all__ = ["accuracy", "auroc", "calibration_error"]


class _Ranked(Measure):
    """A statistic of the scores of all query examples together, or of subsets of them."""

    x: Inputs
    y: PyTree
    offset: Array | np.ndarray | None
    name: str = eqx.field(static=True)
    function: Callable = eqx.field(static=True)
    members: Float[Array | np.ndarray, "l m"]
    labels: tuple[str, ...] = eqx.field(static=True)
    needs_w: bool = eqx.field(static=True, default=False)
    bound: bool = eqx.field(static=True, default=False)
    smooth: ClassVar[bool] = False

    @property
    def better(self):
        return -1 if isinstance(self.function, _CalibrationError) else 1

    def bind(self, objective):
        if self.bound:  # its examples are coded already
            return self
        objective = as_scores(objective, self.name)
        if not objective.labelled:
            raise ValueError(f"{self.name} needs a classifier (lo.logistic, lo.softmax)")
        if self.function is _auroc and objective.outputs > 2:
            raise ValueError("auroc needs two classes; make one measure a class for more")
        x, y = inputs_of(objective, self.x, self.name), objective.encode(self.y)
        offset = objective.offset_of(self.offset, x.shape[0], self.name)
        return dataclasses.replace(
            self, x=x, y=jnp.asarray(y, jnp.int32), offset=offset, bound=True
        )

    def values(self, objective, theta, w):
        scores = as_scores(objective, self.name).scores(theta, self.x)
        scores = scores if self.offset is None else scores + self.offset
        if scores.shape[1] == 1:
            scores = jnp.concatenate([jnp.zeros_like(scores), scores], axis=1)
        return jax.vmap(lambda one: self.function(scores, self.y, one))(jnp.asarray(self.members))

    def columns(self, objective):
        return self.labels


def _ranked(examples, name, by, function) -> Measure:
    x, y, offset = parts(examples, name)
    x = queries(x, y, offset, name, by)
    members, labels = np.ones((1, x.shape[0])), (name,)
    if by is not None:
        members, titles = subsets(by, x.shape[0])
        labels = tuple(f"{name}[{label}]" for label in titles)
    return _Ranked(
        x=x,
        y=y,
        offset=offset,
        name=name,
        function=function,
        members=members,
        labels=labels,
    )


def accuracy(examples, *, by: Iterable[object] | None = None, name: str = "accuracy") -> Measure:
    """Share of query examples `(x (m d), y (m))` whose label has the largest score.

    Evaluated at the changed theta by every method, influence too: it has no useful derivative.

    Args:
        examples: inputs and labels.
        by: (m) labels, or a dictionary of names to booleans (m): a column for each subset.
        name: for tables and axes.

    Returns:
        a measure; a column each subset.

    Raises:
        ValueError: for no pair of finite inputs and as many labels, or a `by` that does not fit
            them; once the objective is known, for no classifier, other columns or labels, or no
            offset where the model has one.

    Example:
        >>> lo.effects(fit, groups, lo.measures.accuracy((x, y)), lo.Newton()).value.shape
        (4, 1)
    """
    return _ranked(examples, name, by, _accuracy)


def auroc(examples, *, by: Iterable[object] | None = None, name: str = "AUROC") -> Measure:
    """Area under the ROC curve of a binary classifier, ties counted half; as `accuracy`.

    Undefined, NaN, for a subset of one class.

    Args:
        examples: inputs and labels, `(x (m d), y (m))`.
        by: (m) labels, or a dictionary of names to booleans (m): a column for each subset.
        name: for tables and axes.

    Returns:
        a measure; a column each subset.

    Raises:
        ValueError: for no pair of finite inputs and as many labels, or a `by` that does not fit
            them; once the objective is known, for more than two classes or none, other columns or
            labels, or no offset where the model has one.

    Example:
        >>> lo.effects(fit, groups, lo.measures.auroc((x, y)), lo.Newton()).columns
        ('AUROC',)
    """
    return _ranked(examples, name, by, _auroc)


def calibration_error(
    examples, *, bins: int = 15, by: Iterable[object] | None = None, name: str = "calibration error"
) -> Measure:
    """Expected calibration error of the predicted class, in bins of equal width; as `accuracy`.

    The mean over examples of |accuracy - mean confidence| of the bin of their confidence.

    Args:
        examples: inputs and labels, `(x (m d), y (m))`.
        bins: how many.
        by: (m) labels, or a dictionary of names to booleans (m): a column for each subset.
        name: for tables and axes.

    Returns:
        a measure; a column each subset.

    Raises:
        ValueError: for no pair of finite inputs and as many labels, a `by` that does not fit them,
            or bins that are no count; once the objective is known, for no classifier, other columns
            or labels, or no offset where the model has one.

    Example:
        >>> error = lo.measures.calibration_error((x, y), bins=5)
        >>> lo.effects(fit, groups, error, lo.Newton()).columns
        ('calibration error',)

    Source: Guo, Pleiss, Sun and Weinberger (2017).
    """
    check_integer(bins, "bins")
    return _ranked(examples, name, by, _CalibrationError(int(bins)))


def _accuracy(scores, y, one):
    return jnp.sum(one * (jnp.argmax(scores, axis=1) == y)) / jnp.sum(one)


def _auroc(scores, y, one):
    score = jnp.where(one > 0, scores[:, 1] - scores[:, 0], jnp.inf)  # strangers rank last
    order = jnp.sort(score)
    below = jnp.searchsorted(order, score, side="left")
    through = jnp.searchsorted(order, score, side="right")
    positive = one * (y == 1)
    count, others = jnp.sum(positive), jnp.sum(one * (y == 0))
    ranks = jnp.sum(jnp.where(positive > 0, (below + through + 1) / 2, 0.0))
    return (ranks - count * (count + 1) / 2) / (count * others)


@dataclasses.dataclass(frozen=True)
class _CalibrationError:
    bins: int

    def __call__(self, scores, y, one):
        chance = jax.nn.softmax(scores, axis=1)
        sure, right = jnp.max(chance, axis=1), jnp.argmax(scores, axis=1) == y
        drawer = jnp.clip(jnp.ceil(sure * self.bins).astype(int) - 1, 0, self.bins - 1)
        gaps = jax.ops.segment_sum(one * (right - sure), drawer, self.bins)
        return jnp.sum(jnp.abs(gaps)) / jnp.sum(one)
