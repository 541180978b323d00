"""Changes other than removal: reweighting, adding points the model has not seen, relabelling.

All are vectors of weights, so that every verb and `effects` take them as they take removals. An
added point waits in the objective at a base weight of 2^-60, too little to be heard, and is added
by w = -2^60.
"""

import dataclasses
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import check_groups
from leaveout.groups import UNSEEN, Groups
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.checks import check_tree, check_weights
from leaveout.objectives.linear import LinearExpansion, LinearObjective
from leaveout.runtime.sharding import entry_point

__all__ = ["add", "relabel", "reweight"]


def reweight(groups: Groups, factor: Any) -> Groups:
    """The groups, kept at a factor instead of leaving: w becomes w (1 - factor).

    0 removes, 1 changes nothing, 2 doubles: retraining with every point of the group twice.

    Args:
        groups: whose points are reweighted.
        factor: at least 0, one for all or (g).

    Raises:
        ValueError: for a negative factor.
    """
    factor = np.asarray(factor, float)
    if factor.shape not in ((), (len(groups),)) or not (factor >= 0).all():
        raise ValueError(
            f"expected a factor >= 0, one or one for each of {len(groups)} groups, got {factor}"
        )
    each = np.repeat(np.broadcast_to(1 - factor, len(groups)), groups.size)
    return dataclasses.replace(groups, weights=groups.w * each)


def add(fit: Fit, examples: Any, groups: Any = None, *, weights: Any = None) -> tuple[Fit, Groups]:
    """A fit that knows of further points, and the groups that add them.

        fit, groups = lo.add(fit, (x, y))
        effects = lo.effects(fit, groups, measures, lo.Newton())   # f(with) - f(without)

    theta does not change. Effects are, as ever, f(changed) - f(now).

    Args:
        fit: the fitted objective.
        examples: `(x (m d), y (m))` of a linear model, else a PyTree like its data.
        groups: groups of the m new points, or (m) labels that group them; default each alone.
        weights: (m) their base weights; default 1.

    Raises:
        ValueError: for examples that are not like the data, or labels the model does not know.
    """
    objective = fit.objective
    more, count = _encoded(objective, examples)
    base = np.asarray(check_weights(weights, count, objective.weights.dtype))
    total, points = objective.n + count, objective.n + np.arange(count)
    if groups is None:
        placed = Groups.from_indices(list(points[:, None]), n=total, kind="added")
    elif not isinstance(groups, Groups):
        placed = Groups.from_pairs(points, groups, n=total, kind="added")
    elif groups.n == count:
        placed = dataclasses.replace(groups, n=total, indices=groups.indices + objective.n)
    else:
        raise ValueError(f"expected groups of the {count:,} new points, got groups of {groups.n:,}")
    added = dataclasses.replace(placed, weights=-placed.w / UNSEEN)
    return _extended(fit, more, base), added


@entry_point
def relabel(fit: Fit, groups: Groups, y: Any) -> tuple[Fit, Groups]:
    """A fit and groups that give each group's points other targets: they leave and come back.

    For losses whose curvature does not depend on the target (logistic, softmax, squares, Poisson)
    one Newton step equals influence, and both can be far off: there is a warning for those that are
    not quadratic. `NewtonChebyshev` and `Retrain` see more.

    Args:
        fit: the fitted objective.
        groups: whose points are relabelled.
        y: (n) the targets they get, in the labels of the training data; those of other points are
            not looked at. For an `lo.Objective` a PyTree like its data.

    Raises:
        ValueError: if `groups` was made for other data, or `y` does not fit it.
    """
    check_groups(fit, groups)
    objective = fit.objective
    touched = np.unique(groups.indices)
    if isinstance(objective, LinearObjective):
        given = np.asarray(y)
        if given.shape[:1] != (objective.n,):
            raise ValueError(f"expected {objective.n:,} targets, got y of shape {given.shape}")
        targets = objective.encode(given[touched])
        more = objective.design[touched], targets
    else:
        data, count = check_tree(y)
        if count != objective.n:
            raise ValueError(f"expected {objective.n:,} examples, got {count:,}")
        more = jax.tree.map(lambda leaf: leaf[touched], data)
    changed = _extended(fit, more, np.asarray(objective.weights)[touched])
    _warn_if_newton_is_influence(changed, touched, objective)
    w = groups.w
    rows = np.repeat(np.arange(len(groups)), groups.size)
    points = objective.n + np.searchsorted(touched, groups.indices)
    order = np.argsort(np.concatenate([rows, rows]), kind="stable")
    both = dataclasses.replace(
        groups,
        n=objective.n + touched.size,
        indices=np.concatenate([groups.indices, points])[order],
        offsets=2 * groups.offsets,
        weights=np.concatenate([w, -w / UNSEEN])[order],
    )
    return changed, both


def _encoded(objective: AbstractObjective, examples):
    """New examples in the form of `objective.examples` without weights, and their number."""
    if isinstance(objective, LinearObjective):
        x, y = examples
        design = objective.widen(x)
        if np.shape(y)[:1] != design.shape[:1] or not np.isfinite(np.asarray(x, float)).all():
            raise ValueError(
                f"expected finite inputs and as many targets, got {np.shape(x)} and {np.shape(y)}"
            )
        return (design, objective.encode(y)), design.shape[0]
    return check_tree(examples)


def _extended(fit: Fit, more, base) -> Fit:
    """The fit with further examples behind the others, unheard."""
    objective = fit.objective
    if len(objective.weights.sharding.device_set) > 1:
        raise ValueError("this objective is spread over devices; change it before lo.shard")
    *old, weights = objective.examples
    more = list(more) if isinstance(objective, LinearObjective) else [more]
    if jax.tree.structure(old) != jax.tree.structure(more):
        raise ValueError("expected examples like the data that the objective was made with")
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]), old, more)
    weights = jnp.concatenate([weights, jnp.asarray(base * UNSEEN, weights.dtype)])
    objective = eqx.tree_at(lambda o: o.examples, objective, (*joined, weights))
    factor = fit.metric
    if factor is not None:
        factor = dataclasses.replace(factor, rows=None, gram=None)
    return dataclasses.replace(fit, objective=objective, metric=factor)


def _warn_if_newton_is_influence(fit: Fit, touched, before: AbstractObjective) -> None:
    expansion = fit.expansion()
    if not isinstance(expansion, LinearExpansion):
        return
    assert isinstance(before, LinearObjective)
    old = np.asarray(expansion.second)[touched]
    new = np.asarray(expansion.second)[before.n :] / UNSEEN
    loss = before.loss
    if np.allclose(old, new, rtol=1e-9, atol=0) and not (loss.convex and loss.third == 0):
        warnings.warn(
            "the curvature of this loss does not depend on the target, so that lo.Newton() equals "
            "lo.Influence() for relabelled groups and can be as wrong; lo.NewtonChebyshev() and "
            "lo.Retrain() see what it misses",
            stacklevel=4,
        )
