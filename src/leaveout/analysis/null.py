"""The place of a group's effect among those of random groups like it."""

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from leaveout.attribution.stream import gathered, pose
from leaveout.fitting.fitted import Fit
from leaveout.fitting.leaving import group_sums, w_by
from leaveout.groups import Groups, dealt_sums, shuffles
from leaveout.measures import Measures, as_measures
from leaveout.methods import Influence, Method, PerPoint
from leaveout.runtime.columns import numbered
from leaveout.runtime.deprecated import option
from leaveout.runtime.memory import budget
from leaveout.runtime.options import check_integer, check_is
from leaveout.runtime.sharding import to_host
from leaveout.runtime.tables import Fingerprint, check_rows, common_rows

__all__ = ["Null", "Standing", "Within", "standing"]


class Within(enum.Enum):
    """Of what random groups take as many points as the group that they are compared with.

    Example:
        >>> [within.name for within in lo.Within]
        ['classes', 'size']
    """

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

    Raises:
        ValueError: for draws that are no count, or what is no method.

    Example:
        >>> chance = lo.Null(50, lo.Newton(), within=lo.Within.size)
        >>> found = lo.credit(fit, groups, measure, null=chance)
        >>> found.null.draws, found.null.method
        (50, 'Newton')
    """

    draws: int = 1000
    method: Method | None = None
    within: Within | Iterable[object] = Within.classes
    key: Array | None = None

    def __post_init__(self):
        check_integer(self.draws, "null (draws for each group)", least=0)
        if self.method is not None:
            check_is(self.method, Method, "a method such as lo.Newton(), or None")

    def strata(self, classes: np.ndarray | None, rows: Fingerprint | None) -> np.ndarray | None:
        """(n) the stratum of each point, None for one of all.

        Args:
            classes: (n) the class of each point, or None.
            rows: the pandas index of the data, or None.

        Raises:
            ValueError: for strata of another index, or a word that is none of `Within`.
        """
        within = self.within
        check_rows(common_rows(within=within), rows, "within", "the data")
        if isinstance(within, str):
            within = option(Within, within, "within")
        if isinstance(within, Within):
            return classes if within is Within.classes else None
        return numbered(within, "stratum")


@dataclasses.dataclass(frozen=True, eq=False)
class Standing:
    """Where each group stands among random groups of its size and class balance.

    NaN in columns that were not compared, and where a group's own effect is flagged. A random group
    whose effect is flagged counts as a tie, against a small p; there is then no mean, low, high or
    z, which are NaN.

    Attributes:
        effect: (g m) what is compared: the groups' own effects by `method`.
        mean: (g m) mean effect of the random groups.
        low: (g m) their 2.5 % point.
        high: (g m) their 97.5 % point.
        z: (g m) (effect - mean) / standard deviation.
        percentile: (g m) share of random groups below, ties half, in per cent.
        p: (g m) two-sided, (1 + the rarer side) 2 / (draws + 1): never below 2 / (draws + 1).
        q: (g m) p by Benjamini and Hochberg over the groups of a column that have one: reject where
            q <= 0.05, and of those rejected at most 5 % are false on average.
        draws: random groups for each.
        method: name of the method.
        status: (g m) `Status` codes of the groups' own effects.
        flagged: (g m) how many of the random groups are flagged.
        family: of groups that were looked for (`discover`), among how many: what they are compared
            with is then the most extreme effect of as many in every draw, p is one-sided and of the
            whole family, and q is p. 0 of groups that were given.

    Example:
        >>> found = lo.credit(fit, groups, measure, null=20).null
        >>> found.p.shape, bool((found.p >= 2 / 21).all())
        ((4, 1), True)
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
    status: np.ndarray
    flagged: np.ndarray
    family: int = 0

    @property
    def head(self) -> list[str]:
        """What `cells` are called in a table."""
        return [f"p of {self.family:,}"] if self.family else ["z", "percentile", "q"]

    def cells(self, i: int, j: int) -> list[str]:
        """One group's place in one column, as text."""
        if self.family:
            return [f"{self.p[i, j]:.3f}"]
        return [f"{self.z[i, j]:+.1f}", f"{self.percentile[i, j]:.1f}", f"{self.q[i, j]:.3f}"]


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
    make = _by_influence if null.method is None else _by_method
    sample = make(fit, groups, measures, null, null.strata(classes, fit.objective.fingerprint), key)
    parts = []
    for rows in _parts(len(groups), sample.bytes_each):
        own = sample.own[rows], sample.status[rows] == 0
        parts.append(_placed(*own, *sample.drawn(rows)))
    names = parts[0]
    found: dict[str, Any] = {n: np.concatenate([part[n] for part in parts]) for n in names}
    return Standing(
        effect=sample.own,
        q=_false_discovery_rate(found["p"]),
        draws=null.draws,
        method=(null.method or Influence()).name,
        status=sample.status,
        **found,
    )


