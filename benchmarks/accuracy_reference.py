"""How far from converged are the actual effects of the code released with Koh et al. (2019)?

Its solver is SciPy's L-BFGS-B as scikit-learn 0.20 called it: a gradient tolerance of 1e-8 that is
never reached, because the default factr = 1e7 stops it when the objective falls by less than 2.2e-9
of itself. Each group starts from the solution of the group before, the first of 32 from the full
fit. Here the same rule retrains without random groups of three sizes, and its effects on test
predictions are held against converged ones; today's scikit-learn, whose rule is tighter, beside it.
The second part repeats the choice of l2 by that rule, where the paper's hangs on one example.
"""

import warnings
from pathlib import Path

import jax
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

import leaveout as lo
from benchmarks.harness import record


def main(folder: Path, size: str) -> None:
    """Measure both on Diabetes (on breast_cancer in a smoke run)."""
    smoke, each = size == "smoke", {"smoke": 1, "small": 1, "full": 4}[size]
    data = lo.datasets.breast_cancer() if smoke else lo.datasets.diabetes()
    l2 = data.n * (1e-3 if smoke else 10 ** (-4 + 1 / 3))
    record(folder, "accuracy_reference", _effects(data, l2, each))
    record(folder, "accuracy_reference_l2", _choice(data, data.l2_grid[: 1 if smoke else 3]))


def _reference(x, sign, l2, start, stays=None):
    """The reference's solver: parameters, iterations, largest entry of the gradient."""
    mask = np.append(np.ones(x.shape[1] - 1), 0.0)
    stays = np.ones(len(x)) if stays is None else stays

    def function(theta):
        margin = sign * (x @ theta)
        slope = -stays * sign * expit(-margin)
        value = stays @ np.logaddexp(0, -margin) + 0.5 * l2 * mask @ theta**2
        return value, x.T @ slope + l2 * mask * theta

    answer = minimize(
        function, start, jac=True, method="L-BFGS-B",
        options={"ftol": 1e7 * np.finfo(float).eps, "gtol": 1e-8, "maxiter": 2048,
                 "maxfun": 15_000, "maxcor": 10},
    )  # fmt: skip
    return answer.x, answer.nit, np.abs(answer.jac).max()


def _effects(data, l2, each):
    x, sign = np.c_[data.x, np.ones(data.n)], 2.0 * data.y - 1
    query = data.x_query[:20]
    wide = np.c_[query, np.ones(20)]
    fitted = lo.fit(lo.logistic(data.x, data.y, l2=l2))
    zeros = np.zeros(x.shape[1])
    whole, cold, slope = _reference(x, sign, l2, zeros)
    rows = [
        {
            "data": data.name,
            "solver": "reference, full fit",
            "iterations": int(cold),
            "largest_gradient": float(slope),
            "rms_error": _rms(wide @ whole - _scores(fitted.flat, query)),
        }
    ]
    for share in (0.0025, 0.025, 0.25):
        sizes = np.full(each, int(share * data.n))
        groups = lo.groups.random(jax.random.key(int(1e4 * share)), data, sizes=sizes)
        actual = lo.effects(fitted, groups, lo.measures.prediction(query), lo.Retrain())
        assert not actual.status.any()
        for solver in ("reference", "scikit-learn"):
            error, spent, slopes = [], [], []
            start = whole
            model = LogisticRegression(C=1 / l2, solver="lbfgs", tol=1e-8, max_iter=20_000)
            if solver == "scikit-learn":
                model.set_params(warm_start=True).fit(data.x, data.y)
                before = model.decision_function(query)
            else:
                before = wide @ whole
            # today's scikit-learn needs half a minute a group: one of each size shows its error
            some = len(groups) if solver == "reference" else 1
            for w, truth in zip(groups.dense()[:some], actual.value[:some], strict=True):
                if solver == "reference":
                    start, iterations, slope = _reference(x, sign, l2, start, 1 - w)
                    after = wide @ start
                else:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        model.fit(data.x, data.y, sample_weight=1 - w)
                    after, iterations = model.decision_function(query), int(model.n_iter_[0])
                    theta = np.append(model.coef_[0], model.intercept_)
                    gradient = fitted.objective.gradient(theta, 1 - w)
                    slope = float(np.abs(gradient).max())
                error.append(after - before - truth)
                spent.append(iterations)
                slopes.append(slope)
            rows.append(
                {
                    "data": data.name,
                    "solver": solver,
                    "removed": int(sizes[0]),
                    "groups": some,
                    "iterations": float(np.median(spent)),
                    "largest_gradient": float(np.max(slopes)),
                    "rms_effect": _rms(actual.value[:some]),
                    "rms_error": _rms(error),
                    "error_over_effect": _rms(error) / _rms(actual.value[:some]),
                }
            )
    return rows


def _choice(data, grid):
    """Held-out examples right, of n, over five contiguous folds: the reference's rule and ours."""
    x, sign = np.c_[data.x, np.ones(data.n)], 2.0 * data.y - 1
    fold = np.arange(data.n) // -(-data.n // 5)
    objective = lo.logistic(data.x, data.y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the grid is cut short on purpose
        ours = lo.cross_validate(objective, np.array(grid) * data.n).accuracy
    assert ours is not None
    rows = []
    for i, l2_over_n in enumerate(grid):
        right = 0
        for k in range(5):
            stays = fold != k
            theta, *_ = _reference(x[stays], sign[stays], l2_over_n * data.n, np.zeros(x.shape[1]))
            right += int(np.sum(sign[~stays] * (x[~stays] @ theta) > 0))
        converged = round(float(ours[i] @ np.bincount(fold)))
        rows.append({"data": data.name, "l2_over_n": l2_over_n, "reference_right": right,
                     "converged_right": converged, "of": data.n})  # fmt: skip
    return rows


def _scores(theta, x):
    return x @ np.asarray(theta)[:-1] + float(theta[-1])


def _rms(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
