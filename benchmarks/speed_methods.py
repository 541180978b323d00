"""How long does each method take a group, beside the best of what people use today?

- actual effects: `lo.retrain` beside scikit-learn's solvers, warm-started from the fit on all data;
- Newton: `lo.newton` beside a loop of NumPy and LAPACK that downdates the Hessian by the rows that
  leave;
- influence.

Every rival runs at its loosest tolerance whose effects are within 1e-6 of the largest effect, in
one process with all cores to its BLAS and in as many processes as cores; the faster counts.
Errors are those of effects on the scores of 20 queries, against retraining at 1e-12. Rivals are
timed over a sample of the groups, evenly spread over the sizes.
"""

import time
import warnings
from pathlib import Path

import jax
import numpy as np
import scipy.linalg
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression

import leaveout as lo
from benchmarks.harness import cores, record, timed

_ENOUGH = 1e-6
_SOLVERS = {
    "breast_cancer": ("newton-cholesky",),
    "diabetes": ("newton-cholesky",),
    "cdr": ("newton-cholesky", "newton-cg", "lbfgs"),
    "fishdog": ("newton-cg", "lbfgs"),
    "enron": ("newton-cg", "lbfgs"),
}
_L2_OVER_N = {"diabetes": 10 ** (-4 + 1 / 3), "cdr": 10 ** (-4 + 1 / 3), "fishdog": 1e-4,
              "enron": 10 ** (-4 + 1 / 3), "breast_cancer": 2e-3}  # fmt: skip


def main(folder: Path, size: str) -> None:
    """Time the methods: on breast_cancer in a smoke run, on real data of the paper otherwise."""
    names, count = {
        "smoke": (["breast_cancer"], 20),
        "small": (["diabetes"], 400),
        "full": (["diabetes", "cdr", "fishdog", "enron"], 1700),
    }[size]
    rows = []
    for name in names:
        rows += _measure(name, count, 4 if size == "smoke" else 24)
    record(folder, "speed_methods", rows)


def _measure(name: str, count: int, sampled: int) -> list[dict]:
    data = getattr(lo.datasets, name)()
    l2 = data.n * _L2_OVER_N[name]
    fitted = lo.fit(lo.logistic(data.x, data.y, l2=l2))
    sizes = lo.groups.sizes(data.n, count)
    groups = lo.groups.random(jax.random.key(0), data, sizes=sizes)
    wide = np.c_[data.x_query[:20], np.ones(20)]
    sample = np.linspace(0, count - 1, sampled).astype(int)
    truth = np.asarray(lo.retrain(fitted, groups[sample], lo.Retrain(1e-12)).value) @ wide.T
    largest = np.abs(truth).max()

    def error(effects):
        return float(np.abs(effects - truth).max() / largest)

    rows = []
    calls = {
        "influence": lambda: lo.influence(fitted, groups),
        "Newton": lambda: lo.newton(fitted, groups),
        "retrain at 1e-8": lambda: lo.retrain(fitted, groups, lo.Retrain(1e-8)),
        "retrain at 1e-6": lambda: lo.retrain(fitted, groups, lo.Retrain(1e-6)),
    }
    for method, call in calls.items():
        change, seconds = timed(call, 3 if data.d < 2000 else 1)
        row = {"data": name, "groups": count, "method": method,
               "ms_a_group": 1e3 * seconds["median"] / count, "first_run_seconds": seconds["first"],
               "failed": int(np.count_nonzero(change.status))}  # fmt: skip
        if "retrain" in method:
            row |= {"error": error(np.asarray(change.value)[sample] @ wide.T),
                    "evaluations": float(np.median(change.steps)),
                    "most_evaluations": int(change.steps.max())}  # fmt: skip
        rows.append(row)
    lists = [groups.indices[groups.offsets[i] : groups.offsets[i + 1]] for i in sample]
    theirs = [_numpy_newton(fitted, lists)]
    theirs += [_sklearn(data, fitted, solver, lists, wide, error) for solver in _SOLVERS[name]]
    return rows + [{"data": name, "groups": sampled} | row for row in theirs]


def _fastest(task, items) -> tuple[list, float, str]:
    """The answers, seconds, and setting: one process with threaded BLAS, or a process a core."""
    begin = time.perf_counter()
    answers = [task(item) for item in items]
    best = answers, time.perf_counter() - begin, "one process"
    with Parallel(n_jobs=cores()) as pool:
        pool(delayed(task)(item) for item in items[: cores()])  # starts the processes
        begin = time.perf_counter()
        answers = pool(delayed(task)(item) for item in items)
        seconds = time.perf_counter() - begin
    return (answers, seconds, f"{cores()} processes") if seconds < best[1] else best


class _Downdate:
    """One group Newton step: the Hessian less that of the rows that leave, then Cholesky."""

    def __init__(self, x, first, second, hessian):
        self.x, self.first, self.second, self.hessian = x, first, second, hessian

    def __call__(self, rows):
        x = self.x[rows]
        left = self.hessian - (x * self.second[rows, None]).T @ x
        return scipy.linalg.solve(left, self.first[rows] @ x, assume_a="pos", overwrite_a=True)


def _numpy_newton(fitted, lists) -> dict:
    expansion = fitted.expansion()
    x, first = np.asarray(expansion.design), np.asarray(expansion.first[:, 0])
    second = np.asarray(expansion.second[:, 0, 0])
    hessian = np.asarray(fitted.objective.hessian(fitted.flat))
    _, seconds, how = _fastest(_Downdate(x, first, second, hessian), lists)
    return {"method": f"NumPy and LAPACK, Newton, {how}", "ms_a_group": 1e3 * seconds / len(lists)}


class _Refit:
    """One fit of scikit-learn without a group, warm-started from the fit on all data."""

    def __init__(self, x, y, settings, coefficients, intercept, query):
        self.x, self.y, self.settings = x, y, settings
        self.coefficients, self.intercept, self.query = coefficients, intercept, query

    def __call__(self, rows):
        model = LogisticRegression(**self.settings, warm_start=True)
        model.coef_, model.intercept_ = self.coefficients.copy(), self.intercept.copy()
        model.classes_ = np.unique(self.y)
        weights = np.ones(len(self.x))
        weights[rows] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(self.x, self.y, sample_weight=weights)
        before = self.query @ self.coefficients[0] + self.intercept
        return self.query @ model.coef_[0] + model.intercept_ - before


def _sklearn(data, fitted, solver, lists, wide, error) -> dict:
    """The loosest tolerance that is accurate enough, else the tightest; from the very optimum."""
    theta, l2 = np.asarray(fitted.flat), float(fitted.objective.l2)
    row: dict = {}
    for tolerance in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12):
        settings = {"C": 1 / l2, "solver": solver, "tol": tolerance, "max_iter": 20_000}
        task = _Refit(data.x, data.y, settings, theta[None, :-1], theta[-1:], wide[:, :-1])
        answers, seconds, how = _fastest(task, lists)
        row = {
            "method": f"scikit-learn {solver} at {tolerance:g}, {how}",
            "ms_a_group": 1e3 * seconds / len(lists),
            "error": error(np.array(answers)),
        }
        if row["error"] <= _ENOUGH:
            break
    return row
