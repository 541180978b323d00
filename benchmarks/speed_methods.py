"""How long does each method take a group, beside scikit-learn's refits at equal accuracy?

The reference is scikit-learn's newton-cholesky at tolerance 1e-12, warm-started; an error is the
largest difference of effects on query scores, relative to the largest effect. scikit-learn is
timed over a sample of the groups, one after the other with all cores to its BLAS.
"""

import time
import warnings
from pathlib import Path

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

import leaveout as lo
from benchmarks.harness import record, timed


def main(folder: Path, smoke: bool) -> None:
    """Time influence, Newton and retraining on real data, scikit-learn beside them."""
    data = lo.datasets.breast_cancer() if smoke else lo.datasets.diabetes()
    l2 = data.n * (2e-3 if smoke else 10 ** (-4 + 1 / 3))
    objective = lo.logistic(data.x, data.y, l2=l2)
    fitted = lo.fit(objective)
    per_family = 20 if smoke else 1700
    sizes = lo.groups.sizes(data.n, per_family)
    groups = lo.groups.random(jax.random.key(0), objective, sizes=sizes)
    query = data.x_query[:20]
    measure = lo.measures.prediction(query)
    rows = []
    values = {}
    for method in (lo.Influence(), lo.Newton(), lo.Retrain()):
        effects, seconds = timed(
            lambda method=method: lo.effects(fitted, groups, measure, method), 3
        )
        values[method.name] = effects.value
        rows.append(
            {
                "data": data.name,
                "groups": len(groups),
                "method": method.name,
                "ms_a_group": 1e3 * seconds["median"] / len(groups),
                "first_run_seconds": seconds["first"],
                "median_steps": float(np.median(effects.steps)),
                "most_steps": int(effects.steps.max()),
                "not_converged": int(np.count_nonzero(effects.status)),
            }
        )
    sample = np.linspace(0, len(groups) - 1, 5 if smoke else 12).astype(int)
    largest = np.abs(values["actual"]).max()
    for solver, tolerance in (("newton-cholesky", 1e-12), ("newton-cholesky", 1e-6)):
        before = query @ np.asarray(fitted.theta.weight) + float(fitted.theta.bias)
        model = LogisticRegression(
            C=1 / l2, solver=solver, tol=tolerance, max_iter=2048, warm_start=True
        )
        model.fit(data.x, data.y)
        start = model.coef_.copy(), model.intercept_.copy()
        took, error = [], 0.0
        for row in sample:
            model.coef_, model.intercept_ = start[0].copy(), start[1].copy()
            begin = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(data.x, data.y, sample_weight=1 - groups.dense([row])[0])
            took.append(time.perf_counter() - begin)
            effect = model.decision_function(query) - before
            error = max(error, float(np.abs(effect - values["actual"][row]).max() / largest))
        rows.append(
            {
                "data": data.name,
                "groups": len(sample),
                "method": f"scikit-learn {solver} at {tolerance:g}",
                "ms_a_group": 1e3 * float(np.median(took)),
                "difference_from_ours": error,
            }
        )
    record(folder, "speed_methods", rows)
