"""The place of a group's effect among those of random groups like it."""

import dataclasses
import enum
from collections.abc import Iterable

import jax
import numpy as np
import scipy.stats
from jaxtyping import Array

from leaveout.attribution.stream import gathered, pose
from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import group_sums, w_by
from leaveout.groups import Groups, lookalikes, shuffles
from leaveout.measures import Measures, as_measures
from leaveout.methods import Influence, Method, PerPoint
from leaveout.runtime.columns import numbered
from leaveout.runtime.deprecated import option
from leaveout.runtime.tables import check_rows, common_rows

__all__ = ["Null", "Standing", "Within", "standing"]


class Within(enum.Enum):
    """Of what random groups take as many points as the group that they are compared with."""

    classes = "each class, where the targets are labels"
    size = "all points together: they are of the same size, nothing else"


@dataclasses.dataclass(frozen=True, eq=False)
class Null:
    """What groups are compared with: random groups like them.

    Attributes:
        draws: random groups for each group; 0 for none. p is never below 2 / (draws + 1): with many
            groups ask for more, or Benjamini and Hochberg can reject none.
        method: how their effects are found. Default by influence, where a draw costs a sum over the
            group, for measures that do not depend on who leaves; others are then not compared. Any
            method serves, at its cost for g x draws groups.
        within: of what they take as many points: `Within`, or (n) strata of your own, for example
            site and class.
        key: of the draws; default one fixed key, so that the same call gives the same table.
    """

    draws: int = 1000
    method: Method | None = None
    within: Within | Iterable[object] = Within.classes
    key: Array | None = None

    def strata(self, classes: np.ndarray | None) -> np.ndarray | None:
        """(n) the stratum of each point, None for one of all."""
        within = self.within
        if isinstance(within, str):
            within = option(Within, within, "within")
        if isinstance(within, Within):
            return classes if within is Within.classes else None
        return numbered(within, "stratum")


@dataclasses.dataclass(frozen=True, eq=False)
class Standing:
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


def standing(
    fit: Fit, groups: Groups, measures: Measures, null: Null, classes: np.ndarray | None
) -> Standing:
    """The place of each group's effect among those of random groups like it.

    Args:
        fit: the fitted objective.
        groups: past the gates.
        measures: as in `effects`.
        null: what they are compared with.
        classes: (n) the class of each point, or None.
    """
    key = jax.random.key(0) if null.key is None else null.key
    check_rows(common_rows(within=null.within), fit.objective.fingerprint, "within", "the data")
    own, values = _effects(fit, groups, measures, null, null.strata(classes), key)
    draws = len(values)
    below, equal = np.zeros(own.shape), np.zeros(own.shape)
    for draw in values:
        same = np.isclose(draw, own, rtol=1e-9, atol=0)
        below += (draw < own) & ~same
        equal += same
    rarer = np.minimum(below, draws - below - equal) + equal
    p = np.minimum(2 * (1 + rarer) / (draws + 1), 1.0)
    known, spread = np.isfinite(own), values.std(axis=0, ddof=1)
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    mean = values.mean(axis=0)
    z = np.where(spread > 0, (own - mean) / np.where(spread > 0, spread, 1.0), 0.0)
    return Standing(
        effect=own,
        mean=mean,
        low=low,
        high=high,
        z=np.where(known, z, np.nan),
        percentile=np.where(known, 100 * (below + equal / 2) / draws, np.nan),
        p=np.where(known, p, np.nan),
        q=_false_discovery_rate(np.where(known, p, np.nan)),
        draws=draws,
        method=(null.method or Influence()).name,
    )


def _false_discovery_rate(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's q over the groups of each column whose p are all known."""
    q = np.full(p.shape, np.nan)
    for j in np.flatnonzero(np.isfinite(p).all(axis=0)):
        q[:, j] = scipy.stats.false_discovery_control(p[:, j])
    return q


def _effects(fit, groups: Groups, measures: Measures, null: Null, strata, key):
    """Effects of the groups (g m), and of random ones (draws g m)."""
    if null.method is None:
        return _additive(fit, groups, measures, strata, null.draws, key)
    own = gathered(pose(fit, groups, measures, null.method)).value
    like = lookalikes(key, groups, like=groups, within=strata, draws=null.draws)
    values = gathered(pose(fit, like, measures, null.method)).value
    return own, values.reshape(null.draws, *own.shape)


def _additive(fit, groups: Groups, measures: Measures, strata, draws: int, key):
    """The same by influence, NaN where it does not add up over points."""
    bound = [measure.bind(fit.objective) for measure in as_measures(measures)]
    found = Influence().prepare(fit, bound).per_point
    assert isinstance(found, list)  # one entry a measure
    psi = np.concatenate(
        [
            part.value[: groups.n]
            if isinstance(part, PerPoint)
            else np.full((groups.n, len(measure.columns(fit.objective))), np.nan)
            for part, measure in zip(found, bound, strict=True)
        ],
        axis=1,
    )

    def sums(groups: Groups) -> np.ndarray:
        return np.asarray(group_sums(groups, w_by(fit.objective, groups), psi))

    own = sums(groups)
    values = np.empty((draws, *own.shape))
    for i, points in enumerate(shuffles(key, groups, strata, draws)):
        values[i] = sums(dataclasses.replace(groups, indices=points))
    return own, values
