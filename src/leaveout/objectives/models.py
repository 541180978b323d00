"""Linear models by their loss: what users call."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import numpy as np
from jaxtyping import ArrayLike

from leaveout.objectives import losses as _losses
from leaveout.objectives.checks import (
    check_data,
    check_offset,
    check_penalty,
    check_scalar,
    check_weights,
)
from leaveout.objectives.layout import Layout, Linear
from leaveout.objectives.linear import LinearObjective
from leaveout.objectives.losses import Loss
from leaveout.objectives.sparse import widened
from leaveout.runtime.options import check_is
from leaveout.runtime.sharding import in_jax
from leaveout.runtime.tables import Named, by_name, common_rows, names_of

__all__ = ["Penalty", "glm", "logistic", "poisson", "softmax", "squares"]


#: l2: one number, or one for each coefficient; what is neither reaches `check_penalty`, which says
#: so in a sentence
if TYPE_CHECKING:
    Penalty: TypeAlias = float | ArrayLike | Sequence[float] | Linear | Named
else:
    Penalty = object


def glm(
    loss: Callable,
    x,
    y,
    outputs: int = 1,
    l2: Penalty = 1.0,
    *,
    intercept: bool = True,
    weights=None,
    penalised=None,
    offset=None,
) -> LinearObjective:
    """The objective of a linear model under any loss of its scores.

        J(theta) = sum_i s_i loss(weight @ x_i + bias + offset_i, y_i) + l2/2 |weight|^2

    Args:
        loss: `loss(scores, y)` to a scalar, of ONE example, pure JAX; scores is () if outputs is
            1, else (outputs). A `losses.Loss` also checks and codes the targets, and can say that
            it is convex: then retraining needs gradients only, which is up to twice as fast.
        x: (n d) inputs: an array, lists, or a table of pandas, polars or pyarrow, whose names are
            kept: a table of queries has to have the same columns in the same order. Columns of
            booleans are 0 and 1. d = 0 fits the intercept alone. Sparse matrices of SciPy, and
            tables of pandas whose columns are all sparse, stay sparse where they have more columns
            than rows or a dense copy would take more than 256 MiB; others are written out.
        y: (n ...) targets, or a PyTree of them, passed to the loss one by one. What else an example
            has goes in here: `y={"time": time, "censored": censored}`.
        outputs: K, scores per example.
        l2: penalty, at least 0; a sum convention, so scikit-learn's 1 / C. Or one for each
            coefficient: shaped like the weight, (d) for one a feature, flat (p) with the intercept
            last, or as `Linear(weight, bias)`; of a table a pandas Series or a dictionary of its
            columns. A penalty for each group, or a grid of them, then multiplies these.
        intercept: fit a bias, which is not penalised.
        weights: (n) base weights s_i >= 0; default 1.
        penalised: which parameters l2 falls on, or how heavily: booleans or numbers, shaped as l2
            can be; default the weight only.
        offset: (n), or (n K) for several outputs: known amounts that are added to the scores, such
            as the log of an exposure. Query examples then carry theirs, `(x, y, offset)`.

    Returns:
        the objective, for `lo.fit`.

    Raises:
        ValueError: for wrong lengths, NaN, labels out of range, a negative l2, or where two of x,
            y, weights and offset have a pandas index and they differ.

    Example:
        >>> def pseudo_huber(score, y):
        ...     return jnp.sqrt(1 + (score - y) ** 2) - 1
        >>> lo.fit(lo.glm(pseudo_huber, x, y, l2=0.5)).theta.weight.shape
        (3,)
    """
    check_is(intercept, bool | np.bool | int, "intercept as True or False")
    loss = loss if isinstance(loss, Loss) else Loss(loss)
    given, names = {"x": x, "y": y, "weights": weights, "offset": offset}, names_of(x)
    x, y, classes, outputs = check_data(loss, x, y, outputs)
    layout = Layout(x.shape[1], outputs, bool(intercept))
    if layout.size == 0:
        raise ValueError("x has no columns and there is no intercept: there is nothing to fit")
    x = widened(x, layout.intercept)
    like = jax.eval_shape(layout.tree, jax.ShapeDtypeStruct((layout.size,), x.dtype))
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    last = "intercept" if layout.intercept else None
    l2, penalised = (by_name(each, names, "the penalty", last=last) for each in (l2, penalised))
    l2, penalised = check_penalty(l2, penalised, like, layout.penalised(), x.dtype)
    objective = LinearObjective(
        design=x,
        y=y,
        offset=check_offset(offset, x.shape[0], outputs, x.dtype),
        weights=check_weights(weights, x.shape[0], x.dtype),
        l2=l2,
        penalised=penalised,
        loss=loss,
        layout=layout,
        classes=classes,
        names=names,
        targets=names_of(given["y"]) if loss.targets == "real" and y.ndim == 2 else None,
        fingerprint=common_rows(**given),
    )
    with in_jax("the loss"):
        shape = jax.eval_shape(
            lambda s, t: loss(s[0] if outputs == 1 else s, t),
            jax.ShapeDtypeStruct((outputs,), x.dtype),
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), y),
        )
    check_scalar(shape)
    return objective


def logistic(
    x,
    y,
    l2: Penalty = 1.0,
    *,
    intercept: bool = True,
    weights=None,
    penalised=None,
    offset=None,
) -> LinearObjective:
    """Binary logistic regression; the larger of the two labels is the positive one.

    Args:
        x: (n d) inputs: an array, a table, or a sparse matrix, as in `glm`.
        y: (n) two labels of any kind.
        l2: penalty, at least 0: scikit-learn's 1 / C; or one for each coefficient.
        intercept: fit a bias, which is not penalised.
        weights: (n) base weights, at least 0; default 1.
        penalised: which parameters l2 falls on, or how heavily; default the weight only.
        offset: (n) known amounts that are added to the scores.

    Returns:
        the objective, for `lo.fit`.

    Raises:
        ValueError: for more or fewer labels than two, and as `glm`.

    Example:
        >>> lo.fit(lo.logistic(x, ["no", "yes"] * 12, l2=1.0)).theta.weight.shape
        (3,)
    """
    return glm(
        _losses.logistic,
        x,
        y,
        1,
        l2,
        intercept=intercept,
        weights=weights,
        penalised=penalised,
        offset=offset,
    )


def softmax(
    x,
    y,
    l2: Penalty = 1.0,
    *,
    intercept: bool = True,
    weights=None,
    penalised=None,
    offset=None,
) -> LinearObjective:
    """Multinomial logistic regression with one score for each of the K labels found in y.

    Two labels at l2 give the predictions of `logistic` at l2 / 2.

    Args:
        x: (n d) inputs: an array, a table, or a sparse matrix, as in `glm`.
        y: (n) K labels of any kind.
        l2: penalty, at least 0: scikit-learn's 1 / C; or one for each coefficient.
        intercept: fit K biases, which is not penalised.
        weights: (n) base weights, at least 0; default 1.
        penalised: which parameters l2 falls on, or how heavily; default the weight only.
        offset: (n K) known amounts that are added to the scores.

    Returns:
        the objective, for `lo.fit`.

    Raises:
        ValueError: for one label alone, and as `glm`.

    Example:
        >>> lo.fit(lo.softmax(x, np.arange(24) % 3, l2=1.0)).theta.weight.shape
        (3, 3)
    """
    return glm(
        _losses.softmax,
        x,
        y,
        0,
        l2,
        intercept=intercept,
        weights=weights,
        penalised=penalised,
        offset=offset,
    )


def squares(
    x,
    y,
    l2: Penalty = 1.0,
    *,
    intercept: bool = True,
    weights=None,
    penalised=None,
    offset=None,
) -> LinearObjective:
    """Least squares, loss (score - y)^2 / 2: scikit-learn's Ridge at alpha = l2.

    Targets (n K) make K scores an example and add up their losses: K regressions under one penalty.

    Args:
        x: (n d) inputs: an array, a table, or a sparse matrix, as in `glm`.
        y: (n) numbers, or (n K).
        l2: penalty, at least 0; or one for each coefficient.
        intercept: fit a bias for each score, which is not penalised.
        weights: (n) base weights, at least 0; default 1.
        penalised: which parameters l2 falls on, or how heavily; default the weight only.
        offset: (n), or (n K): known amounts that are added to the scores.

    Returns:
        the objective, for `lo.fit`.

    Raises:
        ValueError: for targets that are no finite numbers, and as `glm`.

    Example:
        >>> bool(np.allclose(lo.fit(lo.squares(x, x[:, 0], l2=0.0)).theta.weight, [1.0, 0.0, 0.0]))
        True
    """
    return glm(
        _losses.squares,
        x,
        y,
        0,
        l2,
        intercept=intercept,
        weights=weights,
        penalised=penalised,
        offset=offset,
    )


def poisson(
    x,
    y,
    l2: Penalty = 1.0,
    *,
    intercept: bool = True,
    weights=None,
    penalised=None,
    offset=None,
) -> LinearObjective:
    """Poisson regression with the log link.

    Rates: `offset=np.log(exposure)`.

    Args:
        x: (n d) inputs: an array, a table, or a sparse matrix, as in `glm`.
        y: (n) counts, at least 0; they need not be whole.
        l2: penalty, at least 0: n times scikit-learn's alpha; or one for each coefficient.
        intercept: fit a bias, which is not penalised.
        weights: (n) base weights, at least 0; default 1.
        penalised: which parameters l2 falls on, or how heavily; default the weight only.
        offset: (n) known amounts that are added to the scores, such as the log of an exposure.

    Returns:
        the objective, for `lo.fit`.

    Raises:
        ValueError: for negative counts, and as `glm`.

    Example:
        >>> exposure = np.linspace(1, 2, 24)
        >>> rates = lo.poisson(x, np.arange(24) % 3, l2=1.0, offset=np.log(exposure))
        >>> lo.fit(rates).theta.weight.shape
        (3,)
    """
    return glm(
        _losses.poisson,
        x,
        y,
        1,
        l2,
        intercept=intercept,
        weights=weights,
        penalised=penalised,
        offset=offset,
    )
