"""Standard errors of the measures, from the effects of groups that share no point."""

import numpy as np

from leaveout.attribution.container import Effects

__all__ = [
    "jackknife",
]


def jackknife(effects: Effects, *, infinitesimal: bool = False) -> np.ndarray:
    """Standard errors (m) of the measures, clustered by groups that share no point.

        [(g - 1) / g sum_j (effect_j - mean effect)^2]^1/2,   infinitesimal: [sum_j effect_j^2]^1/2

    From retraining, or Newton steps on squared loss, the delete-a-group jackknife. From influence,
    and infinitesimal, the cluster-robust sandwich: that of a coefficient by least squares equals
    Liang and Zeger's, without their correction for few clusters. Every point should be in a group.

    Args:
        effects: of groups that do not overlap: sites, villages, or single points.
        infinitesimal: whether they are influences.

    Raises:
        ValueError: if groups overlap, or there is only one.

    Source: Efron and Stein (1981); Liang and Zeger (1986).
    """
    if not isinstance(effects, Effects):
        raise ValueError(f"expected `Effects`, got {type(effects).__name__}")
    groups = effects.groups
    if np.unique(groups.indices).size < groups.indices.size:
        raise ValueError("the groups overlap; standard errors need groups that share no point")
    count = len(groups)
    if count < 2:
        raise ValueError("expected at least two groups")
    value = effects.value
    if infinitesimal:
        return np.sqrt(np.sum(value**2, axis=0))
    return np.sqrt((count - 1) / count * np.sum((value - value.mean(axis=0)) ** 2, axis=0))
