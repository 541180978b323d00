"""How long does the influence of every training point on every query take, beside what others use?

n training points times m queries, on the loss of each query; the same fitted logistic regression
for all, float64, nothing approximated that need not be. pyDVL, Captum, dattri and kronfluence each
run at the best setting that we know, and each answer is held against the closed form, computed with
NumPy: only those within 1e-6 of the largest influence are "correct". `preparing` is what has to be
done once, whatever the queries (the Hessian and its factor; for `lo.fit`, a check of the optimum
too), and `seconds` what comes after; dattri forms the Hessian anew in every call. All take turns,
round after round, in one run. The rivals know no parameter without a penalty, so the intercept is
an input like the others here.

The last rows are what no method can do without, the product of n gradients and m solutions, as bare
as NumPy has it; and what the fastest correct rival takes over what we take, with the most that this
ratio could be: what the rival takes over the product alone.
"""

import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.linalg
from scipy.special import expit

import leaveout as lo
from benchmarks.harness import penalty, record
from benchmarks.peers.problem import ENOUGH, median
from benchmarks.peers.worker import PeerError, Worker

_RIVALS = ("pydvl", "captum", "dattri", "kronfluence")
_PATIENCE = 60.0  # seconds: who took longer once is not asked again


def main(folder: Path, size: str) -> None:
    """Time them: on breast_cancer in a smoke run, on Diabetes otherwise."""
    name, queries, rounds = {
        "smoke": ("breast_cancer", 50, 1),
        "small": ("diabetes", 100, 3),
        "full": ("diabetes", 1000, 5),
    }[size]
    data = getattr(lo.datasets, name)()
    problem = _problem(data, queries)
    exact = _Closed(problem)(None)[0]
    versions: dict[str, dict] = {}
    skipped, contenders = [], {"leaveout": _Ours(problem), "NumPy and LAPACK": _Closed(problem)}
    with ExitStack() as stack:
        for rival in _RIVALS:
            try:
                worker = stack.enter_context(Worker(f"{rival}_influence", "torch", problem))
                contenders[rival] = _Rival(worker)
                versions[rival] = worker.versions
            except PeerError as reason:
                skipped.append({"method": rival, "skipped": str(reason)})
        rows = [*_rounds(contenders, exact, rounds), *skipped]
    rows += _summary(rows, _product(problem))
    shape = {"data": name, "n": data.n, "queries": queries}
    record(folder, "speed_influence", [shape | row for row in rows], versions)


def _problem(data, queries: int) -> dict[str, Any]:
    x, x_query = (np.c_[part, np.ones(len(part))] for part in (data.x, data.x_query[:queries]))
    l2 = penalty(data)
    fitted = lo.fit(lo.logistic(x, data.y, l2=l2, intercept=False))
    theta = np.asarray(fitted.flat)
    return {"x": x, "y": data.y, "l2": l2, "theta": theta,
            "x_query": x_query, "y_query": data.y_query[:queries]}  # fmt: skip


class _Ours:
    def __init__(self, problem):
        self.problem = problem

    def __call__(self, _):
        p, begin = self.problem, time.perf_counter()
        objective = lo.logistic(p["x"], p["y"], l2=p["l2"], intercept=False)
        fitted = jax.block_until_ready(lo.fit(objective, theta=p["theta"]))
        middle = time.perf_counter()
        measure = lo.measures.loss((p["x_query"], p["y_query"]))
        values = jax.block_until_ready(lo.per_point(fitted, measure))
        return values, middle - begin, time.perf_counter() - middle


class _Closed:
    """By hand: gradients, Hessian and Cholesky, one solve a query, one product."""

    def __init__(self, problem):
        self.problem = problem

    def __call__(self, _):
        p, begin = self.problem, time.perf_counter()
        chance = expit(p["x"] @ p["theta"])
        hessian = (p["x"].T * (chance * (1 - chance))) @ p["x"]
        hessian[np.diag_indices_from(hessian)] += p["l2"]
        factor = scipy.linalg.cho_factor(hessian)
        middle = time.perf_counter()
        slope = expit(p["x_query"] @ p["theta"]) - p["y_query"]
        solved = scipy.linalg.cho_solve(factor, (p["x_query"] * slope[:, None]).T)
        values = ((chance - p["y"])[:, None] * p["x"]) @ solved
        return values, middle - begin, time.perf_counter() - middle


class _Rival:
    def __init__(self, worker):
        self.worker = worker

    def __call__(self, wanted):
        said = self.worker.ask()
        preparing = said.get("preparing", 0.0)
        answer = self.worker.answer() if wanted else None
        values = None if answer is None else answer["influence"] * answer["scale"]
        return values, preparing, said["seconds"] - preparing


def _rounds(contenders: dict, exact: np.ndarray, rounds: int) -> list[dict]:
    """A row each: the first round for the answer (and compilation), the others for the time."""
    rows, times = {}, {}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            if "failed" in rows.get(name, {}) or sum(times.get(name, [(0, 0)])[-1]) > _PATIENCE:
                continue
            try:
                values, *seconds = call(turn == 0)
            except PeerError as reason:
                rows[name] = {"method": name, "failed": str(reason)}
                continue
            times.setdefault(name, []).append(seconds)
            if turn == 0:
                error = float(np.abs(np.asarray(values) - exact).max() / np.abs(exact).max())
                rows[name] = {"method": name, "error": error, "correct": error <= ENOUGH}
    for name, row in rows.items():
        if "failed" not in row:
            preparing, after = zip(*(times[name][1:] or times[name]), strict=True)
            row |= {
                "preparing": statistics.median(preparing),
                "seconds": statistics.median(after),
                "least": min(after),
                "most": max(after),
                "first_run_seconds": sum(times[name][0]),
            }
    return list(rows.values())


def _product(problem) -> float:
    n, (m, p) = len(problem["x"]), problem["x_query"].shape
    left, right = np.ones((n, p)), np.ones((p, m))

    def multiply():
        begin = time.perf_counter()
        left @ right
        return time.perf_counter() - begin

    multiply()
    return median(multiply)


def _summary(rows: list[dict], product: float) -> list[dict]:
    bare = {"method": "the product alone, NumPy", "seconds": product}
    correct = [row for row in rows if row.get("correct") and row["method"] in _RIVALS]
    if not correct:
        return [bare]
    ours = rows[0]
    after = min(correct, key=lambda row: row["seconds"])
    whole = min(correct, key=lambda row: row["preparing"] + row["seconds"])
    both = ours["preparing"] + ours["seconds"]
    return [
        bare,
        {
            "method": f"times faster than {after['method']} (fastest correct), once prepared",
            "ratio": after["seconds"] / ours["seconds"],
            "at_most": after["seconds"] / product,
        },
        {
            "method": f"times faster than {whole['method']} (fastest correct), with preparing",
            "ratio": (whole["preparing"] + whole["seconds"]) / both,
        },
    ]
