"""Measures of the group itself, and of theta itself."""

import dataclasses
from collections.abc import Hashable, Iterable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leaveout.measures.container import Measure, around, sound
from leaveout.measures.enclosing import loss_error
from leaveout.objectives import losses
from leaveout.objectives.abstract import weigh
from leaveout.objectives.linear import LinearObjective, as_linear
from leaveout.objectives.rounding import score_error, units_of
from leaveout.runtime.options import check_positive
from leaveout.runtime.sharding import is_traced
from leaveout.runtime.tables import is_sparse, named_values
from leaveout.runtime.text import did_you_mean

__all__ = ["linear", "odds_ratio", "parameter", "self_loss"]


class _SelfLoss(Measure):
    """sum_i s_i w_i loss_i(theta) over what left, the sum of (s - v) loss."""

    name: str = eqx.field(static=True, default="self_loss")
    needs_w: bool = eqx.field(static=True, default=True)
    own: ClassVar[bool] = True

    @property
    def better(self):
        return -1

    def values(self, objective, theta, w):
        assert w is not None  # needs_w
        return jnp.sum(weigh(objective.taken(w), objective.losses(theta)))[None]

    def enclose(self, objective, ball, w):
        objective = as_linear(objective)
        if not objective.convex:
            return super().enclose(objective, ball, w)
        assert w is not None  # needs_w
        taken = objective.taken(w)
        values = self.values(objective, ball.centre, w)
        scores, off = objective.scores(ball.centre), score_error(objective, ball.centre)
        losses, slopes = objective.weighted(scores, taken)
        apart = jnp.broadcast_to(ball.points * ball.radius, taken.shape)
        lost, rise = loss_error(objective, scores, objective.y, off, apart)
        rise = weigh(taken, rise)  # what is added bends down
        up, down = jnp.sum(jnp.maximum(rise, 0.0)), jnp.sum(jnp.minimum(rise, 0.0))
        sizes = units_of(len(taken)) * jnp.finfo(taken.dtype).eps * jnp.abs(losses)
        lost = jnp.sum(sizes) + jnp.sum(weigh(jnp.abs(taken), lost))
        lower, upper = around(values, ball.reach(objective.pull(slopes)[None]) + lost)
        return sound(lower + down, upper + up)

    def steepest(self, objective):
        objective = as_linear(objective)
        unit = jnp.where(objective.weights > 0, objective.weights, 1.0)
        return unit * objective.loss.slope * jnp.linalg.norm(objective.design, axis=1)

    def columns(self, objective):
        return ("self_loss",)


def self_loss() -> Measure:
    """The loss of the group itself, sum_i s_i w_i loss_i(theta): one column.

    Not additive over groups: what is predicted depends on who leaves together.

    Returns:
        a measure of one column.

    Example:
        >>> effects = lo.effects(fit, groups, lo.measures.self_loss(), lo.Retrain())
        >>> bool((effects.value > 0).all())
        True
    """
    return _SelfLoss()


def _lost(objective, sizes):
    """Rounding in sums over theta, by the sums of the sizes of their terms."""
    return units_of(objective.p) * jnp.finfo(sizes.dtype).eps * sizes


