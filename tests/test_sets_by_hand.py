"""What searches for sets go by and say, of examples of any weight: against refits by NumPy."""

import itertools

import numpy as np
import pytest

import leaveout as lo
from leaveout.analysis.exact import Leaving, Rows
from leaveout.analysis.scores import toggled
from problems import linear


@pytest.mark.parametrize("d", [4, 70])
def test_scores_of_least_squares_are_refits(d):
    """Of few parameters whoever has left; of many while nobody has, and near it afterwards."""
    rng = np.random.default_rng(d)
    x, y, queries = (rng.standard_normal(shape) for shape in ((90, d), 90, (2, d)))
    s = rng.uniform(0.5, 2, 90)
    fit = lo.fit(lo.squares(x, y, l2=4 * d, weights=s, intercept=False))

    def ridge(left):
        kept = np.where(left, 0.0, s)
        return np.linalg.solve((x.T * kept) @ x + 4 * d * np.eye(d), x.T @ (kept * y))

    off = np.arange(90) < np.array([[0], [9]])
    theta, bound = np.array([ridge(on) for on in off]), lo.measures.prediction(queries)
    found = toggled(fit, (bound.bind(fit.objective),), theta, off, s, np.array([1, 0]))
    for row, column, exact in ((0, 1, True), (1, 0, d == 4)):
        sides = [ridge(off[row] ^ one) - theta[row] for one in np.eye(90, dtype=bool)]
        changed = np.array(sides) @ queries[column]
        far = np.abs(found[row] - changed).max() / np.abs(changed).max()
        assert far < (0.1 if not exact else 1e-9 if d == 4 else 1e-3)


@pytest.mark.parametrize("direction", [1, -1])
def test_pairs_and_exchanges_are_the_best_of_all_refits(direction):
    rng = np.random.default_rng(2)
    x, y, s, a = rng.standard_normal((14, 2)), *rng.uniform(0.5, 2, (2, 14)), np.array([1.0, 0.5])

    def effect(*points):
        kept = np.where(np.isin(np.arange(14), points), 0.0, s) ** 0.5
        return a @ np.linalg.lstsq(x * kept[:, None], y * kept, rcond=None)[0]

    lower = np.linalg.cholesky((x.T * s) @ x)
    e = x @ np.linalg.lstsq(x * s[:, None] ** 0.5, y * s**0.5, rcond=None)[0] - y
    rows = Rows(np.linalg.solve(lower, x.T).T, s, e, np.linalg.solve(lower, a))
    usable, whole = np.arange(14) > 1, effect()
    pair = Leaving(rows).pair(direction, usable)
    best = max(itertools.combinations(range(2, 14), 2), key=lambda p: direction * effect(*p))
    assert set(pair) == set(best)
    leaving = Leaving(rows, np.isin(np.arange(14), [3, 6, 9]))
    swaps = [{3, 6, 9} - {j} | {i} for j in (3, 6, 9) for i in range(2, 14) if i not in (3, 6, 9)]
    leaving.exchange(direction, usable, 1)
    gone = max(swaps, key=lambda some: direction * effect(*some))
    assert set(np.flatnonzero(leaving.on)) == gone
    assert leaving.effect == pytest.approx(effect(*gone) - whole, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [lo.softmax, lo.squares])
def test_accuracy_counts_examples_by_weight_and_progress_the_models(kind):
    rng, done = np.random.default_rng(4), []
    x, s = rng.standard_normal((30, 2)), rng.uniform(0.2, 3, 30)
    score = x[:, 0] + rng.standard_normal(30)
    y = score if kind is lo.squares else np.digitize(score, [-0.5, 0.5])
    fit = lo.fit(kind(x, y, l2=0.5, weights=s))
    found = lo.extreme(
        fit, lo.measures.parameter(0), 2, stages=2, exchanges=2, progress=done.append
    )
    scores = np.asarray(linear(fit).scores(fit.flat))
    if kind is lo.squares:
        lost, spread = (np.average((y - at) ** 2, weights=s)
                        for at in (scores[:, 0], np.average(y, weights=s)))  # fmt: skip
        told = 1 - lost / spread
    else:
        told = np.average(scores.argmax(axis=1) == y, weights=s)
    assert found.accuracy_now == pytest.approx(told, rel=1e-9)
    assert sum(done) == found.refits.sum()
    assert (sum(done) > 0) == (kind is lo.softmax)


@pytest.mark.slow
def test_a_share_is_of_the_points_that_have_a_weight():
    rng = np.random.default_rng(0)
    x, y, there = rng.standard_normal((12, 1)), rng.standard_normal(12), np.arange(12) % 3 > 0
    fit = lo.fit(lo.squares(x, y, l2=1.0, weights=there.astype(float)))
    found = lo.extreme(fit, lo.measures.parameter(0), 0.5)
    assert found.size.tolist() == [4]
    assert there[found.groups.indices].all()
    with pytest.raises(ValueError, match="as a count of 1 to 7"):
        lo.extreme(fit, lo.measures.parameter(0), 8)
