"""How long does each method take a group, beside the best of what people use today?

- actual effects: `lo.retrain` beside scikit-learn's and SciPy's solvers, and L-BFGS of optimistix
  and optax vmapped over groups, all started from the fit on all data;
- Newton: `lo.newton` beside a loop of NumPy and LAPACK that downdates the Hessian by the rows that
  leave;
- influence.

Every rival runs at its loosest tolerance whose effects are within 1e-6 of the largest effect; one
that never gets there is not `accurate`, and its row has the error that it reached. "In whitened
coordinates" is what a user could do who has read ours: the same solver where the Hessian of the
full fit is the identity. Errors are those of effects on the scores of 20 queries, against
retraining at 1e-12. Rivals are timed over a sample of the groups, evenly spread over the sizes;
retraining is timed once more when they are done, to show that the machine was the same.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

import leaveout as lo
from benchmarks.harness import fit_of, record, timed
from benchmarks.peers import loops, vmapped
from benchmarks.peers.problem import Problem

_SCIKIT_LEARN = {
    "breast_cancer": ("newton-cholesky",),
    "diabetes": ("newton-cholesky", "newton-cg"),
    "cdr": ("newton-cholesky", "newton-cg", "lbfgs"),
    "fishdog": ("newton-cg", "lbfgs"),
    "enron": ("newton-cg", "lbfgs"),
}
_SCIPY = {
    "breast_cancer": ("trust-exact", "trust-ncg", "L-BFGS-B"),
    "diabetes": ("trust-exact", "trust-ncg", "L-BFGS-B"),
    "cdr": ("trust-exact", "trust-ncg", "L-BFGS-B"),
    "fishdog": ("trust-ncg", "L-BFGS-B"),
    "enron": ("trust-ncg", "L-BFGS-B"),
}


@dataclasses.dataclass(frozen=True)
class _Size:
    """How much is measured: groups by us, `sampled` of them by rivals.

    A general solver may take `most` evaluations a group; of a library's solvers `every` one is
    tried, or the first that is named, which is its best.
    """

    data: tuple[str, ...]
    groups: int
    sampled: int
    most: int
    every: bool


_SIZES = {
    "smoke": _Size(("breast_cancer",), groups=20, sampled=4, most=200, every=True),
    "small": _Size(("diabetes",), groups=400, sampled=12, most=200, every=False),
    "full": _Size(("diabetes", "cdr", "fishdog", "enron"), 1700, 24, most=1000, every=True),
}


def main(folder: Path, size: str) -> None:
    """Time the methods: on breast_cancer in a smoke run, on real data of the paper otherwise."""
    rows, versions = [], {}
    for name in _SIZES[size].data:
        rows += _measure(name, _SIZES[size], versions)
        record(folder, "speed_methods", rows, versions)  # so far: the next one takes long


def _measure(name: str, size: _Size, versions: dict) -> list[dict]:
    count = size.groups
    data, fitted = fit_of(name)
    sizes = lo.groups.sizes(data.n, count)
    groups = lo.groups.random(jax.random.key(0), data, sizes=sizes)
    sample = np.linspace(0, count - 1, size.sampled).astype(int)
    problem = _problem(data, fitted, groups, sample, size.most)

    rows = []
    calls = {
        "influence": lambda: lo.influence(fitted, groups),
        "Newton": lambda: lo.newton(fitted, groups),
        "retrain at 1e-8": lambda: lo.retrain(fitted, groups, lo.Retrain(1e-8)),
        "retrain at 1e-6": lambda: lo.retrain(fitted, groups, lo.Retrain(1e-6)),
    }
    for method, call in calls.items():
        change, seconds = timed(call, 3 if data.d < 2000 else 1)
        row = {"method": method, "groups": count,
               "ms_a_group": 1e3 * seconds["median"] / count, "first_run_seconds": seconds["first"],
               "failed": int(np.count_nonzero(change.status))}  # fmt: skip
        if "retrain" in method:
            effects = np.asarray(change.value)[sample] @ problem.query.T
            row |= {"error": problem.error(effects),
                    "evaluations": float(np.median(change.steps)),
                    "most_evaluations": int(change.steps.max())}  # fmt: skip
        rows.append(row)
    loose = rows[-1]
    rows.append(_lapack(problem, fitted))
    rows += _rivals(name, problem, versions, size.every)
    _, again = timed(calls["retrain at 1e-6"], 1)
    rows.append({"method": "retrain at 1e-6, when the rivals are done", "groups": count,
                 "ms_a_group": 1e3 * again["median"] / count, "error": loose["error"]})  # fmt: skip
    return [{"data": name} | row for row in rows]


def _problem(data, fitted, groups, sample, most) -> Problem:
    query = np.c_[data.x_query[:20], np.ones(20)]
    chosen = groups[sample]
    return Problem(
        x=np.c_[data.x, np.ones(data.n)],
        y=np.asarray(data.y),
        l2=float(fitted.objective.l2),
        theta=np.asarray(fitted.flat),
        basis=np.linalg.inv(np.asarray(fitted.metric.lower)).T,
        query=query,
        lists=np.split(chosen.indices, chosen.offsets[1:-1]),
        truth=np.asarray(lo.retrain(fitted, chosen, lo.Retrain(1e-12)).value) @ query.T,
        most=most,
    )


def _lapack(problem: Problem, fitted) -> dict:
    expansion = fitted.expansion()
    first, second = np.asarray(expansion.first[:, 0]), np.asarray(expansion.second[:, 0, 0])
    assert (fitted.objective.weights == 1).all()
    return loops.newton(problem, first, second, np.asarray(fitted.objective.hessian(fitted.flat)))


def _rivals(name: str, problem: Problem, versions: dict, every: bool) -> list[dict]:
    some = slice(None if every else 1)
    rows = [loops.scikit_learn(problem, solver) for solver in _SCIKIT_LEARN[name][some]]
    if name == "diabetes" and every:
        rows.append(loops.papers(problem))
    rows += [loops.scipy_minimize(problem, method) for method in _SCIPY[name][some]]
    rows += [loops.scipy_minimize(problem, m, True) for m in ("trust-ncg", "L-BFGS-B")]
    for library in ("optimistix", "optax"):
        for whitened in (False, True):
            row, packages = vmapped.retrain(problem, library, whitened)
            rows.append(row)
            versions |= {library: packages} if packages else {}
    return rows
