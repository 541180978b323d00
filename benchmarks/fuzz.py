"""Random problems, whole: does anything wrong leave the library without a word?

A problem is a loss (logistic, softmax of 2, 3 or 6 classes, squares, Poisson), data of one of eight
kinds (Gaussian, heavy-tailed, sparse binary, an outlier, duplicates, a constant column, columns
that add up, separable), unequal base weights with zeros, a penalty from 0 to 1e2, an intercept or
none, and six groups: one point, a random set, one class, all but a few, fractions, an addition.
`check` fits it, removes the groups by every route, and compares with plain NumPy: H and its solves
by LU, retraining by damped Newton to rounding. What has status 0 must be right; what is refused
must say why.
"""

import dataclasses
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, log_softmax

import leaveout as lo

__all__ = ["CASES", "Case", "Problem", "check", "draw"]


class Case(NamedTuple):
    """What is compiled once: a loss, its outputs, examples, features, a free intercept or none."""

    loss: str
    outputs: int
    n: int
    d: int
    intercept: bool


#: fewer features than examples, and more
CASES = tuple(
    Case(loss, outputs, n, d, intercept)
    for loss, outputs in (
        ("logistic", 1), ("squares", 1), ("poisson", 1),
        ("softmax", 2), ("softmax", 3), ("softmax", 6),
    )
    for n, d, intercept in ((30, 3, True), (30, 3, False), (16, 20, True), (16, 20, False))
)  # fmt: skip
_KINDS = (
    "gauss", "heavy", "sparse", "outlier", "copies", "constant", "collinear", "separable",
)  # fmt: skip
_TOLERANCE = 1e-6  # of effects, beside the largest of its column


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem: how it was drawn, its data, groups w (6 n) and queries."""

    loss: str
    kind: str
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    l2: float
    intercept: bool
    w: np.ndarray
    query: np.ndarray

    @property
    def outputs(self) -> int:
        """Scores an example."""
        return len(np.unique(self.y)) if self.loss == "softmax" else 1

    @property
    def design(self) -> np.ndarray:
        """Inputs with the intercept's column."""
        return np.c_[self.x, np.ones(len(self.x))] if self.intercept else self.x

    def __repr__(self) -> str:
        n, d = self.x.shape
        return (
            f"{self.loss} of {self.kind} data, n={n}, d={d}, K={self.outputs}, l2={self.l2:.1e}, "
            f"intercept={self.intercept}"
        )


