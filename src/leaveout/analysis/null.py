"""The place of a group's effect among those of random groups like it."""

import dataclasses

import numpy as np
import scipy.stats

from leaveout.attribution.verb import effects
from leaveout.groups import Groups, lookalikes, shuffles
from leaveout.measures import as_measures
from leaveout.methods.first_order import Influence, group_sums, per_point

__all__ = [
    "Null",
    "place_among_random",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Null:
    """Where each group stands among random groups of its size and class balance.

    NaN in columns that were not compared.

    Attributes:
        effect: (g m) what is compared: the groups' own effects by `method`.
        mean: (g m) mean effect of the random groups.
        low: (g m) their 2.5 % point.
        high: (g m) their 97.5 % point.
        z: (g m) (effect - mean) / standard deviation.
        percentile: (g m) share of random groups below, ties half, in per cent.
        p: (g m) two-sided, (1 + the rarer side) 2 / (draws + 1): never below 2 / (draws + 1).
        q: (g m) p by Benjamini and Hochberg over the groups of a column: reject where q <= 0.05,
            and of those rejected at most 5 % are false on average.
        draws: random groups for each.
        method: name of the method.
    """

    effect: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    z: np.ndarray
    percentile: np.ndarray
    p: np.ndarray
    q: np.ndarray
    draws: int
    method: str


def place_among_random(
    fit, groups: Groups, wanted, method, strata, draws: int, key, memory
) -> Null:
    """The place of each group's effect among those of `draws` groups like it."""
    if method is None:
        own, values = _additive(fit, groups, wanted, strata, draws, key)
        name = Influence().name
    else:
        own = effects(fit, groups, wanted, method, memory=memory).value
        like = lookalikes(key, groups, like=groups, within=strata, draws=draws)
        values = effects(fit, like, wanted, method, memory=memory).value
        values, name = values.reshape(draws, *own.shape), method.name
    below, equal = np.zeros(own.shape), np.zeros(own.shape)
    for draw in values:
        same = np.isclose(draw, own, rtol=1e-9, atol=0)
        below += (draw < own) & ~same
        equal += same
    above = draws - below - equal
    rarer = np.minimum(below, above) + equal
    p = np.minimum(2 * (1 + rarer) / (draws + 1), 1.0)
    spread = values.std(axis=0, ddof=1)
    mean = values.mean(axis=0)
    known = np.isfinite(own)
    p = np.where(known, p, np.nan)
    q = np.full(p.shape, np.nan)
    for j in np.flatnonzero(known.all(axis=0)):
        q[:, j] = scipy.stats.false_discovery_control(p[:, j])
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    z = np.where(spread > 0, (own - mean) / np.where(spread > 0, spread, 1.0), 0.0)
    return Null(
        effect=own,
        mean=mean,
        low=low,
        high=high,
        z=np.where(known, z, np.nan),
        percentile=np.where(known, 100 * (below + equal / 2) / draws, np.nan),
        p=p,
        q=q,
        draws=draws,
        method=name,
    )


def _additive(fit, groups: Groups, wanted, strata, draws: int, key):
    """Influence of the groups (g m) and of random ones (draws g m), NaN where it does not add."""
    parts = []
    for measure in as_measures(wanted):
        bound = measure.bind(fit.objective)
        if bound.needs_w or not bound.smooth:
            count = len(bound.columns(fit.objective))
            parts.append(np.full((groups.n, count), np.nan))
        else:
            parts.append(np.asarray(per_point(fit, measure))[: groups.n])
    psi = np.concatenate(parts, axis=1)
    own = np.asarray(group_sums(groups, psi))
    values = np.empty((draws, *own.shape))
    for i, points in enumerate(shuffles(key, groups, strata, draws)):
        values[i] = group_sums(dataclasses.replace(groups, indices=points), psi)
    return own, values
