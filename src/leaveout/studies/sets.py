"""Sets that matter to a data set's model: a `Dataset` and a question to `Extreme` or `Flips`."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leaveout import measures, plot
from leaveout.analysis.sets import extreme, flips
from leaveout.analysis.sets_found import Extreme, Flips
from leaveout.fitting.fitted import Fit
from leaveout.fitting.optimum import fit
from leaveout.groups import Groups
from leaveout.measures import Measure
from leaveout.objectives import losses
from leaveout.runtime.files import json_number, write_json
from leaveout.runtime.solution import Status
from leaveout.runtime.text import shortened
from leaveout.studies.datasets import Dataset
from leaveout.studies.penalty import quickly

__all__ = ["Matter"]


@dataclasses.dataclass(frozen=True, eq=False)
class Matter:
    """What is asked of a data set: what is looked at, and who may leave.

    Attributes:
        data: the data set.
        coefficients: names of features, or patterns such as "offer in *"; of each its coefficient.
        points: positions of query examples: of each the margin of its label, or the score where
            numbers are predicted. With neither, the mean loss on all query examples.
        among: a column of the data set whose groups leave whole, or several joined by commas;
            default single examples.
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

    @property
    def l2(self) -> float:
        """The penalty, absolute."""
        exact = bool(self.coefficients) and self.data.model_loss is losses.squares
        if exact and self.data.l2 is None and self.l2_over_n is None:
            return 0.0
        return quickly(self.data, self.l2_over_n)

    @property
    def units(self) -> Groups | None:
        """The groups that leave whole, or None for single examples."""
        return None if self.among is None else self.data.grouped(self.among)

    def extreme(self, size, direction, **options) -> Extreme:
        """`lo.extreme` of it; `options` are those of `lo.extreme`."""
        asked = {"direction": direction, "among": self.units}
        return extreme(self._fit(), self._measure(), size, **asked, **options)

    def flips(self, **options) -> Flips:
        """`lo.flips` of it; `options` are those of `lo.flips`."""
        return flips(self._fit(), self._measure(), among=self.units, **options)

    def write(self, found: Extreme | Flips, folder: Path, command: str | None = None) -> list[Path]:
        """Write what was found: all of it as JSON, the sets as groups, a figure.

        Args:
            found: from `extreme` or `flips`.
            folder: that is there; what an earlier question left in it is written over, or removed.
            command: that asked, for the JSON.

        Returns:
            the paths written: no groups where there is no set, no figure where nothing is to draw.
        """
        summary, groups = folder / "summary.json", folder / "groups.npz"
        drawn = folder / ("extreme.png" if isinstance(found, Extreme) else "flips.png")
        rows = self._of_sets(found) if isinstance(found, Extreme) else self._of_flips(found)
        write_json(summary, {"command": command, "question": self._question(found), **rows})
        for path in (groups, drawn):
            path.unlink(missing_ok=True)
        if found.groups is not None:
            found.groups.save(groups)
        title = f"{self.data.name}: "
        if isinstance(found, Extreme):
            if np.any((found.status == Status.converged) & (found.value != 0)):
                plot.extreme(found, title=title + "the most influential sets found", path=drawn)
        elif max(*found.size, *found.influence_says) >= 0:
            plot.flips(found, title=title + "the fewest found that turn a result", path=drawn)
        return [path for path in (summary, groups, drawn) if path.exists()]

    def _fit(self) -> Fit:
        return fit(self.data.objective(self.l2))

    def _measure(self) -> Measure:
        """What is looked at."""
        data = self.data
        if self.coefficients:
            names = [name for asked in self.coefficients for name in self._named(asked)]
            return measures.parameter(list(dict.fromkeys(names)), name="coefficient")
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
        names = self.data.feature_names
        found = [asked] if asked in names else fnmatch.filter(names, asked)
        if not found and set(asked) & set("*?["):
            known = shortened(names)
            raise ValueError(f"no feature of {self.data.name} is like {asked!r}; there are {known}")
        return found or [asked]

    def _question(self, found: Extreme | Flips) -> dict[str, Any]:
        """What was asked, as JSON."""
        data = self.data
        asked = {"threshold": found.threshold} if isinstance(found, Flips) else {}
        return {
            "data": {"name": data.name, "source": data.source} | data.fingerprint(),
            "coefficients": self.coefficients, "points": self.points, "among": self.among,
            "l2": self.l2, "accuracy_now": json_number(found.accuracy_now), **asked,
        }  # fmt: skip

    def _of_sets(self, found: Extreme) -> dict[str, Any]:
        """Of each set what is said of it."""
        columns = [found.effects.columns[j] for j in found.column]
        table = {
            "set": found.groups.names, "column": columns, "direction": found.direction,
            "size": found.size, "influence_says": found.predicted, "one_pass": found.one_pass,
            "effect": found.value, "at_most": found.upper, "status": _names(found.status),
            "accuracy": found.accuracy, **self._who(found.groups),
        }  # fmt: skip
        return {"sets": _records(table, len(found.size))}

    def _of_flips(self, found: Flips) -> dict[str, Any]:
        """Of each column what is said of it; nothing of a set that was not found."""
        count = len(found.columns)
        accuracy = np.full(count, np.nan)
        accuracy[found.column] = found.accuracy
        who = self._who(found.groups)
        place = dict(zip(found.column.tolist(), range(len(found.column)), strict=True))
        table = {
            "column": found.columns, "now": found.now, "without": found.without,
            "size": found.size, "influence_says": found.influence_says,
            "at_least": found.at_least, "status": _names(found.status), "accuracy": accuracy,
            **{
                name: [each[place[j]] if j in place else None for j in range(count)]
                for name, each in who.items()
            },
        }  # fmt: skip
        return {"columns": _records(table, count)}

    def _who(self, sets: Groups | None) -> dict[str, list[list]]:
        """The rows of each set: of a user's table, or among the training examples; and its groups.

        Counted from 0.
        """
        rows = np.arange(self.data.n) if self.data.rows is None else self.data.rows
        members = [] if sets is None else np.split(sets.indices, sets.offsets[1:-1])
        who: dict[str, list[list]] = {"rows": [rows[each].tolist() for each in members]}
        units = self.units
        if units is not None:
            first = units.indices[units.offsets[:-1]]  # whole groups leave: one point tells
            who["groups"] = [units.names[np.isin(first, each)].tolist() for each in members]
        return who


def _names(status: np.ndarray) -> list[str]:
    return [Status(int(code)).name for code in status]


def _records(table: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """The rows of a table, by column; a column that is not there holds nothing."""
    each = {name: [None] * count if one is None else one for name, one in table.items()}
    return [{name: _plain(column[i]) for name, column in each.items()} for i in range(count)]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.integer):
        return int(value)
    return json_number(value) if isinstance(value, float) else value