def _parts(count: int, bytes_each: float | int) -> list[np.ndarray]:
    """The groups in runs of neighbours, as many as the memory has room for all draws of."""
    runs = min(count, int(-(-count * bytes_each // budget())))
    return np.array_split(np.arange(count), max(runs, 1))


def _placed(own, known, values, flagged) -> dict[str, np.ndarray]:
    """Where effects (r m) stand among draws (draws r m), which are overwritten.

    Args:
        own: (r m).
        known: (r m) whether the group's own effect is.
        values: (draws r m).
        flagged: (draws r m) which of the draws are no effects, or None for none.
    """
    draws, lost = len(values), np.zeros(own.shape, int)
    below, equal = np.zeros(own.shape), np.zeros(own.shape)
    for i, draw in enumerate(values):
        same = np.isclose(draw, own, rtol=1e-9, atol=0)
        if flagged is not None:
            same |= flagged[i]
            lost += flagged[i]
        below += (draw < own) & ~same
        equal += same
    known = known & np.isfinite(own)
    whole, mean = known & (lost == 0), values.mean(axis=0)
    spread = np.sqrt(sum((draw - mean) ** 2 for draw in values) / max(draws - 1, 1))
    low, high = np.quantile(values, [0.025, 0.975], axis=0, overwrite_input=True)
    z = np.where(spread > 0, (own - mean) / np.where(spread > 0, spread, 1.0), 0.0)
    p = np.minimum(2 * (1 + np.minimum(below, draws - below - equal) + equal) / (draws + 1), 1.0)
    given = {"mean": mean, "low": low, "high": high, "z": z}
    found = {name: np.where(whole, part, np.nan) for name, part in given.items()}
    found["percentile"] = np.where(known, 100 * (below + equal / 2) / draws, np.nan)
    return found | {"p": np.where(known, p, np.nan), "flagged": lost}


def _false_discovery_rate(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's q over the groups of each column whose p is known."""
    from scipy.stats import false_discovery_control

    q = np.full(p.shape, np.nan)
    for j, known in enumerate(np.isfinite(p).T):
        if known.any():
            q[known, j] = false_discovery_control(p[known, j])
    return q


class _Sample(NamedTuple):
    """Effects of the groups, and how those of random ones are drawn: the same at every call.

    Attributes:
        own: (g m) of the groups.
        status: (g m) codes of these.
        drawn: neighbouring groups (r) to effects of the random ones (draws r m), and which of these
            are flagged, or None.
        bytes_each: that `drawn` takes for a group.
    """

    own: np.ndarray
    status: np.ndarray
    drawn: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
    bytes_each: float | int


def _by_method(fit: Fit, groups: Groups, measures: Measures, null: Null, strata, key) -> _Sample:
    """By any method, at its cost for every draw."""
    assert null.method is not None  # see `standing`
    question = pose(fit, groups, measures, null.method)
    found = gathered(question)

    def drawn(rows: np.ndarray):
        some, points = groups[rows], _seats(groups, rows)
        shape = (null.draws, *found.value[rows].shape)
        values, flagged, at = np.empty(shape), np.empty(shape, bool), 0
        for part in _batches(shuffles(key, groups, strata, null.draws), points):
            like = _dealt(some, part)
            answer = gathered(dataclasses.replace(question, groups=like))
            to = slice(at, at := at + len(part))
            values[to] = answer.value.reshape(-1, *shape[1:])
            flagged[to] = answer.column_status.reshape(-1, *shape[1:]) != 0
        values[flagged] = 0.0
        return values, flagged if flagged.any() else None

    each = 11 * null.draws * found.value.shape[1]  # effects, flags, and what a quantile needs
    return _Sample(found.value, found.column_status, drawn, each)


def _seats(groups: Groups, rows: np.ndarray) -> slice:
    """Where the points of neighbouring groups are listed."""
    return slice(groups.offsets[rows[0]], groups.offsets[rows[-1] + 1])


def _batches(
    draws: Iterator[np.ndarray], points: slice, answers: int = 0
) -> Iterator[list[np.ndarray]]:
    """Some of the points of every draw, as many draws at a time as a quarter of memory holds."""
    part: list[np.ndarray] = []
    for every in draws:
        part.append(every[points].copy())  # and not a view, which would keep the whole draw
        if 8 * (10 * part[0].size + 2 * answers) * (len(part) + 1) > budget() / 4:
            yield part
            part = []
    if part:
        yield part


def _dealt(like: Groups, draws: list[np.ndarray]) -> Groups:
    """The groups with other points, draw after draw, in the order in which they were dealt."""
    count = len(draws)
    return dataclasses.replace(
        like,
        indices=np.concatenate(draws),
        offsets=np.append(0, np.cumsum(np.tile(like.size, count))),
        partial=None if like.partial is None else np.tile(like.partial, count),
        names=np.tile(like.names, count),
        kind=np.broadcast_to("lookalike", count * len(like)),
    )


def _by_influence(fit: Fit, groups: Groups, measures: Measures, null: Null, strata, key) -> _Sample:
    """By influence, where a draw costs a sum; NaN where it does not add up over points.

    Of many points those of a draw are not listed (`dealt_sums`).
    """
    psi, status = _per_point(fit, groups, measures)

    def sums(groups: Groups) -> np.ndarray:
        return np.asarray(group_sums(groups, w_by(fit.objective, groups), psi))

    def listed(rows: np.ndarray) -> Iterator[np.ndarray]:
        some, points = groups[rows], _seats(groups, rows)
        shape = (len(rows), psi.shape[1])
        for part in _batches(shuffles(key, groups, strata, null.draws), points, math.prod(shape)):
            yield from sums(_dealt(some, part)).reshape(len(part), *shape)

    def drawn(rows: np.ndarray):
        there = np.asarray(to_host(fit.objective.weights))[: groups.n, None] > 0
        dealt = dealt_sums(key, groups, strata, null.draws, np.where(there, psi, 0.0))
        values = np.empty((null.draws, len(rows), psi.shape[1]))
        each = listed(rows) if dealt is None else (every[rows] for every in dealt)
        for i, draw in enumerate(each):
            values[i] = draw
        return values, None

    codes = np.repeat(status[None], len(groups), axis=0)
    return _Sample(sums(groups), codes, drawn, 10 * null.draws * psi.shape[1])


def _per_point(fit: Fit, groups: Groups, measures: Measures) -> tuple[np.ndarray, np.ndarray]:
    """What each point does to each column (n m), by influence, and the columns' statuses (m)."""
    bound = [measure.bind(fit.objective) for measure in as_measures(measures)]
    found = Influence().prepare(fit, bound).per_point
    assert isinstance(found, list)  # one entry a measure
    psi, status = [], []
    for part, measure in zip(found, bound, strict=True):
        count = len(measure.columns(fit.objective))
        additive = isinstance(part, PerPoint)
        psi.append(part.value[: groups.n] if additive else np.full((groups.n, count), np.nan))
        status.append(part.status if additive else np.zeros(count, np.int8))
    return np.concatenate(psi, axis=1), np.concatenate(status)
