"""What rivals in retraining are given, and how the setting that counts is found."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["ENOUGH", "Problem", "loosest", "median"]

ENOUGH = 1e-6
_LONG = 60.0  # seconds: a setting that took longer is the last one tried


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Binary logistic regression, fitted, and groups to be left out.

    Attributes:
        x: (n p) inputs, with a column of ones at the end.
        y: (n) labels 0 and 1.
        l2: the penalty.
        theta: (p) the fit to all the data, the start of every rival.
        basis: (p p) L^-T, L the Cholesky factor of the Hessian: whitened coordinates u are those of
            theta + basis u.
        query: (m p) where effects are measured.
        lists: which rows leave, one array a group.
        truth: (g m) effects on the scores of the queries.
        most: evaluations of value and gradient that a general solver may take for a group.
    """

    x: np.ndarray
    y: np.ndarray
    l2: float
    theta: np.ndarray
    basis: np.ndarray
    query: np.ndarray
    lists: Sequence[np.ndarray]
    truth: np.ndarray
    most: int

    @property
    def penalised(self) -> np.ndarray:
        """(p) 1, but for the intercept 0."""
        return np.append(np.ones(len(self.theta) - 1), 0.0)

    def error(self, effects: np.ndarray, which: Any = slice(None)) -> float:
        """The largest error of effects, of some groups, over the largest effect of all."""
        return float(np.abs(effects - self.truth[which]).max() / np.abs(self.truth).max())


def loosest(
    attempt: Callable[[float], tuple[float, float, dict]],
    tolerances: Sequence[float] = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12),
) -> tuple[float, float, dict]:
    """The loosest tolerance that is accurate enough, else the last one tried: (it, error, notes).

    Args:
        attempt: of a tolerance, returns the error, the seconds it took (infinite if a tighter one
            would find no more), and notes.
        tolerances: to try, in this order.
    """
    tolerance, error, notes = tolerances[0], float("nan"), {}
    for tolerance in tolerances:
        error, seconds, notes = attempt(tolerance)
        if error <= ENOUGH or seconds > _LONG:
            break
    return tolerance, error, notes


def median(call: Callable[[], float], repeats: int = 3, patience: float = 10.0) -> float:
    """The median of what a call says it took; a call that outlasts patience is not repeated."""
    begin, seconds = time.perf_counter(), [call()]
    while len(seconds) < repeats and time.perf_counter() - begin < patience:
        seconds.append(call())
    return statistics.median(seconds)
