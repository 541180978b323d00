"""Random problems, whole: does anything wrong leave the library without a word?

A problem is a loss (logistic, softmax of 2, 3 or 6 classes, squares, Poisson, and a user's own:
rates with an exposure, that is Poisson with an offset), data of one of eight kinds (Gaussian,
heavy-tailed, sparse binary, an outlier, duplicates, a constant column, columns that add up,
separable), unequal base weights with zeros, a penalty from 0 to 1e2, an intercept or none, and six
groups: one point, a random set, one class, all but a few, fractions, an addition.
`check` fits it, removes the groups by every route, and compares with plain NumPy: H and its solves
by LU, retraining by damped Newton to rounding. What has status 0 must be right; what is refused
must say why.
"""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import expit, log_softmax

import leaveout as lo

__all__ = ["CASES", "KINDS", "OWN", "Case", "Problem", "check", "draw"]


class Case(NamedTuple):
    """What is compiled once: a loss, its outputs, examples, features, a free intercept or none."""

    loss: str
    outputs: int
    n: int
    d: int
    intercept: bool

    @property
    def title(self) -> str:
        """Of the row of a benchmark."""
        free = "free intercept" if self.intercept else "no intercept"
        return f"{self.loss}, K={self.outputs}, n={self.n}, d={self.d}, {free}"


#: fewer features than examples, and more
CASES = tuple(
    Case(loss, outputs, n, d, intercept)
    for loss, outputs in (
        ("logistic", 1), ("squares", 1), ("poisson", 1),
        ("softmax", 2), ("softmax", 3), ("softmax", 6), ("rates", 1),
    )
    for n, d, intercept in ((30, 3, True), (30, 3, False), (16, 20, True), (16, 20, False))
)  # fmt: skip
KINDS = (
    "gauss", "heavy", "sparse", "outlier", "copies", "constant", "collinear", "separable",
)  # fmt: skip
OWN = "own"  # besides: a group alone has a column, or alone tells two apart; hardly any penalty
_COUNTS = ("poisson", "rates")  # losses of counts
_TOLERANCE = 1e-7  # of effects, beside the largest of its column


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem: how it was drawn, its data (offsets, of rates), groups w (6 n) and queries."""

    loss: str
    kind: str
    x: np.ndarray
    y: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    l2: float
    intercept: bool
    w: np.ndarray
    query: np.ndarray

    @property
    def stays(self) -> np.ndarray:
        """(6 n) what the groups leave of each example; one without weight gets what is added."""
        here = self.weights > 0
        return np.where(here, self.weights * (1 - self.w), np.maximum(-self.w, 0))

    @property
    def outputs(self) -> int:
        """Scores an example."""
        return len(np.unique(self.y)) if self.loss == "softmax" else 1

    @functools.cached_property
    def design(self) -> np.ndarray:
        """Inputs with the intercept's column."""
        return np.c_[self.x, np.ones(len(self.x))] if self.intercept else self.x

    @functools.cached_property
    def penalty(self) -> np.ndarray:
        """(q,) of each column; that of the intercept is free."""
        free = np.ones(self.design.shape[1])
        free[-1] = 0.0 if self.intercept else 1.0
        return self.l2 * free

    def __repr__(self) -> str:
        n, d = self.x.shape
        return (
            f"{self.loss} of {self.kind} data, n={n}, d={d}, K={self.outputs}, l2={self.l2:.1e}, "
            f"intercept={self.intercept}"
        )


