"""Standard errors of the measures, from the effects of groups that share no point."""

import numpy as np

from leaveout.attribution.container import Effects
from leaveout.runtime.solution import kept

__all__ = [
    "jackknife",
]


def jackknife(effects: Effects, *, infinitesimal: bool = False, drop: bool = False) -> np.ndarray:
    """Standard errors (m) of the measures, clustered by groups that share no point.

        [(g - 1) / g sum_j (effect_j - mean effect)^2]^1/2,   infinitesimal: [sum_j effect_j^2]^1/2

    From retraining, or Newton steps on squared loss, the delete-a-group jackknife. From influence,
    and infinitesimal, the cluster-robust sandwich: that of a coefficient by least squares equals
    Liang and Zeger's, without their correction for few clusters. Every point should be in a group.

    A group without base weight is not there, and does not count.

    Args:
        effects: of groups that do not overlap: sites, villages, or single points.
        infinitesimal: whether they are influences.
        drop: leave out, column by column, the groups whose effect is flagged, as if they were not
            there. What they would have added is then missing.

    Returns:
        (m) in units of the columns; NaN for a column in which fewer than two groups are left.

    Raises:
        ValueError: if groups overlap, or there is only one.
        SolveError: if the effect of a group on a column is flagged, unless they are to be dropped.

    Source: Efron and Stein (1981); Liang and Zeger (1986).
    """
    groups = effects.groups
    if np.unique(groups.indices).size < groups.indices.size:
        raise ValueError("the groups overlap; standard errors need groups that share no point")
    there = np.ones(len(groups), bool) if effects.weight is None else effects.weight > 0
    if there.sum() < 2:
        raise ValueError("expected at least two groups")
    found = np.full(len(effects.columns), np.nan)
    for j, column in enumerate(effects.columns):
        what = f"the standard error of {column}"
        mine = kept(effects.column_status[:, j], groups.titles, what, drop) & there
        if mine.sum() > 1:
            found[j] = (_infinitesimal if infinitesimal else _delete_one)(effects.value[mine, j])
    return found


def _infinitesimal(value: np.ndarray) -> float:
    return float(np.sqrt(np.sum(value**2)))


def _delete_one(value: np.ndarray) -> float:
    count = len(value)
    return float(np.sqrt((count - 1) / count * np.sum((value - value.mean()) ** 2)))
