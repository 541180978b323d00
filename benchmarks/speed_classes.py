"""Many classes: a linear probe past the dense limit, beside scikit-learn.

Softmax regression of K classes on embeddings drawn as clusters. scikit-learn fits from zero and
refits from the very optimum of the fit to all the data, both solvers that it has for several
classes, each at the loosest tolerance whose theta is as near to the truth as ours has to be:
within 1e-4 of the fit, or of the largest change. Groups are drawn at random, or are half a class.

With --full a thousand classes of 512 inputs too, 513,000 parameters, two groups, in a process of
its own: `gib` is the most that it held.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

import leaveout as lo
from benchmarks.harness import alone, record, timed
from leaveout.runtime.memory import most_resident

_ENOUGH = 1e-4
_TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)
_LONG = 60.0  # seconds: a setting that took longer is the last one tried


def main(folder: Path, size: str) -> None:
    """Time fits, influence, Newton steps and retraining."""
    shapes = {
        "smoke": (300, 8, 6, 4),
        "small": (20_000, 128, 100, 16),
        "full": (20_000, 128, 100, 64),
    }
    n, d, classes, count = shapes[size]
    x, y = clusters(n, d, classes)
    objective, groups = lo.softmax(x, y, l2=1.0), _groups(y, count)
    shape = {"n": n, "d": d, "classes": classes, "p": objective.p}
    fit, fitting = timed(lambda: lo.fit(objective), 1)
    rows = [shape | {"method": "lo.fit", "seconds": fitting["median"],
                     "first_run_seconds": fitting["first"],
                     "evaluations": int(fit.steps)}]  # fmt: skip
    for verb in (lo.influence, lo.newton, lo.retrain):
        change, seconds = timed(lambda verb=verb: verb(fit, groups), 1)
        rows.append(shape | {
            "method": f"lo.{verb.__name__}", "seconds_a_group": seconds["median"] / count,
            "first_run_seconds": seconds["first"], "groups": count,
            "median_steps": float(np.median(change.steps)),
            "failed": int(np.count_nonzero(change.status)),
        })  # fmt: skip
        record(folder, "speed_classes", rows)
    actual = np.asarray(lo.retrain(fit, groups[:2], lo.Retrain(tolerance=1e-10)).value)
    theta = np.asarray(fit.flat)
    for solver in ("lbfgs", "newton-cg"):
        rows.append(shape | _fit_of(solver, x, y, theta))
        rows.append(shape | _refit_of(solver, x, y, theta, groups, actual))
        record(folder, "speed_classes", rows)
    if size == "full":
        rows += alone("speed_classes")["rows"]
        record(folder, "speed_classes", rows)


def _thousand() -> None:
    """In a process of its own: a fit, and every verb once, with what it compiles; prints JSON."""
    jax.config.update("jax_enable_x64", True)
    n, d, classes, count = 20_000, 512, 1_000, 2
    x, y = clusters(n, d, classes)
    objective, groups = lo.softmax(x, y, l2=1.0), _groups(y, count)
    shape = {"n": n, "d": d, "classes": classes, "p": objective.p}
    begin = time.perf_counter()
    fit = jax.block_until_ready(lo.fit(objective))
    rows = [shape | {"method": "lo.fit", "first_run_seconds": time.perf_counter() - begin,
                     "evaluations": int(fit.steps), "gib": most_resident() / 2**30}]  # fmt: skip
    for verb in (lo.influence, lo.newton, lo.retrain):
        begin = time.perf_counter()
        change = jax.block_until_ready(verb(fit, groups))
        rows.append(shape | {
            "method": f"lo.{verb.__name__}", "groups": count,
            "first_run_seconds": time.perf_counter() - begin,
            "median_steps": float(np.median(change.steps)),
            "failed": int(np.count_nonzero(change.status)), "gib": most_resident() / 2**30,
        })  # fmt: skip
    print(json.dumps({"rows": rows}))


def clusters(n: int, d: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Embedding-like inputs: a cluster a class, falling variances, 3 % of labels at random."""
    rng = np.random.default_rng(0)
    y = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    centres = 0.6 * rng.standard_normal((classes, d))
    x = (centres[y] + rng.standard_normal((n, d))) / np.sqrt(1 + np.arange(d))
    return x, np.where(rng.random(n) < 0.03, rng.integers(0, classes, n), y)


def _groups(y: np.ndarray, count: int) -> lo.Groups:
    """Half at random, 2 % of the data each; half of them the half of a class."""
    rng, n = np.random.default_rng(1), len(y)
    drawn = [rng.choice(n, max(n // 50, 1), replace=False) for _ in range(count - count // 2)]
    halves = [np.flatnonzero(y == k % (y.max() + 1))[::2] for k in range(count // 2)]
    return lo.Groups.from_indices([halves[0], *drawn, *halves[1:]], n=n)


def _fit_of(solver: str, x, y, theta) -> dict[str, Any]:
    def attempt(tolerance: float):
        model = LogisticRegression(C=1.0, solver=solver, tol=tolerance, max_iter=5_000)
        begin = time.perf_counter()
        model.fit(x, y)
        seconds = time.perf_counter() - begin
        return np.abs(_flat(model) - theta).max() / np.abs(theta).max(), seconds

    return {"method": f"scikit-learn {solver}, fit"} | _loosest(attempt, "seconds")


def _refit_of(solver: str, x, y, theta, groups: lo.Groups, actual) -> dict[str, Any]:
    """Two groups, from the fit: one of half a class, one at random."""
    kept = 1 - np.asarray(groups[:2].dense())

    def attempt(tolerance: float):
        error, spent = 0.0, 0.0
        for weights, change in zip(kept, actual, strict=True):
            settings = {"C": 1.0, "solver": solver, "tol": tolerance, "max_iter": 5_000}
            model = LogisticRegression(**settings, warm_start=True)
            cut = len(np.unique(y)) * x.shape[1]
            model.coef_ = theta[:cut].reshape(-1, x.shape[1]).copy()
            model.intercept_, model.classes_ = theta[cut:].copy(), np.unique(y)
            begin = time.perf_counter()
            model.fit(x, y, sample_weight=weights)
            spent += time.perf_counter() - begin
            error = max(error, np.abs(_flat(model) - theta - change).max() / np.abs(change).max())
        return error, spent / len(kept)

    return {"method": f"scikit-learn {solver}, refit"} | _loosest(attempt, "seconds_a_group")


def _flat(model: LogisticRegression) -> np.ndarray:
    """Theta, the intercepts' mean 0 as ours is."""
    intercept = np.asarray(model.intercept_)
    return np.r_[model.coef_.ravel(), intercept - intercept.mean()]


def _loosest(attempt, unit: str) -> dict[str, Any]:
    tolerance, error, seconds = _TOLERANCES[0], np.inf, np.inf
    for tolerance in _TOLERANCES:
        error, seconds = attempt(tolerance)
        if error <= _ENOUGH or seconds > _LONG:
            break
    return {unit: seconds, "tolerance": tolerance, "error": float(error)}


if __name__ == "__main__":
    _thousand()
