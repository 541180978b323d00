"""Many examples: how long do a fit, retraining and random groups take, beside scikit-learn?

Logistic regression on Gaussian inputs, d = 30, fifty groups of one label each. scikit-learn fits
from zero, and refits without a group from the very optimum of the fit to all, by each solver it has
for this, at the loosest tolerance whose theta is as near to the truth as 1e-6 of the largest
coefficient, or of the largest change. Fits take turns in one process; `over_rival` divides medians
of wall time. `draws` are those that `lo.credit` compares every group with.

With --full ten million examples, too, in processes of their own, in float64 and in float32: `gib`
is the most that such a process ever held, its input in NumPy among it.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression

import leaveout as lo
from benchmarks.harness import alone, drawn, record
from leaveout.runtime.memory import most_resident

_D, _GROUPS, _DRAWS = 30, 50, 1_000
_ENOUGH = 1e-6
_TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


def main(folder: Path, size: str) -> None:
    """Time a fit, refits, and random groups."""
    n, draws, repeats = {
        "smoke": (70_000, 20, 1),
        "small": (300_000, 200, 3),
        "full": (1_000_000, _DRAWS, 5),
    }[size]
    x, y = drawn(n, _D)
    objective = lo.logistic(x, y, l2=1.0)
    groups = lo.Groups.from_labels(np.arange(n) % _GROUPS)
    shape = {"n": n, "d": _D}
    fit = lo.fit(objective)
    theta = np.asarray(fit.flat)
    rivals = {name: _tolerance(name, x, y, theta) for name in ("newton-cholesky", "lbfgs")}
    times = _in_turn(
        {"lo.fit": lambda: lo.fit(objective)}
        | {name: lambda n=name, t=t: _model(n, t).fit(x, y) for name, t in rivals.items()},
        repeats,
    )
    best = min(times[name]["seconds"] for name in rivals)
    rows = [shape | {"what": "fit", "by": "lo.fit"} | times["lo.fit"]
            | {"over_rival": times["lo.fit"]["seconds"] / best}]  # fmt: skip
    for name, tolerance in rivals.items():
        row = {"what": "fit", "by": f"scikit-learn {name}", "tolerance": tolerance}
        rows.append(shape | row | times[name])
    record(folder, "speed_many", rows)
    rows += [shape | row for row in _refits(fit, groups, x, y)]
    record(folder, "speed_many", rows)
    rows.append(shape | _null(fit, groups, draws) | {"gib": most_resident() / 2**30})
    record(folder, "speed_many", rows)
    if size == "full":
        for precision in ("float64", "float32"):
            rows.append(alone("speed_many", precision))
            record(folder, "speed_many", rows)


def _model(solver: str, tolerance: float, warm: bool = False) -> LogisticRegression:
    return LogisticRegression(C=1.0, solver=solver, tol=tolerance, max_iter=2_000, warm_start=warm)


def _flat(model: LogisticRegression) -> np.ndarray:
    return np.r_[np.ravel(model.coef_), np.ravel(model.intercept_)]


def _tolerance(solver: str, x, y, theta) -> float:
    """The loosest whose theta is accurate enough, else the last one."""
    for tolerance in _TOLERANCES:
        error = np.abs(_flat(_model(solver, tolerance).fit(x, y)) - theta).max()
        if error <= _ENOUGH * np.abs(theta).max():
            return tolerance
    return _TOLERANCES[-1]


def _in_turn(calls: dict, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds, and processor seconds, of calls that take turns."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin, before = time.perf_counter(), time.process_time()
            jax.block_until_ready(getattr(call(), "flat", None))
            spent[name].append((time.perf_counter() - begin, time.process_time() - before))
    medians = {name: np.median(each, axis=0).tolist() for name, each in spent.items()}
    return {name: {"seconds": m[0], "processor": m[1]} for name, m in medians.items()}


def _refits(fit: lo.Fit, groups: lo.Groups, x, y) -> list[dict[str, Any]]:
    """All groups by `lo.retrain`, two of them by scikit-learn."""
    lo.retrain(fit, groups)  # compiles
    begin = time.perf_counter()
    change = lo.retrain(fit, groups)
    ours = (time.perf_counter() - begin) / len(groups)
    truth = np.asarray(lo.retrain(fit, groups[:2], lo.Retrain(1e-12)).value)
    largest = np.abs(truth).max()
    rows = [{
        "what": "retraining", "by": "lo.retrain", "seconds_a_group": ours,
        "evaluations": float(np.median(change.steps)),
        "failed": int(np.count_nonzero(change.status)),
        "error": float(np.abs(np.asarray(change.value[:2]) - truth).max() / largest),
    }]  # fmt: skip
    found = {}
    for solver in ("newton-cholesky", "lbfgs"):
        tolerance, error = _TOLERANCES[0], np.inf
        for tolerance in _TOLERANCES:
            spent, error = [], 0.0
            for w, exact in zip(groups[:2].dense(), truth, strict=True):
                model = _model(solver, tolerance, warm=True)
                model.coef_, model.intercept_ = np.asarray(fit.flat[None, :-1]), fit.flat[-1:]
                model.classes_ = np.unique(y)
                kept = w == 0
                begin = time.perf_counter()
                model.fit(x[kept], y[kept])
                spent.append(time.perf_counter() - begin)
                error = max(error, np.abs(_flat(model) - np.asarray(fit.flat) - exact).max())
            found[solver] = statistics.mean(spent)
            if error <= _ENOUGH * largest:
                break
        rows.append({
            "what": "retraining", "by": f"scikit-learn {solver}", "tolerance": tolerance,
            "seconds_a_group": found[solver], "error": float(error / largest),
        })  # fmt: skip
    rows[0]["over_rival"] = ours / min(found.values())
    return rows


def _null(fit: lo.Fit, groups: lo.Groups, draws: int) -> dict[str, Any]:
    """`lo.credit` with random groups, and without, by influence."""
    measure = lo.measures.parameter(0)

    def seconds(null: int) -> float:
        begin = time.perf_counter()
        lo.credit(fit, groups, measure, lo.Influence(), null=null)
        return time.perf_counter() - begin

    seconds(2)  # compiles
    bare = seconds(0)
    return {"what": "random groups", "by": "lo.credit", "draws": draws,
            "seconds": seconds(draws) - bare}  # fmt: skip


def _one_fit(precision: str) -> None:
    """In a process of its own: a fit, and influence of fifty groups; prints JSON."""
    jax.config.update("jax_enable_x64", precision == "float64")
    n, rng = int(os.environ.get("LEAVEOUT_EXAMPLES", "10_000_000")), np.random.default_rng(0)
    kind = np.dtype(precision).type
    x = np.empty((n, _D), kind)
    for rows in np.array_split(x, 100):
        rows[:] = rng.standard_normal(rows.shape)
    y = x @ rng.standard_normal(_D).astype(kind) / kind(_D**0.5) + rng.logistic(size=n) > 0
    objective = lo.logistic(x, y, l2=1.0)
    begin = time.perf_counter()
    fit = jax.block_until_ready(lo.fit(objective))
    fitting = time.perf_counter() - begin
    groups = lo.Groups.from_labels(np.arange(n) % _GROUPS)
    begin = time.perf_counter()
    change = jax.block_until_ready(lo.influence(fit, groups))
    row = {
        "n": n, "d": _D, "what": "fit", "by": "lo.fit", "precision": precision,
        "first_seconds": fitting, "seconds_of_influence": time.perf_counter() - begin,
        "distance": float(fit.residual / fit.sandwich),
        "failed": int(np.count_nonzero(change.status)), "gib": most_resident() / 2**30,
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    _one_fit(sys.argv[1])
