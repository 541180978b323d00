"""Random problems of every method, edit and measure, in columns of any unit and place.

A problem is a loss (logistic, squares, Poisson, softmax of three classes with a free intercept), 24
examples of three columns: of mean / sd up to 1e6 and scales from 1e-9 to 1e9, or years; offsets, a
penalty for each coefficient, unequal base weights, five groups (a point, a random set, a fraction,
all but a few, a doubling).

The truth is plain NumPy in coordinates that are centred and scaled in 80 bits before (exact with a
free intercept). What a method is to find has an oracle of another form than the method's own:

- retraining, edits (`reweight`, `relabel`, `add`): damped Newton on the changed data, to rounding,
- `Newton`, `Newton(steps=2)`: one or two undamped steps, by eigenvectors,
- `Krylov`: the best step in a Krylov space that is written down, by Galerkin's condition,
- `SecondOrder`: two differences of retraining in how much leaves, extrapolated,
- `NewtonChebyshev`: the same along the curve on which the gradient of what stays dies out evenly,
- `Influence(rescaled=True)`: a step for each point of the group, added up,
- a penalty for each group: retraining and a step at that penalty,
- measures: from the scores of the retrained theta, those of scores and those of theta, sums over
  subsets, functions of the user's own; of classes also chances, ranks counted pair by pair and bins
  one by one; intervals and `tolerance=` have to hold some of these,
- `lo.Objective`: the same loss written for any theta, by influence, Newton and retraining.

What has status 0 must be right to 1e-7 of the largest effect of its column; the rest is counted.
"""

import dataclasses
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.special import softmax

import leaveout as lo
from benchmarks.fuzz import Problem, _derivatives, _expanded, _minimum, _solve, _value

__all__ = ["LOSSES", "PLACES", "Trial", "check", "draw", "fuzzed"]

LOSSES = ("logistic", "squares", "poisson", "softmax")
PLACES = ("near", "far", "huge", "tiny", "years")
_TOLERANCE = 1e-7  # of the largest effect of a column
_N, _D, _QUERIES = 24, 3, 3
_NAMES = ("a", "b", "c")  # of the features


class Trial(NamedTuple):
    """The problem as NumPy has it, and the same columns as a user does."""

    problem: Problem
    place: str
    x: np.ndarray
    query: np.ndarray
    scale: np.ndarray
    apart: bool  # the penalty of each coefficient is given as a number and `penalised`

    def __repr__(self) -> str:
        return f"{self.problem!r}, {self.place}"


def draw(loss: str, seed: int) -> Trial:
    """The problem of this seed."""
    rng = np.random.default_rng(seed)
    place = PLACES[rng.integers(len(PLACES))]
    near = rng.normal(size=(_N + _QUERIES, _D))
    if place == "years":
        near[:, 0] = rng.integers(1990, 2021, _N + _QUERIES)
        near[:, 1] = rng.random(_N + _QUERIES) < 0.4
        near[:2, 1] = 0, 1
    scale = {
        "far": 10.0 ** rng.uniform(-2, 2, _D), "huge": 10.0 ** rng.uniform(3, 9, _D),
        "tiny": 10.0 ** rng.uniform(-9, -3, _D),
    }.get(place, np.ones(_D))  # fmt: skip
    far = 10.0 ** rng.uniform(2, 6, _D) if place == "far" else np.zeros(_D)
    user = (near + far[None]) * scale
    exact = user.astype(np.longdouble)
    centre, spread = exact[:_N].mean(0), exact[:_N].std(0)
    z = ((exact - centre) / spread).astype(float)
    outputs = 3 if loss == "softmax" else 1
    scores = np.clip(z[:_N] @ rng.normal(size=(_D, outputs)), -3, 2)
    offset = np.zeros(_N) if loss == "softmax" or rng.random() < 0.5 else rng.normal(size=_N)
    total = scores + offset[:, None]
    y = _drawn(rng, loss, total)
    w = np.zeros((5, _N))
    w[0, rng.integers(_N)] = 1
    w[1, rng.choice(_N, 5, replace=False)] = 1
    w[2, rng.choice(_N, 6, replace=False)] = rng.random(6)
    w[3] = 1
    w[3, rng.choice(_N, 6, replace=False)] = 0
    w[4, rng.choice(_N, 3, replace=False)] = 1
    weights = rng.choice([0.3, 1.0, 1.0, 2.0], size=_N)
    l2 = float(10 ** rng.uniform(-2, 1))
    problem = Problem(loss, place, z[:_N], y, offset, weights, l2, True, w, z[_N:])
    apart = bool(rng.integers(2))
    return Trial(problem, place, user[:_N], user[_N:], spread.astype(float), apart)


