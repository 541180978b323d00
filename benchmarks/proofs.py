"""Certificates through the public call, on inputs made to break them; the truth beyond float64.

`lo.effects(..., certify=True)` of random problems: columns 6e4 and up to 1e7 from zero, raw years
beside dummies, scales from 1e-9 to 1e9, heavy tails, outliers, copies, columns that add up, scores
that saturate; no penalty, tiny and large ones; unequal and zero weights; one point, a class, most
points, fractions, additions, points without weight that are added; every loss that states an
envelope, and a user's own; every measure that can be enclosed, every method. An interval is
compared with the effect in 80 bits (`exact.LONG`) or in 50 digits (`exact.DIGITS`), without slack.
What 80 bits call violated, 50 digits decide: with columns 1e7 from zero an effect of 1e-6 has
fewer digits in 80 bits than its interval.

    python -m benchmarks.proofs long 3 0 1000      # case, seed, problems: counts, and what broke
    python -m benchmarks.proofs digits 3 0 20
"""

import json
import sys
import warnings
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

import leaveout as lo
from benchmarks import exact
from benchmarks.exact import DIGITS, LONG, Arithmetic
from benchmarks.fuzz import Case

__all__ = ["CASES", "HOW", "KINDS", "Case", "attack", "attacks", "title"]

#: arithmetic of the truth, and what to call it
HOW = {"long": (LONG, "80 bits"), "digits": (DIGITS, "50 digits")}

CASES = tuple(
    Case(loss, outputs, n, d, intercept)
    for intercept in (True, False)
    for loss, outputs, n, d in (
        ("logistic", 1, 40, 3), ("softmax", 3, 40, 2), ("poisson", 1, 40, 3),
        ("squares", 1, 40, 3), ("huber", 1, 40, 3), ("logistic", 1, 16, 20),
    )
)  # fmt: skip
KINDS = (
    "gauss", "far", "years", "scales", "heavy", "outlier", "copies", "collinear", "saturated",
)  # fmt: skip
METHODS = (
    lo.Influence(), lo.SecondOrder(), lo.Krylov(1), lo.Newton(), lo.Newton(steps=2),
    lo.NewtonChebyshev(), lo.Retrain(), lo.Retrain(1e-4), lo.Retrain(1e-11),
)  # fmt: skip
_QUERIES = 4


def _huber(score, y):
    gap = jnp.abs(score - y)
    return jnp.where(gap < 1, gap**2 / 2, gap - 0.5)


def _huber_envelope(score, y, radius):
    gap = jnp.abs(score - y)
    return jnp.where(gap + radius < 1, 1.0, 0.0), jnp.where(gap - radius < 1, 1.0, 0.0)


#: a user's own
HUBER = lo.losses.Loss(_huber, "real", convex=True, envelope=_huber_envelope, slope=1.0)


class Attack(NamedTuple):
    """One problem, ready to be asked about."""

    kind: str
    fit: lo.Fit
    groups: lo.Groups
    stays: np.ndarray
    query: np.ndarray
    y_query: np.ndarray
    model: exact.Linear
    identified: bool