class _Parameter(Measure):
    """Entries of the flat theta.

    Attributes:
        index: (k) their positions; found by `bind` where features are named.
        features: names of the columns of x whose coefficients are meant, or None.
        labels: (k) what the entries are called; default their positions.
    """

    index: tuple[int, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)
    features: tuple[str, ...] | None = eqx.field(static=True, default=None)
    labels: tuple[str, ...] | None = eqx.field(static=True, default=None)
    needs_w: bool = eqx.field(static=True, default=False)

    def bind(self, objective):
        if self.features is None:
            return self
        objective = as_linear(objective, "a parameter's name")
        each = [_coefficients(objective, feature) for feature in self.features]
        index, labels = (sum(parts, ()) for parts in zip(*each, strict=True))
        return dataclasses.replace(self, index=index, labels=labels, features=None)

    def affine(self, objective):
        return True

    def values(self, objective, theta, w):
        return objective.shown(theta)[np.asarray(self.index)]

    def enclose(self, objective, ball, w):
        vectors, theta = self.gradients(objective, ball.centre), ball.centre
        lost = _lost(objective, jnp.abs(vectors) @ jnp.abs(theta))
        return around(self.values(objective, theta, w), ball.reach(vectors) + lost)

    def steepest(self, objective):
        return jnp.linalg.norm(self.gradients(objective, objective.initial()), axis=1)

    def columns(self, objective):
        size = objective.known_size
        if max(self.index) >= size or min(self.index) < -size:
            raise ValueError(f"theta has {size} entries, but entry {self.index} was asked")
        labels = self.index if self.labels is None else self.labels
        return tuple(f"{self.name}[{label}]" for label in labels)


