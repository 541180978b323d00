"""Gates: what is refused, or warned of, before anything is computed; passed once a call."""

import dataclasses
import enum
from collections.abc import Collection

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from leaveout.fitting.fitted import Fit, expansion_of, rounding
from leaveout.fitting.implicit import known
from leaveout.fitting.leaving import leaving, listed_gradients, taken_by
from leaveout.groups import Groups
from leaveout.objectives.abstract import AbstractObjective
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.linear import as_linear
from leaveout.runtime.options import check_is
from leaveout.runtime.remembered import remembered
from leaveout.runtime.sharding import at_once, devices, entry_point, is_traced, replicate, to_host
from leaveout.runtime.solution import SolveError
from leaveout.runtime.tables import check_rows
from leaveout.runtime.text import warn
from leaveout.solvers import Factor

__all__ = ["Need", "admit", "check_fit", "check_own", "doubtful", "inside", "is_stale"]

_SURE = 1e-9  # sandwich lengths from an optimum at which no effect is in question
_HUNDREDTH = 0.01  # of a predicted change that theta may be away from its optimum
_SAMPLE = 256  # groups that stand for all where a gradient of each would cost too much


class Need(enum.Enum):
    """What a method takes for granted.

    Example:
        >>> [need.name for need in lo.Need]
        ['optimum', 'curvature', 'trajectory']
    """

    optimum = "theta at the minimum of the objective"
    curvature = "the factor of the Hessian at theta"
    trajectory = "the way on which theta was trained"


def admit(
    fit: Fit, groups: Groups, needs: Collection[Need] = (Need.optimum,)
) -> tuple[Fit, Groups]:
    """Refuse groups that were made for other data, and a fit that lacks what a method needs.

    A theta is refused where it is too far from its optimum, which depends on the groups: the Newton
    decrement at theta is compared with |g(w)| in the norm of H^-1 of every group, the first-order
    changes in theta in the norm of H. A hundredth of any of them is warned of, for its effects are
    then wrong by up to that share; where it is longer than their root mean square, there is no
    answer.

    Returns:
        the fit that verbs compute with, and the groups as they act on its objective.

    Raises:
        ValueError: with both counts of examples, or what is lacking.
        SolveError: with both lengths.
    """
    check_fit(fit)
    _check_groups(fit.objective, groups)
    if Need.trajectory in needs:
        raise ValueError(
            f"this method needs {Need.trajectory.value}, which a Fit does not keep; use lo.Newton()"
        )
    fit = inside(known(fit))
    if Need.curvature in needs and fit.metric is None:
        raise ValueError(
            f"this method needs {Need.curvature.value}, and p = {fit.objective.p:,} is too large "
            "for one; use lo.Influence(lo.solvers.CG()) or lo.Retrain()"
        )
    if is_traced(fit):
        return fit, groups
    if Need.optimum in needs or Need.curvature in needs:
        check_own(fit)
    groups = _acting_on(fit.objective, groups)
    if Need.optimum in needs:
        _check_optimum(fit, groups)
    return fit, groups


def inside(fit: Fit) -> Fit:
    """The fit that verbs compute with: of the columns as they are now, from the centre it had.

    Inside jit one in the span of its rows stays as it is: whether they still are is not to be seen.
    """
    inner = fit.centred
    if inner is None or (is_traced(fit) and as_linear(inner.objective).span is not None):
        return fit
    objective = fit.objective.measured_as(inner.objective)
    return dataclasses.replace(inner, objective=objective, flat=_inner_theta(fit, inner))


def _inner_theta(fit: Fit, inner: Fit) -> Float[Array, "p"]:
    """Theta of the centred fit; where the user's was replaced since, that one."""
    if is_traced(fit) or _same(inner.objective.shown(inner.flat), fit.flat):
        return inner.flat
    return inner.objective.taken_in(fit.flat)


def _same(one: Array, other: Array) -> bool:
    return bool((np.asarray(to_host(one)) == np.asarray(to_host(other))).all())


def check_fit(fit: Fit) -> None:
    """Refuse anything but a fit.

    Raises:
        ValueError: with what it is.
    """
    check_is(fit, Fit, "a Fit from lo.fit(objective)")


def _check_groups(objective: AbstractObjective, groups: Groups) -> None:
    if not isinstance(groups, Groups):
        raise ValueError(
            f"expected lo.Groups, got {type(groups).__name__}; make them with "
            "lo.Groups.from_masks, .from_indices, .from_labels or .from_weights"
        )
    if groups.n != objective.n and not _filled_up(objective, groups.n):
        raise ValueError(
            f"groups were made for n={groups.n:,} examples but the objective has "
            f"n={objective.n:,}; rebuild them from this data"
        )
    check_rows(groups.fingerprint, objective.fingerprint, "the groups' labels", "the data")
    if len(groups) == 0:
        raise ValueError("expected at least one group, got none")


def _acting_on(objective: AbstractObjective, groups: Groups) -> Groups:
    """The groups with w as this objective means it: a factor of no base weight is nothing."""
    if not groups.scaled:
        return groups
    s = np.asarray(to_host(objective.weights))[groups.indices]
    return dataclasses.replace(groups, partial=np.where(s > 0, groups.w, 0.0), scaled=False)


def _filled_up(objective: AbstractObjective, n: int) -> bool:
    """Whether the examples beyond the first n have no weight: `shard` puts them there."""
    if n > objective.n or is_traced(objective.weights):
        return False
    return not bool(jnp.any(objective.weights[n:]))


