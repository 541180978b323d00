"""Rivals that take one group at a time: scikit-learn, SciPy, and LAPACK through NumPy.

Each runs in one process with all cores to its BLAS, and in as many processes as cores; the faster
counts. Where a group takes seconds, fewer groups are run: `groups` says how many.
"""

import time
import warnings

import numpy as np
import scipy.linalg
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from benchmarks.harness import cores
from benchmarks.peers.problem import ENOUGH, Problem, loosest, median

__all__ = ["newton", "papers", "scikit_learn", "scipy_minimize"]

_LIMIT = 40.0  # seconds that one setting may take over all groups, in one process
_AGAIN = 10.0  # seconds up to which a run is repeated


def newton(problem: Problem, first, second, hessian) -> dict:
    """The Newton step: the Hessian less that of the rows that leave, then Cholesky."""
    task = _Downdate(problem.x, first, second, hessian)
    seconds, how = _fastest(task, problem.lists)
    return {
        "method": f"NumPy and LAPACK, Newton, {how}",
        "groups": len(problem.lists),
        "ms_a_group": 1e3 * seconds / len(problem.lists),
    }


def scikit_learn(problem: Problem, solver: str) -> dict:
    """LogisticRegression, started from the very optimum of the fit to all the data."""
    return _row(problem, f"scikit-learn {solver}", lambda tol: _Refit(problem, solver, tol, 20_000))


def papers(problem: Problem) -> dict:
    """The paper's solver, tolerance and limit, in today's scikit-learn, from the full fit.

    Not its stopping rule, which was looser, nor its start, the group before: for those see
    `accuracy_reference`.
    """
    task = _Refit(problem, "lbfgs", 1e-8, 2048)
    return _row(problem, "scikit-learn lbfgs, at most 2,048 iterations,", lambda _: task, (1e-8,))


def scipy_minimize(problem: Problem, method: str, whitened: bool = False) -> dict:
    """`scipy.optimize.minimize`, started from the fit to all the data."""
    name = f"SciPy {method}" + " in whitened coordinates" * whitened
    return _row(problem, name, lambda tol: _Minimize(problem, method, tol, whitened))


class _Downdate:
    def __init__(self, x, first, second, hessian):
        self.x, self.first, self.second, self.hessian = x, first, second, hessian

    def __call__(self, rows):
        x = self.x[rows]
        left = self.hessian - (x * self.second[rows, None]).T @ x
        return scipy.linalg.solve(left, self.first[rows] @ x, assume_a="pos", overwrite_a=True)


class _Refit:
    """Effects of leaving rows out, by scikit-learn; `exhausted` if the last needed more steps."""

    def __init__(self, problem: Problem, solver: str, tolerance: float, most: int):
        self.x, self.y, self.query = problem.x[:, :-1], problem.y, problem.query[:, :-1]
        self.theta = problem.theta
        self.settings = {"C": 1 / problem.l2, "solver": solver, "tol": tolerance, "max_iter": most}

    def __call__(self, rows):
        model = LogisticRegression(**self.settings, warm_start=True)
        model.coef_, model.intercept_ = self.theta[None, :-1].copy(), self.theta[-1:].copy()
        model.classes_ = np.unique(self.y)
        weights = np.ones(len(self.x))
        weights[rows] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(self.x, self.y, sample_weight=weights)
        self.exhausted = model.n_iter_[0] >= self.settings["max_iter"]
        change = model.coef_[0] - self.theta[:-1]
        return self.query @ change + (model.intercept_ - self.theta[-1:])


