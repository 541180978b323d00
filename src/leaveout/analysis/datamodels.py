"""The linear datamodelling score, by the field's name, with what the field leaves out."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from leaveout.analysis.agreement import spearman
from leaveout.analysis.compare import paired
from leaveout.analysis.seeds import (
    ceiling_by_halves,
    refuse_other_question,
    reliability_of,
    splits_of,
)
from leaveout.attribution.container import Effects
from leaveout.runtime.options import generator

__all__ = ["LDS", "lds"]


@dataclasses.dataclass(frozen=True)
class LDS:
    """The linear datamodelling score: the mean over columns of a rank correlation over groups.

    Attributes:
        value: the score.
        low: 2.5 % point of a bootstrap over groups, columns and seeds.
        high: 97.5 % point.
        ceiling: the most that a perfect prediction could have, by the mean reliability of the
            columns; NaN without seeds, or where their halves do not agree at all.
        columns: how many columns have one.

    Example:
        >>> halves = lo.Groups.from_masks(rng.random((8, 24)) < 0.5)
        >>> truth = lo.effects(fit, halves, measure, lo.Retrain())
        >>> found = lo.lds(lo.effects(fit, halves, measure), truth)
        >>> bool(found.low <= found.value <= found.high), found.columns
        (True, 1)
    """

    value: float
    low: float
    high: float
    ceiling: float
    columns: int

    def __str__(self) -> str:
        ceiling = "" if np.isnan(self.ceiling) else f", ceiling {self.ceiling:.3f}"
        return f"LDS {self.value:.3f} [{self.low:.3f}, {self.high:.3f}]{ceiling}"


def lds(
    predicted: Effects | ArrayLike,
    actual: Effects | ArrayLike,
    *,
    key: Array | None = None,
    resamples: int = 200,
) -> LDS:
    """The linear datamodelling score of predicted effects, with its ceiling.

    For each column Spearman's correlation over the groups (the field's random halves, or any
    others), then the mean over columns. Groups that are flagged on either side are left out.

    Args:
        predicted: effects, or an array (g m) or (g).
        actual: likewise, of the same groups and columns; seeds of `Effects` give the ceiling.
        key: random key of bootstrap and splits; default `jax.random.key(0)`.
        resamples: of groups, columns and seeds together; their median bias is taken away on
            Fisher's scale.

    Returns:
        the score, its interval and its ceiling.

    Raises:
        ValueError: for other groups or columns, or fewer than three groups that are not flagged.

    Example:
        >>> halves = lo.Groups.from_masks(np.random.default_rng(1).random((8, 24)) < 0.5)
        >>> truth = lo.effects(fit, halves, measure, lo.Retrain())
        >>> bool(lo.lds(lo.effects(fit, halves, measure), truth).value > 0.8)
        True

    Source: Park et al. (2023), TRAK, equation 12.
    """
    refuse_other_question(predicted, actual)
    pair = paired(predicted, actual)
    good = (pair.status == 0).all(axis=1)
    if good.sum() < 3:
        raise ValueError(f"expected at least three groups that converged, got {int(good.sum())}")
    seeds = getattr(actual, "seeds", None)
    p, a = pair.predicted[good], np.asarray(pair.actual[None] if seeds is None else seeds)[:, good]
    rng = generator(jax.random.key(0) if key is None else key)
    each = _scores(p, a)
    many = []
    for _ in range(resamples):
        groups, columns, seeds = (rng.integers(0, n, n) for n in (*p.shape, len(a)))
        many.append(np.nanmean(_scores(p[groups][:, columns], a[seeds][:, groups][:, :, columns])))
    low, high = _interval(float(np.nanmean(each)), many)
    ceiling = np.nan
    if len(a) > 1:
        columns = (a[:, :, j] for j in range(p.shape[1]))
        reliable = [reliability_of(each, splits_of(len(a), rng)) for each in columns]
        ceiling = ceiling_by_halves(float(np.nanmean(reliable)), len(a))
    count = int(np.isfinite(each).sum())
    return LDS(float(np.nanmean(each)), low, high, float(ceiling), count)


def _interval(score: float, many: list[float]) -> tuple[float, float]:
    """The 95 % interval of a correlation by resamples of it, free of their median bias.

    A resample has groups twice, whose ranks tie, so that its correlation tends to be smaller; the
    mean over many columns varies so little that percentiles could leave out the score itself. On
    Fisher's scale they are moved by what their median is off.
    """
    if not many:
        return np.nan, np.nan
    inside = 1 - np.finfo(float).eps
    z = np.arctanh(np.clip(many, -inside, inside))
    moved = np.arctanh(np.clip(score, -inside, inside)) - np.nanmedian(z)
    low, high = np.tanh(np.nanquantile(z, [0.025, 0.975]) + moved)
    return float(low), float(high)


def _scores(p: Float[np.ndarray, "g m"], a: Float[np.ndarray, "s g m"]) -> np.ndarray:
    """(m) rank correlations of the columns; NaN where one does not vary."""
    mean = a.mean(axis=0)
    return np.array([spearman(p[:, j], mean[:, j]) for j in range(p.shape[1])])
