"""Standard errors of the measures, from the effects of groups that share no point."""

import numpy as np

from leaveout.attribution.container import Effects
from leaveout.groups import Groups
from leaveout.runtime.options import check_is
from leaveout.runtime.solution import Status, kept
from leaveout.runtime.text import shortened, warn

__all__ = ["jackknife", "usable"]


def jackknife(
    effects: Effects, *, infinitesimal: bool = False, partial: bool = False, drop: bool = False
) -> np.ndarray:
    """Standard errors (m) of the measures, clustered by groups that share no point.

        [(g - 1) / g sum_j (effect_j - mean effect)^2]^1/2,   infinitesimal: [sum_j effect_j^2]^1/2

    From retraining, or Newton steps on squared loss, the delete-a-group jackknife. From influence,
    and infinitesimal, the cluster-robust sandwich: that of a coefficient by least squares equals
    Liang and Zeger's, without their correction for few clusters.

    A group without base weight is not there, and does not count. Without a group that holds a
    whole class, or all of a dummy, theta has no one minimum, but a column can have its value there,
    or a limit. That is used, with a warning.

    Args:
        effects: of groups that do not overlap and hold every point whole: sites, villages, or
            single points.
        infinitesimal: whether they are influences.
        partial: take groups that leave points out: these count as fixed, or, of no base weight, as
            not there. Where labels are missing that is too small: fit without these rows.
        drop: leave out, column by column, the groups whose effect is flagged, as if they were not
            there, and those without which theta has no one minimum. What they would have added is
            then missing.

    Returns:
        (m) in units of the columns; NaN for a column in which fewer than two groups are left.

    Raises:
        ValueError: if groups overlap, points are in none, some leave in part or are added, or there
            is only one.
        SolveError: if the effect of a group on a column is flagged, unless they are to be dropped.

    Example:
        >>> effects = lo.effects(fit, groups, lo.measures.parameter([0, 1]), lo.Retrain())
        >>> lo.jackknife(effects).shape
        (2,)

    Source: Efron and Stein (1981); Liang and Zeger (1986).
    """
    check_is(effects, Effects, "`Effects`")
    found = np.full(len(effects.columns), np.nan)
    for j, mine in enumerate(usable(effects, partial=partial, drop=drop).T):
        if mine.sum() > 1:
            found[j] = (_infinitesimal if infinitesimal else _delete_one)(effects.value[mine, j])
    return found


def usable(effects: Effects, *, partial: bool, drop: bool) -> np.ndarray:
    """(g m) the groups that a standard error of each column may count; arguments as above.

    Raises:
        ValueError: for groups that make no standard error.
        SolveError: if the effect of a group on a column is flagged, unless they are to be dropped.
    """
    groups = effects.groups
    _check_partition(groups, partial)
    there = np.ones(len(groups), bool) if effects.weight is None else effects.weight > 0
    if there.sum() < 2:
        raise ValueError("expected at least two groups")
    there &= _at_a_minimum(effects, drop)
    each = [
        kept(effects.column_status[:, j], groups.titles, f"the standard error of {column}", drop)
        for j, column in enumerate(effects.columns)
    ]
    return np.stack(each, axis=1) & there[:, None]


def _at_a_minimum(effects: Effects, drop: bool) -> np.ndarray:
    """(g) the groups to use: not, where these are dropped, those that leave no minimum."""
    loose = np.isin(effects.theta_status, (Status.no_minimum, Status.singular))
    limits = loose & (effects.column_status == 0).any(axis=1)
    if limits.any() and not drop:
        names = shortened(map(str, effects.groups.names[limits]))
        warn(
            f"theta has no one minimum without {names} (a class or a column is gone, or what is "
            "left can be separated); the columns have values or limits there all the same, which "
            "the standard error takes for estimates; drop=True leaves these groups out"
        )
    return ~loose if drop else np.ones(len(loose), bool)


def _infinitesimal(value: np.ndarray) -> float:
    return float(np.sqrt(np.sum(value**2)))


def _delete_one(value: np.ndarray) -> float:
    count = len(value)
    return float(np.sqrt((count - 1) / count * np.sum((value - value.mean()) ** 2)))


def _check_partition(groups: Groups, partial: bool) -> None:
    """Every point is in one group, and leaves whole with it."""
    if np.unique(groups.indices).size < groups.indices.size:
        raise ValueError("the groups overlap; standard errors need groups that share no point")
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