def _inputs(rng, kind: str, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    if kind == "far":
        x += 10 ** rng.uniform(2, 7, size=d) * (rng.random(d) < 0.7)
    elif kind == "years":
        x[:, 0] = rng.integers(1990, 2024, size=n)
        x[:, 1:] = rng.random((n, d - 1)) < 0.4
    elif kind == "scales":
        x *= 10 ** rng.uniform(-9, 9, size=d)
    elif kind == "heavy":
        x = rng.standard_t(2.0, size=(n, d))
    elif kind == "outlier":
        x[0] *= 10 ** rng.uniform(1, 4)
    elif kind == "copies":
        x = x[rng.integers(max(n // 5, 2), size=n)]
    elif kind == "collinear":
        x[:, -1] = x[:, 0] + 10 ** rng.uniform(-9, 0) * x[:, -1]
    return x


def _targets(rng, case: Case, scores) -> np.ndarray:
    n = len(scores)
    if case.loss == "softmax":
        y = np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)
    elif case.loss == "logistic":
        y = (rng.random(n) < expit(scores[:, 0])).astype(int)
    elif case.loss == "poisson":
        return rng.poisson(np.exp(np.clip(scores[:, 0], -3, 2))).astype(float)
    else:
        return (scores[:, 0] + rng.normal(size=n)) * 10 ** rng.uniform(-3, 3)
    every = max(case.outputs, 2)
    y[:every] = np.arange(every)  # no class is empty
    return y


def _groups(rng, y, weights) -> np.ndarray:
    n = len(y)
    w = np.zeros((8, n))
    w[0, rng.integers(n)] = 1
    w[1, rng.choice(n, n // 4, replace=False)] = 1
    w[2, y == y[0]] = 1
    w[3] = 1
    w[3, rng.choice(n, n // 3, replace=False)] = 0
    w[4] = rng.random(n) * (rng.random(n) < 0.5)
    w[5, rng.choice(n, 3, replace=False)] = -(10 ** rng.uniform(-2, 2, size=3))
    w[6, rng.integers(n)] = 10 ** rng.uniform(-9, -1)  # hardly anything
    w[7, np.argmin(weights)] = -1  # a point that may have no weight
    w[2] *= w[2].sum() < n
    w[[2, 4], 0] = np.where(w[[2, 4]].any(axis=1), w[[2, 4], 0], 0.5)
    return w


def draw(case: Case, seed: int) -> Attack:
    """The problem of this seed.

    Raises:
        SolveError: where the library refuses to fit it.
        ValueError: likewise.
    """
    rng = np.random.default_rng([seed, CASES.index(case)])
    kind = KINDS[rng.integers(len(KINDS))]
    inputs = _inputs(rng, kind, case.n + _QUERIES, case.d)
    middle, scale = inputs.mean(axis=0), inputs.std(axis=0)
    plain = (inputs - middle) / np.where(scale > 0, scale, 1.0)
    if not case.intercept and kind != "far":
        plain = inputs / np.maximum(np.abs(inputs).max(axis=0), 1e-300)
    scores = plain @ rng.normal(size=(case.d, case.outputs)) / np.sqrt(case.d)
    scores *= 8.0 if kind == "saturated" else 1.0
    y = _targets(rng, case, scores)
    weights = [np.ones(case.n), rng.uniform(0.2, 3, case.n), rng.choice([0, 0.5, 1, 4.0], case.n)]
    weights = weights[rng.integers(3)]
    weights[: max(case.outputs, 2)] = 1.0
    l2 = [0.0, 10 ** rng.uniform(-12, -6), 10 ** rng.uniform(-5, 2)][
        rng.choice(3, p=[0.2, 0.2, 0.6])
    ]
    x, query = inputs[: case.n], inputs[case.n :]
    loss = HUBER if case.loss == "huber" else getattr(lo.losses, case.loss)
    options: dict[str, Any] = {"intercept": case.intercept, "weights": weights}
    outputs = 0 if case.loss == "softmax" else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lo.fit(lo.glm(loss, x, y[: case.n], outputs, l2, **options))
    w = _groups(rng, y[: case.n], weights)
    design = np.c_[x, np.ones(case.n)] if case.intercept else x
    penalty = np.full(design.shape[1], float(np.float64(l2)))
    penalty[-1] = 0.0 if case.intercept else penalty[-1]
    model = exact.Linear(case.loss, design, y[: case.n].astype(float), penalty)
    return Attack(
        kind, fit, lo.Groups.from_weights(w), w, query, y[case.n :], model,
        case.outputs == 1 or (l2 > 0 and not case.intercept),
    )  # fmt: skip


def _measures(attack: Attack, linear: np.ndarray) -> list:
    """Those whose value does not depend on what nothing sees: a shift of all scores of softmax."""
    both = attack.query, attack.y_query
    loss, own = lo.measures.loss, lo.measures.self_loss()
    measures = [loss(both), loss(both, reduce="mean"), loss(both, by=[0, 0, 1, 1]), own]
    if attack.identified:
        some = (
            lo.measures.prediction(attack.query),
            lo.measures.prediction(attack.query, reduce="mean"),
        )
        measures += [*some, lo.measures.parameter([0, -1]), lo.measures.linear(linear)]
    if attack.model.loss == "logistic":
        measures.append(lo.measures.margin(both))
    return measures


def _truth(attack: Attack, how: Arithmetic, matrix, taken, linear):
    """The columns of `_measures` at a weight matrix (K q), in the order that they have."""
    model, wide = attack.model, attack.query
    if matrix.shape[1] > wide.shape[1]:
        wide = np.c_[wide, np.ones(len(wide))]
    y = attack.y_query.astype(float)
    each = model.losses(how, matrix, wide, y)
    gone = taken != 0
    own = (how.number(taken[gone]) * model.losses(how, matrix)[gone]).sum()
    parts = [each, [each.sum() / how.number(len(y))], [each[:2].sum(), each[2:].sum()], [own]]
    scores = how.number(wide) @ matrix.T
    if attack.identified:
        flat = matrix.ravel() if len(matrix) == 1 or model.penalty[-1] != 0 else None
        assert flat is not None
        parts += [scores.ravel(), scores.sum(axis=0) / how.number(len(y))]
        parts += [[flat[0], flat[-1]], how.number(linear) @ flat]
    if model.loss == "logistic":
        parts.append(how.number(2 * y - 1) * scores[:, 0])
    return np.concatenate([np.asarray(part) for part in parts])


def attack(case: Case, seed: int, how: Arithmetic = LONG, methods=METHODS, tries=1) -> Counter:
    """Counts of one problem: intervals looked at, finite, certified, violated, crossed, unbacked.

    Args:
        case: a member of `CASES`.
        seed: of the problem.
        how: the arithmetic of the truth.
        methods: of which some are drawn.
        tries: how many.
    """
    found: Counter = Counter(problems=1)
    try:
        problem = draw(case, seed)
    except (lo.SolveError, ValueError):
        return found + Counter(refused=1)
    rng = np.random.default_rng([seed, 7])
    objective: Any = problem.fit.objective
    linear = rng.normal(size=(2, objective.p))
    effects, lost = _effects(problem, how, linear)
    found["no_truth"] += all(effect is None for effect in effects)
    for index in rng.choice(len(methods), tries, replace=False):
        method = methods[index]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                given = lo.effects(
                    problem.fit, problem.groups, _measures(problem, linear), method,
                    certify=True,
                )  # fmt: skip
            except lo.SolveError:
                found["refused"] += 1
                continue
        what = f"{method.name} of {problem.kind}"
        judged = _judged(given, effects, lost, how, what)
        if how is LONG and judged["violations"] + judged["unbacked"]:  # is it 80 bits that fail?
            found["decided_in_50_digits"] += 1
            judged = _judged(given, *_effects(problem, DIGITS, linear), DIGITS, what)
        found += judged
    return found


def _effects(
    problem: Attack, how: Arithmetic, linear: np.ndarray
) -> tuple[list[np.ndarray | None], list[bool]]:
    """Effects of every group, None where no minimum was found; and where that proves nothing.

    Where Newton's steps from theta_hat get lost they begin at what `lo.retrain` found: that is
    only where they begin, as there is one minimum.
    """
    objective: Any = problem.fit.objective
    start = np.asarray(objective.layout.matrix(problem.fit.flat))
    s = np.asarray(objective.weights)
    stays = np.where(s > 0, s * (1 - problem.stays), np.maximum(-problem.stays, 0))
    taken = np.where(s > 0, s * problem.stays, np.minimum(problem.stays, 0))
    before = problem.model.minimum(how, start, s)
    if before is None:
        return [None] * len(stays), [True] * len(stays)
    truths = [problem.model.minimum(how, start, v) for v in stays]
    astray = [i for i, theta in enumerate(truths) if theta is None]
    if astray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ends = lo.retrain(problem.fit, problem.groups[astray], lo.Retrain(1e-11)).value
        for i, flat in zip(astray, ends, strict=True):
            there = np.asarray(objective.layout.matrix(problem.fit.flat + flat))
            truths[i] = problem.model.minimum(how, there, stays[i])
    lost = [
        theta is None and problem.model.has_minimum(v)
        for theta, v in zip(truths, stays, strict=True)
    ]
    effects = [
        None
        if theta is None
        else _truth(problem, how, theta, gone, linear) - _truth(problem, how, before, gone, linear)
        for theta, gone in zip(truths, taken, strict=True)
    ]
    return effects, lost


def _judged(
    given: lo.Effects, effects: list, lost: list[bool], how: Arithmetic, what: str
) -> Counter:
    assert given.lower is not None
    assert given.upper is not None
    assert given.certificate is not None
    found: Counter = Counter()
    crossed = ~(given.lower <= given.upper)
    found["crossed"] += int(crossed.sum())
    for i, truth in enumerate(effects):
        finite = np.isfinite(given.lower[i]) & np.isfinite(given.upper[i])
        found["checks"] += finite.size
        if truth is None:  # nothing may be proven of what has no minimum
            found["without_truth"] += finite.size
            found["unbacked"] += int(finite.any() and not lost[i])  # the truth's own failure else
            continue
        low, high = how.number(given.lower[i]), how.number(given.upper[i])
        broken = np.asarray((truth < low) | (truth > high), bool)
        found["finite"] += int(finite.sum())
        found["violations"] += int(broken.sum())
        found["certified"] += int(given.certificate[i] == lo.Certificate.certified) * finite.size
        for column in np.flatnonzero(broken):
            gap = float(max(low[column] - truth[column], truth[column] - high[column]))
            found[f"! {what}, group {i}, {given.columns[column]}: {gap:.1e} outside"] += 1
    return found


def attacks(
    count: int, seed: int, how: Arithmetic = LONG, cases=CASES, methods=METHODS, tries=1
) -> dict:
    """The counts of `count` problems of every case, and what broke, with its case and seed."""
    total: Counter = Counter()
    broken = []
    for case in cases:
        for each in range(seed, seed + count):
            found = attack(case, each, how, methods, tries)
            broken += [f"{tuple(case)} seed {each}{key[1:]}" for key in found if key[0] == "!"]
            broken += [f"{tuple(case)} seed {each} unbacked"] * bool(found["unbacked"])
            total += Counter({key: value for key, value in found.items() if key[0] != "!"})
    return dict(total) | {"which": broken[:20]}


def title(how: str, case: Case) -> str:
    """Of the row of a case, by the name of the truth's arithmetic."""
    return f"{case.title}, truth in {HOW[how][1]}"


def main(how: str, index: int, seed: int, count: int) -> dict[str, Any]:
    """The row of so many problems of a case."""
    case = CASES[index]
    found = attacks(count, seed, HOW[how][0], (case,), tries=2 if how == "long" else 1)
    return {"case": title(how, case)} | found


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(main(sys.argv[1], *map(int, sys.argv[2:]))))
