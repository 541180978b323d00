"""Sets of points that matter: the most influential of a size, the fewest that turn a result."""

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import NamedTuple

import numpy as np

from leaveout.analysis.exact import (
    Leaving,
    fewest_points,
    least_proven,
    most_extreme,
    upper_limits,
)
from leaveout.analysis.problem import Problem, problem_of
from leaveout.analysis.search import Found, State, by_stages, fewest
from leaveout.analysis.sets_found import Extreme, Flips
from leaveout.attribution.verb import check_method
from leaveout.fitting.double import in_double
from leaveout.fitting.fitted import Fit
from leaveout.groups import Groups
from leaveout.measures import Measures
from leaveout.methods import Retrain
from leaveout.runtime.memory import limited
from leaveout.runtime.options import check_integer, is_number, is_positive
from leaveout.runtime.sharding import entry_point

__all__ = ["extreme", "flips"]


@in_double
@entry_point
def extreme(
    fit: Fit,
    measure: Measures,
    size: float | int | Iterable[float | int],
    *,
    direction: int | Iterable[int] = 1,
    among: Groups | None = None,
    stages: int = 16,
    exchanges: int = 64,
    bound: bool = False,
    certify: bool = False,
    memory=None,
    progress: Callable[[int], None] | None = None,
) -> Extreme:
    """The set of a size whose leaving moves f the most, of all that a search looked at.

    Takes out what does the most, trains again, scores again, and so on in `stages`; then exchanges
    points that left for points that stayed as long as the refit confirms a gain. The set that one
    pass by influence takes is trained too, so that what is found is never worse. What is reported
    is retrained; that no set does more it says only where that is proven (`upper`). The most
    influential set is always large: look at `accuracy`, which falls where a model breaks.

    Searches of all columns, sizes and directions run side by side, as lanes of one retrain: about
    stages + 15 models each, of sets of up to 8 points 16 or more beyond that. What points would do
    next costs each of them a Hessian and its factor, n p^2 + p^3; of models of one score and 64
    parameters or more about ten products with the data, side by side. Of linear functionals of
    least squares nothing is trained on the way: what any point's leaving does is known exactly, for
    a product with the design a point.

    Args:
        fit: the fitted objective.
        measure: as in `effects`: smooth, and not of who leaves.
        size: points that leave, a number or a share of those that may, or several.
        direction: +1 for what raises f, -1 for what lowers it, or both.
        among: groups that leave whole and do not overlap (villages, workers); `size` then counts
            groups. Or candidates to add, from `lo.add`. Default every point that has a weight.
        stages: in how many steps a set is grown; 1 is one pass by rescaled influence.
        exchanges: models that may be trained to exchange points.
        bound: look for `upper`: of linear functionals of least squares of one target, for points.
            One n x n matrix of products, in blocks.
        certify: enclose the effects of retraining (see `effects`).
        memory: as in `effects`.
        progress: called with the number of models trained, after each round.

    Returns:
        the sets found, s of them: for each column each size, and for each size each direction.

    Raises:
        ValueError: for a measure that has no derivative or depends on who leaves, groups that
            overlap, or a size beyond what may leave.

    Example:
        >>> found = lo.extreme(fit, measure, 2, direction=[1, -1])
        >>> found.size, found.direction
        (array([2, 2]), array([ 1, -1]))
        >>> bool(found.value[0] > 0 > found.value[1])
        True

    Source: Broderick, Giordano and Meager (2020), AMIP, for one pass; Kuschnig, Zens and Crespo
    Cuaresma (2021) for greedy sets of least squares.
    """
    check_method(fit, Retrain())
    check_integer(stages, "stages")
    check_integer(exchanges, "exchanges", least=0)
    with limited(memory):
        problem = problem_of(fit, measure, among, progress)
        sets = [
            _Wanted(j, k, d)
            for j in range(len(problem.columns))
            for k in _sizes(size, problem.many)
            for d in _directions(direction)
        ]
        found, history = _sought(problem, sets, stages, exchanges)
        states = [each.best for each in found]
        groups = problem.named(states, [one.title(problem) for one in sets])
        passes = [problem.first(*one) for one in sets]
        each = zip(passes, sets, strict=True)
        predicted = [problem.influence[on, one.column].sum() for on, one in each]
        return Extreme(
            groups=groups,
            effects=problem.retrained(groups, certify),
            column=np.array([one.column for one in sets]),
            direction=np.array([one.direction for one in sets]),
            size=np.array([state.size for state in states]),
            predicted=np.array(predicted),
            one_pass=np.array([one.one_pass.told for one in found]),
            upper=_limits(problem, sets) if bound and problem.rows is not None else None,
            unproven=problem.unproven(bound),
            accuracy=problem.accuracy(states),
            accuracy_now=float(problem.accuracy([problem.models.nobody])[0]),
            accuracy_name=problem.accuracy_name,
            refits=np.array([len(one) for one in history]),
            history=tuple(history),
        )


