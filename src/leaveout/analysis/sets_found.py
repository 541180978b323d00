"""What is told of sets of points that matter, and how it is printed."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from leaveout.analysis.problem import NOT_ASKED
from leaveout.attribution.container import Effects
from leaveout.groups import Groups
from leaveout.runtime.solution import flagged_in_words
from leaveout.runtime.text import aligned

__all__ = ["Extreme", "Flips"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Extreme:
    """The most influential sets found, s of them: a column, a size and a direction each.

    Attributes:
        groups: the sets, named as "loss[3] down, 28".
        effects: (s m) of retraining without them, on all columns.
        column: (s) which column each set moves.
        direction: (s) +1 or -1.
        size: (s) points in it, or groups where it is made of groups.
        predicted: (s) the sum of influence of the set that one pass by influence takes: what is
            reported where nothing is retrained.
        one_pass: (s) the effect of retraining without that set; NaN where that has no minimum.
        upper: (s) what no set of that size can do more, proven; infinite where nothing is proven of
            it, None where no limit is known at all.
        unproven: why there is no `upper`; empty where there is one.
        accuracy: (s) of the model without, on all training examples: the share of labels predicted
            right, R squared of numbers. NaN of a model that has neither.
        accuracy_now: the same of the model as it is.
        accuracy_name: which of the two it is, "accuracy" or "R squared".
        refits: (s) models trained in the search of each set.
        history: of each set, (t 2) the size and the effect of each model trained on the way.

    Example:
        >>> found = lo.extreme(fit, measure, [2, 3])
        >>> found.groups.names.tolist()
        ['mean of loss up, 2', 'mean of loss up, 3']
        >>> found.value.shape, bool((found.value >= found.one_pass - 1e-9).all())
        ((2,), True)
    """

    groups: Groups
    effects: Effects
    column: Int[np.ndarray, "s"]
    direction: Int[np.ndarray, "s"]
    size: Int[np.ndarray, "s"]
    predicted: Float[np.ndarray, "s"]
    one_pass: Float[np.ndarray, "s"]
    upper: Float[np.ndarray, "s"] | None
    unproven: str
    accuracy: Float[np.ndarray, "s"]
    accuracy_now: float
    refits: Int[np.ndarray, "s"]
    history: tuple[np.ndarray, ...]
    accuracy_name: str = "accuracy"

    @property
    def value(self) -> Float[np.ndarray, "s"]:
        """(s) the effect of each set on its own column, retrained."""
        return self.effects.value[np.arange(len(self.column)), self.column]

    @property
    def status(self) -> Int[np.ndarray, "s"]:
        """(s) of each set's effect on its own column: a `Status`."""
        return self.effects.column_status[np.arange(len(self.column)), self.column]

    def __repr__(self) -> str:
        name = self.accuracy_name
        head = ["set", "influence says", "one pass", "found", "at most", name]
        shown = [k for k in range(6) if k != 4 or self.upper is not None]
        codes = self.status
        upper = np.full(len(self.column), np.nan) if self.upper is None else self.upper
        parts = (self.predicted, self.one_pass, self.value, upper, self.accuracy)
        numbers = np.stack(parts, axis=1).tolist()
        rows = [
            [str(title), *(_number(one) for one in some), "" if np.isnan(right) else f"{right:.3f}"]
            for title, (*some, right) in zip(self.groups.names, numbers, strict=True)
        ]
        for row, code in zip(rows, codes, strict=True):
            row[3] += "*" * bool(code)
        now = "" if np.isnan(self.accuracy_now) else f"; {name} now {self.accuracy_now:.3f}"
        table = [[row[k] for k in shown] for row in (head, *rows)]
        lines = [f"Extreme({len(rows):,} sets{now})", *aligned(table, right=True)]
        return "\n".join([*lines, *_remarks(codes, self.unproven)])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Flips:
    """The fewest points found whose leaving takes each of m columns past a threshold.

    Attributes:
        columns: (m) names of the columns.
        now: (m) f of the model as it is.
        threshold: that f passes.
        size: (m) the fewest found, points or groups; -1 where no set up to `most` was found.
        groups: the sets, of the columns that have one; None where none has.
        effects: of retraining without them, on all columns; None likewise.
        column: (s) which column each of the sets turns.
        influence_says: (m) how many it takes by the sum of influence; -1 where all are too few.
        at_least: (m) how many it takes, proven; None where nothing is known.
        unproven: why there is no `at_least`.
        accuracy: (s) as in `Extreme`.
        accuracy_now: as in `Extreme`.
        refits: (m) models trained in the search of each column.

    Example:
        >>> found = lo.flips(fit, lo.measures.parameter(1), most=0.5)
        >>> found.columns, found.size, found.influence_says
        (('parameter[1]',), array([3]), array([5]))
        >>> bool(found.now[0] + found.effects.value[0, 0] < 0)  # it was positive
        True
    """

    columns: tuple[str, ...]
    now: Float[np.ndarray, "m"]
    threshold: float
    size: Int[np.ndarray, "m"]
    groups: Groups | None
    effects: Effects | None
    column: Int[np.ndarray, "s"]
    influence_says: Int[np.ndarray, "m"]
    at_least: Int[np.ndarray, "m"] | None
    unproven: str
    accuracy: Float[np.ndarray, "s"]
    accuracy_now: float
    refits: Int[np.ndarray, "m"]

    @property
    def without(self) -> Float[np.ndarray, "m"]:
        """(m) f retrained without each column's set; NaN of a column that has none."""
        out = np.full(len(self.columns), np.nan)
        if self.effects is not None:
            moved = self.effects.value[np.arange(len(self.column)), self.column]
            out[self.column] = self.now[self.column] + moved
        return out

    @property
    def status(self) -> Int[np.ndarray, "m"]:
        """(m) of what each column becomes: a `Status`; converged of a column that has no set."""
        out = np.zeros(len(self.columns), int)
        if self.effects is not None:
            out[self.column] = self.effects.column_status[np.arange(len(self.column)), self.column]
        return out

    def __repr__(self) -> str:
        head = ["column", "now", "without", "fewest found", "influence says", "at least"]
        codes, unknown = self.status, [""] * len(self.columns)
        proven = unknown if self.at_least is None else [f"{n:,}" for n in self.at_least]
        parts = (self.now, self.without, codes, self.size, self.influence_says)
        each = zip(self.columns, *(part.tolist() for part in parts), proven, strict=True)
        rows = [
            [name, _number(now), _number(then) + "*" * bool(code), _many(size), _many(said), least]
            for name, now, then, code, size, said, least in each
        ]
        table = [row if self.at_least is not None else row[:-1] for row in (head, *rows)]
        lines = [f"Flips(past {self.threshold:g})", *aligned(table, right=True)]
        return "\n".join([*lines, *_remarks(codes, self.unproven)])


def _number(value: float) -> str:
    """A number with its sign; nothing where there is none."""
    return "" if np.isnan(value) else f"{value:+.4g}"


def _many(count: int) -> str:
    return "none found" if count < 0 else f"{count:,}"


def _remarks(codes: np.ndarray, unproven: str) -> list[str]:
    """What stars mean, and why nothing is proven."""
    starred = [f"* {flagged_in_words(codes)}"] if codes.any() else []
    told = unproven and unproven != NOT_ASKED
    return [*starred, *([f"no limit: {unproven}"] if told else [])]