def draw(case: Case, seed: int, kind: str | None = None, l2: float | None = None) -> Problem:
    """The problem of this seed, its kind of data and penalty drawn as well unless given."""
    rng = np.random.default_rng(seed)
    loss, outputs, n, d, intercept = case
    drawn = KINDS[rng.integers(len(KINDS))]
    kind, mine = drawn if kind is None else kind, None
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
    elif kind == OWN:
        mine, l2 = _own(np.random.default_rng([seed, 1]), x)
    scores = x @ rng.normal(size=(d, outputs)) / np.sqrt(d)
    if kind == "separable":
        scores = scores * 30
    scores = np.clip(scores, -3, 2) if loss in _COUNTS else scores
    offset = rng.normal(size=n) if loss == "rates" else np.zeros(n)
    y = _targets(rng, loss, scores + offset[:, None])
    weights = rng.choice([0.0, 0.3, 1.0, 1.0, 1.0, 5.0], size=n)
    penalty = 0.0 if rng.random() < 0.05 else float(10 ** rng.uniform(-4, 2))
    w = _groups(rng, y, n)
    if mine is not None:
        w[1] = mine
    return Problem(
        loss, kind, x, y, offset, weights, penalty if l2 is None else l2, intercept,
        w, rng.normal(size=(4, d)),
    )  # fmt: skip


