"""Edits other than removal: reweighting, adding points the model has not seen, relabelling.

All are rows of w, so that every verb and `effects` take them as they take removals. A point that
the model has not seen waits in the objective without base weight, and is added by w = -v, v what it
gets.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit, check_fit
from leaveout.fitting.leaving import taken_by
from leaveout.fitting.optimum import factor_at
from leaveout.groups import Groups, by_group
from leaveout.objectives.abstract import AbstractObjective, AbstractScores
from leaveout.objectives.checks import check_weights, leading_axes, targets
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.linear import as_linear
from leaveout.objectives.sparse import Sparse
from leaveout.runtime.columns import Column, levels_of, numbered
from leaveout.runtime.deprecated import renamed
from leaveout.runtime.options import check_is
from leaveout.runtime.sharding import entry_point
from leaveout.runtime.tables import check_rows, common_rows, is_table
from leaveout.runtime.text import warn

__all__ = ["add", "rebalance", "relabel", "reweight"]


@renamed(factor="by")
def reweight(groups: Groups, by) -> Groups:
    """The groups, kept at a factor instead of leaving: w becomes w (1 - by).

    0 removes, 1 changes nothing, 2 doubles: retraining with every point of the group twice.

    Args:
        groups: whose points are reweighted.
        by: the factor, at least 0, one for all or (g); a pandas Series by names of groups.

    Returns:
        the groups with other w.

    Raises:
        ValueError: for a negative factor, or where more of a point would leave than there is.

    Example:
        >>> lo.reweight(groups, by=2).partial.tolist()[:3]
        [-1.0, -1.0, -1.0]
    """
    check_is(groups, Groups, "lo.Groups, whose points are reweighted")
    factor = np.asarray(by_group(by, groups, "the factor"), float)
    if factor.shape not in ((), (len(groups),)) or not (factor >= 0).all():
        raise ValueError(
            f"expected a factor >= 0, one or one for each of {len(groups)} groups, got {factor}"
        )
    share = np.broadcast_to(1 - factor, len(groups))[groups.lanes]
    adds = groups.w < 0
    turned = adds & (share < 0)
    if turned.any():
        group = groups.titles[groups.lanes[np.argmax(turned)]]
        raise ValueError(
            f"{group} adds a point, and a factor above 1 would take it away: ask lo.add for more "
            "of it, by weights="
        )
    return groups.with_w(groups.w * share, scaled=groups.scaled or not bool(adds.any()))


def rebalance(groups: Groups, y, *, weights=None) -> Groups:
    """The groups, and with them the balanced class weights that they change.

    A class that weighs n_k of n gets the weight n / (K n_k). Where a group leaves, the others of
    its class count for more: an example of base weight s then gets

        s (1 - w) (n' / n'_k) / (n / n_k),  n' and n'_k what stays of both.

    It is what scikit-learn's `class_weight="balanced"` does when the estimator is fitted again.
    Every group lists all n points, since they all change: g n numbers. Measures of the group itself
    (self-loss) then speak of all that changed.

    Args:
        groups: what leaves.
        y: (n) the labels.
        weights: (n) the sample weights that the class weights multiply; default 1.

    Returns:
        the groups with the class weights that they change; each lists all n points.

    Raises:
        ValueError: where a group takes all of a class, or adds points; for missing labels, or a
            pandas index that is not that of the groups' data.

    Example:
        >>> balanced = lo.rebalance(groups, y)
        >>> balanced.size.tolist()
        [24, 24, 24, 24]
    """
    check_is(groups, Groups, "lo.Groups that leave")
    labels = targets(y)
    if labels.there.shape != (groups.n,):
        shape = labels.there.shape
        raise ValueError(f"expected a label for each of {groups.n:,} points, got {shape}")
    rows = common_rows(y=y, weights=weights)
    check_rows(rows, groups.fingerprint, "y", "the groups' data")
    base = np.asarray(check_weights(weights, groups.n, float))
    if (groups.w < 0).any() and not groups.scaled:
        raise ValueError("expected groups that leave; what is added has no class weight yet")
    classes, code = levels_of(labels), numbered(labels, "label")
    count, whole = len(groups), np.bincount(code, base, len(classes))
    cell = groups.lanes * len(classes) + code[groups.indices]
    taken = np.bincount(cell, base[groups.indices] * groups.w, count * len(classes))
    left = whole[None] - taken.reshape(count, -1)
    gone = (left <= 1e-12 * whole[None]) & (whole > 0)[None]
    if gone.any():
        group, k = np.argwhere(gone)[0]
        raise ValueError(
            f"{groups.titles[group]} takes all of class {str(classes[k])!r}: the model fitted "
            "without it has one class fewer"
        )
    share = left / np.where(whole > 0, whole, 1.0)[None]
    grown = share @ whole / whole.sum()  # n' / n
    factor = grown[:, None] / np.where(whole > 0, share, 1.0)
    w = 1 - (1 - groups.dense()) * factor[:, code]
    return dataclasses.replace(
        groups,
        indices=np.tile(np.arange(groups.n), count),
        offsets=np.arange(count + 1) * groups.n,
        partial=w.ravel(),
        notes=(*groups.notes, "class weights follow, balanced over what stays"),
        scaled=True,
        fingerprint=rows if groups.fingerprint is None else groups.fingerprint,
    )


def add(fit: Fit, examples: PyTree, groups=None, *, weights=None) -> tuple[Fit, Groups]:
    """A fit that knows of further points, and the groups that add them.

        fit, groups = lo.add(fit, (x, y))
        effects = lo.effects(fit, groups, measures, lo.Newton())   # f(with) - f(without)

    theta does not change. Effects are, as ever, f(changed) - f(now).

    Args:
        fit: the fitted objective.
        examples: `(x (m d), y (m))` of a linear model, `(x, y, offset)` if it has an offset, else a
            PyTree like its data.
        groups: groups of the m new points, or (m) labels that group them; default each alone.
        weights: (m) their base weights; default 1.

    Returns:
        the fit that knows of the points, and groups (g) whose effects are those of adding.

    Raises:
        ValueError: for examples that are not like the data, or labels the model does not know.

    Example:
        >>> more, added = lo.add(fit, (x[:2] + 1, y[:2]))
        >>> lo.effects(more, added, measure).value.shape
        (2, 1)
    """
    check_fit(fit)
    objective = fit.objective
    more, count = objective.encoded(examples)
    base = np.asarray(check_weights(weights, count, objective.weights.dtype))
    rows = common_rows(examples=examples, weights=weights)
    if not isinstance(groups, Groups):
        check_rows(common_rows(groups=groups), rows, "the groups' labels", "the new points")
    total, points = objective.n + count, objective.n + np.arange(count)
    if groups is None:
        placed = Groups.from_indices(list(points[:, None]), n=total, kind="added")
    elif not isinstance(groups, Groups):
        placed = Groups.from_pairs(points, groups, n=total, kind="added")
    elif groups.n == count:
        check_rows(groups.fingerprint, rows, "the groups' labels", "the new points")
        placed = dataclasses.replace(
            groups, n=total, indices=groups.indices + objective.n, fingerprint=None
        )
    else:
        raise ValueError(f"expected groups of the {count:,} new points, got groups of {groups.n:,}")
    w = -placed.w * base[placed.indices - objective.n]
    return _extended(fit, more, count), placed.with_w(w)


@entry_point
def relabel(fit: Fit, groups: Groups, y: PyTree) -> tuple[Fit, Groups]:
    """A fit and groups that give each group's points other targets: they leave and come back.

    For losses whose curvature does not depend on the target (logistic, softmax, squares, Poisson)
    one Newton step equals influence, and both can be far off: there is a warning for those that are
    not quadratic. `NewtonChebyshev` and `Retrain` see more.

    Args:
        fit: the fitted objective.
        groups: whose points are relabelled.
        y: (n) the targets they get, in the labels of the training data; those of other points are
            not looked at. For an `lo.Objective` a PyTree like its data.

    Returns:
        a fit that knows of the other targets, and the groups that exchange them.

    Raises:
        ValueError: if `groups` was made for other data, or `y` does not fit it.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # a step sees little of it, and says so
        ...     turned, both = lo.relabel(fit, groups[[0]], 1 - y)
        >>> lo.effects(turned, both, measure, lo.Retrain()).value.shape
        (1, 1)
    """
    _, groups = admit(fit, groups)
    objective = fit.objective
    touched = np.unique(groups.indices)
    changed = _extended(fit, _relabelled(objective, touched, y), touched.size)
    _warn_if_newton_is_influence(changed, touched, objective)
    points = objective.n + np.searchsorted(touched, groups.indices)
    order = np.argsort(np.concatenate([groups.lanes, groups.lanes]), kind="stable")
    both = dataclasses.replace(
        groups,
        n=objective.n + touched.size,
        indices=np.concatenate([groups.indices, points])[order],
        offsets=2 * groups.offsets,
        partial=np.concatenate([groups.w, -taken_by(objective, groups)])[order],
    )
    return changed, both


def _relabelled(objective: AbstractObjective, touched: np.ndarray, y: PyTree) -> PyTree:
    """The touched examples with other targets, in the form of `examples` without weights."""
    check_rows(common_rows(y=y), objective.fingerprint, "y", "the data")
    if isinstance(objective, AbstractScores):
        inputs, _, *offset, _ = objective.examples
        some = _some_targets(objective, touched, y)
        return inputs[touched], some, *(each[touched] for each in offset)
    more, count = objective.encoded(y)
    if count != objective.n:
        raise ValueError(f"expected {objective.n:,} examples, got {count:,}")
    return jax.tree.map(lambda leaf: leaf[touched], more)


def _some_targets(objective: AbstractScores, touched: np.ndarray, y: PyTree) -> PyTree:
    """The targets of the touched examples, coded; the others may be missing."""
    if objective.loss.targets == "any":
        if leading_axes(y) != {(objective.n,)}:
            shape = jax.tree.map(np.shape, y)
            raise ValueError(f"expected {objective.n:,} targets, got y of shape {shape}")
        return jax.tree.map(lambda leaf: leaf[touched], objective.encode(y))
    if is_table(y) and not objective.labelled:  # whose columns have names
        return objective.encode(y)[touched]
    values, there = targets(y)
    if values.shape[:1] != (objective.n,):
        raise ValueError(f"expected {objective.n:,} targets, got y of shape {values.shape}")
    return objective.encode(Column(values[touched], there[touched]))


def _extended(fit: Fit, more: PyTree, count: int) -> Fit:
    """The fit with further examples behind the others, which have no base weight."""
    objective = fit.objective
    if len(objective.weights.sharding.device_set) > 1:
        raise ValueError("this objective is spread over devices; change it before lo.shard")
    *old, weights = objective.examples
    like = (jax.tree.structure(part, is_leaf=_is_sparse) for part in (tuple(old), tuple(more)))
    if len(set(like)) > 1:
        raise ValueError("expected examples like the data that the objective was made with")
    joined = jax.tree.map(_behind, tuple(old), tuple(more), is_leaf=_is_sparse)
    weights = jnp.concatenate([weights, jnp.zeros(count, weights.dtype)])
    objective = eqx.tree_at(lambda o: o.examples, objective, (*joined, weights))
    if objective.fingerprint is not None:  # the index of the data says nothing of the others
        objective = eqx.tree_at(lambda o: o.fingerprint, objective, None)
    inner, metric = fit.centred, fit.metric
    if metric is not None:
        metric = dataclasses.replace(metric, rows=None, gram=None)
    changed = dataclasses.replace(fit, objective=objective, metric=metric, centred=None)
    if inner is None:
        return changed
    if as_linear(inner.objective).span is not None:
        return dataclasses.replace(changed, centred=_in_wider_span(changed, inner))
    design, *rest = more
    inner = _extended(inner, (as_linear(inner.objective).brought_in(design), *rest), count)
    return dataclasses.replace(changed, centred=inner)


def _in_wider_span(fit: Fit, inner: Fit) -> Fit:
    """The fit in the span of its rows, of which there are more now: theta can move along them."""
    objective = as_linear(fit.objective).spanned(always=True)
    if objective.span is None:
        raise ValueError(
            "the rows of this model and the new points together are too ill-conditioned for their "
            "span; raise l2, or fit to all of them and remove the new ones"
        )
    flat = objective.taken_in(fit.flat)
    metric = None if inner.metric is None else factor_at(objective, flat)
    return dataclasses.replace(inner, objective=objective, flat=flat, metric=metric)


def _is_sparse(leaf: object) -> bool:
    return isinstance(leaf, Sparse)


def _behind(old, more):
    """Rows, then more of them."""
    return old.above(more) if _is_sparse(old) else jnp.concatenate([old, more.astype(old.dtype)])


def _warn_if_newton_is_influence(fit: Fit, touched, before: AbstractObjective) -> None:
    expansion = fit.objective.at(fit.flat)
    if not isinstance(expansion, LinearExpansion) or not isinstance(before, AbstractScores):
        return
    old, new = np.asarray(expansion.second)[touched], np.asarray(expansion.second)[before.n :]
    loss = before.loss
    if np.allclose(old, new, rtol=1e-9, atol=0) and not (loss.convex and loss.third == 0):
        warn(
            "the curvature of this loss does not depend on the target, so that lo.Newton() equals "
            "lo.Influence() for relabelled groups and can be as wrong; lo.NewtonChebyshev() and "
            "lo.Retrain() see what it misses"
        )