def draw(case: Case, seed: int) -> Problem:
    """The problem of this seed."""
    rng = np.random.default_rng(seed)
    loss, outputs, n, d, intercept = case
    kind = _KINDS[rng.integers(len(_KINDS))]
    x = rng.normal(size=(n, d))
    if kind == "heavy":
        x = rng.standard_t(2.0, size=(n, d))
    elif kind == "sparse":
        x = (rng.random((n, d)) < 0.2).astype(float)
    elif kind == "outlier":
        x[0] *= 30
    elif kind == "copies":
        x = x[rng.integers(max(n // 5, 2), size=n)]
    elif kind == "constant":
        x[:, 0] = rng.normal()
    elif kind == "collinear":
        x[:, -1] = x[:, 0] + x[:, 1]
    scores = x @ rng.normal(size=(d, outputs)) / np.sqrt(d)
    if kind == "separable":
        scores = scores * 30
    scores = np.clip(scores, -3, 2) if loss == "poisson" else scores
    y = _targets(rng, loss, scores)
    weights = rng.choice([0.0, 0.3, 1.0, 1.0, 1.0, 5.0], size=n)
    l2 = 0.0 if rng.random() < 0.05 else float(10 ** rng.uniform(-4, 2))
    return Problem(
        loss, kind, x, y, weights, l2, intercept, _groups(rng, y, n),
        rng.normal(size=(4, d)),
    )  # fmt: skip


def _targets(rng, loss: str, scores) -> np.ndarray:
    n = len(scores)
    if loss == "squares":
        return scores[:, 0] + rng.normal(size=n)
    if loss == "poisson":
        return rng.poisson(np.exp(scores[:, 0])).astype(float)
    if loss == "logistic":
        y = (rng.random(n) < expit(scores[:, 0])).astype(int)
    else:
        y = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
    every = max(scores.shape[1], 2)
    y[:every] = np.arange(every)  # no class is empty
    return y


def _groups(rng, y, n: int) -> np.ndarray:
    w = np.zeros((6, n))
    w[0, rng.integers(n)] = 1
    w[1, rng.choice(n, n // 4, replace=False)] = 1
    w[2, y == y[rng.integers(n)]] = 1
    w[3] = 1
    w[3, rng.choice(n, 3, replace=False)] = 0
    w[4] = rng.random(n) * (rng.random(n) < 0.5)
    w[5, rng.choice(n, 3, replace=False)] = -rng.random(3) * 3
    w[2] *= w[2].sum() < n
    w[2, 0] = 1 if not w[2].any() else w[2, 0]
    w[4, 0] = 0.5
    return w


# ---- plain NumPy ---------------------------------------------------------------------------------


def _derivatives(problem: Problem, scores):
    """Losses (n), first (n K) and second (n K K) derivatives at scores (n K)."""
    y = problem.y
    if problem.loss == "softmax":
        logs = log_softmax(scores, axis=1)
        chance = np.exp(logs)
        one = np.eye(problem.outputs)[y]
        second = chance[:, :, None] * (np.eye(problem.outputs) - chance[:, None])
        return -logs[np.arange(len(y)), y], chance - one, second
    s = scores[:, 0]
    if problem.loss == "logistic":
        chance = expit(s)
        parts = np.logaddexp(0, s) - y * s, chance - y, chance * expit(-s)
    elif problem.loss == "poisson":
        rate = np.exp(np.minimum(s, 300))
        parts = rate - y * s, rate - y, rate
    else:
        parts = (s - y) ** 2 / 2, s - y, np.ones(len(y))
    return parts[0], parts[1][:, None], parts[2][:, None, None]


def _expanded(problem: Problem, matrix, weights):
    """Value, gradient (K q) and Hessian (Kq Kq) of J at a weight matrix (K q)."""
    design, outputs = problem.design, problem.outputs
    losses, first, second = _derivatives(problem, design @ matrix.T)
    free = np.ones(design.shape[1])
    free[-1] = 0.0 if problem.intercept else 1.0
    penalty = problem.l2 * free
    kept = weights != 0
    value = np.sum(weights[kept] * losses[kept]) + 0.5 * np.sum(penalty * matrix**2)
    gradient = (weights[:, None] * first).T @ design + penalty * matrix
    blocks = np.einsum("n,nkl,np,nq->kplq", weights, second, design, design, optimize=True)
    size = outputs * design.shape[1]
    return value, gradient, blocks.reshape(size, size) + np.diag(np.tile(penalty, outputs))


def _minimum(problem: Problem, matrix, weights, free: int):
    """The weight matrix at the minimum, by damped Newton on the range of H; whether it is the one.

    It is not if H is singular there in more than the `free` directions that the loss cannot see.
    """
    for _ in range(300):
        value, gradient, hessian = _expanded(problem, matrix, weights)
        eigen, vectors = np.linalg.eigh(hessian)
        kept = eigen > 1e-13 * eigen[-1]
        inner = vectors.T @ gradient.ravel()
        step = vectors @ np.where(kept, inner / np.where(kept, eigen, 1.0), 0.0)
        decrement = float(gradient.ravel() @ step)
        lost = np.linalg.norm(inner[~kept])
        scale = np.abs(weights).sum() * (1 + np.abs(problem.design).max())
        if decrement < 1e-24 * (1 + abs(value)):
            one = eigen[free] > 1e-10 * eigen[-1]
            return matrix, bool(one and lost < 1e-9 * scale) and np.abs(matrix).max() < 1e4
        step, size = step.reshape(matrix.shape), 1.0
        while size > 1e-12 and not (
            _expanded(problem, matrix - size * step, weights)[0]
            <= value - 0.1 * size * decrement + 1e-14 * abs(value)
        ):
            size /= 2
        matrix = matrix - size * step
    return matrix, False


# ---- the comparison ------------------------------------------------------------------------------


def check(problem: Problem) -> dict[str, Any]:
    """What was compared, what was refused or flagged, and what was wrong in silence."""
    found: dict[str, Any] = {"compared": 0, "flagged": 0, "refused": 0, "wrong": []}
    options = {"intercept": problem.intercept, "weights": problem.weights}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make = getattr(lo, problem.loss)
            fit = lo.fit(make(problem.x, problem.y, problem.l2, **options))
    except (lo.SolveError, ValueError) as error:
        found["refused"] = str(error).split(":")[0]
        return found
    objective: Any = fit.objective
    matrix = np.asarray(objective.layout.matrix(fit.flat))
    query = np.asarray(objective.widen(problem.query))
    free = 0  # directions that the loss does not see: a shift of all classes
    if problem.loss == "softmax":
        free = problem.design.shape[1] if problem.l2 == 0 else int(problem.intercept)
    best, reached = _minimum(problem, matrix, problem.weights, free)
    _compare(found, "fit", query @ matrix.T, query @ best.T, reached, np.zeros(1))

    groups = lo.Groups.from_weights(problem.w)
    measure = lo.measures.prediction(problem.query)
    stays = problem.weights * (1 - problem.w)
    first = _derivatives(problem, problem.design @ matrix.T)[1]
    gradients = np.einsum("gn,nk,nq->gkq", problem.weights * problem.w, first, problem.design)
    plain = _expanded(problem, matrix, problem.weights)[2]

    for solver in (lo.solvers.Cholesky(), lo.solvers.LowRank(), lo.solvers.CG(), lo.solvers.Auto()):
        for name, verb in (("influence", lo.influence), ("newton", lo.newton)):
            if name == "influence" and isinstance(solver, lo.solvers.LowRank):
                continue
            change = verb(fit, groups, solver)
            for i in range(6):
                h = plain if name == "influence" else _expanded(problem, matrix, stays[i])[2]
                eigen, vectors = np.linalg.eigh((h + h.T) / 2)
                top = np.abs(eigen).max()
                small = np.abs(eigen) < 1e-11 * top
                inner = vectors.T @ gradients[i].ravel()
                inner = np.where(small, 0.0, inner / np.where(small, 1.0, eigen))
                theirs = query @ (vectors @ inner).reshape(matrix.shape).T
                mine = query @ np.asarray(objective.layout.matrix(change.value[i])).T
                route = f"{name} by {type(solver).__name__}, group {i}"
                mine, theirs = _shifted(problem, mine), _shifted(problem, theirs)
                sure = small.sum() == free and not (np.abs(eigen[~small]) < 1e-8 * top).any()
                loose = 100 if isinstance(solver, lo.solvers.CG) else 1  # it stops at a residual
                _compare(found, route, mine, theirs, sure, change.status[i : i + 1], loose)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actual = lo.effects(fit, groups, measure, lo.Retrain(1e-10), certify=True)
        step = lo.effects(fit, groups, measure, lo.Newton(), certify=True)
        alone = lo.effects(fit, groups[[4]], measure, lo.Retrain(1e-10))
    before = query @ matrix.T
    for i in range(6):
        theta, reached = _minimum(problem, matrix, stays[i], free)
        truth = query @ theta.T - before
        mine = actual.value[i].reshape(truth.shape)
        a, b = _shifted(problem, mine), _shifted(problem, truth)
        _compare(found, f"retrain, group {i}", a, b, reached, actual.status[i : i + 1])
        for name, each in (("retrain", actual), ("newton", step)):
            if reached and not free and not actual.status[i]:
                slack = 1e-8 * np.abs(truth).max() + 1e-10
                low, high = each.lower[i] - slack, each.upper[i] + slack
                found["compared"] += truth.size
                if not ((low <= truth.ravel()) & (truth.ravel() <= high)).all():
                    found["wrong"].append(f"interval of {name}, group {i}")
    one = actual.status[4:5] | alone.status
    _compare(found, "alone", _shifted(problem, alone.value.reshape(before.shape)),
             _shifted(problem, actual.value[4].reshape(before.shape)), True, one)  # fmt: skip
    return found


def _shifted(problem: Problem, scores):
    """Scores (m K) without what all classes have in common."""
    return scores - scores.mean(axis=1, keepdims=True) if problem.loss == "softmax" else scores


def _compare(found, what: str, mine, theirs, sure: bool, status, loose: float = 1) -> None:
    if np.asarray(status).any():
        found["flagged"] += 1
        return
    if not sure:  # plain NumPy has no answer either
        return
    found["compared"] += mine.size
    gap = np.abs(mine - theirs).max()
    if not gap <= loose * _TOLERANCE * max(np.abs(theirs).max(), 1e-3):
        found["wrong"].append(f"{what}: {gap:.1e} beside {np.abs(theirs).max():.1e}")