def _own(rng, x: np.ndarray) -> tuple[np.ndarray, float]:
    """Who alone has a column of x, which is written there, and a small penalty."""
    mine = np.zeros(len(x))
    mine[rng.choice(len(x), len(x) // 4, replace=False)] = 1
    unlike = mine * rng.normal(1, 0.5, size=len(x)) * 10 ** rng.uniform(0, 3)
    x[:, 0] = unlike if rng.random() < 0.5 else x[:, 1] + unlike / unlike.max()
    return mine, float(10 ** rng.uniform(-8, 0))


def _targets(rng, loss: str, scores) -> np.ndarray:
    n = len(scores)
    if loss == "squares":
        return scores[:, 0] + rng.normal(size=n)
    if loss in _COUNTS:
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
    s = scores[:, 0] + problem.offset
    if problem.loss == "logistic":
        chance = expit(s)
        parts = np.logaddexp(0, s) - y * s, chance - y, chance * expit(-s)
    elif problem.loss in _COUNTS:
        rate = np.exp(np.minimum(s, 700))
        parts = rate - y * s, rate - y, rate
    else:
        parts = (s - y) ** 2 / 2, s - y, np.ones(len(y))
    return parts[0], parts[1][:, None], parts[2][:, None, None]


def _value(problem: Problem, matrix, weights):
    """J at a weight matrix (K q)."""
    losses = _derivatives(problem, problem.design @ matrix.T)[0]
    kept = weights != 0
    return np.sum(weights[kept] * losses[kept]) + 0.5 * np.sum(problem.penalty * matrix**2)


def _expanded(problem: Problem, matrix, weights):
    """Gradient (K q) and Hessian (Kq Kq) of J at a weight matrix (K q)."""
    design, outputs, penalty = problem.design, problem.outputs, problem.penalty
    _, first, second = _derivatives(problem, design @ matrix.T)
    gradient = (weights[:, None] * first).T @ design + penalty * matrix
    scaled = (weights[:, None, None] * second).reshape(len(design), -1, 1) * design[:, None]
    width = design.shape[1]
    blocks = (design.T @ scaled.reshape(len(design), -1)).reshape(width, outputs, outputs, width)
    size = outputs * width
    hessian = blocks.transpose(1, 0, 2, 3).reshape(size, size)
    return gradient, hessian + np.diag(np.tile(penalty, outputs))


def _minimum(problem: Problem, matrix, weights, free: int):
    """The weight matrix at the minimum, by damped Newton on the range of H; whether it is the one.

    It is not if H is singular there in more than the `free` directions that the loss cannot see.
    """
    for _ in range(300):
        value = _value(problem, matrix, weights)
        gradient, hessian = _expanded(problem, matrix, weights)
        eigen, vectors = np.linalg.eigh(hessian)
        kept = eigen > 1e-13 * eigen[-1]
        inner = vectors.T @ gradient.ravel()
        step = vectors @ np.where(kept, inner / np.where(kept, eigen, 1.0), 0.0)
        decrement = float(gradient.ravel() @ step)
        lost = np.linalg.norm(inner[~kept])
        scale = np.abs(weights).sum() * (1 + np.abs(problem.design).max())
        if decrement < 1e-24 * (1 + abs(value)):
            one = eigen[free] > 1e-10 * eigen[-1]
            matrix = matrix - step.reshape(matrix.shape)  # what is left of a small change is small
            return matrix, bool(one and lost < 1e-9 * scale) and np.abs(matrix).max() < 1e4
        step, size = step.reshape(matrix.shape), 1.0
        near = decrement < 1e-10 * (1 + abs(value))  # where rounding hides what a step gains
        least = size if near else 1e-12
        while size > least and not (
            _value(problem, matrix - size * step, weights)
            <= value - 0.1 * size * decrement + 1e-14 * abs(value)
        ):
            size /= 2
        matrix = matrix - size * step
    return matrix, False


# ---- the comparison ------------------------------------------------------------------------------


def check(problem: Problem) -> dict[str, Any]:
    """What was compared, what was refused or flagged, and what was wrong in silence."""
    found: dict[str, Any] = {"compared": 0, "flagged": 0, "refused": 0, "wrong": []}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = _fit(problem)
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
    mine, theirs = _shifted(problem, query @ matrix.T), _shifted(problem, query @ best.T)
    _compare(found, "fit", mine, theirs, reached, np.zeros(1))

    groups = lo.Groups.from_weights(problem.w)
    sure = _routes(found, problem, fit, groups, matrix, query, free)
    stays = problem.stays
    measures = [lo.measures.prediction(problem.query), lo.measures.self_loss()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actual = lo.effects(fit, groups, measures, lo.Retrain(1e-10), certify=True)
        step = lo.effects(fit, groups, measures, lo.Newton(), certify=True)
        alone = lo.effects(fit, groups[[4]], measures, lo.Retrain(1e-10))
        paired = lo.effects(fit, groups, measures, lo.Newton(), memory=_pair(problem))
        order = np.random.default_rng(0).permutation(len(problem.y))
        mixed = _mixed(problem, order, groups, measures)
    before = query @ matrix.T
    own = _derivatives(problem, problem.design @ matrix.T)[0]
    for i in range(6):
        theta, reached = _minimum(problem, matrix, stays[i], free)
        gone = problem.weights - stays[i]
        change = _derivatives(problem, problem.design @ theta.T)[0] - own
        truth = query @ theta.T - before, np.atleast_1d(gone @ change)
        mine = np.split(actual.value[i], [before.size])
        a, b = _shifted(problem, mine[0].reshape(before.shape)), _shifted(problem, truth[0])
        _compare(found, f"retrain, group {i}", a, b, reached, actual.status[i : i + 1])
        lost = 1 + np.abs(gone * change).sum() / max(np.abs(truth[1]).max(), 1e-6)  # it can cancel
        lost *= 1 + np.abs(problem.design @ (theta - matrix).T).max()  # and grow as exp does
        code = actual.status[i : i + 1]
        _compare(found, f"self-loss, group {i}", mine[1], truth[1], reached, code, lost)
        every = np.concatenate([truth[0].ravel(), truth[1]])
        rounding = np.abs(query) @ np.abs(theta).T, np.atleast_1d(np.abs(gone) @ (1 + np.abs(own)))
        noise = 1e-13 * np.concatenate([part.ravel() for part in rounding])
        for name, each in (("retrain", actual), ("newton", step)):
            if reached and not free and not actual.status[i]:
                assert each.lower is not None
                assert each.upper is not None
                slack = 1e-8 * np.abs(every).max() + noise  # of the truth, not of the interval
                low, high = each.lower[i] - slack, each.upper[i] + slack
                found["compared"] += every.size
                if not ((low <= every) & (every <= high)).all():
                    found["wrong"].append(f"interval of {name}, group {i}")
    again = [("alone", alone, actual[[4]], [True])]
    again += [("in pairs", paired, step, sure), ("examples mixed", mixed, step, sure)]
    for name, one, other, each in again:
        for i in range(0 if one is None else len(each)):
            a, b = (_shifted(problem, effects.value[i, : before.size].reshape(before.shape))
                    for effects in (one, other))  # fmt: skip
            _compare(found, f"{name}, group {i}", a, b, each[i], one.status[i] | other.status[i])
    return found


def _routes(found, problem: Problem, fit, groups, matrix, query, free: int) -> list[bool]:
    """Influence and Newton by every solver, and influence by the adjoint way, beside plain NumPy.

    Returns whether the Newton step of each group is beyond doubt.
    """
    objective = fit.objective
    first = _derivatives(problem, problem.design @ matrix.T)[1]
    stays = problem.stays
    gradients = np.einsum("gn,nk,nq->gkq", problem.weights - stays, first, problem.design)
    expected = {
        "influence": _solve(_expanded(problem, matrix, problem.weights)[1], gradients, free),
        "newton": [
            _solve(_expanded(problem, matrix, stays[i])[1], gradients[[i]], free)[0]
            for i in range(6)
        ],
    }
    shelf = lo.solvers
    for solver in (shelf.Cholesky(), shelf.LowRank(), shelf.CG(), shelf.Refined(), shelf.Auto()):
        for name, verb in (("influence", lo.influence), ("newton", lo.newton)):
            if name == "influence" and isinstance(solver, shelf.LowRank):
                continue
            change = verb(fit, groups, solver)
            for i in range(6):
                theirs, sure = expected[name][i]
                mine = query @ np.asarray(objective.layout.matrix(change.value[i])).T
                mine, theirs = _shifted(problem, mine), _shifted(problem, query @ theirs.T)
                route = f"{name} by {type(solver).__name__}, group {i}"
                rough = isinstance(solver, shelf.CG | shelf.Refined)  # they stop at a residual
                _compare(found, route, mine, theirs, sure, change.status[i], 100 if rough else 1)
    adjoint = lo.effects(fit, groups, lo.measures.prediction(problem.query), lo.Influence())
    for i in range(6):
        theirs, sure = expected["influence"][i]
        mine = _shifted(problem, adjoint.value[i].reshape(len(query), -1))
        theirs = _shifted(problem, query @ theirs.T)
        _compare(found, f"adjoint influence, group {i}", mine, theirs, sure, adjoint.status[i])
    return [sure for _, sure in expected["newton"]]


def _solve(hessian, gradients, free: int):
    """For every gradient (K q): H^-1 g on the range of H, and whether H leaves no doubt of it."""
    eigen, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    top = np.abs(eigen).max()
    small = np.abs(eigen) <= 1e-11 * top
    sure = bool(small.sum() == free and not (np.abs(eigen[~small]) < 1e-8 * top).any())
    inner = gradients.reshape(len(gradients), -1) @ vectors
    inner = np.where(small, 0.0, inner / np.where(small, 1.0, eigen)) @ vectors.T
    return [(row, sure) for row in inner.reshape(gradients.shape)]


def _fit(problem: Problem, order: Any = slice(None)) -> lo.Fit:
    """The library's fit, the examples in another order."""
    x, y, weights = problem.x[order], problem.y[order], problem.weights[order]
    options: Any = {"l2": problem.l2, "intercept": problem.intercept, "weights": weights}
    if problem.loss == "rates":
        return lo.fit(lo.glm(_rates, x, {"count": y, "offset": problem.offset[order]}, **options))
    return lo.fit(getattr(lo, problem.loss)(x, y, **options))


def _rates(score, y):
    """What a user would write: Poisson regression with an exposure."""
    score = score + y["offset"]
    return jnp.exp(score) - y["count"] * score


def _mixed(problem: Problem, order, groups, measures):
    """The Newton step when the examples come in another order; None if that has no fit."""
    try:
        fit = _fit(problem, order)
    except lo.SolveError:
        return None
    moved = lo.Groups.from_weights(problem.w[:, order])
    return lo.effects(fit, moved, measures, lo.Newton())


def _pair(problem: Problem) -> int:
    """Bytes that make `effects` take two groups at a time, or so."""
    return 20 * (problem.outputs + 3) * (len(problem.y) + 8 * problem.design.shape[1])


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