@entry_point
def check_own(fit: Fit) -> None:
    """Refuse a theta and a factor that are not those of the fit's objective.

    Raises:
        ValueError: with how far they are off.
    """
    if fit.metric is None or is_traced(fit):
        return
    with at_once():
        found = _remembered_own(fit, fit.metric)
    others, decrement, apart = (part.item() for part in found)
    if others:
        told = float(to_host(fit.residual))
        raise ValueError(
            "the objective of this fit is not the one that its theta and factor belong to: l2, "
            "weights or data were replaced (the Newton decrement at theta is "
            f"{decrement:.1e} where the fit says {told:.1e}, and the factor is off by a share of "
            f"{apart:.1e}); call lo.fit(fit.objective), from theta=fit.theta if that is close"
        )


def is_stale(fit: Fit) -> Bool[Array, ""]:
    """Whether theta and factor are another objective's, for fits that are traced."""
    return jnp.asarray(False) if fit.metric is None else _own(fit, fit.metric)[0]


@eqx.filter_jit
def _own(fit: Fit, factor: Factor):
    """Whether theta and factor are another objective's, the decrement, how far the factor is off.

    One gradient, and one product with the Hessian: the decrement at theta is compared with that of
    the fit, the factor's product with a random vector with the Hessian's.
    """
    objective, expansion, eps = fit.objective, fit.expansion(), jnp.finfo(fit.flat.dtype).eps
    signs = jax.random.rademacher(jax.random.key(0), (1, objective.p), fit.flat.dtype)
    vector = factor.unwhiten(signs)
    image = objective.hvp(fit.flat, vector[0])[None]
    gauge = expansion.gauge()
    image = image if gauge is None else image + vector @ gauge
    both = factor.whiten(jnp.concatenate([objective.gradient(fit.flat)[None], image]))
    decrement = jnp.linalg.norm(both[0])
    apart = jnp.linalg.norm(both[1] - signs[0]) / jnp.sqrt(objective.p)
    moved = decrement > 10 * fit.residual + jnp.maximum(1e-6, 1e4 * eps) * fit.sandwich
    others = moved | (apart > jnp.maximum(1e-2, 1e3 * eps * factor.inflation()))
    return replicate((others, decrement, apart))


@remembered
def _remembered_own(fit: Fit, factor: Factor):
    return to_host(_own(fit, factor))


@entry_point
def _check_optimum(fit: Fit, groups: Groups) -> None:
    decrement = float(to_host(fit.residual))
    lengths = _predicted(fit, groups)
    if lengths is None:
        return
    predicted = float(np.sqrt(np.mean(lengths**2)))
    near = lengths[(lengths > 0) & (decrement > _HUNDREDTH * lengths)]
    if not near.size:
        return
    if decrement > _HUNDREDTH * predicted:
        worst, whose = predicted, "of the predicted changes"
        them = f"the changes {predicted:.1e} long, root mean square"
    else:  # only of some
        worst, whose = float(near.min()), "of the smallest predicted change"
        them = (
            f"the changes from {near.min():.1e} long, for {near.size:,} of {lengths.size:,} groups "
            "less than a hundred times as much"
        )
    told = (
        f"theta is not at its optimum: it is {decrement / worst:.2g} {whose} away from it (the "
        f"Newton decrement there is {decrement:.1e}, {them}, both in the norm of H)"
    )
    again = "train on with lo.fit(fit.objective, theta=fit.theta), or raise l2"
    if not decrement <= predicted:
        raise SolveError(f"{told}, so that it would drown them; {again}")
    warn(f"{told}: effects can be wrong by {100 * decrement / worst:.0f} %; {again}")


def doubtful(fit: Fit, groups: Groups) -> np.ndarray:
    """(g) whether theta is more than a hundredth of a group's predicted change from its optimum.

    What a retrained theta is away from theta is then not what it is away from the optimum.
    """
    lengths = _predicted(fit, groups)
    if lengths is None or lengths.size != len(groups):
        return np.zeros(len(groups), bool)
    return (lengths > 0) & (float(to_host(fit.residual)) > _HUNDREDTH * lengths)


def _predicted(fit: Fit, groups: Groups) -> np.ndarray | None:
    """|g(w)| in the norm of H^-1, of every group; None where theta is beyond doubt.

    Of other objectives than linear models, where g(w) of a group is a pass over the data, of a few
    groups that stand for all.
    """
    with at_once():
        if _beyond_doubt(fit.flat, fit.metric, fit.sandwich, fit.residual):
            return None
        if fit.metric is None:  # as of groups drawn at random
            return float(to_host(fit.sandwich)) * np.sqrt(groups.size / fit.objective.n)
        expansion = expansion_of(fit)
        if isinstance(expansion, LinearExpansion) and devices() == 1:
            gradients = listed_gradients(expansion, groups, taken_by(fit.objective, groups))
            return np.asarray(to_host(_white_lengths(fit.metric, gradients)))
        rows = np.unique(np.linspace(0, len(groups) - 1, _SAMPLE).astype(int))
        return np.asarray(to_host(_lengths(fit, fit.metric, leaving(fit, groups, rows))))


@remembered
def _beyond_doubt(flat: Float[Array, "p"], metric: Factor | None, sandwich, residual) -> bool:
    """Whether theta is so close to its optimum that no effect is in question."""
    floor = rounding(flat, metric, sandwich)
    return float(to_host(residual)) <= max(_SURE * float(to_host(sandwich)), float(to_host(floor)))


@eqx.filter_jit
def _white_lengths(factor: Factor, gradients):
    return replicate(jnp.linalg.norm(factor.whiten(gradients), axis=1))


@eqx.filter_jit
def _lengths(fit: Fit, factor: Factor, w):
    """|g(w)| in the norm of H^-1, one group at a time."""
    objective, expansion = fit.objective, fit.expansion()

    def one(w):
        return jnp.linalg.norm(factor.whiten(expansion.gradient(objective.taken(w))[None]))

    return replicate(jax.lax.map(one, w))
