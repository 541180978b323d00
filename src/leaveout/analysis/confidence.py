"""Confidence intervals of the measures, from what each cluster's removal does to them.

An interval here is statistical: what other samples of clusters would give. A certified interval
(`lo.effects(..., certify=True)`) is numerical: what retraining gives on this sample.
"""

import dataclasses
import enum
import itertools

import numpy as np

from leaveout.analysis.credit import Credit, credit
from leaveout.analysis.jackknife import usable
from leaveout.analysis.null import Null
from leaveout.attribution.container import Effects
from leaveout.attribution.verb import effects
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import taken_by
from leaveout.groups import Groups
from leaveout.measures import Measures, as_measures
from leaveout.methods import Influence, Method, Retrain
from leaveout.runtime.extras import needed
from leaveout.runtime.options import check_inside, check_is
from leaveout.runtime.solution import Status
from leaveout.runtime.text import aligned, warn

__all__ = ["CRV", "Confidence", "confidence"]

_FEW = 20  # clusters, below which Cameron and Miller (2015) speak of few
_PAIRS = 30  # clusters up to which pairs of them are left out unasked
_MOST = 0.5  # share of a variance that is worth a note if one cluster makes it


class CRV(enum.Enum):
    """Cluster-robust variances of g clusters, of n points and p parameters.

    Attributes:
        CRV0: the sandwich, of influences; too small where clusters are few.
        CRV1: the same times a factor, as other programs print it.
        CRV3: the jackknife, of what is left without each cluster; errs on the side of caution.
        CRV3J: the jackknife around the mean of the changes in the place of the estimate.

    Example:
        >>> lo.CRV.CRV3.of(np.array([1.0, -1.0, 2.0, 0.0]), n=24, p=4)  # 3 / 4 (1 + 1 + 4)
        4.5
        >>> lo.CRV.CRV0.infinitesimal, lo.CRV.CRV3.infinitesimal
        (True, False)

    Source: Liang and Zeger (1986), 0; Cameron and Miller (2015), 1; MacKinnon, Nielsen and Webb
    (2023), 3 and 3J, the jackknife.
    """

    CRV0 = "the sum of the squared influences: Liang and Zeger's sandwich"
    CRV1 = "CRV0 times g / (g - 1) (n - 1) / (n - p), as Stata and statsmodels print it"
    CRV3 = "(g - 1) / g times the squared changes without each cluster: the jackknife"
    CRV3J = "as CRV3, of changes less their mean"

    @property
    def infinitesimal(self) -> bool:
        """Whether it is made of influences, not of what is left without each cluster."""
        return self in (CRV.CRV0, CRV.CRV1)

    def of(self, change: np.ndarray, n: int, p: int) -> float:
        """The variance by the changes (g) without each cluster."""
        g = len(change)
        if self is CRV.CRV3J:
            change = change - change.mean()
        factor = {
            CRV.CRV0: 1.0,
            CRV.CRV1: g / (g - 1) * (n - 1) / max(n - p, 1),
        }.get(self, (g - 1) / g)
        return float(factor * np.sum(change**2))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Confidence:
    """Estimates, their standard errors and confidence intervals; see `confidence`.

    Attributes:
        columns: (m) names of the columns.
        estimate: (m) the measures at theta.
        error: (m) standard errors; of the logarithm, where a column is a ratio.
        low: (m) lower ends of the confidence intervals.
        high: (m) upper ends.
        p: (m) two-sided, of the estimate being 0, or 1 for a ratio.
        degrees: (m) of freedom of Student's t: clusters used, less one; of two ways the fewer.
        ratio: (m) whether a column is a ratio: its interval is symmetric in the logarithm.
        variance: which of the cluster-robust variances.
        level: of the intervals.
        credits: a `Credit` for each way of clustering: effects, sizes, random groups.
        without: (g m) the estimate without each cluster of the first way.
        without_low: (g m) the confidence interval of what is left, from the other clusters; None
            where pairs were not left out, NaN where one of these has no answer.
        without_high: (g m) its upper end.
        share: (g m) of the variance, by cluster of the first way.
        notes: what a reader should know.

    Example:
        >>> points = lo.Groups.from_labels(np.arange(24))  # 24 clusters
        >>> found = lo.confidence(fit, points, lo.measures.parameter([0, 1]), pairs=False)
        >>> found.error.shape, found.without.shape, found.degrees
        ((2,), (24, 2), array([23, 23]))
        >>> found.to_pandas().columns.tolist()
        ['column', 'estimate', 'error', 'low', 'high', 'p', 'degrees']
    """

    columns: tuple[str, ...]
    estimate: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    degrees: np.ndarray
    ratio: np.ndarray
    variance: CRV
    level: float
    credits: tuple[Credit, ...]
    without: np.ndarray
    without_low: np.ndarray | None
    without_high: np.ndarray | None
    share: np.ndarray
    notes: tuple[str, ...]

    @property
    def groups(self) -> Groups:
        """The clusters of the first way."""
        return self.credits[0].groups

    def band(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(g m) between what the estimate is without 95 % of random groups like each cluster."""
        null = self.credits[0].null
        if null is None:
            return None
        how = [_scaled(end, self.estimate, self.ratio, first=True) for end in (null.low, null.high)]
        low, high = (_shown(_centre(self.estimate, self.ratio) + end, self.ratio) for end in how)
        return low, high

    def to_pandas(self):
        """A pandas table, a row a column."""
        with needed("a table of confidence intervals"):
            import pandas as pd

        names = ("estimate", "error", "low", "high", "p", "degrees")
        table = {"column": self.columns} | {name: getattr(self, name) for name in names}
        return pd.DataFrame(table)

    def without_pandas(self):
        """A pandas table of the leave-one-cluster-out estimates: a row a cluster and column."""
        with needed("a table of confidence intervals"):
            import pandas as pd

        g, m = self.without.shape
        table = {
            "group": np.repeat(self.groups.names, m),
            "size": np.repeat(self.groups.size, m),
            "column": np.tile(self.columns, g),
            "without": self.without.reshape(-1),
            "share of variance": self.share.reshape(-1),
            "status": [Status(int(code)).name for code in self.credits[0].best.column_status.flat],
        }
        if self.without_low is not None and self.without_high is not None:
            table |= {"low": self.without_low.reshape(-1), "high": self.without_high.reshape(-1)}
        return pd.DataFrame(table)

    def __repr__(self) -> str:
        return "\n".join([f"Confidence({self.in_words()})", *self._lines(), *self.notes])

    def in_words(self) -> str:
        """How the intervals were made."""
        ways = " and ".join(f"{len(c.groups):,} clusters, {_kind(c.groups)}" for c in self.credits)
        return f"{100 * self.level:g} % confidence intervals, {self.variance.name}, by {ways}"

    def _lines(self) -> list[str]:
        per = f"{100 * self.level:g} % confidence"
        rows = [["", "estimate", per, "", "std. error", "t df", "p"]]
        for j, column in enumerate(self.columns):
            numbers = (self.estimate[j], self.low[j], self.high[j], self.error[j])
            value, low, high, error = (f"{number:.4g}" for number in numbers)
            of_log = " (log)" if self.ratio[j] else ""
            rows.append([column, value, low, high, error + of_log,
                         f"{self.degrees[j]:.0f}", f"{self.p[j]:.3g}"])  # fmt: skip
        return aligned(rows, right=True)


@in_double
def confidence(
    fit: Fit,
    groups: Groups | tuple[Groups, Groups],
    measures: Measures,
    variance: CRV = CRV.CRV3,
    *,
    method: Method | None = None,
    level: float = 0.95,
    pairs: bool | None = None,
    null: Null | int = 0,
    drop: bool = False,
    partial: bool = False,
    memory=None,
) -> Confidence:
    """Confidence intervals of the measures, clustered by groups that share no point.

        estimate +- t(g - 1) error,   error^2 = (g - 1) / g sum_j (estimate without j - estimate)^2

    in the logarithm where the measure is a ratio (`lo.measures.odds_ratio`). Of two ways of
    clustering, the variance is the sum of both, less that of what they share, and never less than
    either: the interval is wide enough for the wider one.

    The clusters are taken for a sample of many. Few of them (less than twenty), or one that makes
    most of the variance, are noted: t and the jackknife help, but not where clusters are unlike.
    A penalty pulls estimates towards 0, and the interval with them. The refits behind the variance
    then keep the penalty an example, l2 times the share that stays: under all of it what is left is
    drawn further, which would be counted as noise. `without` is the estimate under l2 as it is.

    Args:
        fit: the fitted objective.
        groups: clusters that hold every point, or two such ways of clustering.
        measures: as in `effects`: coefficients (`lo.measures.parameter("age")`), odds ratios, or
            any others, losses among them.
        variance: which of the cluster-robust variances; CRV3, the jackknife, is the safest of them.
        method: how the effects are found; default retraining, for CRV0 and CRV1 influence.
        level: of the intervals.
        pairs: whether to leave out pairs of clusters too, g (g - 1) / 2 of them, for a confidence
            interval of the estimate without each cluster. Default where g is 30 or less.
        null: random groups for each cluster, for `band`; or a `lo.Null`.
        drop: leave out clusters whose effect is flagged, as in `jackknife`.
        partial: take points in no cluster as fixed, as in `jackknife`.
        memory: as in `effects`.

    Returns:
        estimates, standard errors and intervals, an entry a column of the measures; `print` shows
        them as a table.

    Raises:
        ValueError: if clusters overlap, points are in none, or there are fewer than two.
        SolveError: if the effect of a cluster is flagged, unless they are to be dropped.

    Example:
        >>> points = lo.Groups.from_labels(np.arange(24))  # 24 clusters
        >>> age = lo.measures.parameter([0])
        >>> found = lo.confidence(fit, points, age, lo.CRV.CRV1)
        >>> bool(found.low[0] < found.estimate[0] < found.high[0])
        True

    Source: MacKinnon, Nielsen and Webb (2023), and (2024) of two ways, whose "max-se" is the last
    clause; Cameron, Gelbach and Miller (2011).
    """
    _check(variance, level)
    ways = (groups,) if isinstance(groups, Groups) else groups
    check_is(ways, tuple | list, "clusters as lo.Groups, or a tuple of two ways")
    if not 1 <= len(ways) <= 2:
        raise ValueError(f"expected groups, or two ways of grouping, got {len(ways)} of them")
    first = ways[0]
    method = (Influence() if variance.infinitesimal else Retrain()) if method is None else method
    credits = tuple(
        credit(fit, way, measures, method, null=null if i == 0 else 0, memory=memory)
        for i, way in enumerate(ways)
    )
    sample = _Sample.of(fit, measures, credits[0].base, method, variance, memory)
    found = [sample.drawn(each.groups, each.best) for each in credits]
    if len(ways) == 2:
        found.append(sample.drawn(_crossed(*ways)))
    every = [sample.variances(each, drop, partial) for each in found]
    whole, notes = _both(every, found[0].columns)
    degrees = np.min([count - 1 for _, count, _ in every[:2]], axis=0)
    alone = sample.scaled(credits[0].best.value)
    apart = _pairs_asked(pairs, variance, len(first))
    ends = sample.without(alone, found[0], level) if apart else (None, None)
    centre = _centre(sample.estimate, sample.ratio)
    low, high, p = _student(centre, np.sqrt(whole), degrees, level)
    share = every[0][2]
    notes += _doubts(fit, ways, variance, share, found[0])
    return Confidence(
        columns=found[0].columns,
        estimate=sample.estimate,
        error=np.sqrt(whole),
        low=_shown(low, sample.ratio),
        high=_shown(high, sample.ratio),
        p=p,
        degrees=degrees,
        ratio=sample.ratio,
        variance=variance,
        level=level,
        credits=credits,
        without=_shown(centre + alone, sample.ratio),
        without_low=ends[0],
        without_high=ends[1],
        share=share,
        notes=notes,
    )


def _check(variance: CRV, level: float) -> None:
    if not isinstance(variance, CRV):
        known = ", ".join(f"lo.CRV.{each.name}" for each in CRV)
        raise ValueError(f"expected one of {known}, got {variance!r}")
    check_inside(level, "level", "0.95")


def _pairs_asked(pairs: bool | None, variance: CRV, count: int) -> bool:
    """Whether pairs are left out."""
    if pairs and variance.infinitesimal:
        raise ValueError(
            "intervals without each cluster come from leaving out pairs of them: say variance="
            "lo.CRV.CRV3, or leave out pairs="
        )
    wanted = count <= _PAIRS if pairs is None else pairs
    return wanted and not variance.infinitesimal and count > 2


# ---- variances -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Sample:
    """What all variances of a fit have in common.

    Attributes:
        fit: the fitted objective.
        measures: asked about.
        estimate: (m) them at theta.
        ratio: (m) which of them are ratios.
        method: how effects are found.
        variance: which is wanted.
        memory: as in `effects`.
    """

    fit: Fit
    measures: Measures
    estimate: np.ndarray
    ratio: np.ndarray
    method: Method
    variance: CRV
    memory: object

    @classmethod
    def of(cls, fit: Fit, measures: Measures, estimate, *how) -> "_Sample":
        """With the columns that are ratios."""
        objective = fit.objective
        bound = [measure.bind(objective) for measure in as_measures(measures)]
        for name in (each.name for each in bound if each.needs_w):
            raise ValueError(
                f"{name} depends on who leaves: it has no value of its own to estimate"
            )
        ratio = np.concatenate([[each.ratio] * len(each.columns(objective)) for each in bound])
        return cls(fit, measures, estimate, ratio.astype(bool), *how)

    def drawn(self, groups: Groups, known: Effects | None = None) -> Effects:
        """Effects of samples without each group, under the penalty an example that all have.

        Args:
            groups: what is left out.
            known: their effects under l2 as it is, which are these where it is 0.
        """
        objective, l2 = self.fit.objective, None
        if float(objective.l2) > 0:
            taken = groups.sums(taken_by(objective, groups)) / float(objective.weights.sum())
            l2 = float(objective.l2) * (1 - taken)
        elif known is not None:
            return known
        return effects(self.fit, groups, self.measures, self.method, l2=l2, memory=self.memory)

    def scaled(self, change: np.ndarray) -> np.ndarray:
        """Changes (g m) in the logarithm where a column is a ratio."""
        return _scaled(change, self.estimate, self.ratio, self.method.first_order)

    def one(self, change: np.ndarray) -> float:
        """A variance by the changes (g) that count."""
        objective = self.fit.objective
        n = int(np.count_nonzero(np.asarray(objective.weights)))
        return self.variance.of(change, n, objective.p)

    def variances(self, found: Effects, drop: bool, partial: bool):
        """(m) variances, (m) how many clusters count, (g m) the share of each."""
        mine, scaled = usable(found, partial=partial, drop=drop), self.scaled(found.value)
        count = mine.sum(axis=0)
        whole = np.array([
            self.one(scaled[rows, j]) if count[j] > 1 else np.nan for j, rows in enumerate(mine.T)
        ])  # fmt: skip
        squares = np.where(mine, scaled, 0.0) ** 2
        total = squares.sum(axis=0)
        return whole, count, squares / np.where(total > 0, total, 1.0)

    def without(self, alone, single: Effects, level: float):
        """(g m) ends of the confidence interval of what is left without each cluster.

        Args:
            alone: (g m) changes without each.
            single: the effects that those without pairs are compared with.
            level: of the intervals.
        """
        groups, reference = single.groups, self.scaled(single.value)
        count = len(groups)
        couples = np.array(list(itertools.combinations(range(count), 2)))
        lists = np.split(groups.indices, groups.offsets[1:-1])
        both = Groups.from_indices([np.r_[lists[a], lists[b]] for a, b in couples], n=groups.n)
        found = self.drawn(both)
        scaled = np.where(found.column_status == 0, self.scaled(found.value), np.nan)
        error = np.empty(alone.shape)
        for k in range(count):
            apart = scaled[(couples == k).any(axis=1)] - reference[k]
            error[k] = [np.sqrt(self.one(each)) for each in apart.T]
        centre = _centre(self.estimate, self.ratio) + alone
        low, high, _ = _student(centre, error, np.array(count - 2), level)
        return _shown(low, self.ratio), _shown(high, self.ratio)


def _both(every, columns) -> tuple[np.ndarray, tuple[str, ...]]:
    """(m) the variance of one way, or of two: their sum less what they share, never less than one.

    Source: Cameron, Gelbach and Miller (2011); MacKinnon, Nielsen and Webb (2024), "max-se".
    """
    if len(every) == 1:
        return every[0][0], ()
    (one, _, _), (other, _, _), (shared, _, _) = every
    either = np.maximum(one, other)
    whole = one + other - shared
    short = [name for name, less in zip(columns, whole < either, strict=True) if less]
    notes = (
        (
            "of two ways of clustering, that of the larger variance is taken alone for "
            f"{', '.join(short)}: both together would give less",
        )
        if short
        else ()
    )
    return np.fmax(whole, either), notes


def _crossed(one: Groups, other: Groups) -> Groups:
    """The clusters that two ways have in common."""
    codes = []
    for groups in (one, other):
        label = np.full(groups.n, -1)
        label[groups.indices] = groups.lanes
        if (label < 0).any():
            raise ValueError("two ways of clustering need every point in a cluster of both")
        codes.append(label)
    return Groups.from_labels(codes[0] * len(other) + codes[1], kind="both")


# ---- scales --------------------------------------------------------------------------------------


def _centre(estimate: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Estimates, or their logarithms."""
    return np.where(ratio, np.log(np.where(ratio, estimate, 1.0)), estimate)


def _shown(value: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Back from logarithms."""
    return np.where(ratio, np.exp(np.where(ratio, value, 0.0)), value)


def _scaled(change, estimate: np.ndarray, ratio: np.ndarray, first: bool) -> np.ndarray:
    """Changes of estimates, or of their logarithms, to first order if that is what they are."""
    relative = change / np.where(ratio, estimate, 1.0)
    return np.where(ratio, relative if first else np.log1p(np.where(ratio, relative, 0.0)), change)


def _student(centre, error, degrees, level: float):
    """Ends of the intervals by Student's t, and two-sided p."""
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, degrees) * error
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * stats.t.sf(np.abs(centre) / error, degrees)
    return centre - half, centre + half, p


# ---- what is in doubt ----------------------------------------------------------------------------


def _doubts(fit: Fit, ways, variance: CRV, share: np.ndarray, found: Effects) -> tuple[str, ...]:
    """What a reader should know; few clusters are warned of, too."""
    notes, fewest = [], min(ways, key=len)
    if len(fewest) < _FEW:
        safer = "; lo.CRV.CRV3 errs less" if variance.infinitesimal else ""
        sentence = (
            f"{len(fewest)} clusters ({_kind(fewest)}) are few: the confidence intervals lean on "
            f"Student's t with {len(fewest) - 1} degrees, and on clusters being alike{safer}"
        )
        warn(sentence)
        notes.append(sentence)
    most = share.argmax(axis=0)
    for j, i in enumerate(most):
        if share[i, j] > _MOST:
            name = found.groups.names[i]
            notes.append(f"{name} makes {share[i, j]:.0%} of the variance of {found.columns[j]}")
    if np.any(np.asarray(fit.objective.l2) > 0):
        notes.append(
            "l2 pulls estimates towards 0: the confidence intervals are of the penalised estimates"
        )
    return (*notes, *found.notes)


def _kind(groups: Groups) -> str:
    return ", ".join(np.unique(groups.kind).astype(str))
