"""Standard errors of the measures, from the effects of groups that share no point."""

import numpy as np

from leaveout.attribution.container import Effects
from leaveout.groups import Groups

__all__ = [
    "jackknife",
]


def jackknife(
    effects: Effects, *, infinitesimal: bool = False, partial: bool = False
) -> np.ndarray:
    """Standard errors (m) of the measures, clustered by groups that share no point.

        [(g - 1) / g sum_j (effect_j - mean effect)^2]^1/2,   infinitesimal: [sum_j effect_j^2]^1/2

    From retraining, or Newton steps on squared loss, the delete-a-group jackknife. From influence,
    and infinitesimal, the cluster-robust sandwich: that of a coefficient by least squares equals
    Liang and Zeger's, without their correction for few clusters.

    Args:
        effects: of groups that do not overlap and hold every point whole: sites, villages, or
            single points.
        infinitesimal: whether they are influences.
        partial: take groups that leave points out: these count as fixed, or, of no base weight, as
            not there. Where labels are missing that is too small: fit without these rows.

    Raises:
        ValueError: if groups overlap, points are in none, some leave in part or are added, or there
            is only one.

    Source: Efron and Stein (1981); Liang and Zeger (1986).
    """
    if not isinstance(effects, Effects):
        raise ValueError(f"expected `Effects`, got {type(effects).__name__}")
    _check_partition(effects.groups, partial)
    value, count = effects.value, len(effects.groups)
    if infinitesimal:
        return np.sqrt(np.sum(value**2, axis=0))
    return np.sqrt((count - 1) / count * np.sum((value - value.mean(axis=0)) ** 2, axis=0))


def _check_partition(groups: Groups, partial: bool) -> None:
    """Every point is in one group, and leaves whole with it."""
    if np.unique(groups.indices).size < groups.indices.size:
        raise ValueError("the groups overlap; standard errors need groups that share no point")
    if len(groups) < 2:
        raise ValueError("expected at least two groups")
    if (groups.w != 1).any():
        raise ValueError(
            "expected groups that leave whole; standard errors come from deleting them, not from "
            "adding points or reweighting them"
        )
    if groups.uncovered and not partial:
        raise ValueError(
            f"{groups.uncovered:,} of {groups.n:,} points are in no group (a missing label?), and "
            "the standard error needs all of them: fit without these rows, or make each a group; "
            "partial=True takes them as fixed"
        )
