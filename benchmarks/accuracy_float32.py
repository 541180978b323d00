"""What float32 loses, and what it saves: effects beside those of float64, of the same numbers.

float32 is JAX's default, and all that a TPU has. Both precisions get the data rounded to float32;
the rest is the difference between them: the fit, sums over examples, solves, measures. On a
processor float32 is answered in float64 (`fitting.precision`); a second row says what float32 makes
of it as given, as on an accelerator. Errors are shares of the largest effect of a column, the worst
over groups and columns: of all groups, and of those whose status is converged, where 1e-5 is the
goal. Columns are predictions and losses of ten queries each and self-loss; groups of 0.25 to 25 %,
half of them random, half from the tails of influence on the first query's loss. Times are of the
processor, compiled, in alternation.
"""

import contextlib
import dataclasses
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import penalty, record
from leaveout.fitting.precision import as_given

_NAMES = ("breast_cancer", "digits", "diabetes", "adult", "cdr", "fishdog")
_METHODS = (lo.Influence(), lo.Newton(), lo.Retrain())
_QUERIES = 10


def main(folder: Path, size: str) -> None:
    """A row for each data set, method and precision that is computed in."""
    names = {"smoke": _NAMES[:1], "small": _NAMES[:4], "full": _NAMES}[size]
    count, rows = {"smoke": 8, "small": 40, "full": 200}[size], []
    for name in names:
        rows += _rows(name, count)
        record(folder, "accuracy_float32", rows)


class _Precision:
    """A data set's fit in one precision, perhaps as on an accelerator, and its answers there."""

    def __init__(
        self, data: lo.datasets.Dataset, groups: lo.Groups, double: bool, given: bool = False
    ):
        self.groups, self.double, self.given = groups, double, given
        query = data.x_query[:_QUERIES]
        self.measures = [
            lo.measures.prediction(query),
            lo.measures.loss((query, data.y_query[:_QUERIES])),
            lo.measures.self_loss(),
        ]
        with jax.enable_x64(double), self.kept():
            self.fit = lo.fit(lo.datasets.objective_for(data, penalty(data)))

    def kept(self) -> contextlib.AbstractContextManager:
        """Inside, float32 is computed in float32 where that is what is measured."""
        return as_given() if self.given else contextlib.nullcontext()

    def effects(self, method: lo.Method) -> lo.Effects:
        """What the groups do, by a method."""
        with jax.enable_x64(self.double), self.kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what was not reached is in the status
            return lo.effects(self.fit, self.groups, self.measures, method)

    def seconds(self, method: lo.Method) -> float:
        """Of the processor, for all groups."""
        begin = time.process_time()
        self.effects(method)
        return time.process_time() - begin


def _rows(name: str, count: int) -> list[dict[str, Any]]:
    data = _rounded(lo.datasets.load(name))
    double = _Precision(data, _groups(data, count), double=True)
    singles = [_Precision(data, double.groups, False, given) for given in (False, True)]
    return [_row(name, single, double, method) for method in _METHODS for single in singles]


def _row(name: str, single: _Precision, double: _Precision, method: lo.Method) -> dict[str, Any]:
    mine, truth = single.effects(method), double.effects(method)
    error = np.abs(mine.value - truth.value) / np.abs(truth.value).max(axis=0)
    error, good = error.max(axis=1), (mine.status == 0) & (truth.status == 0)
    pairs = np.array([(single.seconds(method), double.seconds(method)) for _ in range(3)])
    return {
        "data": name,
        "method": method.name,
        "computed_in": "float32" if single.given else "float64",
        "groups": len(mine.groups),
        "residual": float(mine.residual.max()),
        "largest_error": float(error.max()),
        "flagged": int((mine.status != 0).sum()),
        "largest_error_converged": float(error[good].max()) if good.any() else None,
        "above_1e-5": int((error[good] > 1e-5).sum()),
        "time_over_float64": float(np.median(pairs[:, 0] / pairs[:, 1])),
    }


def _rounded(data: lo.datasets.Dataset) -> lo.datasets.Dataset:
    """The data set, its inputs the numbers that float32 has."""
    single = {
        name: getattr(data, name).astype(np.float32).astype(float) for name in ("x", "x_query")
    }
    return dataclasses.replace(data, **single)


def _groups(data: lo.datasets.Dataset, count: int) -> lo.Groups:
    """Random groups, and groups from both tails of influence on the first query's loss."""
    keys = jax.random.split(jax.random.key(0))
    random = lo.groups.random(keys[0], data, sizes=lo.groups.sizes(data.n, count // 2))
    fit = lo.fit(lo.datasets.objective_for(data, penalty(data)))
    pull = lo.per_point(fit, lo.measures.loss((data.x_query[:1], data.y_query[:1])))
    return random + lo.groups.tails(keys[1], pull, num=count // 4)