def _drawn(rng, loss: str, scores: np.ndarray) -> np.ndarray:
    if loss == "squares":
        return scores[:, 0] + rng.normal(size=_N)
    if loss == "poisson":
        return rng.poisson(np.exp(scores[:, 0])).astype(float)
    if loss == "softmax":
        y = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
        y[:6] = [0, 1, 2, 0, 1, 2]
        return y
    y = (scores[:, 0] + rng.logistic(size=_N) > 0).astype(int)
    y[:4] = [0, 1, 0, 1]
    return y


# ---- the oracles ---------------------------------------------------------------------------------


class Oracle:
    """Plain NumPy about one problem: weight matrices (K q) in the coordinates of NumPy."""

    def __init__(self, trial: Trial):
        self.problem = trial.problem
        self.free = 1 if trial.problem.loss == "softmax" else 0
        start = np.zeros((self.problem.outputs, _D + 1))
        self.theta, self.sure = self.minimum(self.problem.weights, start)
        self.known = np.array([self.minimum(v, self.theta)[1] for v in self.problem.stays])

    def judged(self, effects: lo.Effects) -> np.ndarray:
        """The status of retraining without each group, not 0 where NumPy found no minimum."""
        return np.where(self.known, effects.status, 1)

    def minimum(self, v, start, problem: Problem | None = None) -> tuple[np.ndarray, bool]:
        """The minimum where examples get v, and whether it is beyond doubt."""
        return _minimum(self.problem if problem is None else problem, start, v, self.free)

    def step(self, theta, v, gradient=None, problem: Problem | None = None):
        """One undamped Newton step from theta where examples get v; what is left by default."""
        own, hessian = _expanded(self.problem if problem is None else problem, theta, v)
        gradient = -own if gradient is None else gradient
        return _solve(hessian, gradient[None], self.free)[0][0]

    def without(self, i: int):
        return self.minimum(self.problem.stays[i], self.theta)[0]

    def newton(self, i: int):
        return self.theta + self.step(self.theta, self.problem.stays[i])

    def two(self, i: int):
        return self.newton(i) + self.step(self.newton(i), self.problem.stays[i])

    def falls(self, i: int) -> bool:
        """Whether each of two steps lowers the loss by much of what it promises."""
        v, second = self.problem.stays[i], self.newton(i)
        return self._lowers(self.theta, v) and self._lowers(second, v)

    def _lowers(self, theta, v) -> bool:
        step = self.step(theta, v)
        promised = -float(np.sum(step * _expanded(self.problem, theta, v)[0]))
        before, after = (_value(self.problem, each, v) for each in (theta, theta + step))
        return after < before - 0.2 * promised

    def influence(self, i: int):
        problem = self.problem
        force = -_expanded(problem, self.theta, problem.stays[i])[0]
        return self.theta + self.step(self.theta, problem.weights, force)

    def krylov(self, i: int, steps: int):
        """The best step in the span of H^-1 g, (H^-1 A) H^-1 g, ..., A the Hessian of what stays.

        Best in the norm of A, by Galerkin's condition.
        """
        problem, v = self.problem, self.problem.stays[i]
        force, hessian = _expanded(problem, self.theta, v)
        basis, image = [], -force
        for _ in range(steps):
            basis.append(self.step(self.theta, problem.weights, image).ravel())
            basis[-1] /= np.linalg.norm(basis[-1]) or 1.0
            image = (hessian @ basis[-1]).reshape(force.shape)
        space = np.linalg.qr(np.stack(basis, axis=1))[0]
        inner = np.linalg.lstsq(space.T @ hessian @ space, -space.T @ force.ravel())[0]
        return self.theta + (space @ inner).reshape(force.shape)

    def krylov_1(self, i: int):
        return self.krylov(i, 1)

    def krylov_3(self, i: int):
        return self.krylov(i, 3)

    def rescaled(self, i: int):
        """Every point of the group on its own, by as much of it as leaves."""
        problem, total = self.problem, np.zeros_like(self.theta)
        for j in np.flatnonzero(problem.w[i]):
            v = problem.weights * (1 - np.eye(_N)[j])
            total += problem.w[i, j] * self.step(self.theta, v)
        return self.theta + total

    def second(self, i: int):
        """theta + theta' + theta'' / 2 of retraining, by how much of the group leaves."""
        problem = self.problem

        def at(t):
            return self.minimum(problem.weights * (1 - t * problem.w[i]), self.theta)[0]

        return self.theta + _series(at, self.theta)

    def chebyshev(self, i: int):
        """The same of the way on which the gradient of what stays dies out evenly."""
        v = self.problem.stays[i]
        begin = _expanded(self.problem, self.theta, v)[0]

        def at(t):
            theta = self.theta
            for _ in range(8):
                left = _expanded(self.problem, theta, v)[0] - (1 - t) * begin
                theta = theta + self.step(theta, v, -left)
            return theta

        return self.theta + _series(at, self.theta)

    def scores(self, theta, x=None) -> np.ndarray:
        x = self.problem.query if x is None else x
        found = np.c_[x, np.ones(len(x))] @ theta.T
        return found - found.mean(1, keepdims=True) if self.free else found