class _Wanted(NamedTuple):
    """One set that is looked for."""

    column: int
    size: int
    direction: int

    def title(self, problem: Problem) -> str:
        """What it is called."""
        way = "up" if self.direction > 0 else "down"
        return f"{problem.columns[self.column]} {way}, {self.size}"


def _directions(direction) -> list[int]:
    several = list(direction) if isinstance(direction, Iterable) else [direction]
    if not several or not set(several) <= {-1, 1}:
        raise ValueError(f"expected direction as +1, -1 or both, got {direction!r}")
    return [int(one) for one in several]


def _sizes(size, many: int) -> list[int]:
    """Sizes as counts, of numbers or of shares of all that may leave."""
    several = list(size) if isinstance(size, Iterable) else [size]
    if not several:
        raise ValueError("expected at least one size")
    return [_count(one, many, "size") for one in several]


def _count(size: float | int, many: int, what: str) -> int:
    """A count, or a share of `many`, as a count of 1 to `many` - 1."""
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    if not (1 <= size < many if whole else is_positive(size) and size < 1):
        raise ValueError(
            f"expected {what} as a count of 1 to {many - 1:,} or as a share between 0 and 1 of the "
            f"{many:,} that may leave, got {size!r}"
        )
    return int(size) if whole else min(max(round(size * many), 1), many - 1)


def _sought(
    problem: Problem, sets: list[_Wanted], stages: int, exchanges: int
) -> tuple[list[Found], list[np.ndarray]]:
    """What was found of each set, and what was trained on the way."""
    if problem.rows is not None:
        none = np.zeros((0, 2))
        return [_exactly(problem, one, exchanges) for one in sets], [none] * len(sets)
    searches = [
        by_stages(problem.task(one.column, one.direction, stages, exchanges), one.size)
        for one in sets
    ]
    return problem.models.run(searches, [one.column for one in sets])


def _exactly(problem: Problem, wanted: _Wanted, exchanges: int) -> Found:
    """By formulas of least squares, nothing trained."""
    assert problem.rows is not None  # _sought
    rows, (_, size, direction) = problem.rows[wanted.column], wanted
    one_pass = Leaving(rows, problem.first(*wanted))
    best = most_extreme(rows, problem.open, size, direction, exchanges)
    best = one_pass if best is None else best
    return Found(problem.state_of(best), problem.state_of(one_pass))


def _limits(problem: Problem, sets: list[_Wanted]) -> np.ndarray:
    """(s) what no set can do more, in units of f and its direction."""
    assert problem.rows is not None  # extreme
    sizes = np.unique([one.size for one in sets])
    known = {
        (j, d): upper_limits(problem.rows[j], sizes, d)
        for j, d in {(one.column, one.direction) for one in sets}
    }
    at = [np.searchsorted(sizes, one.size) for one in sets]
    return np.array([d * known[j, d][k] for (j, _, d), k in zip(sets, at, strict=True)])


