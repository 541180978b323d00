"""Sets that matter to a data set's model: a `Dataset` and a question to `Extreme` or `Flips`."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leaveout import measures, plot
from leaveout.analysis.sets import Extreme, Flips, extreme, flips
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.objectives import losses
from leaveout.runtime.files import write_json
from leaveout.runtime.options import check_integer
from leaveout.runtime.text import shortened
from leaveout.studies.datasets import Dataset, objective_for

__all__ = ["Matter", "written"]

_L2_OVER_N = 1e-3  # where a data set prescribes no penalty


@dataclasses.dataclass(frozen=True, eq=False)
class Matter:
    """What is asked of a data set: what is looked at, and who may leave.

    Attributes:
        data: the data set.
        coefficients: names of features, or patterns such as "offer in *"; of each its coefficient.
        points: positions of query examples: of each the margin of its label, or what is predicted
            of it. With neither, the mean loss on all query examples.
        among: a column of the data set whose groups leave whole; default single examples.
        l2_over_n: the penalty divided by n; default the data set's own, none where the coefficients
            of least squares are asked about, else a thousandth.

    Example:
        >>> from leaveout.studies.sets import Matter
        >>> data = lo.datasets.breast_cancer()
        >>> Matter(data, points=(30,)).extreme([5], -1).groups.names.tolist()
        ['mean of margin[30] down, 5']
    """

    data: Dataset
    coefficients: tuple[str, ...] = ()
    points: tuple[int, ...] = ()
    among: str | None = None
    l2_over_n: float | None = None

    def __post_init__(self):
        if self.coefficients and self.points:
            raise ValueError("expected coefficients or points, got both; ask twice")
        for point in self.points:
            check_integer(point, "a query example", least=0)
            if point >= len(self.data.y_query):
                raise ValueError(
                    f"{self.data.name} has {len(self.data.y_query):,} query examples, counted from "
                    f"0, but number {point:,} was asked"
                )

    @property
    def l2(self) -> float:
        """The penalty, absolute."""
        data = self.data
        if self.l2_over_n is not None:
            return self.l2_over_n * data.n
        if data.l2 is not None:
            return data.l2
        exact = bool(self.coefficients) and data.model_loss is losses.squares
        return 0.0 if exact else _L2_OVER_N * data.n

    def extreme(self, size, direction, **options) -> Extreme:
        """`lo.extreme` of it; `options` are those of `lo.extreme`."""
        return extreme(self._fit(), self._measure(), size, direction=direction, among=self._who(),
                       **options)  # fmt: skip

    def flips(self, **options) -> Flips:
        """`lo.flips` of it; `options` are those of `lo.flips`."""
        return flips(self._fit(), self._measure(), among=self._who(), **options)

    def _fit(self) -> Fit:
        return fit(objective_for(self.data, self.l2, weights=self.data.weights))

    def _who(self) -> Groups | None:
        """The groups that leave whole."""
        return None if self.among is None else self.data.grouped(self.among)

    def _measure(self) -> Measure:
        """What is looked at."""
        data = self.data
        if self.coefficients:
            names = [name for asked in self.coefficients for name in self._named(asked)]
            return measures.parameter(names, name="coefficient")
        if not self.points:
            return measures.loss(data.query, reduce="mean")
        some = list(dict.fromkeys(self.points))
        each = {str(point): np.arange(len(some)) == k for k, point in enumerate(some)}
        if not data.labelled:
            return measures.prediction(data.x_query[some], reduce="mean", by=each)
        examples = tuple(part[some] for part in data.query)
        return measures.margin(examples, reduce="mean", by=each)

    def _named(self, asked: str) -> list[str]:
        """The features that a name or a pattern stands for."""
        found = fnmatch.filter(self.data.feature_names, asked)
        if not found and set(asked) & set("*?["):
            known = shortened(self.data.feature_names)
            raise ValueError(f"no feature of {self.data.name} is like {asked!r}; there are {known}")
        return found or [asked]


def written(found: Extreme | Flips, folder: Path, title: str) -> list[Path]:
    """Write what was found: a figure, the sets as groups, and all of it as JSON.

    Args:
        found: from `Matter.extreme` or `Matter.flips`.
        folder: that is there.
        title: of the figure.

    Returns:
        the paths written. No figure where there is nothing to draw, no groups where no set.
    """
    summary = folder / "summary.json"
    if isinstance(found, Extreme):
        figure, groups = folder / "extreme.png", folder / "groups.npz"
        plot.extreme(found, title=f"{title}: the most influential sets found", path=figure)
        found.groups.save(groups)
        rows = {"sets": _records(_of_sets(found)), "accuracy_now": _number(found.accuracy_now)}
        write_json(summary, rows)
        return [figure, groups, summary]
    paths = []
    if max(*found.size, *found.influence_says) >= 0:
        paths.append(folder / "flips.png")
        plot.flips(found, title=f"{title}: the fewest found that turn a result", path=paths[-1])
    if found.groups is not None:
        paths.append(folder / "groups.npz")
        found.groups.save(paths[-1])
    write_json(summary, {"threshold": found.threshold, "columns": _records(_of_flips(found))})
    return [*paths, summary]


def _of_sets(found: Extreme) -> dict[str, Any]:
    """Of each set what is said of it, by column of a table."""
    return {
        "set": found.groups.names, "size": found.size, "influence_says": found.predicted,
        "one_pass": found.one_pass, "found": found.value, "at_most": found.upper,
        "accuracy": found.accuracy, "training_rows": _members(found.groups),
    }  # fmt: skip


def _of_flips(found: Flips) -> dict[str, Any]:
    """Of each column what is said of it; nothing of a set that was not found."""
    count = len(found.columns)
    without, accuracy = np.full(count, np.nan), np.full(count, np.nan)
    members: list[list[int] | None] = [None] * count
    if found.effects is not None and found.groups is not None:
        at = np.arange(len(found.column)), found.column
        without[found.column] = found.now[found.column] + found.effects.value[at]
        accuracy[found.column] = found.accuracy
        for column, rows in zip(found.column.tolist(), _members(found.groups), strict=True):
            members[column] = rows
    return {
        "column": found.columns, "now": found.now, "without": without, "found": found.size,
        "influence_says": found.influence_says, "at_least": found.at_least, "accuracy": accuracy,
        "training_rows": members,
    }  # fmt: skip


def _members(groups: Groups) -> list[list[int]]:
    """Positions among the training examples, set by set."""
    return [part.tolist() for part in np.split(groups.indices, groups.offsets[1:-1])]


def _records(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table, by column; a column that is not there holds nothing."""
    count = len(next(iter(table.values())))
    each = {name: [None] * count if one is None else one for name, one in table.items()}
    return [{name: _plain(column[i]) for name, column in each.items()} for i in range(count)]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.integer):
        return int(value)
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | None:
    """A number that JSON has, or nothing."""
    return float(value) if np.isfinite(value) else None