def _coefficients(
    objective: LinearObjective, feature: Hashable
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Where theta holds the coefficient of a feature, one a score, and what each is called."""
    layout, columns = objective.known_layout, _columns(objective, feature)
    place = np.argsort(layout.order()).reshape(layout.outputs, layout.width)
    at = place[:, columns].T.reshape(-1)
    return tuple(at.tolist()), tuple(objective.titles[i] for i in at)


def _columns(objective: LinearObjective, feature: Hashable) -> list[int]:
    """Columns of the design that a name stands for.

    Of a category that `lo.table` coded, all of its columns, "site=va" for "site".

    Raises:
        ValueError: for an unknown name, or one of several columns.
    """
    names = (*(objective.names or ()), *(["intercept"] if objective.intercept else []))
    found = [j for j, name in enumerate(names) if name == feature]
    if not found and feature:
        found = [j for j, name in enumerate(names) if str(name).startswith(f"{feature}=")]
    elif len(found) > 1:
        raise ValueError(f"{len(found)} columns of x are called {feature!r}; give their positions")
    if not found:
        known = did_you_mean(feature, names) if objective.names else ": x was no table with names"
        raise ValueError(f"no column of x is called {feature!r}{known}")
    return found if objective.names else [objective.known_layout.features]


def parameter(index, *, name: str = "parameter") -> Measure:
    """One entry, or several, of the flat theta.

    Args:
        index: an integer or several, each a position in theta; negative ones count from its end; or
            names of columns of x where that was a table, and "intercept": the coefficient of each,
            of every score where there are several. The name of a category that `lo.table` coded
            stands for all of its columns.
        name: for tables and axes.

    Returns:
        a measure, a column for each entry.

    Raises:
        ValueError: for what is no integer, booleans among it; for a position beyond theta, or an
            unknown name, once the objective is known.

    Example:
        >>> lo.effects(fit, groups, lo.measures.parameter([0, -1]), lo.Newton()).columns
        ('parameter[0]', 'parameter[-1]')
    """
    asked = np.atleast_1d(np.asarray(index))
    if asked.size and all(isinstance(one, str) for one in asked.reshape(-1).tolist()):
        return _Parameter(index=(), name=name, features=tuple(asked.reshape(-1).tolist()))
    if asked.ndim != 1 or asked.size == 0 or asked.dtype.kind not in "iu":
        masks = "; write np.flatnonzero(mask) for booleans" if asked.dtype == bool else ""
        raise ValueError(
            "expected one position in theta, or several, as integers, or names of columns, got "
            f"{index!r}{masks}"
        )
    return _Parameter(index=tuple(asked.tolist()), name=name)


class _OddsRatio(Measure):
    """Exponentials of coefficients, or of their differences from those of the first class.

    Attributes:
        features: names of the columns of x.
        per: units of the feature that the odds are compared over.
        index: (k) positions of the coefficients; found by `bind`.
        against: (k) those that are taken away, or none.
        labels: (k) what the columns are called.
    """

    features: tuple[str, ...] = eqx.field(static=True)
    per: float = eqx.field(static=True)
    name: str = eqx.field(static=True)
    index: tuple[int, ...] = eqx.field(static=True, default=())
    against: tuple[int, ...] = eqx.field(static=True, default=())
    labels: tuple[str, ...] = eqx.field(static=True, default=())
    needs_w: bool = eqx.field(static=True, default=False)

    @property
    def ratio(self):
        return True

    def bind(self, objective):
        if self.index:
            return self
        objective = as_linear(objective, self.name)
        if objective.loss not in (losses.logistic, losses.softmax):
            raise ValueError(
                f"{self.name} needs lo.logistic or lo.softmax, whose scores are log-odds; see "
                "lo.measures.parameter for the coefficients of others"
            )
        found = [_coefficients(objective, feature) for feature in self.features]
        index, labels = (sum(parts, ()) for parts in zip(*found, strict=True))
        if objective.outputs == 1:
            return dataclasses.replace(self, index=index, labels=labels)
        count = objective.outputs
        against = tuple(index[i - i % count] for i in range(len(index)))
        first = objective.score_name(0)
        kept = [i for i in range(len(index)) if i % count]
        return dataclasses.replace(
            self,
            index=tuple(index[i] for i in kept),
            against=tuple(against[i] for i in kept),
            labels=tuple(f"{labels[i]} against {first}" for i in kept),
        )

    def _log(self, objective, theta):
        """The log odds ratios."""
        shown = objective.shown(theta)
        found = shown[np.asarray(self.index)]
        if self.against:
            found = found - shown[np.asarray(self.against)]
        return self.per * found

    def values(self, objective, theta, w):
        return jnp.exp(self._log(objective, theta))

    def enclose(self, objective, ball, w):
        theta = ball.centre
        vectors = jax.jacrev(lambda t: self._log(objective, t))(theta)
        lost = _lost(objective, jnp.abs(vectors) @ jnp.abs(theta))
        lower, upper = around(self._log(objective, theta), ball.reach(vectors) + lost)
        eps = 4 * jnp.finfo(theta.dtype).eps
        return sound(jnp.exp(lower) * (1 - eps), jnp.exp(upper) * (1 + eps))

    def columns(self, objective):
        return tuple(f"{self.name}[{label}]" for label in self.labels)


def odds_ratio(feature: str | Iterable[str], *, per: float | int = 1, name: str = "") -> Measure:
    """Odds ratios of features, exp(coefficient): of `lo.logistic`, or of `lo.softmax`.

    By how much the odds of the positive class are multiplied where the feature is one unit larger
    and the others stay; of more than two classes those of each class against the first one. A
    feature that was standardised has standard deviations for units.

    Args:
        feature: the name of a column of x, or several; of a category that `lo.table` coded, its
            name stands for all its columns, each against the reference.
        per: units, such as 10 for ten years.
        name: for tables and axes; default "odds ratio", with the units if they are not one.

    Returns:
        a measure of one column for each feature, and of K > 2 classes of K - 1 for each.

    Raises:
        ValueError: for another loss, or an unknown name, once the objective is known.

    Example:
        >>> import pandas as pd
        >>> named = lo.fit(lo.logistic(pd.DataFrame(x, columns=["age", "dose", "bmi"]), y, l2=1.0))
        >>> lo.effects(named, groups, lo.measures.odds_ratio("age", per=10)).columns
        ('odds ratio per 10[age]',)
    """
    several = () if isinstance(feature, str) or not isinstance(feature, Iterable) else feature
    features = (feature,) if isinstance(feature, str) else tuple(several)
    if not features or not all(isinstance(one, str) for one in features):
        raise ValueError(f"expected the name of a feature, or several, got {feature!r:.100}")
    check_positive(per, "per")
    title = name or ("odds ratio" if per == 1 else f"odds ratio per {per:g}")
    return _OddsRatio(features=features, per=float(per), name=title)


class _Linear(Measure):
    """Products of given vectors with the flat theta.

    Attributes:
        vectors: (m p), or (m k) by named coefficients until they are bound.
        name: for tables and axes.
        features: (k) names of the columns of x whose coefficients are meant, or None.
    """

    vectors: Float[Array, "m p"]
    name: str = eqx.field(static=True)
    features: tuple[Hashable, ...] | None = eqx.field(static=True, default=None)
    needs_w: bool = eqx.field(static=True, default=False)

    def bind(self, objective):
        if self.features is None:
            return self
        counted = self.features == tuple(range(len(self.features)))  # as pandas does unasked
        if counted and not set(self.features) <= set(getattr(objective, "names", None) or ()):
            return dataclasses.replace(self, features=None)
        objective = as_linear(objective, "a coefficient's name")
        found = [_coefficients(objective, feature)[0] for feature in self.features]
        many = next((f for f, at in zip(self.features, found, strict=True) if len(at) > 1), None)
        if many is not None:
            raise ValueError(
                f"{many!r} names several entries of theta, and the vectors have one number for it; "
                "give vectors of all p entries as an array"
            )
        at = np.concatenate([np.asarray(each) for each in found])
        if len(set(at.tolist())) < len(at):
            raise ValueError("a coefficient is named twice; give one number for each")
        whole = jnp.zeros((len(self.vectors), objective.known_size), self.vectors.dtype)
        return dataclasses.replace(self, vectors=whole.at[:, at].set(self.vectors), features=None)

    def affine(self, objective):
        return True

    def values(self, objective, theta, w):
        return self.vectors @ objective.shown(theta)

    def enclose(self, objective, ball, w):
        vectors, theta = self.gradients(objective, ball.centre), ball.centre
        sizes = jnp.abs(self.vectors) @ jnp.abs(objective.shown(theta))
        sizes += jnp.abs(vectors) @ jnp.abs(theta)
        return around(
            self.values(objective, theta, w), ball.reach(vectors) + _lost(objective, sizes)
        )

    def steepest(self, objective):
        return jnp.linalg.norm(self.gradients(objective, objective.initial()), axis=1)

    def columns(self, objective):
        if self.vectors.shape[1] != objective.known_size:
            raise ValueError(
                f"theta has {objective.known_size} entries, the vectors have "
                f"{self.vectors.shape[1]}"
            )
        return tuple(f"{self.name}[{i}]" for i in range(len(self.vectors)))


def linear(vectors, *, name: str = "linear") -> Measure:
    """Linear functionals: products of vectors (m p) with the flat theta, m columns.

    Args:
        vectors: (m p), or (p) for one; or by names of columns of x and "intercept", the others
            being 0: a dictionary or a pandas Series for one, a table of m rows for m.
        name: for tables and axes.

    Returns:
        a measure of m columns.

    Raises:
        ValueError: for what is no matrix of finite numbers; once the objective is known, for
            another p, an unknown name, or names where there are several scores.

    Example:
        >>> contrast = lo.measures.linear([1.0, -1.0, 0.0, 0.0], name="difference of slopes")
        >>> lo.effects(fit, groups, contrast, lo.Newton()).columns
        ('difference of slopes[0]',)
    """
    features, vectors = named_values(vectors)
    vectors = jnp.atleast_2d(vectors if is_traced(vectors) else jnp.asarray(_numbers(vectors)))
    if vectors.ndim != 2 or vectors.size == 0:
        raise ValueError(f"expected vectors of shape (m, p) or (p,), got {vectors.shape}")
    return _Linear(vectors=vectors.astype(float), name=name, features=features)


def _numbers(vectors) -> np.ndarray:
    """Vectors as finite real numbers."""
    if is_sparse(vectors):
        raise ValueError(f"vectors are a sparse matrix {vectors.shape}; give .toarray() of it")
    try:
        vectors = np.asarray(vectors)
    except ValueError:
        raise ValueError("expected vectors as a matrix (m, p), all of the same length") from None
    if vectors.dtype.kind not in "fiub":
        raise ValueError(f"expected vectors of numbers, got {vectors.dtype} of {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors must be finite, but some entries are NaN or infinite")
    return vectors