class _Minimize:
    """Effects of leaving rows out, by SciPy.

    The objective less its value at the start, term by term, so that small changes keep their
    digits; the tolerance is of the gradient, relative to the one at the start. `exhausted` if the
    last group needed more evaluations.
    """

    def __init__(self, problem: Problem, method: str, tolerance: float, whitened: bool):
        self.method, self.tolerance, self.most = method, tolerance, problem.most
        self.sign, self.query = 2.0 * problem.y - 1, problem.query
        self.margin = self.sign * (problem.x @ problem.theta)
        self.theta, self.l2 = problem.theta, problem.l2 * problem.penalised
        self.basis = problem.basis if whitened else None
        self.design = problem.x @ problem.basis if whitened else problem.x

    def __call__(self, rows):
        x, sign, margin = (
            np.delete(a, rows, axis=0) for a in (self.design, self.sign, self.margin)
        )
        before, basis = np.logaddexp(0, -margin), self.basis

        def moved(u):
            return u if basis is None else basis @ u

        def back(v):
            return v if basis is None else v @ basis

        def function(u):
            here, step = margin + sign * (x @ u), moved(u)
            value = np.sum(np.logaddexp(0, -here) - before)
            value += self.l2 @ ((self.theta + step / 2) * step)
            return value, (-sign * expit(-here)) @ x + back(self.l2 * (self.theta + step))

        def curvature(u):
            chance = expit(margin + sign * (x @ u))
            return chance * (1 - chance)

        def hessian(u):
            return (x.T * curvature(u)) @ x + np.diag(self.l2)

        def product(u, v):
            if last.get("u") is not u:
                last.update(u=u, curvature=curvature(u))  # one for all products at u
            return (last["curvature"] * (x @ v)) @ x + back(self.l2 * moved(v))

        last: dict[str, np.ndarray] = {}
        start = np.zeros(x.shape[1])
        goal = self.tolerance * np.linalg.norm(function(start)[1])
        settings = {
            "L-BFGS-B": {"options": {"gtol": goal / np.sqrt(x.shape[1]), "ftol": 0, "maxcor": 10,
                                     "maxiter": self.most, "maxfun": self.most}},
            "trust-ncg": {"hessp": product, "options": {"gtol": goal, **_TRUST}},
            "trust-exact": {"hess": hessian, "options": {"gtol": goal, **_TRUST}},
        }[self.method]  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = minimize(function, start, jac=True, method=self.method, **settings)
        self.exhausted = found.nfev >= self.most
        return self.query @ moved(found.x)


_TRUST = {"initial_trust_radius": 1e2, "max_trust_radius": 1e4, "maxiter": 200}  # Newton steps


def _row(problem: Problem, name: str, task, *tolerances) -> dict:
    """The row of a rival at the loosest setting that is accurate enough."""

    def attempt(tolerance):
        one = task(tolerance)
        which, answers, seconds = _serial(one, problem.lists)
        error = problem.error(np.array(answers), which)
        return error, np.inf if one.exhausted else seconds, {"which": which, "seconds": seconds}

    tolerance, error, notes = loosest(attempt, *tolerances)
    lists = [problem.lists[i] for i in notes["which"]]
    seconds, how = _fastest(task(tolerance), lists, notes["seconds"])
    return {
        "method": f"{name} at {tolerance:g}, {how}",
        "groups": len(lists),
        "ms_a_group": 1e3 * seconds / len(lists),
        "error": error,
        "accurate": error <= ENOUGH,
    }


def _serial(task, items):
    """Which items were taken, evenly spread if time is short, the answers, and the seconds."""
    begin = time.perf_counter()
    first = task(items[0])
    each = time.perf_counter() - begin
    count = min(len(items), max(cores(), int(_LIMIT / each)))
    which = np.linspace(0, len(items) - 1, count).astype(int)
    answers = [first] + [task(items[i]) for i in which[1:]]
    return which, answers, time.perf_counter() - begin


def _fastest(task, items, known: float = 0.0) -> tuple[float, str]:
    """Seconds, and the setting: one process with threaded BLAS, or a process a core.

    What one process takes may be known already; it is measured again unless that is long.
    """

    def serial():
        begin = time.perf_counter()
        for item in items:
            task(item)
        return time.perf_counter() - begin

    with Parallel(n_jobs=cores()) as pool:

        def parallel():
            begin = time.perf_counter()
            pool(delayed(task)(item) for item in items)
            return time.perf_counter() - begin

        pool(delayed(task)(item) for item in items[: cores()])  # starts the processes
        together = median(parallel)
    get_reusable_executor().shutdown()  # its processes would stay for minutes
    alone = known if known > _AGAIN else median(serial)
    return min((alone, "one process"), (together, f"{cores()} processes"))