@in_double
@entry_point
def flips(
    fit: Fit,
    measure: Measures,
    *,
    threshold: float = 0.0,
    most: float | int = 0.1,
    among: Groups | None = None,
    stages: int = 16,
    exchanges: int = 64,
    bound: bool = False,
    certify: bool = False,
    memory=None,
    progress: Callable[[int], None] | None = None,
) -> Flips:
    """The fewest points found whose leaving takes f past a threshold: which turn the result.

    Points leave stage by stage until f has passed, are put back along the order found by bisection,
    and exchanged for others with one less, as long as the refit confirms it; the orders of one pass
    are tried too. That no fewer do it is said only where it is proven (`at_least`).

    Args:
        fit: the fitted objective.
        measure: as in `extreme`; each column is asked about on its own.
        threshold: in units of f; by default 0, a change of sign.
        most: points, or groups, that may leave at most: a number or a share.
        among: as in `extreme`.
        stages: as in `extreme`.
        exchanges: as in `extreme`, for each size that is tried.
        bound: look for `at_least`, where `extreme` knows a limit: one n x n matrix of products,
            sorted as far as the number of points found.
        certify: as in `extreme`.
        memory: as in `effects`.
        progress: as in `extreme`.

    Returns:
        the fewest found for each column, and what retraining without them gives.

    Raises:
        ValueError: as `extreme`.

    Example:
        >>> coefficients = lo.measures.parameter([0, 1])
        >>> lo.flips(fit, coefficients, most=6).size  # six are too few for the first
        array([-1,  3])

    Source: Broderick, Giordano and Meager (2020), who ask the question and answer it by influence.
    """
    check_method(fit, Retrain())
    check_integer(stages, "stages")
    check_integer(exchanges, "exchanges", least=0)
    if not (is_number(threshold) and np.isfinite(threshold)):
        raise ValueError(f"expected a finite threshold, got {threshold!r}")
    with limited(memory):
        problem = problem_of(fit, measure, among, progress)
        end, now = _count(most, problem.many, "most"), problem.values()
        way = np.where(now >= threshold, -1, 1)
        asked = _Asked(problem, np.abs(threshold - now), way, end)
        found, history = asked.sought(stages, exchanges)
        turned = [(j, state) for j, state in enumerate(found) if state is not None]
        states = [state for _, state in turned]
        titles = [f"{problem.columns[j]} past {threshold:g}, {s.size}" for j, s in turned]
        groups = problem.named(states, titles) if turned else None
        return Flips(
            columns=problem.columns,
            now=now,
            threshold=float(threshold),
            size=np.array([-1 if state is None else state.size for state in found]),
            groups=groups,
            effects=None if groups is None else problem.retrained(groups, certify),
            column=np.array([j for j, _ in turned], int),
            influence_says=asked.by_influence(),
            at_least=asked.proven(found) if bound and problem.rows is not None else None,
            unproven=problem.unproven(bound),
            accuracy=problem.accuracy(states),
            accuracy_now=float(problem.accuracy([problem.models.nobody])[0]),
            refits=np.array([len(one) for one in history]),
        )


class _Asked(NamedTuple):
    """How far each column has to move, and which way.

    Attributes:
        problem: of the call.
        needed: (m) how far, in units of f.
        direction: (m) +1 or -1.
        most: units that may leave.
    """

    problem: Problem
    needed: np.ndarray
    direction: np.ndarray
    most: int

    def sought(self, stages: int, exchanges: int) -> tuple[list[State | None], list[np.ndarray]]:
        """The smallest set found for each column, and what was trained on the way."""
        problem, columns = self.problem, range(len(self.needed))
        if problem.rows is not None:
            none = np.zeros((0, 2))
            return [self._exactly(j, exchanges) for j in columns], [none for _ in columns]
        searches = [
            fewest(problem.task(j, int(self.direction[j]), stages, exchanges), needed, self.most)
            for j, needed in enumerate(self.needed.tolist())
        ]
        return problem.models.run(searches, columns)

    def _exactly(self, column: int, exchanges: int) -> State | None:
        assert self.problem.rows is not None  # sought
        rows, needed = self.problem.rows[column], float(self.needed[column])
        direction = int(self.direction[column])
        found = fewest_points(rows, self.problem.open, needed, direction, self.most, exchanges)
        return None if found is None else self.problem.state_of(found)

    def by_influence(self) -> np.ndarray:
        """(m) how many units it takes by the sum of influence, the largest first."""
        ranked = -np.sort(-self.direction * self.problem.influence[self.problem.open], axis=0)
        enough = np.cumsum(ranked, axis=0) > self.needed
        return np.where(enough.any(axis=0), np.argmax(enough, axis=0) + 1, -1)

    def proven(self, found: list[State | None]) -> np.ndarray:
        """(m) how many points it takes at least."""
        assert self.problem.rows is not None  # flips
        each = zip(self.problem.rows, self.needed, self.direction, found, strict=True)
        return np.array(
            [
                least_proven(rows, needed, int(way), self.most if one is None else one.size)
                for rows, needed, way, one in each
            ]
        )
