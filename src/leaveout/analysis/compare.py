"""Comparing effects: how well predictions do, with confidence intervals (of a bootstrap)."""

import dataclasses
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from leaveout.analysis.agreement import STATISTICS, with_intervals
from leaveout.analysis.seeds import SEEDED, Noise, noise_of, refuse_other_question
from leaveout.attribution.container import Effects
from leaveout.groups import Groups
from leaveout.runtime.extras import needed
from leaveout.runtime.options import check_integer, seed_of
from leaveout.runtime.solution import flagged_in_words
from leaveout.runtime.text import aligned, shortened

__all__ = [
    "STATISTICS",
    "Comparison",
    "Pair",
    "check_column",
    "comparable",
    "compare",
    "left_out",
    "paired",
]

#: shares of the training data at which size bands end
_BANDS = ((0.025, "up to 2.5 %"), (0.1, "2.5 to 10 %"), (0.25, "10 to 25 %"), (np.inf, "above"))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Statistics of predicted against actual effects.

    Attributes:
        rows: one dictionary for each column, slice of groups and statistic: column, measure, by
            ("all", "kind" or "size"; slices of one group are left out), level, count, statistic,
            value, low, high. count is of groups that are not flagged in the column. low and high
            are the 2.5 and 97.5 % points of a bootstrap over groups. A correlation of effects that
            do not vary is undefined: value, low and high are None, and `notes` says so.
        columns: names of the columns.
        notes: what a reader should know.

    Example:
        >>> actual = lo.effects(fit, groups, measure, lo.Retrain())
        >>> found = lo.compare(lo.effects(fit, groups, measure), actual)
        >>> found.spearman.round(3)
        array([0.8])
    """

    rows: list[dict[str, Any]]
    columns: tuple[str, ...]
    notes: tuple[str, ...]

    def __getitem__(self, statistic: str) -> np.ndarray:
        """(m) one statistic over all groups, NaN where it is undefined."""
        if statistic not in (*STATISTICS, *SEEDED):
            raise ValueError(f"unknown statistic {statistic!r}; known: {', '.join(STATISTICS)}")
        values = [
            row["value"]
            for row in self.rows
            if row["by"] == "all" and row["statistic"] == statistic
        ]
        return np.array([np.nan if value is None else value for value in values])

    @property
    def seeded(self) -> bool:
        """Whether the actual effects came from several seeds: ceilings and split slopes exist."""
        return any(row["statistic"] in SEEDED for row in self.rows)

    @property
    def spearman(self) -> np.ndarray:
        """(m) rank correlation over all groups."""
        return self["spearman"]

    @property
    def pearson(self) -> np.ndarray:
        """(m) linear correlation over all groups."""
        return self["pearson"]

    @property
    def slope(self) -> np.ndarray:
        """(m) least-squares slope through the origin, approximation over actual."""
        return self["slope"]

    @property
    def sign_agreement(self) -> np.ndarray:
        """(m) share of groups whose predicted effect has the actual one's sign."""
        return self["sign_agreement"]

    @property
    def underestimated(self) -> np.ndarray:
        """(m) share of groups whose predicted effect is smaller in size than the actual one."""
        return self["underestimated"]

    def to_pandas(self):
        """The rows as a pandas table."""
        with needed("a table of statistics"):
            import pandas as pd

        return pd.DataFrame(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain lists and dictionaries."""
        return {"rows": self.rows, "notes": list(self.notes)}

    def table(self, columns: Iterable[str] | None = None, by: str = "all") -> str:
        """A plain-text table: a line for each column and level, confidence intervals in brackets.

        Args:
            columns: names of the columns to show; default all.
            by: "all", "kind" or "size".
        """
        shown = self.columns if columns is None else tuple(columns)
        head = ["effect on", "groups", "Spearman [95 %]", "Pearson", "slope", "same sign",
                "under", "median err"]  # fmt: skip
        if self.seeded:
            head += ["ceiling", "share", "split slope"]
        if by != "all":
            head.insert(1, by)
        lines = []
        for column in shown:
            rows = [r for r in self.rows if r["column"] == column and r["by"] == by]
            for level in dict.fromkeys(row["level"] for row in rows):
                part = {r["statistic"]: r for r in rows if r["level"] == level}
                rank = part["spearman"]
                line = [
                    column,
                    f"{rank['count']:,}",
                    _number(rank["value"])
                    + ("" if rank["low"] is None else f" [{rank['low']:.3f}, {rank['high']:.3f}]"),
                    _number(part["pearson"]["value"]),
                    _number(part["slope"]["value"]),
                    _share(part["sign_agreement"]["value"]),
                    _share(part["underestimated"]["value"]),
                    _share(part["median_relative_error"]["value"]),
                ]
                if self.seeded:
                    line += [_number(part[name]["value"]) for name in SEEDED]
                if by != "all":
                    line.insert(1, level)
                lines.append(line)
        return "\n".join([*aligned([head, *lines]), *self.notes])

    def __str__(self) -> str:
        if not self.seeded:
            return self.table()
        sizes = self.table(by="size").splitlines()
        return "\n".join([self.table(), "", *sizes[: len(sizes) - len(self.notes)]])

    def __repr__(self) -> str:
        return f"Comparison({len(self.columns)} columns)\n{self.table()}"


def _number(value) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _share(value) -> str:
    return "undefined" if value is None else f"{100 * value:.1f} %"


def compare(
    predicted,
    actual,
    *,
    key: Array | None = None,
    resamples: int = 1000,
) -> Comparison:
    """How well predicted effects agree with actual ones: overall, per kind and per size of group.

    spearman and pearson are correlations over groups; slope is the least-squares slope through the
    origin, approximation over actual (1 is perfect, below 1 underestimates); sign_agreement the
    share with the same sign; underestimated the share with |predicted| < |actual|;
    median_relative_error the median of |predicted - actual| / |actual|; max_relative_error the
    largest |predicted - actual| divided by the largest |actual|.

    Where the actual effects come from several seeds of a run, `ceiling` is the rank correlation
    that a perfect prediction could have, `share_of_ceiling` how much of it is reached, and
    `split_slope` a slope free of the seeds' noise, which pulls the least-squares slope towards 0;
    the table then shows bands of sizes too, for correlations over all sizes flatter. This asks
    about the algorithm, the mean over seeds; `predicted.of_seed(0)` against `actual.of_seed(0)`
    about this run.

    Groups whose effect is flagged on either side (`Effects.column_status`) are left out, column by
    column; count and `notes` say how many.

    Args:
        predicted: `Effects`, or an array (g m) or (g).
        actual: likewise, of the same groups and columns.
        key: random key of the bootstrap; default `jax.random.key(0)`. All columns, and other calls
            about as many groups, share its resamples.
        resamples: bootstrap resamples of the groups for the overall rows, a fifth of them for rows
            by kind and size.

    Returns:
        statistics, a row of the table for each column of effects.

    Raises:
        ValueError: for NaN or infinite effects that are not flagged (named), other groups or
            columns, or fewer than two groups that are not flagged in any column.

    Example:
        >>> predicted = np.array([1.0, 2.0, 3.0, 5.0])
        >>> lo.compare(predicted, predicted * 2).slope.tolist()
        [0.5]
    """
    check_integer(resamples, "resamples", least=0)
    refuse_other_question(predicted, actual)
    seed = seed_of(jax.random.key(0) if key is None else key)
    pair, seeds = comparable(predicted, actual), getattr(actual, "seeds", None)
    given = _by_seed(predicted, pair, seeds)
    rng = np.random.default_rng(seed)
    rows = []
    for (by, level), members in _slices(pair.groups, len(pair.predicted)).items():
        found = _of_slice(pair, members, seed, resamples if by == "all" else resamples // 5)
        for j, (count, *statistics) in sorted(found.items()):
            if count < 2 and by != "all":
                continue
            head = {"column": pair.columns[j], "measure": pair.measure[j], "by": by, "level": level}
            rows += _rows(head | {"count": count}, *statistics)
            if seeds is not None and len(seeds) > 1:
                mine = members[pair.status[members, j] == 0]
                p, a = given[..., mine, j], np.asarray(seeds[:, mine, j], float)
                rows += _noise_rows(head | {"count": count}, noise_of(p, a, rng))
    known = [note for each in (predicted, actual) for note in getattr(each, "notes", ())]
    notes = (*dict.fromkeys(known), *left_out(pair), *_undefined(rows))
    return Comparison(rows, pair.columns, notes)


def _by_seed(predicted, pair: "Pair", seeds) -> np.ndarray:
    """Predictions (s g m) where they were made of as many seeds as there are, else (g m)."""
    own = getattr(predicted, "seeds", None)
    alike = own is not None and seeds is not None and np.shape(own) == np.shape(seeds)
    return np.asarray(own, float) if alike else pair.predicted


def comparable(predicted, actual) -> "Pair":
    """Two sides as `compare` takes them, refused where it would refuse them."""
    pair = paired(predicted, actual)
    if len(pair.predicted) < 2:
        raise ValueError("expected at least two groups to compare, got one")
    p, a, groups, good = pair.predicted, pair.actual, pair.groups, pair.status == 0
    if not (good.sum(axis=0) > 1).any():
        raise ValueError(
            f"expected at least two groups to compare; {flagged_in_words(pair.status.max(axis=1))}"
        )
    names = [str(i) for i in range(len(p))] if groups is None else groups.names
    _refuse_non_finite(np.where(good, p, 0.0), "predicted", names, pair.columns)
    _refuse_non_finite(np.where(good, a, 0.0), "actual", names, pair.columns)
    return pair


def left_out(pair: "Pair") -> list[str]:
    """A sentence for each set of columns in which the same groups are left out."""
    alike: dict[bytes, list[int]] = {}
    for j, codes in enumerate(pair.status.T):
        if codes.any():
            alike.setdefault(codes.tobytes(), []).append(j)
    found = []
    for columns in alike.values():
        where = shortened((pair.columns[j] for j in columns), 3)
        of = "" if len(columns) == len(pair.columns) else f" of {where}"
        found.append(f"left out{of}: {flagged_in_words(pair.status[:, columns[0]])}")
    return found


def _undefined(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each column and level some of whose statistics are undefined."""
    flat = {(r["column"], r["level"], r["count"]) for r in rows if r["value"] is None}
    why = "the effects do not vary"
    return [
        f"some statistics of {column} over {level} groups are undefined: "
        + (why if count > 1 else f"{count} of them converged")
        for column, level, count in sorted(flat)
    ]


class Pair(NamedTuple):
    """Predicted and actual effects side by side.

    Attributes:
        predicted: (g m).
        actual: (g m).
        columns: (m) names.
        measure: (m) name of the measure each column belongs to.
        groups: what left, where either side says it.
        status: (g m) `Status` codes, the predicted effect's or else the actual one's; of arrays 0.
    """

    predicted: np.ndarray
    actual: np.ndarray
    columns: tuple[str, ...]
    measure: tuple[str, ...]
    groups: Groups | None
    status: np.ndarray


def paired(predicted, actual) -> Pair:
    """Two sides of a comparison, each `Effects` or an array (g m) or (g).

    Raises:
        ValueError: for other groups or columns.
    """
    p, a = _matrix(predicted), _matrix(actual)
    if p.shape != a.shape:
        raise ValueError(
            f"expected effects of the same groups on the same columns, got shapes {p.shape} and "
            f"{a.shape}"
        )
    known = [each for each in (predicted, actual) if isinstance(each, Effects)]
    if len(known) == 2:
        _refuse_others(*known)
    status = np.zeros(p.shape, np.int8)
    for each in known:
        status = np.where(status == 0, each.column_status, status)
    if known:
        first = known[0]
        return Pair(p, a, tuple(first.columns), tuple(first.measure), first.groups, status)
    columns = tuple(f"column {j}" for j in range(p.shape[1]))
    return Pair(p, a, columns, columns, None, status)


def _matrix(effects) -> np.ndarray:
    try:
        values = np.asarray(effects.value if isinstance(effects, Effects) else effects)
    except ValueError:  # rows of several lengths
        values = np.zeros(0, object)
    if values.dtype.kind not in "fiub":
        raise ValueError(
            f"expected effects as `Effects`, or an array of numbers (g, m) or (g), got "
            f"{type(effects).__name__}"
        )
    if values.ndim not in (1, 2):
        raise ValueError(f"expected effects of shape (g, m) or (g), got {values.shape}")
    values = values.astype(float)
    return values[:, None] if values.ndim == 1 else values


def check_column(columns: Sequence[str], column: int | str) -> None:
    """Refuse what is neither the name of a column nor its position.

    Raises:
        ValueError: with the names that there are.
    """
    if isinstance(column, str):
        known = column in columns
    else:
        known = isinstance(column, Integral) and -len(columns) <= column < len(columns)
    if not known:
        raise ValueError(
            f"expected a column's name or position, got {column!r}; there are {shortened(columns)}"
        )


def _refuse_others(one: Effects, other: Effects) -> None:
    """Refuse effects of other groups, or on other columns."""
    if tuple(one.columns) != tuple(other.columns):
        raise ValueError(
            f"expected effects on the same columns, got {one.columns[0]}, ... and "
            f"{other.columns[0]}, ...; use the same measures for both"
        )
    mine, theirs = one.groups, other.groups
    same = (
        mine.n == theirs.n
        and np.array_equal(mine.offsets, theirs.offsets)
        and np.array_equal(mine.indices, theirs.indices)
        and np.array_equal(mine.w, theirs.w)
    )
    if not same:
        raise ValueError("expected effects of the same groups in the same order; they differ")


def _refuse_non_finite(values, which, names, columns) -> None:
    """Name the first effect that is NaN or infinite."""
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, column = bad[0]
        raise ValueError(
            f"the {which} effect of group {str(names[row])!r} on {columns[column]} is "
            f"{values[row, column]}; leave the group out"
        )


def _slices(groups, count: int) -> dict[tuple[str, str], np.ndarray]:
    """(by, level) to its groups: all, each kind, each band of sizes; two groups or more each."""
    slices = {("all", "all"): np.arange(count)}
    if groups is not None:
        for kind in dict.fromkeys(groups.kind.tolist()):
            slices["kind", str(kind)] = np.flatnonzero(groups.kind == kind)
        # a size is truncated to whole points: the band's end may be missed by less than one
        least = -np.inf
        for end, label in _BANDS:
            band = (groups.alpha > least) & (groups.alpha <= end + 1e-12)
            slices["size", label] = np.flatnonzero(band)
            least = end + 1e-12
    return {name: members for name, members in slices.items() if len(members) > 1}


def _of_slice(pair: "Pair", members: np.ndarray, seed: list[int], resamples: int):
    """Column to how many of these groups are not flagged in it, and `with_intervals` of those."""
    good, alike = pair.status[members] == 0, {}
    for j in range(good.shape[1]):
        alike.setdefault(good[:, j].tobytes(), []).append(j)
    found = {}
    for columns in alike.values():
        mine = members[good[:, columns[0]]]
        sides = [(pair.predicted[mine, j], pair.actual[mine, j]) for j in columns]
        for j, each in zip(columns, with_intervals(sides, seed, resamples), strict=True):
            found[j] = (len(mine), *each)
    return found


def _rows(head, value, low, high) -> list[dict[str, Any]]:
    """A row for each statistic (s), None where it is undefined; `head` says of what."""

    def number(value):
        return float(value) if np.isfinite(value) else None

    return [
        head | {"statistic": name, "value": number(middle), "low": number(a), "high": number(b)}
        for name, middle, a, b in zip(STATISTICS, value, low, high, strict=True)
    ]


def _noise_rows(head, noise: Noise) -> list[dict[str, Any]]:
    """A row for each statistic of seeds, without interval."""
    return [
        head
        | {"statistic": name, "value": value if np.isfinite(value) else None, "low": None}
        | {"high": None}
        for name, value in zip(SEEDED, noise, strict=True)
    ]
