"""Whether to trust influence for a group, before anything is solved or retrained for it."""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int8

from leaveout.analysis.spectrum import (
    along_gradient,
    leverages_by_weight,
    linear_expansion,
    odds,
    shares_of,
)
from leaveout.attribution.verb import check_outside
from leaveout.certify.balls import DENSE
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.fitting.gates import admit, check_fit
from leaveout.fitting.leaving import leaving
from leaveout.groups import Groups
from leaveout.objectives.abstract import weigh
from leaveout.objectives.expansion import LinearExpansion
from leaveout.objectives.layout import spread
from leaveout.runtime.sharding import entry_point

__all__ = [
    "Light",
    "Trust",
    "trust",
]


class Light(enum.IntEnum):
    """Whether influence may be believed for a group. Arrays hold these codes as int8.

    By `Trust.error`, what influence is expected to miss: green below 0.1, amber below 0.5, red from
    there on or where mu reaches 1. How often that was right on real data: `docs/certificates.md`.

    Example:
        >>> [light.name for light in lo.Light]
        ['green', 'amber', 'red']
    """

    green = 0
    amber = 1
    red = 2


_GREEN, _AMBER = 0.1, 0.5


class Trust(eqx.Module):
    """What can be said of a group before anything is solved or retrained for it.

    Attributes:
        leverage: (g) trace of S: how many parameters' worth of curvature leaves.
        mu: (g) its largest eigenvalue: along some direction influence is short by 1 / (1 - mu).
        share: (g) S along the group's own gradient: influence on self-loss is short by 1 / (1 - s).
        nu: (g) an upper bound of L N, the longest example that stays times the Newton step, in the
            metric of what stays: how far a score moves, in units in which curvature changes
            e-fold. Below 1 Newton is proven within (nu / (1 - nu) + log(1 - nu)) / L.
        missed: (g) at most how much of the Newton step influence misses, |Newton - influence| over
            |influence| in the metric of H; for p beyond 2,000 the least it can be.
        moved: (g) root mean square change, by influence, of the scores that stay, each weighted by
            what its loss bends times its change squared.
        error: (g) missed + moved / 2, the relative error to expect of influence.
        light: (g) `Light` codes.

    Example:
        >>> trust = lo.trust(fit, groups)
        >>> trust.mu.shape, bool((trust.mu < 1).all())
        ((4,), True)
    """

    leverage: Float[np.ndarray, "g"]
    mu: Float[np.ndarray, "g"]
    share: Float[np.ndarray, "g"]
    nu: Float[np.ndarray, "g"]
    missed: Float[np.ndarray, "g"]
    moved: Float[np.ndarray, "g"]
    error: Float[np.ndarray, "g"]
    light: Int8[np.ndarray, "g"]


@in_double
@entry_point
def trust(fit: Fit, groups: Groups) -> Trust:
    """Whether influence can be believed, group by group, before anything is solved for them.

    S is formed and its eigenvalues found, n p^2 + p^3 a group; for p beyond 2,000 mu is bounded by
    min(leverage, 1), which costs |w| p. `missed` is Gauss-Radau quadrature of (s / (1 - s))^2 over
    S as the group's gradient sees it, with a node at mu: an upper bound. It is what tells of a
    group that takes nearly all curvature along a direction in which its own gradient is short, such
    as an indicator of the group among the features.

    Args:
        fit: a linear model with a factor.
        groups: what leaves.

    Returns:
        arrays (g); `print` shows a table.

    Raises:
        ValueError: for other models, or without a factor.

    Example:
        >>> [lo.Light(int(code)).name for code in lo.trust(fit, groups).light]
        ['amber', 'amber', 'red', 'red']
    """
    check_fit(fit)
    check_outside(fit, "lo.trust")
    fit, groups = admit(fit, groups)
    objective, w = fit.objective, leaving(fit, groups)
    own, longest = leverages_by_weight(fit)
    taken = np.asarray(objective.taken(w) @ own)
    mu = np.minimum(taken, 1.0) if objective.p > DENSE else np.asarray(shares_of(fit, w))
    share, second, size, change = along_gradient(fit, w)
    moved = np.asarray(_moved(linear_expansion(fit), objective.stays(w), change))
    share, second, size = (np.asarray(part) for part in (share, second, size))
    below = mu < 1
    nu = np.where(below, float(longest) * np.sqrt(size) / np.where(below, 1 - mu, 1.0), np.inf)
    missed = odds(share) if objective.p > DENSE else _missed(share, second, mu)
    error = missed + moved / 2
    light = np.where(error < _GREEN, Light.green, np.where(error < _AMBER, Light.amber, Light.red))
    light = np.where(mu < 1 - 1e-10, light, Light.red).astype(np.int8)
    return Trust(taken, mu, share, nu, missed, moved, error, light)


@eqx.filter_jit
def _moved(expansion: LinearExpansion, v, change):
    """How far scores that stay move, root mean square, weighted by curvature times their square."""

    def one(lane):
        v, change = lane
        scores = expansion.scores(change)
        bent = weigh(v, jnp.einsum("nk,nkl,nl->n", scores, expansion.second, scores))
        return jnp.sqrt(jnp.sum(bent * spread(scores) ** 2) / jnp.maximum(jnp.sum(bent), 1e-300))

    return jax.lax.map(one, (v, change))


def _missed(share, second, mu):
    """The root of at most the mean of (s / (1 - s))^2, by the mean, the mean square and the top."""
    spread = np.maximum(second - share**2, 0.0)
    above = np.maximum(mu - share, 0.0)
    apart = above > 1e-12 * mu
    gap = spread / np.where(apart, above, 1.0)  # the other node is that far below the mean
    weight = np.where(apart, gap / np.where(apart, gap + above, 1.0), 0.0)
    other = np.clip(share - np.where(apart, gap, 0.0), 0.0, None)
    with np.errstate(invalid="ignore"):
        top = np.where(weight > 0, weight * odds(mu) ** 2, 0.0)
    return np.sqrt((1 - weight) * odds(other) ** 2 + top)
