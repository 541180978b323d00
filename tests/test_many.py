"""Many examples: passes over them in blocks, and random groups whose points are never listed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leaveout as lo
from leaveout.analysis import null
from leaveout.fitting import passes, places
from leaveout.fitting.fitted import with_rows
from leaveout.groups import dealing, dealt_sums, shuffles
from leaveout.methods import coordinates, pool
from problems import mostly_slow, problem, slow_retrain

N = 389  # no multiple of a block, and of no other test


@pytest.fixture
def in_blocks(monkeypatch):
    """Fits look at 16 examples at a time."""
    monkeypatch.setattr(passes, "MANY_EXAMPLES", 64)
    monkeypatch.setattr(passes, "PASS_EXAMPLES", 16)


def _general(n):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(n, 2)), rng.normal(size=n)

    def loss(theta, example):
        return (jnp.tanh(example[0] @ theta) - example[1]) ** 2

    return lo.Objective(loss, data, jnp.array([0.3, -0.2]), l2=0.1)


OBJECTIVES = {
    "a gauge, an offset, no weight": lambda: problem(
        "softmax", n=N, d=2, offset=np.ones((N, 3)), weights=np.arange(N) % 3
    ),
    "any loss": lambda: _general(N),
}


@pytest.mark.parametrize("name", mostly_slow(OBJECTIVES, "a gauge, an offset, no weight"))
def test_a_pass_in_blocks_sums_what_one_over_all_does(name, in_blocks):
    objective = OBJECTIVES[name]()
    theta = jnp.linspace(-0.5, 0.5, objective.p)

    @jax.jit
    def every(share):
        found = passes.second_order(objective, theta, share)
        return found, passes.value_of(objective, theta), passes.scatter(objective, theta)

    (mine, value, scatter), expansion = every(1), objective.at(theta)
    whole = objective.value_and_gradient(theta)
    gauge = expansion.gauge()
    matrix = objective.hessian(theta) + (0.0 if gauge is None else gauge)
    # sums of 389 terms in another order
    for part, expected in zip(mine, (*whole, matrix), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(value, whole[0], rtol=1e-12)
    np.testing.assert_allclose(scatter, expansion.scatter(), rtol=1e-11, atol=1e-12)
    seen = np.arange(N) // 16 % 5 == 0  # the last block begins early, but hears only what is new
    some = objective.value_and_gradient(theta, 5 * seen * objective.weights)
    for part, expected in zip(every(5)[0], some, strict=False):
        np.testing.assert_allclose(part, expected, rtol=1e-12, atol=1e-12)


def test_a_fit_of_many_examples_is_the_same_and_begins_near_it(in_blocks, monkeypatch):
    monkeypatch.setattr(places, "_SHARES", (4,))
    x, y = np.asarray(problem(n=N + 1).x), np.asarray(problem(n=N + 1).y)
    sorted_by_class = np.argsort(y, kind="stable")
    objectives = [lo.logistic(x[rows], y[rows], l2=0.5) for rows in (slice(None), sorted_by_class)]
    fits = [lo.fit(objective) for objective in objectives]
    monkeypatch.undo()
    jax.clear_caches()
    few = lo.fit(objectives[0])
    for fit in fits:
        assert fit.status == 0
        assert fit.steps < few.steps  # of all examples
        assert fit.metric is not None
        assert few.metric is not None
        np.testing.assert_allclose(fit.flat, few.flat, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(fit.metric.lower, few.metric.lower, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(fit.sandwich, few.sandwich, rtol=1e-6)  # at most a step earlier


@pytest.mark.slow
def test_a_sample_that_has_no_minimum_is_given_up(in_blocks, monkeypatch):
    monkeypatch.setattr(places, "_SHARES", (4,))
    x = np.asarray(problem(n=N + 2).x)
    y = np.arange(N + 2) // 16 % 4 == 1  # in no block that is looked at
    fit = lo.fit(lo.logistic(x, y, l2=0.0))
    assert fit.status == 0
    np.testing.assert_allclose(fit.objective.gradient(fit.flat), 0.0, atol=1e-10)


# ---- random groups -------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [False, True])
def test_every_deal_is_as_likely_as_any_other(small, monkeypatch):
    """Of five points, two and one of them: the sums of powers of two say which they are."""
    monkeypatch.setattr(dealing, "_MANY", 1)
    monkeypatch.setattr(dealing, "_APART", 0.6 if small else 0.1)  # the single point: no side
    monkeypatch.setattr(dealing, "_FEW", 1)
    groups = lo.Groups.from_indices([[0, 1], [3]], n=5)
    draws = 6_000
    sums = dealt_sums(jax.random.key(0), groups, None, draws, 2.0 ** np.arange(5)[:, None])
    assert sums is not None
    met = np.array([np.rint(each[:, 0]) for each in sums])
    ways = [(2**a + 2**b, 2**c) for a, b in itertools.combinations(range(5), 2)
            for c in set(range(5)) - {a, b}]  # fmt: skip
    count = np.array([np.sum((met == way).all(axis=1)) for way in ways])
    assert count.sum() == draws
    expected = draws / len(ways)
    # chi-squared of 29 degrees of freedom: 58.3 one time in a thousand
    assert np.sum((count - expected) ** 2 / expected) < 58.3


def test_dealt_sums_have_the_moments_of_listed_ones(monkeypatch):
    monkeypatch.setattr(dealing, "_MANY", 200)
    monkeypatch.setattr(dealing, "_APART", 1)
    rng = np.random.default_rng(0)
    n, draws = 1_000, 1_500
    label = rng.choice(7, n, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.095, 0.005])
    within, values = np.arange(n) % 3 == 0, np.c_[np.ones(n), np.arange(n) / n, rng.normal(size=n)]
    groups = lo.Groups.from_labels([None if each == 0 else each for each in label])
    found = dealt_sums(jax.random.key(0), groups, within, draws, values)
    assert found is not None
    mine = np.array(list(found))
    np.testing.assert_array_equal(mine[:, :, 0], np.tile(groups.size, (draws, 1)))
    drawn = shuffles(jax.random.key(1), groups, within, draws)
    theirs = np.array([np.add.reduceat(values[each], groups.offsets[:-1]) for each in drawn])
    error = (mine.mean(axis=0) - theirs.mean(axis=0))[:, 1:]
    spread = theirs.std(axis=0)[:, 1:]
    assert np.abs(error / spread).max() < 4.5 * (2 / draws) ** 0.5
    np.testing.assert_allclose(mine.std(axis=0)[:, 1:] / spread, 1.0, atol=0.12)
    with_itself = np.corrcoef(mine[:, 0, 1], mine[:, 1, 1])[0, 1]
    of_theirs = np.corrcoef(theirs[:, 0, 1], theirs[:, 1, 1])[0, 1]
    assert abs(with_itself - of_theirs) < 0.12  # groups of one draw do not overlap


def test_what_is_not_dealt_is_listed(monkeypatch):
    monkeypatch.setattr(dealing, "_MANY", 10)
    values = np.ones((40, 1))
    overlapping = lo.Groups.from_indices([np.arange(30), np.arange(20)], n=40)
    partial = lo.Groups.from_weights(np.r_[np.full(20, 0.5), np.zeros(20)][None])
    tiny = lo.Groups.from_indices(list(np.arange(40)[:, None]), n=40)
    few = np.arange(40) // 36  # a stratum of four points
    whole = lo.Groups.from_labels(np.arange(40) % 2)
    for groups, within in ((overlapping, None), (partial, None), (tiny, None), (whole, few)):
        assert dealt_sums(jax.random.key(0), groups, within, 1, values) is None


@pytest.mark.slow
def test_a_band_of_many_points_is_that_of_listed_ones(monkeypatch):
    fit = lo.fit(problem(n=N + 3, weights=np.arange(N + 3) % 4 > 0))
    groups = lo.Groups.from_labels(np.arange(N + 3) % 5 // 2)
    measure = lo.measures.parameter(0)

    def band():
        return null.standing(fit, groups, [measure], lo.Null(2_000), None)

    listed = band()
    monkeypatch.setattr(dealing, "_MANY", 100)
    monkeypatch.setattr(dealing, "_APART", 1)
    dealt = band()
    assert (dealt.mean != listed.mean).all()  # other draws
    spread = (listed.high - listed.low) / 3.92
    # means of 2,000 draws, both
    np.testing.assert_allclose((dealt.mean - listed.mean) / spread, 0.0, atol=0.15)
    np.testing.assert_allclose((dealt.high - dealt.low) / spread, 3.92, rtol=0.12)
    np.testing.assert_allclose(dealt.percentile, listed.percentile, atol=5.0)


@pytest.mark.parametrize("patience", mostly_slow([48, 5], 5))
def test_groups_that_leave_whole_are_retrained_like_those_in_part(patience, monkeypatch):
    """Their lanes hold who stays instead of weights; in a pool, and those that go on alone."""
    monkeypatch.setattr(pool, "HARD", patience)
    n = 2_300  # three blocks, the last not full
    objective = problem("logistic", n=n, d=3, l2=1e-3, weights=np.arange(n) % 4 / 2)
    fit, y = lo.fit(objective), np.asarray(objective.y)
    left = np.r_[np.flatnonzero(y > y.min())[:3], np.flatnonzero(y == y.min())[:4]]
    few = [np.setdiff1d(np.arange(n), left), np.arange(0, n, 3), [1, 5, 2_299], [0]]
    whole = lo.Groups.from_indices(few, n=n)
    in_part = lo.Groups.from_weights(0.5 * (np.arange(n) == 1)[None])
    assert whole.partial is None
    flagged, weighed = (lo.retrain(fit, each) for each in (whole, whole + in_part))
    assert flagged.steps[0] > 5
    np.testing.assert_allclose(flagged.value, weighed.value[:-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(flagged.status, weighed.status[:-1])
    for w, change in zip(whole.dense(), flagged.value, strict=True):
        exact = slow_retrain(fit.objective, jnp.asarray(w), fit.flat) - fit.flat
        np.testing.assert_allclose(change, exact, atol=1e-6 * np.abs(flagged.value).max())


@pytest.mark.parametrize("count", [3, 7])
def test_coordinates_in_blocks_are_those_of_all(count):
    """Of 389 examples the last block is filled up with what has no weight."""
    fit = with_rows(lo.fit(problem("logistic", n=N, d=2)), 2**30)
    assert fit.metric is not None
    space = coordinates._in_blocks(fit, fit.metric, (), 1)
    cut = coordinates._in_blocks(fit, fit.metric, (), count)
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(4, fit.objective.p)))
    v = jnp.asarray(rng.uniform(size=(4, N)))
    expected = space.function(space.lay(v), None)(u)[1]
    np.testing.assert_allclose(cut.function(cut.lay(v), None)(u)[1], expected, rtol=1e-10)