def _series(at: Callable, here) -> np.ndarray:
    """First and half the second derivative at 0, by differences extrapolated twice."""

    def rough(h):
        up, down = at(h), at(-h)
        return (up - down) / (2 * h) + (up - 2 * here + down) / (2 * h * h)

    coarse, middle, fine = (rough(h) for h in (0.02, 0.01, 0.005))
    one, two = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
    return (16 * two - one) / 15


# ---- the comparison ------------------------------------------------------------------------------

METHODS: tuple[tuple[Any, str, float], ...] = (
    (lo.Retrain(1e-11), "without", 1.0),
    (lo.Newton(), "newton", 1.0),
    (lo.Newton(steps=2), "two", 1.0),
    (lo.Influence(at_changed=True), "influence", 1.0),
    (lo.Influence(rescaled=True), "rescaled", 1.0),
    (lo.Krylov(1), "krylov_1", 1.0),
    (lo.Krylov(3), "krylov_3", 1.0),
    (lo.SecondOrder(), "second", 100.0),  # differences have fewer digits
    (lo.NewtonChebyshev(), "chebyshev", 100.0),
)


def check(trial: Trial) -> dict[str, Any]:
    """What was compared, what was refused or flagged, and what was wrong in silence."""
    found: dict[str, Any] = {"compared": 0, "flagged": 0, "refused": 0, "wrong": []}
    oracle = Oracle(trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = _fit(trial)
        except (lo.SolveError, ValueError) as error:
            found["refused"] = str(error).split(":")[0]
            return found
        if not oracle.sure:
            return found
        _methods(found, trial, oracle, fit)
        _measures(found, trial, oracle, fit)
        _of_scores(found, trial, oracle, fit)
        _of_chances(found, trial, oracle, fit)
        _penalties(found, trial, oracle, fit)
        _edits(found, trial, oracle, fit)
        _general(found, trial, oracle)
    return found


def _fit(trial: Trial) -> lo.Fit:
    problem = trial.problem
    each = trial.scale**2  # one penalty in the coordinates of NumPy
    options: dict[str, Any] = {"weights": problem.weights}
    if problem.offset.any():
        options["offset"] = problem.offset
    if problem.outputs > 1:
        each = np.tile(each, (problem.outputs, 1))
    if trial.apart:
        options |= {"l2": problem.l2, "penalised": each}
    else:
        options["l2"] = problem.l2 * each
    x = pd.DataFrame(trial.x, columns=list(_NAMES))
    return lo.fit(getattr(lo, problem.loss)(x, problem.y, **options))


def _shown(oracle: Oracle, values, columns: int) -> np.ndarray:
    """Effects on predictions (g, m K) without what all classes have in common."""
    values = np.asarray(values).reshape(len(values), columns, -1)
    if oracle.free:
        values = values - values.mean(2, keepdims=True)
    return values.reshape(len(values), -1)


def _methods(found, trial: Trial, oracle: Oracle, fit: lo.Fit) -> None:
    problem = trial.problem
    groups, measure = lo.Groups.from_weights(problem.w), lo.measures.prediction(trial.query)
    before = oracle.scores(oracle.theta)
    for method, name, loose in METHODS:
        mine = lo.effects(fit, groups, measure, method)
        truth = [oracle.scores(getattr(oracle, name)(i)) - before for i in range(len(groups))]
        theirs = np.stack([part.ravel() for part in truth])
        status = oracle.judged(mine) if name == "without" else mine.status
        if name == "two":  # damped where a whole step would not lower the loss
            status = np.where([oracle.falls(i) for i in range(len(groups))], status, 1)
        _compare(found, method.name, _shown(oracle, mine.value, _QUERIES), theirs, status, loose)


def _measures(found, trial: Trial, oracle: Oracle, fit: lo.Fit) -> None:
    """Losses, self-loss, a coefficient and intervals of them, of retraining."""
    problem = trial.problem
    groups, seen = lo.Groups.from_weights(problem.w), slice(0, 4)
    offset = (problem.offset[seen],) if problem.offset.any() else ()
    ask = [
        lo.measures.loss((trial.x[seen], problem.y[seen], *offset)),
        lo.measures.self_loss(),
    ]
    thetas = [oracle.without(i) for i in range(len(groups))]
    truth = np.stack([_own(problem, oracle.theta, theta, i) for i, theta in enumerate(thetas)])
    certain: dict[str, Any] = {"certify": True}
    narrow: dict[str, Any] = {"tolerance": 1e-4}
    for name, options in (("retraining", certain), ("tolerance", narrow), ("Newton", certain)):
        method = lo.Newton() if name == "Newton" else lo.Retrain(1e-11)
        mine = lo.effects(fit, groups, ask, method, **options)
        if name != "Newton":
            loose = 100.0 if name == "tolerance" else 1.0
            status = oracle.judged(mine)
            _compare(found, f"measures by {name}", mine.value, truth, status, loose)
        assert mine.lower is not None
        assert mine.upper is not None
        scale = np.abs(problem.weights).sum() * (1 + np.abs(truth).max())
        noise = 1e-8 * np.abs(truth) + 1e-14 * scale  # rounding of the truth
        outside = (truth < mine.lower - noise) | (truth > mine.upper + noise)
        outside &= oracle.known[:, None]
        found["compared"] += truth.size
        if outside.any():
            i, j = np.argwhere(outside)[0]
            found["wrong"].append(f"interval of {mine.columns[j]} by {name}, group {i}")
        if name == "tolerance":
            root = np.sqrt(np.mean(mine.value**2, axis=0))
            wide = (mine.width > 1.01e-4 * root[None]).any(axis=1) & (mine.status == 0)
            if wide.any():
                found["wrong"].append(f"tolerance not reached in silence, groups {wide.nonzero()}")


def _own(problem: Problem, here, theta, i: int) -> np.ndarray:
    old, new = (_derivatives(problem, problem.design @ one.T)[0] for one in (here, theta))
    gone = problem.weights - problem.stays[i]
    return np.r_[(new - old)[:4], gone @ (new - old)]


def _of_scores(found, trial: Trial, oracle: Oracle, fit: lo.Fit) -> None:
    """Sums over queries, margins, statistics and entries of theta, of retraining."""
    problem, query = trial.problem, trial.query
    groups, subsets = lo.Groups.from_weights(problem.w), np.array([[1.0, 1, 0], [0, 0, 1]])
    ask: list[Any] = [lo.measures.prediction(query, reduce="mean")]
    ask += [lo.measures.prediction(query, by=["a", "a", "b"])]
    parts: list[Callable] = [
        lambda theta: oracle.scores(theta).mean(0),
        lambda theta: (subsets @ oracle.scores(theta)).ravel(),
    ]
    if problem.loss in ("logistic", "softmax"):
        offset = (np.zeros(_QUERIES),) if problem.offset.any() else ()
        examples = query, problem.y[:_QUERIES], *offset
        ask += [lo.measures.margin(examples), lo.measures.accuracy(examples)]
        parts += [
            lambda theta: _margins(oracle.scores(theta), problem.y[:_QUERIES]),
            lambda theta: [np.mean(_labels(oracle.scores(theta)) == problem.y[:_QUERIES])],
        ]
    if not oracle.free:
        ask += [lo.measures.parameter([0, 2]), _own_measure]
        parts += [
            lambda theta: theta[0, [0, 2]] / trial.scale[[0, 2]],
            lambda theta: [(theta[0, 1] / trial.scale[1]) ** 2],
        ]

    def each(theta):
        return np.concatenate([np.ravel(part(theta)) for part in parts])

    mine = lo.effects(fit, groups, ask, lo.Retrain(1e-11))
    ends = [oracle.without(i) for i in range(len(groups))]
    theirs = np.stack([each(theta) - each(oracle.theta) for theta in ends])
    tied = [np.abs(_gaps(oracle.scores(theta))).min() < 1e-6 for theta in (oracle.theta, *ends)]
    status = np.where(np.array(tied[1:]) | tied[0], 1, oracle.judged(mine))
    value = np.concatenate([_shown(oracle, mine.value[:, :3], 1), mine.value[:, 3:]], axis=1)
    if oracle.free:
        shown = _shown(oracle, value[:, 3:9], 2)
        value = np.concatenate([value[:, :3], shown, value[:, 9:]], axis=1)
    else:
        value = mine.value
    _compare(found, "of scores", value, theirs, status)


def _own_measure(theta):
    """What a user might write; compiled once."""
    return theta.weight[1] ** 2


def _gaps(scores) -> np.ndarray:
    """How far each example is from another label."""
    if scores.shape[1] == 1:
        return scores
    ranked = np.sort(scores, axis=1)
    return ranked[:, -1] - ranked[:, -2]


def _labels(scores) -> np.ndarray:
    """The label of the largest score."""
    return (scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else np.argmax(scores, axis=1)


def _margins(scores, y) -> np.ndarray:
    """Log-odds of the true label."""
    if scores.shape[1] == 1:
        return (2 * y - 1) * scores[:, 0]
    chance = _chances(scores)[np.arange(len(y)), y]
    return np.log(chance / (1 - chance))


def _of_chances(found, trial: Trial, oracle: Oracle, fit: lo.Fit) -> None:
    """Chances of classes, what is counted and binned of them, and odds ratios; of retraining."""
    problem, bins = trial.problem, 5
    if problem.loss not in ("logistic", "softmax"):
        return
    groups, where = lo.Groups.from_weights(problem.w), ["a", "b", "b"]
    examples, query = (trial.x, problem.y), (trial.query, problem.y[:_QUERIES])
    if problem.offset.any():
        examples, query = (*examples, problem.offset), (*query, np.zeros(_QUERIES))

    def known(theta):
        return oracle.scores(theta, problem.x) + problem.offset[:, None]

    ask: list[Any] = [
        lo.measures.probability(query),
        lo.measures.gap(query, where),
        lo.measures.calibration_error(examples, bins=bins),
    ]
    parts: list[Callable] = [
        lambda theta: _shares(oracle.scores(theta)),
        lambda theta: (
            _shares(oracle.scores(theta))[0] - _shares(oracle.scores(theta))[1:].mean(axis=0)
        ),
        lambda theta: [_miscalibrated(_chances(known(theta)), problem.y, bins)],
    ]
    if not oracle.free:
        ask += [lo.measures.auroc(examples), lo.measures.odds_ratio("b", per=trial.scale[1])]
        parts += [
            lambda theta: [_ordered(known(theta)[:, 0], problem.y)],
            lambda theta: [np.exp(theta[0, 1])],
        ]

    def each(theta):
        return np.concatenate([np.ravel(part(theta)) for part in parts])

    def near(theta):
        """Whether rounding may move an example to another bin, label or rank."""
        chance = _chances(known(theta)).max(axis=1)
        ranks = np.diff(np.sort(known(theta)[:, 0]))
        edges = np.abs(bins * chance - np.round(bins * chance)).min()
        return min(edges, np.abs(_gaps(known(theta))).min(), ranks.min()) < 1e-6

    mine = lo.effects(fit, groups, ask, lo.Retrain(1e-11))
    ends = [oracle.without(i) for i in range(len(groups))]
    theirs = np.stack([each(theta) - each(oracle.theta) for theta in ends])
    hidden = [near(oracle.theta) or near(theta) for theta in ends]
    status = np.where(hidden, 1, oracle.judged(mine))
    _compare(found, "of chances", mine.value, theirs, status)


def _chances(scores) -> np.ndarray:
    """(m K) of every class, also of the two that one score tells apart."""
    both = np.c_[np.zeros(len(scores)), scores] if scores.shape[1] == 1 else scores
    return softmax(both, axis=1)


def _shares(scores) -> np.ndarray:
    """(m, columns) as `probability` has them: of the positive class, or of every class."""
    chances = _chances(scores)
    return chances[:, 1:] if scores.shape[1] == 1 else chances


def _ordered(score, y) -> float:
    """The share of pairs of a positive and a negative that are in order."""
    pairs = score[y == 1][:, None] - score[y == 0]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


def _miscalibrated(chances, y, bins: int) -> float:
    """Bin by bin: how far the share of right labels is from the mean confidence."""
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == y
    total = 0.0
    for k in range(bins):
        mine = (sure >= k / bins) & (sure < (k + 1) / bins)
        if mine.any():
            total += mine.mean() * abs(right[mine].mean() - sure[mine].mean())
    return total


def _penalties(found, trial: Trial, oracle: Oracle, fit: lo.Fit) -> None:
    """A penalty of its own for the refit without each group."""
    problem, measure = trial.problem, lo.measures.prediction(trial.query)
    groups, before = lo.Groups.from_weights(problem.w), oracle.scores(oracle.theta)
    times = np.random.default_rng(0).uniform(0.3, 3.0, len(groups))
    retrained, stepped = [], []
    for i, factor in enumerate(times):
        changed, v = dataclasses.replace(problem, l2=factor * problem.l2), problem.stays[i]
        retrained.append(oracle.minimum(v, oracle.theta, changed)[0])
        stepped.append(oracle.theta + oracle.step(oracle.theta, v, problem=changed))
    l2 = times * problem.l2 if trial.apart else times
    for method, ends in ((lo.Retrain(1e-11), retrained), (lo.Newton(), stepped)):
        mine = lo.effects(fit, groups, measure, method, l2=l2)
        theirs = np.stack([(oracle.scores(theta) - before).ravel() for theta in ends])
        what = f"penalties by {method.name}"
        _compare(found, what, _shown(oracle, mine.value, _QUERIES), theirs, mine.status)


def _general(found, trial: Trial, oracle: Oracle) -> None:
    """The same problem as a loss of any theta, whose columns are measured from where they are.

    Where `lo.fit` warns that only some digits survive, those have to.
    """
    problem = trial.problem
    if problem.outputs > 1:
        return  # nothing holds what all classes have in common
    data = {"x": trial.x, "y": problem.y.astype(float), "offset": problem.offset}
    theta = {"bias": jnp.zeros(()), "weight": jnp.zeros(_D)}
    each: Any = {"bias": 0.0, "weight": problem.l2 * trial.scale**2}
    try:
        objective = lo.Objective(_POINT[problem.loss], data, theta, each, weights=problem.weights)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit = lo.fit(objective)
    except (lo.SolveError, ValueError) as error:
        found["refused"] = f"Objective: {str(error).split(':')[0]}"
        return
    digits = re.search(r"about (\d+) digits survive", " ".join(str(each.message) for each in said))
    loose = 10.0 ** -int(digits[1]) / _TOLERANCE if digits else 1.0
    measure = lo.measures.linear(np.c_[np.ones(_QUERIES), trial.query])
    groups, before = lo.Groups.from_weights(problem.w), oracle.scores(oracle.theta)
    for method, name in (
        (lo.Influence(), "influence"), (lo.Newton(), "newton"), (lo.Retrain(1e-11), "without"),
    ):  # fmt: skip
        mine = lo.effects(fit, groups, measure, method)
        truth = [oracle.scores(getattr(oracle, name)(i)) - before for i in range(len(groups))]
        theirs = np.stack([part.ravel() for part in truth])
        status = oracle.judged(mine) if name == "without" else mine.status
        _compare(found, f"Objective by {method.name}", mine.value, theirs, status, max(loose, 1.0))


def _score(theta, example):
    return example["x"] @ theta["weight"] + theta["bias"] + example["offset"]


def _logistic(theta, example):
    score = _score(theta, example)
    return jax.nn.softplus(score) - example["y"] * score


def _squares(theta, example):
    return (_score(theta, example) - example["y"]) ** 2 / 2


def _poisson(theta, example):
    score = _score(theta, example)
    return jnp.exp(score) - example["y"] * score


_POINT = {"logistic": _logistic, "squares": _squares, "poisson": _poisson}


def _edits(found, trial: Trial, oracle: Oracle, fit: lo.Fit) -> None:
    """Points that are doubled, labelled otherwise, or come new; retrained."""
    problem, measure = trial.problem, lo.measures.prediction(trial.query)
    before, rng = oracle.scores(oracle.theta), np.random.default_rng(0)
    other = np.roll(problem.y, 1)
    some = lo.Groups.from_weights(problem.w[[1, 4]])
    new = np.array([0, 1, 2, 3])
    offset = (problem.offset[new],) if problem.offset.any() else ()
    moved = trial.x[new] + 0.5 * trial.scale * rng.normal(size=(4, _D))
    exact = trial.x.astype(np.longdouble)
    there = (moved.astype(np.longdouble) - exact.mean(0)) / exact.std(0)
    both = dataclasses.replace(
        problem,
        x=np.r_[problem.x, there.astype(float)],
        y=np.r_[problem.y, problem.y[new]],
        offset=np.r_[problem.offset, problem.offset[new]],
    )
    turned = dataclasses.replace(
        problem,
        x=np.r_[problem.x, problem.x],
        y=np.r_[problem.y, other],
        offset=np.r_[problem.offset, problem.offset],
    )
    w, s, ones = problem.w[[1, 4]], problem.weights, np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    for name, (here, groups), wider, v in (
        ("reweight", (fit, lo.reweight(some, by=2.0)), problem, s * (1 + w)),
        ("relabel", lo.relabel(fit, some, other), turned, np.c_[s * (1 - w), s * w]),
        (
            "add",
            lo.add(fit, (moved, problem.y[new], *offset), np.array([0, 0, 1, 1])),
            both,
            np.c_[np.tile(s, (2, 1)), ones],
        ),
    ):
        mine = lo.effects(here, groups, measure, lo.Retrain(1e-11))
        ends = [oracle.minimum(each, oracle.theta, wider) for each in v]
        theirs = np.stack([(oracle.scores(theta) - before).ravel() for theta, _ in ends])
        status = np.where([sure for _, sure in ends], mine.status, 1)
        _compare(found, name, _shown(oracle, mine.value, _QUERIES), theirs, status)


def _compare(found, what: str, mine, theirs, status, loose: float = 1.0) -> None:
    """Row by row; a wrong one beside the largest effect of its column."""
    good = np.asarray(status) == 0
    found["flagged"] += int((~good).sum())
    found["compared"] += int(good.sum()) * mine.shape[1]
    largest = np.abs(theirs).max(axis=0)
    gap = np.abs(mine - theirs) / np.where(largest > 0, largest, 1.0)
    for i in np.flatnonzero(good & ~(gap.max(axis=1) <= loose * _TOLERANCE)):
        found["wrong"].append(f"{what}, group {i}: {gap[i].max():.1e} of the largest effect")


def title(loss: str) -> str:
    """Of a loss's row."""
    return f"{loss}, every method, far and scaled columns"


def fuzzed(loss: str, count: int, first: int = 0) -> dict[str, Any]:
    """Counts of so many problems of a loss."""
    total, wrong = Counter(), []
    for seed in range(first, first + count):
        result = check(draw(loss, seed))
        total += Counter({key: result[key] for key in ("compared", "flagged")})
        total["refused"] += bool(result["refused"])
        wrong += [f"seed {seed}: {what}" for what in result["wrong"]]
    keys = ("compared", "flagged", "refused")
    counts = {key: total[key] for key in keys}
    return {
        "case": title(loss),
        "problems": count,
        **counts,
        "wrong": len(wrong),
        "which": wrong[:20],
    }


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(fuzzed(sys.argv[1], *map(int, sys.argv[2:]))))
