"""The protocol of dattri's MNIST + LR, with a truth that has converged: what is left to predict?

5,000 images, random halves, the linear datamodelling score of softmax regression on test points.
Published with it: exact influence .80, TRAK with 50 models .68, of trainings that stop far from
their optimum, one seed each. Here every half is solved, so that no noise is in the truth.

Source: Deng et al. (2024), dattri.
"""

import time
from pathlib import Path

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import record
from leaveout.runtime.options import generator


def main(folder: Path, size: str) -> None:
    """Score influence and the Newton step on halves, at three penalties."""
    name, n, halves, queries, grid = {
        "smoke": ("digits", 200, 6, 5, (1e-2,)),
        "small": ("mnist_small", 5_000, 50, 100, (1e-2, 1e-3)),
        "full": ("mnist_small", 5_000, 100, 500, (1e-2, 1e-3, 1e-4)),
    }[size]
    data = lo.datasets.load(name)
    rng = generator(jax.random.key(0))
    groups = lo.Groups.from_indices(
        [rng.choice(n, n // 2, replace=False) for _ in range(halves)], n=n, kind="half"
    )
    query = data.x_query[:queries], data.y_query[:queries]
    measures = [lo.measures.margin(query), lo.measures.loss(query)]
    rows = []
    for l2 in grid:
        fit = lo.fit(lo.softmax(data.x[:n], data.y[:n], l2=l2 * n))
        actual = lo.effects(fit, groups, measures, lo.Retrain())
        for method in (lo.Influence(), lo.Newton()):
            begin = time.process_time()
            predicted = lo.effects(fit, groups, measures, method)
            spent = time.process_time() - begin
            rows += [
                {"l2 / n": l2, "method": method.name, "seconds": spent, **row}
                for row in _scored(predicted, actual)
            ]
    shape = {"data": name, "n": n, "halves": halves, "queries": queries}
    record(folder, "accuracy_lds", [shape | row for row in rows])


def _scored(predicted: lo.Effects, actual: lo.Effects) -> list[dict]:
    """The score of each measure, and how many halves were not solved."""
    rows = []
    for measure in dict.fromkeys(actual.measure):
        columns = np.flatnonzero(np.array(actual.measure) == measure)
        sides = (_of_columns(each, columns) for each in (predicted, actual))
        score = lo.lds(*sides, resamples=100)
        rows.append({
            "measure": measure, "lds": score.value, "low": score.low, "high": score.high,
            "flagged": int(np.count_nonzero(actual.status)),
        })  # fmt: skip
    return rows


def _of_columns(effects: lo.Effects, columns: np.ndarray) -> lo.Effects:
    """The effects on some columns."""
    names = tuple(effects.columns[j] for j in columns)
    kinds = tuple(effects.measure[j] for j in columns)
    return lo.Effects(
        effects.value[:, columns], effects.status, effects.residual, effects.steps, names, kinds,
        effects.groups, effects.method, column_status=effects.column_status[:, columns],
    )  # fmt: skip
